"""Gets a checkpoint and proves it. Idempotent: whatever is already here and right is not fetched again."""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gptoss_cli.checkpoint.folder import INDEX, read_index
from gptoss_cli.checkpoint.hub import Hub, TransientError, is_offline
from gptoss_cli.checkpoint.location import ModelLocation
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, write_manifest
from gptoss_cli.checkpoint.partial import PartialFile, writing
from gptoss_cli.checkpoint.transfer import RetryPolicy, TransferContext, fetch_file
from gptoss_cli.checkpoint.verify import Watcher, find_wrong_files
from gptoss_cli.errors import IntegrityError, NetworkError, NotInstalledError, ResourceError
from gptoss_cli.units import size_words

# For the records beside the files.
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What a download would do. `arrived_bytes` counts what is here of the `missing` files."""

    place: ModelLocation
    manifest: Manifest
    missing: tuple[CheckpointFile, ...]
    arrived_bytes: int
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """What is still to be fetched."""
        return sum(file.size_bytes for file in self.missing) - self.arrived_bytes

    def check_space(self) -> None:
        """Raises ResourceError if the disk is too small."""
        if self.missing and self.needed_bytes + _SPARE_BYTES > self.free_bytes:
            need, have = size_words(self.needed_bytes), size_words(self.free_bytes)
            raise ResourceError(
                f"{self.place.folder} needs {need} more, and its disk has {have} free. "
                "Make room, or set GPTOSS_HOME to another disk"
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a download did, by the names of files; `repaired` were here and wrong."""

    fetched: tuple[str, ...]
    repaired: tuple[str, ...]


def choose_files(
    place: ModelLocation, revision: str | None, connect: Callable[[], Hub], patience: RetryPolicy
) -> Manifest:
    """The files to have: those of the manifest or of the unfinished download, else what the Hub lists for `revision`.

    Without a `revision` the commit that a first run found stays, whatever happens to the repository since. Raises
    NotInstalledError if the Hub is needed and may not be asked, NetworkError, or IntegrityError.
    """
    known = known_files(place)
    if known is not None and revision in (None, known.commit):
        return known
    if is_offline():
        wanted = place.short_name if revision is None else f"{place.short_name} at {revision}"
        raise NotInstalledError(f"{wanted} is not downloaded, and HF_HUB_OFFLINE is set. Unset it to download")
    return _listing(connect(), place.repository, revision, patience)


def known_files(place: ModelLocation) -> Manifest | None:
    """What an earlier download found; unreadable records count as none, since a download writes them anew."""
    with suppress(IntegrityError):
        if (manifest := place.manifest()) is not None:
            return manifest
    with suppress(IntegrityError):
        return place.pin()
    return None


def make_plan(place: ModelLocation, manifest: Manifest) -> DownloadPlan:
    """Compare what is here with `manifest`, by size only."""
    missing = tuple(file for file in manifest.files if place.lacks(file))
    arrived = sum(PartialFile(place.partial, file).done_bytes for file in missing)
    return DownloadPlan(place, manifest, missing, arrived, _free_bytes(place.folder))


def carry_out(
    plan: DownloadPlan, *, connect: Callable[[], Hub], patience: RetryPolicy, watcher: Watcher, stop: threading.Event
) -> Outcome:
    """Prove what is here, fetch what is missing or wrong, and write the manifest. The place must be locked.

    Raises KeyboardInterrupt once `stop` is set, ResourceError before any byte is fetched if the disk is too small,
    NotInstalledError if files are missing while offline, NetworkError, or IntegrityError. What has arrived stays for
    the next time.
    """
    present = [file for file in plan.manifest.files if file not in plan.missing]
    wrong = find_wrong_files(plan.place.folder, present, watcher, stop) if present else {}
    missing = tuple(file for file in plan.manifest.files if file in plan.missing or file.name in wrong)
    if missing:
        plan = replace(plan, missing=missing)
        if is_offline():
            raise NotInstalledError(_incomplete_offline(plan))
        plan.check_space()
        _fetch(plan, TransferContext(connect(), plan.manifest, patience, watcher, stop))
    # What was installed and is right stays so on a disk that can only be read.
    with suppress(ResourceError) if plan.place.manifest_path.is_file() else nullcontext():
        _install(plan)
    return Outcome(tuple(file.name for file in missing), tuple(wrong))


def _fetch(plan: DownloadPlan, line: TransferContext) -> None:
    place = plan.place
    with writing(place.partial):
        place.partial.mkdir(parents=True, exist_ok=True)
        write_manifest(place.pin_path, replace(plan.manifest, verified=None))
        place.manifest_path.unlink(missing_ok=True)  # from here until all is right it is not installed
    sweep(place, plan.manifest)
    for file in plan.missing:
        if line.stop.is_set():
            raise KeyboardInterrupt
        fetch_file(line, file, folder=place.partial, target=place.folder / file.name)


def sweep(place: ModelLocation, manifest: Manifest) -> None:
    """Delete what has arrived of files that `manifest` does not want."""
    wanted = {file.digest.hex for file in manifest.files}
    for path in place.partial.iterdir():
        if path != place.pin_path and path.stem not in wanted:
            with suppress(OSError):
                path.unlink()


def _check_shards(plan: DownloadPlan) -> None:
    index = plan.place.folder / INDEX
    names = {file.name for file in plan.manifest.files}
    if INDEX in names:
        absent = sorted(set(read_index(index).values()) - names)
        if absent:
            raise IntegrityError(f"{index} names {absent[0]}, which {plan.manifest.repository} has not")


def _install(plan: DownloadPlan) -> None:
    _check_shards(plan)
    place = plan.place
    with writing(place.manifest_path):
        manifest = replace(plan.manifest, files=tuple(_proven(place, file) for file in plan.manifest.files))
        write_manifest(place.manifest_path, replace(manifest, verified=now()))
    shutil.rmtree(place.partial, ignore_errors=True)


def _proven(place: ModelLocation, file: CheckpointFile) -> CheckpointFile:
    """The file's entry for the manifest. Small files, which the Hub knows by git's digest, get a sha256 too."""
    with (place.folder / file.name).open("r+b") as data:
        os.fsync(data.fileno())  # a manifest must not promise what is not on the disk itself
        if file.digest.kind == "sha256":
            return file
        return replace(file, digest=Digest("sha256", hashlib.file_digest(data, "sha256").hexdigest()))


def now() -> str:
    """The time as manifests have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _listing(hub: Hub, repository: str, revision: str | None, patience: RetryPolicy) -> Manifest:
    failures = 0
    while True:
        try:
            return hub.listing(repository, revision)
        except TransientError as exc:
            failures += 1
            # A server that answers is worth waiting for; one that cannot be reached is tried twice.
            if failures > (patience.attempts if exc.answered else 1):
                raise NetworkError(f"{exc}. Check the network, and run the same command again") from exc
            seconds = patience.pause_seconds(failures, exc.wait_seconds)
            if seconds > patience.longest_pause_seconds:
                raise NetworkError(f"{exc}, and asks for {seconds:,.0f} s of patience. Try again later") from exc
            time.sleep(seconds)


def _incomplete_offline(plan: DownloadPlan) -> str:
    names = ", ".join(file.name for file in plan.missing[:3])
    more = f" and {len(plan.missing) - 3} more" if len(plan.missing) > 3 else ""
    return f"{plan.place.name} is incomplete: no {names}{more}. HF_HUB_OFFLINE is set: unset it to download"


def _free_bytes(folder: Path) -> int:
    """Free bytes of the disk on which `folder` lies or would lie. Raises ResourceError if there is none."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    with writing(folder):
        return shutil.disk_usage(place).free
