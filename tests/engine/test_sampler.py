"""Ids are drawn as the settings say, banned ids never, and only from finite logits."""

import math
from collections.abc import Collection
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.errors import NumericalError, UsageError
from gptoss_cli.generation import VOCABULARY_SIZE, Allowed, Banned, Restriction, Sampling

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]))


def draws(logits: Tensor, count: int = 4000, *, banned: Collection[int] = (), **settings: Any) -> Tensor:
    """Return the fraction of draws that gave each id."""
    sampler = Sampler(Sampling(**{"seed": 7} | settings), banned_ids=banned, vocabulary_size=len(logits))
    drawn = torch.tensor([sampler.draw(logits) for _ in range(count)])
    return drawn.bincount(minlength=len(logits)) / count


def test_temperature_0_takes_the_largest() -> None:
    assert draws(LOGITS, 5, temperature=0)[1] == 1


@settings(max_examples=30)
@given(
    size=st.integers(1, 3000),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([0.9, 1.0]),
    top_k=st.sampled_from([None, 40]),
)
def test_a_draw_on_the_host_is_the_one_on_a_device(
    size: int, seed: int, temperature: float, top_p: float, top_k: int | None
) -> None:
    sampling = Sampling(seed=seed, temperature=temperature, top_p=top_p, top_k=top_k)
    sampler = Sampler(sampling, banned_ids=(), vocabulary_size=size)
    for number in range(3):
        logits = torch.randn(size, generator=torch.Generator().manual_seed(seed + number)) * 4
        before, uniform = logits.clone(), torch.tensor([sampler.uniform], dtype=torch.float64)
        expected = int(sampler.draw_on_device(logits, uniform))
        assert sampler.draw(logits) == expected
        assert torch.equal(logits, before)


def test_of_several_largest_the_first_is_taken() -> None:
    assert draws(torch.tensor([0.0, 2.0, 1.0, 2.0]), 3, temperature=0)[1] == 1


def test_by_default_ids_are_drawn_in_proportion() -> None:
    assert torch.allclose(draws(LOGITS), LOGITS.exp(), atol=0.03)


def test_temperature_flattens_by_its_power() -> None:
    flattened = LOGITS.exp().sqrt()
    assert torch.allclose(draws(LOGITS, temperature=2.0), flattened / flattened.sum(), atol=0.03)


def test_top_k_keeps_the_k_largest_in_proportion() -> None:
    assert torch.allclose(draws(LOGITS, top_k=2), torch.tensor([0, 4 / 7, 0, 3 / 7, 0]), atol=0.03)


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert (draws(LOGITS, top_k=99) > 0).all()


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 3, 4})])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: set[int]) -> None:
    assert set(draws(LOGITS, 500, top_p=top_p).nonzero().flatten().tolist()) == kept


def test_top_p_counts_after_top_k() -> None:
    assert set(draws(LOGITS, 500, top_k=2, top_p=0.5).nonzero().flatten().tolist()) == {1}


def test_a_top_p_that_needs_more_than_the_candidates_keeps_them_all() -> None:
    logits = torch.zeros(5000)
    logits[4321] = 0.1
    ids = draws(logits, 3000, top_p=0.9).nonzero().flatten()
    assert ids.max() > 1024
    assert len(ids) > 1500


def test_banned_ids_are_never_drawn_and_unknown_ones_are_ignored() -> None:
    fractions = draws(LOGITS, banned=[1, 3, 77, 10**9])
    assert torch.allclose(fractions, torch.tensor([1 / 3, 0, 1 / 6, 0, 1 / 2]), atol=0.03)
    assert draws(LOGITS, 5, banned=[1], temperature=0)[3] == 1


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1.0, 1e9])
def test_no_temperature_breaks_the_arithmetic(temperature: float) -> None:
    assert draws(torch.tensor([-3e38, 3e38, 0.0]), 20, temperature=temperature, banned=[2])[2] == 0


def test_the_same_seed_draws_the_same_ids() -> None:
    def ids(seed: int) -> list[int]:
        sampler = Sampler(Sampling(seed), banned_ids=(), vocabulary_size=len(LOGITS))
        return [sampler.draw(LOGITS) for _ in range(50)]

    assert ids(3) == ids(3) != ids(4)
    assert ids(2**63 + 3) == ids(3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_and_infinite_logits_are_an_error_even_if_banned(bad: float, temperature: float) -> None:
    sampler = Sampler(Sampling(0, temperature=temperature), banned_ids=[2], vocabulary_size=5)
    logits = LOGITS.clone()
    logits[2] = bad
    with pytest.raises(NumericalError):
        sampler.draw(logits)


def test_a_draw_does_not_change_the_logits() -> None:
    before = LOGITS.clone()
    draws(LOGITS, 3, banned=[1], top_p=0.5)
    assert torch.equal(LOGITS, before)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.5}, {"top_k": 40, "top_p": 0.7}])
def test_a_draw_on_a_gpu_does_not_wait_for_the_host(settings: dict[str, Any]) -> None:
    """Fake tensors have no values: reading one is an error, as it is during the capture of a CUDA graph."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    sampler = Sampler(Sampling(**{"seed": 0} | settings), banned_ids=[1, 2], vocabulary_size=1000)
    with FakeTensorMode():
        sampler._banned = torch.empty(2, dtype=torch.int64, device="cuda")
        logits, uniform = torch.empty(1000, device="cuda"), torch.empty(1, dtype=torch.float64, device="cuda")
        drawn = sampler.draw_on_device(logits, uniform)
        assert (drawn.shape, drawn.device.type) == ((1,), "cuda")
        with pytest.raises(DataDependentOutputException):
            drawn.item()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"top_k": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sampler(Sampling(**{"seed": 0} | settings), banned_ids=(), vocabulary_size=5)


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=12),
    banned=st.sets(st.integers(0, 2), max_size=2),
    temperature=st.sampled_from([0.0, 0.01, 0.7, 1.0, 30.0]),
    top_p=st.floats(0.001, 1.0),
    top_k=st.none() | st.integers(1, 15),
)
def test_every_drawn_id_is_permitted_by_the_settings(
    logits: list[float], banned: set[int], temperature: float, top_p: float, top_k: int | None
) -> None:
    sampling = Sampling(1, temperature=temperature, top_p=top_p, top_k=top_k)
    sampler = Sampler(sampling, banned_ids=banned, vocabulary_size=len(logits))
    id_ = sampler.draw(torch.tensor(logits))
    better = sum(other > logits[id_] for index, other in enumerate(logits) if index not in banned)
    assert id_ not in banned
    assert better < (len(logits) if top_k is None else top_k)
    assert better == 0 or temperature > 0


@pytest.mark.parametrize("restriction", [None, Banned(frozenset({0})), Allowed(frozenset({1, 2, VOCABULARY_SIZE}))])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_after_the_vocabulary_are_never_drawn(restriction: Restriction | None, temperature: float) -> None:
    logits = torch.zeros(VOCABULARY_SIZE + 64)
    logits[VOCABULARY_SIZE:] = 1_000
    sampler = Sampler(Sampling(seed=3, temperature=temperature), banned_ids={0}, vocabulary_size=len(logits))
    assert all(sampler.draw(logits, restriction) < VOCABULARY_SIZE for _ in range(20))
    assert int(sampler.draw_on_device(logits, torch.tensor([0.5], dtype=torch.float64))) < VOCABULARY_SIZE


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of torch; on a GPU each is at least one kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_draw_with_the_default_settings_takes_few_operations() -> None:
    sampler = Sampler(Sampling(seed=7), banned_ids=(1,), vocabulary_size=len(LOGITS))
    uniform = torch.tensor([0.5], dtype=torch.float64)
    with _Operations() as seen:
        sampler.draw_on_device(LOGITS, uniform)
    assert 0 < seen.count <= 12


def test_at_temperature_1_the_probabilities_are_those_of_a_softmax_to_the_last_bit() -> None:
    logits = torch.randn(201_088, generator=torch.Generator().manual_seed(5)) * 20
    shifted = (logits - logits.max()) / 1.0
    assert torch.equal(logits.softmax(0), shifted.softmax(0))
