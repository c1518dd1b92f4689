"""`gptoss verify`: check the files of installed models, offline."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.checkpoint.header import check_tensors
from gptoss_cli.checkpoint.manifest import CheckpointFile, now, write_manifest
from gptoss_cli.checkpoint.store import ModelLocation, find_location, locations
from gptoss_cli.checkpoint.verify import cached_files, find_wrong_files
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.signals import stopping
from gptoss_cli.demo.unpack import FILES, demo_checkpoint
from gptoss_cli.errors import Hint, IntegrityError, NotInstalledError
from gptoss_cli.paths import typed_path
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.progress import FileProgress
from gptoss_cli.units import counted


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """A checkpoint to verify; `files` is empty if the digests of its files are unknown."""

    name: str
    folder: Path
    files: tuple[CheckpointFile, ...]
    location: ModelLocation | None
    remedy: str
    verified_files: int = 0  # when it was found


@dataclass(frozen=True, slots=True)
class _Report:
    """The counts of a verified checkpoint; `verified_files` is 0 if digests were not checked."""

    checkpoint: _Checkpoint
    verified_files: int
    tensors: int

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.checkpoint.name,
            "folder": str(self.checkpoint.folder),
            "files_verified": self.verified_files,
            "bytes_verified": sum(file.size_bytes for file in self.checkpoint.files) if self.verified_files else 0,
            "tensors": self.tensors,
        }

    def line(self, *, quick: bool) -> str:
        shapes = f"names and shapes of {self.tensors} tensors are right"
        if self.verified_files:
            have = "has" if self.verified_files == 1 else "have"
            words = f"{counted(self.verified_files, 'file')} {have} the right digest; {shapes}"
        else:
            words = f"{shapes}; their digests {'were not checked' if quick else 'are not known'}"
        return f"{self.checkpoint.name}: {words}. {self.checkpoint.folder}\n"


def run_verify(model: str | None, console: Console, *, quick: bool, as_json: bool) -> None:
    """Run `gptoss verify`; None verifies every installed model. Raises IntegrityError for the first wrong file."""
    reports = []
    for checkpoint in [_find(model, console)] if model is not None else _installed(console):
        verified_files = checkpoint.verified_files or (0 if quick else _check_digests(checkpoint, console))
        report = _Report(checkpoint, verified_files, _check_shapes(checkpoint, console))
        if verified_files and checkpoint.location is not None:
            _record_time(checkpoint.location)
        reports.append(report)
        if not as_json:
            console.out(report.line(quick=quick))
    if as_json:
        write_json({"models": [report.to_json() for report in reports]}, console, indent=2)


def _find(name: str, console: Console) -> _Checkpoint:
    """Raise UsageError, NotInstalledError, or IntegrityError if its records or sizes are wrong."""
    if catalog.find_model(name) is catalog.DEMO:
        folder = demo_checkpoint(notice=console.notice)
        return _Checkpoint(name, folder, (), None, "Delete that folder: it is made again", verified_files=len(FILES))
    folder = store.find_checkpoint(name)
    location = next((each for each in locations() if each.folder == folder), None)
    if location is not None and (manifest := location.manifest()) is not None:
        return _Checkpoint(location.full_name, folder, manifest.files, location, _remedy(location))
    remedy = "Get it again from where it came"
    if not os.path.isdir(typed_path(name)):
        location = find_location(name)
        name, remedy = location.full_name, f"Delete it, and run: gptoss download {location.short_name}"
    return _Checkpoint(name, folder, tuple(cached_files(folder)), None, remedy)


def _remedy(location: ModelLocation) -> str:
    if location.is_converted:
        return f"Run: gptoss remove {location.name}, and convert it again"
    return f"Run: gptoss download {location.short_name}"


def _installed(console: Console) -> Iterator[_Checkpoint]:
    own = (each.short_name for each in locations() if each.manifest())
    cached = (repository for repository, _, judged in store.cached_repositories() if judged.is_loadable)
    names = dict.fromkeys([*store.installed(), *own, *cached])
    checkpoints = {checkpoint.folder: checkpoint for checkpoint in (_find(name, console) for name in names)}
    if not checkpoints:
        raise NotInstalledError("No model is downloaded", Hint.DOWNLOAD, subject="20b")
    yield from checkpoints.values()


def _check_digests(checkpoint: _Checkpoint, console: Console) -> int:
    """Return the number of files with the right digest. Raises IntegrityError that names one with a wrong digest."""
    if not checkpoint.files:
        console.notice(f"The digests of {checkpoint.folder} are not known: only headers and shapes are checked.")
        return 0
    stop, total_bytes = threading.Event(), sum(file.size_bytes for file in checkpoint.files)
    with stopping(stop.set), FileProgress(console, total_bytes, done="read") as progress:
        wrong = find_wrong_files(checkpoint.folder, checkpoint.files, progress, stop)
    if wrong:
        name, digest = next(iter(wrong.items()))
        owner = next((file.name for file in checkpoint.files if file.digest.hex == digest), None)
        problem = f"is really {owner}" if owner else "has the wrong digest"
        others = f", and {len(wrong) - 1} more are wrong" if len(wrong) > 1 else ""
        raise IntegrityError(f"{checkpoint.folder / name} {problem}{others}. {checkpoint.remedy}")
    return len(checkpoint.files)


def _check_shapes(checkpoint: _Checkpoint, console: Console) -> int:
    """Return the number of tensors, all as the config requires. Raises IntegrityError or NotInstalledError."""
    folder = weights_folder(checkpoint.folder)
    config = load_config(folder / "config.json")
    checked = check_tensors(folder, [expected_tensors(config, layout) for layout in Layout])
    if checked.unexpected:
        first = ascii(checked.unexpected[0])[:80]
        count = len(checked.unexpected)
        console.notice(f"{folder}: {count} tensors are not part of gpt-oss and are ignored, first {first}.")
    return len(checked.files)


def _record_time(location: ModelLocation) -> None:
    """Write the time of verification to the manifest. A folder that cannot be written stays as it is."""
    manifest = location.manifest()
    if manifest is not None:
        with suppress(OSError):
            write_manifest(location.manifest_path, replace(manifest, verified=now()))
