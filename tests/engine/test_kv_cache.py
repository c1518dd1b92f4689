"""After any appends, marks, rewinds and truncations the cache equals that of a sequence read once from the start."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptoss_cli.engine.kv_cache import CacheMark, FullLayer, KVCache, SlidingLayer
from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.placement.model_config import LayerKind, ModelConfig, Rope

WINDOW = 5
CONTEXT = 700


def config(*kinds: LayerKind) -> ModelConfig:
    return ModelConfig(
        hidden_size=96,
        intermediate_size=160,
        query_heads=14,
        kv_heads=2,
        head_dim=3,
        experts=6,
        active_experts=4,
        vocabulary_size=331,
        layer_kinds=kinds or (LayerKind.SLIDING, LayerKind.FULL),
        sliding_window=WINDOW,
        max_context_tokens=CONTEXT,
        norm_eps=1e-3,
        swiglu_limit=1.0,
        rope=Rope(100.0, None),
    )


def empty_cache(*kinds: LayerKind, context_tokens: int = CONTEXT, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(config(*kinds), context_tokens=context_tokens, dtype=dtype, device="cpu")


def entry(ids: list[int]) -> Tensor:
    """Return keys [T, K, D] whose value is the id."""
    return torch.tensor(ids, dtype=torch.float32).view(-1, 1, 1).expand(-1, 2, 3)


def read(cache: KVCache, ids: list[int]) -> list[list[list[int]]]:
    """Append `ids` to every layer -> for each layer and query, the sorted ids that it may see."""
    seen = []
    for layer in cache.layers:
        visible = layer.append(entry(ids), -entry(ids), cache.length)
        assert torch.equal(visible.keys, -visible.values)
        keys = visible.keys[:, 0, 0].int().tolist()
        seen.append([sorted(_seen_by(keys, visible.first, visible.window, cache.length + t)) for t in range(len(ids))])
    cache.advance(len(ids))
    return seen


def _seen_by(keys: list[int], first: int, window: int | None, query: int) -> list[int]:
    shown = [key for position, key in enumerate(keys, start=first) if position <= query]
    return shown if window is None else shown[max(0, query - window + 1 - first) :]


@dataclass
class Expected:
    """The ids that should be in the cache."""

    ids: list[int] = field(default_factory=list)

    def read(self, ids: list[int]) -> list[list[list[int]]]:
        start = len(self.ids)
        self.ids += ids
        ends = range(start + 1, len(self.ids) + 1)
        sliding = [sorted(self.ids[max(0, end - WINDOW) : end]) for end in ends]
        return [sliding, [sorted(self.ids[:end]) for end in ends]]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 14)),
        st.tuples(st.just("decode"), st.integers(1, 8)),
        st.tuples(st.just("mark"), st.just(0)),
        st.tuples(st.just("rewind"), st.integers(0, 9)),
        st.tuples(st.just("truncate"), st.integers(0, 3)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_any_steps_leave_the_cache_of_one_reading(steps: list[tuple[str, int]]) -> None:
    cache, expected = empty_cache(), Expected()
    marks: list[tuple[CacheMark, list[int]]] = []
    next_id = 1
    for step, number in steps:
        if step in ("read", "decode"):
            for size in [number] if step == "read" else [1] * number:
                ids = list(range(next_id, next_id + size))
                next_id += size
                assert read(cache, ids) == expected.read(ids)
        elif step == "mark":
            marks.append((cache.mark(), list(expected.ids)))
        elif step == "rewind" and marks:
            mark, ids = marks[number % len(marks)]
            cache.rewind(mark)
            expected.ids = list(ids)
        elif step == "truncate" and cache.length - number >= cache.shortest_truncation():
            cache.truncate(cache.length - number)
            del expected.ids[cache.length :]
        elif step == "clear":
            cache.truncate(0)
            expected.ids.clear()
        marks = [(mark, ids) for mark, ids in marks if ids == expected.ids[: len(ids)]]
        assert cache.length == len(expected.ids)


def test_a_ring_holds_no_more_than_its_window() -> None:
    cache = empty_cache(LayerKind.SLIDING)
    read(cache, list(range(1, 400)))
    (layer,) = cache.layers
    assert isinstance(layer, SlidingLayer)
    assert layer.copy()[0].shape == (WINDOW, 2, 3)


def test_a_full_layer_grows_in_steps_up_to_the_context() -> None:
    layer = FullLayer(2, 3, context_tokens=CONTEXT, dtype=torch.float32, position=torch.zeros(1))
    slots = []
    for position in range(CONTEXT):
        visible = layer.append(entry([position]), entry([position]), position)
        slots.append(visible.keys.untyped_storage().nbytes() // (4 * 2 * 3))
    assert len(set(slots)) <= 4
    assert slots[0] < CONTEXT
    assert max(slots) == CONTEXT


def test_a_window_larger_than_the_context_takes_the_size_of_the_context() -> None:
    cache = empty_cache(LayerKind.SLIDING, context_tokens=3)
    assert read(cache, [7, 8, 9]) == [[[7], [7, 8], [7, 8, 9]]]


def test_a_mark_copies_only_the_rings() -> None:
    cache = empty_cache()
    read(cache, list(range(300)))
    assert [ring.shape for rings in cache.mark().rings for ring in rings] == [(WINDOW, 2, 3)] * 2


def test_a_full_ring_can_be_truncated_by_one_token_only_once() -> None:
    cache = empty_cache()
    read(cache, list(range(WINDOW + 3)))
    assert cache.shortest_truncation() == WINDOW + 2
    cache.truncate(WINDOW + 2)
    assert cache.shortest_truncation() == WINDOW + 2


def test_full_layers_alone_can_be_truncated_anywhere() -> None:
    cache = empty_cache(LayerKind.FULL)
    read(cache, list(range(90)))
    cache.truncate(cache.shortest_truncation() + 17)
    assert cache.length == 17


def test_new_keys_are_rounded_like_cached_ones() -> None:
    keys = torch.full((2, 2, 3), 1.001)
    for layer in empty_cache(dtype=torch.bfloat16).layers:
        assert layer.append(keys, keys, 0).keys.dtype is torch.bfloat16


def test_a_cache_that_does_not_fit_in_memory_is_a_resource_error() -> None:
    layer = FullLayer(2**20, 2**10, context_tokens=2**30, dtype=torch.float32, position=torch.zeros(1))
    with pytest.raises(ResourceError, match="no memory for a KV cache") as raised:
        layer.append(torch.empty(2**29, 2**20, 2**10, device="meta"), torch.empty(0), 0)
    assert raised.value.hints == (Hint.SMALLER_CONTEXT,)
