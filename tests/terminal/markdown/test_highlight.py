"""Code is highlighted by language, without changing its text."""

import pytest

from gptoss_cli.terminal.cells import Role, text_of
from gptoss_cli.terminal.markdown.highlight import highlight, lexer_of


@pytest.mark.parametrize("language", ["", "py", "no such language"])
def test_the_text_stays_the_same(language: str) -> None:
    lines = ["", "def f(x):", "    return 'a'  # b", "", ""]
    assert [text_of(line) for line in highlight(lines, language)] == lines


def test_keywords_strings_and_comments_have_their_roles() -> None:
    (line,) = highlight(["return 'a'  # b"], "python")
    styles = {span.text: span.sgr for span in line}
    assert styles["return"] == Role.KEYWORD
    assert styles["# b"] == Role.COMMENT
    assert styles["a"] == Role.STRING


def test_the_lines_before_decide_if_a_line_is_in_a_string() -> None:
    (alone,), (inside,) = highlight(["x"], "py"), highlight(["x"], "py", context=['"""'])
    assert (alone[0].sgr, inside[0].sgr) == (Role.PLAIN, Role.STRING)


def test_tabs_and_control_characters_are_replaced() -> None:
    assert text_of(highlight(["\ta\x1b"], "")[0]) == "    a␛"


@pytest.mark.parametrize("language", ["console", "pycon", "ps1con", "html+jinja", "make", "text", "md", "diff"])
def test_no_lexer_changes_the_text(language: str) -> None:
    lines = ["$ a \\", "", ">>> b", "c", "PS> d"]
    assert [text_of(line) for line in highlight(lines, language)] == lines


def test_a_language_is_known_by_any_of_its_names() -> None:
    names = ["py", "python3", "{.python}", "python:main.py", "python title=x"]
    assert {lexer.name for name in names if (lexer := lexer_of(name)) is not None} == {"Python"}
    assert lexer_of("no such language") is lexer_of("") is None
