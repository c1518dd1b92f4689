"""The experts that a GPU holds are those used last, whatever was routed where, and logits do not depend on them."""

import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from gptoss_cli.engine.expert_offload import ExpertHits, PlacedExperts
from gptoss_cli.engine.kernels import reference, triton_experts, triton_offload
from gptoss_cli.engine.kernels.cuda import CudaKernels
from gptoss_cli.engine.pinned_memory import pinned_rows
from gptoss_cli.engine.weights import MlpWeights
from tests.engine.kernels.random_weights import assert_close
from tests.engine.kernels.test_cuda import DEVICE, EXACT, SMALL, placed, random_mlp, random_of
from tests.engine.offload_simulation import LeastRecentlyUsed

EXPERTS, ACTIVE = 7, 3


class _Array(np.ndarray[Any, Any]):
    """An array with the one method of Triton's blocks that look_up_experts needs."""

    def to(self, dtype: Any) -> "_Array":
        return self.astype(dtype).view(_Array)


class _Pointer:
    def __init__(self, array: Any, offset: Any = 0) -> None:
        self.array, self.offset = array, offset

    def __add__(self, offset: Any) -> "_Pointer":
        return _Pointer(self.array, self.offset + offset)


def _of(values: Any, dtype: Any = None) -> _Array:
    return np.asarray(values, dtype).view(_Array)


def _load(pointer: _Pointer, mask: Any = True, other: int = 0) -> _Array:
    inside = np.broadcast_to(mask, np.shape(pointer.offset))
    return _of(np.where(inside, pointer.array[np.where(inside, pointer.offset, 0)], other))


def _store(pointer: _Pointer, value: Any, mask: Any = True) -> None:
    inside = np.broadcast_to(mask, np.shape(pointer.offset))
    pointer.array[np.asarray(pointer.offset)[inside]] = np.broadcast_to(value, inside.shape)[inside]


def _numpy_look_up() -> Any:
    """Return the source of look_up_experts as a function of numpy arrays, which is faster than the interpreter."""
    language = types.SimpleNamespace(
        arange=lambda start, end: _of(np.arange(start, end, dtype=np.int32)),
        load=_load, store=_store, static_range=range, debug_barrier=lambda: None, int32=np.int32, int64=np.int64,
        where=lambda condition, a, b: _of(np.where(condition, a, b)),
        zeros_like=lambda a: _of(np.zeros_like(a)),
        full=lambda shape, value, dtype: _of(np.full(shape, value, dtype)),
        cumsum=lambda a, axis: _of(np.cumsum(a, axis)),
        **{name: lambda a, axis, name=name: _of(getattr(np, name)(a, axis=axis)) for name in ("max", "min", "sum")},
    )  # fmt: skip
    names = {"tl": language, "_NEVER": 2**62}
    return types.FunctionType(triton_offload.look_up_experts.fn.__code__, names)


def _routings(count: int, experts: int, active: int, seed: int) -> Iterator[list[int]]:
    """Yield random routings, some of which repeat an earlier one."""
    random, before = np.random.default_rng(seed), list[list[int]]()
    for _ in range(count):
        again = before and random.random() < 0.3
        chosen = before[random.integers(len(before))] if again else random.permutation(experts)[:active].tolist()
        before = [*before[-4:], chosen]
        yield chosen


@pytest.mark.parametrize(
    ("experts", "active", "slots"), [(32, 4, 0), (32, 4, 1), (32, 4, 3), (32, 4, 15), (7, 3, 5), (128, 4, 44)]
)
def test_ten_thousand_routings_leave_the_slots_of_a_plain_model(experts: int, active: int, slots: int) -> None:
    look_up, model = _numpy_look_up(), LeastRecentlyUsed(slots)
    held = np.where(np.arange(experts) < slots, np.arange(experts), -1).astype(np.int32)
    used_at, counts, chosen_slots = np.zeros(experts, np.int64), np.zeros(2, np.int64), np.zeros(2 * active, np.int64)
    widths = 1 << (experts - 1).bit_length(), 1 << (active - 1).bit_length()
    state = [_Pointer(each) for each in (held, used_at, counts, chosen_slots)]
    for routing in _routings(10_000 // 6 + 1, experts, active, seed=slots):
        padded = _of([*routing, *[0] * (widths[1] - active)], np.int32)
        look_up(padded, *state, slots, experts, active, *widths)
        sources, targets = model.choose(routing)
        assert chosen_slots.tolist() == sources + targets
        for slot, expert in zip(targets, routing, strict=True):
            if slot >= 0:
                assert held[slot] == -1  # until down_kernel has written the expert
                held[slot] = expert
        assert held[:slots].tolist() == model.held
        assert used_at[:slots].tolist() == model.used_at
    assert counts.tolist() == [model.reads, model.hits]


def _routed(x: Tensor, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    experts = torch.tensor([chosen], device=DEVICE)
    return x, experts, torch.softmax(random_of(1, len(chosen), seed=sum(chosen)), -1)


def _slots_of(weights: MlpWeights) -> PlacedExperts:
    assert isinstance(weights.gate_up, PlacedExperts)
    return weights.gate_up


@pytest.mark.parametrize("slots", [2, *(pytest.param(each, marks=pytest.mark.slow) for each in (0, 1, 5))])
def test_kernels_find_and_replace_experts_as_the_plain_model(slots: int) -> None:
    kernels, weights, x = CudaKernels(SMALL), random_mlp(32, 64, EXPERTS), random_of(1, 32, seed=5)
    offloaded, model = placed(weights, slots), LeastRecentlyUsed(slots)
    state = _slots_of(offloaded).slots
    hits = ExpertHits([_slots_of(offloaded)])
    assert hits.hit_rate is None
    for chosen in _routings(4, EXPERTS, ACTIVE, seed=slots):
        routed = _routed(x, chosen)
        right = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
        assert_close(kernels.mix_experts(x, routed, offloaded, limit=1.75, dtype=torch.float32), right, EXACT)
        model.choose(chosen)
        assert state.held[:slots].tolist() == model.held
        assert state.used_at[:slots].tolist() == model.used_at
    assert state.counts.tolist() == [model.reads, model.hits]
    assert hits.hit_rate == model.hits / model.reads
    assert all(torch.equal(_copied(part, slots), _expected(part, model.held)) for part in _parts(weights, offloaded))


def _parts(weights: MlpWeights, offloaded: MlpWeights) -> Iterator[tuple[PlacedExperts, Any]]:
    for name in ("gate_up", "down"):
        yield getattr(offloaded, name), getattr(weights, name)


def _copied(part: tuple[PlacedExperts, Any], slots: int) -> Tensor:
    return torch.cat([each.in_slots[:slots].flatten(1) for each in (part[0].blocks, part[0].scales)], 1)


def _expected(part: tuple[PlacedExperts, Any], held: list[int | None]) -> Tensor:
    return torch.cat([each[held].flatten(1) for each in (part[1].blocks, part[1].scales)], 1)


def test_the_router_looks_up_what_it_chose() -> None:
    kernels, weights, x = CudaKernels(SMALL), placed(random_mlp(96, 32, EXPERTS), 2), random_of(1, 96, seed=5)
    state, model = _slots_of(weights).slots, LeastRecentlyUsed(2)
    for _ in range(2):
        routed, _, chosen_slots = kernels._one._route(
            x, weights, active=ACTIVE, eps=1e-3, dtype=torch.float32, looks_up=True
        )
        sources, targets = model.choose(routed[1][0].tolist())
        assert chosen_slots.tolist() == [sources, targets]
        for slot, expert in zip(targets, routed[1][0].tolist(), strict=True):
            if slot >= 0:
                state.held[slot] = expert
    assert state.counts.tolist() == [model.reads, model.hits]


def test_experts_of_fixed_slots_stay_there() -> None:
    kernels, weights, x = CudaKernels(SMALL), random_mlp(32, 64, EXPERTS), random_of(1, 32, seed=5)
    fixed = placed(weights, 3, are_fixed=True)
    for chosen in ([0, 5, 2], [6, 5, 1]):
        routed = _routed(x, chosen)
        right = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
        assert_close(kernels.mix_experts(x, routed, fixed, limit=1.75, dtype=torch.float32), right, EXACT)
    slots = _slots_of(fixed).slots
    assert slots.held.tolist() == [0, 1, 2, *[-1] * 4]
    assert slots.counts.tolist() == [6, 3]


def test_a_slot_is_empty_if_its_expert_was_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, weights, x = CudaKernels(SMALL), random_mlp(32, 64, EXPERTS), random_of(1, 32, seed=5)
    offloaded, routed = placed(weights, 3), _routed(x, [3, 4, 5])
    with monkeypatch.context() as patch:
        patch.setattr(triton_experts, "gate_up_kernel", None)
        with pytest.raises(TypeError):
            kernels.mix_experts(x, routed, offloaded, limit=1.75, dtype=torch.float32)
    assert _slots_of(offloaded).slots.held.tolist() == [-1] * EXPERTS
    right = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
    assert_close(kernels.mix_experts(x, routed, offloaded, limit=1.75, dtype=torch.float32), right, EXACT)
    assert set(_slots_of(offloaded).slots.held.tolist()) == {3, 4, 5, -1}


@pytest.mark.parametrize(("slots", "staged"), [pytest.param(0, 2, marks=pytest.mark.slow), (3, 2)])
def test_a_chunk_in_parts_equals_the_reference(slots: int, staged: int) -> None:
    weights = random_mlp(32, 64, EXPERTS)
    expert_bytes = sum(part.nbytes for part in (weights.gate_up, weights.down)) // EXPERTS
    kernels, offloaded = CudaKernels(SMALL, staging_bytes=2 * staged * expert_bytes), placed(weights, slots)
    parts = list(kernels._staging.parts(_slots_of(offloaded), offloaded.down, 40))  # type: ignore[arg-type]
    assert len(parts) == -(-(EXPERTS - slots) // staged)
    included = torch.stack([part.included for part in parts if part.included is not None])
    assert torch.equal(included.sum(0), torch.ones(EXPERTS, dtype=torch.int64, device=DEVICE))
    for tokens in (16, 1, 15):
        x = random_of(tokens, 32, seed=tokens)
        routed = reference.route(x, weights, active=ACTIVE, eps=1e-5)
        right = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
        assert_close(kernels.mix_experts(x, routed, offloaded, limit=1.75, dtype=torch.float32), right, EXACT)


def test_an_expert_that_left_its_slot_unnoticed_is_read_from_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, weights, x = CudaKernels(SMALL), random_mlp(32, 64, EXPERTS), random_of(20, 32, seed=5)
    offloaded = placed(weights, 3)
    slots = _slots_of(offloaded).slots
    routed = reference.route(x, weights, active=ACTIVE, eps=1e-5)
    right = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
    before = slots.held.tolist()
    slots.held[1] = -1
    monkeypatch.setattr(slots.tables, "held_on_host", lambda number: before)
    assert 1 not in slots.missing()
    assert_close(kernels.mix_experts(x, routed, offloaded, limit=1.75, dtype=torch.float32), right, EXACT)


def test_few_tokens_copy_nothing() -> None:
    kernels, weights, x = CudaKernels(SMALL), random_mlp(32, 64, EXPERTS), random_of(2, 32, seed=5)
    routed = reference.route(x, weights, active=1, eps=1e-5)
    right = reference.mix_experts(x, routed, weights, limit=1.75, dtype=torch.float32)
    got = kernels.mix_experts(x, routed, placed(weights, 2), limit=1.75, dtype=torch.float32)
    assert_close(got, right, EXACT)
    assert kernels._staging._buffers is None


def test_rows_in_host_memory_are_embedded_as_others() -> None:
    rows, ids = random_of(9, 20, seed=1).bfloat16(), torch.tensor([3, 0, 8], device=DEVICE)
    in_place, kernels = pinned_rows(rows.cpu(), DEVICE), CudaKernels(SMALL)
    for chosen in (ids, ids[:1]):
        assert torch.equal(kernels.embed(chosen, in_place), reference.embed(chosen, rows))
