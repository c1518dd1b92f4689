"""A fake CUDA GPU for tests on machines without one: tensors with a device and a shape but without values.

Everything that a GPU would refuse fails here too: tensors on different devices, kernels with tensors in host memory,
and, while a CUDA graph is captured, everything that makes the host wait or copies to or from it. Kernels do not run:
each launch is recorded with its arguments.
"""

import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gptoss_cli.checkpoint.header import read_header
from gptoss_cli.engine import pinned_memory, weights
from gptoss_cli.engine.kernels import (
    reference,
    triton_decode,
    triton_experts,
    triton_offload,
    triton_prefill,
    triton_sampling,
)
from gptoss_cli.engine.kernels.compilation import is_compiling

# The GPU sees host memory this much further up, as under Windows.
HOST_OFFSET = 3 << 44
_HOST, _DEVICE = 1 << 44, 1 << 45
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "launch_pdl")
# The shapes of their results depend on values, so the host has to wait for them.
_SHAPED_BY_VALUES = ("nonzero", "masked_select", "bincount", "_unique2", "unique_consecutive")
_KINDS = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}


class CaptureError(RuntimeError):
    """Something that must not happen while a CUDA graph is captured."""


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: the types of its arguments in Triton's notation, its constants and options."""

    name: str
    kinds: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    integers: tuple[tuple[str, bool, bool], ...]  # the specialized ones: equal to 1, divisible by 16
    captured: bool

    @property
    def variant(self) -> tuple[Any, ...]:
        """Equal for launches that Triton compiles once."""
        parts = self.kinds, self.constants, self.options
        return self.name, *(tuple(sorted(part.items())) for part in parts), self.integers


@dataclass
class FakeCuda:
    """The record of everything that happened on the GPU."""

    launches: list[Launch] = field(default_factory=list, repr=False)
    compiled: list[Launch] = field(default_factory=list, repr=False)  # ahead, without a launch
    streams: int = 0
    replays: int = 0
    reads: Counter[str] = field(default_factory=Counter)  # of the GPU's memory by the host
    capturing: bool = False
    _tensors_in: Counter[int] = field(default_factory=Counter, repr=False)  # by storage
    capture_modes: set[str] = field(default_factory=set)
    used_bytes: int = 0  # by tensors on the GPU that exist
    most_bytes: int = 0

    def host_waits(self, name: str) -> None:
        """Note that the host waits for the GPU."""
        if self.capturing:
            raise CaptureError(f"the host waits for {name}")
        self.reads[name] += 1

    def copied(self, source: Tensor, device: torch.device | str | None, non_blocking: bool) -> None:
        """Note a copy of `source` to `device`."""
        if device is None or torch.device(device).type == source.device.type:
            return
        if self.capturing:
            raise CaptureError(f"a copy from {source.device} to {device}")
        if source.is_cuda and not non_blocking:
            self.reads["copy"] += 1

    def holds(self, results: Any) -> None:
        """Count the memory of tensors on the GPU until the last one in it is gone."""
        for part in _flat(results):
            if isinstance(part, Tensor) and part.is_cuda:
                storage = part.untyped_storage()
                key = storage._cdata
                if not self._tensors_in[key]:
                    self.used_bytes += storage.nbytes()
                    self.most_bytes = max(self.most_bytes, self.used_bytes)
                self._tensors_in[key] += 1
                weakref.finalize(part, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._tensors_in[key] -= 1
        if not self._tensors_in[key]:
            self.used_bytes -= size

    def variants(self) -> set[tuple[Any, ...]]:
        """Return the variants of all launches, of which each is compiled once."""
        return {launch.variant for launch in self.launches}

    def compiled_variants(self) -> set[tuple[Any, ...]]:
        """Return the variants that were compiled before a launch needed them."""
        return {launch.variant for launch in self.compiled}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation before the fake tensors run it. A number that the host reads is 0."""

    def __init__(self, gpu: FakeCuda) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        kwargs.pop("pin_memory", None)  # meta tensors have no such argument
        tensors = [part for part in _flat((args, kwargs)) if isinstance(part, Tensor)]
        devices = {part.device.type for part in tensors if part.dim() or part.is_cuda}
        if name == "_to_copy":
            self._gpu.copied(args[0], kwargs.get("device"), bool(kwargs.get("non_blocking")))
        elif self._gpu.capturing and devices == {"cpu", "cuda"}:
            raise CaptureError(f"{name} reads host memory")
        if name == "_local_scalar_dense":
            return self._read(args[0])
        if name in _SHAPED_BY_VALUES and "cuda" in devices:
            self._gpu.host_waits(name)
        results = func(*args, **kwargs)
        self._gpu.holds(results)
        return results

    def _read(self, part: Tensor) -> int | float | bool:
        if part.is_cuda:
            self._gpu.host_waits("item")
        return 0.0 if part.is_floating_point() else False if part.dtype is torch.bool else 0


_NUMBERS: dict[Any, Callable[[Any], Any]] = {
    Tensor.__float__: float,
    Tensor.__int__: int,
    Tensor.__index__: int,
    Tensor.__bool__: bool,
    Tensor.item: lambda number: number,
}


class _Methods(TorchFunctionMode):
    """Replaces methods of tensors that ask torch for the device, which a build without CUDA does not support."""

    def __init__(self, gpu: FakeCuda) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.nonzero or (func is Tensor.__getitem__ and getattr(args[1], "dtype", None) is torch.bool):
            self._gpu.host_waits("nonzero")
        if func is Tensor.__getitem__:
            view, indices = _indexed(*args)
            return view if indices is None else torch.ops.aten.index(view, indices)
        if func is Tensor.__setitem__:
            view, indices = _indexed(args[0], args[1])
            value = args[2] if isinstance(args[2], Tensor) else torch.full((), args[2], dtype=view.dtype)
            return self._copy(view, value) if indices is None else torch.ops.aten.index_put(view, indices, value)
        if func in _NUMBERS:
            return _NUMBERS[func](torch.ops.aten._local_scalar_dense(args[0]))
        if func is Tensor.contiguous:
            return args[0] if args[0].is_contiguous() else args[0].clone(memory_format=torch.contiguous_format)
        return self._copy(*args, **(kwargs or {})) if func is Tensor.copy_ else func(*args, **(kwargs or {}))

    def _copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        source.expand(target.shape)
        self._gpu.copied(source, target.device, non_blocking)
        return target


def _indexed(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None] | None]:
    """Apply the integers, slices, None and Ellipsis of an index -> the view, and the remaining index tensors."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, (Tensor, list))]:
        at = next(number for number, part in enumerate(parts) if part is Ellipsis)
        missing = tensor.dim() - sum(part is not None for part in parts) + 1
        parts[at : at + 1] = [slice(None)] * missing
    view, dim, left = tensor, 0, dict[int, Tensor]()
    for part in parts:
        if isinstance(part, int):
            view = view.select(dim, part)
            continue
        if part is None:
            view = view.unsqueeze(dim)
        elif isinstance(part, slice):
            view = torch.ops.aten.slice(view, dim, part.start, part.stop, part.step or 1)
        else:
            left[dim] = part if isinstance(part, Tensor) else torch.tensor(part)
        dim += 1
    return view, [left.get(number) for number in range(max(left) + 1)] if left else None


def _flat(part: Any) -> Iterator[Any]:
    if isinstance(part, dict):
        part = tuple(part.values())
    if isinstance(part, (list, tuple)):
        for inner in part:
            yield from _flat(inner)
    else:
        yield part


class FakeKernel:
    """A replacement for a Triton kernel that records its launches."""

    def __init__(self, gpu: FakeCuda, name: str, kernel: Any) -> None:
        self._gpu, self._name, self._signature = gpu, name, inspect.signature(kernel.fn)
        self._kept = set(kernel.kwargs.get("do_not_specialize") or ())

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(isinstance(size, int) and 0 < size < 2**31 for size in grid), (self._name, grid)
        assert all(size < 2**16 for size in grid[1:]), (self._name, grid)
        return self._launch

    def _launch(self, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        given = self._signature.bind(*args, **kwargs).arguments
        constants = {name for name, each in self._signature.parameters.items() if "constexpr" in str(each.annotation)}
        kinds = {name: _kind(self._name, name, value) for name, value in given.items() if name not in constants}
        integers = [name for name, kind in kinds.items() if kind == "i32" and name not in self._kept]
        (self._gpu.compiled if is_compiling() else self._gpu.launches).append(
            Launch(
                self._name,
                kinds,
                {name: given[name] for name in given if name in constants},
                options,
                tuple((name, given[name] == 1, given[name] % 16 == 0) for name in integers),
                self._gpu.capturing,
            )
        )


def _kind(kernel: str, name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        assert value.is_cuda, f"{kernel}: {name} is in host memory"
        assert value.is_contiguous(), f"{kernel}: {name} is not contiguous"
        return f"*{_KINDS[value.dtype]}"
    assert isinstance(value, (int, float)), f"{kernel}: {name} is {value!r}"
    return "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"


class _Runtime:
    """The part of the CUDA runtime that torch offers and the engine uses."""

    @staticmethod
    def cudaHostRegister(address: int, size: int, flags: int) -> int:  # noqa: N802
        return 0

    @staticmethod
    def cudaHostUnregister(address: int) -> int:  # noqa: N802
        return 0


class _Driver:
    @staticmethod
    def cuMemHostGetDevicePointer_v2(found: Any, address: Any, flags: int) -> int:  # noqa: N802
        found._obj.value = address.value + HOST_OFFSET
        return 0


class _Waits:
    """A stream or an event. Nothing takes time here."""

    def __init__(self, *, enable_timing: bool = False) -> None: ...
    def wait_stream(self, other: object) -> None: ...
    def wait_event(self, other: object) -> None: ...
    def record(self, stream: object = None) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, other: object) -> float:
        return 1.0

    def record_event(self) -> "_Waits":
        return _Waits()


def _patch_torch(patch: pytest.MonkeyPatch, gpu: FakeCuda, capability: tuple[int, int]) -> None:
    stream = _Waits()

    class Stream(_Waits):
        def __init__(self, device: object = None) -> None:
            gpu.streams += 1

    class Graph:
        def replay(self) -> None:
            gpu.replays += 1

    @contextmanager
    def capture(graph: Graph, *, capture_error_mode: str = "global") -> Iterator[None]:
        assert not gpu.capturing
        gpu.capture_modes.add(capture_error_mode)
        gpu.capturing = True
        try:
            yield
        finally:
            gpu.capturing = False

    def wait(*args: object) -> None:
        gpu.host_waits("synchronize")

    stand_ins: dict[str, Any] = {
        "Stream": Stream,
        "Event": _Waits,
        "CUDAGraph": Graph,
        "graph": capture,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
        "current_stream": lambda *args: stream,
        "get_device_capability": lambda *args: capability,
        "synchronize": wait,
        "cudart": _Runtime,
        "empty_cache": lambda: None,
        "mem_get_info": lambda *args: (8 << 30, 16 << 30),
        "max_memory_allocated": lambda *args: 1 << 30,
    }
    for name, stand_in in stand_ins.items():
        patch.setattr(torch.cuda, name, stand_in)


def _patch_addresses(patch: pytest.MonkeyPatch) -> None:
    known: dict[int, int] = {}

    def data_ptr(self: Tensor) -> int:
        number = known.setdefault(self.untyped_storage()._cdata, len(known))
        first = _DEVICE if self.is_cuda else _HOST
        return first + (number << 32) + int(self.storage_offset()) * self.element_size()

    patch.setattr(FakeTensor, "data_ptr", data_ptr)
    patch.setattr(pinned_memory, "_driver", _Driver, raising=False)


def _patch_lists(patch: pytest.MonkeyPatch, gpu: FakeCuda) -> None:
    """Give lists of a tensor's numbers: a vector's are 1, a table's rows rise from 0, and no slot holds an expert."""

    def tolist(self: Tensor) -> Any:
        if self.is_cuda:
            gpu.host_waits("tolist")
        columns = self.shape[-1]
        if self.dim() == 1:
            return [1] * columns
        return [[-1] * columns if self.dtype is torch.int32 else list(range(columns))] * len(self)

    patch.setattr(FakeTensor, "tolist", tolist)
    patch.setattr(FakeTensor, "record_stream", lambda self, stream: None)


def _patch_files(patch: pytest.MonkeyPatch) -> None:
    dtypes = {"BF16": torch.bfloat16, "U8": torch.uint8}

    def tensor(self: Any, name: str) -> Tensor:
        spec = read_header(self.files[name])[name]
        return torch.empty(spec.shape, dtype=dtypes[spec.dtype])

    patch.setattr(weights._MappedFiles, "tensor", tensor)  # safetensors makes no fake tensors


def _patch_kernels(patch: pytest.MonkeyPatch, gpu: FakeCuda) -> None:
    for module in (triton_decode, triton_experts, triton_offload, triton_prefill, triton_sampling):
        for name, kernel in vars(module).items():
            if name.endswith("_kernel"):
                patch.setattr(module, name, FakeKernel(gpu, name, kernel))


def _forget_tables() -> None:
    # Tables that were made in one mode cannot be used in another.
    for table in (reference._byte_values, reference._scale_values):
        table.cache_clear()


@contextmanager
def fake_cuda(capability: tuple[int, int] = (9, 0)) -> Iterator[FakeCuda]:
    """Make "cuda" a device of this compute capability; no tensor has values."""
    gpu = FakeCuda()
    _forget_tables()
    try:
        with pytest.MonkeyPatch.context() as patch:
            _patch_torch(patch, gpu, capability)
            _patch_addresses(patch)
            _patch_lists(patch, gpu)
            _patch_files(patch)
            _patch_kernels(patch, gpu)
            with FakeTensorMode(allow_non_fake_inputs=True), _Watch(gpu), _Methods(gpu):
                yield gpu
    finally:
        _forget_tables()
