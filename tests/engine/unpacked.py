"""The bf16 copy of a small checkpoint in the layout of transformers: experts [E, input, output]."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptoss_cli.engine.kernels.reference import dequantize
from tests.engine.checkpoints import Array, Shape, config_json, random_tensors, write_index, write_safetensors


def unpacked(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors of a packed checkpoint with the experts as bfloat16 bits."""
    result = {}
    for name, array in tensors.items():
        if name.endswith("_blocks"):
            scales = tensors[name.replace("_blocks", "_scales")]
            values = dequantize(torch.from_numpy(array), torch.from_numpy(scales), torch.bfloat16)
            bits = values.transpose(1, 2).contiguous().view(torch.int16).numpy().view(np.uint16)
            result[name.removesuffix("_blocks")] = bits
        elif not name.endswith("_scales"):
            result[name] = array
    return result


def write_unpacked(folder: Path, shape: Shape, *, tensors: Mapping[str, Array] | None = None, **config: Any) -> Path:
    """Write the bf16 copy of `shape`, or of these unpacked `tensors`, in two shards. None in `config` leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors or unpacked(random_tensors(shape, 0))
    values = config_json(shape) | {"quantization_config": None, "torch_dtype": "bfloat16"} | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}), "utf-8")
    (folder / "generation_config.json").write_text('{"eos_token_id": [200002]}')
    shard_of: dict[str, str] = {}
    for number in range(2):
        part = {name: tensors[name] for name in sorted(tensors)[number::2]}
        file = write_safetensors(folder / f"model-0000{number + 1}-of-00002.safetensors", part)
        shard_of |= dict.fromkeys(part, file.name)
    write_index(folder, shard_of)
    return folder
