"""`gptoss chat`: a conversation at the terminal."""

from typing import Annotated

import typer

from gptoss_cli.cli.definition import TurnOptions, command
from gptoss_cli.cli.prompt_input import whole_characters
from gptoss_cli.errors import UsageError
from gptoss_cli.terminal.console import Console


@command
def chat(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="The first message.", show_default=False)
    ] = None,
    *,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file", "-f", metavar="PATH", help="A text file that goes along; repeatable.", show_default=False
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="The answer's own text: no Markdown, no redrawing.")] = False,
    vi: Annotated[bool, typer.Option("--vi", help="Edit messages with vi's keys.")] = False,
    console: Console,
    options: TurnOptions,
) -> None:
    """Talk with the model. A PROMPT given here is sent first.

    Enter sends, Alt-Enter makes a new line, Ctrl-C stops an answer and keeps it, Ctrl-D leaves; /help tells the rest.
    """
    if not console.reads_terminal:
        raise UsageError("gptoss chat needs a terminal on stdin. For pipes and files use: gptoss ask")
    from gptoss_cli.cli.conversing import Chat

    talk = Chat(options, console, plain=plain, vi=vi)
    for file in files or []:
        talk.attach(file)
    talk.run(whole_characters(" ".join(words or [])))
