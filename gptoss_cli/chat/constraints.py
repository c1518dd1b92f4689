"""The token constraint of a turn: well-formed message headers, a limit to the reasoning, and the answer's format."""

import re
from typing import Final

from gptoss_cli.generation import Allowed, Banned, Forced
from gptoss_cli.harmony.events import Cut, Message, ReasoningCut
from gptoss_cli.harmony.functions import Functions
from gptoss_cli.harmony.grammar import Grammar, State
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.repetition import RepetitionDetector
from gptoss_cli.harmony.structured_output import OutputMatcher
from gptoss_cli.harmony.vocabulary import ANSWER_HEADER, ANSWER_NOW, CALL, VOCABULARY_SIZE

# No text without a loop comes near it (tests/harmony/test_repetition.py).
LONGEST_LOOP_TOKENS: Final = 360
# A user may ask for a text that repeats itself, but nobody reads more of it than this.
LONGEST_ANSWER_LOOP_TOKENS: Final = 4_096
_ALL_BITS: Final = (1 << VOCABULARY_SIZE) - 1
_MASK_BYTES: Final = -(-VOCABULARY_SIZE // 8)
_NON_ZERO: Final = re.compile(rb"[^\0]")
_BITS_OF_BYTE: Final = tuple(tuple(bit for bit in range(8) if value >> bit & 1) for value in range(256))

_Constraint = Forced | Allowed | Banned


class TurnConstraint:
    """The TokenConstraint of one turn, whose ids `parser` reads.

    Whoever runs the turn feeds each id to the parser first and then to `feed`. `think_budget` is the most ids of
    reasoning, headers and ends of its messages included, as TurnEnd counts them. With `free_headers` only `matcher`,
    which makes the text of the answer match a format, and the formats of the arguments of `functions` restrict the
    draws.
    """

    def __init__(
        self,
        parser: TurnParser,
        grammar: Grammar,
        *,
        think_budget: int | None = None,
        free_headers: bool = False,
        matcher: OutputMatcher | None = None,
        functions: Functions | None = None,
    ) -> None:
        self._parser = parser
        self._think_budget = think_budget
        self._free_headers = free_headers
        self._answer_matcher = matcher
        self._functions = functions or Functions()
        self._call: Message | None = None
        self._matcher: OutputMatcher | None = None  # of the open message
        self._state = grammar.start if parser.open_message is None else grammar.answer
        self._repetition = RepetitionDetector()
        self._loop_tokens = 0
        self._wants_answer = False
        self._cuts: list[ReasoningCut] = []
        self._uses_matcher = False
        # A sampler keeps the mask that it builds for an instance, so equal constraints are the same instance.
        self._of_state: dict[State, _Constraint] = {}
        self._of_mask: dict[bytes, _Constraint] = {}

    @property
    def cuts(self) -> tuple[ReasoningCut, ...]:
        """The cuts of the reasoning so far. A new one is here before the ids that it forces."""
        return tuple(self._cuts)

    @property
    def is_repeating(self) -> bool:
        """True if the text for the user, or for a tool, has repeated itself for too long."""
        return self._loop_tokens >= LONGEST_ANSWER_LOOP_TOKENS

    def answer_now(self) -> None:
        """Force the answer as soon as the model reasons. Only sets a flag, so any thread may call it."""
        self._wants_answer = True

    def feed(self, token: int) -> None:
        """Take the next id of the turn. The parser must have been fed it before."""
        self._state = self._state.after(token)
        if self._matcher is not None and self._uses_matcher:
            self._matcher.feed(token)
        self._loop_tokens = self._repetition.feed(token)

    def next(self) -> _Constraint | None:
        """See TokenConstraint.next."""
        way = self._way_to_answer()
        if way:
            cut = self._reason_to_cut(way)
            if cut is not None:
                self._record(cut)
                self._uses_matcher = False
                return Forced(way)
        constraint = self._from_matcher()
        self._uses_matcher = constraint is not None
        if constraint is not None:
            return constraint
        return None if self._free_headers else self._from_grammar(self._state)

    def _way_to_answer(self) -> tuple[int, ...]:
        """Return the ids that lead into the final channel, none inside an answer, a preamble or a call."""
        if self._state.to_answer is not None:
            return self._state.to_answer
        message = self._parser.open_message
        if message is None:
            return ANSWER_HEADER
        return ANSWER_NOW if message.is_reasoning and not message.is_call else ()

    def _reason_to_cut(self, way: tuple[int, ...]) -> Cut | None:
        if self._wants_answer:
            return Cut.ANSWER_NOW
        if self._loop_tokens >= LONGEST_LOOP_TOKENS:
            return Cut.LOOP
        if self._think_budget is None:
            return None
        used = self._parser.reasoning_tokens + self._parser.header_tokens
        header = 0 if self._parser.open_message else len(way)
        # One id of content and the end of the message must still fit.
        return Cut.BUDGET if used + header + 2 > self._think_budget else None

    def _record(self, cut: Cut) -> None:
        # A model that reasons again after its answer is cut again, but the user knows it already.
        if all(made.cut is not cut for made in self._cuts):
            self._cuts.append(ReasoningCut(cut, self._parser.reasoning_tokens))

    def _from_grammar(self, state: State) -> _Constraint | None:
        if state not in self._of_state:
            if state.forced:
                self._of_state[state] = Forced(state.forced)
            elif state.allowed is not None:
                self._of_state[state] = Allowed(state.allowed)
            elif state.banned:
                self._of_state[state] = Banned(state.banned)
            else:
                return None
        return self._of_state[state]

    def _from_matcher(self) -> _Constraint | None:
        """Return the constraint of the format of the open answer or call, None if there is none."""
        self._matcher = self._matcher_of(self._parser.open_message)
        mask = self._matcher.mask() if self._matcher is not None else None
        if mask is None:
            return None
        if mask not in self._of_mask:
            self._of_mask[mask] = _constraint_of(mask)
        return self._of_mask[mask]

    def _matcher_of(self, message: Message | None) -> OutputMatcher | None:
        if message is None or message.recipient is None or not message.is_call:
            return self._answer_matcher if message is not None and message.is_answer else None
        if message is not self._call:
            self._call = message
            arguments = self._functions.arguments_format(message.recipient)
            return arguments.begin(CALL) if arguments else None
        return self._matcher


def _constraint_of(mask: bytes) -> _Constraint:
    """Return the constraint that leaves the ids whose bits are set in `mask`, lowest bit first."""
    bits = int.from_bytes(mask, "little") & _ALL_BITS
    count = bits.bit_count()
    if count == 1:
        return Forced((bits.bit_length() - 1,))
    if count * 2 < VOCABULARY_SIZE:
        return Allowed(_ids(bits))
    return Banned(_ids(bits ^ _ALL_BITS))


def _ids(bits: int) -> frozenset[int]:
    """Return the positions of the bits that are set. The fewer bytes are not 0, the faster."""
    data = bits.to_bytes(_MASK_BYTES, "little")
    starts = (match.start() for match in _NON_ZERO.finditer(data))
    return frozenset(start * 8 + bit for start in starts for bit in _BITS_OF_BYTE[data[start]])
