"""A computation on a GPU that is recorded once, as a CUDA graph, and replayed for other inputs of the same shapes."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class CudaGraph(Generic[Made]):
    """What `compute` does with tensors on a CUDA device, without asking anything of the host on the way."""

    def __init__(self, compute: Callable[..., Made], inputs: Sequence[Tensor]) -> None:
        """Run `compute` on copies of `inputs`, so that all its kernels are built, then record it."""
        self._inputs = [part.clone() for part in inputs]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = compute(*self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> Made:
        """The result for `inputs`, in buffers that the next replay writes again."""
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._output
