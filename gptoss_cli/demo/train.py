"""Trains the demo model and writes it: `python -m gptoss_cli.demo.train OUT`. About two hours on two cores."""

import argparse
import math
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from gptoss_cli.demo.batches import Batcher, trained_ids
from gptoss_cli.demo.conversations import PLACEHOLDERS
from gptoss_cli.demo.export import restore
from gptoss_cli.demo.layout import VOCABULARY_SIZE
from gptoss_cli.demo.meanings import digits, meanings
from gptoss_cli.demo.mxfp4 import nearest
from gptoss_cli.demo.network import Batch, Network, Shape

MEAN_STEPS = 150
DECAY = 0.05  # of matrices, relative to the learning rate


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the training goes. Learning rates fall linearly to a twentieth."""

    start: Path | None = None  # a state to go on from, or the file that ships

    minutes: float = 120.0
    seed: int = 20260101
    workers: int = 2
    worker_trees: int = 4
    tree_pieces: int = 576
    matrix_rate: float = 0.05
    vector_rate: float = 1e-2
    embedding_rate: float = 2e-2  # a rare word has few steps in which to become what it means
    embedded_meaning: float = 0.4
    unembedded_digits: float = 0.05
    packed_from: float = 0.7  # share of the time after which experts are rounded to MXFP4
    peak: float = 1.0  # share of these rates to begin with; less when going on from a trained state
    warmup_steps: int = 20
    bfloat16: bool = False
    compiled: bool = False  # the function that rounds to MXFP4

    @property
    def dtype(self) -> torch.dtype:
        """Of the products that bear bfloat16: those of Muon and the logits."""
        return torch.bfloat16 if self.bfloat16 else torch.float32


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Newton-Schulz), for matrices [R, K] and stacks of them [E, R, K]."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": 0.95, "dtype": dtype})

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
                made = orthogonal(update, group["dtype"])
                parameter.mul_(1 - DECAY * group["lr"]).add_(made, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest matrix [..., R, K] with singular values near 1, by five quintic Newton-Schulz steps in `dtype`."""
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
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
    parser.add_argument("--start", type=Path, help="go on from a state written earlier, or from data/demo.safetensors")
    parser.add_argument("--packed-from", type=float, default=Recipe().packed_from)
    parser.add_argument("--peak", type=float, default=Recipe().peak, help="share of the learning rates to begin with")
    parser.add_argument("--bfloat16", action="store_true", help="faster where the CPU multiplies bfloat16 (AVX-512)")
    parser.add_argument("--compiled", action="store_true", help="faster where there is a C++ compiler")
    parser.add_argument("--workers", type=int, default=Recipe().workers, help="processes, each on a core of its own")
    arguments = parser.parse_args()
    train(arguments.out, Recipe(**{name: value for name, value in vars(arguments).items() if name != "out"}))


def train(out: Path, recipe: Recipe) -> None:
    """Train for `recipe.minutes` and write the state to `out`, also every five minutes on the way.

    The workers see different trees and make the same steps. On two cores that is much faster than two threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder, "meeting").as_uri()
        spawn(_work, (meeting, out, recipe), nprocs=recipe.workers)  # type: ignore[no-untyped-call]


def _work(rank: int, meeting: str, out: Path, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=recipe.workers)
    torch.manual_seed(recipe.seed)
    network, ids = _begin(recipe)
    nearest_mxfp4 = torch.compile(nearest, dynamic=False) if recipe.compiled else nearest
    torch.manual_seed(recipe.seed + rank)
    batches = Batcher(ids, seed=recipe.seed + 1 + rank, size=recipe.worker_trees, limit=recipe.tree_pieces)
    optimizers, average = _optimizers(network, recipe), _Mean.of(network)
    began = saved = time.monotonic()
    step, tokens, recent, done = 0, 0, list[float](), 0.0
    while done < 1:
        if done > recipe.packed_from:
            network.pack_experts(nearest_mxfp4)
        batch = next(batches)
        done = (time.monotonic() - began) / (60 * recipe.minutes)
        share = recipe.peak * min(1.0, step / recipe.warmup_steps)
        loss, done = _step(network, optimizers, batch, _Progress(share, done))
        if rank == 0:
            average.include(network)
        step, tokens = step + 1, tokens + batch.rows.numel() * recipe.workers
        recent.append(loss)
        if rank == 0 and step % 50 == 0:
            rate, mean = tokens / (time.monotonic() - began), sum(recent) / len(recent)
            print(f"{step} {done:.3f} {tokens / 1e6:.2f}M tokens {rate:.0f}/s loss {mean:.4f}", flush=True)
            recent.clear()
        if rank == 0 and (done >= 1 or time.monotonic() - saved > 300):
            saved = time.monotonic()
            save(out, network, ids, average.state)


def _begin(recipe: Recipe) -> tuple[Network, list[int]]:
    """A network that begins afresh or goes on from `recipe.start`, and its ids; the same in every worker."""
    ids, said = trained_ids(random.Random(recipe.seed), 1200, 5)
    network, ids = resumed(recipe.start, ids, said) if recipe.start else (_fresh(recipe, ids, said), ids)
    network.logit_dtype = recipe.dtype
    network.hold_copy_lane()
    for parameter in network.parameters():
        distributed.broadcast(parameter.data, 0)
    return network, ids


def _fresh(recipe: Recipe, ids: list[int], said: int) -> Network:
    network = Network(shape := Shape(), ids, said, PLACEHOLDERS, VOCABULARY_SIZE)
    free = shape.hidden_size - shape.copy_size
    numbers, words = digits(ids, free), meanings(random.Random(recipe.seed), ids, free, turns=25000)
    network.embedding.data[:, :free] += recipe.embedded_meaning * (words + numbers)
    network.unembedding.data[:, :free] += recipe.unembedded_digits * numbers[:said]
    return network


def resumed(start: Path, wanted: list[int], wanted_said: int) -> tuple[Network, list[int]]:
    """The network of a saved state or shipped file, with new rows for those of the `wanted` ids that it lacks.

    The first `wanted_said` of them are to be said. A new row begins as what the token was until now: the base that all
    untrained tokens share.
    """
    saved = restore(start) if start.suffix == ".safetensors" else torch.load(start, weights_only=True)
    old, state = saved["ids"], saved["state"]
    old_said = old[: len(state["unembedding"])]
    said = sorted({*old_said, *wanted[:wanted_said]})
    ids = [*said, *sorted({*old, *wanted} - {*said})]
    for table, before, after in (("embedding", old, ids), ("unembedding", old_said, said)):
        row_of = {token: row for row, token in enumerate(after)}
        grown = state[f"{table}_base"].repeat(len(after), 1)
        grown[[row_of[token] for token in before]] = state[table]
        state[table] = grown
    network = Network(Shape(**saved["shape"]), ids, len(said), PLACEHOLDERS, VOCABULARY_SIZE)
    network.load_state_dict(state)
    return network, ids


def _optimizers(network: Network, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in network.named_parameters() if name.endswith((".qkv", ".out", ".gate_up", ".down"))]
    chosen = {id(p) for p in (*matrices, network.embedding)}
    groups = [
        {"params": [network.embedding], "lr": recipe.embedding_rate},
        {"params": [p for p in network.parameters() if id(p) not in chosen], "lr": recipe.vector_rate},
    ]
    return [
        Muon(matrices, recipe.matrix_rate, dtype=recipe.dtype),
        torch.optim.Adam(groups, betas=(0.9, 0.98), eps=1e-10, fused=True),
    ]


@dataclass(slots=True)
class _Mean:
    """The mean of a network over its last steps, the latest ones most: what the first worker saves.

    A rare word is moved far by each of its few steps; a mean depends less on the last of them.
    """

    state: dict[str, Tensor]
    steps: int = 0

    @classmethod
    def of(cls, network: Network) -> "_Mean":
        return cls({name: value.clone() for name, value in network.state_dict().items()})

    @torch.no_grad()
    def include(self, network: Network) -> None:
        """One more step; the first ones soon count for little."""
        self.steps += 1
        share = max(1 / self.steps, 1 / MEAN_STEPS)
        for name, value in network.state_dict().items():
            self.state[name].lerp_(value, share)


@dataclass(frozen=True, slots=True)
class _Progress:
    """Which share of the rates is used, but for how they fall, and which share of the whole time has passed."""

    share: float
    done: float


def _step(
    network: Network, optimizers: list[torch.optim.Optimizer], batch: Batch, progress: _Progress
) -> tuple[float, float]:
    """One step of all workers together: their mean loss, and the share of the time that has passed for them all."""
    loss, helping = network(batch)
    (loss + helping).backward()
    if not math.isfinite(loss.item() + helping.item()):
        raise FloatingPointError("the loss is not finite")
    parameters = [*network.parameters()]
    mean_loss, done, gain = _mean_over_workers(parameters, [loss.item(), progress.done, network.lane_gain.item()])
    network.lane_gain.fill_(gain)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    rate = progress.share * (1 - 0.95 * done)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.setdefault("peak", group["lr"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    network.hold_copy_lane()
    return mean_loss, done


def _mean_over_workers(parameters: list[nn.Parameter], numbers: list[float]) -> list[float]:
    """Make every gradient the mean over the workers; returns the means of `numbers`."""
    shared = [torch.tensor(numbers), *(parameter.grad for parameter in parameters if parameter.grad is not None)]
    under_way = [distributed.all_reduce(tensor, async_op=True) for tensor in shared]
    for tensor, reduction in zip(shared, under_way, strict=True):
        reduction.wait()
        tensor /= distributed.get_world_size()
    return shared[0].tolist()


def save(out: Path, network: Network, ids: list[int], state: dict[str, Tensor] | None = None) -> None:
    """Write the training state, or another `state` of the same network: everything the export needs."""
    torch.save({"shape": asdict(network.shape), "ids": ids, "state": state or network.state_dict()}, out)


if __name__ == "__main__":
    main()
