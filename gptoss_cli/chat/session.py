"""One conversation with one model, turn by turn. The only place where messages meet token ids."""

import datetime
import logging
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from gptoss_cli.archive.recorder import Attachment, NoRecorder, Recorder, Snapshot
from gptoss_cli.chat.constraints import TurnConstraint
from gptoss_cli.chat.inspection import DecodedTurn, read_again, token_event
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.errors import GptossError, NumericalError
from gptoss_cli.generation import (
    Forced,
    Interruptible,
    Restriction,
    Sampling,
    TokenGenerator,
    TokenInfo,
    common_prefix,
    random_seed,
)
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import (
    AnswerDelta,
    Delta,
    EndReason,
    Event,
    Markup,
    Message,
    PrefillProgress,
    Token,
    TurnEnd,
)
from gptoss_cli.harmony.functions import Functions
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.vocabulary import END, RESERVED_IDS, STOP_IDS
from gptoss_cli.settings import ReasoningEffort

_LOGGER = logging.getLogger(__name__)
_Text = Delta | Markup


class _Turn:
    """The state of a turn while it runs. Its end reason is an interruption until something else ends it.

    It passes the rules of its constraint on to the generator and keeps which ids they are about.
    """

    def __init__(self, seed: int, parser: TurnParser, constraint: TurnConstraint, decoded: DecodedTurn) -> None:
        self.seed = seed
        self.decoded = decoded
        self.parser = parser
        self.constraint = constraint
        self.reason = EndReason.INTERRUPTED
        self.prompt_tokens = 0
        self.prefilled_tokens = 0
        self._info: TokenInfo | None = None
        self._cuts = 0
        self._answered = False
        self._texts: list[str] = []
        self._began = time.perf_counter()
        self._first_token_seconds: float | None = None

    @property
    def raw(self) -> str:
        """The text of everything that was decoded, markup included."""
        return "".join(self._texts)

    @property
    def tokens(self) -> int:
        """The number of ids so far."""
        return len(self.decoded.ids)

    def next(self) -> Forced | Restriction | None:
        """See TokenConstraint.next."""
        rule, position = self.constraint.next(), self.tokens
        if isinstance(rule, Forced):
            self.decoded.forced.update(range(position, position + len(rule.ids)))
        elif rule is not None:
            self.decoded.restricted.add(position)
        return rule

    def observe(self, info: TokenInfo) -> None:
        """Keep the data of the id that comes next. See generation.Observer."""
        self._info = info

    def feed(self, token: int) -> Iterator[Event]:
        """Yield the events of the next id; those of a cut in the reasoning that forced it come first."""
        observed = [] if self._info is None else [token_event(self._info, self.parser)]
        self.decoded.ids.append(token)
        if self._first_token_seconds is None:
            self._first_token_seconds = time.perf_counter() - self._began
        events = self._recorded(self.parser.feed(token))
        if token in STOP_IDS:
            # Decided by the message, not by the id: a model may end a call like an answer, and the reverse.
            last = self.parser.messages[-1:]
            self.reason = EndReason.CALL if last and last[0].is_call else EndReason.COMPLETE
        self.constraint.feed(token)
        yield from self.constraint.cuts[self._cuts :]
        self._cuts = len(self.constraint.cuts)
        yield from observed
        yield from events

    def close(self) -> list[Event]:
        """Return the events of text that the parser still held back."""
        return self._recorded(self.parser.close())

    def end(self, expert_hit_rate: float | None) -> TurnEnd:
        """Return the last event of the turn."""
        return TurnEnd(
            reason=self.reason,
            answered=self._answered,
            cuts=self.constraint.cuts,
            prompt_tokens=self.prompt_tokens,
            prefilled_tokens=self.prefilled_tokens,
            reasoning_tokens=self.parser.reasoning_tokens,
            answer_tokens=self.parser.answer_tokens,
            seed=self.seed,
            first_token_seconds=self._first_token_seconds,
            total_seconds=time.perf_counter() - self._began,
            expert_hit_rate=expert_hit_rate,
        )

    def _recorded(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, _Text):
                self._texts.append(event.text)
                self._answered |= isinstance(event, AnswerDelta) and not event.text.isspace()
        return events


class ChatSession:
    """Sends a conversation to a generator and adds the model's messages to it.

    `settings` are those of the next turn; replace them as a whole. `recipients` and `functions` may be called: a
    turn then ends with EndReason.CALL, and goes on with `conversation.add_result` and `answer`.
    `last_raw` is the last turn as it was decoded, markup included, and `last_turn` its ids. `recorder` listens to
    everything that happens.
    """

    def __init__(
        self,
        generator: TokenGenerator,
        *,
        instructions: str | None,
        effort: ReasoningEffort,
        date: datetime.date,
        settings: TurnSettings | None = None,
        recipients: Iterable[str] = (),
        functions: Functions | None = None,
    ) -> None:
        self.conversation = Conversation(instructions, date, effort, functions)
        self.settings = settings or TurnSettings()
        self.recorder: Recorder = NoRecorder()
        self.last_end: TurnEnd | None = None
        self.last_raw = ""
        self._generator = generator
        self.recipients = frozenset(recipients)
        self._stopping = False
        self._constraint: TurnConstraint | None = None
        self._last_prompt: list[int] = []
        self.last_turn: DecodedTurn | None = None
        self.kv_names: list[str] = []  # of the files that `save_kv` has written or may write for this conversation

    @property
    def generator(self) -> TokenGenerator:
        """The model. It has one sequence, which every session with it shares."""
        return self._generator

    @property
    def context_tokens(self) -> int:
        """The most tokens a conversation may have."""
        return self._generator.context_tokens

    @property
    def used_tokens(self) -> int:
        """The tokens of the conversation as the next turn reads it."""
        return len(self.conversation.render())

    def stop(self) -> None:
        """End the running turn in order at the next token or prefill chunk: it still yields its TurnEnd.

        Ends every later turn as it begins, too, until `forget_stop`: a request that comes between the question and its
        turn is not lost. Only sets a flag, so a signal handler or another thread may call it.
        """
        self._stopping = True
        if isinstance(self._generator, Interruptible):
            self._generator.interrupt()

    def forget_stop(self) -> None:
        """Let the next turns run after a `stop` that was about earlier ones."""
        self._stopping = False

    def answer_now(self) -> None:
        """Make the running turn stop reasoning and answer from its next token on. No effect on a turn that answers.

        Only sets a flag, so a key handler or another thread may call it.
        """
        constraint = self._constraint
        if constraint is not None:
            constraint.answer_now()

    def set_effort(self, effort: ReasoningEffort) -> int:
        """Change the effort of the next turns; return how many tokens the next turn has to read again because of it."""
        before = self._invalidated_tokens()
        self.conversation.effort = effort
        self.recorder.record(self.snapshot())
        return max(0, self._invalidated_tokens() - before)

    def keep_messages(self, count: int) -> None:
        """Keep the first `count` messages of the conversation and remove the others, and with them the last turn."""
        self.conversation.truncate(count)
        self.forget_last_turn()
        self.recorder.record(self.snapshot())

    def forget_last_turn(self) -> None:
        """Forget the last turn, which is not part of the conversation any more."""
        self.last_end, self.last_raw, self.last_turn = None, "", None

    def restore(
        self,
        messages: Iterable[Message],
        written_effort: ReasoningEffort | None = None,
        kv_names: Iterable[str] = (),
    ) -> None:
        """Continue a conversation that was saved: add its messages, which the recorder already has.

        With `written_effort`, the effort that its system message names, it renders to the same ids as before.
        `kv_names` are the names of its KV files.
        """
        for message in messages:
            self.conversation.add(message)
        self.kv_names = list(kv_names)
        if written_effort is not None:
            self.conversation.written_effort = written_effort

    def save_kv(self) -> None:
        """Keep the conversation's KV cache on disk if the conversation itself is saved, so that it continues at once.

        May be called from another thread during a turn.
        """
        if self.kv_names and not isinstance(self.recorder, NoRecorder):
            self._generator.save_kv()

    def snapshot(self, attachments: Iterable[Attachment] = ()) -> Snapshot:
        """Return the conversation as it stands. `attachments` belong to its last message."""
        conversation, settings = self.conversation, self.settings
        return Snapshot(
            messages=conversation.messages,
            instructions=conversation.instructions,
            date=conversation.date,
            settings={
                "effort": conversation.effort,
                "written_effort": conversation.written_effort,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "top_k": settings.top_k,
                "think_budget": settings.think_budget,
                # Known before the files are written: whoever removes the conversation must find them after a crash too.
                "kv": self.kv_names,
            },
            attachments=tuple(attachments),
        )

    def prefix(self) -> list[int]:
        """Return the ids that every prompt of this conversation begins with, up to the user's first word."""
        now = self.conversation
        preface = Conversation(now.instructions, now.date, now.effort, now.functions)
        preface.add_user("")
        ids = preface.render()
        return ids[: len(ids) - ids[::-1].index(END) - 1]

    def turn(self, text: str, attachments: Iterable[Attachment] = ()) -> Generator[Event]:
        """Add `text` as the user's message and yield the events of the turn, TurnEnd last.

        `attachments` are the files whose text is part of the message. A call that the last turn ended with is
        answered as interrupted first.

        `stop`, closing the iterator, or an exception in its consumer end the turn at any point. The user's message
        then stays in the conversation even if no token was generated: it was sent and it is on the screen, so a next
        message may refer to it. The partial answer stays too.

        After an error before the first token (ResourceError: the prompt does not fit) the user's message is removed,
        so that a shorter one can be sent. Nothing happens before the first event is requested.
        """
        before = len(self.conversation.messages)
        self.conversation.answer_interrupted_call()
        self.conversation.add_user(text)
        try:
            yield from self.answer(attachments)
        except GptossError:
            if self.last_end is None or self.last_end.first_token_seconds is None:
                self.conversation.truncate(before)
                self.recorder.record(self.snapshot())
            raise

    def answer(self, attachments: Iterable[Attachment] = ()) -> Generator[Event]:
        """Answer the conversation as it stands: the part of `turn` after the user's message.

        Raises the generator's errors except NumericalError, which ends the turn. However the turn ends, its messages
        are in the conversation afterwards and `last_end` is its TurnEnd.
        """
        self.last_end = None
        turn = self._new_turn()
        self._constraint = turn.constraint
        self.recorder.record(self.snapshot(attachments))
        try:
            with closing(self._events(turn)) as events:
                for event in events:
                    self.recorder.listen(event)
                    yield event
        finally:
            self._constraint = None
            turn.close()
            for message in turn.parser.messages:
                self.conversation.add(message)
            self.last_end = turn.end(self._generator.expert_hit_rate)
            self.last_raw = turn.raw
            self.last_turn = turn.decoded
            if not isinstance(self.recorder, NoRecorder):
                self.kv_names = list(dict.fromkeys([*self.kv_names, *self._generator.kv_names()]))
            self.recorder.finish(self.snapshot(), self.last_end)
        yield self.last_end

    def inspect_last_turn(self, *, top: int = 5) -> Generator[Token]:
        """Read the last turn again and yield its tokens with their log probabilities; nothing if there is none.

        It takes about as long as the turn. `stop` ends it, and it changes nothing.
        """
        if self.last_turn is not None and self.last_turn.ids:
            yield from read_again(self._generator, self.last_turn, lambda: self._stopping, top=top)

    def _new_turn(self) -> _Turn:
        settings = self.settings
        answering, functions = self.conversation.starts_with_answer, self.conversation.functions
        parser = TurnParser(answering=answering)
        constraint = TurnConstraint(
            parser,
            self.conversation.grammar(self.recipients),
            think_budget=settings.think_budget,
            free_headers=settings.free_headers,
            matcher=settings.output.begin() if settings.output else None,
            functions=functions,
        )
        seed = random_seed() if settings.seed is None else settings.seed
        return _Turn(seed, parser, constraint, DecodedTurn([], answering))

    def _invalidated_tokens(self) -> int:
        """Return how many tokens of the last prompt the next prompt does not begin with."""
        return len(self._last_prompt) - common_prefix(self._last_prompt, self.conversation.render())

    def _events(self, turn: _Turn) -> Generator[Event]:
        yield from self._generate(turn)
        yield from turn.close()

    def _generate(self, turn: _Turn) -> Iterator[Event]:
        try:
            yield from self._prefill(turn)
            if not self._stopping:
                yield from self._decode(turn)
        except NumericalError as exc:
            _LOGGER.warning("the turn ended in a numerical failure: %s", exc)
            turn.reason = EndReason.NUMERICAL_FAILURE

    def _prefill(self, turn: _Turn) -> Iterator[Event]:
        ids = self.conversation.render()
        turn.prompt_tokens = len(ids)
        turn.decoded.prompt = ids
        for done, total in self._generator.prefill(ids):
            turn.prefilled_tokens = done
            yield PrefillProgress(done, total)
            if self._stopping:
                return
        self._last_prompt = ids

    def _decode(self, turn: _Turn) -> Iterator[Event]:
        settings = self.settings
        tokens = self._generator.decode(
            Sampling(turn.seed, temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k),
            stop_ids=STOP_IDS,
            banned_ids=RESERVED_IDS,
            max_tokens=settings.max_tokens,
            constraint=turn,
            observer=None if settings.logprobs is None else turn.observe,
            top=settings.logprobs or 0,
        )
        for token in tokens:
            yield from turn.feed(token)
            if token in STOP_IDS or self._stopping:
                return
            if turn.constraint.is_repeating:
                turn.reason = EndReason.LOOP
                return
        if self._stopping:
            return
        out_of_tokens = settings.max_tokens is not None and turn.tokens >= settings.max_tokens
        turn.reason = EndReason.TOKEN_LIMIT if out_of_tokens else EndReason.CONTEXT_FULL
