"""A constraint forces ids into the sequence and restricts draws."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.sampler import Sampler
from gptoss_cli.generation import Allowed, Banned, Forced, Sampling, TokenConstraint, TokenGenerator
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import Shape, write_checkpoint
from tests.engine.open_generator import open_generator
from tests.scripted_generator import ScriptedGenerator

GREEDY = Sampling(seed=0, temperature=0.0)
PROMPT = [5, 6, 7, 8, 9]
STOP = 330


class ScriptedConstraint:
    """Returns prepared rules, one for each draw, and then None."""

    def __init__(self, *rules: Forced | Allowed | Banned | None) -> None:
        self._rules = iter(rules)
        self.asked = 0

    def next(self) -> Forced | Allowed | Banned | None:
        self.asked += 1
        return next(self._rules, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), Shape())


@pytest.fixture
def generator(folder: Path) -> Generator:
    return open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=200, chunk_tokens=16)


def decode(
    generator: TokenGenerator,
    constraint: TokenConstraint | None,
    *,
    max_tokens: int = 12,
    sampling: Sampling = GREEDY,
    prompt: Iterable[int] = PROMPT,
) -> list[int]:
    list(generator.prefill(list(prompt)))
    return list(
        generator.decode(sampling, stop_ids={STOP}, banned_ids={1, 2}, max_tokens=max_tokens, constraint=constraint)
    )


def test_a_constraint_without_rules_changes_nothing(generator: Generator) -> None:
    assert decode(generator, ScriptedConstraint()) == decode(generator, None)


def test_forced_ids_come_next_and_the_model_reads_them(generator: Generator) -> None:
    free = decode(generator, None)
    constrained = decode(generator, ScriptedConstraint(None, None, Forced((40, 41, 42))))
    assert constrained[:5] == [*free[:2], 40, 41, 42]
    assert constrained[5:] == decode(generator, None, max_tokens=7, prompt=[*PROMPT, *constrained[:5]])


def test_no_logits_are_computed_for_forced_ids(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []

    def draw(sampler: Sampler, logits: torch.Tensor, restriction: object) -> int:
        draws.append(logits)
        return 77

    monkeypatch.setattr(Sampler, "draw", draw)
    assert decode(generator, ScriptedConstraint(None, Forced((40, 41, 42))), max_tokens=6) == [77, 40, 41, 42, 77, 77]
    assert len(draws) == 3


def test_forced_ids_belong_to_the_sequence(generator: Generator) -> None:
    answer = decode(generator, ScriptedConstraint(None, Forced((40, 41, 42))), max_tokens=8)
    done, total = next(generator.prefill([*PROMPT, *answer, 50]))
    assert (done, total) == (0, 2)  # the last id has not been read yet


def test_forced_ids_count_as_tokens_and_may_be_cut(generator: Generator) -> None:
    assert decode(generator, ScriptedConstraint(Forced((40, 41, 42))), max_tokens=2) == [40, 41]


def test_a_forced_stop_id_ends_the_turn(generator: Generator) -> None:
    assert decode(generator, ScriptedConstraint(Forced((40, STOP, 42)))) == [40, STOP]


def test_a_constraint_is_asked_once_for_each_draw(generator: Generator) -> None:
    constraint = ScriptedConstraint(Forced((40, 41, 42)), None, None)
    decode(generator, constraint, max_tokens=5)
    assert constraint.asked == 3


def test_a_consumer_has_seen_every_id_before_the_constraint_is_asked(generator: Generator) -> None:
    class Watching:
        def next(self) -> Forced | None:
            asked_after.append(len(seen))
            return Forced((40, 41)) if len(seen) == 2 else None

    seen: list[int] = []
    asked_after: list[int] = []
    list(generator.prefill(PROMPT))
    tokens = generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=6, constraint=Watching())
    for token in tokens:
        seen.append(token)
    assert asked_after == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_only_allowed_ids_are_drawn(generator: Generator, temperature: float) -> None:
    allowed = Allowed(frozenset({1, 30, 31}))
    sampling = Sampling(seed=3, temperature=temperature, top_k=2, top_p=0.9)
    assert set(decode(generator, ScriptedConstraint(*[allowed] * 12), sampling=sampling)) <= allowed.ids


def test_allowed_overrides_banned_ids(generator: Generator) -> None:
    assert decode(generator, ScriptedConstraint(Allowed(frozenset({1}))), max_tokens=1) == [1]


def test_the_most_likely_allowed_id_is_the_greedy_one(generator: Generator) -> None:
    logits = generator.logits(PROMPT)[-1]
    ids = frozenset(range(100, 140))
    assert decode(generator, ScriptedConstraint(Allowed(ids)), max_tokens=1) == [100 + int(logits[100:140].argmax())]


def test_neither_banned_nor_generally_banned_ids_are_drawn() -> None:
    sampler = Sampler(Sampling(seed=1, temperature=5.0), banned_ids={0, 1}, vocabulary_size=8)
    banned = Banned(frozenset({2, 3, 4}))
    drawn = {sampler.draw(torch.zeros(8), banned) for _ in range(200)}
    assert drawn == {5, 6, 7}
    assert {sampler.draw(torch.zeros(8)) for _ in range(200)} == {2, 3, 4, 5, 6, 7}


def test_a_restriction_is_converted_to_a_tensor_once() -> None:
    sampler = Sampler(Sampling(seed=1), banned_ids=(), vocabulary_size=8)
    banned = Banned(frozenset({2}))
    assert sampler._mask_of(banned) is sampler._mask_of(banned)


def test_a_script_continues_after_forced_ids() -> None:
    scripted = ScriptedGenerator([[4, 5, 6, STOP]])
    assert decode(scripted, ScriptedConstraint(None, Forced((40, 41)))) == [4, 40, 41, 5, 6, STOP]


@pytest.mark.parametrize("forced", [(5,), (5, 6), (5, 6, 7), (5, 6, 7, STOP)])
def test_a_script_does_not_repeat_ids_that_were_forced(forced: tuple[int, ...]) -> None:
    scripted = ScriptedGenerator([[4, 5, 6, STOP]])
    constrained = decode(scripted, ScriptedConstraint(None, Forced(forced)))
    assert constrained == [4, 5, 6, *forced[2:3], STOP]


def test_ids_forced_into_a_script_belong_to_the_sequence() -> None:
    scripted = ScriptedGenerator([[4, 5, 6, STOP]])
    decode(scripted, ScriptedConstraint(None, Forced((5, 6))))
    assert scripted.sequence == (*PROMPT, 4, 5, 6, STOP)


def test_restrictions_do_not_change_a_script() -> None:
    scripted = ScriptedGenerator([[4, 5, STOP]])
    assert decode(scripted, ScriptedConstraint(Allowed(frozenset({9})), Banned(frozenset({5})))) == [4, 5, STOP]
