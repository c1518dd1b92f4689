"""One conversation with one model, turn by turn. The only place where messages meet token ids."""

import datetime
import logging
import secrets
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from gptoss_cli.chat.constraints import TurnConstraint
from gptoss_cli.errors import GptossError, NumericalError
from gptoss_cli.generation import Sampling, TokenGenerator
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import AnswerDelta, Delta, EndReason, Event, Markup, PrefillProgress, TurnEnd
from gptoss_cli.harmony.grammar import Grammar
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.harmony.vocabulary import END, RESERVED_IDS, STOP_IDS
from gptoss_cli.settings import ReasoningEffort

_LOGGER = logging.getLogger(__name__)
_Text = Delta | Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSettings:
    """Settings of a turn.

    `seed` None draws one for each turn; TurnEnd.seed tells which. `max_tokens` counts reasoning and answer together,
    `think_budget` the reasoning alone. With `free_headers` the model writes its message headers without constraint.
    `output` is the format that the answer must have, None for any.
    """

    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int | None = None
    think_budget: int | None = None
    free_headers: bool = False
    output: OutputFormat | None = None


class ChatSession:
    """Sends a conversation to a generator and adds what comes back to it.

    `seed` None draws one for each turn; `TurnEnd.seed` tells which. The sampling settings, `max_tokens` and
    `think_budget` (both per turn; see TurnConstraint), `free_headers` and `form` (what an answer must be; None
    is anything) are plain attributes and may be changed between turns. `recipients` are the tools that may be called.
    `last_raw` is the last turn as it was decoded, markup and all.
    """

    def __init__(
        self,
        generator: TokenGenerator,
        *,
        instructions: str | None,
        effort: ReasoningEffort,
        date: datetime.date,
        seed: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        think_budget: int | None = None,
        free_headers: bool = False,
        recipients: Iterable[str] = (),
    ) -> None:
        self.conversation = Conversation(instructions, date, effort)
        self.seed = seed
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.max_tokens = max_tokens
        self.think_budget = think_budget
        self.free_headers = free_headers
        self.form: OutputFormat | None = None
        self.last_end: TurnEnd | None = None
        self.last_raw = ""
        self._generator = generator
        self._grammar = Grammar(recipients)
        self._stopping = False
        self._steering: TurnConstraint | None = None
        self._last_prompt: list[int] = []

    @property
    def context_tokens(self) -> int:
        """The most tokens a conversation may have."""
        return self._generator.context_tokens

    def stop(self) -> None:
        """End the running turn at the next token or prefill chunk, in order: it still yields its TurnEnd.

        Only sets a flag, so a signal handler or another thread may call it.
        """
        self._stopping = True

    def answer_now(self) -> None:
        """Make the running turn stop reasoning and answer, from its next token on. If it is answering, nothing changes.

        Only sets a flag, so a key handler or another thread may call it.
        """
        steering = self._steering
        if steering is not None:
            steering.answer_now()

    def set_effort(self, effort: ReasoningEffort) -> int:
        """Change the effort of the turns that follow; returns how many tokens the next one reads again for that."""
        lost = self._lost_tokens()
        self.conversation.effort = effort
        return max(0, self._lost_tokens() - lost)

    def prefix(self) -> list[int]:
        """What every prompt of this conversation begins with, up to the first word that the user says."""
        preface = Conversation(self.conversation.instructions, self.conversation.date, self.conversation.effort)
        preface.add_user("")
        ids = preface.render()
        return ids[: len(ids) - ids[::-1].index(END) - 1]

    def turn(self, text: str) -> Generator[Event]:
        """Say `text` and yield the answer's events, TurnEnd last.

        The turn may be ended at any point, by `stop`, by closing the iterator, or by an exception in whoever reads
        it. The user's message then stays, even if no token was generated: it was sent, it is on the screen, and
        "I meant the other one" has to find it. What was said of the answer stays too.

        If an error comes before the first token (ResourceError: the prompt does not fit), the message is taken back,
        so that a shorter one can be sent. Nothing happens before the first event is asked for.
        """
        before = len(self.conversation.messages)
        self.conversation.add_user(text)
        try:
            yield from self.answer()
        except GptossError:
            if self.last_end is None or self.last_end.first_token_seconds is None:
                self.conversation.truncate(before)
            raise

    def answer(self) -> Generator[Event]:
        """Answer the conversation as it stands: the part of `turn` after the user's message.

        Raises what the generator raises, except NumericalError, which ends the turn. However it ends, what was said
        is in the conversation afterwards and `last_end` is this turn's TurnEnd.
        """
        self._stopping = False
        self.last_end = None
        turn = self._new_turn()
        self._steering = turn.steering
        try:
            yield from self._generate(turn)
            yield from turn.close()
        finally:
            self._steering = None
            turn.close()
            for message in turn.parser.messages:
                self.conversation.add(message)
            self.last_end = turn.end(self._generator.expert_hit_rate)
            self.last_raw = turn.raw
        yield self.last_end

    def _new_turn(self) -> "_Turn":
        parser = TurnParser(answering=self.conversation.effort is ReasoningEffort.NONE)
        steering = TurnConstraint(
            parser,
            self._grammar,
            think_budget=self.think_budget,
            free_headers=self.free_headers,
            guide=self.form.begin() if self.form else None,
        )
        return _Turn(secrets.randbits(32) if self.seed is None else self.seed, parser, steering)

    def _lost_tokens(self) -> int:
        """How many tokens of the last prompt are not the beginning of the next one."""
        ids = self.conversation.render()
        for i, (read, token) in enumerate(zip(self._last_prompt, ids, strict=False)):
            if read != token:
                return len(self._last_prompt) - i
        return max(0, len(self._last_prompt) - len(ids))

    def _generate(self, turn: "_Turn") -> Iterator[Event]:
        try:
            yield from self._prefill(turn)
            if not self._stopping:
                yield from self._decode(turn)
        except NumericalError as exc:
            _LOGGER.warning("the turn ended in a numerical failure: %s", exc)
            turn.reason = EndReason.NUMERICAL_FAILURE

    def _prefill(self, turn: "_Turn") -> Iterator[Event]:
        ids = self.conversation.render()
        turn.prompt_tokens = len(ids)
        for done, total in self._generator.prefill(ids):
            turn.prefilled_tokens = done
            yield PrefillProgress(done, total)
            if self._stopping:
                return
        self._last_prompt = ids

    def _decode(self, turn: "_Turn") -> Iterator[Event]:
        sampling = Sampling(turn.seed, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        tokens = self._generator.decode(
            sampling,
            stop_ids=STOP_IDS,
            banned_ids=RESERVED_IDS,
            max_tokens=self.max_tokens,
            constraint=turn.steering,
        )
        for token in tokens:
            yield from turn.feed(token)
            if token in STOP_IDS or self._stopping:
                return
            if turn.steering.is_repeating:
                turn.reason = EndReason.LOOP
                return
        out_of_tokens = self.max_tokens is not None and turn.tokens >= self.max_tokens
        turn.reason = EndReason.TOKEN_LIMIT if out_of_tokens else EndReason.CONTEXT_FULL


class _Turn:
    """What is known of a turn while it runs. Until something else is known, it was interrupted."""

    def __init__(self, seed: int, parser: TurnParser, steering: TurnConstraint) -> None:
        self.seed = seed
        self.parser = parser
        self.steering = steering
        self.reason = EndReason.INTERRUPTED
        self.prompt_tokens = 0
        self.prefilled_tokens = 0
        self.tokens = 0
        self._cuts = 0
        self._answered = False
        self._decoded: list[str] = []
        self._began = time.perf_counter()
        self._first_token_seconds: float | None = None

    @property
    def raw(self) -> str:
        """All that was decoded."""
        return "".join(self._decoded)

    def feed(self, token: int) -> Iterator[Event]:
        """The events of one more id, after those of what was done to the reasoning to make it come."""
        self.tokens += 1
        if self._first_token_seconds is None:
            self._first_token_seconds = time.perf_counter() - self._began
        events = self._noted(self.parser.feed(token))
        if token in STOP_IDS:
            # Not by the token: a model may end a call like an answer, and the other way about.
            last = self.parser.messages[-1:]
            self.reason = EndReason.CALL if last and last[0].is_call else EndReason.COMPLETE
        self.steering.see(token)
        yield from self.steering.cuts[self._cuts :]
        self._cuts = len(self.steering.cuts)
        yield from events

    def close(self) -> list[Event]:
        """The events of what was still held."""
        return self._noted(self.parser.close())

    def end(self, expert_hit_rate: float | None) -> TurnEnd:
        return TurnEnd(
            reason=self.reason,
            answered=self._answered,
            cuts=self.steering.cuts,
            prompt_tokens=self.prompt_tokens,
            prefilled_tokens=self.prefilled_tokens,
            reasoning_tokens=self.parser.reasoning_tokens,
            answer_tokens=self.parser.answer_tokens,
            seed=self.seed,
            first_token_seconds=self._first_token_seconds,
            total_seconds=time.perf_counter() - self._began,
            expert_hit_rate=expert_hit_rate,
        )

    def _noted(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, _Text):
                self._decoded.append(event.text)
                self._answered |= isinstance(event, AnswerDelta) and not event.text.isspace()
        return events
