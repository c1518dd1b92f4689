"""The operations of `Kernels` over the native library: weights are read as they lie in the mapped checkpoint.

In float32 every product is of float32 activations. In bfloat16 those of MXFP4 and int8 weights are of int16 activations
with a factor for each 32, which is 80 times finer than bfloat16, and those of bf16 weights are of float32 ones still;
only keys and values are kept in bfloat16. Before MXFP4 weights activations can be int8 instead.
"""

from collections.abc import Sequence
from ctypes import Array, byref
from functools import cache

import torch
from torch import Tensor

from gptoss_cli.engine.cache import LayerCache
from gptoss_cli.engine.config import ModelConfig
from gptoss_cli.engine.experts import PackedExperts, PlacedExperts, unplaced
from gptoss_cli.engine.kernels.library import (
    FLOAT32,
    INT8,
    INT16,
    Attention,
    Cached,
    Experts,
    Layer,
    Matrix,
    Native,
    Shape,
    find_library,
)
from gptoss_cli.engine.machine import usable_cores
from gptoss_cli.engine.weights import (
    AttentionWeights,
    Int8Matrix,
    LayerWeights,
    Linear,
    MlpWeights,
    Rows,
)
from gptoss_cli.settings import Activations

_Linear = tuple[Rows, Tensor | None]  # a matrix and its bias


@cache
def default_threads() -> int:
    """Return torch's number of threads, one for each physical core, or fewer if this process may not use so many."""
    return min(torch.get_num_threads(), usable_cores())


def find_kernels(activations: Activations = Activations.INT16, threads: int | None = None) -> "CpuKernels | str":
    """Return the kernels as they were installed, or why there are none. `threads` None is default_threads().

    torch is left with one thread: its others would spin for milliseconds after each of its operations, on the cores
    that the kernels' threads need.
    """
    threads = threads or default_threads()
    path = find_library()
    if path is None:
        return "The CPU kernels were not built. Install a C compiler, for example gcc, and then gptoss again"
    try:
        kernels = CpuKernels(Native(path), activations, threads)
    except OSError as exc:
        return f"The CPU kernels cannot be loaded: {exc}. Install gptoss again"
    wrong = kernels.native.self_check()
    if wrong is not None:
        used = kernels.native.instructions
        kernels.shortcoming = (
            f"This machine has {wrong} instructions and computes them wrongly, so that {used} ones are used. "
            "Update its virtual machine or its firmware"
        )
    torch.set_num_threads(1)
    return kernels


class CpuKernels:
    """See Kernels and LayerDecoder. `native` may be exchanged, to watch the calls, and `threads` at any time."""

    def __init__(self, native: Native, activations: Activations = Activations.INT16, threads: int = 1) -> None:
        self.native = native
        self.threads = threads
        self.shortcoming: str | None = None  # see Numerics
        self._activations = activations
        self._layers: tuple[Sequence[LayerWeights], Array[Layer]] | None = None

    def embed(self, ids: Tensor, embedding: Tensor) -> Tensor:
        """See Kernels.embed."""
        return embedding[ids].float()

    def project_qkv(
        self, x: Tensor, weights: AttentionWeights, *, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.project_qkv."""
        linears = [_parts(linear) for linear in (weights.query, weights.key, weights.value)]
        query, key, value = self._norm_products(x, weights.norm, linears, eps)
        return query, key, value

    def attend(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        rotation: tuple[Tensor, Tensor],
        sinks: Tensor,
        cache: LayerCache,
        *,
        position: int,
    ) -> Tensor:
        """See Kernels.attend."""
        head_dim = 2 * rotation[0].shape[1]
        queries, keys = (self._rotated(part, rotation, head_dim) for part in qkv[:2])
        seen = cache.append(keys, qkv[2].view(len(keys), -1, head_dim), position)
        shape = Attention(
            tokens=len(queries),
            query_heads=queries.shape[1],
            kv_heads=keys.shape[1],
            head_dim=head_dim,
            keys=len(seen.keys),
            first=seen.first,
            position=position,
            window=seen.window or 0,
            is_bf16=seen.keys.dtype is torch.bfloat16,
        )
        assert seen.keys.is_contiguous()
        assert seen.values.is_contiguous()
        out = torch.empty(len(queries), queries.shape[1] * head_dim)
        tensors = (out, queries, seen.keys, seen.values, sinks)
        self.native.attend(*(part.data_ptr() for part in tensors), byref(shape), self.threads)
        return out

    def project_output(self, x: Tensor, attended: Tensor, weights: AttentionWeights, *, dtype: torch.dtype) -> Tensor:
        """See Kernels.project_output."""
        out = torch.empty_like(x)
        self._dense(out, attended, [_parts(weights.output)], residual=x)
        return out

    def route(self, x: Tensor, weights: MlpWeights, *, active: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """See Kernels.route."""
        normed = torch.empty_like(x)
        tokens, count = len(x), len(weights.router.bias)
        logits, shares = torch.empty(tokens, count), torch.empty(tokens, active)
        experts = torch.empty(tokens, active, dtype=torch.int64)
        self._dense(logits, x, [_parts(weights.router)], norm=weights.norm, normed=normed, eps=eps)
        self.native.choose(experts.data_ptr(), shares.data_ptr(), logits.data_ptr(), tokens, count, active)
        return normed, experts, shares

    def mix_experts(
        self, x: Tensor, routed: tuple[Tensor, Tensor, Tensor], weights: MlpWeights, *, limit: float, dtype: torch.dtype
    ) -> Tensor:
        """See Kernels.mix_experts. Of several tokens one expert at a time, of one token its A experts."""
        normed, experts, shares = routed
        packed = byref(_experts(weights.gate_up)), byref(_experts(weights.down))
        numerics = limit, self._form(dtype), self.threads
        out, (tokens, active) = torch.empty_like(x), experts.shape
        pointers = (part.data_ptr() for part in (out, x.contiguous(), normed, experts, shares))
        if tokens == 1:
            self.native.mix_one(*pointers, active, *packed, *numerics)
        else:
            self.native.mix_many(*pointers, tokens, active, len(weights.router.bias), *packed, *numerics)
        return out

    def unembed(self, x: Tensor, norm: Tensor, unembedding: Rows, *, eps: float, dtype: torch.dtype) -> Tensor:
        """See Kernels.unembed."""
        (logits,) = self._norm_products(x, norm, [(unembedding, None)], eps)
        return logits

    def decode_layers(
        self,
        x: Tensor,
        layers: Sequence[LayerWeights],
        caches: Sequence[LayerCache],
        rotation: tuple[Tensor, Tensor],
        *,
        position: int,
        config: ModelConfig,
        dtype: torch.dtype,
    ) -> Tensor:
        """See LayerDecoder."""
        if self._layers is None or self._layers[0] is not layers:
            self._layers = layers, (Layer * len(layers))(*map(_layer, layers))
        cached = (Cached * len(layers))(*(_cached(cache, position) for cache in caches))
        shape = Shape(
            hidden_size=config.hidden_size,
            query_heads=config.query_heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            active=config.active_experts,
            eps=config.norm_eps,
            limit=config.swiglu_limit,
            activations=self._form(dtype),
            is_bf16=dtype is torch.bfloat16,
        )
        out = x.clone()
        cos, sin = (part.data_ptr() for part in rotation)
        self.native.decode(
            out.data_ptr(), self._layers[1], cached, len(layers), byref(shape), cos, sin, position, self.threads
        )
        return out

    def _form(self, dtype: torch.dtype) -> int:
        """In what products with MXFP4 weights take activations."""
        if dtype is torch.float32:
            return FLOAT32
        return INT8 if self._activations is Activations.INT8 else INT16

    def _norm_products(self, x: Tensor, norm: Tensor, linears: Sequence[_Linear], eps: float) -> list[Tensor]:
        """RMSNorm x [T, C], then its product with each of `linears` -> [T, rows] float32 each."""
        sizes = [len(x) * len(weight) for weight, _ in linears]
        out = torch.empty(sum(sizes))
        self._dense(out, x, linears, norm=norm, eps=eps)
        return [part.view(len(x), -1) for part in torch.split(out, sizes)]

    def _dense(
        self,
        out: Tensor,
        x: Tensor,
        linears: Sequence[_Linear],
        *,
        norm: Tensor | None = None,
        normed: Tensor | None = None,
        residual: Tensor | None = None,
        eps: float = 0.0,
    ) -> None:
        """gptoss_dense: into `out`, one result after the other."""
        tokens, columns = x.shape
        x = x.contiguous()
        matrices = (Matrix * len(linears))(*(_matrix(weight, bias) for weight, bias in linears))
        pointers = (None if part is None else part.data_ptr() for part in (out, normed, x, norm, residual))
        self.native.dense(*pointers, matrices, len(linears), tokens, columns, eps, self.threads)

    def _rotated(self, flat: Tensor, rotation: tuple[Tensor, Tensor], head_dim: int) -> Tensor:
        """[T, heads * D] -> [T, heads, D], rotated."""
        heads = flat.view(len(flat), -1, head_dim)
        out = torch.empty_like(heads)
        tensors = (out, heads.contiguous(), *rotation)
        self.native.rotate(*(part.data_ptr() for part in tensors), len(heads), heads.shape[1], head_dim)
        return out


def _parts(linear: Linear) -> _Linear:
    return linear.weight, linear.bias


def _matrix(weight: Rows, bias: Tensor | None) -> Matrix:
    added = None if bias is None else bias.data_ptr()
    if isinstance(weight, Int8Matrix):
        return Matrix(weight.values.data_ptr(), weight.factors.data_ptr(), added, len(weight))
    return Matrix(weight.data_ptr(), None, added, len(weight))


def _experts(weights: PackedExperts | PlacedExperts) -> Experts:
    packed = unplaced(weights)
    rows, groups = packed.scales.shape[1:]
    return Experts(packed.blocks.data_ptr(), packed.scales.data_ptr(), packed.bias.data_ptr(), rows, groups)


def _layer(weights: LayerWeights) -> Layer:
    attention, mlp = weights.attention, weights.mlp
    query, key, value, output, router = (
        _matrix(*_parts(linear))
        for linear in (attention.query, attention.key, attention.value, attention.output, mlp.router)
    )
    return Layer(
        attention_norm=attention.norm.data_ptr(),
        qkv=(query, key, value),
        output=output,
        sinks=attention.sinks.data_ptr(),
        mlp_norm=mlp.norm.data_ptr(),
        router=router,
        gate_up=_experts(mlp.gate_up),
        down=_experts(mlp.down),
    )


def _cached(cache: LayerCache, position: int) -> Cached:
    slots, (keys, values) = cache.slots(position + 1), cache.buffers()
    return Cached(keys.data_ptr(), values.data_ptr(), slots)
