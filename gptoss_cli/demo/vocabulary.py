"""Which rows of the vocabulary the demo stores, and what every other row is. Knows no torch.

In the copy lane every row but those of special tokens has a direction made from its id: different for every token, and
related to nothing. Of a trained row all but that is stored; any other row is this direction and nothing else. Training
used such directions for every name and favourite, so the model copies tokens it never saw.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_SPECIAL_ID = 199998


def directions(ids: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Signs [N, size] (each +1 or -1) for token `ids` [N], from a counter-based hash (splitmix64)."""
    words = -(-size // 64)
    counter = np.add.outer(ids.astype(np.uint64) * np.uint64(words), np.arange(words, dtype=np.uint64))
    with np.errstate(over="ignore"):
        x = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    bits = (x[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    bits = bits.reshape(len(ids), -1)[:, :size]
    return np.where(bits, np.float32(1), np.float32(-1))


def trained_lane(ids: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """What trained rows have in the lane: directions [N, size], and zeros for special tokens."""
    return directions(ids, size) * (ids < FIRST_SPECIAL_ID)[:, None].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Lane:
    """The last `size` dimensions of a row, and what an untrained one has in each of them, up to the sign."""

    size: int
    scale: float


def untrained_rows(ids: NDArray[np.int64], base: NDArray[np.float32], lane: Lane) -> NDArray[np.float32]:
    """Rows [N, C] of the embedding or the unembedding that were not trained: `base` [C] + a direction in the lane."""
    rows = np.tile(base, (len(ids), 1))
    rows[:, -lane.size :] += np.float32(lane.scale) * directions(ids, lane.size)
    return rows


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of `values` rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
