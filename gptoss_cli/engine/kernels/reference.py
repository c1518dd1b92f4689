"""The operations of `Kernels` in plain torch, on any device: slow, and the oracle for all other kernels.

They read like the formulas in gpt_oss/torch/model.py (https://github.com/openai/gpt-oss). protocol.py explains the
letters in shapes.
"""

from functools import cache as memoized
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from gptoss_cli.engine.expert_offload import PackedExperts, packed_only
from gptoss_cli.engine.kv_cache import LayerCache, Visible
from gptoss_cli.engine.pinned_memory import PinnedRows, rows_on_device
from gptoss_cli.engine.weights import AttentionWeights, Linear, MlpWeights, Rows, float_rows
from gptoss_cli.placement.model_config import BLOCK_VALUES, SWIGLU_ALPHA

_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_MAX_SCORES = 2**25  # attention scores computed at once, 128 MiB
_UNEMBED_ROWS = 16_384  # vocabulary rows converted to the arithmetic's dtype at once


def embed(ids: Tensor, embedding: Tensor | PinnedRows) -> Tensor:
    """See Kernels.embed."""
    return rows_on_device(embedding)[ids].float()


def project_qkv(
    x: Tensor, weights: AttentionWeights, *, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """See Kernels.project_qkv."""
    normed, joined = _rms_norm(x, weights.norm, eps).to(dtype), weights.joined_qkv
    if joined is not None and len(x) > 1:
        sizes = [len(part.bias) for part in (weights.query, weights.key, weights.value)]
        query, key, value = torch.split(_product(normed, joined), sizes, dim=1)
        return query.float().contiguous(), key.float().contiguous(), value.float().contiguous()
    return _linear(normed, weights.query), _linear(normed, weights.key), _linear(normed, weights.value)


def attend(
    qkv: tuple[Tensor, Tensor, Tensor],
    rotation: tuple[Tensor, Tensor],
    sinks: Tensor,
    cache: LayerCache,
    *,
    position: int,
) -> Tensor:
    """See Kernels.attend."""
    head_dim = 2 * rotation[0].shape[1]
    queries, keys, values = (part.view(len(part), -1, head_dim) for part in qkv)  # [T, H, D], [T, K, D], [T, K, D]
    heads, kv_heads = queries.shape[1], keys.shape[1]
    visible = cache.append(rotate(keys, rotation), values, position)
    grouped = rotate(queries, rotation).view(len(queries), kv_heads, -1, head_dim)  # [T, K, Q, D]
    tokens = max(1, _MAX_SCORES // (heads * len(visible.keys)))
    parts = [
        _sdpa(part, visible, sinks.view(kv_heads, -1), position=position + start)
        for start, part in zip(range(0, len(grouped), tokens), torch.split(grouped, tokens), strict=True)
    ]
    return torch.cat(parts).flatten(1)  # [T, H*D]


def _sdpa(queries: Tensor, visible: Visible, sinks: Tensor, *, position: int) -> Tensor:
    """Attention of queries [T, K, Q, D] at positions from `position` on, with sinks [K, Q] -> [T, K, Q, D]."""
    keys, values = visible.keys.float(), visible.values.float()  # [S, K, D]
    scores = torch.einsum("tkqd,skd->kqts", queries, keys) * queries.shape[-1] ** -0.5
    scores = scores.masked_fill(_mask(visible, len(queries), position), -torch.inf)
    sink = sinks.float()[:, :, None, None].expand(-1, -1, len(queries), 1)
    # A sink takes its part of the probability and has no value.
    probs = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
    return torch.einsum("kqts,skd->tkqd", probs, values)


def _mask(visible: Visible, tokens: int, position: int) -> Tensor:
    """The keys that each query must not see: [T, S] bool."""
    device = visible.keys.device
    query = torch.arange(position, position + tokens, device=device)[:, None]
    key = torch.arange(visible.first, visible.first + len(visible.keys), device=device)[None, :]
    mask = key > query
    return mask if visible.window is None else mask | (key <= query - visible.window)


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [T, heads, D] by cos and sin [T, D/2]: element i of the first half together with i of the second."""
    cos, sin = (part[:, None, :] for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def project_output(x: Tensor, attended: Tensor, weights: AttentionWeights, *, dtype: torch.dtype) -> Tensor:
    """See Kernels.project_output."""
    return x + _linear(attended.to(dtype), weights.output)


def route(x: Tensor, weights: MlpWeights, *, active: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """See Kernels.route."""
    normed = _rms_norm(x, weights.norm, eps)
    logits, experts = _linear(normed, weights.router).topk(active, dim=-1)
    return normed, experts, logits.softmax(-1)


def mix_experts(
    x: Tensor, routed: tuple[Tensor, Tensor, Tensor], weights: MlpWeights, *, limit: float, dtype: torch.dtype
) -> Tensor:
    """See Kernels.mix_experts.

    For one token its A experts are dequantized at once; for several tokens one expert at a time.
    """
    normed, experts, expert_weights = routed
    inputs, gate_up, down = normed.to(dtype), packed_only(weights.gate_up), packed_only(weights.down)
    if len(x) == 1:
        chosen = experts[0]
        outputs = run_experts(inputs.expand(len(chosen), 1, -1), gate_up.select(chosen), down.select(chosen), limit)
        return x + torch.einsum("ta,atc->tc", expert_weights, outputs)
    mixed = torch.zeros_like(x)
    for expert in sorted(set(experts.flatten().tolist())):
        tokens, slots = torch.where(experts == expert)
        one = slice(expert, expert + 1)
        output = run_experts(inputs[tokens].unsqueeze(0), gate_up.select(one), down.select(one), limit).squeeze(0)
        mixed.index_add_(0, tokens, output * expert_weights[tokens, slots, None])
    return x + mixed


def run_experts(inputs: Tensor, gate_up: PackedExperts, down: PackedExperts, limit: float) -> Tensor:
    """Run N experts, each on its own inputs [N, T, C] -> [N, T, C] float32, in the dtype of `inputs`."""
    hidden = _swiglu(_expert_products(inputs, gate_up), limit)
    return _expert_products(hidden.to(inputs.dtype), down)


def _swiglu(gate_up: Tensor, limit: float) -> Tensor:
    gate, up = gate_up[..., 0::2], gate_up[..., 1::2]
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(SWIGLU_ALPHA * gate)


def unembed(x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float, dtype: torch.dtype) -> Tensor:
    """See Kernels.unembed."""
    normed = _rms_norm(x, norm, eps).to(dtype)
    logits = normed.new_empty(len(x), len(unembedding), dtype=torch.float32)
    bounds = [*range(0, len(unembedding), _UNEMBED_ROWS), len(unembedding)]
    for start, end in pairwise(bounds):
        logits[:, start:end] = functional.linear(normed, _rows(unembedding, start, end, normed))
    return logits


def dequantize(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of MXFP4 blocks [..., G, 16] and scales [..., G] u8 -> [..., G*32].

    They are exact in float32 and bfloat16. OCP MX v1.0: E2M1 elements, low nibble first, times 2^(scale - 127); scale
    255 is NaN.
    """
    pairs = _byte_values(dtype, blocks.device).index_select(0, blocks.flatten().int()).view(dtype)
    factors = _scale_values(dtype, scales.device).index_select(0, scales.flatten().int())
    return (pairs.view(-1, BLOCK_VALUES) * factors.unsqueeze(1)).view(*scales.shape[:-1], -1)


@memoized
def _byte_values(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The two elements of each byte [256], as one integer: torch looks integers up four times as fast as pairs."""
    values = torch.tensor([*_FP4_VALUES, *(-value for value in _FP4_VALUES)], dtype=dtype, device=device)
    byte = torch.arange(256, device=device)
    pairs = torch.stack((values[byte & 15], values[byte >> 4]), dim=1)
    return pairs.view(torch.int64 if dtype is torch.float32 else torch.int32).squeeze(1)


@memoized
def _scale_values(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The factor of each E8M0 scale [256]."""
    factors = [2.0 ** (scale - 127) for scale in range(255)]
    return torch.tensor([*factors, torch.nan], dtype=dtype, device=device)


def _expert_products(inputs: Tensor, packed: PackedExperts) -> Tensor:
    """Return inputs [N, T, columns] times each expert's matrix, plus bias -> [N, T, rows] float32."""
    weight = dequantize(packed.blocks, packed.scales, inputs.dtype)
    # In one operation, because in bfloat16 a sum after the product would be rounded twice.
    return torch.baddbmm(packed.bias.to(inputs.dtype).unsqueeze(1), inputs, weight.transpose(1, 2)).float()


def _linear(x: Tensor, linear: Linear) -> Tensor:
    """Return the product in the dtype of `x` -> float32."""
    return _product(x, linear).float()


def _product(x: Tensor, linear: Linear) -> Tensor:
    weight = _rows(linear.weight, 0, len(linear.weight), x)
    return functional.linear(x, weight, linear.bias.to(x.dtype))


def _rows(matrix: Rows, start: int, end: int, x: Tensor) -> Tensor:
    """Return rows `start` to `end` of a matrix for products with x [T, C], in the dtype of `x`."""
    if isinstance(matrix, Tensor):
        return matrix[start:end].to(x.dtype)
    return float_rows(matrix, start, end, columns=x.shape[1]).to(x.dtype)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight.float(), eps)
