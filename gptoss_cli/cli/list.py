"""`gptoss list`: the known and the installed models."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.store import ModelLocation, find_location, locations
from gptoss_cli.cli.damaged_copies import notice_damaged_copies
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.errors import IntegrityError
from gptoss_cli.terminal.console import Console
from gptoss_cli.units import size_words

_HEADINGS = ("MODEL", "SIZE", "STATE", "VERIFIED", "WHERE")
_BUILT_IN = "comes with gptoss"


@dataclass(frozen=True, slots=True)
class _Row:
    """One model: `bytes` is its full size, `bytes_here` the size on this disk, `bytes_partial` of unfinished files."""

    model: str
    state: str
    bytes: int
    bytes_here: int = 0
    bytes_partial: int = 0
    folder: str | None = None
    commit: str | None = None
    verified: str | None = None


def run_list(console: Console, *, as_json: bool) -> None:
    """Run `gptoss list`."""
    notice_damaged_copies(console)
    rows = [*map(_row, locations()), _demo_row()]
    if as_json:
        write_json({"models": [asdict(row) for row in rows]}, console, indent=2)
        return
    table = [_HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.out(f"{line.rstrip()}\n")


def held_bytes(folder: Path) -> int:
    """Return the size of the files in `folder` that have their final names."""
    return sum(path.stat().st_size for path in _files(folder))


def partial_bytes(location: ModelLocation) -> int:
    """Return the disk space of unfinished files, which have holes where nothing has arrived."""
    sizes = (path.stat() for path in _files(location.partial))
    return sum(min(size.st_size, getattr(size, "st_blocks", size.st_size) * 512) for size in sizes)


def _row(location: ModelLocation) -> _Row:
    model = catalog.find_model(location.name)
    expected_bytes = model.published.download_bytes if model and model.published else 0
    folder, unfinished_bytes = location.folder, partial_bytes(location)
    try:
        manifest, pin, cached = location.manifest(), location.pin(), store.cached(location.name)
    except IntegrityError:
        return _Row(location.name, "damaged", expected_bytes, held_bytes(folder), folder=str(folder))
    if manifest is None and cached is not None:
        cached_bytes = held_bytes(cached)
        state = "in the Hugging Face cache"
        return _Row(location.name, state, cached_bytes, cached_bytes, unfinished_bytes, str(cached))
    wanted = manifest or pin
    if wanted is None and not folder.exists():
        return _Row(location.name, "not downloaded", expected_bytes)
    complete = manifest is not None and not any(location.lacks(file) for file in manifest.files)
    return _Row(
        location.name,
        "downloading" if location.is_busy() else "installed" if complete else "incomplete",
        wanted.size_bytes if wanted else expected_bytes,
        held_bytes(folder) + unfinished_bytes,
        unfinished_bytes,
        str(folder),
        wanted.commit if wanted else None,
        manifest.verified if manifest else None,
    )


def _demo_row() -> _Row:
    with resources.as_file(resources.files("gptoss_cli.demo").joinpath("data/demo.safetensors")) as file:
        size_bytes = file.stat().st_size
    return _Row(catalog.DEMO.name, _BUILT_IN, size_bytes, size_bytes)


def _cells(row: _Row) -> tuple[str, ...]:
    state = row.state
    if row.state in ("incomplete", "downloading"):
        state = f"{row.state}, {size_words(row.bytes_here)} here"
    elif row.bytes_partial:
        state = f"{row.state}, and {size_words(row.bytes_partial)} of a broken download"
    advice = "" if row.state == _BUILT_IN else f"gptoss download {find_location(row.model).short_name}"
    return row.model, size_words(row.bytes), state, (row.verified or "")[:10], row.folder or advice


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_file())
