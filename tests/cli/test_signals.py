"""Ctrl-C and SIGTERM: requests at first, and an end of the program if nothing follows them."""

import signal
import time
from collections.abc import Iterator

import pytest

from gptoss_cli.cli import signals
from gptoss_cli.cli.signals import StrayInterrupts, stopping
from gptoss_cli.errors import ExitStatus
from tests.cli.test_chat_commands import begin


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(signals, "_GRACE_SECONDS", 0.1)
    yield
    for number, handler in handlers:
        signal.signal(number, handler)


def _hang(*numbers: signal.Signals) -> None:
    """Go on after each of these signals."""
    with stopping(lambda: None):
        for number in numbers:
            signal.raise_signal(number)
            time.sleep(0.06)
        time.sleep(10)
        pytest.fail("the block goes on")


def test_many_quick_interrupts_ask_only_to_stop() -> None:
    stops: list[int] = []
    with stopping(lambda: stops.append(1)):
        for _ in range(10):
            signal.raise_signal(signal.SIGINT)
    assert len(stops) == 10


def test_an_interrupt_that_comes_when_the_first_had_no_effect_ends_the_program() -> None:
    with pytest.raises(SystemExit) as ended:
        _hang(signal.SIGINT, signal.SIGINT)
    assert ended.value.code == ExitStatus.INTERRUPTED


def test_a_stray_interrupt_stops_the_next_block_unless_it_is_forgotten() -> None:
    stray, stops = StrayInterrupts(), list[str]()
    signal.raise_signal(signal.SIGINT)
    with stopping(lambda: stops.append("just after the entry")):
        pass
    stray.forget()
    with stopping(lambda: stops.append("after the next entry")):
        pass
    assert stops == ["just after the entry"]


def test_one_sigterm_ends_a_block_that_does_not_stop() -> None:
    with pytest.raises(SystemExit) as ended:
        _hang(signal.SIGTERM)
    assert ended.value.code == ExitStatus.TERMINATED


def test_a_block_that_stops_at_a_sigterm_ends_the_program() -> None:
    with pytest.raises(SystemExit) as ended, stopping(lambda: None):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == ExitStatus.TERMINATED


def test_stray_interrupts_are_ignored_until_one_comes_late() -> None:
    stray = StrayInterrupts()
    for _ in range(10):
        signal.raise_signal(signal.SIGINT)
    time.sleep(0.06)
    stray.forget()
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.06)
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGINT)
    assert ended.value.code == ExitStatus.INTERRUPTED


def test_ctrl_c_just_after_enter_stops_that_turn_and_no_later_one() -> None:
    talk, stray = begin("Red.", "Blue."), StrayInterrupts()
    talk.say("Mars?")
    signal.raise_signal(signal.SIGINT)
    talk.say("Sky?")
    assert talk.said == ["Mars?", "Red.", "Sky?"]
    stray.forget()
    talk.say("At night?")
    assert talk.said == ["Mars?", "Red.", "Sky?", "At night?", "Blue."]


def test_an_inspection_that_is_stopped_before_its_first_token_says_only_that() -> None:
    talk, stray = begin("Blue."), StrayInterrupts()
    talk.say("Sky?")
    signal.raise_signal(signal.SIGINT)
    assert [talk.say(command) for command in ("/tokens last", "/experts")] == ["Stopped.\n", "Stopped.\n"]
    stray.forget()
    assert "Blue" in talk.say("/tokens last")
