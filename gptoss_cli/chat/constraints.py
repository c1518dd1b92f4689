"""Steers one turn: what a header may say, when the reasoning has to end, and what form the answer has."""

from typing import Final

import numpy as np

from gptoss_cli.generation import Allowed, Banned, Forced
from gptoss_cli.harmony.events import Cut, ReasoningCut
from gptoss_cli.harmony.grammar import Grammar, State
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.repetition import RepetitionDetector
from gptoss_cli.harmony.structured_output import OutputMatcher
from gptoss_cli.harmony.vocabulary import ANSWER_HEADER, ANSWER_NOW, VOCABULARY_SIZE

# Measured on honest texts (tests/harmony/test_loops.py): none comes near it.
LONGEST_LOOP_TOKENS: Final = 360
# Someone may have asked for a text that repeats itself. No one reads more of it than this.
LONGEST_ANSWER_LOOP_TOKENS: Final = 4_096


class TurnConstraint:
    """The Steering of one turn, which `parser` reads.

    Whoever runs the turn feeds each id to the parser, and then to `see`. `think_budget` is the most ids of reasoning,
    headers and ends of its messages included, as TurnEnd counts them. With `free_headers` nothing restricts a draw but
    `guide`, which holds the text of the answer to a form.
    """

    def __init__(
        self,
        parser: TurnParser,
        grammar: Grammar,
        *,
        think_budget: int | None = None,
        free_headers: bool = False,
        guide: OutputMatcher | None = None,
    ) -> None:
        self._parser = parser
        self._think_budget = think_budget
        self._free_headers = free_headers
        self._state = grammar.start if parser.open_message is None else grammar.answer
        self._wishes: dict[State, Forced | Allowed | Banned] = {}
        self._guard = RepetitionDetector()
        self._loop_tokens = 0
        self._wants_answer = False
        self._cuts: list[ReasoningCut] = []
        self._guide = guide
        self._guided = False
        self._masks: dict[bytes, Forced | Allowed | Banned] = {}

    @property
    def cuts(self) -> tuple[ReasoningCut, ...]:
        """What was done to the reasoning so far. One that was just done precedes its ids."""
        return tuple(self._cuts)

    @property
    def is_repeating(self) -> bool:
        """Whether what is said to the user, or to a tool, has gone round in circles for too long."""
        return self._loop_tokens >= LONGEST_ANSWER_LOOP_TOKENS

    def answer_now(self) -> None:
        """Force the answer as soon as the model reasons. Only sets a flag, so any thread may call it."""
        self._wants_answer = True

    def see(self, token: int) -> None:
        """Take notice of `token`; the parser was fed it."""
        self._state = self._state.after(token)
        if self._guide is not None and self._guided:
            self._guide.feed(token)
        self._loop_tokens = self._guard.feed(token)

    def next(self) -> Forced | Allowed | Banned | None:
        """See Steering.next."""
        way = self._way_to_answer()
        if way:
            cut = self._reason_to_cut(way)
            if cut is not None:
                self._note(cut)
                self._guided = False
                return Forced(way)
        guided = self._guided_wish()
        self._guided = guided is not None
        if guided is not None:
            return guided
        if self._free_headers:
            return None
        state = self._state
        return self._wishes.get(state) or self._wish(state)

    def _way_to_answer(self) -> tuple[int, ...]:
        """The ids that lead into the final channel; none where an answer, a preamble or a call is under way."""
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
        spent = self._parser.reasoning_tokens + self._parser.header_tokens
        header = 0 if self._parser.open_message else len(way)
        # One id of content and the message's end must still fit.
        return Cut.BUDGET if spent + header + 2 > self._think_budget else None

    def _note(self, cut: Cut) -> None:
        # A model that goes on reasoning after its answer is cut again, but that is no news.
        if all(made.cut is not cut for made in self._cuts):
            self._cuts.append(ReasoningCut(cut, self._parser.reasoning_tokens))

    def _wish(self, state: State) -> Forced | Allowed | Banned | None:
        if state.forced:
            wish: Forced | Allowed | Banned = Forced(state.forced)
        elif state.allowed is not None:
            wish = Allowed(state.allowed)
        elif state.banned:
            wish = Banned(state.banned)
        else:
            return None
        self._wishes[state] = wish
        return wish

    def _guided_wish(self) -> Forced | Allowed | Banned | None:
        """What the form of the answer leaves, while the answer is under way."""
        message = self._parser.open_message
        mask = self._guide.mask() if self._guide and message is not None and message.is_answer else None
        if mask is None:
            return None
        # The inside of a string comes again and again: its wish is kept, and so is what the sampler makes of it.
        if mask not in self._masks:
            self._masks[mask] = _wish_of(mask)
        return self._masks[mask]


def _wish_of(mask: bytes) -> Forced | Allowed | Banned:
    """The wish that leaves the ids whose bits are set in `mask`, the lowest first."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=VOCABULARY_SIZE)
    ids = np.flatnonzero(bits)
    if len(ids) == 1:
        return Forced((int(ids[0]),))
    if len(ids) * 2 < VOCABULARY_SIZE:
        return Allowed(frozenset(ids.tolist()))
    return Banned(frozenset(np.flatnonzero(bits == 0).tolist()))
