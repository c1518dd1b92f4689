"""A checkpoint for vLLM: the architecture and the whole vocabulary of gpt-oss, with a few random weights in bf16."""

import json
from pathlib import Path
from typing import Any, Final

from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, VOCABULARY_SIZE
from tests.engine.checkpoints import FULL, SLIDING, Shape
from tests.engine.unpacked import write_unpacked
from tests.remote.bpe_vocabulary import bpe_vocabulary

_SHAPE: Final = Shape(
    hidden=160,
    intermediate=192,
    kv_heads=2,
    queries_per_head=7,
    head_dim=64,
    experts=8,
    active=3,
    vocabulary=VOCABULARY_SIZE,
    layer_types=(SLIDING, FULL),
    window=128,
    limit=7.0,
    theta=150_000.0,
    eps=1e-5,
    context=131_072,
    yarn={
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
)
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_ENDING: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_FIRST: Final = r"[^\r\n\p{L}\p{N}]?"
_WORDS: Final = "|".join(
    (
        f"{_FIRST}{_UPPER}*{_LOWER}+{_ENDING}",
        f"{_FIRST}{_UPPER}+{_LOWER}*{_ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def write_tiny_vllm(folder: Path) -> Path:
    """Write the checkpoint and its tokenizer."""
    write_unpacked(folder, _SHAPE, architectures=["GptOssForCausalLM"], hidden_act="silu", eos_token_id=200_002)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()), "utf-8")
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": _SHAPE.context, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def _tokenizer() -> dict[str, Any]:
    vocabulary = bpe_vocabulary()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": id_, "content": text, **flags} for id_, text in enumerate(vocabulary.specials, FIRST_SPECIAL_ID)
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, letters]},
        "post_processor": letters,
        "decoder": letters,
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {text: id_ for id_, text in enumerate(vocabulary.texts)},
            "merges": vocabulary.merges,
        },
    }
