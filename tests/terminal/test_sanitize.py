"""Model output cannot control the terminal, in whatever pieces it arrives."""

import unicodedata

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.terminal.sanitize import neutralize, one_line

_ATTACKS = [
    "\x1b]52;c;cm0gLXJmIH4=\x07",
    "\x1b]0;title\x1b\\",
    "\x1b]8;;https://evil\x1b\\good\x1b]8;;\x1b\\",
    "\x1b[2J",
    "\x1b[6n",
    "\x1bP1$r0m\x1b\\",
    "\x1b_apc\x1b\\",
    "\x9b2J",
    "\x07" * 100,
    "\x1b",
    "\x1b]2;never ended",
    "\x7f\x08\x0b\x0c\x00",
    "\u202egnp.exe\u2069",
]


@pytest.mark.parametrize("attack", _ATTACKS)
def test_no_control_character_remains(attack: str) -> None:
    shown = neutralize(attack)
    assert shown.isprintable()
    assert len(shown) >= len(attack)


@given(st.text())
def test_newline_and_tab_are_the_only_controls_that_remain(text: str) -> None:
    controls = {character for character in neutralize(text) if unicodedata.category(character) == "Cc"}
    assert controls <= {"\n", "\t"}


@given(st.text(), st.text())
def test_pieces_are_neutralised_like_the_whole(first: str, second: str) -> None:
    assert neutralize(first) + neutralize(second) == neutralize(first + second)


@given(st.text())
def test_neutralising_twice_changes_nothing(text: str) -> None:
    assert neutralize(neutralize(text)) == neutralize(text)


def test_ordinary_text_is_untouched() -> None:
    text = "Größe\t漢字 👩‍🚀 [bold] [/x] :smile:\n"
    assert neutralize(text) == text


def test_marks_without_a_width_are_dropped_but_joiners_stay() -> None:
    assert neutralize("\u200fשלם\u200e \u061cمرحب\u200b \u2060a\ufeff\u00adb") == "שלם مرحب ab"
    assert neutralize("می\u200cروم 👩\u200d🚀") == "می\u200cروم 👩\u200d🚀"


@pytest.mark.parametrize("code", [*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
def test_embeddings_overrides_and_isolates_are_visible(code: int) -> None:
    assert neutralize(chr(code)) == f"\\u{code:04x}"


def test_carriage_returns_are_dropped() -> None:
    assert neutralize("hidden\rshown\r\n") == "hiddenshown\n"


def test_the_cursor_is_at_the_end_of_the_text() -> None:
    screen = pyte.Screen(40, 5)
    pyte.Stream(screen).feed(neutralize("a\x1b[3;3Hb\x9b2Jc"))
    assert (screen.cursor.y, screen.display[0].rstrip()) == (0, "a␛[3;3Hb\\x9b2Jc")


def test_a_message_is_one_line() -> None:
    assert one_line("a file named\n\x1b[2J  x") == "a file named ␛[2J x"
