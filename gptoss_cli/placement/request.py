"""What a user asks of a placement, checked for what cannot be meant. Knows no machine."""

import re
from dataclasses import dataclass

from gptoss_cli.errors import UsageError
from gptoss_cli.settings import Activations, Dense, Dtype, Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """`device` is auto, cpu, cuda, cuda:N or mps, Apple's GPU; `gpu_memory_bytes` is the most that may be used on the
    GPU. `dense` and `activations` are for the CPU.

    Raises UsageError for wishes that contradict each other.
    """

    execution: Execution = Execution.AUTO
    device: str = "auto"
    gpu_memory_bytes: int | None = None
    context_tokens: int | None = None
    dtype: Dtype = Dtype.BFLOAT16
    dense: Dense = Dense.BF16
    activations: Activations = Activations.INT16
    threads: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", self.device):
            raise UsageError(f"There is no device {self.device!r}. Choose auto, cpu, cuda, cuda:N or mps")
        on_cpu = self.execution is Execution.CPU
        if self.device != "auto" and self.execution is not Execution.AUTO and on_cpu != (self.device == "cpu"):
            raise UsageError(f"--execution {self.execution} contradicts --device {self.device}. Leave one of them out")

    @property
    def wants_cpu(self) -> bool:
        """Whether the CPU is to compute."""
        return self.execution is Execution.CPU or self.device == "cpu"

    @property
    def gpu_flag(self) -> str | None:
        """The wish that only a GPU can meet, as the user wrote it."""
        if self.execution in (Execution.MXFP4, Execution.OFFLOAD):
            return f"--execution {self.execution}"
        return f"--device {self.device}" if self.device not in ("auto", "cpu") else None

    @property
    def gpu_number(self) -> int | None:
        """N of cuda:N."""
        _, _, number = self.device.partition(":")
        return int(number) if number else None
