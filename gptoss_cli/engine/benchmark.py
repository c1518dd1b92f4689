"""The benchmark of a generator: prefill and decode rates, and the memory bandwidth that limits decode.

The bandwidth is measured after each decode, because other programs change it from minute to minute. A long context is
not read, which would take many minutes: its keys and values are drawn at random, and cost as much to attend to.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from gptoss_cli.engine.device_errors import device_errors
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernels.cpu import CpuKernels
from gptoss_cli.engine.kernels.native_library import TimedNative
from gptoss_cli.engine.kv_cache import KVCache
from gptoss_cli.engine.machine_load import OtherLoad
from gptoss_cli.engine.profiling import OperationTime, calls_for_token, kv_bytes, time_operations, weight_bytes
from gptoss_cli.generation import Sampling

_BUFFER_BYTES = 512 * 2**20  # larger than any processor's cache
_MAX_GPU_BUFFER_BYTES = 2 * 2**30
_READS = 3
_READS_BETWEEN_EVENTS = 8
_WARM_UP_TOKENS = 8
_FILL_TOKENS = 4096
_GREEDY = Sampling(seed=0, temperature=0)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and range of several measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarize `values`."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The results of a benchmark. Rates are in tokens per second, bandwidth in bytes per second.

    - `bandwidth_share`: the fraction of the bandwidth, measured after each decode, that the decode reached
    - `context_tokens`: the tokens that were in the KV cache before the prompt
    - `weight_bytes`: the bytes of weights that one token reads
    - `token_bytes`: with the keys and values that it attends to, in the middle of the decode
    - `outside_share`: the fraction of decode time outside the native kernels; None without native kernels
    - `process_age_seconds`: the age of the process at its first token; None if the system does not report it
    - `anonymous_bytes`: memory other than mapped files; None if the system does not report it
    - `gpu_bytes`: the largest allocation on the GPU; None without a GPU
    - `expert_hit_rate`: see TokenGenerator.expert_hit_rate
    - `other_cores`: how many cores other programs kept busy meanwhile; None if the system does not report it
    - `operations`: the times of a token after the prompt; None if they were not requested
    """

    context_tokens: int
    prompt_tokens: int
    generated_tokens: int
    repetitions: int
    prefill: Spread
    decode: Spread
    bandwidth: Spread
    bandwidth_share: Spread
    weight_bytes: int
    token_bytes: int
    outside_share: float | None
    process_age_seconds: float | None
    anonymous_bytes: int | None
    gpu_bytes: int | None
    expert_hit_rate: float | None
    other_cores: float | None
    operations: list[OperationTime] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work to measure: a prompt and a decode behind `context_tokens` cached tokens, repeated."""

    context_tokens: int = 0
    prompt_tokens: int
    generated_tokens: int
    repetitions: int
    operations: bool


def measure(generator: Generator, work: Work, *, progress: Callable[[str], None]) -> Benchmark:
    """Measure `generator`. `progress` is called with each step.

    Raises ResourceError if the context is too short, or if the device has too little memory or fails.
    """
    with device_errors():
        return _measure(generator, work, progress)


def _measure(generator: Generator, work: Work, progress: Callable[[str], None]) -> Benchmark:
    prompt_tokens, generated_tokens = work.prompt_tokens, work.generated_tokens
    progress("Reading a first prompt")
    _decode_seconds(generator, _prompt(generator, 10, 0), 1)
    age = _process_age_seconds()
    context = fill(generator, work.context_tokens)
    _decode_seconds(generator, context + _prompt(generator, prompt_tokens, 1), _WARM_UP_TOKENS)
    memory = _anonymous_bytes()
    gpu_bytes, buffer = _gpu_bytes(generator.model.device), _buffer(generator.model.device)
    prefill, decode, bandwidth = [], [], []
    load = OtherLoad()
    for number in range(work.repetitions):
        progress(f"Measuring, {number + 1} of {work.repetitions}")
        prompt = _prompt(generator, prompt_tokens, number + 2)
        read_seconds, seconds = _decode_seconds(generator, context + prompt, generated_tokens)
        prefill.append(prompt_tokens / read_seconds)
        decode.append(generated_tokens / seconds)
        bandwidth.append(_bandwidth(generator, buffer))
    other_cores = load.cores()
    weights = weight_bytes(generator.model)
    token_bytes = weights + kv_bytes(generator.sequence.cache, len(context) + prompt_tokens + generated_tokens // 2)
    return Benchmark(
        context_tokens=len(context),
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        repetitions=work.repetitions,
        prefill=Spread.of(prefill),
        decode=Spread.of(decode),
        bandwidth=Spread.of(bandwidth),
        bandwidth_share=Spread.of([rate * token_bytes / most for rate, most in zip(decode, bandwidth, strict=True)]),
        weight_bytes=weights,
        token_bytes=token_bytes,
        outside_share=_outside_share(generator, generated_tokens),
        process_age_seconds=age,
        anonymous_bytes=memory,
        gpu_bytes=gpu_bytes,
        expert_hit_rate=generator.expert_hit_rate,
        other_cores=other_cores,
        operations=_operations(generator, len(context) + prompt_tokens) if work.operations else None,
    )


def fill(generator: Generator, tokens: int) -> list[int]:
    """Fill the empty KV cache of `generator` with random keys and values of `tokens` tokens -> their ids."""
    if not tokens:
        return []
    ids, sequence, config = _prompt(generator, tokens, 1), generator.sequence, generator.config
    generator.stepper.settle()
    sequence.clear()
    fill_cache(sequence.cache, tokens)
    sequence.restore(ids, torch.ones(1, config.hidden_size, dtype=torch.float32, device=generator.model.device))
    return ids


def fill_cache(cache: KVCache, tokens: int) -> None:
    """Draw the keys and values of the first `tokens` positions of an empty cache, a part of them at a time."""
    torch.manual_seed(0)
    for layer in cache.layers:
        slots = min(tokens, layer.slots(tokens))
        for buffer in layer.buffers():
            for start in range(0, slots, _FILL_TOKENS):
                buffer[start : min(slots, start + _FILL_TOKENS)].normal_()
    cache.advance(tokens)


def _prompt(generator: Generator, tokens: int, number: int) -> list[int]:
    """Return prompt `number`. No two prompts have a common prefix, which would not be read again."""
    size = generator.config.vocabulary_size
    return [(number * 7919 + index * 104_729) % size for index in range(tokens)]


def _decode_seconds(generator: Generator, ids: list[int], tokens: int) -> tuple[float, float]:
    """Return the seconds for reading `ids`, and for decoding `tokens` tokens after them."""
    start = time.perf_counter()
    list(generator.prefill(ids))
    if generator.model.device.type == "cuda":
        torch.cuda.synchronize(generator.model.device)
    prefilled = time.perf_counter()
    new = generator.decode(_GREEDY, stop_ids=(), banned_ids=(), max_tokens=tokens + 1)
    next(new)  # drawn from the logits of the prefill
    first = time.perf_counter()
    for _ in new:
        pass
    return prefilled - start, time.perf_counter() - first


def _buffer(device: torch.device) -> torch.Tensor:
    """Return a buffer to read, on a GPU half of what is free, because a model may have filled it to plan."""
    size = _BUFFER_BYTES
    if device.type == "cuda":
        torch.cuda.empty_cache()
        size = min(_MAX_GPU_BUFFER_BYTES, torch.cuda.mem_get_info(device)[0] // 2)
    return torch.ones(size // 8, dtype=torch.int64, device=device)


def _bandwidth(generator: Generator, buffer: torch.Tensor) -> float:
    """Return the bytes per second of the fastest of a few reads of `buffer`."""
    kernels = generator.model.kernels
    if buffer.device.type == "cuda":
        return buffer.nbytes / min(_gpu_read_seconds(buffer) for _ in range(_READS))

    def read() -> None:
        if isinstance(kernels, CpuKernels):
            kernels.native.read(buffer.data_ptr(), buffer.numel(), kernels.threads)
        else:
            buffer.sum().item()  # waits for a GPU

    seconds = []
    for _ in range(_READS):
        start = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - start)
    return buffer.nbytes / min(seconds)


def _gpu_read_seconds(buffer: torch.Tensor) -> float:
    """Return the time of one of several reads in a row, by the GPU's own clock, because a launch takes long."""
    values = buffer.view(torch.float32)
    with torch.cuda.device(buffer.device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(_READS_BETWEEN_EVENTS):
            values.sum()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / _READS_BETWEEN_EVENTS


def _outside_share(generator: Generator, tokens: int) -> float | None:
    """Decode once more with a library that times its functions."""
    kernels = generator.model.kernels
    if not isinstance(kernels, CpuKernels):
        return None
    native = kernels.native
    timed = TimedNative(native.path)
    ids = _prompt(generator, 10, 0)
    list(generator.prefill(ids))
    try:
        new = generator.decode(_GREEDY, stop_ids=(), banned_ids=(), max_tokens=tokens + 1)
        next(new)
        kernels.native = timed
        start = time.perf_counter()
        for _ in new:
            pass
        return 1 - timed.seconds / (time.perf_counter() - start)
    finally:
        kernels.native = native


def _operations(generator: Generator, tokens: int) -> list[OperationTime]:
    """Time the operations of the token after `tokens` others."""
    model = generator.model
    cache = model.new_cache(tokens + 1)
    fill_cache(cache, tokens)
    calls = calls_for_token(model, _prompt(generator, 1, 1)[0], cache)
    if not isinstance(model.kernels, CpuKernels):
        return time_operations(calls, model.device)
    return time_operations(calls, model.device, model.kernels.native, model.kernels.threads)


def _process_age_seconds() -> float | None:
    """Return the age of this process (Linux, proc(5): field 22 of stat is its start in clock ticks after boot)."""
    try:
        fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text("utf-8").split()[0])
        return up - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return None


def _anonymous_bytes() -> int | None:
    """Return the memory of this process other than mapped files (Linux, proc(5): RssAnon)."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith("RssAnon:")), None)
    return None if found is None else int(found[1]) * 1024


def _gpu_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
