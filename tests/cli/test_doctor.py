"""`gptoss doctor` shows every reason, and advises on each problem."""

import json
import math
from dataclasses import replace

import pytest

from gptoss_cli.cli import gpu_check
from gptoss_cli.engine.kernel_checks import KernelCheck
from gptoss_cli.engine.kernels.native_library import Native, find_library
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


@pytest.mark.parametrize(
    ("cores", "usable", "quota", "words"),
    [
        (1, 1, None, "1 core"),
        (8, 8, None, "8 cores"),
        (8, 8, 16.0, "8 cores"),
        (8, 2, 2.5, "2 of 8 cores, and no more threads: the CPU quota of the control group is 2.5"),
        (8, 1, 0.5, "1 of 8 cores, and no more threads: the CPU quota of the control group is 0.5"),
        (8, 3, None, "3 of 8 cores, and no more threads: this process may run on no others"),
        (8, 3, 6.0, "3 of 8 cores, and no more threads: this process may run on no others"),
    ],
)
def test_a_cpu_quota_is_told(
    cores: int, usable: int, quota: float | None, words: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware = replace(machine(), cores=cores, usable_cores=usable, cpu_quota=quota)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    values = json.loads(run("doctor", "--json")[1])
    assert [check["found"] for check in values["checks"] if check["name"] == "CPU"] == [words]
    assert values["machine"]["usable_cores"] == usable


@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
@pytest.mark.parametrize(
    ("chosen", "found", "advice"),
    [
        ("scalar", "scalar (chosen by GPTOSS_CPU_KERNELS)", ""),
        ("sse2", "not usable", "GPTOSS_CPU_KERNELS is 'sse2'. This machine can run: "),
    ],
)
def test_the_chosen_cpu_kernels_are_shown(
    chosen: str, found: str, advice: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_CPU_KERNELS", chosen)
    checks = json.loads(run("doctor", "--json")[1])["checks"]
    (check,) = [check for check in checks if check["name"] == "CPU kernels"]
    assert check["found"] == found
    assert check["advice"].startswith(advice)
    assert bool(check["advice"]) == bool(advice)


@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
def test_kernels_that_compute_wrongly_have_advice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Native, "self_check", lambda *_: "avx512")
    assert "computes avx512 instructions wrongly" in run("doctor")[1]


def test_a_machine_without_problems_gets_no_advice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = machine(gpu(24))
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: hardware)
    checks = json.loads(run("doctor", "--json")[1])["checks"]
    assert [check["advice"] for check in checks if check["advice"]] == []
    assert {"torch", "GPU 0", "Triton", "C compiler and Python headers", "memory", "disk"} <= {
        c["name"] for c in checks
    }


def test_without_a_gpu_its_check_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: machine())
    assert run("doctor", "--gpu") == (0, "No kernel was checked. There is no NVIDIA GPU.\n", "")
    values = json.loads(run("doctor", "--gpu", "--json")[1])
    assert (values["checks"], values["right"], values["reason"]) == ([], None, "There is no NVIDIA GPU.")
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: machine(gpu(24), triton=False))
    assert "Triton is not installed" in run("doctor", "--gpu")[1]


@pytest.mark.parametrize("is_right", [True, False])
def test_the_check_of_a_gpu_says_right_or_names_the_wrong_kernel(
    run: Run, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    checks = [KernelCheck("qkv, float32", 1e-6, 1e-4), KernelCheck("draws", 1e-6 if is_right else math.nan, 1e-4)]
    monkeypatch.setattr(gpu_check, "check_gpu", lambda device: iter(checks))
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: machine(gpu(24, name="NVIDIA RTX")))
    status, shown, asides = run("doctor", "--gpu")
    assert (status, asides) == (0 if is_right else 1, "")
    if is_right:
        assert shown.startswith("right: 2 checks of the kernels passed on NVIDIA RTX, in ")
    else:
        wrong = "! wrong: draws: differs by nan, allowed is 0.0001\n1 of 2 checks failed on NVIDIA RTX.\n"
        assert shown == wrong
    status, shown, _ = run("doctor", "--gpu", "--json")
    values = json.loads(shown)
    assert (status, values["right"]) == (0 if is_right else 1, is_right)
    assert [check["right"] for check in values["checks"]] == [True, is_right]
    assert [check["difference"] for check in values["checks"]] == [1e-6, 1e-6 if is_right else None]


def test_amds_gpu_is_shown_with_its_architecture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    radeon = replace(gpu(48, 40, name="AMD Radeon 8060S"), capability=None, architecture="gfx1151", shares_memory=True)
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: machine(radeon, rocm="7.1"))
    shown = run("doctor")[1]
    assert "AMD Radeon 8060S, 40.0 GiB of 48.0 GiB free, shared with the host, gfx1151" in shown
    assert "7.1, untested, usable" in shown
    assert "compute capability" not in shown
