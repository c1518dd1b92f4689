"""Checkpoint files are mapped as they are, and refused in one line if they contradict the config."""

import json
import logging
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptoss_cli.checkpoint import header
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.engine.expert_offload import packed_only
from gptoss_cli.engine.pinned_memory import rows_on_device
from gptoss_cli.engine.weights import ModelWeights, Rows, load_weights
from gptoss_cli.errors import GptossError, IntegrityError, NotInstalledError
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors
from tests.engine.checkpoints import (
    REAL_20B,
    Array,
    ConfigStyle,
    Shape,
    config_json,
    original_layout,
    random_tensors,
    write_checkpoint,
    write_config,
    write_index,
    write_safetensors,
)

SHAPE = Shape()
BLOCKS = "model.layers.1.mlp.experts.gate_up_proj_blocks"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def load(folder: Path) -> ModelWeights:
    return load_weights(folder, load_config(folder / "config.json"))


def refusal(folder: Path, kind: type[GptossError] = IntegrityError) -> str:
    """Return the message of the error when `folder` is loaded."""
    with pytest.raises(kind) as caught:
        load(folder)
    line = str(caught.value)
    assert line.isprintable()
    return line


def write(folder: Path, tensors: Mapping[str, Array]) -> Path:
    """Write a Hugging Face folder of SHAPE with `tensors` in one file."""
    write_config(folder, config_json(SHAPE))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def mapped_files(tensor: torch.Tensor) -> set[str]:
    """Return the names of the files whose mappings hold the first and last byte of `tensor`."""
    first = tensor.data_ptr()
    ends = {first, first + tensor.nbytes - 1}
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split(" ", 1)[0].split("-"))
        if any(start <= address < end for address in ends):
            found.add(Path(line.split()[-1]).name)
    return found


def tensor_of(matrix: Rows) -> torch.Tensor:
    """Return a matrix that is not quantized."""
    assert isinstance(matrix, torch.Tensor)
    return matrix


def all_tensors(weights: ModelWeights) -> list[torch.Tensor]:
    tensors = [rows_on_device(weights.embedding), weights.final_norm, tensor_of(weights.unembedding)]
    for layer in weights.layers:
        attention, mlp = layer.attention, layer.mlp
        tensors += [attention.norm, attention.sinks, mlp.norm]
        for linear in (attention.query, attention.key, attention.value, attention.output, mlp.router):
            tensors += [tensor_of(linear.weight), linear.bias]
        for experts in (packed_only(mlp.gate_up), packed_only(mlp.down)):
            tensors += [experts.blocks, experts.scales, experts.bias]
    return tensors


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("style", [ConfigStyle.PUBLISHED, ConfigStyle.ORIGINAL])
def test_every_tensor_is_a_view_of_its_file(tmp_path: Path, style: ConfigStyle) -> None:
    weights = load(write_checkpoint(tmp_path, SHAPE, style=style))
    assert all(mapped_files(tensor) == {"model.safetensors"} for tensor in all_tensors(weights))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_loading_allocates_no_memory(tmp_path: Path) -> None:
    """50 MB are mapped, and anonymous memory grows by far less."""
    shape = Shape(vocabulary=2**17)
    write_checkpoint(tmp_path, shape)
    before = anonymous_bytes()
    weights = load(tmp_path)
    assert rows_on_device(weights.embedding).nbytes > 25e6
    assert anonymous_bytes() - before < 5e6


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("style", list(ConfigStyle))
def test_every_layout_gives_the_same_bytes(tmp_path: Path, style: ConfigStyle, shards: int) -> None:
    weights = load(write_checkpoint(tmp_path, SHAPE, style=style, shards=shards))
    expected = random_tensors(SHAPE, 0)
    layer = weights.layers[1]
    for tensor, name in (
        (tensor_of(weights.unembedding), "lm_head.weight"),
        (tensor_of(layer.attention.query.weight), "model.layers.1.self_attn.q_proj.weight"),
        (layer.attention.key.bias, "model.layers.1.self_attn.k_proj.bias"),
        (tensor_of(layer.attention.value.weight), "model.layers.1.self_attn.v_proj.weight"),
    ):
        assert tensor.dtype is torch.bfloat16
        assert np.array_equal(tensor.view(torch.int16).numpy().view(np.uint16), expected[name])
    assert np.array_equal(packed_only(layer.mlp.gate_up).blocks.numpy(), expected[BLOCKS])


@pytest.mark.parametrize("layout", list(Layout))
def test_the_table_has_the_name_and_shape_of_every_tensor(tmp_path: Path, layout: Layout) -> None:
    tensors = random_tensors(SHAPE, 0)
    if layout is Layout.ORIGINAL:
        tensors = original_layout(SHAPE, tensors)
    table = expected_tensors(load_config(write_config(tmp_path, config_json(SHAPE))), layout)
    assert {name: spec.shape for name, spec in table.items()} == {name: data.shape for name, data in tensors.items()}
    assert {name for name, spec in table.items() if spec.dtype == "U8"} == {
        name for name, data in tensors.items() if data.dtype == np.uint8
    }


@pytest.mark.parametrize(("layers", "experts", "total_bytes"), [(24, 32, 13_761_264_768), (36, 128, 65_248_815_744)])
def test_the_table_adds_up_to_the_published_sizes(tmp_path: Path, layers: int, experts: int, total_bytes: int) -> None:
    real = REAL_20B | {"num_hidden_layers": layers, "num_local_experts": experts, "layer_types": None}
    config = load_config(write_config(tmp_path, real))
    for layout in Layout:
        table = expected_tensors(config, layout)
        assert sum(math.prod(spec.shape) * (1 if spec.dtype == "U8" else 2) for spec in table.values()) == total_bytes


def test_the_folder_original_is_used_when_only_that_has_weights(tmp_path: Path) -> None:
    write_config(tmp_path, config_json(SHAPE))
    original = write_checkpoint(tmp_path / "original", SHAPE, style=ConfigStyle.ORIGINAL)
    assert weights_folder(tmp_path) == original
    write_checkpoint(tmp_path, SHAPE)
    assert weights_folder(tmp_path) == tmp_path


def test_a_folder_without_weights_is_not_installed(tmp_path: Path) -> None:
    write_config(tmp_path, config_json(SHAPE))
    with pytest.raises(NotInstalledError, match="no safetensors files"):
        weights_folder(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(SHAPE, 0)
    del tensors[QUERY]
    assert f"tensor '{QUERY}' is missing" in refusal(write(tmp_path, tensors))


def test_an_extra_tensor_is_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = {"rotary\x1b[31m": np.zeros(3, np.float32)}
    with caplog.at_level(logging.WARNING):
        load(write(tmp_path, random_tensors(SHAPE, 0) | extra))
    assert "ignored 1 unexpected tensors" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_wrong_shape_is_reported_with_file_expected_and_actual_shape(tmp_path: Path) -> None:
    tensors = random_tensors(SHAPE, 0)
    tensors[QUERY] = tensors[QUERY].T
    line = refusal(write(tmp_path, tensors))
    assert (
        f"model.safetensors: tensor {QUERY} should be BF16 [308, 96] according to config.json, but is BF16 [96, 308]"
        in line
    )


@pytest.mark.parametrize(("name", "dtype", "word"), [(QUERY, np.float32, "F32"), (BLOCKS, np.uint16, "BF16")])
def test_a_wrong_dtype_is_reported(tmp_path: Path, name: str, dtype: type, word: str) -> None:
    tensors = random_tensors(SHAPE, 0)
    tensors[name] = tensors[name].astype(dtype)
    assert f"but is {word}" in refusal(write(tmp_path, tensors))


def test_wrong_dimensions_are_refused_before_memory_is_allocated(tmp_path: Path) -> None:
    write(tmp_path, random_tensors(SHAPE, 0))
    write_config(tmp_path, config_json(SHAPE) | {"vocab_size": 4_000_000, "hidden_size": 65_536})
    assert "should be BF16 [4000000, 65536]" in refusal(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE, shards=2)
    write_safetensors(tmp_path / "model-00001-of-00001.safetensors", random_tensors(SHAPE, 0))
    assert "is also in model-00000-of-00001.safetensors" in refusal(tmp_path)


def test_a_missing_shard_is_not_installed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE, shards=3)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert "model-00001-of-00002.safetensors is missing" in refusal(tmp_path, NotInstalledError)


def test_an_index_with_a_tensor_that_no_shard_holds_is_refused(tmp_path: Path) -> None:
    shard_of = dict.fromkeys([*random_tensors(SHAPE, 0), "\x1b]52;c;aGk=\x07"], "model.safetensors")
    write(tmp_path, random_tensors(SHAPE, 0))
    write_index(tmp_path, shard_of)
    assert "is missing, but" in refusal(tmp_path)


def test_an_index_that_names_the_wrong_shard_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    shard_of = json.loads(index.read_text())["weight_map"]
    name = next(iter(shard_of))
    shard_of[name] = next(shard for shard in shard_of.values() if shard != shard_of[name])
    write_index(tmp_path, shard_of)
    assert f"tensor '{name}' is in" in refusal(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/elsewhere/model.safetensors",
        "..",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "C:\\model.safetensors",
        "C:model.safetensors",
        "\x1b[31m.safetensors",
        "model.bin",
        "",
        "a" * 300 + ".safetensors",
        7,
        None,
        ["model.safetensors"],
        {"file": "model.safetensors"},
    ],
)
def test_an_index_that_leads_out_of_the_folder_is_refused_before_a_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: object
) -> None:
    write(tmp_path, random_tensors(SHAPE, 0))
    write_index(tmp_path, {QUERY: shard})
    monkeypatch.setattr(header, "read_header", _never)
    assert f"weight_map maps '{QUERY}' to" in refusal(tmp_path)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("a file was opened")


@pytest.mark.parametrize("index", ['{"weight_map": []}', "{}", '{"weight_map": {', '{"weight_map": {"a": NaN}}'])
def test_a_broken_index_is_refused(tmp_path: Path, index: str) -> None:
    write(tmp_path, random_tensors(SHAPE, 0))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(tmp_path)


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Return a function that rewrites the header of a safetensors file."""

    def rewrite(good: bytes) -> bytes:
        length = struct.unpack("<Q", good[:8])[0]
        entries = json.loads(good[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + good[8 + length :]

    return rewrite


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", "is empty"),
        (lambda good: good[:7], "is not a whole safetensors file"),
        (lambda good: b"<!DOCTYPE html><title>Sign in\x1b[31m</title>", "is a web page"),
        (lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (lambda good: struct.pack("<Q", 2**63) + good[8:], "is not a whole safetensors file"),
        (lambda good: struct.pack("<Q", 200_000_000) + good[8:], "is not a whole safetensors file"),
        (lambda good: good[:-1], "bytes of tensors, but its header requires"),
        (lambda good: good + b"\0", "bytes of tensors, but its header requires"),
        (_header(lambda h: h[QUERY].update(data_offsets=[0, 2])), "byte range"),
        (_header(lambda h: h[QUERY].update(data_offsets=[9, 3])), "byte range"),
        (_header(lambda h: h[QUERY].update(data_offsets=[-1, 3])), "invalid number"),
        (_header(lambda h: h[QUERY].update(data_offsets=[2**64, 2**65])), "invalid number"),
        (_header(lambda h: h[QUERY].update(shape=[2**40, 2**40])), "byte range"),
        (_header(lambda h: h[QUERY].update(dtype="\x1b[31mI128")), "unknown dtype"),
    ],
)
def test_a_damaged_file_is_refused_and_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    write(tmp_path, random_tensors(SHAPE, 0))
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    line = refusal(tmp_path)
    assert line.startswith(str(path))
    assert message in line


def test_a_folder_in_place_of_a_shard_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, config_json(SHAPE))
    (tmp_path / "model.safetensors").mkdir()
    assert "model.safetensors" in refusal(tmp_path)


def test_other_files_in_the_folder_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, random_tensors(SHAPE, 0))
    (tmp_path / "._model.safetensors").write_bytes(b"\0")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\0")
    (tmp_path / "modeling_gpt_oss.py").write_text("raise SystemExit")
    load(tmp_path)
