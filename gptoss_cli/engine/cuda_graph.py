"""CUDA graphs: computations that are captured once and replayed for new inputs of the same shapes.

Decode launches several hundred small kernels for each token. The host needs longer to launch them one by one than the
GPU needs to run them; a graph is a single launch.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gptoss_cli.engine.kv_cache import KVCache

Result = TypeVar("Result")


class CudaGraph(Generic[Result]):
    """A captured computation on CUDA tensors. The computation must not wait for the host or copy to or from it."""

    def __init__(self, compute: Callable[..., Result], inputs: Sequence[Tensor]) -> None:
        """Run `compute` once on copies of `inputs`, which compiles its kernels, then capture it."""
        self._inputs = [part.clone() for part in inputs]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with _capturing(self._graph):
            self._output = compute(*self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> Result:
        """Return the result for `inputs`, in the graph's own buffers: the next replay overwrites them."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Capture what this thread launches. Other threads may go on using CUDA.

    A garbage collection could free pinned memory, which is a call that ends the capture with an error.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            yield
    finally:
        if collects:
            gc.enable()


class OneTokenGraph:
    """The layers of a model for one token, as a graph for the cache that was used last.

    A graph holds the addresses of the buffers that it reads and writes, so another cache needs another capture.
    """

    def __init__(self, run_layers: Callable[[Tensor, tuple[Tensor, Tensor], KVCache], Tensor]) -> None:
        self._run_layers = run_layers
        self._captured: tuple[KVCache, CudaGraph[Tensor]] | None = None

    def run(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: KVCache) -> Tensor:
        """Return `run_layers(x, rotation, cache)` for x [1, C], in a buffer that the next run overwrites."""
        if self._captured is None or self._captured[0] is not cache:
            self._captured = None  # first, so that the next graph can use its memory

            def compute(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
                return self._run_layers(x, (cos, sin), cache)

            self._captured = cache, CudaGraph(compute, (x, *rotation))
        return self._captured[1].replay((x, *rotation))
