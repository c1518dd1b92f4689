"""The rotation periods of RoPE, with and without YaRN."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gptoss_cli.architecture.known import Architecture, YarnScaling


@dataclass(frozen=True, slots=True)
class Rotation:
    """One pair of dimensions: the positions of a full turn without YaRN and with it (equal if there is none)."""

    pair: int
    plain_period: float
    period: float

    @property
    def stretch(self) -> float:
        """The factor by which YaRN slows the rotation."""
        return self.period / self.plain_period


def rotations(model: Architecture) -> Iterator[Rotation]:
    """Yield the D/2 pairs, the fastest first. A pair i turns by theta^(-2i/D) radians per position.

    YaRN ("NTK by parts", arXiv:2309.00071) keeps pairs that turn more than beta_fast times in the original context,
    slows those that turn less than beta_slow times by the factor, and interpolates between.
    """
    if model.rope_theta is None:
        return
    theta, pairs = model.rope_theta, model.head_dim // 2
    for pair in range(pairs):
        frequency = theta ** (-pair / pairs)
        kept = 1.0 if model.yarn is None else _kept_share(model.yarn, theta, model.head_dim, pair)
        factor = 1.0 if model.yarn is None else model.yarn.factor
        stretched = frequency * kept + frequency / factor * (1 - kept)
        yield Rotation(pair, 2 * math.pi / frequency, 2 * math.pi / stretched)


def _kept_share(yarn: YarnScaling, theta: float, head_dim: int, pair: int) -> float:
    """Return the part of the plain frequency that is kept: 1 for fast pairs, 0 for slow ones."""
    low, high = (_pair_of(turns, yarn, theta, head_dim) for turns in (yarn.beta_fast, yarn.beta_slow))
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (pair - low) / max(high - low, 0.001)
    return 1 - min(1.0, max(0.0, ramp))


def _pair_of(turns: float, yarn: YarnScaling, theta: float, head_dim: int) -> float:
    """Return the (fractional) pair that makes this many turns in the original context."""
    return head_dim * math.log(yarn.original_context_tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))
