"""The activation functions equal those of torch, transformers and the engine."""

import pytest
import torch
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from gptoss_cli.architecture.activations import activation_table, gelu, gpt_oss_unit, swish

_POINTS = [-9.0, -2.5, -1.0, 0.0, 0.3, 4.0, 11.0]


@pytest.mark.parametrize("x", _POINTS)
def test_gelu_and_swish_equal_those_of_torch(x: float) -> None:
    assert gelu(x) == pytest.approx(torch.nn.functional.gelu(torch.tensor(x, dtype=torch.float64)).item(), abs=1e-12)
    assert swish(x) == pytest.approx(torch.nn.functional.silu(torch.tensor(x, dtype=torch.float64)).item(), abs=1e-12)


@pytest.mark.parametrize("gate", _POINTS)
@pytest.mark.parametrize("up", _POINTS)
def test_the_unit_of_gpt_oss_equals_that_of_transformers(gate: float, up: float) -> None:
    experts = GptOssExperts.__new__(GptOssExperts)
    torch.nn.Module.__init__(experts)
    experts.alpha, experts.limit = 1.702, 7.0
    # gate and up alternate.
    value = experts._apply_gate(torch.tensor([[gate, up]], dtype=torch.float64))
    assert gpt_oss_unit(gate, up) == pytest.approx(value.item(), abs=1e-12)


def test_the_table_shows_values_that_are_computed() -> None:
    lines = activation_table().splitlines()
    assert max(map(len, lines)) <= 62
    assert f"{swish(-2):7.3f}" in next(line for line in lines if line.startswith("Swish "))
    assert f"{gpt_oss_unit(3, 0):7.3f}" in lines[-1]
