"""Turns for the scripted program."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., str]


def turn(answer: str, *, reasoning: str = "") -> list[str | float]:
    """The pieces of one whole turn."""
    reasoned = f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant" if reasoning else ""
    return [f"{reasoned}<|channel|>final<|message|>{answer}<|return|>"]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes turns to a file; returns its path for the scripted program."""

    def write(*turns: list[str | float]) -> str:
        (tmp_path / "turns.json").write_text(json.dumps(turns), "utf-8")
        return str(tmp_path / "turns.json")

    return write
