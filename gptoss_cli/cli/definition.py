"""Every command of gptoss: its arguments, its help, and the one line that imports the module which does the work.

The imports are inside the functions so that `gptoss --help` and each command import only what they need.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gptoss_cli.cli.definition_convert import convert
from gptoss_cli.cli.definition_serve import serve
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.framework import Commands, OptionalValueCommand, build_program, given_options, show_help
from gptoss_cli.cli.model_opener import torch_errors
from gptoss_cli.cli.model_options import BenchOptions, CompareOptions, EvaluateOptions, InspectOptions, PlanOptions
from gptoss_cli.cli.options import (
    AnswerOptions,
    AskHistoryOptions,
    CacheAction,
    ConfigAction,
    HistoryOptions,
    JsonOption,
    KvLimitOption,
    Shell,
    TemplateOptions,
    TurnOptions,
    YesOption,
)
from gptoss_cli.cli.server_options import ServerOptions
from gptoss_cli.paths import typed_path

_SETTINGS = (
    "Most options with a value can also be set in the environment (GPTOSS_MODEL, GPTOSS_EFFORT and so on) or in the"
    " settings file: gptoss config"
)
_COMMANDS = Commands()


def gptoss(*, invocation: typer.Context) -> None:
    """Chat with OpenAI's open-weight gpt-oss models on this machine."""
    if invocation.invoked_subcommand is None:
        show_help(invocation)


@_COMMANDS.command("chat", epilog=_SETTINGS, kind=OptionalValueCommand)
def chat(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="The first message.", show_default=False)
    ] = None,
    *,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="PATH",
            parser=typed_path,
            help="Text file for the first message; repeatable.",
            show_default=False,
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print the text itself: no Markdown, no redrawing.")] = False,
    vi: Annotated[bool, typer.Option("--vi", help="Edit messages with the keys of vi.")] = False,
    template: TemplateOptions,
    history: HistoryOptions,
    options: TurnOptions,
    invocation: typer.Context,
    environment: Environment,
) -> None:
    """Chat with a model.

    A PROMPT is sent as the first message. Enter sends, Alt-Enter starts a new line, Ctrl-C stops an answer and keeps
    its beginning, Ctrl-D leaves. /help lists the commands of a chat. The conversation is kept: -c continues it.
    """
    from gptoss_cli.cli.chat import ChatStart, run_chat

    start = ChatStart(
        words or [], files or [], history, plain=plain, vi=vi, given=given_options(invocation), template=template
    )
    run_chat(start, options, environment)


@_COMMANDS.command("ask", epilog=_SETTINGS, kind=OptionalValueCommand)
def ask(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="The words of the prompt.", show_default=False)
    ] = None,
    *,
    answer: AnswerOptions,
    template: TemplateOptions,
    history: AskHistoryOptions,
    options: TurnOptions,
    invocation: typer.Context,
    environment: Environment,
) -> None:
    """Ask one question; the answer goes to stdout.

    Everything else goes to stderr. Without a PROMPT, or with - for it, the prompt is read from stdin; with both, the
    piped text follows the PROMPT. A prompt that begins with a dash goes after --.
    """
    from gptoss_cli.cli.ask import Question, run_ask

    question = Question(words or [], answer, history, given_options(invocation), template)
    if answer.efforts is not None and not answer.stream_json:  # together they are an error, which JSON lines report
        from gptoss_cli.cli.efforts import run_efforts

        run_efforts(question, options, environment)
    else:
        run_ask(question, options, environment)


@_COMMANDS.command("download")
def download(
    model: Annotated[str, typer.Argument(metavar="20b|120b|OWNER/NAME", help="Model to download.")] = "20b",
    *,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="A branch, tag or commit of the repository.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the missing files, and download nothing.")] = False,
    as_json: JsonOption = False,
    yes: YesOption = False,
    environment: Environment,
) -> None:
    """Download a model and verify it.

    Run it again to continue an interrupted download. Files that are here already are verified and kept; a wrong file
    is downloaded again.
    """
    from gptoss_cli.checkpoint.connection import check_import

    check_import()  # a wrong one would stop the next import
    from gptoss_cli.cli.download import run_download

    run_download(model, revision, environment.console, dry_run=dry_run, as_json=as_json, yes=yes)


@_COMMANDS.command("list")
def list_models(*, as_json: JsonOption = False, environment: Environment) -> None:
    """List known and installed models.

    Shows the size of each model, its state, when it was last verified, and its folder.
    """
    from gptoss_cli.cli.list import run_list

    run_list(environment.console, as_json=as_json)


@_COMMANDS.command("verify")
def verify(
    model: Annotated[
        str | None,
        typer.Argument(metavar="20b|120b|OWNER/NAME|PATH", help="Model to verify; by default every installed one."),
    ] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Check sizes, headers and shapes only, no digests.")] = False,
    as_json: JsonOption = False,
    environment: Environment,
) -> None:
    """Verify an installed model, offline.

    Checks the digest of every file, then headers, index and shapes against the config of the model. --quick skips
    the digests, so it does not notice a changed weight.
    """
    from gptoss_cli.cli.verify import run_verify

    run_verify(model, environment.console, quick=quick, as_json=as_json)


_COMMANDS.command("convert")(convert)


@_COMMANDS.command("remove")
def remove(
    model: Annotated[str, typer.Argument(metavar="20b|120b|OWNER/NAME", help="Model to delete.")],
    *,
    partial: Annotated[bool, typer.Option("--partial", help="Delete only what an interrupted download left.")] = False,
    yes: YesOption = False,
    environment: Environment,
) -> None:
    """Delete a downloaded model.

    Shows the size and the folder, and asks first. Files in the Hugging Face cache are not touched.
    """
    from gptoss_cli.cli.remove import run_remove

    run_remove(model, environment.console, partial=partial, yes=yes)


@_COMMANDS.command("plan", epilog=_SETTINGS)
def plan(
    model: Annotated[
        str | None, typer.Argument(metavar="20b|120b|PATH", help="Model to plan for.", show_default=False)
    ] = None,
    *,
    options: PlanOptions,
    servers: ServerOptions,
    invocation: typer.Context,
    environment: Environment,
) -> None:
    """Show how a model would run, here or on another machine.

    Shows where its weights go, the longest context that fits, the highest speed, and why. Nothing has to be downloaded.
    --gpu-memory 24GiB --ram 64GiB describes another machine.
    """
    if servers.are_meant(given := given_options(invocation)):
        from gptoss_cli.cli.server import run_plan_of_server

        run_plan_of_server(servers, given, environment.console, as_json=options.as_json)
        return
    from gptoss_cli.cli.plan import run_plan

    run_plan(model, options, environment.console)


@_COMMANDS.command("doctor", epilog=_SETTINGS)
def doctor(
    *,
    gpu: Annotated[bool, typer.Option("--gpu", help="Check every kernel of the GPU; takes about a minute.")] = False,
    as_json: JsonOption = False,
    servers: ServerOptions,
    environment: Environment,
) -> None:
    """Check this machine and advise on each problem.

    Looks at GPU, memory, disk, torch, Triton, models and the server, if one is set.
    """
    if gpu:
        with torch_errors():
            from gptoss_cli.cli.gpu_check import run_gpu_check

        run_gpu_check(environment.console, as_json=as_json)
        return
    from gptoss_cli.cli.doctor import run_doctor

    run_doctor(environment.console, servers, as_json=as_json)


@_COMMANDS.command("bench", epilog=_SETTINGS)
def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="20b|120b|demo|PATH", help="Model to measure.", show_default=False)
    ] = None,
    *,
    options: BenchOptions,
    servers: ServerOptions,
    invocation: typer.Context,
    environment: Environment,
) -> None:
    """Measure the speed of a model on this machine.

    Compares its prefill and decode rates with the memory bandwidth. Prints a table on a terminal, else one JSON object.
    Close other programs first: they slow it down. With --server it measures that server, as a user sees it.
    """
    if servers.are_meant(given := given_options(invocation)):
        from gptoss_cli.cli.bench_server import run_bench_of_server

        run_bench_of_server(servers, given, options, environment.console)
        return
    with torch_errors():
        from gptoss_cli.cli.bench import run_bench

    run_bench(model, options, environment.console)


_COMMANDS.command("serve", epilog=_SETTINGS)(serve)


@_COMMANDS.command("compare")
def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Names, or folders with a config.json.", show_default=False),
    ] = None,
    *,
    options: CompareOptions,
    environment: Environment,
) -> None:
    """Compare architectures, computed from their shapes.

    Knows gpt2-xl, qwen3-30b-a3b, gpt-oss-20b (20b), gpt-oss-120b (120b) and qwen3-235b-a22b, which are the default.
    Values equal to the first model's are dim, or marked with = where there is no colour.
    """
    from gptoss_cli.cli.compare import run_compare

    run_compare(models or [], options, environment.console)


@_COMMANDS.command("inspect")
def inspect(
    model: Annotated[str, typer.Argument(metavar="20b|120b|demo|PATH", help="Model to look into.")] = "20b",
    *,
    options: InspectOptions,
    environment: Environment,
) -> None:
    """Show the parts of a model: parameters, bytes, tensors, sinks.

    Reads only config.json and the headers of the weights. Known models need no files, except for --sinks. Only
    --experiment, and --sinks with --prompt, run the model.
    """
    from gptoss_cli.cli.inspect import run_inspect

    run_inspect(model, options, environment)


@_COMMANDS.command("evaluate", epilog=_SETTINGS)
def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", parser=typed_path, help="Questions with expected answers.")
    ],
    *,
    evaluate: EvaluateOptions,
    options: TurnOptions,
    invocation: typer.Context,
    environment: Environment,
) -> None:
    """Measure accuracy against effort on your own questions.

    A line is {"question": TEXT} and one of "answer": TEXT, "number": N, "choice": TEXT with "choices": LIST, "pattern":
    REGEX, or "command": a shell command that gets the answer on stdin and exits 0 if it is right. Every answer is
    kept, so the same command goes on after an interruption.
    """
    from gptoss_cli.cli.evaluate import run_evaluate

    run_evaluate(file, evaluate, options, environment, given_options(invocation))


@_COMMANDS.command("cache")
def cache(
    action: Annotated[
        CacheAction, typer.Argument(help="List the files, or delete them.", show_default=True)
    ] = CacheAction.LIST,
    *,
    as_json: JsonOption = False,
    yes: YesOption = False,
    kv_limit: KvLimitOption = None,
    environment: Environment,
) -> None:
    """List or delete KV caches and 8-bit weights.

    Chats start faster with these files, which are made again when they are missing. clear asks first.
    """
    from gptoss_cli.cli.cache import run_cache

    run_cache(action, environment.console, as_json=as_json, yes=yes, kv_limit_bytes=kv_limit)


@_COMMANDS.command("config", epilog=_SETTINGS)
def config(
    action: Annotated[
        ConfigAction,
        typer.Argument(help="Show the settings, print the path of the file, edit it, or set one.", show_default=True),
    ] = ConfigAction.SHOW,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY VALUE", help="With set: a setting and its value.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="With show: print one JSON object.")] = False,
    invocation: typer.Context,
    environment: Environment,
) -> None:
    """Show the settings and their origins, or change them.

    For example, gptoss config set effort high writes one setting into the file and keeps the rest of it.
    """
    from gptoss_cli.cli.config import run_config

    run_config(action, words or [], invocation.find_root().command, environment.console, as_json=as_json)


@_COMMANDS.command("completions", epilog=_SETTINGS)
def completions(
    shell: Annotated[Shell, typer.Argument(help="The shell to complete in.", show_default=False)],
    *,
    environment: Environment,
) -> None:
    """Print the completion script of a shell.

    For bash: gptoss completions bash >> ~/.bash_completion
    """
    from gptoss_cli.cli.completions import run_completions

    run_completions(shell, environment.console)


def _load_conversations() -> tuple[Callable[..., None], Commands]:
    from gptoss_cli.cli.definition_conversations import CONVERSATIONS, conversations

    return conversations, CONVERSATIONS


_COMMANDS.add_group("conversations", "List, search, export and remove saved conversations.", _load_conversations)
PROGRAM = build_program(gptoss, _COMMANDS)
