"""A repository is judged by config, index or header before a weight is fetched."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoint.hub_server import Answer, HubServer
from tests.cli.conftest import Run
from tests.cli.download.conftest import Patch, listed
from tests.engine.checkpoints import REAL_20B, Shape, write_checkpoint
from tests.engine.unpacked import write_unpacked

_REPOSITORY = "some/tuned"


@pytest.fixture
def hub(home: Path, monkeypatch: Patch) -> Iterator[HubServer]:
    """Start a server with one repository of a fine-tuned model."""
    with HubServer({}, repository=_REPOSITORY) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _fetched(hub: HubServer) -> set[str]:
    return {request.file for request in hub.requests if request.file}


def _assert_refused(run: Run, hub: HubServer, home: Path, *words: str) -> None:
    """Check that a download fails with `words`, fetches no weights and leaves nothing behind."""
    for arguments in ((), ("--dry-run",), ("--json",)):
        status, out, err = run("download", _REPOSITORY, *arguments)
        assert (status, out) == (4, "")
        for each in words:
            assert each in err
    for name in hub.files:
        assert not name.endswith("safetensors") or hub.sent_bytes(name) < 100_000
    assert not (home / "data" / "checkpoints" / "some--tuned").exists()
    assert _REPOSITORY not in listed(run)


@pytest.mark.parametrize("quantization", [None, {"quant_method": "mxfp4"}], ids=["unmarked", "still-marked-mxfp4"])
def test_a_bf16_copy_is_refused_with_its_size_and_the_commands(
    quantization: dict[str, str] | None, run: Run, hub: HubServer, home: Path, tmp_path: Path
) -> None:
    hub.files = _files(write_unpacked(tmp_path / "a", Shape(), quantization_config=quantization))
    commands = "Run: hf download some/tuned, then gptoss convert some/tuned NAME"
    _assert_refused(run, hub, home, f"some/tuned is a bf16 re-save (2.2 MB). {commands}")
    assert _fetched(hub) == {"config.json", "model.safetensors.index.json"}


@pytest.mark.parametrize("quantization", [None, {"quant_method": "mxfp4"}], ids=["unmarked", "still-marked-mxfp4"])
def test_a_bf16_copy_in_one_file_is_judged_by_its_header(
    quantization: dict[str, str] | None, run: Run, hub: HubServer, home: Path, tmp_path: Path
) -> None:
    folder = write_unpacked(tmp_path / "a", replace(Shape(), vocabulary=20_003), quantization_config=quantization)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    hub.files = _files(folder)
    _assert_refused(run, hub, home, "some/tuned is a bf16 re-save")


def test_a_llama_is_refused(run: Run, hub: HubServer, home: Path) -> None:
    hub.files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": bytes(200_000)}
    _assert_refused(run, hub, home, "some/tuned is a model of type llama", "gptoss download 20b")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_web_page_in_place_of_json_is_named_by_the_repository(
    name: str, run: Run, hub: HubServer, home: Path
) -> None:
    hub.files = {"config.json": json.dumps(REAL_20B).encode(), "model.safetensors": bytes(200_000), name: b"<html>"}
    _assert_refused(run, hub, home, f"some/tuned/{name} is not valid JSON")


def test_weights_without_a_config_are_refused(run: Run, hub: HubServer, home: Path) -> None:
    hub.files = {"README.md": b"", "model.safetensors": bytes(200_000)}
    _assert_refused(run, hub, home, "some/tuned has no config.json")


def test_the_4_bit_layout_of_unsloth_is_refused(run: Run, hub: HubServer, home: Path) -> None:
    name = "model.layers.0.mlp.experts.gate_up_projs.0.weight.absmax"
    index = json.dumps({"weight_map": {name: "model-00001-of-00001.safetensors"}}).encode()
    config = json.dumps(REAL_20B | {"quantization_config": {"quant_method": "bitsandbytes"}}).encode()
    hub.files = {"config.json": config, "model.safetensors.index.json": index}
    hub.files["model-00001-of-00001.safetensors"] = bytes(200_000)
    _assert_refused(run, hub, home, "layout of unsloth", "merged_16bit")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter"),
        (["config.json", "tuned-Q4_K_M.gguf"], "is GGUF"),
        (["config.json", "pytorch_model.bin"], "pickled"),
    ],
)
def test_names_of_files_are_enough(names: list[str], words: str, run: Run, hub: HubServer, home: Path) -> None:
    hub.files = dict.fromkeys(names, b"{}")
    _assert_refused(run, hub, home, words)
    assert _fetched(hub) == set()


def test_a_packed_fine_tune_is_downloaded_and_can_be_tried(
    run: Run, hub: HubServer, home: Path, tmp_path: Path
) -> None:
    hub.files = _files(write_checkpoint(tmp_path / "a", Shape(), shards=2))
    status, _, err = run("download", _REPOSITORY)
    assert status == 0
    assert "Try: gptoss chat -m some/tuned" in err
    assert "some/tuned is complete" in err
    status, _, told = run("verify", _REPOSITORY)
    assert (status, "some--tuned:" in told) == (0, False)
    assert listed(run)[_REPOSITORY]["state"] == "installed"


def test_try_is_not_advised_for_what_cannot_be_loaded(run: Run, hub: HubServer, home: Path, tmp_path: Path) -> None:
    hub.files = _files(write_checkpoint(tmp_path / "a", Shape()))
    config = json.loads(hub.files["config.json"])
    hub.files["config.json"] = json.dumps(config | {"hidden_size": 128}).encode()
    status, _, err = run("download", _REPOSITORY)
    assert (status, "every digest is right" in err, "Try:" in err) == (0, True, False)


def test_a_header_that_cannot_be_had_now_does_not_stop_the_download(
    run: Run, hub: HubServer, home: Path, tmp_path: Path
) -> None:
    hub.files = _files(write_checkpoint(tmp_path / "a", Shape()))
    failures = iter([Answer(503)])
    hub.fault = lambda request: next(failures, None) if request.file == "model.safetensors" else None
    assert run("download", _REPOSITORY)[0] == 0
