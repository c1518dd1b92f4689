"""The time until the program is there: `python -m tests.benchmark_start`. Medians stand beside their limits."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.cli.terminal_driver import Terminal

PROGRAM = (sys.executable, "-m", "gptoss_cli")


def whole(*command: str) -> float:
    """Seconds from the start of a program to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return time.perf_counter() - began


def to_first_byte(*command: str) -> float:
    """Seconds from the start of a program to the first byte on its stdout."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        os.read(run.stdout.fileno(), 1)
        seconds = time.perf_counter() - began
        run.stdout.read()
    return seconds


def to_prompt(*command: str) -> float:
    """Seconds from the start of a program on a terminal to its prompt."""
    began = time.perf_counter()
    with Terminal(command[1:]) as terminal:
        while ">" not in terminal.text:
            terminal.look(0.005)
        return time.perf_counter() - began


def main() -> None:
    """Print medians of eleven interleaved runs, in milliseconds, and their differences from the bare ones."""
    measured: dict[str, tuple[Callable[..., float], Sequence[str]]] = {
        "python": (whole, (sys.executable, "-c", "pass")),
        "--version": (whole, (*PROGRAM, "--version")),
        "--help": (whole, (*PROGRAM, "--help")),
        "import torch": (whole, (sys.executable, "-c", "import torch")),
        "chat, prompt": (to_prompt, (*PROGRAM, "chat", "-m", "demo")),
        "ask, first byte": (to_first_byte, (*PROGRAM, "ask", "-m", "demo", "What is gptoss?")),
    }
    runs = [{name: measure(*command) for name, (measure, command) in measured.items()} for _ in range(11)]
    medians = {name: statistics.median(run[name] for run in runs) * 1e3 for name in measured}
    compared = (
        ("--version", "python"),
        ("--help", "python"),
        ("chat, prompt", "python"),
        ("ask, first byte", "import torch"),
    )
    for name, bare in compared:
        print(f"{name}: {medians[name]:.0f} ms, {medians[name] - medians[bare]:.0f} ms over {bare}")


if __name__ == "__main__":
    main()
