"""Whole models with the GPU's kernels: on a GPU if there is one, otherwise in Triton's interpreter on the CPU.

The interpreter takes a tenth of a second for every kernel launch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from gptoss_cli.engine import cuda_graph, loader, steppers
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernels import triton_decode
from gptoss_cli.engine.kernels.cuda import CudaKernels
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.selfcheck import check_kernels
from gptoss_cli.engine.weights import Linear
from gptoss_cli.errors import ResourceError
from gptoss_cli.generation import Allowed, Forced, Sampling
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import on_gpu, open_generator

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = Shape(layer_types=(SLIDING, FULL), window=5)
EXPERTS = SHAPE.experts * 2
PROMPT = [3, 17, 8, 29, 11, 40]
NEW = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("gpu"), SHAPE, seed=4)


def _continued(generator: Generator, seed: int = 1, temperature: float = 0) -> list[int]:
    list(generator.prefill(PROMPT))
    sampling = Sampling(seed=seed, temperature=temperature)
    return list(generator.decode(sampling, stop_ids=(), banned_ids=(), max_tokens=NEW))


def _logits_after(generator: Generator, ids: list[int]) -> Tensor:
    """Return the logits after the last of `ids`, the first four of which are read at once and the others one by one."""
    list(generator.prefill(ids[:4]))
    for end in range(5, len(ids) + 1):
        list(generator.prefill(ids[:end]))
    assert generator.sequence.hidden is not None
    return generator.model.unembed(generator.sequence.hidden)[0].cpu()  # of this very KV cache


@pytest.mark.parametrize(
    "experts",
    [pytest.param(0, marks=pytest.mark.slow), EXPERTS // 2 + 1, pytest.param(EXPERTS, marks=pytest.mark.slow)],
)
def test_logits_of_single_tokens_equal_the_reference(
    folder: Path, experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if DEVICE == "cpu":
        # Tested below, and as slow as everything here.
        monkeypatch.setattr(loader, "check_kernels", lambda model: None)
    plain = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=64)
    placed = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=64, **on_gpu(DEVICE, experts, embedding=False))
    assert isinstance(placed.model.kernels, CudaKernels)
    assert placed.numerics is not None
    assert placed.numerics.summary == "triton kernels, float32 activations, bf16 dense weights"
    right, got = _logits_after(plain, PROMPT), _logits_after(placed, PROMPT)
    assert (got - right).abs().max() <= 1e-3 * right.std()
    rate = placed.expert_hit_rate
    assert rate is None or 0 <= rate <= 1


@pytest.mark.slow
def test_greedy_ids_are_the_same_and_again_after_a_rewind(folder: Path) -> None:
    plain = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=64)
    placed = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=64, **on_gpu(DEVICE, 3))
    right = _continued(plain)
    assert _continued(placed) == right
    assert _continued(placed) == right
    hot = _continued(placed, seed=5, temperature=1.0)
    assert _continued(placed, seed=5, temperature=1.0) == hot


class _ReplayedGraph:
    """A stand-in for CudaGraph: a replay computes again, from copies of its inputs and into the same outputs."""

    def __init__(self, compute: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        self._compute, self._inputs = compute, [part.clone() for part in inputs]
        self._outputs = compute(*self._inputs)

    def replay(self, inputs: Sequence[Tensor]) -> Any:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        computed = self._compute(*self._inputs)
        if isinstance(computed, Tensor):
            return self._outputs.copy_(computed)
        return tuple(own.copy_(new) for own, new in zip(self._outputs, computed, strict=True))


class _Constraint:
    """Forces two ids, or restricts the draw, or does neither."""

    def __init__(self) -> None:
        self._turn = 0

    def next(self) -> Forced | Allowed | None:
        self._turn += 1
        return (Forced((4, 9)), None, Allowed(frozenset(range(5, 60))), None)[self._turn % 4]


@pytest.mark.slow
@pytest.mark.parametrize("experts", [0, EXPERTS // 2, EXPERTS])
def test_replayed_steps_with_experts_in_any_memory_give_the_ids_of_the_cpu(
    folder: Path, experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "check_kernels", lambda model: None)
    model = open_generator(
        folder, dtype=Dtype.FLOAT32, context_tokens=64, **on_gpu(DEVICE, experts, embedding=False)
    ).model
    if DEVICE == "cpu":
        for module in (cuda_graph, steppers):
            monkeypatch.setattr(module, "CudaGraph", _ReplayedGraph)
        model.use_cuda_graph = True
    overlapped = Generator(model, context_tokens=64, chunk_tokens=64, overlapped=True)
    plain = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=64)
    sampling, answers = Sampling(seed=8), list[list[list[int]]]()
    for generator in (overlapped, plain):
        answers.append([])
        for constraint in (None, _Constraint(), None):  # after a rewind
            list(generator.prefill(PROMPT))
            new = generator.decode(sampling, stop_ids=(), banned_ids={4}, max_tokens=7, constraint=constraint)
            answers[-1].append(list(new))
    assert answers[0] == answers[1]
    assert answers[0][0] == answers[0][2]
    rate = overlapped.expert_hit_rate
    assert (rate is None) == (experts == EXPERTS)
    assert rate is None or (rate == 0 if experts == 0 else 0 < rate < 1)


@pytest.mark.slow
def test_a_checkpoint_whose_experts_tie_is_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one token and for several, ties go to different experts."""
    monkeypatch.setattr(loader, "check_kernels", lambda model: None)
    model = open_generator(folder, context_tokens=64, **on_gpu(DEVICE, EXPERTS)).model
    layers = []
    for layer in model.weights.layers:
        router = Linear(torch.zeros_like(torch.as_tensor(layer.mlp.router.weight)), layer.mlp.router.bias * 0)
        layers.append(replace(layer, mlp=replace(layer.mlp, router=router)))
    weights, x = replace(model.weights, layers=tuple(layers)), torch.ones(2, SHAPE.hidden, device=DEVICE)
    tied = Transformer(model.config, weights, model.kernels, model.dtype)
    chosen = [tied.kernels.route(part, layers[0].mlp, active=SHAPE.active, eps=1e-5)[1][0] for part in (x, x[:1])]
    assert set(chosen[0].tolist()) != set(chosen[1].tolist())
    check_kernels(tied)


def test_kernels_that_compute_something_else_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CudaKernels.project_output

    def wrong(self: CudaKernels, x: Tensor, attended: Tensor, *arguments: object, **more: object) -> Tensor:
        output: Tensor = right(self, x, attended, *arguments, **more)  # type: ignore[arg-type]
        return output * 1.5 if len(x) == 1 else output

    monkeypatch.setattr(CudaKernels, "project_output", wrong)
    with pytest.raises(ResourceError, match="kernels give wrong results"):
        open_generator(folder, context_tokens=64, **on_gpu(DEVICE, EXPERTS))


def test_kernels_that_cannot_be_compiled_are_refused_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(grid: object) -> None:
        raise RuntimeError("no compiler.\nA second line.")

    monkeypatch.setattr(type(triton_decode.qkv_kernel), "__getitem__", lambda self, grid: fail(grid))
    lines: list[str] = []
    with pytest.raises(ResourceError, match=r"^The GPU's kernels fail: no compiler$"):
        open_generator(folder, context_tokens=64, **on_gpu(DEVICE, EXPERTS), progress=lines.append)
    assert lines == ["Checking the GPU's kernels"]
