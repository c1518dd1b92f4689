"""`gptoss doctor` shows every reason, and advises on each problem."""

import json

import pytest

from gptoss_cli.placement.gpus import Cuda
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.reasons import Code
from tests.cli.conftest import Run
from tests.cli.reason_machines import FLAGS, put_on_machine
from tests.placement.machines import gib, gpu, machine


@pytest.mark.parametrize("code", [code for code in Code if code not in FLAGS])
def test_every_reason_that_is_not_requested_is_shown(code: Code, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, words = put_on_machine(code, monkeypatch)
    status, shown, asides = run("doctor")
    assert (status, asides) == (0, "")
    assert words in shown
    models = json.loads(run("doctor", "--json")[1])["models"]
    (model_json,) = [each for each in models if each["name"] == f"gpt-oss-{model}"]
    assert words in [reason["text"] for reason in model_json["reasons"]]


@pytest.mark.parametrize(
    ("hardware", "advice"),
    [
        (machine(gpu(24), cuda=Cuda.NOT_BUILT), "Install a build of torch with CUDA"),
        (machine(gpu(24), cuda=Cuda.FAILS, cuda_problem="too old", driver="470.1"), "Update the NVIDIA driver"),
        (machine(gpu(24), cuda=Cuda.HIDDEN), "Unset CUDA_VISIBLE_DEVICES"),
        (machine(gpu(24), compiler=False), "Install gcc"),
        (machine(gpu(24), triton=False), "pip install triton"),
        (machine(kernels=False), "Install a C compiler"),
        (machine(torch=None), "pip install torch"),
        (machine(available=1, group_limit_bytes=gib(1)), "cannot run here"),
        (machine(available_bytes=None, memory_bytes=None), "Give --context"),
        (machine(gpu(24, 20, name="NVIDIA RTX")), "NVIDIA RTX, 20.0 GiB of 24.0 GiB free, compute capability 8.6"),
    ],
)
def test_each_problem_has_advice(hardware: Hardware, advice: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    status, shown, asides = run("doctor")
    assert (status, asides) == (0, "")
    assert advice in shown
    values = json.loads(run("doctor", "--json")[1])
    assert values["machine"]["cuda"] == hardware.cuda


def test_a_machine_without_problems_gets_no_advice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = machine(gpu(24))
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    checks = json.loads(run("doctor", "--json")[1])["checks"]
    assert [check["advice"] for check in checks if check["advice"]] == []
    assert {"torch", "GPU 0", "Triton", "C compiler and Python headers", "memory", "disk"} <= {
        c["name"] for c in checks
    }
