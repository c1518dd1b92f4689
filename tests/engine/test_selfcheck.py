"""The start-up checks accept correct kernels, and refuse a device that computes something else."""

from pathlib import Path

import pytest

from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.selfcheck import check_device, check_kernels, check_overlapped
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
