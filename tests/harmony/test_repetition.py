"""Loops are detected early, and ordinary text is not taken for one."""

import argparse
import ast
import inspect
import itertools
import random
import string
import textwrap
from pathlib import Path

import pytest

import gptoss_cli
from gptoss_cli.chat.constraints import LONGEST_LOOP_TOKENS
from gptoss_cli.harmony import conversation, header, parser
from gptoss_cli.harmony.repetition import RepetitionDetector
from gptoss_cli.harmony.vocabulary import load_encoding

_LEAD = (
    "We need to find out how many of the 144 letters were delivered on the first day. The post office opens at eight, "
    "and the two carriers share the round: one takes the hill, the other the harbour. Let me set this up carefully. "
)


def ids_of(text: str) -> list[int]:
    return load_encoding().encode(text, disallowed_special=())


def numbered(item: str, count: int = 200, *, first: int = 1) -> list[str]:
    return [item.replace("#", str(number)) for number in range(first, first + count)]


_HALF = "So the carrier on the hill has delivered half of what the one at the harbour has, minus six. "
_DOUBT = "Hmm, but what if the answer is 7?\nThen we would have 7 letters.\nBut that is wrong.\n\n"

# The rounds of each loop; the second round is the first repetition.
LOOPS = {
    "a short sentence": ["Let me check again. "] * 300,
    "a long sentence": [_HALF] * 90,
    "two sentences": ["Wait, that is not right. Let me count the letters once more from the start. "] * 100,
    "a paragraph": [_LEAD] * 30,
    "a long paragraph": [_LEAD + _HALF + _DOUBT + "So far so good, and now the whole of it once more. "] * 12,
    "a word": [" again"] * 900,
    "a letter": ["a b "] * 400,
    "a line": ["- check the total\n"] * 200,
    "the same fraction": ["333"] * 900,
    "a period of digits": ["142857"] * 450,
    "digits with blanks": ["0 1 1 0 1 0 0 1 "] * 100,
    "an alternating pair": ["Yes. ", "No. "] * 200,
    "a pair of sentences": ["Is it 12? No, it is 13. ", "Is it 13? No, it is 12. "] * 60,
    "three in turn": ["Perhaps the hill. ", "Perhaps the harbour. ", "Perhaps neither of them. "] * 60,
    "a numbered list of one item": numbered("#. Check the value again.\n"),
    "steps that never end": numbered("Step #: verify that the sum of all letters is even.\n"),
    "a list that grows past a hundred": numbered("Item #: still not found.\n", first=80),
    "a table of nothing": numbered("| # | pending | pending |\n"),
    "lines of code": numbered("x# = x[#]\n"),
    "a question to itself": ["Hmm, but what if the answer is 7?\nThen we would have 7 letters.\nBut that is wrong.\n\n"]
    * 60,
}


@pytest.mark.parametrize("rounds", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_detected_within_400_tokens_of_its_first_repetition(rounds: list[str]) -> None:
    detector = RepetitionDetector()
    before = "Let me think about it in another way.\n\n"
    ids = ids_of(before + "".join(rounds))
    first_repetition = len(ids_of(before + rounds[0]))
    lengths = [detector.feed(token) for token in ids[: first_repetition + 400]]
    assert max(lengths) >= LONGEST_LOOP_TOKENS
    assert max(lengths[:first_repetition]) == 0


def _source(of: object) -> str:
    return inspect.getsource(of)  # type: ignore[arg-type]


def _times_tables() -> str:
    return "".join(f"{a} x {b} = {a * b}\n" for a in range(1, 13) for b in range(1, 13))


def _truth_table(variables: int) -> str:
    rows = itertools.product((0, 1), repeat=variables)
    return "".join(f"| {' | '.join(map(str, row))} | {int(sum(row) % 3 == 1)} |\n" for row in rows)


def _primes() -> str:
    return ", ".join(str(n) for n in range(2, 2_000) if all(n % d for d in range(2, int(n**0.5) + 1)))


def _divisions() -> str:
    kinds = ("no hit", "a hit")
    lines = (f"{n} mod 7 = {n % 7}, and {n} mod 9 = {n % 9}: {kinds[n % 63 == 5]}.\n" for n in range(100, 260))
    return "".join(lines)


def _matrix() -> str:
    draw = random.Random(7)
    return "\n".join(" ".join(str(draw.randint(0, 9)) for _ in range(20)) for _ in range(40))


def _inventory() -> str:
    draw = random.Random(8)
    nouns = ["bolt", "nut", "washer", "screw", "nail", "hinge"]
    rows = (f"| {n} | {draw.choice(nouns)} | {draw.randint(1, 99)} | {draw.random():.2f} |\n" for n in range(1, 150))
    return "".join(rows)


def _letters() -> str:
    words = ["strawberry", "bookkeeper", "mississippi", "onomatopoeia", "floccinaucinihilipilification"]
    return "\n".join(f"{word}: " + ", ".join(f"{i}-{c}" for i, c in enumerate(word, 1)) for word in words) * 2


def _assertions() -> str:
    draw = random.Random(9)
    return "".join(f"    assert parse({draw.randint(0, 999)}) == Number({draw.randint(0, 99)})\n" for _ in range(120))


def _hexadecimal() -> str:
    draw = random.Random(10)
    return "\n".join(f"{16 * n:08x}  " + " ".join(f"{draw.randint(0, 255):02x}" for _ in range(16)) for n in range(60))


def _html() -> str:
    cells = "".join(f"      <td>{word}</td>\n" for word in textwrap.dedent(_prose()).split()[:200])
    return f"<table>\n  <tbody>\n    <tr>\n{cells}    </tr>\n  </tbody>\n</table>\n"


def _prose() -> str:
    return (Path(gptoss_cli.__file__).parents[1] / "LICENSE").read_text("utf-8")


def _dynamic_programming() -> str:
    words = ("saturday", "sundays")
    rows = [list(range(len(words[1]) + 1))]
    for i, a in enumerate(words[0], 1):
        row = [i]
        for j, b in enumerate(words[1], 1):
            row.append(min(row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (a != b)))
        rows.append(row)
    steps = ("\n".join(" ".join(map(str, row)) for row in rows[:count]) for count in range(1, len(rows) + 1))
    return "\n\n".join(f"After row {count}:\n{step}" for count, step in enumerate(steps))


ORDINARY = {
    "prose": _prose(),
    "a module that parses": _source(parser),
    "a module that renders": _source(conversation),
    "a module that reads headers": _source(header),
    "a long module": _source(argparse),
    "a draft of code and its final version": _source(parser)[:6_000] * 2,
    "a syntax tree": ast.dump(ast.parse(_source(header)), indent=1),
    "times tables": _times_tables(),
    "a truth table of four": _truth_table(4),
    "a truth table of eight": _truth_table(8),
    "primes": _primes(),
    "divisions": _divisions(),
    "a matrix of digits": _matrix(),
    "an inventory": _inventory(),
    "letters counted": _letters(),
    "assertions": _assertions(),
    "a dump": _hexadecimal(),
    "a table in HTML": _html(),
    "the steps of an edit distance": _dynamic_programming(),
    "counting to a hundred": _LEAD + ", ".join(map(str, range(1, 101))) + ". " + ", ".join(string.ascii_lowercase),
}


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_text_is_no_loop(text: str) -> None:
    detector = RepetitionDetector()
    assert max(detector.feed(token) for token in ids_of(text)) < LONGEST_LOOP_TOKENS


def test_there_are_twenty_of_each() -> None:
    assert len(LOOPS) == len(ORDINARY) == 20


def test_a_loop_ends_with_the_first_other_text() -> None:
    detector = RepetitionDetector()
    assert max(detector.feed(token) for token in ids_of("Let me check again. " * 100)) > 300
    assert [detector.feed(token) for token in ids_of(_LEAD * 2)][-1] == 0


def test_memory_is_bounded() -> None:
    detector = RepetitionDetector()
    draw = random.Random(11)
    for _ in range(30_000):
        detector.feed(draw.randrange(199_998))
    assert len(detector._positions) <= 16_384
