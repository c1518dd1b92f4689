"""The picker finds by words, moves within its bounds, and never draws more than the screen holds."""

from collections.abc import Sequence

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from gptoss_cli.terminal.cells import cells
from gptoss_cli.terminal.picker import Choice, Picker

_UP, _DOWN, _PAGE_DOWN, _END, _HOME = "\x1b[A", "\x1b[B", "\x1b[6~", "\x1b[F", "\x1b[H"
_CHOICES = [Choice(str(i), f"Sorting {i} in Rust", "gpt-oss-20b") for i in range(50)]


class _Sized(DummyOutput):
    def __init__(self, columns: int, rows: int) -> None:
        self._size = Size(rows=rows, columns=columns)

    def get_size(self) -> Size:
        return self._size


def _pick(keys: str, choices: Sequence[Choice] = _CHOICES) -> str | None:
    with create_pipe_input() as keyboard:
        keyboard.send_text(keys)
        return Picker(choices, lambda value: f"about {value}", input=keyboard, output=DummyOutput()).run()


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ("\r", "0"),
        (_DOWN + _DOWN + _UP + "\r", "1"),
        (_UP + "\r", "0"),
        (_END + _DOWN + "\r", "49"),
        (_END + _HOME + "\r", "0"),
        (_PAGE_DOWN + "\r", "10"),
        ("rust SORTING 17\r", "17"),
        ("17x\x7f\r", "17"),
        ("nothing\x15\r", "0"),
        ("17 rust nothing\x17\r", "17"),
        ("\x1b[200~1\n7\x1b[201~\x7f\x7f\r", "1"),
        ("nothing\r\x03", None),
        (_DOWN + "\x04", None),
        ("\x1b", None),
    ],
)
def test_keys_choose(keys: str, chosen: str | None) -> None:
    assert _pick(keys) == chosen


def test_an_empty_list_has_nothing_to_choose() -> None:
    assert _pick(_DOWN + _UP + "\r\x03", []) is None


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 50), (32, 8), (119, 5)])
def test_every_screen_fits_its_terminal(columns: int, rows: int) -> None:
    wide = [Choice(str(i), "排序" * 30, "gpt-oss-20b") for i in range(50)]
    preview = "語" * 500 + "\n\n" + "word " * 500
    with create_pipe_input() as keyboard:
        picker = Picker(wide, lambda value: preview, input=keyboard, output=_Sized(columns, rows))
    text = "".join(piece[1] for piece in picker._screen())
    lines = text.split("\n")
    assert len(lines) == rows
    assert max(map(cells, lines)) <= columns
