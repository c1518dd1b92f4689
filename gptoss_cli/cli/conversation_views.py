"""Conversations as text: a list, the messages of one, and the hits of a search."""

from collections.abc import Iterator, Mapping, Sequence

from gptoss_cli.archive.archive import Archive, Stored, Summary
from gptoss_cli.archive.rows import ConversationRow
from gptoss_cli.archive.search import Hit
from gptoss_cli.archive.titles import clean, title_line
from gptoss_cli.cli.resuming import author_of, title_of
from gptoss_cli.harmony.events import Message
from gptoss_cli.terminal.cells import Line, Role, Span, fold, text_of, wrap
from gptoss_cli.terminal.markdown.stream import MarkdownStream
from gptoss_cli.units import age_words

_HEADINGS = ("ID", "UPDATED", "MODEL", "MESSAGES", "TITLE")
_MODEL_CELLS = 24
_LEAST_TITLE_CELLS = 16
# The columns of a list, by their places in `_HEADINGS`, that a narrow terminal leaves out, the least useful first.
_LEFT_OUT = (2, 3, 1)
_INTERRUPTED = "[interrupted]"
_SPEAKER = "1;32"


def listing(summaries: Sequence[Summary], archive: Archive, now: float, *, columns: int | None) -> str:
    """Return a table of conversations. On a terminal of so many columns each is one line, which may lack some cells."""
    table = [_HEADINGS, *(_cells(each, archive, now) for each in summaries)]
    widths = {i: max(len(row[i]) for row in table) for i in range(len(_HEADINGS) - 1)}
    for i in _LEFT_OUT:
        if columns is not None and _room(widths, columns) < _LEAST_TITLE_CELLS:
            del widths[i]
    lines = []
    for row in table:
        before = "".join(f"{row[i]:<{width}}  " for i, width in widths.items())
        title = row[-1] if columns is None else title_line(row[-1], max(1, _room(widths, columns)))
        lines.append(f"{before}{title}".rstrip() + "\n")
    return "".join(lines)


def _room(widths: Mapping[int, int], columns: int) -> int:
    """Return the cells that the other columns of a list leave for the title."""
    return columns - 1 - sum(width + 2 for width in widths.values())


def transcript(stored: Stored, *, reasoning: bool, branches: int) -> str:
    """Return the messages of the current path as they are, each run of one author under its name."""
    parts = [title_of(stored.row) + "\n" + "\n".join(_about(stored.row, branches))]
    for speaker, message in _spoken(stored, reasoning=reasoning):
        text = message.text if message.complete else f"{message.text}\n{_INTERRUPTED}"
        parts.append(f"{speaker}\n\n{text}" if speaker else text)
    return "\n\n".join(parts) + "\n"


def transcript_lines(stored: Stored, *, reasoning: bool, branches: int, columns: int) -> Iterator[Line]:
    """Yield the messages of the current path as `columns` wide lines for a terminal, with Markdown laid out."""
    yield from wrap([Span(title_of(stored.row), Role.HEADING)], columns)
    for line in _about(stored.row, branches):
        yield from fold([Span(line, Role.DIM)], columns)
    for speaker, message in _spoken(stored, reasoning=reasoning):
        yield []
        if speaker:
            yield from ([Span(speaker, _SPEAKER)], [])
        for laid_out in _laid_out(message.text, columns):
            yield [Span(span.text, span.sgr or Role.DIM) for span in laid_out] if message.is_reasoning else laid_out
        if not message.complete:
            yield [Span(_INTERRUPTED, Role.DIM)]


def _about(row: ConversationRow, branches: int) -> Iterator[str]:
    several = f" · {branches} branches" if branches > 1 else ""
    yield f"{row.id} · {title_line(row.model, _MODEL_CELLS)} · {row.date}{several}"
    if row.folder:
        yield clean(row.folder)


def _spoken(stored: Stored, *, reasoning: bool) -> Iterator[tuple[str, Message]]:
    """Yield the messages of the current path, each with its author if that is not the one of the message before."""
    before = ""
    for message in stored.current:
        if message.is_reasoning and not reasoning:
            continue
        speaker = author_of(message)
        yield "" if speaker == before else speaker, message
        before = speaker


def hit_text(hit: Hit, short_id: str, now: float, *, columns: int | None) -> str:
    """Return a hit: its conversation, and the line with marks around the words between its neighbors.

    A terminal of so many columns gets whole words.
    """
    where = f"message {hit.user_message}" + ("" if hit.is_current else ", on another branch")
    head = f"{short_id}  {hit.title or hit.conversation}  ({where}, {age_words(now - hit.created)})"
    before, after = (_indented("    ", line, columns) for line in (hit.before, hit.after))
    lines = [*_indented("", head, columns), *before, *_indented("  > ", _marked(hit), columns), *after]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _indented(start: str, text: str, columns: int | None) -> list[str]:
    """Return a line that begins with `start`, or for a terminal the lines that it takes there; none for a blank one."""
    if not text.strip():
        return []
    if columns is None:
        return [start + text]
    rows = [text_of(row) for row in wrap([Span(text)], columns - len(start))]
    return [(" " * len(start) if number else start) + row for number, row in enumerate(rows)]


def _cells(summary: Summary, archive: Archive, now: float) -> tuple[str, ...]:
    row = summary.row
    age, model = age_words(now - row.updated), title_line(row.model, _MODEL_CELLS)
    return archive.short_id(row.id), age, model, f"{summary.messages:,}", title_line(row.title or "")


def _laid_out(text: str, columns: int) -> list[Line]:
    stream = MarkdownStream(columns)
    stream.feed(text)
    return stream.finish()


def _marked(hit: Hit) -> str:
    return "".join(_pieces(hit))


def _pieces(hit: Hit) -> Iterator[str]:
    end = 0
    for start, stop in hit.spans:
        yield f"{hit.line[end:start]}»{hit.line[start:stop]}«"
        end = stop
    yield hit.line[end:]
