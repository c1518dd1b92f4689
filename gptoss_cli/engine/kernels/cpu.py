"""The operations of `Kernels` in C, for the CPU. Weights are read where they lie in the mapped checkpoint.

With float32 arithmetic, activations are float32 in all products. With bfloat16 arithmetic they are int16 with a scale
for each 32 in products with MXFP4 and int8 weights, which is 80 times finer than bfloat16, and still float32 in
products with bf16 weights; only cached keys and values are bfloat16. Optionally they are int8 for MXFP4 weights.
"""

from collections.abc import Sequence
from ctypes import Array, byref
from functools import cache

import torch
from torch import Tensor

from gptoss_cli.engine.expert_offload import PackedExperts, PlacedExperts, packed_only
from gptoss_cli.engine.kernels.native_library import (
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
    check_instructions,
    find_library,
)
from gptoss_cli.engine.kv_cache import LayerCache
from gptoss_cli.engine.pinned_memory import PinnedRows, rows_on_device
from gptoss_cli.engine.weights import AttentionWeights, Int8Matrix, LayerWeights, Linear, MlpWeights, Rows
from gptoss_cli.placement.hardware import usable_cores
from gptoss_cli.placement.model_config import ModelConfig
from gptoss_cli.settings import Activations

_Linear = tuple[Rows, Tensor | None]  # a matrix and its bias


@cache
def default_threads() -> int:
    """Return torch's number of threads, one per physical core, or fewer if this process is limited to fewer cores."""
    return min(torch.get_num_threads(), usable_cores())


class CpuKernels:
    """See Kernels and LayerDecoder. `native` and `threads` may be replaced at any time, for example to time calls."""

    def __init__(self, native: Native, activations: Activations = Activations.INT16, threads: int = 1) -> None:
        self.native = native
        self.threads = threads
        self.shortcoming: str | None = None  # see Numerics
        self._activations = activations
        self._layers: tuple[Sequence[LayerWeights], Array[Layer]] | None = None

    def embed(self, ids: Tensor, embedding: Tensor | PinnedRows) -> Tensor:
        """See Kernels.embed."""
        return rows_on_device(embedding)[ids].float()

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
        queries, keys = (self._rotate(part, rotation, head_dim) for part in qkv[:2])
        visible = cache.append(keys, qkv[2].view(len(keys), -1, head_dim), position)
        shape = Attention(
            tokens=len(queries),
            query_heads=queries.shape[1],
            kv_heads=keys.shape[1],
            head_dim=head_dim,
            keys=len(visible.keys),
            first=visible.first,
            position=position,
            window=visible.window or 0,
            is_bf16=visible.keys.dtype is torch.bfloat16,
        )
        assert visible.keys.is_contiguous()
        assert visible.values.is_contiguous()
        out = torch.empty(len(queries), queries.shape[1] * head_dim)
        tensors = (out, queries, visible.keys, visible.values, sinks)
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
        logits, expert_weights = torch.empty(tokens, count), torch.empty(tokens, active)
        experts = torch.empty(tokens, active, dtype=torch.int64)
        self._dense(logits, x, [_parts(weights.router)], norm=weights.norm, normed=normed, eps=eps)
        self.native.choose(experts.data_ptr(), expert_weights.data_ptr(), logits.data_ptr(), tokens, count, active)
        return normed, experts, expert_weights

    def mix_experts(
        self, x: Tensor, routed: tuple[Tensor, Tensor, Tensor], weights: MlpWeights, *, limit: float, dtype: torch.dtype
    ) -> Tensor:
        """See Kernels.mix_experts. For several tokens the library runs one expert at a time."""
        normed, experts, expert_weights = routed
        packed = byref(_experts(weights.gate_up)), byref(_experts(weights.down))
        numerics = limit, self._activation_format(dtype), self.threads
        out, (tokens, active) = torch.empty_like(x), experts.shape
        pointers = (part.data_ptr() for part in (out, x.contiguous(), normed, experts, expert_weights))
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
            activations=self._activation_format(dtype),
            is_bf16=dtype is torch.bfloat16,
        )
        out = x.clone()
        cos, sin = (part.data_ptr() for part in rotation)
        self.native.decode(
            out.data_ptr(), self._layers[1], cached, len(layers), byref(shape), cos, sin, position, self.threads
        )
        return out

    def _activation_format(self, dtype: torch.dtype) -> int:
        """Return the format of activations in products with MXFP4 weights."""
        if dtype is torch.float32:
            return FLOAT32
        return INT8 if self._activations is Activations.INT8 else INT16

    def _norm_products(self, x: Tensor, norm: Tensor, linears: Sequence[_Linear], eps: float) -> list[Tensor]:
        """Compute RMSNorm of x [T, C], and its product with each of `linears` -> [T, rows] float32 each."""
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
        """Call gptoss_dense. It writes the products into `out`, one after the other."""
        tokens, columns = x.shape
        x = x.contiguous()
        matrices = (Matrix * len(linears))(*(_matrix(weight, bias) for weight, bias in linears))
        pointers = (None if part is None else part.data_ptr() for part in (out, normed, x, norm, residual))
        self.native.dense(*pointers, matrices, len(linears), tokens, columns, eps, self.threads)

    def _rotate(self, flat: Tensor, rotation: tuple[Tensor, Tensor], head_dim: int) -> Tensor:
        """Rotate heads [T, heads * D] -> [T, heads, D]."""
        heads = flat.view(len(flat), -1, head_dim)
        out = torch.empty_like(heads)
        tensors = (out, heads.contiguous(), *rotation)
        self.native.rotate(*(part.data_ptr() for part in tensors), len(heads), heads.shape[1], head_dim)
        return out


def _parts(linear: Linear) -> _Linear:
    return linear.weight, linear.bias


def _matrix(weight: Rows, bias: Tensor | None) -> Matrix:
    bias_pointer = None if bias is None else bias.data_ptr()
    if isinstance(weight, Int8Matrix):
        return Matrix(weight.values.data_ptr(), weight.scales.data_ptr(), bias_pointer, len(weight))
    return Matrix(weight.data_ptr(), None, bias_pointer, len(weight))


def _experts(weights: PackedExperts | PlacedExperts) -> Experts:
    packed = packed_only(weights)
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


def find_kernels(activations: Activations = Activations.INT16, threads: int | None = None) -> CpuKernels | str:
    """Return the installed kernels, or the reason why there are none. `threads` None means default_threads().

    With kernels torch is left with one thread. Its others would spin for milliseconds after each of its operations, on
    the cores that the threads of the kernels need. Raises UsageError for an instruction set that this machine lacks.
    """
    threads = threads or default_threads()
    path = find_library()
    if path is None:
        return "The CPU kernels were not built. Install a C compiler, for example gcc, and then reinstall gptoss"
    try:
        kernels = CpuKernels(Native(path), activations, threads)
    except OSError as exc:
        return f"The CPU kernels cannot be loaded: {exc}. Reinstall gptoss"
    kernels.shortcoming = check_instructions(kernels.native)
    torch.set_num_threads(1)
    return kernels
