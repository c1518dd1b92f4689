"""`gptoss list` and `gptoss remove`: which models are here, and taking one away."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_cli.cli.checkpoints import confirm, write_json
from gptoss_cli.cli.definition import command
from gptoss_cli.errors import ExitStatus, IntegrityError, NotInstalledError, UsageError
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.checkpoint.store import ModelLocation


@dataclass(frozen=True, slots=True)
class _Row:
    """One model: `bytes` is its whole size, `bytes_here` what there is of it, `bytes_partial` of unfinished files."""

    model: str
    state: str
    bytes: int
    bytes_here: int = 0
    bytes_partial: int = 0
    folder: str | None = None
    commit: str | None = None
    verified: str | None = None


@command
def list_models(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    console: Console,
) -> None:
    """List the known and the installed models: size, state, when proven, where."""
    from gptoss_cli.checkpoint.store import locations

    rows = [*(_row(place) for place in locations()), _demo_row()]
    if as_json:
        write_json({"models": [asdict(row) for row in rows]}, console)
        return
    table = [("MODEL", "SIZE", "STATE", "PROVEN", "WHERE"), *map(_cells, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.answer(f"{line.rstrip()}\n")


def _row(place: "ModelLocation") -> _Row:
    from gptoss_cli.checkpoint import catalog, store

    model = catalog.find_model(place.name)
    expected_bytes = model.published.download_bytes if model and model.published else 0
    try:
        manifest, pin, cached = place.manifest(), place.pin(), store.cached(place.name)
    except IntegrityError:
        return _Row(place.name, "damaged", expected_bytes, _held_bytes(place.folder), folder=str(place.folder))
    if manifest is None and cached is not None:
        held = _held_bytes(cached)
        return _Row(place.name, "in the Hugging Face cache", held, held, _partial_bytes(place), str(cached))
    wanted = manifest or pin
    if wanted is None and not place.folder.exists():
        return _Row(place.name, "not downloaded", expected_bytes)
    complete = manifest is not None and not any(place.lacks(file) for file in manifest.files)
    return _Row(
        place.name,
        "downloading" if place.is_busy() else "installed" if complete else "incomplete",
        wanted.size_bytes if wanted else expected_bytes,
        _held_bytes(place.folder) + _partial_bytes(place),
        _partial_bytes(place),
        str(place.folder),
        wanted.commit if wanted else None,
        manifest.verified if manifest else None,
    )


def _demo_row() -> _Row:
    from importlib import resources

    from gptoss_cli.checkpoint import catalog

    with resources.as_file(resources.files("gptoss_cli.demo").joinpath("data/demo.safetensors")) as file:
        size_bytes = file.stat().st_size
    return _Row(catalog.DEMO.name, "comes with gptoss", size_bytes, size_bytes)


def _cells(row: _Row) -> tuple[str, ...]:
    from gptoss_cli.units import size_words

    state = row.state
    if row.state in ("incomplete", "downloading"):
        state = f"{row.state}, {size_words(row.bytes_here)} here"
    elif row.bytes_partial:
        state = f"{row.state}, and {size_words(row.bytes_partial)} of a broken download"
    where = row.folder or ("" if row.state == "comes with gptoss" else f"gptoss download {_short_name(row.model)}")
    return row.model, size_words(row.bytes), state, (row.verified or "")[:10], where


def _short_name(name: str) -> str:
    from gptoss_cli.checkpoint.store import find_location

    return find_location(name).short_name


@command
def remove(
    model: Annotated[str, typer.Argument(metavar="20b|120b|OWNER/NAME", help="What to take away.")],
    *,
    partial: Annotated[bool, typer.Option("--partial", help="Only what a broken download left.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    console: Console,
) -> None:
    """Delete a model's files from gptoss's own folder, after saying how much that is."""
    from gptoss_cli.checkpoint import store
    from gptoss_cli.checkpoint.lock import locked
    from gptoss_cli.checkpoint.partial import writing
    from gptoss_cli.checkpoint.store import find_location
    from gptoss_cli.units import size_words

    place = find_location(model)
    target = place.partial if partial else place.folder
    if not target.is_dir():
        if not partial and (cached := store.cached(place.name)) is not None:
            raise UsageError(f"{place.name} lies in the Hugging Face cache, {cached}. Remove it with: hf cache rm")
        raise NotInstalledError(f"There is nothing in {target} to remove.")
    size_bytes = _partial_bytes(place) + (0 if partial else _held_bytes(place.folder))
    if not confirm(f"Delete {size_words(size_bytes)} in {target}?", console, yes=yes, needs_yes=True):
        raise typer.Exit(ExitStatus.INTERRUPTED)

    def give_up() -> None:
        raise UsageError(f"Another gptoss is downloading {place.name}. Stop that first.")

    with writing(target), locked(place.lock_path, waiting=give_up):
        if not partial:
            place.manifest_path.unlink(missing_ok=True)  # first, so that nothing half-deleted counts as installed
        shutil.rmtree(target)
    console.notice(f"{size_words(size_bytes)} deleted.")


def _held_bytes(folder: Path) -> int:
    """Of the files that have their final names."""
    return sum(path.stat().st_size for path in _files(folder))


def _partial_bytes(place: "ModelLocation") -> int:
    """What unfinished files take up; they have holes where nothing has arrived."""
    sizes = (path.stat() for path in _files(place.partial))
    return sum(min(size.st_size, getattr(size, "st_blocks", size.st_size) * 512) for size in sizes)


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_file())
