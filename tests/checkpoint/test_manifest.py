"""Manifests are written atomically, and checked like anything that comes from the network."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, read_manifest, write_manifest
from gptoss_cli.errors import Hint, IntegrityError, NotInstalledError

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_FILES = (
    CheckpointFile("config.json", 7, Digest("git-sha1", "a" * 40)),
    CheckpointFile("model.safetensors", 1 << 40, Digest("sha256", "b" * 64)),
)
_MANIFEST = Manifest("openai/gpt-oss-20b", "main", _COMMIT, _FILES, "2026-01-02T03:04:05Z")


def test_a_written_manifest_is_read_back(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.json", _MANIFEST)
    assert read_manifest(tmp_path / "manifest.json") == _MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_missing_manifest_is_not_an_invalid_one(tmp_path: Path) -> None:
    with pytest.raises(NotInstalledError):
        read_manifest(tmp_path / "manifest.json")


def _file(**changes: object) -> dict[str, object]:
    return {"name": "x.safetensors", "size": 1, "sha256": "b" * 64} | changes


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"repository": "../.."},
        {"repository": "one"},
        {"repository": 7},
        {"commit": "main"},
        {"commit": "A" * 40},
        {"revision": None},
        {"verified": "yesterday"},
        {"verified": 7},
        {"files": []},
        {"files": {}},
        {"files": [7]},
        {"files": [_file(), _file(name="X.safetensors")]},
        {"files": [_file(name="../x.safetensors")]},
        {"files": [_file(name="/x.safetensors")]},
        {"files": [_file(name="C:x.safetensors")]},
        {"files": [_file(name="a\\x.safetensors")]},
        {"files": [_file(name=".partial")]},
        {"files": [_file(name="manifest.json")]},
        {"files": [_file(name="a\x1bb")]},
        {"files": [_file(size=-1)]},
        {"files": [_file(size=True)]},
        {"files": [_file(size=1 << 60)]},
        {"files": [_file(size="1")]},
        {"files": [_file(sha256="b" * 63)]},
        {"files": [_file(sha256=None)]},
    ],
)
def test_an_invalid_manifest_is_rejected(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_manifest(path, _MANIFEST)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match="is not a manifest") as caught:
        read_manifest(path, model="20b")
    assert (caught.value.hints, caught.value.subject) == ((Hint.DOWNLOAD,), "20b")


def test_a_git_digest_equals_that_of_git() -> None:
    digest = Digest("git-sha1", "").start(6)
    digest.update(b"hello\n")
    assert digest.hexdigest() == "ce013625030ba8dba906f756967f9e9ca394464a"
