"""Tables that fit or become blocks, bars, sparklines and the diagram."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.errors import GptossError
from gptoss_cli.settings import ColorChoice
from gptoss_cli.terminal.architecture_table import (
    Diagram,
    Grid,
    Layer,
    Section,
    bar,
    comparison_lines,
    diagram_lines,
    fits,
    grid_lines,
    has_colors,
    show_lines,
    sparkline,
)
from gptoss_cli.terminal.cells import Span, cells, text_of
from gptoss_cli.terminal.console import Console
from tests.terminal.streams import KeptStream, Streams

_GRID = Grid(["part", "bytes"], [["attention", "12"], ["norms", "3"]])


def _texts(lines: list[list[Span]]) -> list[str]:
    return [text_of(line) for line in lines]


def test_a_grid_that_fits_is_a_table() -> None:
    assert _texts(grid_lines(_GRID, 16)) == ["part       bytes", "attention     12", "norms          3"]


def test_a_grid_that_is_too_wide_is_a_block_per_row() -> None:
    assert not fits(_GRID, 15)
    assert _texts(grid_lines(_GRID, 15)) == ["attention", "  bytes      12", "norms", "  bytes       3"]


@pytest.mark.parametrize("columns", [1, 7, 20, 200])
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=4))
def test_no_line_is_wider_than_the_columns(columns: int, rows: list[tuple[str, str]]) -> None:
    clean = [[text.replace("\n", " ") for text in row] for row in rows]
    for line in grid_lines(Grid(["a", "b"], clean), max(columns, 8)):
        assert cells(text_of(line)) <= max(columns, 8)


def test_the_first_column_is_compared_with_the_others() -> None:
    sections = [Section("", [("layers", ["24", "24", "36"]), ("window", ["-", "-", "-"])])]
    plain = _texts(comparison_lines(["a", "b", "c"], sections, 80, colored=False))
    assert plain[1:] == ["layers  24    24 =  36  ", "window   -     -     -  "]
    colored = comparison_lines(["a", "b", "c"], sections, 80, colored=True)
    assert [span.text for span in colored[1] if span.sgr == "2"] == ["24"]
    assert "=" not in "".join(_texts(colored))


@pytest.mark.parametrize(("share", "marks"), [(0, "...."), (1e-9, "#..."), (0.5, "##.."), (1, "####")])
def test_a_bar_shows_anything_at_all(share: float, marks: str) -> None:
    assert bar(share, 4).replace("█", "#").replace("░", ".") == marks


def test_a_sparkline_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([0, 7, 3]) == "▁█▄"
    assert sparkline([2, 2]) == "▁▁"


def test_a_diagram_has_its_boxes_on_one_axis() -> None:
    diagram = Diagram("m", "2 layers", [Layer("in", "x", "1")], [[Layer("a")], [Layer("b")]], [Layer("out")])
    lines = _texts(diagram_lines(diagram, 78))
    assert {line.index(mark) for line in lines for mark in "┴┬⊕┼" if mark in line} == {20}
    assert sum("⊕" in line for line in lines) == 2
    assert len(lines[0]) == 78
    assert max(map(len, _texts(diagram_lines(diagram, 40)))) <= 40


@pytest.mark.parametrize(
    ("environment", "color", "colored"),
    [
        ({}, None, True),
        ({"NO_COLOR": "1"}, None, False),
        ({"TERM": "dumb"}, ColorChoice.AUTO, False),
        ({"NO_COLOR": "1"}, ColorChoice.ALWAYS, True),
        ({}, ColorChoice.NEVER, False),
    ],
)
def test_colours_follow_the_environment_and_the_option(
    environment: dict[str, str], color: ColorChoice | None, colored: bool
) -> None:
    streams = Streams(terminal=True, environment=environment)
    streams.console.color = color
    show_lines([[Span("dim", "2"), Span(" plain  ")]], streams.console)
    assert streams.out == ("\x1b[2mdim\x1b[0m plain  \n" if colored else "dim plain\n")
    assert has_colors(streams.console) == colored


def test_a_pipe_has_no_codes_whatever_is_asked() -> None:
    streams = Streams()
    streams.console.color = ColorChoice.ALWAYS
    show_lines([[Span("dim", "2")]], streams.console)
    assert streams.out == "dim\n"


@pytest.mark.parametrize("sgr", ["", "2"])
def test_text_is_neutralised(sgr: str) -> None:
    streams = Streams(terminal=True)
    show_lines([[Span("a\x1b[2Jb", sgr)]], streams.console)
    assert "\x1b[2J" not in streams.out


def test_what_an_encoding_lacks_becomes_ascii() -> None:
    stream = KeptStream(terminal=True, encoding="latin-1")
    show_lines([[Span("┌─┐│█░▁ ⊕ \N{MULTIPLICATION SIGN} …")]], Console(None, stream, None, {}))
    assert stream.written.decode("latin-1") == "+-+|#._ + x .\n"


def test_a_closed_stdout_is_an_error() -> None:
    with pytest.raises(GptossError, match="stdout cannot be written"):
        show_lines([[Span("a")]], Console(None, None, None, {}))
