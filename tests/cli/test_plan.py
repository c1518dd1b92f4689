"""`gptoss plan` shows the placement of a model, every reason for it, and whether the download fits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.checkpoint import catalog
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import published_config
from gptoss_cli.placement.reasons import Code
from tests.cli.conftest import Run
from tests.cli.reason_machines import MACHINES, config_of, put_on_machine
from tests.engine.checkpoints import REAL_20B
from tests.placement.machines import gpu, machine


def test_every_reason_has_a_machine() -> None:
    assert set(MACHINES) == set(Code)


@pytest.mark.parametrize("code", list(Code))
def test_plan_shows_every_reason(code: Code, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, flags, words = put_on_machine(code, monkeypatch)
    status, shown, asides = run("plan", model, *flags)
    assert (status, asides) == (0, "")
    assert words in shown
    status, shown, _ = run("plan", model, *flags, "--json")
    assert words in [reason["text"] for reason in json.loads(shown)["reasons"] if reason["code"] == code]


@pytest.fixture
def cpu_machine(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """Run the program on a machine of 32 GiB without a GPU."""
    hardware = machine(ram=32)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    return hardware


def _plan(run: Run, *arguments: str) -> dict[str, Any]:
    status, shown, asides = run("plan", *arguments, "--json")
    assert (status, asides) == (0, "")
    planned: dict[str, Any] = json.loads(shown)
    return planned


@pytest.mark.usefixtures("cpu_machine")
@pytest.mark.parametrize(
    ("arguments", "model", "execution"),
    [
        ("", "gpt-oss-20b", "cpu"),
        ("120b --gpu-memory 0", "gpt-oss-120b", "cpu"),
        ("20b --gpu-memory 24GiB --ram 64GiB", "gpt-oss-20b", "mxfp4"),
        ("20b --gpu-memory 8GiB", "gpt-oss-20b", "offload"),
        ("120b --gpu-memory 24GiB --ram 96GiB", "gpt-oss-120b", "offload"),
        ("120b --gpu-memory 24GiB --ram 16GiB", "gpt-oss-120b", "cpu"),
        ("gpt-oss-120b --gpu-memory 80GiB", "gpt-oss-120b", "mxfp4"),
        ("20b --gpu-memory 24GiB --execution cpu", "gpt-oss-20b", "cpu"),
        ("20b --gpu-memory 24GiB --execution offload", "gpt-oss-20b", "offload"),
    ],
)
def test_another_machine_can_be_described(arguments: str, model: str, execution: str, run: Run) -> None:
    planned = _plan(run, *arguments.split())
    assert (planned["model"], planned["execution"], planned["version"]) == (model, execution, 1)
    assert (planned["gpu"] is None) == (execution == "cpu")


def test_a_real_gpu_is_limited_to_the_described_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = machine(gpu(8), gpu(24), compiler=False)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    planned = _plan(run, "20b", "--gpu-memory", "18GiB")
    assert (planned["device"], planned["gpu"]["room_bytes"]) == ("cuda:1", 18 << 30)
    assert "no-compiler" in [reason["code"] for reason in planned["reasons"]]
    assert "no-compiler" not in [reason["code"] for reason in _plan(run, "20b", "--gpu-memory", "48GiB")["reasons"]]


@pytest.mark.usefixtures("cpu_machine")
def test_the_picture_shows_all_parts_of_both_memories(run: Run) -> None:
    status, shown, _ = run("plan", "20b", "--gpu-memory", "8GiB")
    assert status == 0
    assert "gpt-oss-20b: on cuda:0 (offload) with 16,384 tokens of context" in shown
    assert "cuda:0: 8.0 GiB of 8.0 GiB" in shown
    assert "█ dense 2.3 GiB  ▓ experts 4.4 GiB  ▒ KV cache 387 MiB" in shown
    assert "Host memory: 11.5 GiB of 28.8 GiB" in shown
    assert "About 29.3 tokens/s if all experts are used alike." in shown
    assert "To download: 13.8 GB" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if line[:1] in "[ ")


@pytest.mark.usefixtures("cpu_machine")
def test_a_folder_is_planned_by_its_config(run: Run, tmp_path: Path) -> None:
    config = REAL_20B | {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    planned = _plan(run, str(tmp_path), "--gpu-memory", "8GiB")
    assert (planned["execution"], planned["experts"]["total"], planned["download_bytes"]) == ("mxfp4", 64, 0)


@pytest.mark.parametrize("lacks", ["the weights", "a shard"])
def test_a_folder_that_lacks_weights_is_refused_as_ask_does(lacks: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REAL_20B))
    if lacks == "a shard":
        (tmp_path / "model-00001-of-00002.safetensors").touch()
        shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    planned, asked = run("plan", str(tmp_path)), run("ask", "-m", str(tmp_path), "hello")
    assert planned == asked
    assert planned[0] == 3
    assert "is not a complete checkpoint: no model" in planned[2]


@pytest.mark.usefixtures("cpu_machine")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("30b", 2),
        ("./absent", 3),
        ("20b --gpu-memory much", 2),
        ("20b --ram 64", 2),
        ("20b --device gpu", 2),
        ("20b --device cpu --execution mxfp4", 2),
        ("20b --context 1", 2),
        ("20b --device cuda", 6),
        ("20b --device mps", 6),
        ("20b --gpu-memory 8GiB --execution mxfp4", 6),
        ("20b --ram 1GiB", 6),
    ],
)
def test_an_impossible_plan_is_one_line_and_its_status(arguments: str, status: int, run: Run) -> None:
    got, shown, asides = run("plan", *arguments.split())
    assert (got, shown, asides.count("\n")) == (status, "", 1)


def test_a_disk_that_is_too_small_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = machine(disk_bytes=10 * 10**9)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    assert "3.8 GB too small for the download" in run("plan", "20b")[1]
    assert "3.8 GB too small for the download" in _plan(run, "20b")["disk_problem"]


def test_the_catalog_and_the_config_agree() -> None:
    for model in catalog.MODELS[:2]:
        assert model.published is not None
        config = published_config(layers=model.published.layers, experts=model.published.experts)
        assert config == config_of(model.short_name)


@pytest.mark.parametrize(
    "arguments", [["plan", "20b", "--gpu-memory", "24GiB"], ["plan", "120b", "--json"], ["doctor"]]
)
def test_without_a_driver_no_torch_is_imported(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys, shutil; shutil.which = lambda *_: None\n"
        "from gptoss_cli.cli.main import run; run(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr)"
    )
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr == "False\n"
    assert done.stdout
