"""Compiling at the start everything that a conversation will launch, so that nothing waits for the compiler later."""

from collections.abc import Callable

import torch

from gptoss_cli.engine.kernels.protocol import KernelCompiler, LayerDecoder, TokenDrawer
from gptoss_cli.engine.kv_cache import KVCache, SlidingLayer
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.selfcheck import kernel_errors

_CONTEXT_TOKENS, _TOKENS = 256, 2


def compile_kernels(model: Transformer, *, context_tokens: int, progress: Callable[[str], None] | None) -> None:
    """Compile the kernels of prompts, single tokens and draws, each in every variant that `model` can need.

    A later start finds them in Triton's cache folder. Raises ResourceError, which names the kernel, if one does not
    compile, and if the device fails. Does nothing where nothing is compiled.
    """
    if not isinstance(model.kernels, KernelCompiler) or model.device.type == "cpu":
        return

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(f"Compiling the GPU's kernels: {done} of {total}")

    with kernel_errors(), model.on_device(), model.kernels.compiling(report):
        cache = model.new_cache(min(context_tokens, max(_CONTEXT_TOKENS, model.config.sliding_window)))
        model.kernels.embed(torch.zeros(1, dtype=torch.int64, device=model.device), model.weights.embedding)
        for layer in _kinds_of_layers(model, cache):
            _rehearse_layer(model, cache, layer)
        _rehearse_draw(model)


def _kinds_of_layers(model: Transformer, cache: KVCache) -> list[int]:
    """Return a layer of each kind: with a window or without. All layers find their experts in the same way."""
    found: dict[bool, int] = {}
    for number, layer_cache in enumerate(cache.layers):
        found.setdefault(isinstance(layer_cache, SlidingLayer), number)
    return list(found.values())


def _rehearse_layer(model: Transformer, cache: KVCache, number: int) -> None:
    """Run a layer on several tokens, and on one token both operation by operation and at once."""
    weights, layer_cache, decoder = model.weights.layers[number], cache.layers[number], model.kernels
    for tokens in (_TOKENS, 1):
        x = torch.zeros(tokens, model.config.hidden_size, device=model.device)
        rotation = model.rope.of_range(0, tokens)
        model.layer(x, weights, layer_cache, rotation=rotation, position=0)
    assert isinstance(decoder, LayerDecoder)
    decoder.decode_layers(x, [weights], [layer_cache], rotation, position=0, config=model.config, dtype=model.dtype)


def _rehearse_draw(model: Transformer) -> None:
    logits = model.unembed(torch.zeros(1, model.config.hidden_size, device=model.device))[0]
    if isinstance(model.kernels, TokenDrawer):
        excluded = torch.zeros(len(logits), dtype=torch.uint8, device=logits.device)
        uniform = torch.zeros(1, dtype=torch.float64, device=logits.device)
        model.kernels.draw(logits, excluded, uniform, temperature=1.0)
