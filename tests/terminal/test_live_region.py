"""A live region prints final lines once and redraws its tail in place."""

import io

from gptoss_cli.terminal.cells import Line, Span
from gptoss_cli.terminal.live_region import LiveRegion, open_screen
from tests.terminal.emulator import EmulatedScreen
from tests.terminal.streams import Streams


def _lines(*texts: str) -> list[Line]:
    return [[Span(text)] for text in texts]


def test_the_tail_is_redrawn_below_the_final_lines() -> None:
    screen = EmulatedScreen(20, 10)
    screen.show([], _lines("tail one", "tail two"))
    screen.show(_lines("final"), _lines("tail three"))
    assert screen.terminal.rows == ["final", "tail three"]


def test_a_tail_line_that_becomes_final_is_not_written_again() -> None:
    screen = EmulatedScreen(20, 10)
    screen.show([], _lines("same", "old"))
    before = len(screen.terminal.getvalue())
    screen.show(_lines("same"), _lines("new"))
    assert "same" not in screen.terminal.getvalue()[before:]
    assert screen.terminal.rows == ["same", "new"]


def test_only_the_end_of_a_long_tail_is_drawn() -> None:
    screen = EmulatedScreen(20, 5)
    screen.show([], _lines(*map(str, range(30))))
    assert screen.terminal.rows == ["26", "27", "28", "29"]


def test_the_size_is_80_by_24_if_it_is_unknown() -> None:
    assert LiveRegion(io.StringIO(), {}, colored=False).size == (80, 24)


def test_a_screen_opens_on_a_capable_terminal_only() -> None:
    assert open_screen(Streams(terminal=True).console) is not None
    assert open_screen(Streams(terminal=True, environment={"TERM": "dumb"}).console) is None
    assert open_screen(Streams().console) is None


def test_one_row_is_erased_without_what_is_below_it() -> None:
    # tmux keeps as history what is erased to the end of the screen from its first row.
    screen = EmulatedScreen(20, 10)
    screen.show([], _lines("one"))
    screen.show([], _lines("one two"))
    assert "\x1b[J" not in screen.terminal.getvalue()
    assert screen.terminal.rows == ["one two"]
