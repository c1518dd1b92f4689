"""Starts the program faster: a server that has imported everything but the engine forks for each start."""

import fcntl
import multiprocessing
import os
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import Signals

from gptoss_cli.cli import main
from tests.cli.scripted_program import scripted_opener


class ForkedProgram:
    """`gptoss` on a terminal, with the methods of Popen that terminal_driver uses; `script` as in scripted_program."""

    def __init__(self, arguments: Sequence[str], *, script: str | None, terminal: str) -> None:
        start = multiprocessing.get_context("forkserver")
        start.set_forkserver_preload(["tests.cli.late_imports"])
        given = arguments, script, terminal, os.getcwd(), dict(os.environ)
        self._process = start.Process(target=_run, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: Signals) -> None:
        if self._process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _run(
    arguments: Sequence[str], script: str | None, terminal: str, folder: str, environment: Mapping[str, str]
) -> None:
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(handle, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(handle, number)
    os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Those of the server belong to its own files.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.exit(main.run(arguments, open_model=None if script is None else scripted_opener(script)))
