"""A model behind a server says what it says locally: the same ids if greedy, the same distribution if drawn."""

from collections import Counter
from itertools import count

import pytest
import torch

from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.generation import Allowed, Banned, Restriction, Sampling, TokenGenerator
from tests.engine.open_generator import open_generator
from tests.remote.fake_servers import FAKES, FakeServer
from tests.remote.greedy import greedy_ids, prompts
from tests.remote.table_model import PROBABILITIES, TableModel
from tests.remote.turns import generator_of, wait_until

_RULES = (Allowed(frozenset({1000, 1003, 1004})), Banned(frozenset({1001, 1002})))
# Of chi-square with two degrees of freedom: a correct draw exceeds it once in a thousand seeds, and the seed is fixed.
_LARGEST_CHI_SQUARE = 13.8

fakes = pytest.mark.parametrize("fake", FAKES)


@pytest.fixture(scope="module")
def demo() -> TokenGenerator:
    return open_generator(demo_checkpoint(), context_tokens=4096, kv_limit_bytes=0)


def _greedy_ids_are_equal(fake: type[FakeServer], demo: TokenGenerator, number: int, max_tokens: int) -> None:
    with fake(lambda: demo) as server:
        remote = generator_of(server)
        for index, prompt in enumerate(prompts(number)):
            ids = greedy_ids(remote, prompt, index, max_tokens)
            wait_until(lambda: server.seen.running == 0)  # it computes with the same engine
            assert ids == greedy_ids(demo, prompt, index, max_tokens), prompt


@fakes
def test_greedy_ids_are_those_of_the_local_engine(fake: type[FakeServer], demo: TokenGenerator) -> None:
    _greedy_ids_are_equal(fake, demo, 2, 20)


@pytest.mark.slow
@fakes
def test_greedy_ids_of_200_prompts_are_those_of_the_local_engine(fake: type[FakeServer], demo: TokenGenerator) -> None:
    _greedy_ids_are_equal(fake, demo, 200, 48)


class _Always:
    """A token constraint with one rule."""

    def __init__(self, rule: Restriction) -> None:
        self._rule = rule

    def next(self) -> Restriction:
        return self._rule


def _chi_square(drawn: Counter[int], rule: Restriction) -> float:
    """Return the distance from p(t) / p(A)."""
    is_allowed = {id_: (id_ in rule.ids) is isinstance(rule, Allowed) for id_ in PROBABILITIES}
    permitted = {id_: p for id_, p in PROBABILITIES.items() if is_allowed[id_]}
    assert drawn.keys() <= permitted.keys()
    total, mass = drawn.total(), sum(permitted.values())
    expected = {id_: total * p / mass for id_, p in permitted.items()}
    return sum((drawn[id_] - wanted) ** 2 / wanted for id_, wanted in expected.items())


def _draw_remotely(fake: type[FakeServer], rule: Restriction, number: int) -> Counter[int]:
    drawn: Counter[int] = Counter()
    with fake(TableModel) as server:
        generator = generator_of(server)
        for seed in count():
            list(generator.prefill([1, 2, 3]))
            # A turn of four has refusals in its stream, and streams that go on after a permitted id.
            drawn.update(
                generator.decode(Sampling(seed), stop_ids=(), banned_ids=(), max_tokens=4, constraint=_Always(rule))
            )
            if drawn.total() >= number:
                return drawn
    raise AssertionError


@pytest.mark.parametrize("rule", _RULES)
def test_a_masked_draw_by_rejection_has_the_constrained_distribution(rule: Restriction) -> None:
    assert _chi_square(_draw_remotely(FAKES[0], rule, 300), rule) < _LARGEST_CHI_SQUARE


@pytest.mark.slow
@fakes
@pytest.mark.parametrize("rule", _RULES)
def test_20_000_masked_draws_have_the_constrained_distribution(fake: type[FakeServer], rule: Restriction) -> None:
    assert _chi_square(_draw_remotely(fake, rule, 20_000), rule) < _LARGEST_CHI_SQUARE


@pytest.mark.parametrize("number", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", _RULES)
def test_local_masked_draws_have_the_constrained_distribution(rule: Restriction, number: int) -> None:
    logits = torch.full((2000,), -1e9)
    for id_, p in PROBABILITIES.items():
        logits[id_] = torch.tensor(p).log()
    sampler = Sampler(Sampling(5), banned_ids=(), vocabulary_size=len(logits))
    drawn = Counter(sampler.draw(logits, rule) for _ in range(number))
    assert _chi_square(drawn, rule) < _LARGEST_CHI_SQUARE
