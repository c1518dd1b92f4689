"""Progress of files: frames on a terminal, one line per file elsewhere, nothing if quiet."""

import time

import pytest

from gptoss_cli.terminal.cells import cells
from gptoss_cli.terminal.progress import FileProgress
from gptoss_cli.units import duration_words, size_words
from tests.terminal.emulator import Emulator
from tests.terminal.streams import Streams


def _fetch_two(streams: Streams) -> None:
    with FileProgress(streams.console, 3_000_000, done="verified") as progress:
        progress.begin("a\x1b[2J.json", 0, 1_000_000)
        progress.advance("a\x1b[2J.json", 1_000_000)
        progress.end("a\x1b[2J.json")
        progress.begin("b", 500_000, 2_000_000)
        progress.begin("b", 0, 2_000_000)  # started again
        progress.advance("b", 2_000_000)
        progress.end("b")


@pytest.mark.parametrize("terminal", [False, True])
def test_each_finished_file_has_a_permanent_line(terminal: bool) -> None:
    streams = Streams(terminal=terminal)
    _fetch_two(streams)
    plain = streams.err.replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "a␛[2J.json: 1.0 MB, verified\n" in plain
    assert plain.endswith("b: 2.0 MB, verified\n")


def test_quiet_shows_nothing() -> None:
    streams = Streams(terminal=True)
    streams.console.quiet = True
    _fetch_two(streams)
    assert streams.err == ""


def test_a_frame_has_a_line_per_file_and_a_total_that_fit_the_terminal() -> None:
    streams = Streams(terminal=True, environment={"TERM": "dumb"})
    progress = FileProgress(streams.console, 3_000_000, done="verified")
    progress.begin("a" * 200, 250_000, 1_000_000)
    progress.begin("b", 0, 2_000_000)
    lines = progress._lines(79)
    assert "250 kB of 1.0 MB" in lines[0]
    assert "[#####..............." in lines[0]
    assert lines[-1].startswith("Total: 250 kB of 3.0 MB, 0 B/s")
    progress._frame(lines)
    progress._frame([])
    drawn = streams.err
    assert all(len(line) < 80 for line in drawn.split("\x1b[3F")[0].splitlines())
    assert drawn.endswith("\x1b[3F\x1b[J")


@pytest.mark.parametrize("columns", [24, 40, 60, 79, 200])
def test_names_are_cut_by_cells_before_figures(columns: int) -> None:
    streams = Streams(terminal=True)
    progress = FileProgress(streams.console, 3_000_000, done="verified")
    for name in ("模型" * 30, "model-00001-of-00002.safetensors", "a"):
        progress.begin(name, 250_000, 1_000_000)
    *files, total = progress._lines(columns)
    assert all(cells(line) <= columns and line.endswith("  250 kB of 1.0 MB") for line in files)
    assert ("[#####..............." in files[0]) == (columns >= 60)
    assert cells(total) <= columns


def test_a_notice_stands_above_the_frame_and_leaves_no_rest_of_it() -> None:
    streams = Streams(terminal=True)
    screen = Emulator(80, 24)
    with FileProgress(streams.console, 1_000_000, done="verified") as progress:
        progress.begin("a", 0, 1_000_000)
        deadline = time.monotonic() + 10
        while "Total" not in streams.err and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.notice("The server asks to wait.")
        progress.end("a")
    screen.write(streams.err)
    assert screen.rows == ["The server asks to wait.", "a: 1.0 MB, verified"]


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1_800, "1.8 kB"), (27_900_000, "27.9 MB"), (13_761_264_768, "13.8 GB")],
)
def test_sizes_are_in_decimal_units(count: int, words: str) -> None:
    assert size_words(count) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (61, "1 min 1 s"), (7_505, "2 h 5 min")])
def test_durations_have_at_most_two_units(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
