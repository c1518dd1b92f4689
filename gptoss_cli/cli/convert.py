"""`gptoss convert`: pack the experts of a bf16 checkpoint to MXFP4, and install the result under a name."""

import hashlib
import shutil
import threading
from pathlib import Path

from gptoss_cli.checkpoint import store
from gptoss_cli.checkpoint.catalog import find_model
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.checkpoint.header import check_tensors
from gptoss_cli.checkpoint.judgement import Kind, judge_folder, refusal
from gptoss_cli.checkpoint.lock import locked
from gptoss_cli.checkpoint.manifest import CheckpointFile, Manifest, now, write_manifest
from gptoss_cli.checkpoint.partial import writing
from gptoss_cli.checkpoint.store import ModelLocation, converted_location, is_converted_name
from gptoss_cli.checkpoint.verify import find_wrong_files
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.signals import stopping
from gptoss_cli.engine.convert import Conversion, Losses
from gptoss_cli.errors import Hint, IntegrityError, ResourceError, UsageError
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.progress import FileProgress
from gptoss_cli.units import size_words

_SPARE_BYTES = 1 << 24  # for the small files and records


def run_convert(source: str, name: str, console: Console, *, exact: bool, dry_run: bool, as_json: bool) -> None:
    """Run `gptoss convert`. Raises GptossError."""
    if find_model(name) is not None:
        raise UsageError(f"{name} is the name of a published model. Choose another name")
    if not is_converted_name(name):
        raise UsageError(f"{name!r} cannot be the name of a model. Use letters, digits, dots and single dashes")
    location = converted_location(name)
    _check_free(location)
    conversion = Conversion(_find_source(source))
    if dry_run:
        _Run(conversion, location, console, as_json=as_json).show()
        return
    with writing(location.lock_path):
        location.lock_path.parent.mkdir(parents=True, exist_ok=True)
        location.lock_path.touch()

    def refuse() -> None:
        raise UsageError(f"Another gptoss is converting {name}. Wait until it has finished")

    with locked(location.lock_path, waiting=refuse):
        _check_free(location)
        _Run(conversion, location, console, as_json=as_json).convert(exact=exact)


def _check_free(location: ModelLocation) -> None:
    """Raise UsageError if there is a model with this name."""
    if location.manifest_path.is_file():
        name = location.name
        raise UsageError(f"There is a model {name} already. Choose another name, or run: gptoss remove {name}")


def _find_source(source: str) -> Path:
    """Return the folder of a checkpoint that can be converted. Raises GptossError with the reason for any other."""
    folder = store.find_folder(source)
    judged = judge_folder(folder)
    if judged.kind is Kind.PACKED:
        raise UsageError(f"{folder} is packed already. Use it as it is: gptoss chat -m {source}")
    if judged.kind is Kind.UNKNOWN:
        raise IntegrityError(f"{folder} has no experts in the layout of transformers")
    if judged.kind is not Kind.UNPACKED:
        raise refusal(judged, str(folder))
    return weights_folder(folder)


class _Run:
    """One run of the command."""

    def __init__(self, conversion: Conversion, location: ModelLocation, console: Console, *, as_json: bool) -> None:
        self._conversion, self._location = conversion, location
        self._console, self._as_json = console, as_json
        finished = (conversion.finished(shard, location.folder, location.partial) for shard in conversion.shards)
        self._done = {shard.name: each for shard, each in zip(conversion.shards, finished, strict=True) if each}

    def show(self) -> None:
        """Print the result of --dry-run. Raises ResourceError if the disk is too small."""
        self._check_space()
        if self._as_json:
            write_json(self._facts(), self._console, indent=2)
            return
        self._announce()
        for shard in self._conversion.shards:
            state = "  here already" if shard.name in self._done else ""
            self._console.out(f"{size_words(shard.size_bytes):>9}  {shard.name}{state}\n")
        self._console.out(f"{size_words(self._needed_bytes):>9}  to write in total\n")

    def convert(self, *, exact: bool) -> None:
        """Convert what is missing, verify the files, and install them."""
        self._check_space()
        self._announce()
        with writing(self._location.partial):
            self._location.partial.mkdir(parents=True, exist_ok=True)
            for leftover in self._location.folder.glob(".*.part"):
                leftover.unlink(missing_ok=True)
        try:
            self._write_shards(exact=exact)
            files = self._conversion.write_small_files(self._location.folder)
            files += [file for file, _ in self._done.values()]
            self._verify(files)
        except KeyboardInterrupt:
            self._console.notice("Stopped. Finished files are kept: run the same command to continue.")
            raise
        self._install(files)
        self._report()

    @property
    def _losses(self) -> Losses:
        total = Losses()
        for _, losses in self._done.values():
            total = total.plus(losses)
        return total

    @property
    def _needed_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self._conversion.shards if shard.name not in self._done)

    def _free_bytes(self) -> int:
        existing = next(folder for folder in (self._location.folder, *self._location.folder.parents) if folder.exists())
        with writing(self._location.folder):
            return shutil.disk_usage(existing).free

    def _check_space(self) -> None:
        needed, free = self._needed_bytes, self._free_bytes()
        if needed and needed + _SPARE_BYTES > free:
            message = f"{self._location.folder} needs {size_words(needed)}, and its disk has {size_words(free)} free"
            raise ResourceError(message, Hint.FREE_DISK_SPACE, Hint.ANOTHER_DATA_FOLDER)

    def _announce(self) -> None:
        conversion = self._conversion
        here = f", {len(self._done)} of {len(conversion.shards)} files here already" if self._done else ""
        sizes = f"{size_words(conversion.source_bytes)} become {size_words(conversion.size_bytes)}{here}"
        self._console.notice(f"{conversion.source}: {sizes}")
        free = size_words(self._free_bytes())
        self._console.notice(f"into {self._location.folder}, with {free} free")

    def _write_shards(self, *, exact: bool) -> None:
        missing = [shard for shard in self._conversion.shards if shard.name not in self._done]
        for shard in self._conversion.shards:
            if exact and shard.name in self._done and not self._done[shard.name][1].is_exact:
                raise IntegrityError(f"{shard.name} was rounded by an earlier run", Hint.ALLOW_ROUNDING)
        stop, total_bytes = threading.Event(), sum(shard.source_bytes for shard in missing)
        with stopping(stop.set), FileProgress(self._console, total_bytes, done="converted") as progress:
            for shard in missing:
                self._done[shard.name] = self._conversion.write_shard(
                    shard, self._location.folder, self._location.partial, progress, stop, exact=exact
                )
        self._done = {shard.name: self._done[shard.name] for shard in self._conversion.shards}

    def _verify(self, files: list[CheckpointFile]) -> None:
        """Read the files back. A wrong one is deleted, so that the next run writes it again."""
        folder, stop = self._location.folder, threading.Event()
        total_bytes = sum(file.size_bytes for file in files)
        with stopping(stop.set), FileProgress(self._console, total_bytes, done="right") as progress:
            wrong = find_wrong_files(folder, files, progress, stop)
        for name in wrong:
            (folder / name).unlink(missing_ok=True)
        if wrong:
            raise IntegrityError(f"{folder / next(iter(wrong))} was not written correctly", Hint.RETRY)
        config = load_config(folder / "config.json")
        check_tensors(folder, [expected_tensors(config, Layout.HUGGING_FACE)])

    def _install(self, files: list[CheckpointFile]) -> None:
        # There is no commit: the digest of all files identifies what was converted.
        listed = "\n".join(f"{file.name} {file.digest.hex}" for file in files)
        commit = hashlib.sha256(listed.encode()).hexdigest()[:40]
        manifest = Manifest(self._location.repository, "converted", commit, tuple(files), verified=now())
        with writing(self._location.manifest_path):
            write_manifest(self._location.manifest_path, manifest)
        shutil.rmtree(self._location.partial, ignore_errors=True)

    def _report(self) -> None:
        if self._as_json:
            write_json(self._facts() | _loss_facts(self._losses), self._console, indent=2)
            return
        self._console.notice(_loss_words(self._losses))
        name = self._location.name
        self._console.notice(f"{name} is complete, and every digest is right. Try: gptoss chat -m {name}")

    def _facts(self) -> dict[str, object]:
        return {
            "model": self._location.name,
            "source": str(self._conversion.source),
            "folder": str(self._location.folder),
            "source_bytes": self._conversion.source_bytes,
            "bytes": self._conversion.size_bytes,
            "bytes_to_write": self._needed_bytes,
            "bytes_free": self._free_bytes(),
            "files": [shard.name for shard in self._conversion.shards],
        }


def _loss_words(losses: Losses) -> str:
    if losses.rounded_blocks:
        exact = 100 * (1 - losses.rounded_blocks / losses.blocks)
        error = f"largest error {losses.largest_error:.3f} of the largest value of a block"
        words = f"Experts: {exact:.1f} % of the blocks are exact, the others rounded; {error}."
    else:
        words = "Experts: every block is exact."
    if losses.rounded_values:
        words += f" {losses.rounded_values:,} values were rounded to bf16."
    return words


def _loss_facts(losses: Losses) -> dict[str, object]:
    return {
        "blocks": losses.blocks,
        "rounded_blocks": losses.rounded_blocks,
        "largest_error": losses.largest_error,
        "rounded_values": losses.rounded_values,
    }
