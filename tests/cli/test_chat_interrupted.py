"""Ctrl-C at any moment of a chat: while it loads, reads, reasons, answers, and while the user writes."""

import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.harmony.conversation import Conversation
from tests.cli.conftest import Script, turn
from tests.cli.terminal_driver import SCRIPTED_PROGRAM, Terminal
from tests.engine.open_generator import open_generator

_CTRL_C, _CTRL_D = "\x03", "\x04"
_RECORDING = Path(__file__).parent / "recording_program.py"
_LONG = "\x1b[200~" + "Some words that are to be read before anything is answered. " * 40 + "\x1b[201~"
_QUESTIONS = ("What is gptoss?", "My name is Ada.", "What is my name?", "What is 31 + 45?", "How do sinks work?", _LONG)

Interrupt = Callable[[Terminal, float], None]


@pytest.fixture
def interrupt() -> Interrupt:
    """Presses Ctrl-C up to ten times, at a random moment of the next so many seconds."""
    chance = random.Random(5)

    def press(terminal: Terminal, seconds: float) -> None:
        terminal.look(chance.random() * seconds)
        for _ in range(chance.choice((1, 1, 1, 2, 10))):
            terminal.type(_CTRL_C)

    return press


def _records(file: Path) -> Iterator[tuple[Conversation, int, str]]:
    with file.open("rb") as stream:
        while stream.peek(1):
            yield pickle.load(stream)


def _answered_again(conversation: Conversation, seed: int) -> str:
    """Return the answer of a fresh conversation with these messages and this seed."""
    session = ChatSession(
        open_generator(demo_checkpoint()),
        instructions=None,
        effort=conversation.effort,
        date=conversation.date,
        settings=TurnSettings(seed=seed),
    )
    session.conversation = conversation
    for _ in session.answer():
        pass
    return session.last_raw


def _clear_prompt(terminal: Terminal) -> None:
    """Wait until the prompt is empty: a message that was sent during the load comes back to it."""
    for _ in range(300):
        terminal.look(0.1)
        line = terminal.screen.display[terminal.screen.cursor.y].rstrip()
        line = line.lstrip("^C")  # the terminal's own echo while an editor has it
        if line == ">":
            return
        if line.startswith("> "):
            terminal.type(_CTRL_C)
    raise AssertionError(f"there is no prompt:\n{terminal.text}")


def _leave(terminal: Terminal) -> None:
    _clear_prompt(terminal)
    terminal.type(_CTRL_D)
    assert terminal.wait() == 0
    assert "Traceback" not in terminal.everything
    assert terminal.restored()


def _interrupted_turns(tmp_path: Path, interrupt: Interrupt, moments: int) -> None:
    """Interrupt so many turns of the demo, let every fourth be finished, and hold those to fresh conversations."""
    file, chance = tmp_path / "turns", random.Random(8)
    with Terminal([str(_RECORDING), str(file), "chat", "-m", "demo", "-e", "high", "--seed", "7"]) as terminal:
        terminal.wait_for_prompt()
        for number in range(moments):
            terminal.type(f"{chance.choice(_QUESTIONS)}\r")
            interrupt(terminal, 1.5)
            _clear_prompt(terminal)
            if number % 4 == 3:
                # Counted, because the turns before are still on the screen.
                terminal.type_for(f"{chance.choice(_QUESTIONS[:5])}\r", "Reasoned")
                terminal.wait_for_prompt()
                terminal.type_for("/new\r", "A new conversation.")
        _leave(terminal)
    finished = list(_records(file))
    assert len(finished) >= moments // 4
    for conversation, seed, answer in finished:
        assert _answered_again(conversation, seed) == answer


def test_after_interrupted_turns_the_next_answer_is_a_fresh_conversations(tmp_path: Path, interrupt: Interrupt) -> None:
    _interrupted_turns(tmp_path, interrupt, 3)


@pytest.mark.slow
def test_after_eighty_interrupted_turns_too(tmp_path: Path, interrupt: Interrupt) -> None:
    _interrupted_turns(tmp_path, interrupt, 80)


@pytest.mark.slow
def test_ctrl_c_while_the_model_loads(interrupt: Interrupt) -> None:
    for _ in range(30):
        with Terminal(["-m", "gptoss_cli", "chat", "-m", "demo", "--effort", "low"]) as terminal:
            terminal.wait_for(">")
            terminal.type("What is gptoss?\r")
            interrupt(terminal, 2.5)
            _clear_prompt(terminal)
            _leave(terminal)


@pytest.mark.slow
def test_ctrl_c_in_the_editor(
    interrupt: Interrupt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsleep 0.5\n", "utf-8")
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    with Terminal([str(SCRIPTED_PROGRAM), script(*[turn("Heard.")] * 30), "chat"]) as terminal:
        terminal.wait_for_prompt()
        for _ in range(30):
            terminal.type("some words\x18\x05")
            interrupt(terminal, 0.8)
            terminal.look(0.6)
            _clear_prompt(terminal)
        _leave(terminal)


@pytest.mark.slow
def test_ctrl_c_in_the_midst_of_markdown(script: Script, interrupt: Interrupt) -> None:
    pause = 0.01
    answer = "# Title\n\nSome **words**\n\n- a\n- b\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    said: list[str | float] = ["<|channel|>analysis<|message|>"]
    for word in ("Let ", "me ", "think.") * 4:
        said += [word, pause]
    said += ["<|end|><|start|>assistant<|channel|>final<|message|>"]
    for start in range(0, len(answer), 6):
        said += [answer[start : start + 6], pause]
    with Terminal([str(SCRIPTED_PROGRAM), script(*([[*said, "<|return|>"]] * 62)), "chat"]) as terminal:
        terminal.wait_for_prompt()
        for number in range(60):
            terminal.type(f"turn {number}\r")
            interrupt(terminal, 0.6)
            _clear_prompt(terminal)
        terminal.type("/new\r")
        terminal.wait_for("A new conversation.")
        terminal.type("last\r")
        terminal.wait_for("──┼──\n1 │ 2\n\n>")
        _leave(terminal)
