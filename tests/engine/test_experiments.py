"""The mass of sinks and the effect of the key bias are those of transformers' attention."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gptoss_cli.generation import AttentionMeasurement
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

_IDS = [(7 * i * i + 3) % 331 for i in range(50)]
_SHAPES = [Shape(), Shape(layer_types=(FULL, SLIDING), window=7, yarn=None)]


def _theirs(folder: Path) -> Any:
    # Imported here because it takes half of the time in which the tests are collected.
    from transformers import GptOssForCausalLM
    from transformers.utils.quantization_config import Mxfp4Config

    return GptOssForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=Mxfp4Config(dequantize=True), attn_implementation="eager"
    )


def _attention(model: Any) -> list[torch.Tensor]:
    """Return the probabilities [H, T, T] of each layer, without those of the sinks."""
    with torch.no_grad():
        return [layer[0] for layer in model(torch.tensor([_IDS]), output_attentions=True).attentions]


def _measured(folder: Path) -> list[AttentionMeasurement]:
    return list(open_generator(folder, dtype=Dtype.FLOAT32).measure_attention(_IDS))


@pytest.mark.parametrize("shape", _SHAPES, ids=["yarn", "no yarn"])
def test_sinks_and_key_bias_are_measured_as_transformers_computes_them(shape: Shape, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shape)
    measured, model = _measured(tmp_path), _theirs(tmp_path)
    attention = _attention(model)
    for layer, probs in zip(measured, attention, strict=True):
        assert layer.sink_mass == pytest.approx((1 - probs.sum(-1)).mean(-1).tolist(), abs=1e-4)
    assert [layer.window for layer in measured] == [
        shape.window if kind == SLIDING else None for kind in shape.layer_types
    ]
    model.model.layers[0].self_attn.k_proj.bias.data.zero_()
    difference = attention[0] - _attention(model)[0]
    distance = (difference.abs().sum(-1) + difference.sum(-1).abs()).mean() / 2
    assert measured[0].shift == pytest.approx(float(distance), abs=1e-4)
    assert measured[0].shift > 0.01


def test_the_key_bias_is_redundant_only_without_rope_and_sinks(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Shape())
    for layer in _measured(tmp_path):
        assert layer.shift > 0.01
        assert layer.shift_without_rope > 0.001
        assert layer.shift_without_rope_and_sinks < 1e-5
        assert layer.key_bias_norm > 0


def test_a_measurement_changes_no_sequence(tmp_path: Path) -> None:
    generator = open_generator(write_checkpoint(tmp_path, Shape()), context_tokens=100)
    list(generator.prefill(_IDS[:20]))
    list(generator.measure_attention(_IDS))
    assert generator.sequence.cached == _IDS[:20]
    assert list(generator.prefill(_IDS[:21]))[-1] == (1, 1)
