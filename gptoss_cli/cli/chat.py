"""`gptoss chat`: a conversation at the terminal."""

import difflib
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_cli import settings
from gptoss_cli.cli.ask import whole_characters
from gptoss_cli.cli.options import TurnOptions, command
from gptoss_cli.errors import GptossError, UsageError
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.session import ChatSession

_COMMANDS = {
    "/help": "this list",
    "/effort LEVEL": "how long it reasons from now on: none, low, medium or high",
    "/set think-budget N": "answer after N tokens of reasoning at the latest; off for no limit",
    "/raw": "the last turn as the model wrote it, markup and all",
    "/exit": "leave, as Ctrl-D does",
}
_KEYS = {
    "Enter": "send",
    "Alt-Enter, Ctrl-J": "a new line",
    "Ctrl-C": "stop the answer; at the prompt, clear the line",
    "Ctrl-D": "leave",
    "//...": "send a line that begins with a slash",
}


@command
def chat(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="The first message.", show_default=False)
    ] = None,
    *,
    console: Console,
    options: TurnOptions,
) -> None:
    """Talk with the model. A PROMPT given here is sent first.

    Enter sends, Alt-Enter makes a new line, Ctrl-C stops an answer and keeps it, Ctrl-D leaves.
    """
    if not console.reads_terminal:
        raise UsageError("gptoss chat needs a terminal on stdin. For pipes and files use: gptoss ask")
    from gptoss_cli.cli import turns
    from gptoss_cli.terminal.prompt import ChatPrompt, open_history

    session = turns.open_session(options, console)
    history, problem = open_history(settings.state_folder() / "history")
    if problem is not None:
        console.notice(problem)
    prompt = ChatPrompt(history)
    text: str | None = whole_characters(" ".join(words or []))
    # One Ctrl-C too many, between an answer's end and the prompt, must not end the chat.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    while text is not None and text.strip() != "/exit":
        if text.strip() and not _obey(text, session, console):
            _answer(session, text, options=options, console=console)
        text = prompt.read()


def _obey(text: str, session: "ChatSession", console: Console) -> bool:
    """Carry out a slash command; whether `text` was meant as one. What was so meant never reaches the model."""
    word, *arguments = text.split()
    if not word.startswith("/") or word.startswith("//"):
        return False
    match word, arguments:
        case "/help", _:
            for name, meaning in (_COMMANDS | _KEYS).items():
                console.aside(f"  {name:<20} {meaning}\n")
        case "/effort", _:
            _set_effort(arguments, session, console)
        case "/set", _:
            _set(arguments, session, console)
        case "/raw", _:
            console.aside(f"{session.last_raw}\n")
        case _:
            names = [name.split()[0] for name in _COMMANDS]
            close = difflib.get_close_matches(word, names, n=1) or ["/help"]
            console.error(f"There is no command {word}. Did you mean {close[0]}?")
    return True


def _set_effort(arguments: list[str], session: "ChatSession", console: Console) -> None:
    if len(arguments) != 1 or arguments[0] not in list(settings.ReasoningEffort):
        console.error(f"The effort is {session.conversation.effort}. To change it: /effort none|low|medium|high")
        return
    effort = settings.ReasoningEffort(arguments[0])
    cost = session.set_effort(effort)
    price = f" The next turn reads {cost:,} tokens of the conversation again for it." if cost else ""
    console.notice(f"The effort is {effort} from now on.{price}")


def _set(arguments: list[str], session: "ChatSession", console: Console) -> None:
    match arguments:
        case ["think-budget", "off"]:
            session.think_budget = None
            console.notice("The reasoning has no budget from now on.")
        case ["think-budget", number] if number.isdecimal():
            session.think_budget = int(number)
            console.notice(f"The reasoning is at most {session.think_budget:,} tokens from now on.")
        case _:
            console.error("That cannot be set. Try: /set think-budget 500, or /set think-budget off")


def _answer(session: "ChatSession", text: str, *, options: TurnOptions, console: Console) -> None:
    from gptoss_cli.cli import turns
    from gptoss_cli.terminal.prompt import typing_ahead

    said = text.lstrip()
    try:
        with typing_ahead():
            text = said[1:] if said.startswith("//") else text
            shortfall = turns.run_turn(session, text, options=options, console=console)
    except GptossError as exc:
        console.error(str(exc))
        return
    if shortfall is not None:
        console.notice(shortfall.message)
    console.aside("\n")
