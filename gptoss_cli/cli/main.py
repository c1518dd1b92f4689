"""The program: argv in, exit status out. The one place where an error becomes one line and an exit status."""

import signal
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import typer

from gptoss_cli.cli import ask, chat, completions, config, download, models, verify
from gptoss_cli.cli.options import BareExtractCommand, command
from gptoss_cli.errors import ExitStatus, GptossError
from gptoss_cli.terminal.console import Console

_PREFERENCES = (
    "Most options with a value can also be set in the environment (GPTOSS_MODEL, GPTOSS_EFFORT and so on) or for good"
    " in a file: gptoss config"
)

app = typer.Typer(
    add_completion=False,  # the scripts in completions/ are written by hand and start no Python
    rich_markup_mode=None,  # plain help imports nothing heavy
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
@command
def gptoss(*, invocation: typer.Context, console: Console) -> None:
    """Chat with OpenAI's open-weight gpt-oss models on this machine."""
    if invocation.invoked_subcommand is None:
        typer.echo(invocation.get_help())


app.command(epilog=_PREFERENCES, cls=BareExtractCommand)(ask.ask)
for _command in (chat.chat, config.config, completions.completions):
    app.command(epilog=_PREFERENCES)(_command)
for _command in (download.download, verify.verify, models.remove):
    app.command()(_command)
app.command("list")(models.list_models)


def run(argv: Sequence[str]) -> int:
    """Run one command line on this process's streams; returns the exit status and raises nothing."""
    console = Console.of_process()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        program = typer.main.get_command(app)
        # Not `program.main`: it has statuses of its own for Ctrl-C and for a broken pipe.
        defaults = config.ConfigFile(program, console).of_commands()
        with program.make_context("gptoss", list(argv), obj=console, default_map=defaults) as context:
            program.invoke(context)
        return ExitStatus.DONE
    except (typer.Exit, SystemExit) as exc:
        return _status(exc)
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        console.abandon()
        return ExitStatus.BROKEN_PIPE
    except Exception as exc:  # noqa: BLE001  the program's last resort
        return _report(exc, console)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitStatus.TERMINATED)


def _status(exc: typer.Exit | SystemExit) -> int:
    code = exc.exit_code if isinstance(exc, typer.Exit) else exc.code
    return code if isinstance(code, int) else ExitStatus.DONE


def _report(exc: Exception, console: Console) -> int:
    if console.debug:
        console.aside("".join(traceback.format_exception(exc)))
    match exc:
        case GptossError():
            console.error(str(exc))
            return exc.exit_status
        case typer.TyperException():
            console.error(f"{exc.format_message().removesuffix('.')}. Try: {_help_command(exc)}")
            return exc.exit_code
        case MemoryError():
            console.error("There is not enough memory. Try a smaller --context or a smaller model.")
            return ExitStatus.RESOURCES
        case _:
            console.error(f"An error in gptoss itself, {type(exc).__name__}: {exc}. To see where: gptoss --debug ...")
            return ExitStatus.FAILED


def _help_command(exc: typer.TyperException) -> str:
    context = getattr(exc, "ctx", None)
    return f"{context.command_path if context else 'gptoss'} --help"
