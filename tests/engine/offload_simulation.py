"""A simulation of offloaded experts: `python -m tests.engine.offload_simulation` prints hit rates and link traffic.

Routings are random, with some experts more popular than others and with repetitions, or recorded from the demo model.
A routing is a list of the experts of a token in one layer.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.engine.loader import load
from gptoss_cli.generation import Sampling, TokenInfo
from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.memory import model_memory
from gptoss_cli.placement.placement import Placement
from tests.placement.machines import GPT_OSS_20B, GPT_OSS_120B, gpu, machine

ACTIVE = 4
BUDGETS = (("20b", GPT_OSS_20B, 8), ("20b", GPT_OSS_20B, 12), ("120b", GPT_OSS_120B, 24))
TOKENS, LAYERS = 1_500, 4
PROMPT = 200006, 1428, 200008, 4827, 200007, 200006, 173781
Routings = list[list[int]]
Policy = Callable[[Routings, int], float]


class LeastRecentlyUsed:
    """A plain model of the slots of one layer. Slots of equal age are replaced from the first to the last."""

    def __init__(self, slots: int) -> None:
        self.held: list[int | None] = list(range(slots))
        self.used_at = [0] * slots
        self.reads = self.hits = 0

    def choose(self, experts: list[int]) -> tuple[list[int], list[int]]:
        """Return the slots to read experts from, and those to write them to; -1 for none."""
        now = max(self.used_at, default=0) + 1
        sources = [self.held.index(expert) if expert in self.held else -1 for expert in experts]
        self.reads, self.hits = self.reads + len(experts), self.hits + sum(slot >= 0 for slot in sources)
        for slot in filter(lambda slot: slot >= 0, sources):
            self.used_at[slot] = now
        targets = [-1] * len(experts)
        for number, expert in enumerate(experts):
            old = [slot for slot, time in enumerate(self.used_at) if time < now]
            if sources[number] < 0 and old:
                targets[number] = min(old, key=lambda slot: self.used_at[slot])
                self.held[targets[number]] = expert
                self.used_at[targets[number]] = now
        return sources, targets


def recent(routings: Routings, slots: int) -> float:
    """Return the hit rate with the experts that were used last."""
    model = LeastRecentlyUsed(slots)
    for experts in routings:
        model.choose(experts)
    return model.hits / model.reads


def fixed(routings: Routings, slots: int) -> float:
    """Return the hit rate with always the same experts, which say nothing about how popular they are."""
    return float(np.mean(np.array(routings) < slots))


def best(routings: Routings, slots: int) -> float:
    """Return the hit rate of the best choice, by someone who knows the future (Belady's algorithm)."""
    flat = [expert for experts in routings for expert in experts]
    next_use, later = [0] * len(flat), dict[int, int]()
    for number in range(len(flat) - 1, -1, -1):
        next_use[number], later[flat[number]] = later.get(flat[number], len(flat)), number
    held, hits = {expert: later.get(expert, len(flat)) for expert in range(slots)}, 0
    for number, expert in enumerate(flat):
        hits += expert in held
        held[expert] = next_use[number]
        if len(held) > slots:
            del held[max(held, key=lambda each: held[each])]
    return hits / len(flat)


def random_routings(tokens: int, experts: int, *, popularity: float, repetition: float, seed: int) -> Routings:
    """Return random routings of ACTIVE experts.

    The weight of the n-th most popular expert is n to the power of -popularity (Zipf's law), and more after it was
    used: `repetition` times that, which halves with every three tokens.
    """
    random = np.random.default_rng(seed)
    weights = random.permutation(np.arange(1, experts + 1) ** -popularity)
    used, routings = np.zeros(experts), Routings()
    for _ in range(tokens):
        scores = np.log(weights * (1 + repetition * used)) + random.gumbel(size=experts)
        chosen = np.argsort(-scores)[:ACTIVE]
        used *= 0.5 ** (1 / 3)
        used[chosen] = 1
        routings.append(chosen.tolist())
    return routings


def demo_routings(experts: int, layer: int, recorded: list[list[list[int]]]) -> Routings:
    """Return routings of ACTIVE of `experts` experts from what the demo's layers [T, 2] chose of its 8 experts.

    Two layers of the demo give two experts each: half of the experts belong to either. In a half, an expert of the demo
    stands for several, by the other expert that it was chosen with.
    """
    each = experts // 16
    columns = [recorded[layer % len(recorded)], recorded[(layer + 1) % len(recorded)]]
    return [
        [
            half * (experts // 2) + expert * each + other * each // 8
            for half, (first, second) in enumerate(pair)
            for expert, other in ((first, second), (second, first))
        ]
        for pair in zip(*columns, strict=True)
    ]


def record_demo(tokens: int) -> list[list[list[int]]]:
    """Return the experts [L, T, 2] that the demo model chooses while it writes `tokens` tokens."""
    generator, seen = (
        load(demo_checkpoint(), Placement(context_tokens=tokens + 16), kv_limit_bytes=0),
        list[TokenInfo](),
    )
    list(generator.prefill(PROMPT))
    decoded = generator.decode(
        Sampling(seed=3), stop_ids=(), banned_ids=(), max_tokens=tokens, observer=seen.append, top=1
    )
    for _ in decoded:
        pass
    layers = [info.experts for info in seen[1:] if info.experts is not None]
    return [[list(token[layer].experts) for token in layers] for layer in range(len(layers[0]))]


@dataclass(frozen=True)
class Row:
    """One row of the table: hit rates by policy, and what least recently used means for the link."""

    model: str
    gibibytes: int
    slots: float
    routing: str
    rates: dict[str, float]
    link_bytes: int
    tokens_per_second: tuple[float, float]


def rows(
    sources: dict[str, Callable[[int, int], Routings]], policies: dict[str, Policy], layers: int = LAYERS
) -> Iterator[Row]:
    """Simulate every budget with every source of routings, a function of a number of experts and a layer."""
    for name, config, gibibytes in BUDGETS:
        placement = choose(config, machine(gpu(gibibytes), ram=128))
        memory, slots = model_memory(config), placement.gpu_experts / config.layers
        for called, routings_of in sources.items():
            of_layers = [routings_of(config.experts, layer) for layer in range(layers)]
            rates = {
                policy: float(np.mean([run(routings, round(slots)) for routings in of_layers]))
                for policy, run in policies.items()
            }
            link = round((1 - rates["recent"]) * memory.active_bytes)
            bound = replace(placement.bound, link_bytes=link, gpu_bytes=memory.dense_bytes + memory.active_bytes - link)
            speeds = [replace(bound, link_bytes_per_second=speed).tokens_per_second for speed in (25e9, 50e9)]
            yield Row(name, gibibytes, slots, called, rates, link, (speeds[0], speeds[1]))


def main() -> None:
    recorded = record_demo(TOKENS)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(recorded))
    sources: dict[str, Callable[[int, int], Routings]] = {
        "uniform": lambda experts, layer: random_routings(TOKENS, experts, popularity=0, repetition=0, seed=layer),
        "Zipf 0.6": lambda experts, layer: random_routings(TOKENS, experts, popularity=0.6, repetition=0, seed=layer),
        "Zipf 0.6, repeating": lambda experts, layer: random_routings(
            TOKENS, experts, popularity=0.6, repetition=6, seed=layer
        ),
        "demo": lambda experts, layer: demo_routings(experts, layer, recorded),
    }
    for row in rows(sources, {"fixed": fixed, "recent": recent, "best": best}):
        rates = " | ".join(f"{rate:.0%}" for rate in row.rates.values())
        speeds = " / ".join(f"{speed:.0f}" for speed in row.tokens_per_second)
        where = f"{row.model}, {row.gibibytes} GiB, {row.slots:.1f} slots"
        print(f"| {where} | {row.routing} | {rates} | {row.link_bytes / 1e9:.2f} GB | {speeds} |")


if __name__ == "__main__":
    main()
