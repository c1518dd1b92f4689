"""Detection of text that repeats itself, by token ids. The only text it knows are the numbers from 0 to 999."""

from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Final

from gptoss_cli.harmony.vocabulary import load_encoding

# A distance is considered after a repeated n-gram of this many ids.
_NGRAM: Final = 16
# One mismatch cancels this many matches: rows of a table differ in a cell or two, rounds of a loop hardly ever.
_MISMATCH_PENALTY: Final = 40
_NUMBER: Final = -1
# The longest round of a loop that is detected, in ids. It bounds the memory.
_LONGEST_ROUND: Final = 4_096


class RepetitionDetector:
    """A count of the ids that repeat the ids a fixed distance earlier.

    The distance is the one to the previous occurrence of the last n-gram, or of an n-gram that differs in its numbers
    only. One number may count the rounds: an item that is numbered again and again is a loop. Ordinary text has no such
    run: even a draft that is written out a second time repeats no more ids than its distance, which is not reported.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._ngram: deque[int] = deque(maxlen=_NGRAM)
        self._ngram_without_numbers: deque[int] = deque(maxlen=_NGRAM)
        self._positions: dict[int, int] = {}  # hash of an n-gram -> position after its last occurrence
        self._numbers = _numbers()
        self._distance = 0
        self._run = 0
        self._round = 0
        self._round_end = 0

    def feed(self, token: int) -> int:
        """Take the next id and return the length of the repetition so far, 0 if there is none."""
        number = self._numbers.get(token)
        self._ngram.append(token)
        self._ngram_without_numbers.append(token if number is None else _NUMBER)
        self._ids.append(token)
        if self._run > 0:
            self._run += 1 if self._repeats(token, number) else -_MISMATCH_PENALTY
        end = len(self._ids)
        exact, similar = hash(tuple(self._ngram)), hash(tuple(self._ngram_without_numbers))
        if self._run <= 0:
            self._distance = end - (self._positions.get(exact) or self._positions.get(similar) or end)
            self._run = _NGRAM if self._distance else 0
            self._round = 0
        self._positions[exact] = self._positions[similar] = end
        if len(self._positions) > 4 * _LONGEST_ROUND:
            self._positions = {key: at for key, at in self._positions.items() if at > end - _LONGEST_ROUND}
        return self._run if 2 * self._run >= 3 * self._distance else 0

    def _repeats(self, token: int, number: int | None) -> bool:
        earlier = self._ids[-1 - self._distance]
        if earlier == token:
            return True
        if number is None or self._numbers.get(earlier) != number - 1:
            return False
        # The number of the round: one more than in the last round, or the same again within a round.
        if number == self._round and len(self._ids) < self._round_end:
            return True
        if self._round and number != self._round + 1:
            return False
        self._round = number
        self._round_end = len(self._ids) + self._distance
        return True


@cache
def _numbers() -> Mapping[int, int]:
    """Return the numbers from 0 to 999 by id. Each is one id, since the vocabulary groups digits by three."""
    encoding = load_encoding()
    return {encoding.encode(str(number), disallowed_special=())[0]: number for number in range(1000)}
