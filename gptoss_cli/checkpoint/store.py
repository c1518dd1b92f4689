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

from gptoss_cli import settings
from gptoss_cli.checkpoint import catalog
from gptoss_cli.checkpoint.catalog import Model, Published
from gptoss_cli.checkpoint.folder import INDEX, is_plain_file_name, load_json, read_index
from gptoss_cli.checkpoint.lock import is_locked
from gptoss_cli.checkpoint.manifest import (
    MANIFEST,
    CheckpointFile,
    Manifest,
    is_commit,
    is_repository,
    read_manifest,
)
from gptoss_cli.errors import GptossError, Hint, IntegrityError, NotInstalledError, UsageError
from gptoss_cli.files import read_regular
from gptoss_cli.paths import shown_path, typed_path

_PARTIAL = ".partial"
_PIN = "wanted.json"
_SINGLE = "model.safetensors"
_MAX_REF_BYTES = 1000


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """The place of one model in gptoss's own folder, installed or not. `short_name` is the name that a user types."""

    name: str
    short_name: str
    repository: str

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
            manifest = read_manifest(path, model=self.short_name)
        except NotInstalledError:
            return None
        if manifest.repository != self.repository:
            message = f"{path} is the manifest of {manifest.repository}, not of {self.repository}"
            raise IntegrityError(message, Hint.DOWNLOAD, subject=self.short_name)
        return manifest


def find_location(name: str) -> ModelLocation:
    """Return the location of a model by name, alias or OWNER/NAME. Raises UsageError for anything else."""
    model = catalog.find_model(name)
    if model is not None and model.published is not None:
        return ModelLocation(model.name, model.short_name, model.published.repository)
    if model is not None:
        raise UsageError(f"{model.name} is part of gptoss: there is nothing to download or remove")
    published = next((m for m in catalog.MODELS if m.published and m.published.repository == name), None)
    if published is not None:
        return find_location(published.name)
    if not is_repository(name) or not is_plain_file_name(name.replace("/", "--")):
        known = ", ".join(model.short_name for model in catalog.MODELS if model.published)
        raise UsageError(f"There is no model {shown_path(name)!r}. Choose {known}, or OWNER/NAME of a repository")
    return ModelLocation(name.replace("/", "--"), name, name)


def locations() -> list[ModelLocation]:
    """Return the published models, and every other repository of which something was downloaded."""
    found = [find_location(model.name) for model in catalog.MODELS if model.published]
    names = {location.name for location in found}
    if _checkpoints_folder().is_dir():
        for folder in sorted(_checkpoints_folder().iterdir()):
            repository = folder.name.replace("--", "/", 1)
            if folder.is_dir() and folder.name not in names and is_repository(repository):
                found.append(ModelLocation(folder.name, repository, repository))
    return found


def _checkpoints_folder() -> Path:
    return settings.data_folder() / "checkpoints"


def find_checkpoint(name_or_path: str) -> Path:
    """Return the folder of a complete checkpoint: gptoss's own, one in the Hugging Face cache, or the given folder.

    Raises UsageError for an unknown name, NotInstalledError if the checkpoint or some of its files are missing, and
    IntegrityError if its index or its links are invalid.
    """
    model = catalog.find_model(name_or_path)
    if model is not None:
        return _find_model(model)
    folder = typed_path(name_or_path)
    is_folder = os.path.isdir(folder)
    if is_repository(name_or_path) and not is_folder and find_location(name_or_path).folder.is_dir():
        return _find_own(find_location(name_or_path))
    if not (is_folder or _is_path(name_or_path)):
        known = ", ".join(model.short_name for model in catalog.MODELS)
        raise UsageError(
            f"There is no model {shown_path(name_or_path)!r}. Choose {known}, or the folder of a checkpoint"
        )
    if not is_folder:
        raise NotInstalledError(f"There is no folder {shown_path(folder)}")
    missing = _missing_files(folder)
    if missing:
        raise NotInstalledError(f"{folder} is not a complete checkpoint: no {_shortened(missing)}")
    return folder


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


def cached(name: str) -> Path | None:
    """Return the folder of a published model's complete copy in the Hugging Face cache, None if it is damaged."""
    model = catalog.find_model(name)
    if model is None or model.published is None:
        return None
    with suppress(IntegrityError):
        return next((folder for folder, missing in _hub_copies(model.published) if not missing), None)
    return None


def damaged_copies(models: Sequence[Model] = catalog.MODELS) -> list[IntegrityError]:
    """Return what is wrong with copies of `models` in the Hugging Face cache, one error for each damaged one."""
    problems = []
    for model in models:
        try:
            list(_hub_copies(model.published))
        except IntegrityError as exc:
            problems.append(exc)
    return problems


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
        raise _busy_error(model.name)
    if incomplete is None:
        for problem in damaged_copies([model]):
            raise IntegrityError(str(problem), Hint.DOWNLOAD, subject=model.short_name) from problem
    raise NotInstalledError(incomplete or f"{model.name} is not downloaded", Hint.DOWNLOAD, subject=model.short_name)


def _find_own(location: ModelLocation) -> Path:
    missing = _missing_own_files(location)
    if not missing:
        return location.folder
    if location.is_busy():
        raise _busy_error(location.name)
    message = f"{location.name} is incomplete in {location.folder}: no {_shortened(missing)}"
    raise NotInstalledError(message, Hint.DOWNLOAD, subject=location.short_name)


def _busy_error(name: str) -> GptossError:
    return NotInstalledError(f"{name} is not complete: another gptoss is downloading it. Wait until it has finished")


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
        yield from _hub_copies(model.published)


def _hub_copies(published: Published | None) -> Iterator[tuple[Path, list[str]]]:
    """Yield the copy in the Hugging Face cache, if there is one, as `_copies` does. Raises IntegrityError."""
    snapshot = _hub_snapshot(published) if published is not None else None
    if snapshot is not None:
        _check_links(snapshot)
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
            raise IntegrityError(message, Hint.DOWNLOAD, subject=location.short_name)
    return missing


def _hub_cache() -> Path:
    """Return the folder in which huggingface_hub keeps repositories (its documentation, "environment variables")."""
    environment = os.environ
    if folder := environment.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _hub_snapshot(published: Published) -> Path | None:
    """Return the folder of the revision that `main` was when it was last downloaded. Raises IntegrityError."""
    repository = _hub_cache() / f"models--{published.repository.replace('/', '--')}"
    ref = repository / "refs" / "main"
    try:
        commit = read_regular(ref, _MAX_REF_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise IntegrityError(f"{ref} cannot be read: {exc.strerror or exc}. Delete {repository}") from exc
    if not is_commit(commit):
        raise IntegrityError(f"{ref} does not hold a commit. Delete {repository}")
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _check_links(snapshot: Path) -> None:
    """Raise IntegrityError for a link out of the cache.

    Files are links to the repository's own blobs; newer versions of huggingface_hub share blobs between models.
    """
    roots = (_hub_cache().resolve(), snapshot.parent.parent.resolve())
    for file in snapshot.iterdir():
        target = file.resolve()
        if not any(target.is_relative_to(root) for root in roots):
            raise IntegrityError(f"{file} points outside the Hugging Face cache, to {target}. Delete that link")


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
