"""Pictures of memory: what lies in it, to scale. Text alone, so that it reads the same in a pipe."""

from collections.abc import Sequence
from dataclasses import dataclass

# Told apart without colour; what is free comes last.
_MARKS = "█▓▒▚·"
_LEGEND_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Part:
    """What takes `size` bytes of a memory, and the words for both."""

    name: str
    size: int
    words: str


def picture(title: str, parts: Sequence[Part], columns: int) -> str:
    """A bar of all `parts` to scale, at most five of them, with a legend under it; lines of at most `columns`."""
    assert len(parts) <= len(_MARKS)
    marked = [(mark, part) for mark, part in zip(_MARKS, parts, strict=False) if part.size > 0]
    width = max(len(marked), columns - 2)
    cells = _cells([part.size for _, part in marked], width)
    bar = "".join(mark * count for (mark, _), count in zip(marked, cells, strict=True))
    return "\n".join(
        (title, f"[{bar}]", *_wrapped([f"{mark} {part.name} {part.words}" for mark, part in marked], columns))
    )


def _cells(sizes: Sequence[int], width: int) -> list[int]:
    """`width` cells shared out by `sizes`: one to each at least, the rest by largest remainder."""
    rest, total = width - len(sizes), sum(sizes)
    exact = [size * rest / total for size in sizes]
    cells = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: cells[index] - exact[index])
    for index in by_remainder[: rest - sum(cells)]:
        cells[index] += 1
    return [count + 1 for count in cells]


def _wrapped(entries: Sequence[str], columns: int) -> list[str]:
    """The entries of a legend, as many on a line as fit."""
    lines: list[str] = []
    for entry in entries:
        if lines and len(lines[-1]) + len(_LEGEND_INDENT) + len(entry) <= columns:
            lines[-1] += _LEGEND_INDENT + entry
        else:
            lines.append(_LEGEND_INDENT + entry)
    return lines
