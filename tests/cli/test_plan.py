"""`gptoss plan` and `gptoss doctor`, and that every reason of a placement is shown wherever one is decided."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from gptoss_cli.checkpoint import catalog
from gptoss_cli.cli.definition import TurnOptions
from gptoss_cli.cli.loading import Loading
from gptoss_cli.cli.sizes import parse_size
from gptoss_cli.errors import IntegrityError
from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.hardware import Cuda, Hardware
from gptoss_cli.placement.model_config import ModelConfig, published_config
from gptoss_cli.placement.reasons import Code
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Activations, Dense
from tests.cli.conftest import Run
from tests.engine.checkpoints import REAL_20B
from tests.placement.machines import GPT_OSS_20B, GPT_OSS_120B, gib, gpu, mac, machine
from tests.terminal.streams import KeptStream

# A machine, and the model on it, for which a placement gives the reason.
_GIVES: dict[Code, tuple[str, Hardware]] = {
    Code.NO_GPU: ("20b", machine()),
    Code.GPU_HIDDEN: ("20b", machine(gpu(24), cuda=Cuda.HIDDEN)),
    Code.TORCH_WITHOUT_CUDA: ("20b", machine(gpu(24), cuda=Cuda.NOT_BUILT, torch="2.13.0+cpu")),
    Code.CUDA_FAILS: ("20b", machine(gpu(24), cuda=Cuda.FAILS, cuda_problem="the driver is too old")),
    Code.NO_TRITON: ("20b", machine(gpu(8), triton=False)),
    Code.NO_COMPILER: ("20b", machine(gpu(8), compiler=False)),
    Code.OLD_GPU: ("20b", machine(gpu(8, capability=(6, 1), name="Tesla P4"))),
    Code.APPLE_GPU: ("20b", mac(32)),
    Code.ROOMIEST_GPU: ("20b", machine(gpu(2), gpu(3))),
    Code.GPU_BUSY: ("20b", machine(gpu(24, 2))),
    Code.FITS_GPU: ("20b", machine(gpu(24))),
    Code.EMBEDDING_ON_HOST: ("20b", machine(gpu(16))),
    Code.EXPERTS_ON_HOST: ("120b", machine(gpu(24))),
    Code.GPU_TOO_SMALL: ("20b", machine(gpu(3))),
    Code.HOST_TOO_SMALL: ("120b", machine(gpu(24), ram=32)),
    Code.LOCKED_MEMORY: ("20b", machine(gpu(8), lockable_bytes=8 << 20)),
    Code.SHORTER_CONTEXT: ("20b", machine(ram=16)),
    Code.FROM_DISK: ("120b", machine(ram=32)),
    Code.GROUP_LIMIT: ("20b", machine(available=20, group_limit_bytes=gib(21))),
    Code.MEMORY_UNKNOWN: ("20b", machine(available_bytes=None, memory_bytes=None)),
    Code.DENSE_ON_GPU: ("20b", machine(gpu(24))),
    Code.ACTIVATIONS_ON_GPU: ("20b", machine(gpu(24))),
    Code.CPU_REQUESTED: ("20b", machine()),
}
# Those that only a wish gives.
_FLAGS: dict[Code, tuple[str, str]] = {
    Code.CPU_REQUESTED: ("--device", "cpu"),
    Code.DENSE_ON_GPU: ("--dense", "int8"),
    Code.ACTIVATIONS_ON_GPU: ("--activations", "int8"),
}
_WISHES = {
    Code.CPU_REQUESTED: PlacementRequest(device="cpu"),
    Code.DENSE_ON_GPU: PlacementRequest(dense=Dense.INT8),
    Code.ACTIVATIONS_ON_GPU: PlacementRequest(activations=Activations.INT8),
}


def _given(code: Code, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str], str]:
    """Puts the program on the reason's machine; the model, the wishes as flags, and the reason's words."""
    model, there = _GIVES[code]
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: there)
    flags = list(_FLAGS.get(code, ()))
    placed = choose(_config(model), there, _WISHES.get(code))
    (reason,) = [reason for reason in placed.reasons if reason.code is code]
    return model, flags, reason.text


def _config(model: str) -> ModelConfig:
    return GPT_OSS_20B if model == "20b" else GPT_OSS_120B


def test_every_reason_is_tried() -> None:
    assert set(_GIVES) == set(Code)


@pytest.mark.parametrize("code", list(Code))
def test_plan_shows_every_reason(code: Code, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, flags, words = _given(code, monkeypatch)
    status, shown, asides = run("plan", model, *flags)
    assert (status, asides) == (0, "")
    assert words in shown
    status, shown, _ = run("plan", model, *flags, "--json")
    assert words in [reason["text"] for reason in json.loads(shown)["reasons"] if reason["code"] == code]


@pytest.mark.parametrize("code", [code for code in Code if code not in _FLAGS])
def test_doctor_shows_every_reason_but_wishes(code: Code, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, words = _given(code, monkeypatch)
    status, shown, asides = run("doctor")
    assert (status, asides) == (0, "")
    assert words in shown
    models = json.loads(run("doctor", "--json")[1])["models"]
    (told,) = [each for each in models if each["name"] == f"gpt-oss-{model}"]
    assert words in [reason["text"] for reason in told["reasons"]]


@pytest.mark.parametrize("code", list(Code))
def test_the_start_of_chat_shows_every_reason(code: Code, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, _, words = _given(code, monkeypatch)
    # Weights that are none: it ends where it would load them.
    sizes = {} if model == "20b" else {"num_hidden_layers": 36, "num_local_experts": 128, "layer_types": None}
    (tmp_path / "config.json").write_text(json.dumps(REAL_20B | sizes))
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(sys, "stdin", KeptStream(terminal=True))
    wishes = _WISHES.get(code, PlacementRequest())
    options = TurnOptions(model=str(tmp_path), device=wishes.device, dense=wishes.dense, activations=wishes.activations)
    loading = Loading(options, lambda loading: None)
    loading.start()
    assert loading.wait(60)
    assert isinstance(loading.error, IntegrityError)
    (first,) = loading.notices
    assert "runs on " in first
    assert words in first


def test_ask_in_a_pipe_says_only_what_is_amiss(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REAL_20B))
    (tmp_path / "model.safetensors").touch()
    said = {}
    for code in (Code.NO_GPU, Code.TORCH_WITHOUT_CUDA):
        _given(code, monkeypatch)
        said[code] = run("ask", "-m", str(tmp_path), "Hi")[2].splitlines()
    assert [len(lines) for lines in said.values()] == [1, 2]
    assert "build without CUDA" in said[Code.TORCH_WITHOUT_CUDA][0]


def test_a_wish_that_cannot_be_met_exits_6(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REAL_20B))
    (tmp_path / "model.safetensors").touch()
    _given(Code.GPU_TOO_SMALL, monkeypatch)
    status, answer, asides = run("ask", "-m", str(tmp_path), "--execution", "mxfp4", "Hi")
    assert (status, answer, asides.count("\n")) == (6, "", 1)
    assert "execution mxfp4 is not possible" in asides


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """The program runs on a machine of 32 GiB without a GPU."""
    there = machine(ram=32)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: there)
    return there


def _told(run: Run, *arguments: str) -> dict[str, Any]:
    status, shown, asides = run("plan", *arguments, "--json")
    assert (status, asides) == (0, "")
    told: dict[str, Any] = json.loads(shown)
    return told


@pytest.mark.usefixtures("plain")
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
    told = _told(run, *arguments.split())
    assert (told["model"], told["execution"], told["version"]) == (model, execution, 1)
    assert (told["gpu"] is None) == (execution == "cpu")


def test_a_gpu_of_this_machine_is_taken_with_the_memory_that_is_allowed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = machine(gpu(8), gpu(24), compiler=False)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: there)
    told = _told(run, "20b", "--gpu-memory", "18GiB")
    assert (told["device"], told["gpu"]["room_bytes"]) == ("cuda:1", 18 << 30)
    assert "no-compiler" in [reason["code"] for reason in told["reasons"]]
    assert "no-compiler" not in [reason["code"] for reason in _told(run, "20b", "--gpu-memory", "48GiB")["reasons"]]


@pytest.mark.usefixtures("plain")
def test_the_picture_tells_all_parts_of_both_memories(run: Run) -> None:
    status, shown, _ = run("plan", "20b", "--gpu-memory", "8GiB")
    assert status == 0
    assert "gpt-oss-20b: on cuda:0 (offload) with 16,384 tokens of context" in shown
    assert "cuda:0: 8.0 GiB of 8.0 GiB" in shown
    assert "█ dense 2.3 GiB  ▓ experts 4.4 GiB  ▒ KV cache 387 MiB" in shown
    assert "Host memory: 7.2 GiB of 28.8 GiB" in shown
    assert "At most " in shown
    assert "To be downloaded: 13.8 GB" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if line[:1] in "[ ")


@pytest.mark.usefixtures("plain")
def test_a_checkpoints_folder_needs_only_its_config(run: Run, tmp_path: Path) -> None:
    config = REAL_20B | {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = _told(run, str(tmp_path), "--gpu-memory", "8GiB")
    assert (told["execution"], told["experts"]["total"], told["download_bytes"]) == ("mxfp4", 64, 0)


@pytest.mark.usefixtures("plain")
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
def test_what_cannot_be_planned_is_one_line_and_its_status(arguments: str, status: int, run: Run) -> None:
    got, shown, asides = run("plan", *arguments.split())
    assert (got, shown, asides.count("\n")) == (status, "", 1)


def test_a_disk_that_is_too_small_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    there = machine(disk_bytes=10 * 10**9)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: there)
    assert "3.8 GB short of the download" in run("plan", "20b")[1]
    assert "3.8 GB short of the download" in _told(run, "20b")["disk_problem"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("0GiB", 0), ("24GiB", 24 << 30), ("24g", 24 << 30), ("24 GB", 24 * 10**9)),
        *(("1.5GiB", 3 << 29), ("512MiB", 512 << 20), ("7B", 7), ("1TiB", 1 << 40)),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "-1GiB", "1e9GiB", "24GX", "9999999TiB", "nan", "٣GiB"])
def test_a_size_without_sense_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no size"):
        parse_size(text)


def test_the_catalog_and_the_config_agree() -> None:
    for model in catalog.MODELS[:2]:
        assert model.published is not None
        config = published_config(layers=model.published.layers, experts=model.published.experts)
        assert config == _config(model.short_name)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (machine(gpu(24), cuda=Cuda.NOT_BUILT), "Install a build of torch with CUDA"),
        (machine(gpu(24), cuda=Cuda.FAILS, cuda_problem="too old", driver="470.1"), "Update the NVIDIA driver"),
        (machine(gpu(24), cuda=Cuda.HIDDEN), "Unset CUDA_VISIBLE_DEVICES"),
        (machine(gpu(24), compiler=False), "Install gcc"),
        (machine(gpu(24), triton=False), "pip install triton"),
        (machine(gpu(24), lockable_bytes=8 << 20), "8 MiB"),
        (machine(kernels=False), "Install a C compiler"),
        (machine(torch=None), "pip install torch"),
        (machine(available=1, group_limit_bytes=gib(1)), "cannot run here"),
        (machine(available_bytes=None, memory_bytes=None), "Give --context"),
        (machine(gpu(24, 20, name="NVIDIA RTX")), "NVIDIA RTX, 20.0 GiB of 24.0 GiB free, compute capability 8.6"),
    ],
)
def test_doctor_says_what_is_missing_and_what_to_do(
    there: Hardware, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: there)
    status, shown, asides = run("doctor")
    assert (status, asides) == (0, "")
    assert said in shown
    told = json.loads(run("doctor", "--json")[1])
    assert said in shown or said in json.dumps(told)
    assert told["machine"]["cuda"] == there.cuda


def test_on_a_sound_machine_doctor_advises_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    there = replace(machine(gpu(24)), lockable_bytes=None)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: there)
    checks = json.loads(run("doctor", "--json")[1])["checks"]
    assert [check["advice"] for check in checks if check["advice"]] == []
    assert {"torch", "GPU 0", "Triton", "C compiler and Python headers", "memory", "disk"} <= {
        c["name"] for c in checks
    }


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
