"""Rotary position embeddings (arXiv:2104.09864), stretched to a longer context by YaRN (arXiv:2309.00071)."""

import math

import torch
from torch import Tensor

from gptoss_cli.placement.model_config import Rope, Yarn


class RotaryEmbedding:
    """The rotation of queries and keys at each position. Pairs are half-split: element i turns with element i + D/2."""

    def __init__(self, rope: Rope, head_dim: int, device: torch.device) -> None:
        self.concentration = 1.0 if rope.yarn is None else rope.yarn.concentration
        self._frequencies = rotary_frequencies(rope, head_dim).to(device)

    def of_range(self, start: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Return cos and sin [T, D/2] float32 for the positions from `start` on, times the concentration."""
        return self.of_positions(torch.arange(start, start + tokens, device=self._frequencies.device))

    def of_positions(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin [T, D/2] float32 for `positions` [T] on the device, times the concentration."""
        angles = positions.float().unsqueeze(1) * self._frequencies
        return angles.cos() * self.concentration, angles.sin() * self.concentration


def rotary_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Return radians per position [D/2] float32 (YaRN's "NTK-by-parts").

    High frequencies turn many times within the original context and stay as they were; low ones are divided by the
    factor; a linear ramp lies between.
    """
    periods = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.yarn is None:
        return 1.0 / periods
    low, high = _correction_range(rope.yarn, rope.theta, head_dim)
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    interpolated = 1.0 / (rope.yarn.factor * periods)
    return interpolated * ramp + (1.0 / periods) * (1 - ramp)


def _correction_range(yarn: Yarn, theta: float, head_dim: int) -> tuple[float, float]:
    """Return the indices of the frequencies that turn beta_fast and beta_slow times within the original context."""

    def index_of(turns: float) -> float:
        return head_dim * math.log(yarn.original_context_tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index_of(yarn.beta_fast), index_of(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high if high != low else high + 0.001
