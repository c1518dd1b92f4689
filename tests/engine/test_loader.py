"""Loading decides from the placement: context, steppers and the numerics that are reported."""

from pathlib import Path

import pytest
import torch

from gptoss_cli.engine.kernels import cpu
from gptoss_cli.engine.kernels.native_library import Native
from gptoss_cli.engine.steppers import PlainStepper
from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.placement.placement import KernelSet
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import Shape, write_checkpoint
from tests.engine.open_generator import open_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), Shape())


@pytest.mark.parametrize("context_tokens", [0, 1, 4_001, 10**9])
def test_a_context_the_model_does_not_have_is_refused(folder: Path, context_tokens: int) -> None:
    with pytest.raises(UsageError, match="2 to 4000 tokens") as raised:
        open_generator(folder, context_tokens=context_tokens)
    assert raised.value.hints == (Hint.VALID_CONTEXT,)


def test_a_context_of_the_model_is_the_generators(folder: Path) -> None:
    assert open_generator(folder, context_tokens=4_000).context_tokens == 4_000


def test_on_the_cpu_steps_are_plain(folder: Path) -> None:
    generator = open_generator(folder)
    assert isinstance(generator.stepper, PlainStepper)
    assert not generator.model.use_cuda_graph


@pytest.mark.parametrize("dtype", Dtype)
def test_the_numerics_name_the_kernels_and_the_activations(folder: Path, dtype: Dtype) -> None:
    numerics = open_generator(folder, kernels=KernelSet.REFERENCE, dtype=dtype).numerics
    assert numerics is not None
    assert (numerics.kernels, numerics.activations) == ("reference", dtype)


@pytest.mark.parametrize(("kernels", "torch_threads"), [(KernelSet.NATIVE, 1), (KernelSet.REFERENCE, 2)])
def test_threads_follow_the_cpu_quota(
    kernels: KernelSet, torch_threads: int, folder: Path, native: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: 2)
    monkeypatch.setattr(cpu, "find_library", lambda: native.path)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    cpu.default_threads.cache_clear()
    try:
        numerics = open_generator(folder, kernels=kernels).numerics
        assert numerics is not None
        assert (numerics.threads, torch.get_num_threads()) == (2, torch_threads)
    finally:
        torch.set_num_threads(before)
        cpu.default_threads.cache_clear()
