"""`gptoss bench` reports rates, the bytes per token, and the numerics that were measured."""

import json
from pathlib import Path

import pytest

from gptoss_cli.cli.bench import _limit, _rows
from gptoss_cli.engine import loader
from gptoss_cli.engine.benchmark import Benchmark, Spread
from gptoss_cli.engine.profiling import OperationTime
from gptoss_cli.generation import Numerics
from tests.cli.conftest import Run
from tests.engine.checkpoints import Shape, write_checkpoint
from tests.placement.machines import machine

SMALL = ("--prompt", "20", "--generate", "3", "--repeat", "2", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), Shape())


@pytest.mark.parametrize("dense", ["bf16", "int8"])
def test_a_pipe_gets_one_object_with_rates_and_numerics(run: Run, folder: Path, dense: str) -> None:
    status, out, _ = run("bench", str(folder), *SMALL, "--dense", dense)
    assert status == 0
    found = json.loads(out)
    assert (found["prompt_tokens"], found["generated_tokens"], found["repetitions"]) == (20, 3, 2)
    assert found["numerics"]["dense"] == dense
    for name in ("prefill", "decode", "bandwidth", "bandwidth_share"):
        assert 0 < found[name]["lowest"] <= found[name]["median"] <= found[name]["highest"]


def test_bytes_per_token_are_those_of_the_shape(run: Run, folder: Path) -> None:
    shape = Shape()
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    dense = 2 * shape.hidden * (2 * query + 2 * key_value + shape.experts)
    expert = 3 * shape.intermediate * shape.hidden * 17 // 32
    layer = dense + shape.active * expert
    _, out, _ = run("bench", str(folder), *SMALL)
    assert json.loads(out)["weight_bytes"] == len(shape.layer_types) * layer + 2 * shape.vocabulary * shape.hidden


def test_each_operation_is_timed_and_together_they_read_what_a_token_reads(run: Run, folder: Path) -> None:
    _, out, _ = run("bench", str(folder), *SMALL, "--kernels")
    found = json.loads(out)
    times = {operation["name"]: operation for operation in found["operations"]}
    assert list(times) == ["qkv", "attention", "output", "router", "experts", "unembedding"]
    assert all(operation["seconds"] > 0 for operation in times.values())
    read = sum(operation["bytes"] for operation in times.values())
    assert read == found["weight_bytes"] + times["attention"]["bytes"]
    shape, seen = Shape(), 0
    for kind in shape.layer_types:
        seen += min(21, shape.window) if kind == "sliding_attention" else 21
    assert times["attention"]["bytes"] == seen * 2 * 2 * shape.kv_heads * shape.head_dim


def test_a_context_is_in_the_cache_and_counted_but_not_read(run: Run, folder: Path) -> None:
    status, out, _ = run("bench", str(folder), *SMALL, "--context", "100", "--kernels")
    assert status == 0
    found, shape = json.loads(out), Shape()
    seen = sum(min(122, shape.window) if kind == "sliding_attention" else 122 for kind in shape.layer_types)
    assert found["token_bytes"] - found["weight_bytes"] == seen * 2 * 2 * shape.kv_heads * shape.head_dim
    assert found["context_tokens"] == 100
    assert {operation["name"]: operation["bytes"] for operation in found["operations"]}["attention"] > 0


def test_random_weights_of_a_shape_are_measured_without_a_checkpoint(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    status, out, _ = run("bench", "--random-weights", str(tmp_path), *SMALL, "--context", "40", "--kernels")
    found, real = json.loads(out), json.loads(run("bench", str(folder), *SMALL)[1])
    assert (status, found["random_weights"], real["random_weights"]) == (0, True, False)
    assert found["model"] == f"{tmp_path} with random weights"
    assert found["weight_bytes"] == real["weight_bytes"]
    assert len(found["operations"]) == 6
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


def test_a_model_and_random_weights_contradict_each_other(run: Run, folder: Path) -> None:
    status, out, error = run("bench", str(folder), "--random-weights", "20b")
    assert (status, out) == (2, "")
    assert "give one of the two" in error


def test_random_weights_that_do_not_fit_in_memory_exit_6(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptoss_cli.placement.hardware.detect", lambda data_folder: machine(ram=8, available=6))
    status, out, error = run("bench", "--random-weights", "120b", "--prompt", "16", "--generate", "2", "--repeat", "1")
    assert (status, out) == (6, "")
    assert "Random weights of this shape need" in error


def test_without_the_option_no_operation_is_timed(run: Run, folder: Path) -> None:
    _, out, _ = run("bench", str(folder), *SMALL)
    assert json.loads(out)["operations"] is None


def test_the_table_names_the_limit_of_decode() -> None:
    found = Benchmark(
        context_tokens=0,
        prompt_tokens=512,
        generated_tokens=64,
        repetitions=5,
        prefill=Spread(20, 19, 21),
        decode=Spread(8, 7, 9),
        bandwidth=Spread(32e9, 31e9, 33e9),
        bandwidth_share=Spread(0.9, 0.85, 0.95),
        weight_bytes=4_000_000_000,
        token_bytes=4_000_000_000,
        outside_share=0.02,
        process_age_seconds=2.5,
        anonymous_bytes=2**29,
        gpu_bytes=None,
        expert_hit_rate=None,
        other_cores=0.4,
        operations=[OperationTime("experts", 0.05, 800_000_000)],
    )
    numerics = Numerics("avx2", "int16", "bf16", 2)
    assert _limit(found, numerics).endswith("memory allows 8.0 tokens/s. Decode is limited by memory.")
    rows = _rows("20b", 0.5, found, numerics)
    assert rows["model"] == "20b, avx2 kernels, int16 activations, bf16 dense weights, 2 threads"
    chosen = Numerics("avx2", "int16", "bf16", 2, chosen_by="GPTOSS_CPU_KERNELS")
    assert _rows("20b", 0.5, found, chosen)["model"] == f"{rows['model']} (avx2 chosen by GPTOSS_CPU_KERNELS)"
    assert rows["experts, all layers"] == "50.00 ms, 16.0 GB/s, 50% of the bandwidth"
    assert rows["decode of 64 tokens"] == "8.0 (7.0 to 9.0) tokens/s"
    missing = Numerics("reference", "bfloat16", "bf16", 2, shortcoming="The CPU kernels were not built")
    assert _limit(found, missing).endswith("The CPU kernels were not built.")


@pytest.mark.parametrize("wrong", [("--prompt", "3"), ("--threads", "0"), ("--dense", "int4"), ("a", "b")])
def test_a_wrong_argument_exits_2(run: Run, wrong: tuple[str, ...]) -> None:
    status, out, error = run("bench", *wrong)
    assert (status, out) == (2, "")
    assert error.startswith("gptoss: ")


def test_without_the_native_library_there_is_one_notice(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "find_kernels", lambda *_: "The CPU kernels were not built. Install a C compiler")
    _, _, error = run("ask", "-m", str(folder), "Hello")
    notice = "The CPU kernels were not built. Install a C compiler. Until then the model runs slowly."
    assert [line for line in error.splitlines() if "kernels" in line] == [notice]
    _, out, _ = run("bench", str(folder), "--prompt", "16", "--generate", "2", "--repeat", "1")
    assert '"shortcoming": "The CPU kernels were not built' in out
