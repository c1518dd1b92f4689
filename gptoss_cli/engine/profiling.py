"""A profiler for decode: the time and the bytes that each operation of one token takes, summed over all layers.

The kernel calls of one token are recorded and then repeated, one operation at a time.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from gptoss_cli.engine.cuda_graph import CudaGraph
from gptoss_cli.engine.kernels.native_library import Native
from gptoss_cli.engine.kernels.protocol import Kernels
from gptoss_cli.engine.kv_cache import KVCache, LayerCache
from gptoss_cli.engine.model import Transformer

_REPETITIONS = 7
_NAMES = {
    "project_qkv": "qkv",
    "attend": "attention",
    "project_output": "output",
    "route": "router",
    "mix_experts": "experts",
    "unembed": "unembedding",
}
KernelCall = partial[Any]


@dataclass(frozen=True, slots=True)
class OperationTime:
    """The time of an operation for one token, and the bytes of weights, keys and values that it read.

    `busy_share` is the part of the threads' time in which they worked: the rest is waiting for the slowest thread, and
    work that one thread does alone. None for an operation of one thread, and on a GPU.
    """

    name: str
    seconds: float
    bytes: int
    busy_share: float | None = None


class CallRecorder:
    """A wrapper of kernels that records every call. It is not a LayerDecoder, so every operation is called."""

    _OPERATIONS = frozenset({"embed", *_NAMES})

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self.calls: defaultdict[str, list[KernelCall]] = defaultdict(list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self._OPERATIONS:
            raise AttributeError(name)

        def operation(*arguments: Any, **options: Any) -> Any:
            call = partial(getattr(self._kernels, name), *arguments, **options)
            self.calls[name].append(call)
            return call()

        return operation


def weight_bytes(model: Transformer) -> int:
    """Return the bytes of weights that one token reads."""
    active = model.config.active_experts / model.config.experts
    total = float(model.weights.unembedding.nbytes)
    for layer in model.weights.layers:
        attention, mlp = layer.attention, layer.mlp
        linears = (attention.query, attention.key, attention.value, attention.output, mlp.router)
        total += sum(linear.weight.nbytes for linear in linears)
        total += sum(experts.nbytes for experts in (mlp.gate_up, mlp.down)) * active
    return round(total)


def kv_bytes(cache: KVCache, position: int) -> int:
    """Return the bytes of keys and values that the token at `position` attends to, in all layers."""
    return sum(_attended_bytes(layer, position) for layer in cache.layers)


def _attended_bytes(layer: LayerCache, position: int) -> int:
    keys, values = layer.buffers()
    return int(min(position + 1, len(keys)) * (keys[0].nbytes + values[0].nbytes))


def calls_for_token(model: Transformer, id_: int, cache: KVCache) -> dict[str, list[KernelCall]]:
    """Return the kernel calls, by operation, for token `id_` after those in `cache`. Repeating them changes `cache`."""
    recorder = CallRecorder(model.kernels)
    recorded = Transformer(model.config, model.weights, cast(Kernels, recorder), model.dtype)
    recorded.unembed(recorded.forward([id_], cache))
    return recorder.calls


def time_operations(
    calls: dict[str, list[KernelCall]], device: torch.device, native: Native | None = None, threads: int = 1
) -> list[OperationTime]:
    """Repeat the calls of one token, one operation after the other, and return the median time of each.

    With the `native` library that runs them on several `threads`, the busy share of the threads is measured too.

    An operation runs in all layers before it is repeated, so that the processor's cache holds no more weights than in a
    real decode. On a GPU each operation is a CUDA graph, so that nothing waits for the host.
    """
    times = []
    for name, label in _NAMES.items():
        worked, began = native.work_seconds() if native else 0.0, time.perf_counter()
        seconds = _seconds(calls[name], device)
        elapsed = time.perf_counter() - began
        worked = native.work_seconds() - worked if native else 0.0
        # An operation that is too small for several threads does not use the pool.
        busy = worked / (elapsed * threads) if worked else None
        times.append(OperationTime(label, seconds, sum(map(_bytes, calls[name])), busy))
    return times


def _seconds(calls: list[KernelCall], device: torch.device) -> float:
    if device.type == "cuda":
        return _graph_seconds(calls, device)
    seconds = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        for call in calls:
            call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _graph_seconds(calls: list[KernelCall], device: torch.device) -> float:
    unused = torch.zeros(1, device=device)

    def run_all() -> Tensor:
        for call in calls:
            call()
        return unused

    with torch.cuda.device(device):
        graph = CudaGraph(run_all, [])
        seconds = list[float]()
        for _ in range(_REPETITIONS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            graph.replay([])
            end.record()
            end.synchronize()
            seconds.append(float(begin.elapsed_time(end)) / 1000)
    return statistics.median(seconds)


def _bytes(call: KernelCall) -> int:
    """Return the bytes of weights and cache that a call for one token reads. Its inputs are small against them."""
    name, arguments, options = call.func.__name__, call.args, call.keywords
    if name == "attend":
        _, _, _, cache = arguments
        return _attended_bytes(cache, options["position"])
    if name == "unembed":
        return int(arguments[2].nbytes)
    weights = arguments[-1]
    if name == "mix_experts":
        (_, chosen, _), experts = arguments[1], (weights.gate_up, weights.down)
        return int(sum(part.nbytes for part in experts) * chosen.shape[1] / len(weights.router.weight))
    linears = {
        "project_qkv": ("query", "key", "value"),
        "project_output": ("output",),
        "route": ("router",),
    }[name]
    return sum(getattr(weights, linear).weight.nbytes for linear in linears)
