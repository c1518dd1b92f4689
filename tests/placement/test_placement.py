"""The values of a placement that are derived from others."""

import pytest

from gptoss_cli.placement.placement import DecodeBound, MemoryUse, Placement, WeightPlacement
from gptoss_cli.placement.reasons import Code, Reason, gib
from gptoss_cli.settings import Execution


@pytest.mark.parametrize("gpu_experts", [0, 1, 23, 24, 25, 767, 768])
def test_the_experts_of_all_layers_add_up_and_are_spread_evenly(gpu_experts: int) -> None:
    weights = WeightPlacement(gpu_experts=gpu_experts, embedding_on_gpu=False)
    counts = [weights.experts_of_layer(layer, 24) for layer in range(24)]
    assert sum(counts) == gpu_experts
    assert max(counts) - min(counts) <= 1


def test_free_bytes_are_never_negative_and_none_if_the_room_is_unknown() -> None:
    assert MemoryUse(dense_bytes=3, room_bytes=10).to_json()["free_bytes"] == 7
    assert MemoryUse(dense_bytes=30, room_bytes=10).to_json()["free_bytes"] == 0
    assert MemoryUse(dense_bytes=30).to_json()["free_bytes"] is None


def test_the_decode_bound_adds_the_times_of_all_memories() -> None:
    bound = DecodeBound(
        gpu_bytes=100, gpu_bytes_per_second=1_000, link_bytes=50, link_bytes_per_second=100, host_bytes=0
    )
    assert bound.tokens_per_second == pytest.approx(1 / 0.6)


def test_the_summary_names_device_execution_and_context() -> None:
    offloaded = Placement(context_tokens=16_384, execution=Execution.OFFLOAD, device="cuda:0")
    assert offloaded.summary == "on cuda:0 (offload) with 16,384 tokens of context"
    assert Placement(context_tokens=100).summary == "on the CPU with 100 tokens of context"


def test_warnings_are_the_reasons_that_do_not_only_explain() -> None:
    explains, warns = Reason(Code.NO_GPU, "There is no GPU."), Reason(Code.FROM_DISK, "It is slow.", 7)
    bound = DecodeBound(host_bytes=1)
    placement = Placement(context_tokens=100, bound=bound, reasons=(explains, warns))
    assert placement.warnings == (warns,)
    assert placement.to_json()["reasons"] == [
        {"code": "no-gpu", "warning": False, "text": "There is no GPU."},
        {"code": "from-disk", "warning": True, "text": "It is slow.", "missing_bytes": 7},
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 MiB"), (1, "1 MiB"), ((1 << 30) - 1, "1024 MiB"), (1 << 30, "1.0 GiB")]
)
def test_memory_is_written_in_binary_units_and_small_sizes_are_rounded_up(count: int, text: str) -> None:
    assert gib(count) == text
