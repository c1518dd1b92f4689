"""The checkpoints on this machine: in gptoss's own folders, in the Hugging Face cache, or in a given folder.

A checkpoint in gptoss's own folder is installed if and only if its manifest is there. Until then `.partial` holds the
list of files, pinned to one commit, and the bytes that have arrived. Elsewhere a checkpoint is complete if its files
are there. Nothing here opens weights or uses the network.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from gptoss_cli import settings
from gptoss_cli.checkpoint import catalog, hub_cache
from gptoss_cli.checkpoint.catalog import Model
from gptoss_cli.checkpoint.folder import INDEX, is_plain_file_name, load_json, read_index, safetensors_files
from gptoss_cli.checkpoint.judgement import Judgement, Kind, check_files, check_loadable, judge_folder, refusal
from gptoss_cli.checkpoint.lock import is_locked
from gptoss_cli.checkpoint.manifest import MANIFEST, CheckpointFile, Manifest, is_repository, read_manifest
from gptoss_cli.errors import GptossError, Hint, IntegrityError, NotInstalledError, UsageError
from gptoss_cli.paths import shown_path, typed_path

_PARTIAL = ".partial"
_PIN = "wanted.json"
_SINGLE = "model.safetensors"
# The owner of the checkpoints that were converted on this machine, in place of an account of the Hub.
CONVERTED_OWNER: Final = "converted"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """The place of one model in gptoss's own folder, installed or not. `short_name` is the name that a user types."""

    name: str
    short_name: str
    repository: str

    @property
    def full_name(self) -> str:
        """The name for messages. That of a repository has a slash, which the name of its folder cannot have."""
        return self.name if catalog.find_model(self.name) else self.short_name

    @property
    def is_converted(self) -> bool:
        """True for a checkpoint that was converted here, so that it cannot be downloaded."""
        return self.repository == f"{CONVERTED_OWNER}/{self.name}"

    @property
    def remedy(self) -> Hint:
        """Return the hint for wrong or missing files."""
        return Hint.CONVERT_AGAIN if self.is_converted else Hint.DOWNLOAD

    @property
    def folder(self) -> Path:
        return _checkpoints_folder() / self.name

    @property
    def manifest_path(self) -> Path:
        return self.folder / MANIFEST

    @property
    def partial(self) -> Path:
        """The folder for files that have not arrived in full."""
        return self.folder / _PARTIAL

    @property
    def pin_path(self) -> Path:
        """The list of files that an unfinished download fetches."""
        return self.partial / _PIN

    @property
    def lock_path(self) -> Path:
        """The lock, outside the folder so that the folder can be deleted while the lock is held."""
        return _checkpoints_folder() / f".{self.name}.lock"

    def manifest(self) -> Manifest | None:
        """Return the manifest of an installed model. Raises IntegrityError if it is invalid."""
        return self._read(self.manifest_path)

    def pin(self) -> Manifest | None:
        """Return the files of an unfinished download. Raises IntegrityError if the list is invalid."""
        return self._read(self.pin_path)

    def lacks(self, file: CheckpointFile) -> bool:
        """Return True if the file is missing or has the wrong size."""
        path = self.folder / file.name
        return not path.is_file() or path.stat().st_size != file.size_bytes

    def is_busy(self) -> bool:
        """Return True if a process is downloading the model now."""
        return is_locked(self.lock_path)

    def _read(self, path: Path) -> Manifest | None:
        try:
            manifest = read_manifest(path, model=self.short_name, remedy=self.remedy)
        except NotInstalledError:
            return None
        if manifest.repository != self.repository:
            message = f"{path} is the manifest of {manifest.repository}, not of {self.repository}"
            raise IntegrityError(message, self.remedy, subject=self.short_name)
        return manifest


def find_location(name: str) -> ModelLocation:
    """Return the location of a model by name, alias or OWNER/NAME. Raises UsageError for anything else."""
    model = catalog.find_model(name) or catalog.find_repository(name)
    if model is not None and model.published is not None:
        return ModelLocation(model.name, model.short_name, model.published.repository)
    if model is not None:
        raise UsageError(f"{model.name} is part of gptoss: there is nothing to download or remove")
    if (converted := find_converted(name)) is not None:
        return converted
    if not is_repository(name) or not is_plain_file_name(name.replace("/", "--")):
        known = ", ".join(model.short_name for model in catalog.MODELS if model.published)
        raise UsageError(f"There is no model {shown_path(name)!r}. Choose {known}, or OWNER/NAME of a repository")
    return ModelLocation(name.replace("/", "--"), name, name)


def is_converted_name(name: str) -> bool:
    """Return True if a checkpoint that is converted here may have this name, which no other model can have."""
    if catalog.find_model(name) is not None or "--" in name or not is_plain_file_name(name):
        return False
    return is_repository(f"{CONVERTED_OWNER}/{name}")


def converted_location(name: str) -> ModelLocation:
    """Return the location of the checkpoint that is, or will be, converted as `name`."""
    return ModelLocation(name, name, f"{CONVERTED_OWNER}/{name}")


def find_converted(name: str) -> ModelLocation | None:
    """Return the location of the checkpoint that was converted as `name`, finished or not, or None."""
    location = converted_location(name) if is_converted_name(name) else None
    return location if location is not None and location.folder.is_dir() else None


def locations() -> list[ModelLocation]:
    """Return the published models, and every other one of which something is in gptoss's own folder."""
    found = [find_location(model.name) for model in catalog.MODELS if model.published]
    names = {location.name for location in found}
    if _checkpoints_folder().is_dir():
        for folder in sorted(_checkpoints_folder().iterdir()):
            repository = folder.name.replace("--", "/", 1)
            if not folder.is_dir() or folder.name in names:
                continue
            if is_repository(repository):
                found.append(ModelLocation(folder.name, repository, repository))
            elif is_converted_name(folder.name):
                found.append(converted_location(folder.name))
    return found


def _checkpoints_folder() -> Path:
    return settings.data_folder() / "checkpoints"


def find_checkpoint(name_or_path: str) -> Path:
    """Return the folder of a complete checkpoint that can be loaded, as far as names tell. See find_folder.

    Raises IntegrityError if it is another kind of checkpoint, with what to do.
    """
    folder = find_folder(name_or_path)
    check_loadable(folder, shown_path(name_or_path))
    return folder


def find_folder(name_or_path: str) -> Path:
    """Return the folder of a complete checkpoint: gptoss's own, one in the Hugging Face cache, or the given folder.

    Raises UsageError for an unknown name, NotInstalledError if the checkpoint or some of its files are missing, and
    IntegrityError if its index or its links are invalid, or if its files are not those of a checkpoint.
    """
    model = known_model(name_or_path)
    if model is not None:
        return _find_model(model)
    if (converted := find_converted(name_or_path)) is not None:
        return _find_own(converted)
    folder = typed_path(name_or_path)
    is_folder = os.path.isdir(folder)
    if is_repository(name_or_path) and not is_folder:
        if find_location(name_or_path).folder.is_dir():
            return _find_own(find_location(name_or_path))
        snapshot = hub_cache.find_snapshot(name_or_path)
        if snapshot is not None:
            hub_cache.check_links(snapshot)
            return _complete(snapshot)
    if os.path.isfile(folder):
        _refuse_file(folder)
    if not (is_folder or _is_path(name_or_path)):
        known = ", ".join(model.short_name for model in catalog.MODELS)
        raise UsageError(
            f"There is no model {shown_path(name_or_path)!r}. Choose {known}, or the folder of a checkpoint"
        )
    if not is_folder:
        raise NotInstalledError(f"There is no folder {shown_path(folder)}")
    return _complete(folder)


def known_model(name_or_path: str) -> Model | None:
    """Return the model of the catalog with this name, alias or repository; None for a folder that exists."""
    model = catalog.find_model(name_or_path)
    if model is None and not os.path.isdir(name_or_path):
        model = catalog.find_repository(name_or_path)
    return model


def _complete(folder: Path) -> Path:
    """Return `folder`. Raises NotInstalledError if it lacks files, IntegrityError if it is no whole checkpoint."""
    check_files(folder)
    missing = _missing_files(folder)
    if missing:
        judged = judge_folder(folder)
        if judged.kind not in (Kind.PACKED, Kind.UNPACKED, Kind.UNKNOWN):
            raise refusal(judged, str(folder))
        raise NotInstalledError(f"{folder} is not a complete checkpoint: no {_shortened(missing)}")
    return folder


def _refuse_file(file: Path) -> NoReturn:
    """Raise the error for a file in place of a folder."""
    if file.suffix == ".gguf":
        raise refusal(Judgement(Kind.GGUF), str(file))
    raise UsageError(f"{file} is a file. Give the folder of the checkpoint, {file.parent}")


def installed() -> dict[str, Path]:
    """Return name and folder of every published model that is complete here, in the order of the catalog.

    Copies in the Hugging Face cache that are damaged are passed over; see `damaged_copies`.
    """
    found = {}
    for model in catalog.MODELS:
        folder = next((folder for folder, missing in _copies(model) if not missing), None)
        if folder is not None:
            found[model.name] = folder
    return found


def cached(location: ModelLocation) -> Path | None:
    """Return the folder of a model's complete copy in the Hugging Face cache, None if it is damaged."""
    with suppress(IntegrityError):
        return next((folder for folder, missing in _hub_copies(location.repository) if not missing), None)
    return None


def damaged_copies(models: Sequence[Model] = catalog.MODELS) -> list[IntegrityError]:
    """Return what is wrong with copies of `models` in the Hugging Face cache, one error for each damaged one."""
    problems = []
    for model in models:
        try:
            list(_hub_copies(model.published.repository) if model.published else ())
        except IntegrityError as exc:
            problems.append(exc)
    return problems


def cached_repositories() -> Iterator[tuple[str, Path, Judgement]]:
    """Yield each complete gpt-oss checkpoint in the Hugging Face cache that is not in the catalog, and what it is.

    Entries of the cache that cannot be read, or whose links lead out of it, are passed over.
    """
    for repository in hub_cache.repositories():
        if catalog.find_repository(repository) is not None:
            continue
        with suppress(GptossError, OSError):
            snapshot = hub_cache.find_snapshot(repository)
            if snapshot is None or not safetensors_files(snapshot) or not _is_gpt_oss(snapshot):
                continue
            hub_cache.check_links(snapshot)
            if not _missing_files(snapshot):
                yield repository, snapshot, judge_folder(snapshot)


def _is_gpt_oss(snapshot: Path) -> bool:
    return load_json(snapshot / "config.json").get("model_type") == "gpt_oss"


def _is_path(text: str) -> bool:
    return text.startswith((".", "~")) or any(mark in text for mark in ("/", os.sep))


def _find_model(model: Model) -> Path:
    incomplete = None
    for folder, missing in _copies(model):
        if not missing:
            _check_identity(folder, model)
            return folder
        incomplete = incomplete or f"{model.name} is incomplete in {folder}: no {_shortened(missing)}"
    if model.published is not None and find_location(model.name).is_busy():
        raise _busy_error(find_location(model.name))
    if incomplete is None:
        for problem in damaged_copies([model]):
            raise IntegrityError(str(problem), Hint.DOWNLOAD, subject=model.short_name) from problem
    raise NotInstalledError(incomplete or f"{model.name} is not downloaded", Hint.DOWNLOAD, subject=model.short_name)


def _find_own(location: ModelLocation) -> Path:
    missing = _missing_own_files(location)
    if not missing:
        return location.folder
    if location.is_busy():
        raise _busy_error(location)
    message = f"{location.full_name} is incomplete in {location.folder}: no {_shortened(missing)}"
    raise NotInstalledError(message, location.remedy, subject=location.short_name)


def _busy_error(location: ModelLocation) -> GptossError:
    verb = "converting" if location.is_converted else "downloading"
    return NotInstalledError(
        f"{location.full_name} is not complete: another gptoss is {verb} it. Wait until it has finished"
    )


def _copies(model: Model) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder that holds files of a published model, with the names of the missing files.

    A damaged copy in the Hugging Face cache is passed over.
    """
    if model.published is None:
        return
    location = find_location(model.name)
    if location.folder.is_dir():
        yield location.folder, _missing_own_files(location)
    with suppress(IntegrityError):
        yield from _hub_copies(model.published.repository)


def _hub_copies(repository: str) -> Iterator[tuple[Path, list[str]]]:
    """Yield the copy in the Hugging Face cache, if there is one, as `_copies` does. Raises IntegrityError."""
    snapshot = hub_cache.find_snapshot(repository)
    if snapshot is not None:
        hub_cache.check_links(snapshot)
        yield snapshot, _missing_files(snapshot)


def _missing_own_files(location: ModelLocation) -> list[str]:
    """Return the names of the files that gptoss's own folder lacks. Raises IntegrityError if one has another size."""
    manifest = location.manifest()
    listed = manifest or location.pin()
    if listed is None:
        return _missing_files(location.folder) or [MANIFEST]
    missing = [file.name for file in listed.files if not (location.folder / file.name).is_file()]
    if manifest is None:
        return missing or [MANIFEST]
    for file in manifest.files:
        if file.name not in missing and location.lacks(file):
            size = (location.folder / file.name).stat().st_size
            message = f"{location.folder / file.name} has {size:,} bytes instead of {file.size_bytes:,}"
            raise IntegrityError(message, location.remedy, subject=location.short_name)
    return missing


def _missing_files(folder: Path) -> list[str]:
    """Return the names of the files that a checkpoint in `folder` lacks, none if it is complete."""
    if not os.path.isfile(folder / "config.json"):
        inner = folder / "original"
        return _missing_files(inner) if os.path.isfile(inner / "config.json") else ["config.json"]
    if (folder / INDEX).is_file():
        return [name for name in sorted(set(read_index(folder / INDEX).values())) if not (folder / name).is_file()]
    if (folder / _SINGLE).is_file():
        return []
    if (folder / "original").is_dir():
        return _missing_files(folder / "original")
    return _missing_numbered_files(folder)


def _missing_numbered_files(folder: Path) -> list[str]:
    """Check OpenAI's layout. It has no index: shards are named model--00001-of-00007.safetensors, counted from 1."""
    names = {file.name for file in folder.glob("model--*-of-*.safetensors")}
    counts = {match[1] for name in names if (match := re.fullmatch(r"model--\d{5}-of-(\d{5})\.safetensors", name))}
    if len(counts) != 1:
        return [INDEX]
    count = counts.pop()
    expected = (f"model--{number:05d}-of-{count}.safetensors" for number in range(1, int(count) + 1))
    return [name for name in expected if name not in names]


def _check_identity(folder: Path, model: Model) -> None:
    """Raise IntegrityError unless the folder holds the config of `model`, in either style."""
    if model.published is None:
        return
    config = folder / "config.json"
    if not config.is_file():
        config = folder / "original" / "config.json"
    values = load_json(config)
    experts = values.get("num_local_experts", values.get("num_experts"))
    found = values.get("num_hidden_layers"), experts
    if found != (model.published.layers, model.published.experts):
        expected = f"{model.published.layers} layers of {model.published.experts} experts"
        message = f"{config} is not {model.name}'s: it should have {expected}"
        raise IntegrityError(message, Hint.DOWNLOAD, subject=model.short_name)


def _shortened(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
