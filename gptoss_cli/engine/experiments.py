"""Measurements of attention over one prompt: the mass that sinks take, and the effect of the bias of the keys.

Letters in shapes: T tokens, H query heads, K kv heads, Q query heads per kv head (H = K*Q), D head dim.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gptoss_cli.engine.kernels.reference import rotate
from gptoss_cli.engine.model import Transformer
from gptoss_cli.generation import AttentionMeasurement
from gptoss_cli.placement.model_config import LayerKind

_MAX_SCORES = 2**24  # attention scores computed at once, 64 MiB


def measure_attention(model: Transformer, ids: list[int]) -> Iterator[AttentionMeasurement]:
    """Read `ids` [T] from position 0 and yield a measurement for each layer. Scores are float32."""
    config, kernels = model.config, model.kernels
    cache = model.new_cache(max(2, len(ids)))
    embedding = model.weights.embedding
    x = kernels.embed(torch.tensor(ids, device=embedding.device), embedding).to(model.device)
    rotation = model.rope.of_range(0, len(ids))
    cache.position.fill_(0)
    for number, (weights, layer_cache) in enumerate(zip(model.weights.layers, cache.layers, strict=True)):
        attention = weights.attention
        qkv = kernels.project_qkv(x, attention, eps=config.norm_eps, dtype=model.dtype)
        queries, keys = (part.float().view(len(ids), -1, config.head_dim) for part in qkv[:2])  # [T, H, D], [T, K, D]
        bias = attention.key.bias.float().view(1, -1, config.head_dim)
        window = config.sliding_window if config.layer_kinds[number] is LayerKind.SLIDING else None
        measured = _Attention(attention.sinks.float(), window)
        turned = rotate(queries, rotation)
        yield AttentionMeasurement(
            layer=number,
            window=window,
            sink_mass=tuple(measured.sink_mass(turned, rotate(keys, rotation)).tolist()),
            key_bias_norm=float(bias.norm(dim=-1).mean()),
            shift=measured.shift(turned, rotate(keys, rotation), rotate(keys - bias, rotation)),
            shift_without_rope=measured.shift(queries, keys, keys - bias),
            shift_without_rope_and_sinks=_Attention(None, window).shift(queries, keys, keys - bias),
        )
        x = model.layer(x, weights, layer_cache, rotation=rotation, position=0)


class _Attention:
    """The softmax of one layer with `sinks` [H], None for none."""

    def __init__(self, sinks: Tensor | None, window: int | None) -> None:
        self._sinks = sinks
        self._window = window

    def sink_mass(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the mean probability of the sink [H] over queries [T, H, D] and keys [T, K, D]."""
        masses = [1 - self._probs(queries, keys, part).sum(-1).T for part in self._parts(queries)]  # [t, H]
        return torch.cat(masses).mean(0).clamp(0, 1)

    def shift(self, queries: Tensor, keys: Tensor, others: Tensor) -> float:
        """Return the mean total variation distance of the attention to two sets of keys [T, K, D]; 0 is the same.

        The part of the sink counts: it is half of the absolute differences of all probabilities.
        """
        total = 0.0
        for part in self._parts(queries):
            difference = self._probs(queries, keys, part) - self._probs(queries, others, part)
            of_sink = difference.sum(-1).abs()
            total += float((difference.abs().sum(-1) + of_sink).sum()) / 2
        return total / (queries.shape[0] * queries.shape[1])

    def _parts(self, queries: Tensor) -> Iterator[slice]:
        tokens, heads = queries.shape[:2]
        size = max(1, _MAX_SCORES // (tokens * heads))
        return (slice(start, start + size) for start in range(0, tokens, size))

    def _probs(self, queries: Tensor, keys: Tensor, part: slice) -> Tensor:
        """Return the probabilities [H, t, T] of the queries in `part`, without that of the sink."""
        tokens, kv_heads, head_dim = keys.shape
        grouped = queries[part].view(-1, kv_heads, queries.shape[1] // kv_heads, head_dim)
        scores: Tensor = torch.einsum("tkqd,skd->kqts", grouped, keys).flatten(0, 1) * head_dim**-0.5
        query = torch.arange(tokens, device=keys.device)[part, None]
        key = torch.arange(tokens, device=keys.device)[None, :]
        hidden = key > query if self._window is None else (key > query) | (key <= query - self._window)
        scores = scores.masked_fill(hidden, -torch.inf)
        if self._sinks is None:
            return scores.softmax(-1)
        sink = self._sinks[:, None, None].expand(-1, scores.shape[1], 1)
        with_sink: Tensor = torch.cat((scores, sink), dim=-1).softmax(-1)
        return with_sink[..., :-1]
