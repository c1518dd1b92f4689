"""The program: argv in, exit status out. The one place where an exception becomes one line and an exit status."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gptoss_cli import __version__
from gptoss_cli.errors import ExitStatus, GptossError
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.chat.request import OpenModel


def run(argv: Sequence[str], *, open_model: OpenModel | None = None, began: float | None = None) -> int:
    """Run one command line on the streams of this process; return the exit status and raise nothing.

    `open_model` opens the model that answers, by default with the engine. `began` is when the program was started, by
    time.monotonic, by default now.
    """
    began = time.monotonic() if began is None else began
    console = Console.of_process()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if list(argv) in (["--version"], ["-V"]):
            console.out(f"gptoss {__version__}\n")
            return ExitStatus.DONE
        # Scripts often ask for the version: it must not wait for Typer.
        from gptoss_cli.cli import definition
        from gptoss_cli.cli.environment import Environment
        from gptoss_cli.cli.framework import invoke
        from gptoss_cli.cli.model_opener import opener

        return invoke(definition.PROGRAM, argv, Environment(console, open_model or opener(console), began))
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else ExitStatus.DONE
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        console.abandon()
        return ExitStatus.BROKEN_PIPE
    except BaseException as exc:  # noqa: BLE001  the program's last resort; a panic of a Rust library is no Exception
        return _report(exc, console)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitStatus.TERMINATED)


def _report(exc: BaseException, console: Console) -> int:
    import traceback

    from gptoss_cli.cli.hints import sentence, unexpected, without_secrets

    if console.debug:
        console.err(without_secrets("".join(traceback.format_exception(exc)), console.environment))
    if isinstance(exc, GptossError):
        console.error(without_secrets(sentence(exc), console.environment))
        return exc.exit_status
    if isinstance(exc, MemoryError):
        console.error(unexpected(exc))
        return ExitStatus.RESOURCES
    console.error(without_secrets(f"{unexpected(exc)}. To see where: gptoss --debug ...", console.environment))
    return ExitStatus.FAILED
