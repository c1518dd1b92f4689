"""The demo model as it is trained: differentiable, in batches, on trees of turns. The engine runs what this writes.

Shapes add a batch axis B and a sequence axis T to the letters of the engine. A row of the vocabulary is trained, or a
placeholder: see `Vocabulary rows` in `Network.rows`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, pad, rms_norm, scaled_dot_product_attention

from gptoss_cli.demo.mxfp4 import rounded
from gptoss_cli.demo.vocabulary import trained_lane

EVENNESS, POINTING = 0.01, 0.2  # weights of the two losses that help
# What a row has in each dimension of the copy lane, up to the sign. The first is small, or every token would be taken
# for a copy of itself until the rest of the hidden state had grown out of all proportion.
LANE_IN, LANE_OUT = 2.0**-9, 2.0
LANE_SHARE = 0.3  # what a copied token has in each dimension of the lane in the end, where the mean square is 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions and constants of the demo model, by the names of config.json.

    The last `copy_size` dimensions of the hidden state are the copy lane: see `Network.hold_copy_lane`.
    """

    hidden_size: int = 192
    copy_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 32
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    sliding_window: int = 64
    swiglu_limit: float = 7.0
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    original_context: int = 1024
    yarn_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    @property
    def copying_heads(self) -> int:
        """How many query heads of the last layer copy."""
        return self.copy_size // self.head_dim * (self.num_attention_heads // self.num_key_value_heads)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of the vocabulary [B, T], positions [B, T], branches [B, T] (0 is the trunk), targets [B, T] (-1: none)."""

    rows: Tensor
    positions: Tensor
    branches: Tensor
    targets: Tensor

    def visible(self) -> Tensor:
        """Booleans [B, T, T]: a query sees earlier tokens of the trunk and of its own branch."""
        order = torch.arange(self.rows.shape[1])
        key, query = self.branches[:, None, :], self.branches[:, :, None]
        return (order[None, :] <= order[:, None]) & ((key == 0) | (key == query))


@dataclass(frozen=True, slots=True)
class Span:
    """A block of queries, the keys any of them sees, and their mask [B, 1, queries, 1 + keys] with the sink first."""

    queries: slice
    keys: slice
    mask: Tensor


def cut(visible: Tensor, block: int = 144) -> list[Span]:
    """Cut `visible` [B, T, T] into blocks of queries, so that nothing is computed for keys that no query sees."""
    made = []
    for first in range(0, visible.shape[1], block):
        rows = visible[:, first : first + block]
        end = first + rows.shape[1]
        begin = int(rows.flatten(0, 1).any(0).int().argmax())
        mask = pad(rows[:, None, :, begin:end], (1, 0), value=True)
        made.append(Span(slice(first, end), slice(begin, end), mask))
    return made


class Attention(nn.Module):
    """Grouped-query attention with sinks; `window` None is full attention."""

    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self.shape, self.window = shape, window
        heads, kv, width = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.qkv = _matrix((heads + 2 * kv) * width, shape.hidden_size)
        self.qkv_bias = nn.Parameter(torch.zeros((heads + 2 * kv) * width))
        self.out = _matrix(shape.hidden_size, heads * width, scale=(2 * shape.num_hidden_layers) ** -0.5)
        self.out_bias = nn.Parameter(torch.zeros(shape.hidden_size))
        self.sinks = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], spans: list[Span]) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, C] -> [B, T, C], and the queries and keys [B, H, T, D + 1] it was made with, scale included."""
        shape = self.shape
        heads, kv, width = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        qkv = linear(rms_norm(x, (shape.hidden_size,), self.norm, shape.rms_norm_eps), self.qkv, self.qkv_bias)
        q, k, v = (
            qkv.view(*x.shape[:2], -1, width).transpose(1, 2).tensor_split((heads, heads + kv), dim=1)
        )  # [B, heads, T, D]
        q, k = _rotate(q, *rope), _rotate(k, *rope)
        k, v = (t.repeat_interleave(heads // kv, dim=1) for t in (k, v))
        # The sink is one more key that only a constant dimension of the query sees, with a value of zero.
        q = torch.cat((q * width**-0.5, torch.ones_like(q[..., :1])), -1)
        sink = pad(self.sinks[None, :, None, None].expand(len(x), -1, 1, 1), (width, 0))
        k = pad(k, (0, 1))
        parts = [
            scaled_dot_product_attention(
                q[:, :, span.queries],
                torch.cat((sink, k[:, :, span.keys]), 2),
                pad(v[:, :, span.keys], (0, 1, 1, 0)),
                attn_mask=span.mask,
                scale=1.0,
            )
            for span in spans
        ]
        y = torch.cat(parts, 2)[..., :width].transpose(1, 2).flatten(2)
        return linear(y, self.out, self.out_bias), q, k


def pointing_loss(q: Tensor, k: Tensor, sinks: Tensor, batch: Batch, said: int) -> Tensor:
    """How little the copying heads look at what they should copy: -log of the weight on it, mean over copies and heads.

    A copy is any row to be said but the first `said`. `q` and `k` [B, H, T, D + 1] are Attention's.
    """
    visible, losses = batch.visible(), []
    for row, targets in enumerate(batch.targets):
        at = (targets >= said).nonzero().squeeze(1)
        source = visible[row, at] & (batch.rows[row] == targets[at, None])  # [N, T]
        at, source = at[source.any(-1)], source[source.any(-1)]
        scores = (q[row][:, at] @ k[row].mT).masked_fill(~visible[row, at], -math.inf)  # [H, N, T]
        everything = torch.cat((scores, sinks[:, None, None].expand(-1, len(at), 1)), -1).logsumexp(-1)
        losses.append((everything - scores.masked_fill(~source, -math.inf).logsumexp(-1)).flatten())
    return torch.cat(losses).sum() / max(1, sum(map(len, losses)))


class Experts(nn.Module):
    """Router and experts; with `nearest` the experts' weights are rounded by it on the way."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.nearest: Callable[[Tensor], Tensor] | None = None
        experts, hidden, inner = shape.num_local_experts, shape.hidden_size, shape.intermediate_size
        self.norm = nn.Parameter(torch.ones(hidden))
        self.router = nn.Parameter(torch.randn(experts, hidden) * hidden**-0.5)
        self.router_bias = nn.Parameter(torch.zeros(experts))
        self.gate_up = _matrix(experts, 2 * inner, hidden)
        self.gate_up_bias = nn.Parameter(torch.zeros(experts, 2 * inner))
        self.down = _matrix(experts, hidden, inner, scale=(2 * shape.num_hidden_layers) ** -0.5)
        self.down_bias = nn.Parameter(torch.zeros(experts, hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, C] -> [B, T, C], and a scalar that is 1 when the experts share the tokens evenly."""
        s = self.shape
        flat = rms_norm(x, (s.hidden_size,), self.norm, s.rms_norm_eps).flatten(0, 1)
        logits = linear(flat, self.router, self.router_bias)
        best, chosen = logits.topk(s.num_experts_per_tok, dim=-1)
        share = best.softmax(-1).flatten()
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=s.num_local_experts)
        tokens = order // s.num_experts_per_tok
        gate_up, down = (rounded(w, self.nearest) if self.nearest else w for w in (self.gate_up, self.down))
        experts = zip(*(w.unbind() for w in (gate_up, self.gate_up_bias, down, self.down_bias)), strict=True)
        mine = flat[tokens].tensor_split(counts.cumsum(0)[:-1].tolist())
        parts = [self._expert(part, *weights) for part, weights in zip(mine, experts, strict=True)]
        y = torch.zeros_like(flat).index_add(0, tokens, torch.cat(parts) * share[order, None])
        even = (logits.softmax(-1).mean(0) * counts / counts.sum()).sum() * s.num_local_experts
        return y.view_as(x), even

    def _expert(self, x: Tensor, gate_up: Tensor, gate_up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        h = linear(x, gate_up, gate_up_bias)
        gate = h[:, 0::2].clamp(max=self.shape.swiglu_limit)
        up = h[:, 1::2].clamp(-self.shape.swiglu_limit, self.shape.swiglu_limit)
        return linear((up + 1) * gate * torch.sigmoid(1.702 * gate), down, down_bias)


class Network(nn.Module):
    """The whole model over rows of the vocabulary: those of the token `ids`, then `placeholders`.

    Only the first `said` of the ids are ever the model's own words. The others are read, and said when they are copied,
    so the unembedding need not tell them from untrained tokens.
    """

    def __init__(self, shape: Shape, ids: list[int], said: int, placeholders: int, vocabulary: int) -> None:
        super().__init__()
        self.shape, self.placeholders = shape, placeholders
        self.logit_dtype = torch.float32
        self.lane_gain = nn.Buffer(torch.tensor(4.0))  # of the values and of the output of the heads that copy
        self.lane = torch.from_numpy(trained_lane(np.array(ids), shape.copy_size))
        # One placeholder stands for this many rows of the real vocabulary in the softmax.
        self.stands_for = (vocabulary - said) / placeholders
        self.embedding = nn.Parameter(torch.randn(len(ids), shape.hidden_size) * 0.1)
        self.unembedding = nn.Parameter(self.embedding.detach()[:said] * 0.5)
        self.embedding_base = nn.Parameter(torch.zeros(shape.hidden_size))
        self.unembedding_base = nn.Parameter(torch.zeros(shape.hidden_size))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.attention = nn.ModuleList(
            Attention(shape, shape.sliding_window if n % 2 == 0 else None) for n in range(shape.num_hidden_layers)
        )
        self.experts = nn.ModuleList(Experts(shape) for _ in range(shape.num_hidden_layers))
        # The heads that copy begin by looking at their sinks: nothing is copied yet.
        self.layers()[-1][0].sinks.data[-shape.copying_heads :] = 3.0

    def tables(self) -> tuple[Tensor, Tensor]:
        """Embedding and unembedding [trained + placeholders, C]; the placeholders' rows are new at every call."""
        signs = torch.randint(0, 2, (self.placeholders, self.shape.copy_size)).float() * 2 - 1
        lane = pad(torch.cat((self.lane, signs)), (self.shape.hidden_size - self.shape.copy_size, 0))
        return (
            torch.cat((self.embedding, self.embedding_base + LANE_IN * lane[len(self.embedding) :])),
            torch.cat((self.unembedding, self.unembedding_base + LANE_OUT * lane[len(self.unembedding) :])),
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss per target token, and what helps training: even use of the experts, and heads that look at copies."""
        embedding, unembedding = self.tables()
        x, helping = self.hidden(embedding[batch.rows], batch)
        wanted = batch.targets >= 0
        x, targets = x[wanted].to(self.logit_dtype), batch.targets[wanted]
        rows = self._likely(targets)
        logits = linear(x, unembedding[rows].to(self.logit_dtype)).float()
        logits[:, -self.placeholders :] += math.log(self.stands_for)
        # The one that is to be copied is one token and stands for no others.
        copied, targets = targets >= len(self.embedding), torch.searchsorted(rows, targets)
        logits[copied, targets[copied]] -= math.log(self.stands_for)
        return cross_entropy(logits, targets), helping

    def _likely(self, targets: Tensor) -> Tensor:
        """Rows [R], ascending, that the softmax is over: what is said, what the targets copy, the placeholders."""
        said, trained = len(self.unembedding), len(self.embedding)
        copied = {row for row in targets.tolist() if said <= row < trained}
        return torch.tensor([*range(said), *sorted(copied), *range(trained, trained + self.placeholders)])

    def hidden(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embedded tokens [B, T, C] -> normed hidden states [B, T, C], and a loss that helps training."""
        rope, spans = rotation(self.shape, batch.positions), self._spans(batch)
        x, helping = self._before_last(x, rope, spans)
        attention, experts = self.layers()[-1]
        size = x.detach().square().mean().sqrt()
        y, q, k = attention(x, rope, spans[-1])
        x = x + y
        y, even = experts(x)
        x, helping = x + y, helping + EVENNESS * (even - 1)
        # Left alone, the last layer would take millions of tokens to find what to copy.
        copying = slice(-self.shape.copying_heads, None)
        pointing = pointing_loss(q[:, copying], k[:, copying], attention.sinks[copying], batch, len(self.unembedding))
        helping = helping + POINTING * pointing
        if self.training:
            gain = (LANE_SHARE / LANE_IN * size * x.detach().square().mean().sqrt()).sqrt()
            self.lane_gain.lerp_(gain, 0.02)
        return rms_norm(x, (self.shape.hidden_size,), self.norm, self.shape.rms_norm_eps), helping

    def _before_last(self, x: Tensor, rope: tuple[Tensor, Tensor], spans: list[list[Span]]) -> tuple[Tensor, Tensor]:
        """What the last layer gets [B, T, C], and the loss that helps until there."""
        helping = x.new_zeros(())
        for (attention, experts), seen in zip(self.layers()[:-1], spans, strict=False):
            x = x + attention(x, rope, seen)[0]
            y, even = experts(x)
            x, helping = x + y, helping + EVENNESS * (even - 1)
        return x, helping

    def _spans(self, batch: Batch) -> list[list[Span]]:
        """Who sees whom, of every layer."""
        visible = batch.visible()
        near = visible & (batch.positions[:, :, None] - batch.positions[:, None, :] < self.shape.sliding_window)
        kinds = (cut(near), cut(visible))
        return [kinds[n % 2] for n in range(self.shape.num_hidden_layers)]

    def pack_experts(self, nearest: Callable[[Tensor], Tensor]) -> None:
        """From now on the experts' weights are rounded to MXFP4, by `nearest`, in every forward pass."""
        for _, experts in self.layers():
            experts.nearest = nearest

    @torch.no_grad()
    def hold_copy_lane(self) -> None:
        """Put back what is not learned: the way on which a token is copied.

        Every token has a direction of its own in the lane, and untrained ones differ in nothing else. Nothing reads or
        writes the lane but the upper half of the last layer's heads: their values are the lane as it is and their
        output goes back into it. So the token which those heads look at becomes the likeliest one, whichever it is;
        what is learned is where to look.
        """
        lane = slice(-self.shape.copy_size, None)
        self.embedding[:, lane] = LANE_IN * self.lane
        self.unembedding[:, lane] = LANE_OUT * self.lane[: len(self.unembedding)]
        for base in (self.embedding_base, self.unembedding_base):
            base[lane] = 0
        self.norm[lane] = 1
        for attention, experts in self.layers():
            attention.norm[lane] = 1
            attention.qkv[:, lane] = 0
            attention.out[lane] = 0
            attention.out_bias[lane] = 0
            experts.router[:, lane] = 0
            experts.gate_up[..., lane] = 0
            experts.down[:, lane] = 0
            experts.down_bias[:, lane] = 0
        self._hold_copying_heads(lane)

    def _hold_copying_heads(self, lane: slice) -> None:
        """Values of the upper half of the kv heads are the lane; each query head writes its part of it back."""
        shape, (last, _) = self.shape, self.layers()[-1]
        width, group = shape.head_dim, shape.num_attention_heads // shape.num_key_value_heads
        copying = shape.copy_size // width
        values = slice(-shape.copy_size, None)
        last.qkv[values] = 0
        last.qkv_bias[values] = 0
        last.qkv[values, lane] = self.lane_gain * torch.eye(shape.copy_size)
        written = slice(-shape.copy_size * group, None)
        last.out[:, written] = 0
        parts = torch.eye(shape.copy_size).view(shape.copy_size, copying, 1, width).expand(-1, -1, group, -1)
        last.out[lane, written] = self.lane_gain / group * parts.flatten(1)

    def layers(self) -> list[tuple[Attention, Experts]]:
        """The two halves of every layer."""
        return [(cast(Attention, a), cast(Experts, e)) for a, e in zip(self.attention, self.experts, strict=True)]


def rotation(shape: Shape, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, T, D / 2] of YaRN (arXiv:2309.00071), correction range not rounded."""
    half = shape.head_dim // 2
    index = torch.arange(half, dtype=torch.float32)
    plain = shape.rope_theta ** (-index / half)
    low, high = (
        half * math.log(shape.original_context / (beta * 2 * math.pi)) / math.log(shape.rope_theta)
        for beta in (shape.beta_fast, shape.beta_slow)
    )
    ramp = ((index - max(low, 0)) / (min(high, shape.head_dim - 1) - max(low, 0))).clamp(0, 1)
    frequency = plain / shape.yarn_factor * ramp + plain * (1 - ramp)
    angle = positions[:, None, :, None] * frequency
    concentration = 0.1 * math.log(shape.yarn_factor) + 1
    return angle.cos() * concentration, angle.sin() * concentration


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def _matrix(*dims: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*dims) * (scale * dims[-1] ** -0.5))
