"""Attention in the native library against float64, for any heads, windows and lengths, on any number of threads."""

from collections.abc import Iterator
from ctypes import byref
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptoss_cli.engine.kernels.native_library import Attention, Native
from tests.engine.kernels.random_weights import random_of

# Of the largest value; keys and values are exact.
EXACT = 3e-6
SMALLEST = 1e-37  # of what float32 can hold
MANY_KEYS = 2048  # attention.c's: from so many on, the keys of one token are split into spans


@pytest.fixture(params=["scalar", "avx2", "avx512", "neon"])
def library(request: pytest.FixtureRequest, native: Native) -> Iterator[Native]:
    """The library with each set of instructions that this machine has."""
    if not native.select(request.param):
        pytest.skip(f"this machine has no {request.param}")
    yield native
    native.select("")


@dataclass(frozen=True, slots=True)
class Case:
    """Queries [T, H, D] at the end of keys and values [S, K, D]; bf16 sinks [H]."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    sinks: Tensor
    window: int = 0
    first: int = 0


def random_case(
    tokens: int,
    keys: int,
    *,
    heads: tuple[int, int] = (16, 2),
    head_dim: int = 64,
    window: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Case:
    query_heads, kv_heads = heads
    return Case(
        random_of(tokens, query_heads, head_dim, seed=1, std=2),
        random_of(keys, kv_heads, head_dim, seed=2).to(dtype),
        random_of(keys, kv_heads, head_dim, seed=3).to(dtype),
        random_of(query_heads, seed=4).bfloat16(),
        window,
    )


def attend(library: Native, case: Case, threads: int = 1) -> Tensor:
    tokens, query_heads, head_dim = case.queries.shape
    keys, kv_heads, _ = case.keys.shape
    shape = Attention(
        tokens=tokens,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        keys=keys,
        first=case.first,
        position=case.first + keys - tokens,
        window=case.window,
        is_bf16=case.keys.dtype is torch.bfloat16,
    )
    out = torch.full_like(case.queries, torch.nan)
    tensors = (out, case.queries, case.keys, case.values, case.sinks)
    library.attend(*(part.data_ptr() for part in tensors), byref(shape), threads)
    return out


def expected(case: Case) -> Tensor:
    tokens, query_heads, head_dim = case.queries.shape
    keys, kv_heads, _ = case.keys.shape
    grouped = case.queries.double().view(tokens, kv_heads, -1, head_dim)
    scores = torch.einsum("tkqd,skd->tkqs", grouped, case.keys.double()) / head_dim**0.5
    apart = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)[None]  # [T, S]
    unseen = (apart < 0) | (apart >= (case.window or keys))
    scores.masked_fill_(unseen[:, None, None], -torch.inf)
    sink = case.sinks.double().view(1, kv_heads, -1, 1).expand(tokens, -1, -1, 1)
    probabilities = torch.cat((scores, sink), -1).softmax(-1)[..., :-1]
    return torch.einsum("tkqs,skd->tkqd", probabilities, case.values.double()).reshape(tokens, query_heads, head_dim)


def assert_exact(library: Native, case: Case) -> None:
    wanted = expected(case)
    apart = (attend(library, case).double() - wanted).abs().max()
    assert apart <= EXACT * wanted.abs().max() + SMALLEST


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(1, 40),
    known=st.integers(0, 200),
    kv_heads=st.integers(1, 3),
    shared=st.integers(1, 9),
    half=st.integers(1, 50),
    window=st.integers(0, 150),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
@example(tokens=2, known=63, kv_heads=1, shared=70, half=32, window=0, dtype=torch.bfloat16)
def test_any_heads_lengths_and_windows_are_exact(
    library: Native, tokens: int, known: int, kv_heads: int, shared: int, half: int, window: int, dtype: torch.dtype
) -> None:
    heads = (kv_heads * shared, kv_heads)
    case = random_case(tokens, known + tokens, heads=heads, head_dim=2 * half, window=window, dtype=dtype)
    assert_exact(library, case)


@pytest.mark.parametrize("keys", [MANY_KEYS - 1, MANY_KEYS, MANY_KEYS + 1, 2 * MANY_KEYS + 3, 17 * MANY_KEYS + 65])
@pytest.mark.parametrize("tokens", [1, 3])
def test_long_contexts_are_exact(library: Native, tokens: int, keys: int) -> None:
    assert_exact(library, random_case(tokens, keys))


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_windows_of_several_spans_are_exact(library: Native, tokens: int) -> None:
    assert_exact(library, random_case(tokens, 4000, window=MANY_KEYS + 77))


@pytest.mark.parametrize(("tokens", "keys", "window"), [(1, 300, 0), (1, 5000, 0), (5, 5000, 0), (50, 400, 128)])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_results_do_not_depend_on_the_number_of_threads(
    library: Native, tokens: int, keys: int, window: int, kv_heads: int
) -> None:
    case = random_case(tokens, keys, heads=(8, kv_heads), window=window)
    alone = attend(library, case)
    assert all(torch.equal(attend(library, case, threads), alone) for threads in (2, 3, 7))


def test_positions_before_the_first_key_are_not_read(library: Native) -> None:
    """A ring holds the last keys only; the first of them is at a later position."""
    case = random_case(4, 40, window=30)
    later = Case(case.queries, case.keys, case.values, case.sinks, window=30, first=1000)
    assert torch.equal(attend(library, later), attend(library, case))


@pytest.mark.parametrize("keys", [40, MANY_KEYS + 500])
def test_a_sink_of_minus_infinity_is_none(library: Native, keys: int) -> None:
    case = random_case(1, keys)
    case.sinks.fill_(-torch.inf)
    assert_exact(library, case)


@pytest.mark.parametrize("keys", [40, MANY_KEYS + 500])
@pytest.mark.parametrize("sink", [200.0, -200.0])
def test_a_sink_that_outweighs_all_keys_or_none_is_exact(library: Native, keys: int, sink: float) -> None:
    case = random_case(1, keys)
    case.sinks.fill_(sink)
    assert_exact(library, case)


@pytest.mark.parametrize("size", [1e-30, 1e4])
def test_scores_of_any_size_are_exact(library: Native, size: float) -> None:
    """All keys the same, or one that outweighs the others by more than float32 holds."""
    case = random_case(1, 200)
    case.queries.mul_(size)
    assert_exact(library, case)


@pytest.mark.parametrize("keys", [40, MANY_KEYS + 500])
def test_a_key_that_is_no_number_is_not_lost(library: Native, keys: int) -> None:
    case = random_case(1, keys)
    case.keys[30, 1, 5] = torch.nan
    got = attend(library, case)
    assert got[:, 8:].isnan().all()
    assert got[:, :8].isfinite().all()
