"""Each claim in the README's table is shown by its command."""

import os
import re
import shlex
from pathlib import Path

import pytest

import gptoss_cli
from tests.cli.conftest import Run, run

__all__ = ["run"]  # the fixture

_README = Path(gptoss_cli.__file__).parent / "architecture/README.md"


def _claims() -> list[tuple[str, str]]:
    """Return the command and the words that it shows, for each row of the table."""
    table = _README.read_text("utf-8").split("\n## The article's claims\n")[1]
    return re.findall(r"\| `(gptoss [^`]+)` \| `([^`]+)` \|", table)


def test_every_row_has_a_command() -> None:
    table = _README.read_text("utf-8").split("\n## The article's claims\n")[1]
    rows = [line for line in table.splitlines() if re.match(r"\| [\d.]+ \|", line)]
    assert len(_claims()) == len(rows) > 30


@pytest.mark.parametrize(("command", "words"), _claims())
def test_a_command_shows_its_claim(command: str, words: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((120, 24)))
    status, shown, asides = run(*shlex.split(command)[1:])
    assert (status, asides) == (0, "")
    assert words in " ".join(shown.split())
