"""A turn as the model wrote it, told apart by channel."""

import re
from collections.abc import Iterator

from gptoss_cli.harmony.events import Channel
from gptoss_cli.terminal.console import Style

_MARKER = re.compile(r"(<\|[a-z_]+\|>)")


def by_channel(raw: str) -> Iterator[tuple[str, Style]]:
    """The pieces of `raw` with the style of each: Harmony's markers and headers, reasoning, calls, the rest."""
    header, style = "", Style.PLAIN
    # Without reasoning the header is part of the prompt.
    in_header = "<|message|>" in raw
    for piece in _MARKER.split(raw):
        if _MARKER.fullmatch(piece):
            in_header = piece != "<|message|>"
            style = _style(header) if not in_header else Style.PLAIN
            header = "" if not in_header else header
            yield piece, Style.MARKUP
        elif in_header:
            header += f" {piece}"
            yield piece, Style.MARKUP
        else:
            yield piece, style


def _style(header: str) -> Style:
    if " to=" in header:
        return Style.CALL
    return Style.DIM if Channel.ANALYSIS in header.split() else Style.PLAIN
