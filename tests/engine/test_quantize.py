"""8-bit dense weights are close to the originals, converted once, and never read from a file that does not match."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptoss_cli.engine.kernels import reference
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.pinned_memory import rows_on_device
from gptoss_cli.engine.quantize import int8_weights, quantize
from gptoss_cli.engine.weights import Int8Matrix, ModelWeights, float_rows, load_weights
from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.placement.model_config import load_config
from tests.engine.checkpoints import Shape, write_checkpoint

SHAPE = Shape()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)


@pytest.fixture(scope="module")
def weights(folder: Path) -> ModelWeights:
    return load_weights(folder, load_config(folder / "config.json"))


@pytest.mark.parametrize("columns", [32, 50, 96])
def test_no_weight_is_off_by_more_than_half_a_step(columns: int) -> None:
    matrix = torch.randn(40, columns, generator=torch.Generator().manual_seed(0)).bfloat16()
    matrix[3], matrix[5, :32] = 0, 0
    values, scales = quantize(matrix)
    assert (values.dtype, scales.dtype) == (torch.int8, torch.bfloat16)
    back = float_rows(Int8Matrix(values, scales), 0, 40, columns=columns)
    steps = scales.float().repeat_interleave(32, dim=1)[:, :columns]
    assert ((back - matrix.float()).abs() <= 0.5001 * steps).all()
    assert (steps * 127 >= matrix.float().abs()).all()


def test_converted_weights_are_mapped_the_second_time(weights: ModelWeights, tmp_path: Path) -> None:
    int8_weights(weights, tmp_path, "a")
    (file,) = tmp_path.iterdir()
    written = file.stat().st_ino
    again = int8_weights(weights, tmp_path, "a")
    assert file.stat().st_ino == written
    assert isinstance(again.unembedding, Int8Matrix)
    assert isinstance(weights.unembedding, torch.Tensor)
    values, scales = quantize(weights.unembedding)
    assert torch.equal(again.unembedding.values, values)
    assert torch.equal(again.unembedding.scales, scales)


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_a_file_that_does_not_match_is_written_again(
    weights: ModelWeights, tmp_path: Path, content: bytes | None
) -> None:
    int8_weights(weights, tmp_path, "a")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if content is None else content)
    int8_weights(weights, tmp_path, "a")
    assert file.read_bytes() == whole


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.999])
def test_a_file_with_zeroed_bytes_is_converted_again_with_a_notice(
    weights: ModelWeights, tmp_path: Path, share: float
) -> None:
    int8_weights(weights, tmp_path, "a")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    damaged = bytearray(whole)
    start = int(len(whole) * share)
    damaged[start : start + 40] = bytes(byte ^ 0x55 for byte in damaged[start : start + 40])
    file.write_bytes(damaged)
    notices: list[str] = []
    int8_weights(weights, tmp_path, "a", notice=notices.append)
    assert file.read_bytes() == whole
    assert notices == [f"{file} is damaged: the 8-bit weights are converted again"]
    int8_weights(weights, tmp_path, "a", notice=notices.append)
    assert len(notices) == 1


def test_the_file_of_another_checkpoint_is_not_used_under_this_name(weights: ModelWeights, tmp_path: Path) -> None:
    other = replace(weights, unembedding=rows_on_device(weights.embedding))
    int8_weights(other, tmp_path, "b")
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / file.name.replace("b-", "a-"))
    matrix = int8_weights(weights, tmp_path, "a").unembedding
    assert isinstance(matrix, Int8Matrix)
    assert isinstance(weights.unembedding, torch.Tensor)
    assert torch.equal(matrix.values, quantize(weights.unembedding)[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_a_fifo_in_the_place_of_the_file_is_replaced(weights: ModelWeights, tmp_path: Path) -> None:
    int8_weights(weights, tmp_path, "a")
    (file,) = tmp_path.iterdir()
    file.unlink()
    os.mkfifo(file)
    int8_weights(weights, tmp_path, "a")
    assert file.is_file()


def test_only_the_two_newest_files_are_kept(weights: ModelWeights, tmp_path: Path) -> None:
    for name in "abc":
        int8_weights(weights, tmp_path, name)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(weights: ModelWeights, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError) as caught:
        int8_weights(weights, tmp_path / "file", "a")
    assert caught.value.hints == (Hint.BF16_DENSE,)


def test_logits_differ_by_a_few_percent_of_their_spread(folder: Path, weights: ModelWeights, tmp_path: Path) -> None:
    config = load_config(folder / "config.json")
    ids = [(7 * i * i + 3) % SHAPE.vocabulary for i in range(30)]
    logits = []
    for each in (weights, int8_weights(weights, tmp_path, "a")):
        model = Transformer(config, each, reference, torch.float32)
        logits.append(model.unembed(model.forward(ids, model.new_cache(100))))
    assert (logits[0] - logits[1]).square().mean().sqrt() < 0.05 * logits[0].std()
    assert not torch.equal(*logits)
