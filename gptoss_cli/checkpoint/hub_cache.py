"""The cache of huggingface_hub: where it is, and the repositories in it. Only names of files are read."""

import os
from collections.abc import Iterator
from pathlib import Path

from gptoss_cli.checkpoint.manifest import is_commit, is_repository
from gptoss_cli.errors import IntegrityError
from gptoss_cli.files import read_regular

_PREFIX = "models--"
_MAX_REF_BYTES = 1000


def cache_folder() -> Path:
    """Return the folder of the repositories, by the rules of huggingface_hub's constants.py: importing it is slow.

    `~` and variables inside a value are replaced; a variable that is empty counts as set.
    """
    own_home = os.path.join(os.getenv("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache")), "huggingface")
    home = _expanded(os.getenv("HF_HOME", own_home))
    older_name = os.getenv("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    return Path(_expanded(os.getenv("HF_HUB_CACHE", older_name)))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def find_snapshot(repository: str) -> Path | None:
    """Return the folder of the revision that `main` was when it was last downloaded. Raises IntegrityError."""
    folder = cache_folder() / f"{_PREFIX}{repository.replace('/', '--')}"
    ref = folder / "refs" / "main"
    try:
        commit = read_regular(ref, _MAX_REF_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise IntegrityError(f"{ref} cannot be read: {exc.strerror or exc}. Delete {folder}") from exc
    if not is_commit(commit):
        raise IntegrityError(f"{ref} does not hold a commit. Delete {folder}")
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def repositories() -> Iterator[str]:
    """Yield the name of every model repository that the cache has a folder for, as OWNER/NAME."""
    try:
        names = sorted(path.name for path in cache_folder().iterdir() if path.name.startswith(_PREFIX))
    except OSError:
        return
    # A name may hold "--" itself; an owner cannot.
    found = (name.removeprefix(_PREFIX).replace("--", "/", 1) for name in names)
    yield from (repository for repository in found if is_repository(repository))


def check_links(snapshot: Path) -> None:
    """Raise IntegrityError for a link out of the cache.

    Files are links to the repository's own blobs; newer versions of huggingface_hub share blobs between models.
    """
    roots = (cache_folder().resolve(), snapshot.parent.parent.resolve())
    for file in snapshot.iterdir():
        target = file.resolve()
        if not any(target.is_relative_to(root) for root in roots):
            raise IntegrityError(f"{file} points outside the Hugging Face cache, to {target}. Delete that link")
