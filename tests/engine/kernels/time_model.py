"""Reckon the time of a token and of a prompt on typical GPUs from the machine code of the kernels. Nothing is measured.

`python compile_kernels.py CAPABILITY > FOLDER/CAPABILITY.json` for each capability, then `python time_model.py FOLDER`
prints the tables of the engine's README. The shapes are those of gpt-oss. A result may be wrong by a quarter.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

Compiled = dict[str, dict[str, Any]]

HIDDEN, QKV, ATTENDED, VOCABULARY, ACTIVE = 2_880, 5_120, 4_096, 201_088, 4
HEADS, WINDOW, KV_BYTES = 64, 128, 2 * 8 * 64 * 2  # of a position in a layer
OFFLOADED: Final = " offloaded"  # ends the names of kernels that find experts in two memories
PACKED_BYTES = 17 / 32  # of a weight, its scale included
# A kernel of one token: the share of the bandwidth that it reaches, the share of the issue slots, and its start.
READ_SHARE, ISSUE_SHARE, START = 0.9, 0.65, 1.0e-6
# Kernels that depend neither on bytes nor on instructions, but on a chain of barriers: attention, router, draw.
ATTEND_LATENCY, ROUTER_LATENCY, DRAW_LATENCY = 3.0e-6, 3.5e-6, 10e-6
GAP, DEPENDENT_GAP = 0.8e-6, 0.2e-6
# A grouped product or attention reaches this share of its slowest part, and a dense product of torch of the peak.
PROMPT_SHARE, DENSE_SHARE = 0.7, 0.7
SCHEDULERS, LANES, SHARED_BYTES_PER_CLOCK = 4, 32, 128
# What the operations between the products read and write for a token of a prompt in a layer.
BETWEEN_BYTES = 400_000


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as its vendor describes it.

    In a clock a multiprocessor does `products` multiply-adds of bfloat16, and reads `cache_bytes` from the second-level
    cache, as others have measured; 0 products stand for tensor cores without bfloat16.
    """

    name: str
    capability: int
    multiprocessors: int
    gigahertz: float
    terabytes_per_second: float
    gibibytes: int
    products: int
    cache_bytes: int
    chunk_tokens: int

    @property
    def clocks(self) -> float:
        """The clocks of all multiprocessors in a second."""
        return self.multiprocessors * self.gigahertz * 1e9

    @property
    def bytes_per_second(self) -> float:
        """The bandwidth of its memory."""
        return self.terabytes_per_second * 1e12


CARDS: Final = (
    Card("T4", 75, 40, 1.59, 0.32, 15, 0, 20, 2_048),
    Card("A100", 80, 108, 1.41, 2.04, 80, 1_024, 40, 8_192),
    Card("3090", 86, 82, 1.70, 0.936, 24, 256, 16, 4_096),
    Card("4090", 89, 128, 2.52, 1.008, 24, 256, 16, 4_096),
    Card("H100", 90, 132, 1.83, 3.35, 80, 2_048, 26, 8_192),
    Card("H200", 90, 132, 1.83, 4.8, 141, 2_048, 26, 8_192),
    Card("B200", 100, 148, 1.85, 8.0, 180, 4_096, 32, 8_192),
    Card("5090", 120, 170, 2.41, 1.79, 32, 256, 16, 8_192),
)


@dataclass(frozen=True, slots=True)
class Model:
    """A model of gpt-oss: its layers, the experts of each, and the memory of its weights."""

    name: str
    layers: int
    experts: int
    gibibytes: float


MODELS: Final = (Model("20b", 24, 32, 12), Model("120b", 36, 128, 60))


def token_seconds(card: Card, compiled: Compiled, model: Model, context: int, *, dependent: bool) -> float:
    """Return the time of a token with `context` tokens before it, with `dependent` launch or without."""
    layer = ring = sum(layer_seconds(card, compiled).values())
    ring += attention_seconds(card, min(context, WINDOW))
    layer += attention_seconds(card, context)
    once = product_seconds(card, VOCABULARY * HIDDEN, 2, _per_weight(compiled, "unembed_kernel", 4 * HIDDEN))
    kernels = 6 * model.layers + 3
    gap = DEPENDENT_GAP if dependent else GAP
    return (ring + layer) * model.layers / 2 + once + DRAW_LATENCY + kernels * gap


def layer_seconds(card: Card, compiled: Compiled) -> dict[str, float]:
    """Return the time of each kernel of a layer for one token, without attention."""
    rows = 4
    # A program of qkv has the instructions of three matrices and runs those of one: as many as unembed.
    dense = _per_weight(compiled, "unembed_kernel", rows * HIDDEN)
    return {
        "qkv": product_seconds(card, QKV * HIDDEN, 2, dense),
        "output": product_seconds(card, ATTENDED * HIDDEN, 2, _per_weight(compiled, "output_kernel", rows * ATTENDED)),
        "router": ROUTER_LATENCY,
        "gate_up": product_seconds(
            card, ACTIVE * 2 * HIDDEN * HIDDEN, PACKED_BYTES, _per_weight(compiled, "gate_up_kernel", rows * HIDDEN)
        ),
        "down": product_seconds(
            card, ACTIVE * HIDDEN * HIDDEN, PACKED_BYTES, _per_weight(compiled, "down_kernel", rows * HIDDEN)
        ),
    }


def product_seconds(card: Card, weights: float, weight_bytes: float, instructions: float) -> float:
    """Return the time of a product with one token: its bytes or its instructions, whichever take longer."""
    read = weights * weight_bytes / (card.bytes_per_second * READ_SHARE)
    issued = weights * instructions / (card.clocks * SCHEDULERS * LANES * ISSUE_SHARE)
    return max(read, issued) + START


def attention_seconds(card: Card, keys: int) -> float:
    """Return the time of one token's attention to `keys` keys."""
    return ATTEND_LATENCY + keys * KV_BYTES / (card.bytes_per_second * READ_SHARE)


def prompt_seconds(card: Card, compiled: Compiled, model: Model, tokens: int) -> float:
    """Return the time of a prompt, which is read in chunks."""
    seconds = 0.0
    for start in range(0, tokens, card.chunk_tokens):
        chunk = min(card.chunk_tokens, tokens - start)
        dense = HIDDEN * (QKV + ATTENDED) * chunk / (card.products * card.clocks * DENSE_SHARE)
        between = BETWEEN_BYTES * chunk / (card.bytes_per_second * READ_SHARE)
        layer = dense + between + experts_seconds(card, compiled, model, chunk)
        full = attend_seconds(card, compiled["attend_prefill_kernel"], chunk, start + chunk / 2)
        ring = attend_seconds(card, compiled["attend_prefill_kernel in a window"], chunk, WINDOW + 32)
        seconds += model.layers * (layer + (full + ring) / 2)
    return seconds


def experts_seconds(card: Card, compiled: Compiled, model: Model, tokens: int) -> float:
    """Return the time of the grouped products of a layer. Half of a tile of each expert is empty on average."""
    mean = tokens * ACTIVE / model.experts
    sizes = (16, 64, 128)
    size = next((each for each in sizes if each >= mean), sizes[-1])
    tiles = model.experts * (mean / size + 0.5 if mean > size / 2 else 1)
    rounds = tiles * ceil(HIDDEN / 64) ** 2  # blocks of 64 rows, in rounds of 64 columns
    seconds = 0.0
    for name, matrices in (("grouped_gate_up_kernel", 2), ("grouped_down_kernel", 1)):
        used = compiled[f"{name} of {size}"]
        read = 64 * size * 2 + matrices * 64 * 64 * PACKED_BYTES
        seconds += rounds * round_clocks(card, used, matrices * 64 * size * 64, read) / card.clocks
    return seconds


def attend_seconds(card: Card, used: dict[str, Any], tokens: int, keys: float) -> float:
    """Return the time in which `tokens` queries attend to `keys` keys on average."""
    rounds = HEADS * ceil(tokens / 64) * ceil(keys / 64)
    return rounds * round_clocks(card, used, 2 * 64 * 64 * 64, 2 * 64 * 64 * 2) / card.clocks


def round_clocks(card: Card, used: dict[str, Any], products: int, read_bytes: float) -> float:
    """Return the clocks of a multiprocessor for a round of a kernel's main loop: its slowest part decides."""
    loop = min(used["loops"], key=lambda each: int(each["instructions"]))  # the one without masks
    issued = loop["instructions"] * used["warps"] / SCHEDULERS
    shared = loop["shared_bytes"] * used["warps"] * LANES / SHARED_BYTES_PER_CLOCK
    slowest: float = max(products / card.products, issued, shared, read_bytes / card.cache_bytes)
    return slowest / PROMPT_SHARE


def _per_weight(compiled: Compiled, name: str, weights: int) -> float:
    """Return the instructions of all threads of a program, which has no loop, for each of its weights."""
    used = compiled[name]
    return float(used["instructions"] * LANES * used["warps"] / weights)


def kernel_table(compiled: dict[int, Compiled]) -> Iterator[str]:
    """Yield the lines of a table of all kernels: registers, shared memory, barriers and instructions."""
    yield "| | " + " | ".join(f"sm_{capability}" for capability in compiled) + " |"
    yield "|---" * (len(compiled) + 1) + "|"
    for name in dict.fromkeys(name for each in compiled.values() for name in each if _is_shown(name)):
        cells = (_cell(name, each[_name_in(each, name)]) for each in compiled.values())
        yield f"| {name.replace('_kernel', '')} | " + " | ".join(cells) + " |"


def _name_in(compiled: Compiled, name: str) -> str:
    """Return the name of a kernel, or of its variant with float32 products where there is no other."""
    return name if name in compiled else name.replace("_kernel", "_kernel upcast").replace(" of 128", " of 32")


def _is_shown(name: str) -> bool:
    return "upcast" not in name and not name.endswith((" of 16", " of 64", " of 32", OFFLOADED))


def _cell(name: str, used: dict[str, Any]) -> str:
    loops = used["loops"]
    last = f"{used['barriers']}/{used['instructions']}"
    if loops and ("grouped" in name or "attend" in name):
        # The loop over keys is first, and that over splits last; of several tokens, the loop without masks is shorter.
        loop = loops[0] if name == "attend_kernel" else min(loops, key=lambda each: int(each["instructions"]))
        last = f"{loop['barriers']}/{loop['instructions']}"
    weights = {"gate_up_kernel": 4 * HIDDEN, "down_kernel": 4 * HIDDEN, "output_kernel": 4 * ATTENDED}
    weights |= {"qkv_kernel": 4 * HIDDEN, "unembed_kernel": 4 * HIDDEN}
    if name in weights:
        last = f"{used['barriers']}/{used['instructions'] * LANES * used['warps'] / weights[name]:.1f}"
    return f"{used['registers']}/{used['shared'] / 1024:.0f}/{last}"


def offload_table(compiled: dict[int, Compiled]) -> Iterator[str]:
    """Yield the lines of a table of the products that find experts in two memories.

    Instructions per weight are given without the copy to a slot, and with it.
    """
    yield "| | gate_up | down |"
    yield "|---" * 3 + "|"
    for capability, kernels in compiled.items():
        cells = []
        for name in ("gate_up_kernel", "down_kernel"):
            used = kernels[name + OFFLOADED]
            found = (used["instructions"] - used["copying"]) * LANES * used["warps"] / (4 * HIDDEN)
            written = _per_weight(kernels, name + OFFLOADED, 4 * HIDDEN)
            cells.append(f"{used['registers']}/{used['barriers']}/{found:.1f}, {written:.1f}")
        yield f"| sm_{capability} | {' | '.join(cells)} |"


def time_tables(compiled: dict[int, Compiled]) -> Iterator[str]:
    """Yield the lines of the tables of times and rates."""
    cards = [card for card in CARDS if card.capability in compiled]
    yield "| | qkv | output | router | gate_up | down | attention: ring; full with 8k, 64k |"
    yield "|---" * 7 + "|"
    for card in cards:
        times = [f"{seconds * 1e6:.0f}" for seconds in layer_seconds(card, compiled[card.capability]).values()]
        attention = [f"{attention_seconds(card, keys) * 1e6:.0f}" for keys in (WINDOW, 8_192, 65_536)]
        yield f"| {card.name} | {' | '.join(times)} | {attention[0]}; {', '.join(attention[1:])} |"
    yield ""
    yield "| | " + " | ".join(f"{model.name}, {what}" for model in MODELS for what in _WHAT) + " |"
    yield "|---" * (1 + len(MODELS) * len(_WHAT)) + "|"
    for card in cards:
        cells = (_rate(card, compiled[card.capability], model, rate) for model in MODELS for rate in _WHAT.values())
        yield f"| {card.name} | " + " | ".join(cells) + " |"


def _rate(card: Card, compiled: Compiled, model: Model, rate: Callable[[Card, Compiled, Model], str]) -> str:
    return rate(card, compiled, model) if model.gibibytes + 1.5 < card.gibibytes else "offload"


def _decode_rate(card: Card, compiled: Compiled, model: Model) -> str:
    rates = [
        1 / token_seconds(card, compiled, model, context, dependent=card.capability >= 90)
        for context in (100, 8_192, 65_536)
    ]
    return " / ".join(f"{rate:.0f}" for rate in rates)


def _prompt_rate(card: Card, compiled: Compiled, model: Model) -> str:
    if not card.products:
        return "-"
    rates = [tokens / prompt_seconds(card, compiled, model, tokens) for tokens in (2_048, 16_384)]
    return " / ".join(f"{rate / 1_000:.1f}" for rate in rates)


_WHAT: Final = {"tokens/s with 0.1k / 8k / 64k": _decode_rate, "prompt of 2k / 16k, thousand tokens/s": _prompt_rate}


def main() -> None:
    folder = Path(sys.argv[1])
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    compiled = {int(file.stem): json.loads(file.read_text()) for file in files}
    print("\n".join((*kernel_table(compiled), "", *time_tables(compiled), "", *offload_table(compiled))))


if __name__ == "__main__":
    main()
