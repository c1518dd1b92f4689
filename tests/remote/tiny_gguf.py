"""A GGUF file with the architecture and the whole vocabulary of gpt-oss and a few random weights. Needs `gguf`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from gptoss_cli.harmony.vocabulary import VOCABULARY_SIZE
from tests.remote.bpe_vocabulary import bpe_vocabulary

HIDDEN: Final = 64
_LAYERS, _EXPERTS, _INTERMEDIATE = 2, 4, 96
_QUERY_HEADS, _KV_HEADS, _HEAD_DIM = 4, 2, 32
CONTEXT_TOKENS: Final = 4096


def write_tiny_gguf(gguf: Any, path: Path, *, seed: int = 0) -> None:
    """Write the file. `gguf` is the module of that name."""
    writer = gguf.GGUFWriter(str(path), "gpt-oss")
    _write_settings(gguf, writer)
    _write_vocabulary(gguf, writer)
    randomness = np.random.default_rng(seed)
    for name, shape in _shapes():
        if name.endswith("norm.weight"):
            values = np.ones(shape, np.float32)
        else:
            values = randomness.standard_normal(shape, np.float32) * np.float32(0.3)
        is_matrix = len(shape) > 1 and "bias" not in name and "gate_inp" not in name
        writer.add_tensor(name, values.astype(np.float16) if is_matrix else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(gguf: Any, writer: Any) -> None:
    writer.add_block_count(_LAYERS)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(_INTERMEDIATE)
    writer.add_head_count(_QUERY_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_key_length(_HEAD_DIM)
    writer.add_value_length(_HEAD_DIM)
    writer.add_rope_freq_base(150_000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(_EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(_INTERMEDIATE)
    writer.add_sliding_window(128)
    writer.add_vocab_size(VOCABULARY_SIZE)


def _write_vocabulary(gguf: Any, writer: Any) -> None:
    vocabulary = bpe_vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list([*vocabulary.texts, *vocabulary.specials])
    kinds = gguf.TokenType
    ordinary, special = len(vocabulary.texts), len(vocabulary.specials)
    writer.add_token_types([int(kinds.NORMAL)] * ordinary + [int(kinds.CONTROL)] * special)
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    writer.add_bos_token_id(199998)
    writer.add_eos_token_id(200002)
    writer.add_pad_token_id(199999)


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = _QUERY_HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    yield "token_embd.weight", (VOCABULARY_SIZE, HIDDEN)
    yield "output_norm.weight", (HIDDEN,)
    yield "output.weight", (VOCABULARY_SIZE, HIDDEN)
    for layer in range(_LAYERS):
        for name, shape in {
            "attn_norm.weight": (HIDDEN,),
            "post_attention_norm.weight": (HIDDEN,),
            "attn_q.weight": (queries, HIDDEN),
            "attn_q.bias": (queries,),
            "attn_k.weight": (keys, HIDDEN),
            "attn_k.bias": (keys,),
            "attn_v.weight": (keys, HIDDEN),
            "attn_v.bias": (keys,),
            "attn_output.weight": (HIDDEN, queries),
            "attn_output.bias": (HIDDEN,),
            "attn_sinks.weight": (_QUERY_HEADS,),
            "ffn_gate_inp.weight": (_EXPERTS, HIDDEN),
            "ffn_gate_inp.bias": (_EXPERTS,),
            "ffn_gate_exps.weight": (_EXPERTS, _INTERMEDIATE, HIDDEN),
            "ffn_gate_exps.bias": (_EXPERTS, _INTERMEDIATE),
            "ffn_up_exps.weight": (_EXPERTS, _INTERMEDIATE, HIDDEN),
            "ffn_up_exps.bias": (_EXPERTS, _INTERMEDIATE),
            "ffn_down_exps.weight": (_EXPERTS, HIDDEN, _INTERMEDIATE),
            "ffn_down_exps.bias": (_EXPERTS, HIDDEN),
        }.items():
            yield f"blk.{layer}.{name}", shape
