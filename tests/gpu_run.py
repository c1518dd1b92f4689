"""One step of `gpu_run.sh`: checks and measurements of a GPU with random weights. Needs torch and triton only.

`python -m tests.gpu_run STEP [ARGUMENT ...]` appends lines to $OUT/results.jsonl. A step that fails ends with status 1.
With REHEARSE=1 the shapes are small, and the kernels run in Triton's interpreter.
"""

import importlib
import json
import os
import subprocess
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

try:
    import safetensors  # noqa: F401
except ImportError:
    # No file is read here, so the package that reads them may be missing.
    stand_in = types.ModuleType("safetensors")
    vars(stand_in).update(safe_open=None, SafetensorError=OSError)
    sys.modules["safetensors"] = stand_in

from gptoss_cli.engine.benchmark import Spread, Work, fill, fill_cache, measure
from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernel_checks import check_gpu, check_shape
from gptoss_cli.engine.kernels.cuda import CudaKernels
from gptoss_cli.engine.kernels.tuning import overridden, tuning_of
from gptoss_cli.engine.loader import load_random
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.pinned_memory import pinned
from gptoss_cli.engine.profiling import calls_for_token, time_operations
from gptoss_cli.errors import GptossError, first_line
from gptoss_cli.placement import hardware
from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.memory import model_memory
from gptoss_cli.placement.model_config import ModelConfig, published_config
from gptoss_cli.placement.placement import KernelSet, Placement, WeightPlacement
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Execution

REHEARSES = os.environ.get("REHEARSE") == "1"
DEVICE = torch.device("cpu" if REHEARSES else "cuda:0")
OUT = Path(os.environ.get("OUT", "gpu_run"))
SHAPES = {"20b": (24, 32), "120b": (36, 128)}
MOST_BYTES = 11_000
MOST_OF_A_LINE = 160
SPARE_TOKENS = 16
# Lines of a step that the table shows at most; failures come first, and all of them.
MOST_LINES = {"kernels": 24, "tunings": 20}
TUNINGS = (
    "rows=8", "rows=2", "rows=8, warps=8", "rows=2, warps=2", "router_rows=2", "packed_rows=2", "packed_rows=8",
    "keys=32", "splits=16", "splits=64", "pdl=0",
)  # fmt: skip
BYTES = 1 << 20 if REHEARSES else 2 << 30
_STEP = sys.argv[1] if len(sys.argv) > 1 else ""


def report(text: str, *, failed: bool = False) -> None:
    print(text, flush=True)
    with (OUT / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": _STEP, "text": text, "failed": failed}) + "\n")


def is_missing(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return True
    return False


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def config_of(name: str) -> ModelConfig:
    layers, experts = SHAPES[name]
    return check_shape(interpreted=True).config if REHEARSES else published_config(layers=layers, experts=experts)


def opened(name: str, context_tokens: int, *, gpu_gib: int | None = None) -> tuple[Generator, Placement]:
    """Open a model with random weights, wholly on the GPU, or in `gpu_gib` GiB of it."""
    config = config_of(name)
    execution = Execution.MXFP4 if gpu_gib is None else Execution.OFFLOAD
    if REHEARSES:
        count = config.layers * config.experts // (1 if gpu_gib is None else 2)
        weights = WeightPlacement(gpu_experts=count, embedding_on_gpu=gpu_gib is None)
        placement = Placement(
            context_tokens=min(context_tokens, config.max_context_tokens),
            execution=execution,
            kernels=KernelSet.TRITON,
            weights=weights,
            experts=config.layers * config.experts,
            gpu_experts=count,
        )
    else:
        limit = None if gpu_gib is None else gpu_gib << 30
        request = PlacementRequest(execution=execution, context_tokens=context_tokens, gpu_memory_bytes=limit)
        placement = choose(config, hardware.detect(OUT), request)
    began = time.perf_counter()
    generator = load_random(config, placement)
    report(f"{name} {placement.summary}: weights and checked kernels after {time.perf_counter() - began:.1f} s")
    return generator, placement


def spread(values: Spread, factor: float = 1) -> str:
    return f"{values.median * factor:.1f} ({values.lowest * factor:.1f} to {values.highest * factor:.1f})"


def step_env() -> None:
    report(f"Python {sys.version.split()[0]}, torch {torch.__version__}, Triton {triton.__version__}")
    if REHEARSES:
        return
    found = hardware.detect(OUT)
    gpu = found.gpus[0]
    version = f"driver {found.driver}" if found.rocm is None else f"ROCm {found.rocm}"
    report(f"{gpu.name}, {gpu.architecture or gpu.capability}, {version}, {gpu.free_bytes / 2**30:.1f} GiB free")
    bandwidth = "unknown" if gpu.bytes_per_second is None else f"{gpu.bytes_per_second / 1e9:.0f} GB/s"
    report(f"bandwidth by clock and bus: {bandwidth}; {torch.cuda.get_device_properties(0)}")
    report(f"tuning: {tuning_of(DEVICE)}")


def step_checks() -> None:
    began, checks = time.perf_counter(), []
    for check in check_gpu(str(DEVICE)):
        checks.append(check)
        print(f"{'right' if check.is_right else 'WRONG'} {check.words}", flush=True)
        if not check.is_right:
            report(f"wrong: {check.words}", failed=True)
    right = sum(check.is_right for check in checks)
    report(f"{right} of {len(checks)} kernel checks are right, after {time.perf_counter() - began:.0f} s")


def step_memory() -> None:
    """Measure copies within the GPU and over the link, pinning, and the time between two kernels of a graph."""
    there, other = (torch.zeros(BYTES, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    seconds = min(seconds_of(lambda: other.copy_(there)) for _ in range(5))
    report(f"copy within the GPU: {2 * BYTES / seconds / 1e9:.0f} GB/s, read and written")
    host = torch.ones(BYTES, dtype=torch.uint8)
    began = time.perf_counter()
    in_place = pinned(host, DEVICE)
    report(f"copy in host memory and pinning: {BYTES / (time.perf_counter() - began) / 1e9:.1f} GB/s")
    for name, source in (("pageable", host), ("pinned", in_place)):
        seconds = min(seconds_of(lambda source=source: there.copy_(source, non_blocking=True)) for _ in range(3))  # type: ignore[misc]
        report(f"copy of {name} memory to the GPU: {BYTES / seconds / 1e9:.1f} GB/s")
    if DEVICE.type == "cuda":
        small, count = torch.zeros(1, device=DEVICE), 1_000

        def many() -> torch.Tensor:
            for _ in range(count):
                small.add_(1)
            return small

        graph = CudaGraph(many, [])
        seconds = min(seconds_of(lambda: graph.replay([])) for _ in range(5))
        report(f"a tiny kernel of a graph: {1e6 * seconds / count:.2f} us")


def step_speed(name: str, *contexts: str) -> None:
    """Measure decode behind contexts of several lengths, and each operation of a token."""
    prompt, new = (16, 2) if REHEARSES else (512, 128)
    lengths = [32] if REHEARSES else [int(context) for context in contexts]
    generator, _ = opened(name, max(lengths) + prompt + new + SPARE_TOKENS)
    for context in lengths:
        work = Work(
            context_tokens=context,
            prompt_tokens=prompt,
            generated_tokens=new,
            repetitions=1 if REHEARSES else 3,
            operations=True,
        )
        found = measure(generator, work, progress=print)
        report(
            f"{name} behind {context:,}: decode {spread(found.decode)} tok/s, {spread(found.bandwidth_share, 100)} % "
            f"of {found.bandwidth.median / 1e9:.0f} GB/s; prefill of {prompt}: {spread(found.prefill)} tok/s"
        )
        for each in found.operations or ():
            report(f"  {each.name:12s} {1e3 * each.seconds:8.3f} ms {each.bytes / each.seconds / 1e9:7.0f} GB/s")
    if DEVICE.type == "cuda":
        report(f"{name}: at most {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB reserved")


def step_kernels(name: str, context: str) -> None:
    """List the kernels of a decoded token by their time, and the time between them."""
    tokens = 24 if REHEARSES else int(context)
    generator, _ = opened(name, tokens + 100)
    list(generator.prefill([*fill(generator, tokens), 5]))
    new = generator.decode(_greedy(), stop_ids=(), banned_ids=(), max_tokens=24 if DEVICE.type == "cuda" else 3)
    next(new)
    next(new)
    if DEVICE.type != "cuda":
        report(f"{name}: the interpreter has no kernels to list")
        return
    from torch.profiler import ProfilerActivity, profile

    steps = 16
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(steps):
            next(new)
        synchronize()
    trace = OUT / "trace.json"
    profiled.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text("utf-8"))["traceEvents"] if event.get("cat") == "kernel"]
    trace.unlink()
    events.sort(key=lambda event: event["ts"])
    times: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        times[event["name"][:60]].append(event["dur"])
    busy = sum(map(sum, times.values())) / steps
    span = (events[-1]["ts"] + events[-1]["dur"] - events[0]["ts"]) / steps
    count = len(events) / steps
    report(f"{name} behind {tokens:,}: {count:.0f} kernels a token, {busy:.0f} us in kernels of {span:.0f} us")
    for kernel, durations in sorted(times.items(), key=lambda item: -sum(item[1])):
        share = sum(durations) / steps
        report(f"  {share:8.1f} us, {len(durations) / steps:6.1f} times a token: {kernel}")


def _greedy() -> Any:
    from gptoss_cli.generation import Sampling

    return Sampling(seed=0, temperature=0)


def step_prefill(name: str, *lengths: str) -> None:
    tokens = [33] if REHEARSES else [int(length) for length in lengths]
    generator, _ = opened(name, max(tokens) + SPARE_TOKENS)
    size = generator.config.vocabulary_size
    for count in tokens:
        seconds = []
        for number in range(1 if REHEARSES else 3):
            ids = [(number * 7_919 + index * 104_729 + 1) % size for index in range(count)]
            seconds.append(seconds_of(lambda ids=ids: list(generator.prefill(ids))))  # type: ignore[misc]
        report(f"{name} prefill of {count:,}: {count / min(seconds):.0f} tok/s; the first took {seconds[0]:.2f} s")


def step_tunings(name: str) -> None:
    """Time the operations of a token with other block sizes; only those that become faster are reported."""
    generator, _ = opened(name, 600 if REHEARSES else 9_000)
    model, base = generator.model, tuning_of(DEVICE)
    before: dict[str, float] = {}
    for text in ("", *TUNINGS[: 1 if REHEARSES else None]):
        try:
            kernels = CudaKernels(overridden(base, text))
            tuned = Transformer(model.config, model.weights, kernels, model.dtype)
            cache = model.new_cache(32 if REHEARSES else 8_200)
            fill_cache(cache, 16 if REHEARSES else 8_192)
            times = time_operations(calls_for_token(tuned, 7, cache), DEVICE)
        except Exception as exc:  # noqa: BLE001  a compiler may raise anything
            report(f"{text}: {first_line(exc)}", failed=True)
            continue
        found = {each.name: 1e3 * each.seconds for each in times}
        if not before:
            before = found
            report("as it is: " + ", ".join(f"{each} {ms:.3f}" for each, ms in found.items()) + " ms")
            continue
        faster = [f"{each} {ms:.3f}" for each, ms in found.items() if ms < 0.97 * before[each]]
        report(f"{text}: faster in {', '.join(faster) or 'nothing'}")


def step_offload(name: str, gibibytes: str) -> None:
    """Measure with a part of the experts in host memory."""
    generator, placement = opened(name, 32 if REHEARSES else 4_096, gpu_gib=int(gibibytes))
    prompt, new = (16, 2) if REHEARSES else (512, 128)
    work = Work(prompt_tokens=prompt, generated_tokens=new, repetitions=1, operations=False)
    found = measure(generator, work, progress=print)
    rate = generator.expert_hit_rate or 0.0
    link = (1 - rate) * model_memory(generator.config).active_bytes
    report(
        f"{name} in {gibibytes} GiB, {placement.gpu_experts} of {placement.experts} experts there: decode "
        f"{found.decode.median:.1f} tok/s, prefill of {prompt} {found.prefill.median:.0f} tok/s, {rate:.0%} of experts "
        f"found, about {link * found.decode.median / 1e9:.1f} GB/s over the link"
    )


def step_tests() -> None:
    """Run the tests that need a GPU, if pytest and what they import are there."""
    missing = [each for each in ("pytest", "numpy", "safetensors") if is_missing(each)]
    if missing or REHEARSES:
        report(f"the tests with pytest were not run{': there is no ' + missing[0] if missing else ''}")
        return
    options = ["-q", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-rfE"]
    files = ["tests/engine/test_gpu.py", "tests/engine/kernels/test_cuda.py"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *files], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    print(done.stdout, done.stderr)
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            report(line, failed=True)
    report(lines[-1] if lines else "pytest printed nothing", failed=done.returncode != 0)


def step_table() -> None:
    """Print what was reported, failures first, in at most MOST_BYTES."""
    lines = [json.loads(line) for line in (OUT / "results.jsonl").read_text("utf-8").splitlines()]
    shown = [f"FAILED {line['step']}: {line['text']}" for line in lines if line["failed"]]
    counts: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        counts[line["step"]] += 1
        if not line["failed"] and counts[line["step"]] <= MOST_LINES.get(line["step"], 40):
            shown.append(f"{line['step']:8s} {line['text']}")
    print(table(shown))


def table(lines: list[str]) -> str:
    """Return lines of at most MOST_OF_A_LINE characters, as many as fit into MOST_BYTES."""
    text = "\n".join(line[:MOST_OF_A_LINE] for line in lines)
    return text.encode("ascii", "replace")[:MOST_BYTES].decode("ascii")


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    step: Callable[..., None] = globals()[f"step_{_STEP}"]
    try:
        step(*sys.argv[2:])
    except GptossError as exc:
        report(f"{' '.join(sys.argv[1:])}: {exc}", failed=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
