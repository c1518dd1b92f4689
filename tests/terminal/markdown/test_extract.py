"""The code of an answer is extracted as it was written."""

import pytest

from gptoss_cli.terminal.markdown.extract import code_blocks, first_code_block

_ANSWER = "A\n```\n```\n1. b\n   ```py\n   x\n   ```\n> ~~~ {.sh}\n> y\n> ~~~\n```yml\nz: 1\n```\n"


def test_every_block_with_code_is_found() -> None:
    assert code_blocks(_ANSWER) == ["x", "y", "z: 1"]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("", "x\n"),
        ("py", "x\n"),
        ("python", "x\n"),
        ("Python3", "x\n"),
        ("bash", "y\n"),
        ("shell", "y\n"),
        ("yaml", "z: 1\n"),
        ("rust", None),
        ("no such language", None),
    ],
)
def test_a_language_has_several_names(language: str, code: str | None) -> None:
    assert first_code_block(_ANSWER, language) == code


@pytest.mark.parametrize("answer", ["", "prose", "`code`", "```\n```", "```py\n \n\n```", "> ```\nx"])
def test_an_answer_without_code_has_no_block(answer: str) -> None:
    assert first_code_block(answer, "") is None
