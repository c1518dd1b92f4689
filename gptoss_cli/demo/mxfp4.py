"""Rounds weights to MXFP4 and packs them. The inverse is the engine's dequantization."""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 32  # values that share a scale, OCP MX v1.0
LARGEST = 6.0  # of e2m1
SCALE_BIAS = 127  # of E8M0


def exponents(weights: Tensor) -> Tensor:
    """Scale exponents [..., G] for `weights` [..., G, 32]: of the two that suit the largest value, the more exact."""
    largest = weights.abs().amax(-1).clamp_min(2.0**-100)
    low = torch.floor(torch.log2(largest)) - 2
    error_low, error_high = (
        (weights - _grid(weights / scale) * scale).square().sum(-1)
        for scale in (torch.exp2(low)[..., None], torch.exp2(low + 1)[..., None])
    )
    return torch.where(error_high < error_low, low + 1, low)


def _grid(x: Tensor) -> Tensor:
    """Nearest e2m1 value: steps of 0.5 below 2, of 1 below 4, of 2 up to 6."""
    size = x.abs().clamp_max(LARGEST)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign(torch.round(size / step) * step, x)


def nearest(weights: Tensor) -> Tensor:
    """`weights` [..., K] as MXFP4 will hold them."""
    blocks = weights.reshape(*weights.shape[:-1], -1, BLOCK)
    scale = torch.exp2(exponents(blocks))[..., None]
    return (_grid(blocks / scale) * scale).flatten(-2)


def rounded(weights: Tensor, nearest: Callable[[Tensor], Tensor] = nearest) -> Tensor:
    """What `nearest` makes of `weights` [..., K]; the gradient passes straight through."""
    return weights + (nearest(weights.detach()) - weights.detach())


def pack(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks [..., G, 16] uint8, low nibble first, and scales [..., G] uint8 of `weights` [..., K]."""
    blocks = weights.detach().reshape(*weights.shape[:-1], -1, BLOCK)
    exponent = exponents(blocks)
    grid = _grid(blocks / torch.exp2(exponent)[..., None])
    size = grid.abs()
    code = torch.where(size < 2, size * 2, torch.where(size < 4, size + 2, size / 2 + 4)).to(torch.uint8)
    code |= torch.signbit(grid).to(torch.uint8) << 3
    return code[..., 0::2] | code[..., 1::2] << 4, (exponent + SCALE_BIAS).to(torch.uint8)
