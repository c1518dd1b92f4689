"""One conversation with one model, turn by turn. The only place where messages meet token ids."""

import datetime
import logging
import secrets
import time
from collections.abc import Generator, Iterator

from gptoss_cli.engine.interface import Sampling, TokenGenerator
from gptoss_cli.errors import GptossError, NumericalError
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import EndReason, Event, PrefillProgress, TurnEnd
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.vocabulary import CALL, RESERVED_IDS, STOP_IDS
from gptoss_cli.settings import ReasoningEffort

_LOGGER = logging.getLogger(__name__)


class ChatSession:
    """Sends a conversation to a generator and adds what comes back to it.

    `seed` None draws one for each turn; `TurnEnd.seed` tells which. The sampling settings and `max_tokens` (per turn)
    are plain attributes and may be changed between turns, as may `conversation.effort`.
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
    ) -> None:
        self.conversation = Conversation(instructions, date, effort)
        self.seed = seed
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.max_tokens = max_tokens
        self.last_end: TurnEnd | None = None
        self._generator = generator
        self._stopping = False

    def stop(self) -> None:
        """End the running turn at the next token or prefill chunk, in order: it still yields its TurnEnd.

        Only sets a flag, so a signal handler or another thread may call it.
        """
        self._stopping = True

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
        turn = _Turn(secrets.randbits(32) if self.seed is None else self.seed)
        try:
            yield from self._generate(turn)
            yield from turn.parser.close()
        finally:
            turn.parser.close()
            for message in turn.parser.messages:
                self.conversation.add(message)
            self.last_end = turn.end()
        yield self.last_end

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

    def _decode(self, turn: "_Turn") -> Iterator[Event]:
        sampling = Sampling(turn.seed, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        tokens = 0
        for token in self._generator.decode(
            sampling, stop_ids=STOP_IDS, banned_ids=RESERVED_IDS, max_tokens=self.max_tokens
        ):
            tokens += 1
            turn.note_token(token)
            yield from turn.parser.feed(token)
            if token in STOP_IDS or self._stopping:
                return
        out_of_tokens = self.max_tokens is not None and tokens >= self.max_tokens
        turn.reason = EndReason.TOKEN_LIMIT if out_of_tokens else EndReason.CONTEXT_FULL


class _Turn:
    """What is known of a turn while it runs. Until something else is known, it was interrupted."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.parser = TurnParser()
        self.reason = EndReason.INTERRUPTED
        self.prompt_tokens = 0
        self.prefilled_tokens = 0
        self._began = time.perf_counter()
        self._first_token_seconds: float | None = None

    def note_token(self, token: int) -> None:
        if self._first_token_seconds is None:
            self._first_token_seconds = time.perf_counter() - self._began
        if token in STOP_IDS:
            self.reason = EndReason.CALL if token == CALL else EndReason.COMPLETE

    def end(self) -> TurnEnd:
        return TurnEnd(
            reason=self.reason,
            prompt_tokens=self.prompt_tokens,
            prefilled_tokens=self.prefilled_tokens,
            reasoning_tokens=self.parser.reasoning_tokens,
            answer_tokens=self.parser.answer_tokens,
            seed=self.seed,
            first_token_seconds=self._first_token_seconds,
            total_seconds=time.perf_counter() - self._began,
        )
