"""Download a checkpoint and verify it. Idempotent: files that are here and right are not downloaded again."""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gptoss_cli.checkpoint.folder import INDEX, read_index
from gptoss_cli.checkpoint.hub import Hub, TransientError, is_offline
from gptoss_cli.checkpoint.manifest import MANIFEST, CheckpointFile, Digest, Manifest, now, write_manifest
from gptoss_cli.checkpoint.partial import PartialFile, writing
from gptoss_cli.checkpoint.store import ModelLocation
from gptoss_cli.checkpoint.transfer import RetryPolicy, TransferContext, fetch_file
from gptoss_cli.checkpoint.verify import Progress, find_wrong_files
from gptoss_cli.errors import Hint, IntegrityError, NetworkError, NotInstalledError, ResourceError
from gptoss_cli.units import duration_words, size_words

# For the manifest and the records of partial files.
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """The work of a download. `arrived_bytes` counts what is here of the `missing` files."""

    location: ModelLocation
    manifest: Manifest
    missing: tuple[CheckpointFile, ...]
    arrived_bytes: int
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """The number of bytes to be downloaded."""
        return sum(file.size_bytes for file in self.missing) - self.arrived_bytes

    def check_space(self) -> None:
        """Raise ResourceError if the disk is too small."""
        if self.missing and self.needed_bytes + _SPARE_BYTES > self.free_bytes:
            needed, free = size_words(self.needed_bytes), size_words(self.free_bytes)
            message = f"{self.location.folder} needs {needed} more, and its disk has {free} free"
            raise ResourceError(message, Hint.FREE_DISK_SPACE, Hint.ANOTHER_DATA_FOLDER)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The names of the files that a download fetched; `repaired` are those that were here with a wrong digest."""

    fetched: tuple[str, ...]
    repaired: tuple[str, ...]


def choose_files(
    location: ModelLocation, revision: str | None, connect: Callable[[], Hub], retry_policy: RetryPolicy
) -> Manifest:
    """Return the files to have: those of an earlier download, else those that the Hub lists for `revision`.

    Without a `revision` the commit of an earlier download is kept, even if the repository has changed since. Raises
    NotInstalledError if the Hub is needed while offline, NetworkError, or IntegrityError.
    """
    known = known_files(location)
    if known is not None and revision in (None, known.commit):
        return known
    if is_offline():
        model = location.short_name if revision is None else f"{location.short_name} at {revision}"
        raise NotInstalledError(f"{model} is not downloaded, and HF_HUB_OFFLINE is set", Hint.ALLOW_NETWORK)
    return _listing(connect(), location.repository, revision, retry_policy)


def known_files(location: ModelLocation) -> Manifest | None:
    """Return the files of an earlier download, or None. Invalid records are ignored: a download replaces them."""
    with suppress(IntegrityError):
        if (manifest := location.manifest()) is not None:
            return manifest
    with suppress(IntegrityError):
        return location.pin()
    return None


def make_plan(location: ModelLocation, manifest: Manifest) -> DownloadPlan:
    """Compare the files that are here with `manifest`, by size only."""
    missing = tuple(file for file in manifest.files if location.lacks(file))
    arrived = sum(PartialFile(location.partial, file).done_bytes for file in missing)
    return DownloadPlan(location, manifest, missing, arrived, _free_bytes(location.folder))


def carry_out(
    plan: DownloadPlan,
    *,
    connect: Callable[[], Hub],
    retry_policy: RetryPolicy,
    progress: Progress,
    stop: threading.Event,
) -> Outcome:
    """Verify the files that are here, download missing and wrong ones, and write the manifest.

    The location must be locked. Raises KeyboardInterrupt once `stop` is set, ResourceError before any byte is
    downloaded if the disk is too small, NotInstalledError if files are missing while offline, NetworkError, or
    IntegrityError. Bytes that have arrived are kept for the next download.
    """
    present = [file for file in plan.manifest.files if file not in plan.missing]
    wrong = find_wrong_files(plan.location.folder, present, progress, stop) if present else {}
    missing = tuple(file for file in plan.manifest.files if file in plan.missing or file.name in wrong)
    if missing:
        plan = replace(plan, missing=missing)
        if is_offline():
            raise NotInstalledError(_incomplete_offline(plan), Hint.ALLOW_NETWORK)
        plan.check_space()
        _fetch(plan, TransferContext(connect(), plan.manifest, retry_policy, progress, stop))
    # A complete model on a read-only disk stays installed.
    with suppress(ResourceError) if plan.location.manifest_path.is_file() else nullcontext():
        _install(plan)
    return Outcome(tuple(file.name for file in missing), tuple(wrong))


def _fetch(plan: DownloadPlan, context: TransferContext) -> None:
    location = plan.location
    with writing(location.partial):
        location.partial.mkdir(parents=True, exist_ok=True)
        write_manifest(location.pin_path, replace(plan.manifest, verified=None))
        location.manifest_path.unlink(missing_ok=True)  # from here until all files are right it is not installed
    _delete_leftovers(location, plan.manifest)
    for file in plan.missing:
        if context.stop.is_set():
            raise KeyboardInterrupt
        fetch_file(context, file, folder=location.partial, target=location.folder / file.name)


def _delete_leftovers(location: ModelLocation, manifest: Manifest) -> None:
    """Delete partial files that do not belong to `manifest`, and manifests whose writing was interrupted."""
    digests = {file.digest.hex for file in manifest.files}
    partial = [path for path in location.partial.iterdir() if path != location.pin_path and path.stem not in digests]
    for path in (*partial, *location.folder.glob(f".{MANIFEST}.*.part")):
        with suppress(OSError):
            path.unlink()


def _check_shards(plan: DownloadPlan) -> None:
    index = plan.location.folder / INDEX
    names = {file.name for file in plan.manifest.files}
    if INDEX in names:
        absent = sorted(set(read_index(index).values()) - names)
        if absent:
            message = f"{index} names {absent[0]}, which {plan.manifest.repository} does not have"
            raise IntegrityError(message, Hint.ANOTHER_REVISION)


def _install(plan: DownloadPlan) -> None:
    _check_shards(plan)
    location = plan.location
    with writing(location.manifest_path):
        files = tuple(_synced(location, file) for file in plan.manifest.files)
        write_manifest(location.manifest_path, replace(plan.manifest, files=files, verified=now()))
    shutil.rmtree(location.partial, ignore_errors=True)


def _synced(location: ModelLocation, file: CheckpointFile) -> CheckpointFile:
    """Flush a verified file to the disk, and return its entry for the manifest, with a sha256 in place of a git digest.

    A manifest must not list bytes that a power failure can still take away.
    """
    with (location.folder / file.name).open("r+b") as data:
        os.fsync(data.fileno())
        if file.digest.kind == "sha256":
            return file
        return replace(file, digest=Digest("sha256", hashlib.file_digest(data, "sha256").hexdigest()))


def _listing(hub: Hub, repository: str, revision: str | None, retry_policy: RetryPolicy) -> Manifest:
    failures = 0
    while True:
        try:
            return hub.listing(repository, revision)
        except TransientError as exc:
            failures += 1
            # A server that answers is worth waiting for; one that cannot be reached is tried twice.
            if failures > (retry_policy.attempts if exc.answered else 1):
                raise NetworkError(f"{exc}. Check the network", Hint.RETRY) from exc
            seconds = retry_policy.pause_seconds(failures, exc.wait_seconds)
            if seconds > retry_policy.longest_pause_seconds:
                raise NetworkError(f"{exc}, and asks to wait {duration_words(seconds)}", Hint.RETRY_LATER) from exc
            hub.announce_pause(exc, seconds)
            time.sleep(seconds)


def _incomplete_offline(plan: DownloadPlan) -> str:
    names = ", ".join(file.name for file in plan.missing[:3])
    more = f" and {len(plan.missing) - 3} more" if len(plan.missing) > 3 else ""
    return f"{plan.location.full_name} is incomplete: no {names}{more}. HF_HUB_OFFLINE is set"


def _free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk for `folder`, which need not exist. Raises ResourceError without a disk."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    with writing(folder):
        return shutil.disk_usage(existing).free
