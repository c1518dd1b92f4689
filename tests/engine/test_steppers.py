"""An overlapped generator yields the same ids as a plain one, whatever interrupts it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.steppers import InFlightStep, StepLauncher
from gptoss_cli.errors import Hint, NumericalError, ResourceError
from gptoss_cli.generation import Allowed, Banned, Forced, Restriction, Sampling, TokenConstraint
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

# The ring is full after a few tokens.
SHAPE = Shape(layer_types=(SLIDING, FULL), window=11)
CONTEXT_TOKENS = 90
PROMPT = [3, 17, 8, 29, 11, 40, 2]
HOT = Sampling(seed=5, temperature=1.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("overlapped"), SHAPE)


def _open(folder: Path, *, overlapped: bool) -> Generator:
    """Open a generator as on a GPU that holds all weights, but without CUDA graphs."""
    model = open_generator(folder, dtype=Dtype.FLOAT32).model
    return Generator(model, context_tokens=CONTEXT_TOKENS, chunk_tokens=16, overlapped=overlapped)


@pytest.fixture
def both(folder: Path) -> tuple[Generator, Generator]:
    """An overlapped generator and a plain one."""
    return _open(folder, overlapped=True), _open(folder, overlapped=False)


def _decode(
    generator: Generator,
    max_tokens: int | None = 30,
    *,
    sampling: Sampling = HOT,
    constraint: TokenConstraint | None = None,
    stop: tuple[int, ...] = (),
) -> Iterator[int]:
    return generator.decode(sampling, stop_ids=stop, banned_ids={1, 2}, max_tokens=max_tokens, constraint=constraint)


def _answer(generator: Generator, prompt: list[int] = PROMPT, constraint: TokenConstraint | None = None) -> list[int]:
    list(generator.prefill(prompt))
    return list(_decode(generator, constraint=constraint))


class _RandomConstraint:
    """Forces and restricts at random moments, which are the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._restrictions = Allowed(frozenset(range(5, 60))), Banned(frozenset(range(100, 300)))

    def next(self) -> Forced | Restriction | None:
        number = self._random.random()
        if number < 0.2:
            return Forced(tuple(self._random.choices(range(5, 90), k=self._random.randrange(1, 4))))
        return self._restrictions[number < 0.35] if number < 0.5 else None


@pytest.mark.parametrize("sampling", [HOT, Sampling(0, temperature=0), Sampling(9, top_p=0.6, top_k=40)])
def test_overlapped_decode_yields_the_same_ids(both: tuple[Generator, Generator], sampling: Sampling) -> None:
    answers = []
    for generator in both:
        list(generator.prefill(PROMPT))
        answers.append(list(_decode(generator, None, sampling=sampling)))
    assert answers[0] == answers[1]
    assert len(answers[0]) == CONTEXT_TOKENS - len(PROMPT)  # until the context is full


def test_a_step_is_launched_before_its_id_is_known(
    both: tuple[Generator, Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    id_unknown, launch = [], StepLauncher.launch

    def launched(self: StepLauncher, id_: int | None, sampler: object) -> InFlightStep:
        id_unknown.append(id_ is None)
        return launch(self, id_, sampler)  # type: ignore[arg-type]

    monkeypatch.setattr(StepLauncher, "launch", launched)
    list(both[0].prefill(PROMPT))
    for id_ in _decode(both[0], 10):
        seen.append(id_)
        assert len(id_unknown) == len(seen)  # the id that is yielded is being read
    assert id_unknown == [False] + 9 * [True]


@pytest.mark.parametrize("seed", range(8))
def test_constraints_give_the_same_ids(both: tuple[Generator, Generator], seed: int) -> None:
    overlapped, plain = (_answer(generator, constraint=_RandomConstraint(seed)) for generator in both)
    assert overlapped == plain


def test_any_prompt_can_follow_a_closed_decode(both: tuple[Generator, Generator]) -> None:
    overlapped, plain = both
    whole = _answer(plain)
    list(overlapped.prefill(PROMPT))
    ids = _decode(overlapped)
    part = [next(ids) for _ in range(13)]
    ids.close()  # type: ignore[attr-defined]
    assert part == whole[:13]
    for prompt in ([*PROMPT, *part, 7], [*PROMPT, *part], [*PROMPT, *part[:12]], [*PROMPT, *part[:12], 9, 9], PROMPT):
        assert _answer(overlapped, prompt) == _answer(plain, prompt)


def test_yielded_ids_are_not_read_again(both: tuple[Generator, Generator]) -> None:
    answer = _answer(both[0])
    assert next(both[0].prefill([*PROMPT, *answer, 8, 9])) == (0, 2)


def test_a_second_decode_draws_with_its_own_settings(both: tuple[Generator, Generator]) -> None:
    answers = []
    for generator in both:
        list(generator.prefill(PROMPT))
        first = list(_decode(generator, 9))
        answers.append(first + list(_decode(generator, 9, sampling=Sampling(77, temperature=2.0))))
    assert answers[0] == answers[1]


def test_the_turn_after_a_stop_id_gives_the_same_ids(both: tuple[Generator, Generator]) -> None:
    whole = _answer(both[1])
    stop = whole[15]
    for generator in both:
        list(generator.prefill(PROMPT))
        assert list(_decode(generator, stop=(stop,))) == whole[: whole.index(stop) + 1]
    ids = [*PROMPT, *whole[: whole.index(stop)], 5, 6]
    assert _answer(both[0], ids) == _answer(both[1], ids)


def test_an_interrupt_during_the_wait_loses_nothing(
    both: tuple[Generator, Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    overlapped, plain = both
    list(overlapped.prefill(PROMPT))
    ids, wait = _decode(overlapped), InFlightStep.wait
    part = [next(ids) for _ in range(14)]

    def interrupted(self: InFlightStep) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(InFlightStep, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(ids)
    monkeypatch.setattr(InFlightStep, "wait", wait)
    assert part == _answer(plain)[:14]
    prompt = [*PROMPT, *part, 9]
    assert next(overlapped.prefill(prompt)) == (0, 1)
    assert _answer(overlapped, prompt) == _answer(plain, prompt)


@pytest.mark.parametrize("after", [1, 2, 9])
def test_nan_logits_end_the_turn_and_keep_the_ids_before_them(
    both: tuple[Generator, Generator], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlapped, plain = both
    unembed, calls = Transformer.unembed, []

    def broken(self: Transformer, hidden: torch.Tensor) -> torch.Tensor:
        calls.append(hidden)
        return unembed(self, hidden) + (torch.nan if len(calls) > after else 0)

    monkeypatch.setattr(Transformer, "unembed", broken)
    list(overlapped.prefill(PROMPT))
    ids = _decode(overlapped)
    part = [next(ids) for _ in range(after)]
    with pytest.raises(NumericalError):
        next(ids)
    monkeypatch.undo()
    assert part == _answer(plain)[:after]
    assert _answer(overlapped, [*PROMPT, *part, 4]) == _answer(plain, [*PROMPT, *part, 4])


def test_a_device_failure_during_the_wait_is_a_resource_error(
    both: tuple[Generator, Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: InFlightStep) -> int:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    list(both[0].prefill(PROMPT))
    ids = _decode(both[0])
    next(ids)
    monkeypatch.setattr(InFlightStep, "wait", lost)
    with pytest.raises(ResourceError, match="The GPU failed: CUDA error") as raised:
        next(ids)
    assert Hint.CPU in raised.value.hints
