"""The folders in which gptoss keeps checkpoints of its own, and what each holds by its manifest.

A model is installed if and only if its manifest is. Until then `.partial` holds the list of the files that are wanted,
pinned to one commit, and what has arrived of them.
"""

from dataclasses import dataclass
from pathlib import Path

from gptoss_cli import settings
from gptoss_cli.checkpoint import catalog
from gptoss_cli.checkpoint.folder import is_plain_file_name
from gptoss_cli.checkpoint.lock import is_locked
from gptoss_cli.checkpoint.manifest import MANIFEST, CheckpointFile, Manifest, is_repository, read_manifest
from gptoss_cli.errors import IntegrityError, NotInstalledError, UsageError

PARTIAL = ".partial"
_PIN = "wanted.json"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where one model lies or would lie. `short_name` is what a user types."""

    name: str
    short_name: str
    repository: str

    @property
    def folder(self) -> Path:
        return _home() / self.name

    @property
    def manifest_path(self) -> Path:
        return self.folder / MANIFEST

    @property
    def partial(self) -> Path:
        """What has arrived of files that are not whole."""
        return self.folder / PARTIAL

    @property
    def pin_path(self) -> Path:
        return self.partial / _PIN

    @property
    def lock_path(self) -> Path:
        """Outside the folder, so that the folder can be deleted while it is held."""
        return _home() / f".{self.name}.lock"

    def manifest(self) -> Manifest | None:
        """The manifest of an installed model. Raises IntegrityError if it is not one."""
        return self._read(self.manifest_path)

    def pin(self) -> Manifest | None:
        """What an unfinished download wants. Raises IntegrityError if it is not readable."""
        return self._read(self.pin_path)

    def lacks(self, file: CheckpointFile) -> bool:
        """Whether the file is not there in its full size."""
        path = self.folder / file.name
        return not path.is_file() or path.stat().st_size != file.size_bytes

    def is_busy(self) -> bool:
        """Whether a process is downloading it now."""
        return is_locked(self.lock_path)

    def _read(self, path: Path) -> Manifest | None:
        try:
            manifest = read_manifest(path)
        except NotInstalledError:
            return None
        if manifest.repository != self.repository:
            raise IntegrityError(f"{path} is about {manifest.repository}. Delete it, and run: gptoss download")
        return manifest


def find_location(name: str) -> ModelLocation:
    """The place of a model by name, alias or OWNER/NAME. Raises UsageError for anything else."""
    model = catalog.find_model(name)
    if model is not None and model.published is not None:
        return ModelLocation(model.name, model.short_name, model.published.repository)
    if model is not None:
        raise UsageError(f"{model.name} comes with gptoss: there is nothing to download or remove.")
    published = next((m for m in catalog.MODELS if m.published and m.published.repository == name), None)
    if published is not None:
        return find_location(published.name)
    if not is_repository(name) or not is_plain_file_name(name.replace("/", "--")):
        known = ", ".join(model.short_name for model in catalog.MODELS if model.published)
        raise UsageError(f"There is no model {name!r}. Choose {known}, or OWNER/NAME of a repository.")
    return ModelLocation(name.replace("/", "--"), name, name)


def locations() -> list[ModelLocation]:
    """The published models, and any other repository that something was downloaded of."""
    known = [find_location(model.name) for model in catalog.MODELS if model.published]
    names = {place.name for place in known}
    if _home().is_dir():
        for folder in sorted(_home().iterdir()):
            repository = folder.name.replace("--", "/", 1)
            if folder.is_dir() and folder.name not in names and is_repository(repository):
                known.append(ModelLocation(folder.name, repository, repository))
    return known


def _home() -> Path:
    return settings.data_folder() / "checkpoints"
