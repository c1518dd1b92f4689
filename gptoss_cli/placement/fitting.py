"""A word for how well a model fits a machine: for lists, and for someone who has no model yet."""

from enum import StrEnum

from gptoss_cli.errors import GptossError
from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import ModelConfig
from gptoss_cli.placement.reasons import Code
from gptoss_cli.settings import Execution


class Fit(StrEnum):
    """The places of the weights, best first. The values are part of the JSON output."""

    GPU = "gpu"
    GPU_AND_HOST = "gpu and memory"
    HOST = "memory"
    DISK = "from disk"
    NONE = "no"

    @property
    def is_good(self) -> bool:
        """True if all weights stay in memory while the model answers."""
        return self not in (Fit.DISK, Fit.NONE)


_FITS = {Execution.MXFP4: Fit.GPU, Execution.OFFLOAD: Fit.GPU_AND_HOST, Execution.CPU: Fit.HOST}


def fit(config: ModelConfig, machine: Hardware) -> Fit:
    """Return where the weights of a model would lie on `machine`, with the memory that is free now."""
    try:
        placement = choose(config, machine)
    except GptossError:
        return Fit.NONE
    if any(reason.code is Code.FROM_DISK for reason in placement.reasons):
        return Fit.DISK
    return _FITS[placement.execution]
