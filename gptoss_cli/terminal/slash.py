"""The slash commands: their names, what they take, and how they are completed. Carries none of them out."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from gptoss_cli.errors import UsageError
from gptoss_cli.settings import ReasoningDisplay, ReasoningEffort

SETTINGS = ("temperature", "top-p", "top-k", "seed", "max-tokens", "think-budget")


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """`arguments` as help shows them; `values` and `takes_file` are what completion offers."""

    name: str
    arguments: str
    meaning: str
    values: tuple[str, ...] = ()
    takes_file: bool = False


COMMANDS = {
    command.name: command
    for command in (
        SlashCommand("/help", "", "this list"),
        SlashCommand("/effort", "LEVEL", "how long it reasons from now on", tuple(ReasoningEffort)),
        SlashCommand("/reasoning", "HOW", "whether its reasoning is seen", tuple(ReasoningDisplay)),
        SlashCommand("/model", "NAME", "another model goes on with the conversation", ("20b", "120b", "demo")),
        SlashCommand("/instructions", "TEXT|@FILE", "what it is told to heed; off for nothing"),
        SlashCommand("/set", "NAME VALUE", "change how it answers; without a name, show it", SETTINGS),
        SlashCommand("/file", "PATH", "send a text file along with the next message", takes_file=True),
        SlashCommand("/retry", "[LEVEL]", "answer the last message again", tuple(ReasoningEffort)),
        SlashCommand("/undo", "", "take the last message and its answer back"),
        SlashCommand("/edit", "", "change the last message and send it again"),
        SlashCommand("/copy", "[code]", "the last answer, or its last code, to the clipboard", ("code",)),
        SlashCommand("/save", "FILE", "the last answer into a new file", takes_file=True),
        SlashCommand("/tokens", "", "how full the context is"),
        SlashCommand("/raw", "", "the last turn as the model wrote it, markup and all"),
        SlashCommand("/new", "", "a new conversation"),
        SlashCommand("/exit", "", "leave, as Ctrl-D does"),
    )
}
KEYS = {
    "Enter": "send",
    "Alt-Enter, Ctrl-J": 'a new line; so does Enter after \\ or within """',
    "Ctrl-C": "stop the answer; at the prompt, clear the line",
    "Ctrl-O": "show the reasoning; once more folds it",
    "Ctrl-N": "while it reasons: answer now",
    "Shift-Tab": "the next effort",
    "Ctrl-R, Up": "search the history; the message before",
    "Ctrl-X Ctrl-E": "write the message in $EDITOR",
    "Ctrl-D": "leave",
    "//...": "send a line that begins with a slash",
}


def parse(text: str) -> tuple[str, str] | None:
    """The command in `text` and what follows it; None if `text` is a message.

    Raises UsageError for a command that does not exist: what was meant as one is never sent.
    """
    text = text.strip()
    if not text.startswith("/") or text.startswith("//"):
        return None
    word, *rest = text.split(maxsplit=1)
    if word not in COMMANDS:
        close = difflib.get_close_matches(word, COMMANDS, n=1) or ["/help"]
        raise UsageError(f"There is no command {word}. Did you mean {close[0]}? // sends a line that begins with /")
    return word, rest[0] if rest else ""


def message_of(text: str) -> str:
    """What is sent for `text`: the second of two slashes at its beginning is the message's own."""
    said = text.lstrip()
    return said[1:] if said.startswith("//") else text


def help_lines() -> list[tuple[str, str]]:
    """What can be typed, and what it means."""
    commands = [(f"{command.name} {command.arguments}".rstrip(), command.meaning) for command in COMMANDS.values()]
    return [*commands, *KEYS.items()]


class SlashCompleter(Completer):
    """Completes commands, what they take, and file names; `models` are the names that can be loaded."""

    def __init__(self, models: Callable[[], Iterable[str]]) -> None:
        self._models = models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """See Completer."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name):
                    yield Completion(command.name, -len(name), display_meta=command.meaning)
            return
        known = COMMANDS.get(name)
        if known is None:
            return
        if known.takes_file or rest.startswith("@"):
            yield from self._paths.get_completions(Document(rest.removeprefix("@")), complete_event)
            return
        for value in self._models() if name == "/model" else known.values:
            if value.startswith(rest):
                yield Completion(value, -len(rest))
