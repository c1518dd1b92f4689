"""`gptoss verify`: right checkpoints are verified, and wrong files are found and named."""

import hashlib
import json
from pathlib import Path

import pytest

from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, now, read_manifest, write_manifest
from tests.checkpoint.hub_server import COMMIT, HubServer
from tests.cli.conftest import Run
from tests.engine.checkpoints import REAL_20B, ConfigStyle, Shape, write_checkpoint

_SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an installed small model from a repository of its own."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = write_checkpoint(tmp_path / "data" / "checkpoints" / "some--model", Shape(), shards=3)
    files = [
        CheckpointFile(path.name, path.stat().st_size, Digest("sha256", hashlib.sha256(path.read_bytes()).hexdigest()))
        for path in sorted(folder.iterdir())
    ]
    write_manifest(folder / "manifest.json", Manifest("some/model", "main", COMMIT, tuple(files)))
    return folder


def test_a_right_checkpoint_is_verified_and_the_time_recorded(run: Run, folder: Path) -> None:
    status, out, _ = run("verify", "some/model")
    assert status == 0
    assert "5 files have the right digest" in out
    assert (read_manifest(folder / "manifest.json").verified or "") <= now()
    assert read_manifest(folder / "manifest.json").verified is not None


def test_without_a_name_every_installed_model_is_verified(run: Run, folder: Path) -> None:
    status, out, _ = run("verify", "--json")
    (report,) = json.loads(out)["models"]
    assert status == 0
    assert (report["model"], report["files_verified"], report["folder"]) == ("some/model", 5, str(folder))


def test_with_nothing_installed_it_exits_3_and_advises_a_download(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "empty"))
    status, _, err = run("verify")
    assert status == 3
    assert "gptoss download 20b" in err


def _flip_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_by_the_digest_and_not_by_quick(run: Run, folder: Path) -> None:
    _flip_last_bit(folder / _SHARD)
    status, out, _ = run("verify", "some/model", "--quick")
    assert (status, "their digests were not checked" in out) == (0, True)
    status, out, err = run("verify", "some/model", "--json")
    assert (status, out) == (4, "")
    assert f"{folder / _SHARD} has the wrong digest. Run: gptoss download some/model" in err


def test_a_download_repairs_the_file_that_verify_names(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    _flip_last_bit(folder / _SHARD)
    with HubServer(files, repository="some/model") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert run("download", "some/model")[0] == 0
    assert {request.file for request in hub.requests} == {_SHARD}
    assert run("verify", "some/model")[0] == 0


def test_swapped_shards_are_named(run: Run, folder: Path) -> None:
    other = folder / "model-00002-of-00002.safetensors"
    first, second = (folder / _SHARD).read_bytes(), other.read_bytes()
    (folder / _SHARD).write_bytes(second)
    other.write_bytes(first)
    manifest = read_manifest(folder / "manifest.json")
    assert len(first) == len(second) or run("verify", "some/model")[0] == 4
    sizes = {_SHARD: len(second), other.name: len(first)}
    files = tuple(CheckpointFile(f.name, sizes.get(f.name, f.size_bytes), f.digest) for f in manifest.files)
    write_manifest(folder / "manifest.json", Manifest("some/model", "main", COMMIT, files))
    status, _, err = run("verify", "some/model")
    assert status == 4
    assert "is really model-0000" in err


def test_a_missing_file_exits_3(run: Run, folder: Path) -> None:
    (folder / _SHARD).unlink()
    status, _, err = run("verify", "some/model")
    assert status == 3
    assert _SHARD in err


@pytest.mark.parametrize("change", [b"", b"more"])
def test_a_file_of_another_size_exits_4(change: bytes, run: Run, folder: Path) -> None:
    data = (folder / _SHARD).read_bytes()
    (folder / _SHARD).write_bytes(data + change if change else data[:-1])
    for arguments in (["verify", "some/model", "--quick"], ["ask", "-m", "some/model", "x"]):
        status, _, err = run(*arguments)
        assert status == 4
        assert _SHARD in err


@pytest.mark.parametrize("style", list(ConfigStyle))
def test_a_folder_in_either_layout_is_checked_against_its_config(style: ConfigStyle, run: Run, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "some", Shape(), style=style)
    for name in ("model.py", "pytorch_model.bin"):
        (folder / name).write_text("raise SystemExit")
    status, out, err = run("verify", str(folder))
    assert status == 0
    assert "tensors are right; their digests are not known" in out
    assert "The digests of" in err


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 10**12},
        {"hidden_size": 2912},
        {"num_local_experts": 10**9},
        {"num_experts_per_tok": "4"},
        {"head_dim": None},
        {"quantization_config": None},
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, object], run: Run, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "some", Shape())
    (folder / "config.json").write_text(json.dumps(REAL_20B | change))
    status, out, err = run("verify", str(folder))
    assert (status, out) == (4, "")
    assert err.count("\n") <= 2


def test_a_snapshot_in_the_hugging_face_cache_is_verified_by_its_links(run: Run, folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for path in folder.glob("*.*"):
        if path.name != "manifest.json":
            blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(blob)
    assert "5 files have the right digest" in run("verify", str(snapshot))[1]
    _flip_last_bit((snapshot / _SHARD).resolve())
    status, _, err = run("verify", str(snapshot))
    assert status == 4
    assert _SHARD in err


def test_the_demo_is_verified_by_its_digests(run: Run) -> None:
    status, out, _ = run("verify", "demo")
    assert status == 0
    assert out.startswith("demo: 3 files have the right digest; ")
