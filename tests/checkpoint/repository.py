"""The files of a small repository with the file names of gpt-oss-20b. Its weights are noise."""

import json
import random

SHARDS = ("model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors")
SHARD_BYTES = 1_500_000


def repository_files(seed: int = 0) -> dict[str, bytes]:
    """Return the files that a download needs, and some that it must ignore."""
    noise = random.Random(seed)
    index = {"weight_map": {f"tensor.{number}": name for number, name in enumerate(SHARDS)}}
    return {
        "README.md": b"Not needed.",
        "config.json": json.dumps({"num_hidden_layers": 24, "num_local_experts": 32}).encode(),
        "generation_config.json": b'{"eos_token_id": [200002]}',
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: noise.randbytes(SHARD_BYTES) for name in SHARDS},
        "original/model.safetensors": b"the same again",
        "metal/model.bin": b"and again",
        "evil.py": b"raise SystemExit",
    }


def needed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files that a download fetches."""
    return {name: data for name, data in files.items() if name.endswith((".json", ".safetensors")) and "/" not in name}
