"""The decision about how a model runs: all that the loader needs, the memory it uses, and the reasons."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gptoss_cli.placement.reasons import Reason
from gptoss_cli.settings import Activations, Dense, Dtype, Execution


class KernelSet(StrEnum):
    """The implementation of the model's operations."""

    NATIVE = "native"  # C, for the CPU; without the library the reference runs, with a notice
    TRITON = "triton"  # for NVIDIA GPUs; without a GPU they run in Triton's interpreter
    REFERENCE = "reference"  # torch, on any device


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes that a model uses in one memory. `room_bytes` is all that it may use there, None if unknown."""

    dense_bytes: int = 0
    experts_bytes: int = 0
    cache_bytes: int = 0
    work_bytes: int = 0
    room_bytes: int | None = None

    @property
    def used_bytes(self) -> int:
        """The sum of all parts."""
        return self.dense_bytes + self.experts_bytes + self.cache_bytes + self.work_bytes

    @property
    def free_bytes(self) -> int:
        """Unused bytes of the room, 0 if the room is unknown."""
        return max(0, (self.room_bytes or 0) - self.used_bytes)

    def to_json(self) -> dict[str, int | None]:
        """Return JSON values."""
        return asdict(self) | {"free_bytes": None if self.room_bytes is None else self.free_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBound:
    """The bytes that decoding a token reads from each memory, and the bandwidth that is assumed for each."""

    gpu_bytes: int = 0
    link_bytes: int = 0
    host_bytes: int = 0
    gpu_bytes_per_second: float = 250e9
    # PCIe 4.0 x16 in practice; two channels of DDR4-3200.
    link_bytes_per_second: float = 25e9
    host_bytes_per_second: float = 51.2e9

    @property
    def tokens_per_second(self) -> float:
        """The upper bound of the decode rate if reads from different memories do not overlap."""
        seconds = self.gpu_bytes / self.gpu_bytes_per_second + self.link_bytes / self.link_bytes_per_second
        return 1 / (seconds + self.host_bytes / self.host_bytes_per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlacement:
    """The weights on the GPU: the number of experts over all layers, and the embedding or not.

    All other dense weights are on the GPU too. The remaining experts are pinned in host memory. If it keeps all,
    the GPU holds those that were used last, otherwise always the same ones.
    """

    gpu_experts: int
    embedding_on_gpu: bool
    host_keeps_all: bool = True

    def experts_of_layer(self, layer: int, layers: int) -> int:
        """Return the number of experts of `layer` on the GPU. They are spread evenly over the layers."""
        return self.gpu_experts // layers + (layer < self.gpu_experts % layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Everything that determines how a model runs.

    `weights` is None on the CPU: weights are mapped files there, and `host` counts them in full even if they do not fit
    in memory. `threads` None is one for each physical core. `sequences` have a KV cache of `context_tokens` each.
    `chunk_tokens` of a prompt are read at once; None leaves that to the loader. `dense` and `activations` apply to the
    CPU only. `gpu`, `host`, `experts`, `gpu_experts`, `bound` and `reasons` are shown to the user and change nothing.
    """

    context_tokens: int
    execution: Execution = Execution.CPU
    device: str = "cpu"
    kernels: KernelSet = KernelSet.NATIVE
    dtype: Dtype = Dtype.BFLOAT16
    dense: Dense = Dense.BF16
    activations: Activations = Activations.INT16
    threads: int | None = None
    sequences: int = 1
    chunk_tokens: int | None = None
    weights: WeightPlacement | None = None
    gpu: MemoryUse | None = None
    host: MemoryUse = MemoryUse()
    experts: int = 0
    gpu_experts: int = 0
    bound: DecodeBound = DecodeBound()
    reasons: tuple[Reason, ...] = ()

    @property
    def summary(self) -> str:
        """Device, execution and context as text: "on cuda:0 (mxfp4) with 131,072 tokens of context"."""
        device = "the CPU" if self.execution is Execution.CPU else f"{self.device} ({self.execution})"
        return f"on {device} with {self.context_tokens:,} tokens of context"

    @property
    def warnings(self) -> tuple[Reason, ...]:
        """The reasons for which the model runs worse than it could."""
        return tuple(reason for reason in self.reasons if reason.is_warning)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "execution": self.execution,
            "device": self.device,
            "context_tokens": self.context_tokens,
            "dense": self.dense,
            "gpu": None if self.gpu is None else self.gpu.to_json(),
            "host": self.host.to_json(),
            "experts": {"total": self.experts, "on_gpu": self.gpu_experts},
            "decode_bound": {"tokens_per_second": round(self.bound.tokens_per_second, 1), **asdict(self.bound)},
            "reasons": [reason.to_json() for reason in self.reasons],
        }
