"""Finding checkpoints in folders with the right file names and without weights."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_cli.checkpoint import store
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, write_manifest
from gptoss_cli.errors import GptossError, Hint, IntegrityError, NotInstalledError, UsageError

_CONFIG_20B = {"num_hidden_layers": 24, "num_local_experts": 32}
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "gptoss"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    return tmp_path / "gptoss" / "data" / "checkpoints" / "gpt-oss-20b"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A complete copy of 20b in the layout of huggingface_hub: links to blobs."""
    repository = tmp_path / "hub" / "models--openai--gpt-oss-20b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(_COMMIT)
    blobs = _write_checkpoint(repository / "blobs")
    folder = repository / "snapshots" / _COMMIT
    folder.mkdir(parents=True)
    for blob in blobs.iterdir():
        (folder / blob.name).symlink_to(Path("../../blobs") / blob.name)
    return folder


def _write_checkpoint(folder: Path, config: object = _CONFIG_20B, shards: int = 3) -> Path:
    folder.mkdir(parents=True)
    names = [f"model-{number:05d}-of-{shards - 1:05d}.safetensors" for number in range(shards)]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"tensor.{i}": name for i, name in enumerate(names)}})
    )
    for name in names:
        (folder / name).touch()
    return folder


def _install(folder: Path, config: object = _CONFIG_20B, shards: int = 3) -> Path:
    """Write a checkpoint with a manifest, as a download does."""
    _write_checkpoint(folder, config, shards)
    files = [
        CheckpointFile(path.name, path.stat().st_size, Digest("sha256", "a" * 64)) for path in sorted(folder.iterdir())
    ]
    write_manifest(folder / "manifest.json", Manifest("openai/gpt-oss-20b", "main", _COMMIT, tuple(files)))
    return folder


def test_nothing_is_installed_on_an_empty_machine() -> None:
    assert store.installed() == {}


@pytest.mark.parametrize("name", ["20b", "gpt-oss-20b"])
def test_a_model_that_is_not_downloaded_has_a_hint_to_download_it(name: str) -> None:
    with pytest.raises(NotInstalledError, match="gpt-oss-20b is not downloaded") as caught:
        store.find_checkpoint(name)
    assert _is_hint_to_download_20b(caught.value)


def _is_hint_to_download_20b(error: GptossError) -> bool:
    return (error.hints, error.subject) == ((Hint.DOWNLOAD,), "20b")


def test_our_own_copy_is_found_by_name_and_alias(own_folder: Path) -> None:
    _install(own_folder)
    assert store.find_checkpoint("20b") == store.find_checkpoint("gpt-oss-20b") == own_folder
    assert store.installed() == {"gpt-oss-20b": own_folder}


def test_a_complete_copy_in_the_hugging_face_cache_is_used_in_place(snapshot: Path) -> None:
    assert store.find_checkpoint("20b") == snapshot


def test_our_own_copy_comes_first(own_folder: Path, snapshot: Path) -> None:
    _install(own_folder)
    assert store.find_checkpoint("20b") == own_folder


def test_the_cache_is_used_if_our_own_copy_is_incomplete(own_folder: Path, snapshot: Path) -> None:
    _install(own_folder)
    (own_folder / "model-00001-of-00002.safetensors").unlink()
    assert store.find_checkpoint("20b") == snapshot


def test_without_its_manifest_our_own_copy_does_not_count(own_folder: Path) -> None:
    _write_checkpoint(own_folder)
    with pytest.raises(NotInstalledError, match=r"no manifest\.json$") as caught:
        store.find_checkpoint("20b")
    assert _is_hint_to_download_20b(caught.value)
    assert store.installed() == {}


def test_a_truncated_file_is_found_before_it_is_loaded(own_folder: Path) -> None:
    _install(own_folder)
    (own_folder / "config.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"config\.json has 1 bytes instead of \d+$") as caught:
        store.find_checkpoint("20b")
    assert _is_hint_to_download_20b(caught.value)


def test_a_missing_shard_is_named(own_folder: Path) -> None:
    _install(own_folder)
    (own_folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(NotInstalledError, match=r"no model-00001-of-00002\.safetensors$") as caught:
        store.find_checkpoint("20b")
    assert _is_hint_to_download_20b(caught.value)
    assert store.installed() == {}


def test_many_missing_shards_are_counted(own_folder: Path) -> None:
    _install(own_folder, shards=9)
    for file in own_folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(NotInstalledError, match="and 6 more"):
        store.find_checkpoint("20b")


def test_a_dangling_link_is_a_missing_file(snapshot: Path) -> None:
    (snapshot / "model-00000-of-00002.safetensors").resolve().unlink()
    with pytest.raises(NotInstalledError, match="model-00000-of-00002"):
        store.find_checkpoint("20b")


def test_a_link_out_of_the_cache_is_rejected(snapshot: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.safetensors"
    outside.touch()
    link = snapshot / "model-00000-of-00002.safetensors"
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(IntegrityError, match="points outside"):
        store.find_checkpoint("20b")


def test_a_repository_linked_to_another_disk_is_inside_the_cache(snapshot: Path, tmp_path: Path) -> None:
    repository = snapshot.parent.parent
    moved = repository.rename(tmp_path / "disk")
    repository.symlink_to(moved)
    assert store.find_checkpoint("20b") == snapshot


def test_a_ref_that_is_not_a_commit_is_rejected(snapshot: Path) -> None:
    (snapshot.parent.parent / "refs" / "main").write_text("../../../etc")
    with pytest.raises(IntegrityError, match="does not hold a commit"):
        store.find_checkpoint("20b")


@pytest.mark.parametrize("rubbish", [b"../../../etc", b"", b"\xff\0", b"x" * 5000, None])
def test_a_damaged_copy_is_passed_over_and_named(rubbish: bytes | None, snapshot: Path, own_folder: Path) -> None:
    ref = snapshot.parent.parent / "refs" / "main"
    ref.unlink()
    if rubbish is None:
        os.mkfifo(ref)
    else:
        ref.write_bytes(rubbish)
    assert store.installed() == {}
    assert store.cached(store.find_location("20b")) is None
    (problem,) = store.damaged_copies()
    assert str(ref) in str(problem)
    with pytest.raises(IntegrityError, match="refs/main"):
        store.find_checkpoint("20b")
    _install(own_folder)
    assert store.installed() == {"gpt-oss-20b": own_folder}
    assert store.find_checkpoint("20b") == own_folder


def test_the_search_goes_on_behind_a_link_out_of_the_cache(snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "stray").symlink_to(tmp_path)
    assert store.installed() == {}
    assert "points outside" in str(store.damaged_copies()[0])


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "a"}, "a"),
        ({"HF_HOME": "b"}, "b/hub"),
        ({"XDG_CACHE_HOME": "c"}, "c/huggingface/hub"),
        ({"HOME": "d"}, "d/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_in_the_folder_of_huggingface_hub(
    variables: dict[str, str], folder: str, snapshot: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, str(tmp_path / value))
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "hub").rename(tmp_path / folder)
    assert store.find_checkpoint("20b").is_relative_to(tmp_path / folder)


def test_the_files_of_another_model_are_rejected(own_folder: Path) -> None:
    _install(own_folder, {"num_hidden_layers": 36, "num_local_experts": 128})
    with pytest.raises(IntegrityError, match="is not gpt-oss-20b's"):
        store.find_checkpoint("20b")


@pytest.mark.parametrize("shard", ["../../x.safetensors", "/x.safetensors", "a/b.safetensors", "x.bin", 7, None, ["x"]])
def test_an_index_with_an_invalid_shard_name_is_rejected(shard: object, own_folder: Path) -> None:
    _write_checkpoint(own_folder)
    (own_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"tensor": shard}}))
    with pytest.raises(IntegrityError, match="not the name of a shard"):
        store.find_checkpoint("20b")


@pytest.mark.parametrize("content", ["", "<html>", "[]", "{}", '{"weight_map": {}}', "[" * 100_000, "9" * 5_000])
def test_an_invalid_index_is_rejected(content: str, own_folder: Path) -> None:
    _write_checkpoint(own_folder)
    (own_folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"index\.json"):
        store.find_checkpoint("20b")


def test_a_huge_index_is_rejected_without_reading_it(own_folder: Path) -> None:
    _write_checkpoint(own_folder)
    with (own_folder / "model.safetensors.index.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="too large"):
        store.find_checkpoint("20b")


def _single_file(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()


def _numbered(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for number in (1, 2):
        (folder / f"model--{number:05d}-of-00002.safetensors").touch()


@pytest.mark.parametrize(
    "write",
    [
        _write_checkpoint,
        _single_file,
        _numbered,
        lambda folder: _single_file(folder / "original"),
        lambda folder: _numbered(folder / "original"),
    ],
)
def test_a_folder_in_either_layout_is_a_checkpoint(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "some")
    assert store.find_checkpoint(str(tmp_path / "some")) == tmp_path / "some"


@pytest.mark.parametrize("absent", ["config.json", "model--00001-of-00002.safetensors"])
def test_the_missing_file_of_an_incomplete_folder_is_named(absent: str, tmp_path: Path) -> None:
    _numbered(tmp_path / "some")
    (tmp_path / "some" / absent).unlink()
    with pytest.raises(NotInstalledError, match=f"no {absent}"):
        store.find_checkpoint(str(tmp_path / "some"))


def test_a_folder_without_weights_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotInstalledError, match="is not a complete checkpoint"):
        store.find_checkpoint(str(tmp_path))


def test_a_path_that_does_not_exist_is_not_installed() -> None:
    with pytest.raises(NotInstalledError, match=r"There is no folder absent/model"):
        store.find_checkpoint("absent/model")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="Choose 20b, 120b, safeguard, safeguard-120b, demo"):
        store.find_checkpoint("30b")
