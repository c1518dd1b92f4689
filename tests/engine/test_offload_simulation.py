"""The simulation of offloaded experts agrees with what is known without it, and with the placement."""

import pytest

from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.memory import model_memory
from tests.engine.offload_simulation import (
    ACTIVE,
    BUDGETS,
    Routings,
    best,
    demo_routings,
    fixed,
    random_routings,
    recent,
    rows,
)
from tests.placement.machines import gpu, machine


def test_the_policies_of_a_small_example() -> None:
    routings = [[3], [4], [3], [4], [0], [3]]
    assert fixed(routings, 2) == pytest.approx(1 / 6)
    assert recent(routings, 2) == pytest.approx(2 / 6)  # 0 replaces 3, which comes next
    assert best(routings, 2) == pytest.approx(3 / 6)  # 3 stays, from its first use on, and 4 until its second


@pytest.mark.parametrize("slots", [1, 9, 20])
def test_without_popular_experts_every_policy_finds_the_share_of_its_slots(slots: int) -> None:
    routings = random_routings(800, 32, popularity=0, repetition=0, seed=slots)
    assert fixed(routings, slots) == pytest.approx(slots / 32, abs=0.02)
    # The last ACTIVE experts are not chosen twice by one token, but as often as others by the next one.
    assert recent(routings, slots) == pytest.approx(slots / 32, abs=0.03)


def test_nobody_finds_more_than_the_best_choice() -> None:
    for repetition in (0, 5):
        routings = random_routings(400, 32, popularity=0.7, repetition=repetition, seed=1)
        rates = [best(routings, 13), recent(routings, 13), fixed(routings, 13)]
        assert rates == sorted(rates, reverse=True)


def test_the_demo_is_mapped_to_different_experts() -> None:
    recorded = [[[0, 7], [3, 2]], [[5, 6], [1, 0]]]
    for experts in (32, 128):
        for routing in demo_routings(experts, 0, recorded):
            assert len(set(routing)) == ACTIVE
            assert all(0 <= expert < experts for expert in routing)
            assert sum(expert < experts // 2 for expert in routing) == 2


def test_the_predicted_link_traffic_is_that_of_uniform_routings() -> None:
    def uniform(experts: int, layer: int) -> Routings:
        return random_routings(400, experts, popularity=0, repetition=0, seed=layer)

    for row, (_, config, gibibytes) in zip(rows({"uniform": uniform}, {"recent": recent}, 1), BUDGETS, strict=True):
        bound, memory = choose(config, machine(gpu(gibibytes), ram=128)).bound, model_memory(config)
        assert row.link_bytes == pytest.approx(bound.link_bytes, abs=0.05 * memory.active_bytes)
        assert row.tokens_per_second[0] == pytest.approx(bound.tokens_per_second, rel=0.15)
