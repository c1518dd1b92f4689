"""Notices that a text goes round in circles. Works on ids and knows no text but the numbers from 0 to 999."""

from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Final

from gptoss_cli.harmony.vocabulary import load_encoding

# So many ids must come again before a distance is looked at.
_GRAM: Final = 16
# A mismatch takes back so many matches: a table's rows differ in a cell or two, a loop's rounds hardly ever.
_MISMATCH: Final = 40
_NUMBER: Final = -1
# Loops of longer rounds than this are not looked for, so that what is remembered is bounded.
_LONGEST_ROUND: Final = 4_096


class RepetitionDetector:
    """Measures how long the ids have been repeating what stood a fixed distance earlier.

    The distance is that to the last place where the same n-gram stood, or one with other numbers in it. One number may
    count the rounds: the same item numbered again and again is a loop. Ordinary text has no such stretch: even a draft
    that is written out a second time is only as long as its distance, and then it does not count.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._gram: deque[int] = deque(maxlen=_GRAM)
        self._shape: deque[int] = deque(maxlen=_GRAM)
        self._ends: dict[int, int] = {}
        self._numbers = _numbers()
        self._distance = 0
        self._run = 0
        self._round = 0
        self._round_end = 0

    def feed(self, token: int) -> int:
        """Take one more id; how many ids the loop has lasted, 0 if there is none. A microsecond or two."""
        number = self._numbers.get(token)
        self._gram.append(token)
        self._shape.append(token if number is None else _NUMBER)
        self._ids.append(token)
        if self._run > 0:
            self._run += 1 if self._repeats(token, number) else -_MISMATCH
        end = len(self._ids)
        gram, shape = hash(tuple(self._gram)), hash(tuple(self._shape))
        if self._run <= 0:
            self._distance = end - (self._ends.get(gram) or self._ends.get(shape) or end)
            self._run = _GRAM if self._distance else 0
            self._round = 0
        self._ends[gram] = self._ends[shape] = end
        if len(self._ends) > 4 * _LONGEST_ROUND:
            self._ends = {gram: at for gram, at in self._ends.items() if at > end - _LONGEST_ROUND}
        return self._run if 2 * self._run >= 3 * self._distance else 0

    def _repeats(self, token: int, number: int | None) -> bool:
        earlier = self._ids[-1 - self._distance]
        if earlier == token:
            return True
        if number is None or self._numbers.get(earlier) != number - 1:
            return False
        # The number of the round: one more than before, or once more in the same round.
        if number == self._round and len(self._ids) < self._round_end:
            return True
        if self._round and number != self._round + 1:
            return False
        self._round = number
        self._round_end = len(self._ids) + self._distance
        return True


@cache
def _numbers() -> Mapping[int, int]:
    """The ids that are numbers, each one id in this vocabulary: digits are taken in groups of three."""
    encoding = load_encoding()
    return {encoding.encode(str(number), disallowed_special=())[0]: number for number in range(1000)}
