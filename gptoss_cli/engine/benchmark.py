"""How fast a generator is here, against how fast this machine reads memory in the same minutes."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.interface import Sampling
from gptoss_cli.engine.kernels.cpu import CpuKernels
from gptoss_cli.engine.kernels.library import WatchedNative
from gptoss_cli.engine.operations import OperationTime, time_operations

_BUFFER_BYTES = 512 * 2**20  # far more than any cache holds
_READS = 3
_ORDINARY_IDS = 199_998
_WARM_TOKENS = 8
_CHUNK_TOKENS = 512
_GREEDY = Sampling(seed=0, temperature=0)


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Rates in tokens a second, bandwidth in bytes a second, shares of 1.

    `bandwidth_share` is of the bandwidth that was measured right after each decode. `outside_share` is how much of
    decoding is not spent in the native kernels, None without them. `process_age_seconds` at the first token, and
    `anonymous_bytes`, memory that is no mapped file, are None where the system does not tell; so is `gpu_bytes`, the
    most that was allocated, without a GPU, and `expert_hit_rate` where all experts are in its memory. `operations` are
    those of a token after the prompt, None if they were not wanted.
    """

    prompt_tokens: int
    generated_tokens: int
    repetitions: int
    prefill: Spread
    decode: Spread
    bandwidth: Spread
    bandwidth_share: Spread
    token_bytes: int
    outside_share: float | None
    process_age_seconds: float | None
    anonymous_bytes: int | None
    gpu_bytes: int | None
    expert_hit_rate: float | None
    operations: list[OperationTime] | None = None


def measure(
    generator: Generator,
    *,
    prompt_tokens: int,
    generated_tokens: int,
    repetitions: int,
    operations: bool,
    say: Callable[[str], None],
) -> Benchmark:
    """Measure `generator`; `say` is told what is being done. Raises ResourceError if the context is too short."""
    say("Reading a first prompt")
    _decode_seconds(generator, _prompt(generator, 10, 0), 1)
    age = _process_age_seconds()
    _decode_seconds(generator, _prompt(generator, prompt_tokens, 1), _WARM_TOKENS)
    memory = _anonymous_bytes()
    buffer = torch.ones(_BUFFER_BYTES // 8, dtype=torch.int64, device=generator.model.device)
    prefill, decode, bandwidth = [], [], []
    for number in range(repetitions):
        say(f"Measuring, {number + 1} of {repetitions}")
        read_seconds, seconds = _decode_seconds(
            generator, _prompt(generator, prompt_tokens, number + 2), generated_tokens
        )
        prefill.append(prompt_tokens / read_seconds)
        decode.append(generated_tokens / seconds)
        bandwidth.append(_bandwidth(generator, buffer))
    token_bytes = generator.model.decode_bytes()
    return Benchmark(
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        repetitions=repetitions,
        prefill=Spread.of(prefill),
        decode=Spread.of(decode),
        bandwidth=Spread.of(bandwidth),
        bandwidth_share=Spread.of([rate * token_bytes / most for rate, most in zip(decode, bandwidth, strict=True)]),
        token_bytes=token_bytes,
        outside_share=_outside_share(generator, generated_tokens),
        process_age_seconds=age,
        anonymous_bytes=memory,
        gpu_bytes=_gpu_bytes(generator.model.device),
        expert_hit_rate=generator.expert_hit_rate,
        operations=_operations(generator, prompt_tokens) if operations else None,
    )


def _prompt(generator: Generator, tokens: int, number: int) -> list[int]:
    """Ids of which no two prompts begin alike."""
    most = min(generator.config.vocabulary_size, _ORDINARY_IDS)
    return [(number * 7919 + index * 104_729) % most for index in range(tokens)]


def _decode_seconds(generator: Generator, ids: list[int], tokens: int) -> tuple[float, float]:
    """How long it takes to read `ids`, and then to run `tokens` new ones."""
    began = time.perf_counter()
    list(generator.prefill(ids))
    if generator.model.device.type == "cuda":
        torch.cuda.synchronize(generator.model.device)
    read = time.perf_counter()
    new = generator.decode(_GREEDY, stop_ids=(), banned_ids=(), max_tokens=tokens + 1)
    next(new)  # drawn from what prefill left
    first = time.perf_counter()
    for _ in new:
        pass
    return read - began, time.perf_counter() - first


def _bandwidth(generator: Generator, buffer: torch.Tensor) -> float:
    """Bytes a second, the best of a few reads of `buffer`."""
    kernels = generator.model.kernels

    def read() -> None:
        if isinstance(kernels, CpuKernels):
            kernels.native.read(buffer.data_ptr(), buffer.numel(), kernels.threads)
        else:
            buffer.sum().item()  # which waits for a GPU

    seconds = []
    for _ in range(_READS):
        began = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - began)
    return buffer.nbytes / min(seconds)


def _outside_share(generator: Generator, tokens: int) -> float | None:
    kernels = generator.model.kernels
    if not isinstance(kernels, CpuKernels):
        return None
    native = kernels.native
    watched = WatchedNative(native.path)
    ids = _prompt(generator, 10, 0)
    list(generator.prefill(ids))
    try:
        new = generator.decode(_GREEDY, stop_ids=(), banned_ids=(), max_tokens=tokens + 1)
        next(new)
        kernels.native = watched
        began = time.perf_counter()
        for _ in new:
            pass
        return 1 - watched.seconds / (time.perf_counter() - began)
    finally:
        kernels.native = native


def _operations(generator: Generator, prompt_tokens: int) -> list[OperationTime]:
    model, ids = generator.model, _prompt(generator, prompt_tokens, 0)
    cache = model.new_cache(prompt_tokens + 1)
    for start in range(0, prompt_tokens, _CHUNK_TOKENS):
        model.read(ids[start : start + _CHUNK_TOKENS], cache)
    return time_operations(model.calls_of_token(ids[-1], cache), model.device)


def _process_age_seconds() -> float | None:
    """Since when this process runs (Linux, proc(5): field 22 of stat, in clock ticks after the boot)."""
    try:
        fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text("utf-8").split()[0])
        return up - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return None


def _anonymous_bytes() -> int | None:
    """This process's memory that is no mapped file (Linux, proc(5): RssAnon)."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith("RssAnon:")), None)
    return None if found is None else int(found[1]) * 1024


def _gpu_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) - _BUFFER_BYTES if device.type == "cuda" else None
