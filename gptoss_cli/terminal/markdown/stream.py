"""Markdown as it arrives: lines that are final, each given once, and the tail that may still change.

What is final is a function of the text alone: it does not matter in which pieces the text came.
"""

from gptoss_cli.terminal.cells import Line, Span, fold, text_of
from gptoss_cli.terminal.markdown.highlight import CONTEXT_LINES, color_code
from gptoss_cli.terminal.markdown.layout import are_apart, blank_line, lay_out
from gptoss_cli.terminal.markdown.parse import Leaf, is_blank, leaves
from gptoss_cli.terminal.sanitize import neutralize

# A block of more source than this is no longer looked at as a whole: the rest of it is shown as it is.
_LARGEST_BLOCK = 16_384
# Lines of open code become final in groups, since colouring a line needs those before it.
_CODE_GROUP = 8


class MarkdownStream:
    """Takes the text of an answer, gives lines for a screen of `columns`; the width may change on the way."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._final: list[Line] = []
        self._source = ""
        self._parsed = 0  # how much of the source has been looked at, up to a newline
        self._done = 0  # leaves of the source that are final
        self._code_done = 0  # lines of the leaf after them that are final too
        self._last: Leaf | None = None
        self._code: _OpenCode | None = None
        self._raw = False

    def feed(self, text: str) -> None:
        """Take the next piece of text, which may end anywhere."""
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
        """The lines that have become final since the last call."""
        self._advance()
        final, self._final = self._final, []
        return final

    def tail(self) -> list[Line]:
        """The lines that follow the final ones as things stand, none wider than the screen."""
        if self._raw:
            lines = [[Span(self._source)]] if self._source else []
        elif self._code is not None:
            lines = self._code.with_open(self._source)
        else:
            lines = self._open_lines(leaves(self._source))
        return [row for line in lines for row in fold(line, self.columns)]

    def finish(self) -> list[Line]:
        """The last final lines: nothing more will come."""
        self._advance()
        self._end()
        final, self._final = self._final, []
        return final

    def _end(self) -> None:
        if self._raw:
            self._final += fold([Span(self._source)], self.columns) if self._source else []
        elif self._code is not None:
            if self._source and not self._code.ends(self._source):
                self._final += self._code.add(self._source)
            self._final += self._code.flush()
            self._last, self._code = self._code.leaf, None
        else:
            for leaf in leaves(self._source)[self._done :]:
                self._commit(leaf, self._source.split("\n"))
        self._source, self._done, self._parsed = "", 0, 0

    def _advance(self) -> None:
        """Make final what whole lines have ended."""
        while (whole := self._source.rfind("\n") + 1) > self._parsed:
            self._parsed = whole
            if self._raw:
                self._advance_raw(whole)
            elif self._code is not None:
                self._advance_code(whole)
            else:
                self._advance_blocks(whole)

    def _advance_raw(self, whole: int) -> None:
        self._parsed = 0
        for line in self._source[:whole].split("\n")[:-1]:
            if not line.strip():
                self._raw = False
                return
            self._source = self._source[len(line) + 1 :]
            self._final += fold([Span(line)], self.columns)

    def _advance_code(self, whole: int) -> None:
        assert self._code is not None
        self._parsed = 0
        for line in self._source[:whole].split("\n")[:-1]:
            self._source = self._source[len(line) + 1 :]
            if self._code.ends(line):
                self._final += self._code.flush()
                self._last, self._code = self._code.leaf, None
                return
            self._final += self._code.add(line)

    def _advance_blocks(self, whole: int) -> None:
        lines = self._source[:whole].split("\n")
        found = leaves(self._source[:whole])
        if not found:
            return
        final = found if found[-1].closed else found[:-1]
        for leaf in final[self._done :]:
            self._commit(leaf, lines)
        self._done = len(final)
        last = found[-1]
        if last.fence is not None and not last.closed:
            self._open_code(last, lines)
        else:
            self._drop(found, lines)

    def _drop(self, found: list[Leaf], lines: list[str]) -> None:
        """Forget the source of what is final and cannot bear on what follows."""
        last = found[-1]
        if last.closed and not last.contained:
            self._cut(lines, last.end, len(found))
            return
        kept = next(i for i, leaf in enumerate(found) if leaf.anchor == last.anchor)
        if kept:
            self._cut(lines, found[kept - 1].end, kept)

    def _cut(self, lines: list[str], end: int, count: int) -> None:
        dropped = sum(len(line) + 1 for line in lines[:end])
        self._source = self._source[dropped:]
        self._done -= count
        self._parsed -= dropped

    def _open_code(self, leaf: Leaf, lines: list[str]) -> None:
        if leaf.contained:
            self._commit_code(leaf, lines)
            return
        self._begin(leaf, lines)
        self._code = _OpenCode(leaf)
        self._cut(lines, leaf.start + 1, self._done)
        self._parsed = 0

    def _commit_code(self, leaf: Leaf, lines: list[str]) -> None:
        """Make whole groups of lines of an unfinished fence within a list or quote final."""
        count = leaf.code.count("\n") // _CODE_GROUP * _CODE_GROUP
        if count > self._code_done:
            if not self._code_done:
                self._begin(leaf, lines)
            self._final += lay_out(leaf, self.columns)[self._code_done : count]
            self._code_done = count

    def _begin(self, leaf: Leaf, lines: list[str]) -> None:
        """Set `leaf` apart from what precedes it."""
        if self._last is not None and are_apart(self._last, leaf, blank=_has_blank(leaf, lines)):
            self._final.append(blank_line(self._last, leaf))

    def _commit(self, leaf: Leaf, lines: list[str]) -> None:
        if not self._code_done:
            self._begin(leaf, lines)
        self._final += lay_out(leaf, self.columns)[self._code_done :]
        self._code_done = 0
        self._last = leaf

    def _open_lines(self, found: list[Leaf]) -> list[Line]:
        lines = self._source.split("\n")
        shown: list[Line] = []
        last = self._last
        for leaf in found[self._done :]:
            skipped = self._code_done if leaf is found[self._done] else 0
            if last is not None and not skipped and are_apart(last, leaf, blank=_has_blank(leaf, lines)):
                shown.append(blank_line(last, leaf))
            shown += lay_out(leaf, self.columns)[skipped:]
            last = leaf
        return shown

    def _cut_block(self) -> None:
        """Go on with the rest of a block that is too large as it is, up to the next empty line or the code's end."""
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
    """A code fence that stands in no list or quote, and is not closed yet: read line by line."""

    def __init__(self, leaf: Leaf) -> None:
        assert leaf.fence is not None
        self.leaf = leaf
        self._fence = leaf.fence
        self._pending: list[str] = []
        self._context: list[str] = []

    def ends(self, line: str) -> bool:
        """Whether `line` is the closing fence."""
        return self._fence.closes(line)

    def add(self, line: str) -> list[Line]:
        """Take one more line; returns those that are final now."""
        self._pending.append(self._fence.content(line))
        return self.flush() if len(self._pending) == _CODE_GROUP else []

    def flush(self) -> list[Line]:
        """Everything that is pending."""
        lines = self._colored(self._pending)
        self._context = [*self._context, *self._pending][-CONTEXT_LINES:]
        self._pending = []
        return lines

    def with_open(self, line: str) -> list[Line]:
        """Everything that is pending, and the beginning of the next line."""
        return self._colored([*self._pending, *([self._fence.content(line)] if line else [])])

    def _colored(self, lines: list[str]) -> list[Line]:
        return color_code(lines, self.leaf.language, context=self._context)


def _has_blank(leaf: Leaf, lines: list[str]) -> bool:
    return leaf.start > 0 and is_blank(lines[leaf.start - 1])
