"""The code in an answer, as it was written."""

from collections.abc import Iterator

from gptoss_cli.terminal.markdown.highlight import lexer_of
from gptoss_cli.terminal.markdown.parse import leaf_blocks


def code_blocks(source: str) -> list[str]:
    """Return the code of each fenced block that is not empty, in order, without a newline at its end."""
    return [code.removesuffix("\n") for _, code in _blocks(source)]


def first_code_block(source: str, language: str) -> str | None:
    """Return the first block in `language`, by any of its names, or in any if that is empty; None if there is none.

    A block that is not closed ends with the text. Empty blocks do not count.
    """
    return next((code for info, code in _blocks(source) if not language or _is_same(info, language)), None)


def _blocks(source: str) -> Iterator[tuple[str, str]]:
    for block in leaf_blocks(source):
        if block.fence is not None and block.code.strip():
            yield block.fence.info, block.code


def _is_same(info: str, language: str) -> bool:
    if info.split()[:1] == [language] or info.lower().split()[:1] == [language.lower()]:
        return True
    wanted, found = lexer_of(language), lexer_of(info)
    return wanted is not None and found is not None and wanted.name == found.name
