"""`gptoss verify`: proves a checkpoint again, offline."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_cli.cli.checkpoints import stopping, write_json
from gptoss_cli.cli.definition import command
from gptoss_cli.errors import IntegrityError, NotInstalledError
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.checkpoint.manifest import CheckpointFile
    from gptoss_cli.checkpoint.store import ModelLocation


@command
def verify(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[20b|120b|OWNER/NAME|PATH]", help="What to prove; all that is installed."),
    ] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes, headers and shapes only: no digests.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    console: Console,
) -> None:
    """Prove a checkpoint, without the network.

    Every file's digest, then headers, index and shapes against what the config demands. A bit flipped in a weight is
    found by its digest only, so --quick does not see it.
    """
    subjects = [_find(model)] if model is not None else _installed()
    reports = []
    for subject in subjects:
        proven = 0 if quick else _check_digests(subject, console)
        tensors = _check_shapes(subject, console)
        if proven and subject.place is not None:
            _record(subject.place)
        reports.append(_report(subject, proven, tensors))
        if not as_json:
            _say(subject, proven, tensors, console)
    if as_json:
        write_json({"models": reports}, console)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A checkpoint to prove; `files` is empty where nobody recorded what its files should be."""

    name: str
    folder: Path
    files: "tuple[CheckpointFile, ...]"
    place: "ModelLocation | None"
    remedy: str


def _find(name: str) -> _Subject:
    """Raises UsageError, NotInstalledError, or IntegrityError if its records or sizes are wrong."""
    from gptoss_cli.checkpoint import catalog, store
    from gptoss_cli.checkpoint.store import find_location
    from gptoss_cli.checkpoint.verify import cached_files

    if catalog.find_model(name) is catalog.DEMO:
        from gptoss_cli.demo.unpack import demo_checkpoint

        return _Subject(name, demo_checkpoint(), (), None, "Delete that folder: it is made again")
    folder = store.find_checkpoint(name)
    remedy = "Get it again from where it came"
    if not Path(name).expanduser().is_dir():
        place = find_location(name)
        if folder == place.folder:
            manifest = place.manifest()
            assert manifest is not None, "what is installed has a manifest"
            return _Subject(place.name, folder, manifest.files, place, f"Run: gptoss download {place.short_name}")
        name, remedy = place.name, f"Delete it, and run: gptoss download {place.short_name}"
    files = tuple(cached_files(folder))
    return _Subject(name, folder, files, None, remedy)


def _installed() -> list[_Subject]:
    from gptoss_cli.checkpoint import store
    from gptoss_cli.checkpoint.store import locations

    names = dict.fromkeys([*store.installed(), *(place.short_name for place in locations() if place.manifest())])
    subjects = {subject.folder: subject for subject in map(_find, names)}
    if not subjects:
        raise NotInstalledError("No model is downloaded. Run: gptoss download 20b")
    return list(subjects.values())


def _check_digests(subject: _Subject, console: Console) -> int:
    """How many files have the right digest. Raises IntegrityError naming one that has not."""
    from gptoss_cli.checkpoint.verify import find_wrong_files
    from gptoss_cli.terminal.progress import FileProgress

    if not subject.files:
        console.notice(f"Nobody recorded the digests of {subject.folder}: headers and shapes are checked only.")
        return 0
    total_bytes = sum(file.size_bytes for file in subject.files)
    with stopping() as stop, FileProgress(console, total_bytes, done="read") as watcher:
        wrong = find_wrong_files(subject.folder, subject.files, watcher, stop)
    if wrong:
        name, digest = next(iter(wrong.items()))
        owner = next((file.name for file in subject.files if file.digest.hex == digest), None)
        what = f"is really {owner}" if owner else "has the wrong digest"
        others = f", and {len(wrong) - 1} more are wrong" if len(wrong) > 1 else ""
        raise IntegrityError(f"{subject.folder / name} {what}{others}. {subject.remedy}")
    return len(subject.files)


def _check_shapes(subject: _Subject, console: Console) -> int:
    """How many tensors there are, all as the config demands. Raises IntegrityError, or NotInstalledError."""
    from gptoss_cli.checkpoint.folder import weights_folder
    from gptoss_cli.checkpoint.header import check_tensors
    from gptoss_cli.placement.model_config import load_config
    from gptoss_cli.placement.tensor_specs import Layout, expected_tensors

    folder = weights_folder(subject.folder)
    config = load_config(folder / "config.json")
    checked = check_tensors(folder, [expected_tensors(config, layout) for layout in Layout])
    if checked.unexpected:
        first = ascii(checked.unexpected[0])[:80]
        console.notice(
            f"{folder}: {len(checked.unexpected)} tensors are not gpt-oss's and will be ignored, first {first}."
        )
    return len(checked.files)


def _record(place: "ModelLocation") -> None:
    """When it was proven; a folder that cannot be written stays as it is."""
    from contextlib import suppress
    from dataclasses import replace

    from gptoss_cli.checkpoint.manifest import now, write_manifest

    manifest = place.manifest()
    if manifest is not None:
        with suppress(OSError):
            write_manifest(place.manifest_path, replace(manifest, verified=now()))


def _report(subject: _Subject, proven: int, tensors: int) -> dict[str, object]:
    return {
        "model": subject.name,
        "folder": str(subject.folder),
        "files_proven": proven,
        "bytes_proven": sum(file.size_bytes for file in subject.files) if proven else 0,
        "tensors": tensors,
    }


def _say(subject: _Subject, proven: int, tensors: int, console: Console) -> None:
    digests = f"{proven} files have the right digest" if proven else "no digest was looked at"
    console.out(f"{subject.name}: {digests}; {tensors} tensors have the right shape. {subject.folder}\n")
