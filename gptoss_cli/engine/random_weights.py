"""Random weights of a model's true shapes, to measure and check a device without a checkpoint.

The time of a token depends on the shapes and on the experts that it uses, not on the values. Random weights use all
experts alike, so less of them are found on a GPU that holds a part than with a real model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gptoss_cli.engine.quantize import int8_in_memory
from gptoss_cli.engine.weights import ModelWeights, assemble
from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.placement.memory import model_memory
from gptoss_cli.placement.model_config import ModelConfig
from gptoss_cli.placement.placement import Placement
from gptoss_cli.placement.reasons import gib
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors, names
from gptoss_cli.settings import Dense

# Values are drawn once and repeated: drawing all of them would take minutes. No row's length divides this number.
_DRAWN = (1 << 24) + 43
# Exponents of the scales, with which a row of experts has about the length of a row of random normal numbers.
_SCALES = 118, 122
_BIAS_STD = 0.02


def random_weights(
    config: ModelConfig, placement: Placement, *, notice: Callable[[str], None] | None = None
) -> ModelWeights:
    """Make weights for `config` on the devices of `placement`. `notice` is that of `assemble`.

    Raises ResourceError if the CPU's memory does not hold them: other than a checkpoint's they cannot stay on the disk.
    """
    if placement.gpu is None:
        _check_host_memory(config, placement)
    maker = _Maker(config, placement)
    weights = assemble(config, names(Layout.HUGGING_FACE), maker.tensor, placement, notice=notice)
    return int8_in_memory(weights) if placement.dense is Dense.INT8 else weights


def _check_host_memory(config: ModelConfig, placement: Placement) -> None:
    host = placement.host
    # 8-bit weights are made of others, which are still there then.
    needed = host.used_bytes + (model_memory(config).dense_bytes if placement.dense is Dense.INT8 else 0)
    if host.room_bytes is not None and needed > host.room_bytes:
        raise ResourceError(
            f"Random weights of this shape need {gib(needed)} of memory, and {gib(host.room_bytes)} are available",
            Hint.FREE_MEMORY,
        )


class _Maker:
    """Makes tensors by their names in a checkpoint."""

    def __init__(self, config: ModelConfig, placement: Placement) -> None:
        self._names = names(Layout.HUGGING_FACE)
        self._specs = expected_tensors(config, Layout.HUGGING_FACE)
        self._device = torch.device(placement.device)
        split = placement.weights is not None and placement.weights.gpu_experts < config.layers * config.experts
        # The halves of experts in two memories are cut on the host.
        self._experts_device = torch.device("cpu") if split else self._device
        on_host = placement.weights is not None and not placement.weights.embedding_on_gpu
        self._embedding_device = torch.device("cpu") if on_host else self._device
        self._drawn: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def tensor(self, name: str) -> Tensor:
        """Return a new tensor for `name`."""
        shape = self._specs[name].shape
        if name.endswith(self._names.blocks):
            return self._values(shape, torch.uint8, self._experts_device)
        if name.endswith(self._names.scales):
            first, end = _SCALES
            return self._values(shape, torch.uint8, self._experts_device).remainder_(end - first).add_(first)
        if name == self._names.embedding:
            return self._values(shape, torch.bfloat16, self._embedding_device)
        values = self._values(shape, torch.bfloat16, self._device)
        if name.endswith(".weight") and len(shape) == 1:
            return values.fill_(1)  # of a norm
        return values.mul_(shape[1] ** -0.5 if name.endswith(".weight") else _BIAS_STD)

    def _values(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        drawn = self._pool(dtype, device)
        made = torch.empty(shape, dtype=dtype, device=device)
        flat = made.view(-1)
        for start in range(0, len(flat), len(drawn)):
            part = flat[start : start + len(drawn)]
            part.copy_(drawn[: len(part)])
        return made

    def _pool(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the numbers that are repeated: standard normal, or random bytes."""
        if (dtype, device) not in self._drawn:
            random, size = torch.Generator().manual_seed(0), min(_DRAWN, self._largest())
            if dtype is torch.uint8:
                pool = torch.randint(256, (size,), dtype=dtype, generator=random)
            else:
                pool = torch.randn(size, generator=random).to(dtype)
            self._drawn[dtype, device] = pool.to(device)
        return self._drawn[dtype, device]

    def _largest(self) -> int:
        """Return the number of values of the largest tensor."""
        return max(torch.Size(spec.shape).numel() for spec in self._specs.values())
