"""Reading what was drawn before anybody has seen it changes nothing of what is said, whatever happens meanwhile."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.steppers import InFlightStep, OverlappedStepper, check_overlapped
from gptoss_cli.errors import NumericalError, ResourceError
from gptoss_cli.generation import Allowed, Banned, Forced, Sampling, TokenConstraint
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

# The ring is full after a few tokens.
SHAPE = Shape(layer_types=(SLIDING, FULL), window=11)
PROMPT = [3, 17, 8, 29, 11, 40, 2]
HOT = Sampling(seed=5, temperature=1.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("ahead"), SHAPE)


def _open(folder: Path, *, ahead: bool, context_tokens: int = 90) -> Generator:
    """As on a GPU whose memory holds everything, but for the recording."""
    generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=context_tokens, chunk_tokens=16)
    generator.model.overlaps = ahead
    return generator


@pytest.fixture
def both(folder: Path) -> tuple[Generator, Generator]:
    return _open(folder, ahead=True), _open(folder, ahead=False)


def _decode(
    generator: Generator,
    most: int | None = 30,
    *,
    sampling: Sampling = HOT,
    constraint: TokenConstraint | None = None,
    stop: tuple[int, ...] = (),
) -> Iterator[int]:
    return generator.decode(sampling, stop_ids=stop, banned_ids={1, 2}, max_tokens=most, constraint=constraint)


def _said(generator: Generator, prompt: list[int] = PROMPT, constraint: TokenConstraint | None = None) -> list[int]:
    list(generator.prefill(prompt))
    return list(_decode(generator, constraint=constraint))


class _Moody:
    """Forces and restricts at random moments, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._some = Allowed(frozenset(range(5, 60))), Banned(frozenset(range(100, 300)))

    def next(self) -> Forced | Allowed | Banned | None:
        draw = self._random.random()
        if draw < 0.2:
            return Forced(tuple(self._random.choices(range(5, 90), k=self._random.randrange(1, 4))))
        return self._some[draw < 0.35] if draw < 0.5 else None


@pytest.mark.parametrize("sampling", [HOT, Sampling(0, temperature=0), Sampling(9, top_p=0.6, top_k=40)])
def test_the_same_is_said(both: tuple[Generator, Generator], sampling: Sampling) -> None:
    told = []
    for generator in both:
        list(generator.prefill(PROMPT))
        told.append(list(_decode(generator, None, sampling=sampling)))
    assert told[0] == told[1]
    assert len(told[0]) == 90 - len(PROMPT)  # until the context is full


def test_it_does_run_ahead(both: tuple[Generator, Generator], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before_seen, launch = [], OverlappedStepper.launch

    def launched(self: OverlappedStepper, id_: int | None, sampler: object) -> InFlightStep:
        before_seen.append(id_ is None)
        return launch(self, id_, sampler)  # type: ignore[arg-type]

    monkeypatch.setattr(OverlappedStepper, "launch", launched)
    list(both[0].prefill(PROMPT))
    for id_ in _decode(both[0], 10):
        seen.append(id_)
        assert len(before_seen) == len(seen)  # the id that is seen is being read
    assert before_seen == [False] + 9 * [True]


@pytest.mark.parametrize("seed", range(8))
def test_forced_and_restricted_ids_are_as_step_by_step(both: tuple[Generator, Generator], seed: int) -> None:
    ahead, single = (_said(generator, constraint=_Moody(seed)) for generator in both)
    assert ahead == single


def test_whoever_stops_in_between_can_go_on_in_any_way(both: tuple[Generator, Generator]) -> None:
    ahead, single = both
    whole = _said(single)
    list(ahead.prefill(PROMPT))
    new = _decode(ahead)
    some = [next(new) for _ in range(13)]
    new.close()  # type: ignore[attr-defined]
    assert some == whole[:13]
    for goes_on in ([*PROMPT, *some, 7], [*PROMPT, *some], [*PROMPT, *some[:12]], [*PROMPT, *some[:12], 9, 9], PROMPT):
        assert _said(ahead, goes_on) == _said(single, goes_on)


def test_what_was_said_is_not_read_again(both: tuple[Generator, Generator]) -> None:
    said = _said(both[0])
    assert next(both[0].prefill([*PROMPT, *said, 8, 9])) == (0, 2)


def test_a_second_decode_goes_on_with_its_own_chance(both: tuple[Generator, Generator]) -> None:
    told = []
    for generator in both:
        list(generator.prefill(PROMPT))
        first = list(_decode(generator, 9))
        told.append(first + list(_decode(generator, 9, sampling=Sampling(77, temperature=2.0))))
    assert told[0] == told[1]


def test_a_stop_id_ends_the_turn_and_the_next_one_is_sound(both: tuple[Generator, Generator]) -> None:
    whole = _said(both[1])
    stop = whole[15]
    for generator in both:
        list(generator.prefill(PROMPT))
        assert list(_decode(generator, stop=(stop,))) == whole[: whole.index(stop) + 1]
    ids = [*PROMPT, *whole[: whole.index(stop)], 5, 6]
    assert _said(both[0], ids) == _said(both[1], ids)


def test_an_interrupt_while_waiting_loses_nothing(
    both: tuple[Generator, Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, single = both
    list(ahead.prefill(PROMPT))
    new, wait = _decode(ahead), InFlightStep.wait
    some = [next(new) for _ in range(14)]

    def interrupted(self: InFlightStep) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(InFlightStep, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(new)
    monkeypatch.setattr(InFlightStep, "wait", wait)
    assert some == _said(single)[:14]
    ids = [*PROMPT, *some, 9]
    assert next(ahead.prefill(ids)) == (0, 1)
    assert _said(ahead, ids) == _said(single, ids)


@pytest.mark.parametrize("after", [1, 2, 9])
def test_no_numbers_end_the_turn_and_keep_what_was_said(
    both: tuple[Generator, Generator], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, single = both
    unembed, calls = Transformer.unembed, []

    def broken(self: Transformer, hidden: torch.Tensor) -> torch.Tensor:
        calls.append(hidden)
        return unembed(self, hidden) + (torch.nan if len(calls) > after else 0)

    monkeypatch.setattr(Transformer, "unembed", broken)
    list(ahead.prefill(PROMPT))
    new = _decode(ahead)
    said = [next(new) for _ in range(after)]
    with pytest.raises(NumericalError):
        next(new)
    monkeypatch.undo()
    assert said == _said(single)[:after]
    assert _said(ahead, [*PROMPT, *said, 4]) == _said(single, [*PROMPT, *said, 4])


def test_a_device_that_fails_while_an_id_is_drawn_ends_the_turn(
    both: tuple[Generator, Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: InFlightStep) -> int:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    list(both[0].prefill(PROMPT))
    new = _decode(both[0])
    next(new)
    monkeypatch.setattr(InFlightStep, "wait", lost)
    with pytest.raises(ResourceError, match="The GPU failed: CUDA error"):
        next(new)


def test_reading_ahead_that_gives_something_else_is_found_out(
    both: tuple[Generator, Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = both[0].model
    check_overlapped(model)
    right = Transformer.read_on_device
    monkeypatch.setattr(Transformer, "read_on_device", lambda *arguments: right(*arguments).flip(1))
    with pytest.raises(ResourceError, match="wrong results"):
        check_overlapped(model)
