"""Which rows of the vocabulary the demo stores, and what every other row is. Knows no torch.

A trained row is stored. Any other row is a direction made from its id: different for every token, and related to
nothing. Training used such directions for every name and favourite, so the model copies tokens it never saw.
"""

import numpy as np
from numpy.typing import NDArray

FIRST_SPECIAL_ID = 199998


def directions(ids: NDArray[np.int64], hidden: int) -> NDArray[np.float32]:
    """Signs [N, hidden] (each +1 or -1) for token `ids` [N], from a counter-based hash (splitmix64)."""
    words = -(-hidden // 64)
    counter = np.add.outer(ids.astype(np.uint64) * np.uint64(words), np.arange(words, dtype=np.uint64))
    with np.errstate(over="ignore"):
        x = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    bits = (x[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    bits = bits.reshape(len(ids), -1)[:, :hidden]
    return np.where(bits, np.float32(1), np.float32(-1))


def untrained_rows(ids: NDArray[np.int64], base: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Rows [N, C] of the embedding or the unembedding that were not trained: `base` [C] + `scale` * direction."""
    rows: NDArray[np.float32] = base + np.float32(scale) * directions(ids, len(base))
    return rows


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of `values` rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
