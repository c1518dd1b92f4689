"""Incremental rendering of Markdown: final lines, each returned once, and the tail that may still change.

The final lines depend on the text alone and not on the pieces in which it arrives.
"""

from gptoss_cli.terminal.cells import Line, Span, fold, text_of
from gptoss_cli.terminal.markdown.blocks import leading_columns, without_indent
from gptoss_cli.terminal.markdown.highlight import CONTEXT_LINES, highlight
from gptoss_cli.terminal.markdown.layout import are_separated, blank_line, code_label, lay_out
from gptoss_cli.terminal.markdown.parse import LeafBlock, is_blank, leaf_blocks
from gptoss_cli.terminal.sanitize import neutralize

# The rest of a block with more characters of source than this is shown as raw text, so that parsing stays linear.
_LARGEST_BLOCK = 16_384
# Lines of open code become final in groups, since each group is highlighted together with the lines before it.
_CODE_GROUP = 8


class MarkdownStream:
    """Markdown that arrives in pieces, rendered in `columns`, which may change in between.

    The source that is kept, and the tail, which is rendered from it in every frame:

        final blocks, kept for the parser | open block | line without a newline
        `_done` of them                   |            ^ `_parsed`
                                          |<------------- tail --------------->|
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._final: list[Line] = []
        self._source = ""
        self._parsed = 0  # characters of the source that were parsed, up to a newline
        self._done = 0  # blocks of the source that are final
        self._code_done = 0  # lines of the block after them that are final too
        self._last: LeafBlock | None = None
        self._code: _OpenCode | None = None
        self._raw = False

    def feed(self, text: str) -> None:
        """Add a piece of text, which may end anywhere."""
        text = neutralize(text)
        while text:
            room = _LARGEST_BLOCK - len(self._source)
            self._source += text[:room]
            text = text[room:]
            if len(self._source) == _LARGEST_BLOCK:
                self._advance()
                if len(self._source) == _LARGEST_BLOCK:
                    self._cut_block()

    def take(self) -> list[Line]:
        """Return the lines that have become final since the last call."""
        self._advance()
        final, self._final = self._final, []
        return final

    def tail(self) -> list[Line]:
        """Return the lines after the final ones, as the text is so far, in at most `columns`."""
        if self._raw:
            lines = [[Span(self._source)]] if self._source else []
        elif self._code is not None:
            lines = self._code.with_open(self._source)
        else:
            lines = self._open_lines(leaf_blocks(self._source))
        return [row for line in lines for row in fold(line, self.columns)]

    def finish(self) -> list[Line]:
        """End the text and return the last final lines."""
        self._advance()
        self._end()
        final, self._final = self._final, []
        return final

    def _end(self) -> None:
        if self._raw:
            self._final += fold([Span(self._source)], self.columns) if self._source else []
        elif self._code is not None:
            # The parser takes no blanks at the end for a line of code.
            if self._source.strip() and not self._code.ends(self._source):
                self._final += self._code.add(self._source)
            self._final += self._code.flush()
            self._last, self._code = self._code.block, None
        else:
            for block in leaf_blocks(self._source)[self._done :]:
                self._commit(block, self._source.split("\n"))
        self._source, self._done, self._parsed = "", 0, 0

    def _advance(self) -> None:
        """Make lines final after each newline."""
        while (end := self._source.rfind("\n") + 1) > self._parsed:
            self._parsed = end
            if self._raw:
                self._advance_raw(end)
            elif self._code is not None:
                self._advance_code(end)
            else:
                self._advance_blocks(end)

    def _advance_raw(self, end: int) -> None:
        self._parsed = 0
        for line in self._source[:end].split("\n")[:-1]:
            if not line.strip():
                self._raw = False
                return
            self._source = self._source[len(line) + 1 :]
            self._final += fold([Span(line)], self.columns)

    def _advance_code(self, end: int) -> None:
        assert self._code is not None
        self._parsed = 0
        for line in self._source[:end].split("\n")[:-1]:
            self._source = self._source[len(line) + 1 :]
            if self._code.ends(line):
                self._final += self._code.flush()
                self._last, self._code = self._code.block, None
                return
            self._final += self._code.add(line)

    def _advance_blocks(self, end: int) -> None:
        lines = self._source[:end].split("\n")
        found = leaf_blocks(self._source[:end])
        if not found:
            return
        final = found if found[-1].closed else found[:-1]
        for block in final[self._done :]:
            self._commit(block, lines)
        self._done = len(final)
        last = found[-1]
        if last.fence is not None and not last.closed:
            self._open_code(last, lines)
        else:
            self._drop(found, lines)

    def _drop(self, found: list[LeafBlock], lines: list[str]) -> None:
        """Drop the source of final blocks that does not affect how the following text is parsed."""
        last = found[-1]
        if last.closed and not last.in_container:
            self._cut(lines, last.end, len(found))
            return
        kept = next(i for i, block in enumerate(found) if block.anchor == last.anchor)
        if kept:
            self._cut(lines, found[kept - 1].end, kept)

    def _cut(self, lines: list[str], end: int, count: int) -> None:
        dropped = sum(len(line) + 1 for line in lines[:end])
        self._source = self._source[dropped:]
        self._done -= count
        self._parsed -= dropped

    def _open_code(self, block: LeafBlock, lines: list[str]) -> None:
        if block.in_container:
            self._commit_code(block, lines)
            return
        self._begin(block, lines)
        self._final += code_label(block)
        self._code = _OpenCode(block)
        self._cut(lines, block.start + 1, self._done)
        self._parsed = 0

    def _commit_code(self, block: LeafBlock, lines: list[str]) -> None:
        """Make full groups of lines final in an open fence that is within a list or quote."""
        label = len(code_label(block))
        count = block.code.count("\n") // _CODE_GROUP * _CODE_GROUP + label
        if count > max(self._code_done, label):
            if not self._code_done:
                self._begin(block, lines)
            self._final += lay_out(block, self.columns)[self._code_done : count]
            self._code_done = count

    def _begin(self, block: LeafBlock, lines: list[str]) -> None:
        """Separate `block` from the block before it."""
        if self._last is not None and are_separated(self._last, block, blank=_has_blank(block, lines)):
            self._final.append(blank_line(self._last, block))

    def _commit(self, block: LeafBlock, lines: list[str]) -> None:
        if not self._code_done:
            self._begin(block, lines)
        self._final += lay_out(block, self.columns)[self._code_done :]
        self._code_done = 0
        self._last = block

    def _open_lines(self, found: list[LeafBlock]) -> list[Line]:
        lines = self._source.split("\n")
        shown: list[Line] = []
        last = self._last
        for block in found[self._done :]:
            skipped = self._code_done if block is found[self._done] else 0
            if last is not None and not skipped and are_separated(last, block, blank=_has_blank(block, lines)):
                shown.append(blank_line(last, block))
            shown += lay_out(block, self.columns)[skipped:]
            last = block
        return shown

    def _cut_block(self) -> None:
        """Continue a block that is too large as raw text, up to the next empty line or the end of the code."""
        if self._code is not None:
            self._final += self._code.flush()
        elif not self._raw:
            rest = self._source[_LARGEST_BLOCK // 2 :]
            cut = _LARGEST_BLOCK - len(rest) + max(rest.rfind(" "), rest.rfind("\n")) + 1
            rest, self._source = self._source[cut:], self._source[:cut]
            self._end()
            self._raw = True
            self._source = rest
        *full, last = fold([Span(self._source)], self.columns)
        self._final += full
        self._source = text_of(last)


class _OpenCode:
    """An open code fence outside of lists and quotes, whose lines are not parsed again."""

    def __init__(self, block: LeafBlock) -> None:
        assert block.fence is not None
        self.block = block
        self._fence = block.fence
        self._depth = 1
        self._first: str | None = None  # line of code
        self._pending: list[str] = []
        self._context: list[str] = []

    def ends(self, line: str) -> bool:
        """Return True if `line` is the closing fence."""
        return not self._depth_after(line)

    def add(self, line: str) -> list[Line]:
        """Add a line of code and return the lines that have become final."""
        self._depth = self._depth_after(line)
        self._pending.append(self._content(line))
        self._first = line if self._first is None else self._first
        return self.flush() if len(self._pending) == _CODE_GROUP else []

    def flush(self) -> list[Line]:
        """Make the pending lines final and return them."""
        lines = self._highlight(self._pending)
        self._context = [*self._context, *self._pending][-CONTEXT_LINES:]
        self._pending = []
        return lines

    def with_open(self, line: str) -> list[Line]:
        """Return the pending lines and the beginning of the next line."""
        return self._highlight([*self._pending, *([self._content(line)] if line else [])])

    def _content(self, line: str) -> str:
        first = self._first if self._first is not None else line
        return without_indent(line, self._fence.code_indent(first))

    def _depth_after(self, line: str) -> int:
        return self._fence.depth_after(line.lstrip(" \t"), leading_columns(line), self._depth)

    def _highlight(self, lines: list[str]) -> list[Line]:
        return highlight(lines, self.block.language, context=self._context)


def _has_blank(block: LeafBlock, lines: list[str]) -> bool:
    return block.start > 0 and is_blank(lines[block.start - 1])
