"""A bf16 copy becomes the published layout again: the same values, whatever shapes look like, also after a kill."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gptoss_cli.checkpoint.header import check_tensors
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.engine import convert
from gptoss_cli.engine.convert import Conversion, Losses
from gptoss_cli.engine.expert_offload import PackedExperts
from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.weights import load_weights
from gptoss_cli.errors import Hint, IntegrityError
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors
from tests.checkpoint.progress import RecordedProgress
from tests.engine.checkpoints import FULL, SLIDING, Array, Shape, random_tensors, write_checkpoint
from tests.engine.unpacked import unpacked, write_unpacked

SHAPE = Shape(layer_types=(SLIDING, FULL))
_EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


@dataclass(frozen=True)
class Square(Shape):
    """A shape with F = C, as gpt-oss has: whichever way `down_proj` lies, its shape is the same."""

    intermediate: int = 96

    def __post_init__(self) -> None:
        """Allow it."""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_SHARD_BYTES", 120_000)


def run(source: Path, folder: Path, *, exact: bool = False) -> Losses:
    """Convert `source` into `folder`, continuing what is there."""
    conversion, total = Conversion(source), Losses()
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for shard in conversion.shards:
        done = conversion.finished(shard, folder, folder / "records") or conversion.write_shard(
            shard, folder, folder / "records", RecordedProgress(), threading.Event(), exact=exact
        )
        total = total.plus(done[1])
    conversion.write_small_files(folder)
    config = load_config(folder / "config.json")
    assert check_tensors(folder, [expected_tensors(config, Layout.HUGGING_FACE)]).unexpected == []
    return total


def logits(folder: Path) -> Tensor:
    config = load_config(folder / "config.json")
    model = Transformer(config, load_weights(folder, config), reference, torch.float32)
    ids = list(range(7, 40))
    return model.unembed(model.forward(ids, model.new_cache(64)))


def assert_same_model(folder: Path, original: Path) -> None:
    """Compare the values of all experts, and the logits."""
    for ours, theirs in zip(experts(folder), experts(original), strict=True):
        assert torch.equal(values(ours), values(theirs))
        assert torch.equal(ours.bias, theirs.bias)
    assert torch.equal(logits(folder), logits(original))


def experts(folder: Path) -> Iterator[PackedExperts]:
    for layer in load_weights(folder, load_config(folder / "config.json")).layers:
        for packed in (layer.mlp.gate_up, layer.mlp.down):
            assert isinstance(packed, PackedExperts)
            yield packed


def values(packed: PackedExperts) -> Tensor:
    return reference.dequantize(packed.blocks, packed.scales, torch.float32)


@pytest.mark.parametrize("shape", [SHAPE, Square()], ids=["no-two-equal", "square"])
def test_a_bf16_copy_becomes_the_original_again(shape: Shape, tmp_path: Path) -> None:
    original = write_checkpoint(tmp_path / "original", shape)
    losses = run(write_unpacked(tmp_path / "bf16", shape), tmp_path / "ours")
    assert losses.is_exact
    assert losses.blocks == sum(array.size for name, array in random_tensors(shape, 0).items() if "_scales" in name)
    assert_same_model(tmp_path / "ours", original)


def _saved_by_transformers(original: Path, folder: Path) -> Path:
    # Imported here because it takes half of the time in which the tests are collected.
    from transformers import GptOssForCausalLM
    from transformers.utils.quantization_config import Mxfp4Config

    model = GptOssForCausalLM.from_pretrained(
        original, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
    )
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_what_transformers_saves_becomes_the_original_again(tmp_path: Path) -> None:
    original = write_checkpoint(tmp_path / "original", SHAPE)
    assert run(_saved_by_transformers(original, tmp_path / "bf16"), tmp_path / "ours").is_exact
    assert_same_model(tmp_path / "ours", original)


@pytest.mark.slow
def test_the_demo_saved_by_transformers_becomes_the_demo_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    original = demo_checkpoint()
    assert run(_saved_by_transformers(original, tmp_path / "bf16"), tmp_path / "ours", exact=True).is_exact
    assert_same_model(tmp_path / "ours", original)


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "mxfp4"}},
        {"quantization_config": {"quant_method": "mxfp4", "dequantize": True}, "dtype": "bfloat16"},
        {"torch_dtype": None},
    ],
)
def test_the_config_may_say_anything_about_the_quantization(config: dict[str, Any], tmp_path: Path) -> None:
    run(write_unpacked(tmp_path / "bf16", SHAPE, **config), tmp_path / "ours")
    text = (tmp_path / "ours" / "config.json").read_text()
    assert '"quant_method": "mxfp4"' in text
    assert "dequantize" not in text


def _perturbed(seed: int = 0) -> dict[str, Array]:
    """Return unpacked tensors of which one has values of no MXFP4 block."""
    tensors = unpacked(random_tensors(SHAPE, seed))
    noise = np.random.default_rng(seed).integers(0, 1 << 7, tensors[_EXPERTS].shape).astype(np.uint16)
    return tensors | {_EXPERTS: tensors[_EXPERTS] ^ noise}


def test_other_values_are_rounded_within_a_quarter_of_the_largest_of_the_block(tmp_path: Path) -> None:
    tensors = _perturbed()
    losses = run(write_unpacked(tmp_path / "bf16", SHAPE, tensors=tensors), tmp_path / "ours")
    assert losses.rounded_blocks == tensors[_EXPERTS].size // 32
    assert 0 < losses.largest_error < 0.25
    wanted = torch.from_numpy(tensors[_EXPERTS].view(np.int16)).view(torch.bfloat16).float().transpose(1, 2)
    errors = (values(next(experts(tmp_path / "ours"))) - wanted).abs().reshape(-1, 32).amax(-1)
    largest = wanted.abs().reshape(-1, 32).amax(-1)
    assert float((errors / largest).max()) == pytest.approx(losses.largest_error)


def test_exact_refuses_the_first_tensor_that_would_be_rounded(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=rf"{_EXPERTS} would be rounded: 1e\+02 % of its blocks") as caught:
        run(write_unpacked(tmp_path / "bf16", SHAPE, tensors=_perturbed()), tmp_path / "ours", exact=True)
    assert caught.value.hints == (Hint.ALLOW_ROUNDING,)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_copy_of_more_bits_is_rounded_to_bf16_only_where_it_must_be(dtype: type[np.floating], tmp_path: Path) -> None:
    def widened(array: Array) -> Array:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(dtype)

    tensors = {name: widened(array) for name, array in unpacked(random_tensors(SHAPE, 0)).items()}
    tensors["model.norm.weight"][:3] += dtype(2**-9)
    losses = run(write_unpacked(tmp_path / "wide", SHAPE, tensors=tensors), tmp_path / "ours")
    assert (losses.rounded_blocks, losses.rounded_values) == (0, 3)
    original = write_checkpoint(tmp_path / "original", SHAPE)
    for ours, theirs in zip(experts(tmp_path / "ours"), experts(original), strict=True):
        assert torch.equal(values(ours), values(theirs))


def test_a_value_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    tensors = unpacked(random_tensors(SHAPE, 0))
    tensors[_EXPERTS][1, 40, 3] = 0x7FC0
    with pytest.raises(IntegrityError, match=f"{_EXPERTS} has values that are not finite"):
        run(write_unpacked(tmp_path / "bf16", SHAPE, tensors=tensors), tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({_EXPERTS: None}, f"tensor {_EXPERTS} is missing"),
        ({_EXPERTS: np.zeros((6, 320, 96), np.uint16)}, r"should be BF16 \[6, 96, 320\], but is BF16 \[6, 320, 96\]"),
        ({"lm_head.weight": np.zeros((331, 96), np.uint8)}, r"should be BF16 \[331, 96\], but is U8"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(
    change: dict[str, Array | None], message: str, tmp_path: Path
) -> None:
    tensors = unpacked(random_tensors(SHAPE, 0)) | change
    with pytest.raises(IntegrityError, match=message):
        Conversion(write_unpacked(tmp_path, SHAPE, tensors={k: v for k, v in tensors.items() if v is not None}))


_KILLED = """
import os, signal, sys, threading
from pathlib import Path
from typing import Any
from gptoss_cli.engine import convert
from tests.engine.test_convert import run

packed, pack = 0, convert.pack

def pack_until_killed(*arguments):
    global packed
    packed += 1
    if packed == 16:  # in the middle of the second shard with experts
        os.kill(os.getpid(), signal.SIGKILL)
    return pack(*arguments)

convert.pack, convert._SHARD_BYTES = pack_until_killed, 120_000
run(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_conversion_continues_with_the_shard_that_was_not_finished(tmp_path: Path) -> None:
    source, folder = write_unpacked(tmp_path / "bf16", SHAPE), tmp_path / "ours"
    done = subprocess.run([sys.executable, "-c", _KILLED, str(source), str(folder)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("model-*.safetensors")}
    shards = [shard.name for shard in Conversion(source).shards]
    assert 0 < len(finished) < len(shards)
    run(source, folder)
    assert {name: (folder / name).stat().st_mtime_ns for name in finished} == finished
    assert_same_model(folder, write_checkpoint(tmp_path / "original", SHAPE))


def test_shards_of_another_source_are_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    run(write_unpacked(tmp_path / "bf16", SHAPE, tensors=_perturbed()), folder)
    run(write_unpacked(tmp_path / "other", SHAPE), folder)
    assert_same_model(folder, write_checkpoint(tmp_path / "original", SHAPE))
