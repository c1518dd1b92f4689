"""The gpt-oss transformer: norm, attention, norm, experts, in reading order. The arithmetic is in `kernels`.

Letters in shapes: T new tokens, H query heads, K kv heads, D head dim, C hidden, A active experts, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gptoss_cli.engine.cuda_graph import OneTokenGraph
from gptoss_cli.engine.kernels.protocol import Kernels, LayerDecoder
from gptoss_cli.engine.kv_cache import KVCache, LayerCache
from gptoss_cli.engine.rope import RotaryEmbedding
from gptoss_cli.engine.weights import LayerWeights, ModelWeights
from gptoss_cli.placement.model_config import ModelConfig

# The experts [T, A] int64 of each layer and their weights [T, A] float32.
Routing = list[tuple[Tensor, Tensor]]


class Transformer:
    """Weights, and the kernels and dtype to compute with. The state of a sequence is in a KVCache.

    With `use_cuda_graph` the layers of a single token are captured once and then replayed.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        kernels: Kernels,
        dtype: torch.dtype,
        *,
        use_cuda_graph: bool = False,
    ) -> None:
        self.config = config
        self.weights = weights
        self.kernels = kernels
        self.dtype = dtype
        self.device = weights.final_norm.device
        self.use_cuda_graph = use_cuda_graph
        self.rope = RotaryEmbedding(config.rope, config.head_dim, self.device)
        self._decoder = kernels if isinstance(kernels, LayerDecoder) else None
        self._graph = OneTokenGraph(self._run_layers)

    def new_cache(self, context_tokens: int) -> KVCache:
        """Return an empty cache for this model, on its device."""
        return KVCache(self.config, context_tokens=context_tokens, dtype=self.dtype, device=str(self.device))

    def forward(self, ids: list[int], cache: KVCache, *, routing: Routing | None = None) -> Tensor:
        """Run tokens ids [T] after those in `cache`, and add them to it -> hidden states [T, C] float32.

        The experts of each layer are added to `routing`. With it, one operation runs after the other: neither a CUDA
        graph nor a kernel that runs all layers reports them.
        """
        with self.on_device():
            embedding = self.weights.embedding  # may be in host memory when the layers are not
            x = self.kernels.embed(torch.tensor(ids, device=embedding.device), embedding).to(self.device)
            rotation = self.rope.of_range(cache.length, len(ids))
            cache.position.fill_(cache.length)
            replays = self.use_cuda_graph and len(ids) == 1 and routing is None
            x = self._graph.run(x, rotation, cache) if replays else self._run_layers(x, rotation, cache, routing)
            cache.advance(len(ids))
            return x

    def forward_each(self, ids: list[int], caches: list[KVCache]) -> Tensor:
        """Run one token of each of T sequences, whose ids [T] follow those in `caches` -> hidden states [T, C] float32.

        The weights are read once for all of them; each attends to its own cache. Sums may be in another order than in
        `forward`.
        """
        with self.on_device():
            embedding = self.weights.embedding
            x = self.kernels.embed(torch.tensor(ids, device=embedding.device), embedding).to(self.device)
            positions = torch.tensor([cache.length for cache in caches], device=self.device)
            rotation = self.rope.of_positions(positions)
            for cache in caches:
                cache.position.fill_(cache.length)
            for index, weights in enumerate(self.weights.layers):
                x = self._layer_of_each(x, weights, [cache.layers[index] for cache in caches], rotation, caches)
            for cache in caches:
                cache.advance(1)
            return x

    def forward_on_device(self, token: Tensor, cache: KVCache) -> Tensor:
        """Run one token [1] whose id is only known on the device -> its hidden state [1, C] float32.

        Nothing waits for the host. The token goes to `cache.position`; the caller advances the cache.
        """
        x = self.kernels.embed(token, self.weights.embedding)
        return self._run_layers(x, self.rope.of_positions(cache.position), cache)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Return logits [T, V] float32 for hidden states [T, C]: the final norm and the unembedding."""
        weights, eps = self.weights, self.config.norm_eps
        with self.on_device():
            return self.kernels.unembed(hidden, weights.final_norm, weights.unembedding, eps=eps, dtype=self.dtype)

    def layer(
        self,
        x: Tensor,
        weights: LayerWeights,
        cache: LayerCache,
        *,
        rotation: tuple[Tensor, Tensor],
        position: int,
        routing: Routing | None = None,
    ) -> Tensor:
        """Run one layer: x [T, C] float32 -> [T, C]. `rotation` is cos and sin [T, D/2], `position` the first one's.

        The experts are added to `routing`.
        """
        # In a method of its own, so that queries, keys and values are gone while the experts need memory.
        x = self._attention(x, weights, cache, rotation, position)
        return self._experts(x, weights, routing)

    def _attention(
        self, x: Tensor, weights: LayerWeights, cache: LayerCache, rotation: tuple[Tensor, Tensor], position: int
    ) -> Tensor:
        # Norm; queries [T, H*D], keys and values [T, K*D]; attended [T, H*D]; x + output.
        kernels, dtype, attention = self.kernels, self.dtype, weights.attention
        qkv = kernels.project_qkv(x, attention, eps=self.config.norm_eps, dtype=dtype)
        attended = kernels.attend(qkv, rotation, attention.sinks, cache, position=position)
        return kernels.project_output(x, attended, attention, dtype=dtype)

    def _layer_of_each(
        self,
        x: Tensor,
        weights: LayerWeights,
        layers: list[LayerCache],
        rotation: tuple[Tensor, Tensor],
        caches: list[KVCache],
    ) -> Tensor:
        """Run one layer for a token of each sequence: as `layer`, with attention row by row."""
        kernels, config, dtype = self.kernels, self.config, self.dtype
        query, key, value = kernels.project_qkv(x, weights.attention, eps=config.norm_eps, dtype=dtype)
        (cos, sin), sinks = rotation, weights.attention.sinks
        rows = [slice(row, row + 1) for row in range(len(x))]
        attended = [
            kernels.attend(
                (query[row], key[row], value[row]), (cos[row], sin[row]), sinks, layer, position=cache.length
            )
            for row, layer, cache in zip(rows, layers, caches, strict=True)
        ]
        x = kernels.project_output(x, torch.cat(attended), weights.attention, dtype=dtype)
        return self._experts(x, weights, None)

    def _experts(self, x: Tensor, weights: LayerWeights, routing: Routing | None) -> Tensor:
        # Norm; normed [T, C], experts and their weights [T, A]; x + weighted sum.
        config = self.config
        routed = self.kernels.route(x, weights.mlp, active=config.active_experts, eps=config.norm_eps)
        if routing is not None:
            routing.append(routed[1:])
        return self.kernels.mix_experts(x, routed, weights.mlp, limit=config.swiglu_limit, dtype=self.dtype)

    def on_device(self) -> AbstractContextManager[object]:
        """Return a context in which new CUDA graphs, streams and events belong to the model's device."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _run_layers(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: KVCache, routing: Routing | None = None
    ) -> Tensor:
        layers, position = self.weights.layers, cache.length
        if self._decoder is not None and len(x) == 1 and routing is None:
            return self._decoder.decode_layers(
                x, layers, cache.layers, rotation, position=position, config=self.config, dtype=self.dtype
            )
        for weights, layer_cache in zip(layers, cache.layers, strict=True):
            x = self.layer(x, weights, layer_cache, rotation=rotation, position=position, routing=routing)
        return x
