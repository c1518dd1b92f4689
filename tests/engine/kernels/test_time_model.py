"""The arithmetic of the time model: what limits a kernel, and that nothing is counted twice or left out."""

from dataclasses import replace
from typing import Any

import pytest

from tests.engine.kernels.time_model import (
    CARDS,
    MODELS,
    Card,
    attend_seconds,
    attention_seconds,
    experts_seconds,
    kernel_table,
    layer_seconds,
    offload_table,
    product_seconds,
    prompt_seconds,
    round_clocks,
    time_tables,
    token_seconds,
)

SMALL, LARGE = MODELS
H200 = next(card for card in CARDS if card.name == "H200")


def _used(count: int, warps: int, /, **loop: int) -> dict[str, Any]:
    loops = [{"shared_bytes": 0, "barriers": 2} | loop] if loop else []
    counts = {"registers": 128, "shared": 2_048, "barriers": 5, "spilled": 0}
    return counts | {"instructions": count, "warps": warps, "loops": loops}


# About what Triton 3.9 gives for 9.0.
COMPILED = {
    "qkv_kernel": _used(810, 4),
    "unembed_kernel": _used(585, 4),
    "output_kernel": _used(560, 4),
    "gate_up_kernel": _used(1_440, 1),
    "down_kernel": _used(1_440, 1),
    "attend_prefill_kernel": _used(900, 4, instructions=350, shared_bytes=300),
    "attend_prefill_kernel in a window": _used(600, 4, instructions=510, shared_bytes=300),
    **{
        f"grouped_{name}_kernel of {size}": _used(800, 4, instructions=count)
        for name, count in (("gate_up", 486), ("down", 275))
        for size in (16, 64, 128)
    },
}


def test_a_product_takes_as_long_as_its_bytes_or_its_instructions() -> None:
    by_bytes = product_seconds(H200, 1e9, 2, 1.0)
    assert by_bytes == pytest.approx(2e9 / (0.9 * 4.8e12) + 1e-6)
    by_instructions = product_seconds(H200, 1e9, 0.5, 20.0)
    assert by_instructions == pytest.approx(20e9 / (132 * 1.83e9 * 128 * 0.65) + 1e-6)


def test_a_token_is_the_sum_of_its_kernels_and_gaps() -> None:
    layer = sum(layer_seconds(H200, COMPILED).values())
    attention = attention_seconds(H200, 128) + attention_seconds(H200, 8_192)
    unembedding = product_seconds(H200, 201_088 * 2_880, 2, 6.5)
    for dependent, gap in ((False, 0.8e-6), (True, 0.2e-6)):
        expected = 24 * layer + 12 * attention + unembedding + 10e-6 + 147 * gap
        assert token_seconds(H200, COMPILED, SMALL, 8_192, dependent=dependent) == pytest.approx(expected, rel=1e-6)


def test_the_decode_model_gives_the_times_that_it_was_made_from() -> None:
    micros = {name: seconds * 1e6 for name, seconds in layer_seconds(H200, COMPILED).items()}
    assert micros == pytest.approx({"qkv": 8, "output": 6.5, "router": 3.5, "gate_up": 14, "down": 7.5}, rel=0.05)
    rates = [1 / token_seconds(H200, COMPILED, model, 100, dependent=False) for model in MODELS]
    assert rates == pytest.approx([690, 490], rel=0.05)


def test_more_context_and_less_bandwidth_make_a_token_slower() -> None:
    times = [token_seconds(H200, COMPILED, SMALL, context, dependent=True) for context in (0, 128, 8_192, 65_536)]
    assert times == sorted(times)
    slower = replace(H200, terabytes_per_second=2.4)
    assert token_seconds(slower, COMPILED, SMALL, 100, dependent=True) > 1.5 * times[1]


@pytest.mark.parametrize(
    ("card", "loop", "clocks"),
    [
        (H200, {"instructions": 486}, 512),  # 1,048,576 products, 2,048 in a clock
        (H200, {"instructions": 600}, 600),  # of 4 warps, one for each scheduler
        (H200, {"instructions": 486, "shared_bytes": 1_024}, 1_024),  # of 128 threads, 128 bytes in a clock
        (replace(H200, cache_bytes=8), {"instructions": 486}, 10_400 / 8),
    ],
)
def test_the_slowest_part_of_a_round_decides(card: Card, loop: dict[str, int], clocks: float) -> None:
    used = _used(800, 4, **loop)
    assert round_clocks(card, used, 2 * 64 * 128 * 64, 10_400) == pytest.approx(clocks / 0.7)


def test_of_several_loops_that_without_masks_counts() -> None:
    used = _used(800, 4, instructions=600)
    used["loops"].append({"instructions": 4_000, "shared_bytes": 0})
    assert round_clocks(H200, used, 0, 0) == pytest.approx(600 / 0.7)


def test_experts_take_a_round_for_each_block_of_each_tile() -> None:
    tiles = 32 * (2_048 * 4 / 32 / 128 + 0.5)  # with half a tile of padding for each expert
    clocks = [
        round_clocks(H200, COMPILED[f"grouped_{name}_kernel of 128"], matrices * 524_288, 16_384 + matrices * 2_176)
        for name, matrices in (("gate_up", 2), ("down", 1))
    ]
    expected = tiles * 45**2 * sum(clocks) / H200.clocks
    assert experts_seconds(H200, COMPILED, SMALL, 2_048) == pytest.approx(expected)
    # A chunk has fewer tokens for each of 128 experts, so more of its tiles is empty.
    assert experts_seconds(H200, COMPILED, LARGE, 2_048) > 1.1 * expected


def test_attention_grows_with_queries_and_keys() -> None:
    used = COMPILED["attend_prefill_kernel"]
    once = attend_seconds(H200, used, 64, 64)
    assert once == pytest.approx(64 * round_clocks(H200, used, 524_288, 16_384) / H200.clocks)
    assert attend_seconds(H200, used, 640, 6_400) == pytest.approx(1_000 * once)


def test_a_long_prompt_is_the_sum_of_its_chunks() -> None:
    chunked = replace(H200, chunk_tokens=2_048)
    whole = prompt_seconds(chunked, COMPILED, SMALL, 4_096)
    first = prompt_seconds(chunked, COMPILED, SMALL, 2_048)
    assert 2 * first < whole < 2.3 * first  # the second chunk attends to the first one too
    assert prompt_seconds(replace(H200, chunk_tokens=8_192), COMPILED, LARGE, 8_192) < prompt_seconds(
        chunked, COMPILED, LARGE, 8_192
    )


def test_the_tables_have_every_kernel_and_card() -> None:
    shown = "\n".join((*kernel_table({90: COMPILED}), *time_tables({90: COMPILED})))
    assert "| grouped_gate_up of 128 | 128/2/2/486 |" in shown
    assert "| gate_up | 128/2/5/4.0 |" in shown
    assert " of 64" not in shown
    assert [card.name for card in CARDS if f"| {card.name} |" in shown] == ["H100", "H200"]
    on_small = "\n".join(time_tables({89: COMPILED}))
    assert "| offload | offload |" in on_small


def test_the_table_of_experts_in_two_memories_tells_the_copy_to_a_slot_apart() -> None:
    compiled = {f"{name}_kernel offloaded": _used(1_512, 1) | {"copying": 72} for name in ("gate_up", "down")}
    *_, row = offload_table({90: compiled})
    assert row == "| sm_90 | 128/5/4.0, 4.2 | 128/5/4.0, 4.2 |"
    assert "offloaded" not in "\n".join(kernel_table({90: COMPILED | compiled}))
