"""Trains the demo model and writes it: `python -m gptoss_cli.demo.train OUT`. About two hours on two cores."""

import argparse
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gptoss_cli.demo.batches import Batcher, trained_ids
from gptoss_cli.demo.conversations import PLACEHOLDERS
from gptoss_cli.demo.network import Network, Shape

VOCABULARY = 201088
DECAY = 0.05  # of matrices, relative to the learning rate


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the training goes. Learning rates fall linearly to a twentieth."""

    start: Path | None = None  # a state to go on from

    minutes: float = 100.0
    seed: int = 20260101
    batch_trees: int = 8
    tree_pieces: int = 576
    matrix_rate: float = 0.02
    vector_rate: float = 3e-3
    packed_from: float = 0.7  # share of the time after which experts are rounded to MXFP4
    warmup_steps: int = 50


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Newton-Schulz), for matrices [R, K] and stacks of them [E, R, K]."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(average, group["momentum"])
                scale = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
                # Without decay the residual stream grows until the embeddings are lost in it.
                parameter.mul_(1 - DECAY * group["lr"]).add_(orthogonal(update), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix [..., R, K] with singular values near 1, by five quintic Newton-Schulz steps."""
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.add(3.4445 * x, (2.0315 * gram @ gram - 4.7750 * gram) @ x)
    return x if wide else x.mT


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=Recipe().minutes)
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--start", type=Path, help="go on from a state written earlier")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, Recipe(arguments.start, minutes=arguments.minutes, seed=arguments.seed))


def train(out: Path, recipe: Recipe) -> None:
    """Train for `recipe.minutes` and write the state to `out`, also every ten minutes on the way."""
    torch.manual_seed(recipe.seed)
    network, ids = _begin(recipe)
    batches = Batcher(ids, seed=recipe.seed + 1, size=recipe.batch_trees, limit=recipe.tree_pieces)
    weights = sum(p.numel() for p in network.parameters())
    print(f"{len(ids)} trained rows, {weights} weights", flush=True)
    optimizers = _optimizers(network, recipe)
    began = saved = time.monotonic()
    step, tokens, recent = 0, 0, []
    while (done := (time.monotonic() - began) / (60 * recipe.minutes)) < 1:
        if done > recipe.packed_from:
            network.pack_experts()
        batch = next(batches)
        loss = _step(network, optimizers, batch, rate=min(1.0, step / recipe.warmup_steps) * (1 - 0.95 * done))
        step, tokens = step + 1, tokens + batch.rows.numel()
        recent.append(loss)
        if step % 50 == 0:
            rate = tokens / (time.monotonic() - began)
            print(
                f"{step} {done:.3f} {tokens / 1e6:.2f}M tokens {rate:.0f}/s loss {sum(recent) / len(recent):.4f}",
                flush=True,
            )
            recent.clear()
        if time.monotonic() - saved > 600:
            saved = time.monotonic()
            save(out, network, ids)
    network.pack_experts()
    save(out, network, ids)


def _begin(recipe: Recipe) -> tuple[Network, list[int]]:
    """A fresh network and the ids it gets rows for, or both from `recipe.start`."""
    ids = trained_ids(random.Random(recipe.seed), 3000, 8)
    if not recipe.start:
        network = Network(Shape(), ids, PLACEHOLDERS, VOCABULARY)
    else:
        saved = torch.load(recipe.start, weights_only=True)
        ids = saved["ids"] + sorted(set(ids) - set(saved["ids"]))
        network = Network(Shape(**saved["shape"]), ids, PLACEHOLDERS, VOCABULARY)
        network.load_state_dict(_with_new_rows(saved["state"], len(ids)))
    network.hold_copy_lane()
    return network, ids


def _with_new_rows(state: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """`state` with tables of `rows` rows: the new ones begin as what the model knows as an untrained token."""
    made = dict(state)
    for table in ("embedding", "unembedding"):
        new = state[f"{table}_base"].expand(rows - len(state[table]), -1)
        made[table] = torch.cat((state[table], new + 0.02 * torch.randn(new.shape)))
    return made


def _optimizers(network: Network, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in network.named_parameters() if name.endswith((".qkv", ".out", ".gate_up", ".down"))]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, recipe.matrix_rate),
        torch.optim.Adam(others, recipe.vector_rate, betas=(0.9, 0.98), eps=1e-10),
    ]


def _step(network: Network, optimizers: list[torch.optim.Optimizer], batch: object, *, rate: float) -> float:
    loss, helping = network(batch)
    (loss + helping).backward()
    if not math.isfinite(loss.item() + helping.item()):
        raise FloatingPointError("the loss is not finite")
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.setdefault("peak", group["lr"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    network.hold_copy_lane()
    return float(loss.detach())


def save(out: Path, network: Network, ids: list[int]) -> None:
    """Write the training state: everything the export needs."""
    torch.save({"shape": asdict(network.shape), "ids": ids, "state": network.state_dict()}, out)


if __name__ == "__main__":
    main()
