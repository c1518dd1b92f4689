"""Sequences that are decoded at the same time share each forward, and get the ids that each would get alone."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.model import Transformer
from gptoss_cli.errors import ResourceError
from gptoss_cli.generation import Allowed, BranchingGenerator, Forced, Sampling, TokenConstraint
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

SHAPE: Final = Shape(layer_types=(SLIDING, FULL, SLIDING), window=11)
GREEDY: Final = Sampling(seed=0, temperature=0)
_SECONDS: Final = 60
# The kernels for several tokens add in another order than those for one. Rounding in float32 is about 1e-7 of the
# logits, which are below 30 here, and three layers let it grow.
_ROUNDING: Final = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)


def opened(folder: Path, dtype: Dtype = Dtype.FLOAT32) -> Generator:
    return open_generator(folder, dtype=dtype, context_tokens=300, chunk_tokens=16, kv_limit_bytes=0)


def prompt(number: int) -> list[int]:
    return [(7 * i * i + 3 * number) % SHAPE.vocabulary for i in range(15 + 9 * number)]


def decode(generator: BranchingGenerator, ids: list[int], count: int, **options: Any) -> list[int]:
    list(generator.prefill(ids))
    settings: dict[str, Any] = {"sampling": GREEDY, "stop_ids": (), "banned_ids": (), **options}
    return list(generator.decode(max_tokens=count, **settings))


def at_once(*jobs: Callable[[], list[int]]) -> list[list[int]]:
    """Run the jobs in threads of their own, all at the same time."""
    results: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i, job=job: results.__setitem__(i, job())) for i, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECONDS)
    return [results[index] for index in range(len(jobs))]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the forwards of several sequences."""
    sizes: list[int] = []
    forward = Transformer.forward_each

    def counted(model: Transformer, ids: list[int], caches: list[Any]) -> torch.Tensor:
        sizes.append(len(ids))
        return forward(model, ids, caches)

    monkeypatch.setattr(Transformer, "forward_each", counted)
    return sizes


@pytest.mark.parametrize("dtype", list(Dtype))
def test_logits_of_a_batch_equal_those_of_single_tokens(folder: Path, dtype: Dtype) -> None:
    model = opened(folder, dtype).model
    together, alone = ([model.new_cache(300) for _ in range(4)] for _ in range(2))
    for number in range(4):
        for caches in (together, alone):
            model.forward(prompt(number), caches[number])
    for step in range(20):
        ids = [(step * 31 + number) % SHAPE.vocabulary for number in range(4)]
        batched = model.unembed(model.forward_each(ids, together))
        single = torch.cat([model.unembed(model.forward([id_], cache)) for id_, cache in zip(ids, alone, strict=True)])
        tolerance = _ROUNDING if dtype is Dtype.FLOAT32 else 0.02 * float(single.abs().max())
        assert float((batched - single).abs().max()) < tolerance


def test_greedy_ids_of_sequences_at_once_equal_those_of_a_fresh_engine(folder: Path, batches: list[int]) -> None:
    expected = [decode(opened(folder), prompt(number), 40) for number in range(4)]
    several = opened(folder).several(4, threads=4)
    found = at_once(*(lambda n=n: decode(several[n], prompt(n), 40) for n in range(4)))
    assert found == expected
    assert max(batches) > 1


def test_sequences_in_turn_do_not_touch_each_other(folder: Path, batches: list[int]) -> None:
    first, second = opened(folder).several(2)
    list(first.prefill(prompt(0)))
    found: list[int] = []
    for token in first.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=30):
        found.append(token)
        decode(second, prompt(len(found) % 4), 2)
    assert found == decode(opened(folder), prompt(0), 30)
    assert batches == []


class Steps:
    """A constraint that forces an id and restricts a draw in turn."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._steps = 0

    def next(self) -> Forced | Allowed:
        self._steps += 1
        return Forced((5, 9)) if self._steps % 3 == 0 else self._allowed


def test_samplers_and_constraints_stay_with_their_sequences(folder: Path, batches: list[int]) -> None:
    def job(generator: BranchingGenerator, number: int) -> list[int]:
        rule: TokenConstraint | None = Steps(Allowed(frozenset(range(50)))) if number % 2 else None
        return decode(generator, prompt(number), 30, sampling=Sampling(seed=number), constraint=rule)

    expected = [job(opened(folder), number) for number in range(3)]
    several = opened(folder).several(3, threads=3)
    assert at_once(*(lambda n=n: job(several[n], n) for n in range(3))) == expected
    assert max(batches) > 1


def test_a_failure_of_one_sequence_is_not_that_of_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = opened(folder).several(2, threads=2)
    layer = second.sequence.cache.full_layers[0]
    grow = layer.slots

    def fail(tokens: int) -> int:
        if tokens > 30:
            raise ResourceError("There is no memory for a KV cache")
        return grow(tokens)

    monkeypatch.setattr(layer, "slots", fail)

    def failing() -> list[int]:
        with pytest.raises(ResourceError, match="no memory"):
            decode(second, prompt(1), 40)
        return second.sequence.cached

    expected = decode(opened(folder), prompt(0), 40)
    assert at_once(lambda: decode(first, prompt(0), 40), failing) == [expected, prompt(1)]


def test_a_decode_that_is_closed_is_waited_for_no_more(folder: Path, batches: list[int]) -> None:
    first, second = opened(folder).several(2, threads=2)
    list(second.prefill(prompt(1)))
    left = second.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=9)
    next(left)
    del left
    assert decode(first, prompt(0), 20) == decode(opened(folder), prompt(0), 20)
    assert batches == []


@pytest.mark.slow
def test_masked_draws_in_a_batch_follow_the_distribution_of_the_model(folder: Path, batches: list[int]) -> None:
    """20,000 draws of ten ids, with temperature and mask, in four sequences at once: chi-square at 0.1 percent."""
    chosen, last, draws = tuple(range(40, 50)), 17, 20_000
    several = opened(folder).several(4, threads=4)
    mask = Allowed(frozenset(chosen))

    class One:
        def __init__(self) -> None:
            self._rules: Iterator[Forced | Allowed] = iter((Forced((last,)), mask))

        def next(self) -> Forced | Allowed:
            return next(self._rules)

    def job(number: int) -> list[int]:
        drawn = []
        for index in range(draws // 4):
            sampling = Sampling(seed=4 * index + number, temperature=1.3)
            drawn.append(decode(several[number], prompt(number), 2, sampling=sampling, constraint=One())[1])
        return drawn

    found = at_once(*(lambda n=n: job(n) for n in range(4)))
    for number, drawn in enumerate(found):
        logits = several[0].logits([*prompt(number), last])[-1, list(chosen)]
        expected = (logits.double() / 1.3).softmax(0) * len(drawn)
        counts = torch.tensor([drawn.count(id_) for id_ in chosen], dtype=torch.float64)
        likely = expected >= 5
        rest = counts[~likely].sum(), expected[~likely].sum()
        square = float(((counts - expected) ** 2 / expected)[likely].sum())
        square += float((rest[0] - rest[1]) ** 2 / rest[1]) if rest[1] > 1 else 0.0
        assert square < 29.6, "the 99.9th percentile of chi-square with 10 degrees of freedom"
    assert sum(batches) > draws / 2
