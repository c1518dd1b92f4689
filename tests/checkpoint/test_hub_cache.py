"""The Hugging Face cache lies where the library has it, and every complete gpt-oss in it is found by its name."""

import json
import runpy
from pathlib import Path

import pytest
from huggingface_hub import constants

from gptoss_cli.checkpoint import hub_cache, store
from gptoss_cli.checkpoint.judgement import Kind
from gptoss_cli.errors import IntegrityError, NotInstalledError
from tests.checkpoint.snapshots import cache_repository
from tests.engine.checkpoints import Shape, write_checkpoint
from tests.engine.unpacked import write_unpacked

_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HUB_CACHE": "/a"},
        {"HF_HUB_CACHE": "~/a"},
        {"HF_HUB_CACHE": "$WHERE/a"},
        {"HF_HUB_CACHE": "${WHERE}/a", "HF_HOME": "/b"},
        {"HF_HUB_CACHE": "$MISSING/a"},
        {"HF_HUB_CACHE": ""},
        {"HUGGINGFACE_HUB_CACHE": "/c"},
        {"HUGGINGFACE_HUB_CACHE": "~/$WHERE/c", "HF_HOME": "/b"},
        {"HUGGINGFACE_HUB_CACHE": "/c", "HF_HUB_CACHE": "/a"},
        {"HF_HOME": "~/b"},
        {"HF_HOME": "$WHERE/b", "XDG_CACHE_HOME": "/d"},
        {"HF_HOME": ""},
        {"XDG_CACHE_HOME": "/d"},
        {"XDG_CACHE_HOME": "~/d/$WHERE"},
        {"XDG_CACHE_HOME": ""},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in _VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"HOME": str(tmp_path), "WHERE": "/some/disk", **variables}.items():
        monkeypatch.setenv(variable, value)
    library = runpy.run_path(constants.__file__)
    assert hub_cache.cache_folder() == Path(library["HF_HUB_CACHE"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty cache."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "gptoss"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_repository_in_the_cache_is_found_by_its_name(cache: Path, tmp_path: Path) -> None:
    snapshot = cache_repository(cache, "some-one/tuned.v2", write_checkpoint(tmp_path / "a", Shape(), shards=2))
    assert store.find_checkpoint("some-one/tuned.v2") == snapshot
    assert [(name, folder, judged.kind) for name, folder, judged in store.cached_repositories()] == [
        ("some-one/tuned.v2", snapshot, Kind.PACKED)
    ]


def test_a_published_model_in_the_cache_is_found_by_the_name_of_its_repository(cache: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", Shape())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 24, "num_local_experts": 32}))
    snapshot = cache_repository(cache, "openai/gpt-oss-20b", folder)
    assert store.find_checkpoint("openai/gpt-oss-20b") == store.find_checkpoint("20b") == snapshot
    assert list(store.cached_repositories()) == []


def test_a_folder_of_the_same_name_comes_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_repository(cache, "some/tuned", write_checkpoint(tmp_path / "a", Shape()))
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "some" / "tuned", Shape())
    assert store.find_checkpoint("some/tuned") == Path("some/tuned")


def test_a_bf16_copy_in_the_cache_is_refused_by_its_name_and_can_be_found_to_convert(
    cache: Path, tmp_path: Path
) -> None:
    snapshot = cache_repository(cache, "some/tuned", write_unpacked(tmp_path / "a", Shape()))
    with pytest.raises(IntegrityError, match=r"^some/tuned is a bf16 re-save") as caught:
        store.find_checkpoint("some/tuned")
    assert caught.value.subject == "some/tuned"
    assert store.find_folder("some/tuned") == snapshot


def test_what_is_no_gpt_oss_or_not_complete_or_damaged_is_not_listed(cache: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", Shape(), shards=2)
    incomplete = cache_repository(cache, "some/incomplete", folder)
    next(incomplete.glob("*.safetensors")).resolve().unlink()
    llama = cache_repository(cache, "some/llama", folder)
    (llama / "config.json").resolve().write_text('{"model_type": "llama"}')
    broken = cache_repository(cache, "some/broken", folder)
    (broken / "config.json").resolve().write_text("{")
    cache_repository(cache, "some/rubbish", folder)
    (cache / "models--some--rubbish" / "refs" / "main").write_text("rubbish")
    (cache / "models--gpt2").mkdir()
    (cache / "models--file").touch()
    assert list(store.cached_repositories()) == []
    with pytest.raises(NotInstalledError, match="is not a complete checkpoint"):
        store.find_checkpoint("some/incomplete")


def test_without_a_cache_nothing_is_listed(cache: Path) -> None:
    assert list(store.cached_repositories()) == []
