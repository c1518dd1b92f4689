"""Requests of a placement, checked for contradictions. Independent of the hardware."""

import re
from dataclasses import dataclass

from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.settings import DEVICE_PATTERN, Activations, Dense, Dtype, Execution


@dataclass(frozen=True, slots=True)
class RequestedSetting:
    """The name of a setting and the value that the user chose."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name} {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """The settings of a user that a placement must satisfy.

    `device` is auto, cpu, cuda, cuda:N, or mps for an Apple GPU. `gpu_memory_bytes` is the most that may be used on the
    GPU, None for all that is free. `context_tokens` None is as many as fit. `dense` and `activations` apply to the CPU
    only. `threads` None is one for each physical core. `sequences` is the number of KV caches to count: several are
    possible on the CPU only. Raises UsageError for an unknown device, or for settings that
    contradict each other.
    """

    execution: Execution = Execution.AUTO
    device: str = "auto"
    gpu_memory_bytes: int | None = None
    context_tokens: int | None = None
    dtype: Dtype = Dtype.BFLOAT16
    dense: Dense = Dense.BF16
    activations: Activations = Activations.INT16
    threads: int | None = None
    sequences: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(DEVICE_PATTERN, self.device):
            raise UsageError(f"There is no device {self.device!r}. Choose auto, cpu, cuda, cuda:N or mps")
        on_cpu = self.execution is Execution.CPU
        if self.device != "auto" and self.execution is not Execution.AUTO and on_cpu != (self.device == "cpu"):
            message = f"execution {self.execution} contradicts device {self.device}"
            raise UsageError(message, Hint.CONSISTENT_PLACEMENT)

    @property
    def requires_cpu(self) -> bool:
        """True if the CPU must compute."""
        return self.execution is Execution.CPU or self.device == "cpu"

    @property
    def gpu_setting(self) -> RequestedSetting | None:
        """The setting that only a GPU can satisfy, if there is one."""
        if self.execution in (Execution.MXFP4, Execution.OFFLOAD):
            return RequestedSetting("execution", self.execution)
        return None if self.device in ("auto", "cpu") else RequestedSetting("device", self.device)

    @property
    def gpu_number(self) -> int | None:
        """The N of cuda:N."""
        _, _, number = self.device.partition(":")
        return int(number) if number else None
