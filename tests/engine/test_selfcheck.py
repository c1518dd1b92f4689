"""The start-up checks accept correct kernels, and refuse a device that computes something else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.selfcheck import check_device, check_kernels, check_overlapped, difference
from gptoss_cli.engine.weights import Linear, MlpWeights
from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), Shape(layer_types=(SLIDING, FULL), window=11))


def _open(folder: Path) -> Transformer:
    return open_generator(folder, dtype=Dtype.FLOAT32).model


def test_a_device_that_rotates_differently_from_the_cpu_is_refused(folder: Path) -> None:
    model, on_cpu = _open(folder), _open(folder)
    check_device(model, on_cpu)
    model.rope.concentration = 1.5
    with pytest.raises(ResourceError, match="wrong results") as raised:
        check_device(model, on_cpu)
    assert raised.value.hints == (Hint.CPU,)


@pytest.mark.parametrize("operation", ["project_output", "unembed"])
def test_kernels_that_treat_one_token_differently_from_several_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    model = _open(folder)
    check_kernels(model)
    correct = getattr(model.kernels, operation)

    def wrong(x: object, *arguments: object, **options: object) -> object:
        result = correct(x, *arguments, **options)
        return result * 1.5 if len(result) == 1 else result

    monkeypatch.setattr(model.kernels, operation, wrong)
    with pytest.raises(ResourceError, match="wrong results"):
        check_kernels(model)


def test_overlapped_steps_with_other_results_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _open(folder)
    check_overlapped(model)
    correct = Transformer.forward_on_device
    monkeypatch.setattr(Transformer, "forward_on_device", lambda *arguments: correct(*arguments).flip(1))
    with pytest.raises(ResourceError, match="wrong results"):
        check_overlapped(model)


def test_a_kernel_that_fails_is_refused_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler.\nA second line.")

    model = _open(folder)
    monkeypatch.setattr(model.kernels, "route", fail)
    with pytest.raises(ResourceError, match=r"^The GPU's kernels fail: no compiler$"):
        check_kernels(model)


def _with_equal_logits(model: Transformer) -> Transformer:
    """Return the model with routers for which all experts are equal."""
    layers = []
    for layer in model.weights.layers:
        router = layer.mlp.router
        assert isinstance(router.weight, Tensor)
        equal = Linear(torch.zeros_like(router.weight), torch.ones_like(router.bias))
        layers.append(replace(layer, mlp=replace(layer.mlp, router=equal)))
    weights = replace(model.weights, layers=tuple(layers))
    return Transformer(model.config, weights, model.kernels, model.dtype)


def _choose_the_last_of_equals(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the kernel for one token choose other experts than that for several, where logits are equal."""
    correct = model.kernels.route

    def route(x: Tensor, weights: MlpWeights, *, active: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        normed, experts, expert_weights = correct(x, weights, active=active, eps=eps)
        last = torch.arange(len(weights.router.bias) - active, len(weights.router.bias)).unsqueeze(0)
        return normed, last if len(x) == 1 else experts, expert_weights

    monkeypatch.setattr(model.kernels, "route", route)


def test_a_checkpoint_whose_routings_tie_is_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _with_equal_logits(_open(folder))
    _choose_the_last_of_equals(model, monkeypatch)
    check_kernels(model)
    check_overlapped(model)
    check_device(model, _with_equal_logits(_open(folder)))


def test_a_router_that_chooses_worse_experts_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _open(folder)
    _choose_the_last_of_equals(model, monkeypatch)
    with pytest.raises(ResourceError, match="wrong results"):
        check_kernels(model)


def test_a_difference_is_relative_and_a_few_wrong_values_count() -> None:
    right = torch.randn(2, 2_880, generator=torch.Generator().manual_seed(1))
    assert difference(right, right) == 0
    assert difference(right, right * 1.01) == pytest.approx(0.01, rel=1e-3)
    one_wrong = right.clone()
    one_wrong[1, 7] += right.abs().max()
    assert difference(right, one_wrong) == pytest.approx(1, rel=1e-3)
    assert difference(right, torch.full_like(right, torch.nan)) != 0
    assert not difference(right, torch.full_like(right, torch.nan)) < 1
    assert difference(torch.zeros(3), torch.tensor([0.0, 2.0, 0.0])) == 2
