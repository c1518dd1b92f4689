"""`gptoss list`: the known and the installed models."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

from gptoss_cli import settings
from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.checkpoint.judgement import Judgement, judge_folder
from gptoss_cli.checkpoint.store import ModelLocation, find_location, locations
from gptoss_cli.cli.damaged_copies import notice_damaged_copies
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.errors import GptossError, IntegrityError
from gptoss_cli.placement import hardware
from gptoss_cli.placement.fitting import Fit, fit
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import load_config, published_config
from gptoss_cli.terminal.cells import stacked
from gptoss_cli.terminal.console import Console
from gptoss_cli.units import size_words

_HEADINGS = ("MODEL", "SIZE", "STATE", "FITS", "VERIFIED", "WHERE")
_BUILT_IN = "comes with gptoss"
_IN_CACHE = "in the Hugging Face cache"
_FIT_WORDS = {
    Fit.GPU: "yes, on the GPU",
    Fit.GPU_AND_HOST: "yes, on GPU and CPU",
    Fit.HOST: "yes, on the CPU",
    Fit.DISK: "slowly, from disk",
    Fit.NONE: "no",
    None: "",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """One model: `bytes` is its full size, `bytes_here` the size on this disk, `bytes_partial` of unfinished files.

    `bytes` is None if it is not known before the download. `fits` is None for one that cannot be run.
    """

    model: str
    state: str
    bytes: int | None
    bytes_here: int = 0
    bytes_partial: int = 0
    folder: str | None = None
    commit: str | None = None
    verified: str | None = None
    fits: Fit | None = None


def run_list(console: Console, *, as_json: bool) -> None:
    """Run `gptoss list`."""
    notice_damaged_copies(console)
    machine, found = hardware.detect(settings.data_folder()), locations()
    rows = [_judged(_row(location), location, machine) for location in found]
    rows += _cached_rows({location.repository for location in found}, machine)
    rows.append(_demo_row())
    if as_json:
        write_json({"models": [asdict(row) for row in rows]}, console, indent=2)
        return
    columns = console.stdout.columns if console.stdout.is_terminal else None
    console.out_lines("\n".join(_lines([_HEADINGS, *map(_cells, rows)], columns)))


def _lines(table: Sequence[tuple[str, ...]], columns: int | None) -> Iterator[str]:
    """Yield the lines of a table that fits the terminal; on a narrow one a row has several."""
    for count in (len(_HEADINGS), _HEADINGS.index("VERIFIED")):
        widths = [max(map(len, column)) for column in zip(*(row[:count] for row in table), strict=True)]
        if columns is None or sum(widths) + 2 * (count - 1) <= columns:
            for row in table:
                yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
                for name, cell in zip(_HEADINGS[count:], row[count:], strict=True):
                    if cell and row is not table[0]:
                        yield f"  verified {cell}" if name == "VERIFIED" else f"  {cell}"
            return
    yield from stacked(table)


def held_bytes(folder: Path) -> int:
    """Return the size of the files in `folder` that have their final names."""
    return sum(path.stat().st_size for path in _files(folder))


def partial_bytes(location: ModelLocation) -> int:
    """Return the disk space of unfinished files, which have holes where nothing has arrived."""
    sizes = (path.stat() for path in _files(location.partial))
    return sum(min(size.st_size, getattr(size, "st_blocks", size.st_size) * 512) for size in sizes)


def _row(location: ModelLocation) -> _Row:
    model = catalog.find_model(location.name)
    name = location.name if model else location.short_name
    expected_bytes = model.published.download_bytes if model and model.published else None
    folder, unfinished_bytes = location.folder, partial_bytes(location)
    try:
        manifest, pin, cached = location.manifest(), location.pin(), store.cached(location)
    except IntegrityError:
        return _Row(name, "damaged", expected_bytes, held_bytes(folder), folder=str(folder))
    if manifest is None and cached is not None:
        cached_bytes = held_bytes(cached)
        return _Row(name, _IN_CACHE, cached_bytes, cached_bytes, unfinished_bytes, str(cached))
    wanted = manifest or pin
    if wanted is None and not folder.exists():
        return _Row(name, "not downloaded", expected_bytes)
    complete = manifest is not None and not any(location.lacks(file) for file in manifest.files)
    busy = "converting" if location.is_converted else "downloading"
    return _Row(
        name,
        busy if location.is_busy() else "installed" if complete else "incomplete",
        wanted.size_bytes if wanted else expected_bytes,
        held_bytes(folder) + unfinished_bytes,
        unfinished_bytes,
        str(folder),
        wanted.commit if wanted else None,
        manifest.verified if manifest else None,
    )


def _judged(row: _Row, location: ModelLocation, machine: Hardware) -> _Row:
    """Return `row` with how the model fits, or with what its checkpoint is if that cannot be run."""
    model = catalog.find_model(location.name)
    if model is not None and model.published is not None:
        config = published_config(layers=model.published.layers, experts=model.published.experts)
        return replace(row, fits=fit(config, machine))
    if row.folder is None or row.state not in ("installed", _IN_CACHE):
        return row
    return _fitted(row, Path(row.folder), judge_folder(Path(row.folder)), machine)


def _cached_rows(known: Set[str], machine: Hardware) -> Iterator[_Row]:
    """Yield the checkpoints of the Hugging Face cache whose repositories are not `known`."""
    for repository, snapshot, judged in store.cached_repositories():
        if repository not in known:
            size_bytes = held_bytes(snapshot)
            row = _Row(repository, _IN_CACHE, size_bytes, size_bytes, folder=str(snapshot))
            yield _fitted(row, snapshot, judged, machine)


def _fitted(row: _Row, folder: Path, judged: Judgement, machine: Hardware) -> _Row:
    if not judged.is_loadable:
        state = f"{judged.words}, {_IN_CACHE}" if row.state == _IN_CACHE else judged.words
        return replace(row, state=state)
    try:
        config = load_config(weights_folder(folder) / "config.json")
    except GptossError:
        return row
    return replace(row, fits=fit(config, machine))


def _demo_row() -> _Row:
    with resources.as_file(resources.files("gptoss_cli.demo").joinpath("data/demo.safetensors")) as file:
        size_bytes = file.stat().st_size
    return _Row(catalog.DEMO.name, _BUILT_IN, size_bytes, size_bytes, fits=Fit.HOST)


def _cells(row: _Row) -> tuple[str, ...]:
    state = row.state
    if row.state in ("incomplete", "downloading", "converting"):
        state = f"{row.state}, {size_words(row.bytes_here)} here"
    elif row.bytes_partial:
        state = f"{row.state}, and {size_words(row.bytes_partial)} of a broken download"
    advice = "" if row.state == _BUILT_IN else f"gptoss download {find_location(row.model).short_name}"
    size = "" if row.bytes is None else size_words(row.bytes)
    return row.model, size, state, _FIT_WORDS[row.fits], (row.verified or "")[:10], row.folder or advice


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_file())
