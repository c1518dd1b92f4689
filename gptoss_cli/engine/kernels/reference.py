"""The operations of `Kernels` in plain torch: obvious, slow, on any device. The oracle of every other module."""

from functools import cache as memoized
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from gptoss_cli.engine.expert_offload import PackedExperts, packed_only
from gptoss_cli.engine.kv_cache import LayerCache, Visible
from gptoss_cli.engine.weights import AttentionWeights, Linear, MlpWeights, Rows, float_rows

_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_SWIGLU_ALPHA = 1.702
_MAX_SCORES = 2**25  # attention scores held at once, 128 MiB
_UNEMBED_ROWS = 16_384  # vocabulary rows made float32 at once


def embed(ids: Tensor, embedding: Tensor) -> Tensor:
    """See Kernels.embed."""
    return embedding[ids].float()


def project_qkv(
    x: Tensor, weights: AttentionWeights, *, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """See Kernels.project_qkv."""
    normed = _rms_norm(x, weights.norm, eps).to(dtype)
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
    queries, keys, values = (part.view(len(part), -1, head_dim) for part in qkv)
    seen = cache.append(rotate(keys, rotation), values, position)
    length, heads, kv_heads = len(queries), queries.shape[1], keys.shape[1]
    grouped = rotate(queries, rotation).view(length, kv_heads, -1, head_dim).permute(1, 2, 0, 3)  # [K, Q, T, D]
    tokens = max(1, _MAX_SCORES // (heads * len(seen.keys)))
    starts = range(position, position + length, tokens)
    parts = [
        _attend_some(part, seen, sinks, position=start)
        for part, start in zip(torch.split(grouped, tokens, dim=2), starts, strict=True)
    ]
    return torch.cat(parts, dim=2).permute(2, 0, 1, 3).flatten(1)  # [T, H*D]


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
    """See Kernels.mix_experts. Of several tokens one expert at a time is dequantized, of one token its A experts."""
    normed, experts, shares = routed
    inputs, gate_up, down = normed.to(dtype), packed_only(weights.gate_up), packed_only(weights.down)
    if len(x) == 1:
        chosen = experts[0]
        made = run_experts(
            inputs.expand(len(chosen), 1, -1), gate_up.some(chosen), down.some(chosen), limit
        )  # [A, 1, C]
        return x + shares @ made.squeeze(1)
    mixed = torch.zeros_like(x)
    for expert in sorted(set(experts.flatten().tolist())):
        tokens, slots = torch.where(experts == expert)
        one = slice(expert, expert + 1)
        made = run_experts(inputs[tokens].unsqueeze(0), gate_up.some(one), down.some(one), limit)
        mixed.index_add_(0, tokens, made.squeeze(0) * shares[tokens, slots, None])
    return x + mixed


def unembed(x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float, dtype: torch.dtype) -> Tensor:
    """See Kernels.unembed."""
    normed = _rms_norm(x, norm, eps).to(dtype)
    logits = normed.new_empty(len(x), len(unembedding), dtype=torch.float32)
    bounds = [*range(0, len(unembedding), _UNEMBED_ROWS), len(unembedding)]
    for start, end in pairwise(bounds):
        logits[:, start:end] = functional.linear(normed, _rows(unembedding, start, end, normed))
    return logits


def run_experts(inputs: Tensor, gate_up: PackedExperts, down: PackedExperts, limit: float) -> Tensor:
    """N experts, each on its own inputs [N, T, C] -> [N, T, C] float32, computed in the dtype of `inputs`."""
    hidden = _swiglu(_expert_products(inputs, gate_up), limit)
    return _expert_products(hidden.to(inputs.dtype), down)


def dequantize(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """MXFP4 blocks [..., G, 16] and scales [..., G] u8 -> [..., G*32], exact in float32 and bfloat16.

    OCP MX v1.0: E2M1 elements, low nibble first, times 2^(scale - 127); scale 255 is NaN.
    """
    pairs = _byte_values(dtype, blocks.device).index_select(0, blocks.flatten().int()).view(dtype)
    factors = _scale_values(dtype, scales.device).index_select(0, scales.flatten().int())
    return (pairs.view(-1, 32) * factors.unsqueeze(1)).view(*scales.shape[:-1], -1)


@memoized
def _byte_values(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[256]: the two elements of each byte, seen as one integer, for which torch looks up four times as fast."""
    values = torch.tensor([*_FP4_VALUES, *(-value for value in _FP4_VALUES)], dtype=dtype, device=device)
    byte = torch.arange(256, device=device)
    pairs = torch.stack((values[byte & 15], values[byte >> 4]), dim=1)
    return pairs.view(torch.int64 if dtype is torch.float32 else torch.int32).squeeze(1)


@memoized
def _scale_values(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[256]: the factor of each E8M0 scale."""
    factors = [2.0 ** (scale - 127) for scale in range(255)]
    return torch.tensor([*factors, torch.nan], dtype=dtype, device=device)


def _expert_products(inputs: Tensor, packed: PackedExperts) -> Tensor:
    """[N, T, columns] -> [N, T, rows] float32, in the dtype of `inputs`."""
    weight = dequantize(packed.blocks, packed.scales, inputs.dtype)
    return torch.baddbmm(packed.bias.to(inputs.dtype).unsqueeze(1), inputs, weight.transpose(1, 2)).float()


def _linear(x: Tensor, linear: Linear) -> Tensor:
    """The product in the dtype of `x` -> float32."""
    weight = _rows(linear.weight, 0, len(linear.weight), x)
    return functional.linear(x, weight, linear.bias.to(x.dtype)).float()


def _rows(matrix: Rows, start: int, end: int, x: Tensor) -> Tensor:
    """Some rows of what x [T, C] is multiplied by, in its dtype."""
    if isinstance(matrix, Tensor):
        return matrix[start:end].to(x.dtype)
    return float_rows(matrix, start, end, columns=x.shape[1]).to(x.dtype)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight.float(), eps)


def _swiglu(gate_up: Tensor, limit: float) -> Tensor:
    gate = gate_up[..., 0::2].clamp(max=limit)
    up = gate_up[..., 1::2].clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(_SWIGLU_ALPHA * gate)


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [T, heads, D]: element i of the first half turns with element i of the second."""
    cos, sin = (part.unsqueeze(1) for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _attend_some(queries: Tensor, seen: Visible, sinks: Tensor, *, position: int) -> Tensor:
    """Attention of queries [K, Q, T, D] at positions from `position` on -> [K, Q, T, D]."""
    kv_heads, per_head, tokens, head_dim = queries.shape
    keys = seen.keys.float().permute(1, 2, 0)  # [K, D, S]
    values = seen.values.float().transpose(0, 1)  # [K, S, D]
    scores = (queries.flatten(1, 2) @ keys * head_dim**-0.5).view(kv_heads, per_head, tokens, -1)  # [K, Q, T, S]
    if tokens > 1 or seen.window is not None:
        scores = scores.masked_fill(_hidden(seen, tokens, position), -torch.inf)
    sink = sinks.float().view(kv_heads, per_head, 1, 1).expand(-1, -1, tokens, 1)
    shares = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
    return (shares.flatten(1, 2) @ values).view(kv_heads, per_head, tokens, head_dim)


def _hidden(seen: Visible, tokens: int, position: int) -> Tensor:
    """[T, S] bool: which keys a query must not see."""
    query = torch.arange(position, position + tokens, device=seen.keys.device).unsqueeze(1)
    key = torch.arange(seen.first, seen.first + len(seen.keys), device=seen.keys.device)
    hidden = key > query
    return hidden if seen.window is None else hidden | (key <= query - seen.window)
