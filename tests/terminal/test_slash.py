"""Slash commands are parsed and completed."""

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from gptoss_cli.errors import UsageError
from gptoss_cli.terminal.slash import SlashCompleter, message_of, parse


def _offered(text: str) -> list[str]:
    completer = SlashCompleter(lambda: ["20b", "demo"])
    return [each.text for each in completer.get_completions(Document(text), CompleteEvent())]


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/help", ("/help", "")),
        ("  /effort   high ", ("/effort", "high")),
        ("/instructions a  b\n", ("/instructions", "a  b")),
        ("/instructions a\nb", None),
        ("/?", ("/help", "")),
        ("/bye", ("/exit", "")),
        ("/quit", ("/exit", "")),
        ("/clear", ("/new", "")),
        ("hello /help", None),
        ("//etc", None),
        ("", None),
    ],
)
def test_a_line_that_begins_with_a_slash_is_a_command(text: str, command: tuple[str, str] | None) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "close"), [("/hlep", "/help"), ("/efort high", "/effort"), ("/x", "/help"), ("/", "/help")]
)
def test_an_unknown_command_is_an_error_with_the_closest_match(text: str, close: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean {close}?"):
        parse(text)


def test_of_two_slashes_the_first_is_removed() -> None:
    assert message_of("//etc is what?") == "/etc is what?"
    assert message_of(" a // b") == " a // b"


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("/re", ["/reasoning", "/retry", "/resume"]),
        ("/effort ", ["none", "low", "medium", "high"]),
        ("/effort h", ["high"]),
        ("/reasoning c", ["collapse"]),
        ("/model ", ["20b", "demo"]),
        ("/set top", ["top-p", "top-k"]),
        ("/copy ", ["code"]),
        ("/nothing ", []),
        ("hello", []),
        ("/help\n/re", []),
    ],
)
def test_commands_and_their_arguments_are_completed(text: str, offered: list[str]) -> None:
    assert _offered(text) == offered


def test_files_are_completed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert _offered(f"/file {tmp_path}/no") == ["tes.txt"]
    assert _offered(f"/instructions @{tmp_path}/no") == ["tes.txt"]
