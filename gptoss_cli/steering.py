"""Steers one turn: what a header may say, and when the reasoning has to end. Forces ids, and never changes a word."""

from typing import Final

from gptoss_cli.engine.interface import Allowed, Barred, Forced
from gptoss_cli.harmony.events import Cut, ReasoningCut
from gptoss_cli.harmony.grammar import Grammar, State
from gptoss_cli.harmony.loops import LoopGuard
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.vocabulary import ANSWER_HEADER, ANSWER_NOW

# Measured on honest texts (tests/harmony/test_loops.py): none comes near it.
LONGEST_LOOP_TOKENS: Final = 360
# Someone may have asked for a text that repeats itself. No one reads more of it than this.
LONGEST_ANSWER_LOOP_TOKENS: Final = 4_096


class TurnSteering:
    """The Steering of one turn, which `parser` reads.

    Whoever runs the turn feeds each id to the parser, and then to `see`. `think_budget` is the most ids of reasoning,
    headers and ends of its messages included, as TurnEnd counts them. With `free_headers` nothing restricts a draw.
    """

    def __init__(
        self, parser: TurnParser, grammar: Grammar, *, think_budget: int | None = None, free_headers: bool = False
    ) -> None:
        self._parser = parser
        self._think_budget = think_budget
        self._free_headers = free_headers
        self._state = grammar.start if parser.open_message is None else grammar.answer
        self._wishes: dict[State, Forced | Allowed | Barred] = {}
        self._guard = LoopGuard()
        self._loop_tokens = 0
        self._wants_answer = False
        self._cuts: list[ReasoningCut] = []

    @property
    def cuts(self) -> tuple[ReasoningCut, ...]:
        """What was done to the reasoning so far. One that was just done precedes its ids."""
        return tuple(self._cuts)

    @property
    def is_endless(self) -> bool:
        """Whether what is said to the user, or to a tool, has gone round in circles for too long."""
        return self._loop_tokens >= LONGEST_ANSWER_LOOP_TOKENS

    def answer_now(self) -> None:
        """Force the answer as soon as the model reasons. Only sets a flag, so any thread may call it."""
        self._wants_answer = True

    def see(self, token: int) -> None:
        """Take notice of `token`; the parser was fed it."""
        self._state = self._state.after(token)
        self._loop_tokens = self._guard.feed(token)

    def next(self) -> Forced | Allowed | Barred | None:
        """See Steering.next."""
        way = self._way_to_answer()
        if way:
            cut = self._reason_to_cut(way)
            if cut is not None:
                self._note(cut)
                return Forced(way)
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

    def _wish(self, state: State) -> Forced | Allowed | Barred | None:
        if state.forced:
            wish: Forced | Allowed | Barred = Forced(state.forced)
        elif state.allowed is not None:
            wish = Allowed(state.allowed)
        elif state.barred:
            wish = Barred(state.barred)
        else:
            return None
        self._wishes[state] = wish
        return wish
