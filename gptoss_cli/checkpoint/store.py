"""Finds the checkpoints on this machine. Opens no weights and never touches the network.

Of our own folders only those count that have a manifest; elsewhere a checkpoint is complete when its files are there.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gptoss_cli.checkpoint import catalog
from gptoss_cli.checkpoint.catalog import Model, Published
from gptoss_cli.checkpoint.folder import INDEX, load_json, read_index
from gptoss_cli.checkpoint.location import ModelLocation, find_location
from gptoss_cli.checkpoint.manifest import MANIFEST, is_commit, is_repository
from gptoss_cli.errors import IntegrityError, NotInstalledError, UsageError

_SINGLE = "model.safetensors"


def find_checkpoint(name_or_path: str) -> Path:
    """The folder of a complete checkpoint: our own, else one in the Hugging Face cache, else the folder given.

    Raises UsageError for a name nobody knows, NotInstalledError if the checkpoint or some of its files are not
    here, IntegrityError if its index or its links are not what they should be.
    """
    model = catalog.find_model(name_or_path)
    if model is not None:
        return _find_model(model)
    folder = Path(name_or_path).expanduser()
    if is_repository(name_or_path) and not folder.is_dir() and find_location(name_or_path).folder.is_dir():
        return _find_own(find_location(name_or_path))
    if not _means_folder(name_or_path):
        known = ", ".join(model.short_name for model in catalog.MODELS)
        raise UsageError(f"There is no model {name_or_path!r}. Choose {known}, or a checkpoint's folder.")
    if not folder.is_dir():
        raise NotInstalledError(f"There is no folder {folder}. Check the path given with -m.")
    missing = _missing_files(folder)
    if missing:
        raise NotInstalledError(f"{folder} is not a complete checkpoint: no {_listed(missing)}. Check the path.")
    return folder


def installed() -> dict[str, Path]:
    """Name -> folder of every published model that is complete here, in the catalog's order."""
    found = {}
    for model in catalog.MODELS:
        if model.published is not None:
            folder = next((folder for folder, missing in _places(model) if not missing), None)
            if folder is not None:
                found[model.name] = folder
    return found


def _means_folder(text: str) -> bool:
    return text.startswith((".", "~")) or any(mark in text for mark in ("/", os.sep)) or Path(text).is_dir()


def cached(name: str) -> Path | None:
    """The folder of a published model's complete copy in the Hugging Face cache. Raises IntegrityError."""
    model = catalog.find_model(name)
    if model is None or model.published is None:
        return None
    snapshot = _hub_snapshot(model.published)
    if snapshot is None:
        return None
    _check_links(snapshot)
    return None if _missing_files(snapshot) else snapshot


def _find_model(model: Model) -> Path:
    incomplete = None
    for folder, missing in _places(model):
        if not missing:
            _check_identity(folder, model)
            return folder
        incomplete = incomplete or f"{model.name} is incomplete in {folder}: no {_listed(missing)}"
    if model.published is not None and find_location(model.name).is_busy():
        raise NotInstalledError(_busy(model.name))
    problem = incomplete or f"{model.name} is not downloaded"
    raise NotInstalledError(f"{problem}. Run: gptoss download {model.short_name}")


def _find_own(place: ModelLocation) -> Path:
    missing = _missing_own(place)
    if not missing:
        return place.folder
    if place.is_busy():
        raise NotInstalledError(_busy(place.name))
    lacks = f"{place.name} is incomplete in {place.folder}: no {_listed(missing)}"
    raise NotInstalledError(f"{lacks}. Run: gptoss download {place.short_name}")


def _busy(name: str) -> str:
    return f"{name} is not downloaded: another gptoss is downloading it. Wait until it has finished"


def _places(model: Model) -> Iterator[tuple[Path, list[str]]]:
    """Each folder that holds something of the model, with the files that are missing there."""
    if model.published is None:
        return
    ours = find_location(model.name)
    if ours.folder.is_dir():
        yield ours.folder, _missing_own(ours)
    snapshot = _hub_snapshot(model.published)
    if snapshot is not None:
        _check_links(snapshot)
        yield snapshot, _missing_files(snapshot)


def _missing_own(place: ModelLocation) -> list[str]:
    """Names of the files that an own folder lacks. Raises IntegrityError for one that is not as long as it was."""
    manifest = place.manifest()
    wanted = manifest or place.pin()
    if wanted is None:
        return _missing_files(place.folder) or [MANIFEST]
    missing = [file.name for file in wanted.files if not (place.folder / file.name).is_file()]
    if manifest is None:
        return missing or [MANIFEST]
    for file in manifest.files:
        if file.name not in missing and place.lacks(file):
            wrong = f"{place.folder / file.name} should have {file.size_bytes:,} bytes, and has not"
            raise IntegrityError(f"{wrong}. Run: gptoss download {place.short_name}")
    return missing


def _hub_cache() -> Path:
    """Where huggingface_hub keeps repositories (its documentation, "environment variables")."""
    environment = os.environ
    if folder := environment.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _hub_snapshot(published: Published) -> Path | None:
    """The folder of the revision that `main` stood for when it was last downloaded."""
    repository = _hub_cache() / f"models--{published.repository.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not is_commit(commit):
        raise IntegrityError(f"{repository / 'refs' / 'main'} holds no commit. Delete that folder.")
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _check_links(snapshot: Path) -> None:
    """The cache's files are links into its own blobs; newer versions of huggingface_hub share those between models."""
    roots = (_hub_cache().resolve(), snapshot.parent.parent.resolve())
    for file in snapshot.iterdir():
        target = file.resolve()
        if not any(target.is_relative_to(root) for root in roots):
            raise IntegrityError(f"{file} points outside the Hugging Face cache, to {target}. Delete that link.")


def _missing_files(folder: Path) -> list[str]:
    """Names of the files a checkpoint in this folder still lacks; empty when it is complete."""
    if not (folder / "config.json").is_file():
        inner = folder / "original"
        return _missing_files(inner) if (inner / "config.json").is_file() else ["config.json"]
    if (folder / INDEX).is_file():
        return [name for name in sorted(set(read_index(folder / INDEX).values())) if not (folder / name).is_file()]
    if (folder / _SINGLE).is_file():
        return []
    if (folder / "original").is_dir():
        return _missing_files(folder / "original")
    return _missing_numbered(folder)


def _missing_numbered(folder: Path) -> list[str]:
    """OpenAI's own layout has no index: its shards are named model--00001-of-00007.safetensors, counted from 1."""
    names = {file.name for file in folder.glob("model--*-of-*.safetensors")}
    counts = {match[1] for name in names if (match := re.fullmatch(r"model--\d{5}-of-(\d{5})\.safetensors", name))}
    if len(counts) != 1:
        return [INDEX]
    count = counts.pop()
    expected = (f"model--{number:05d}-of-{count}.safetensors" for number in range(1, int(count) + 1))
    return [name for name in expected if name not in names]


def _check_identity(folder: Path, model: Model) -> None:
    """A folder that bears a published name must hold that model's configuration, in either style."""
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
        raise IntegrityError(f"{config} is not {model.name}'s: it should have {expected}. Download it again.")


def _listed(missing: list[str]) -> str:
    shown = ", ".join(missing[:3])
    rest = len(missing) - 3
    return f"{shown} and {rest} more" if rest > 0 else shown
