"""Slash commands: their names, arguments, help and completion. They are run elsewhere."""

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
    """A slash command. Completion offers `values`, or files if `takes_file`."""

    name: str
    arguments: str
    help: str
    values: tuple[str, ...] = ()
    takes_file: bool = False


COMMANDS = {
    command.name: command
    for command in (
        SlashCommand("/help", "", "show this list"),
        SlashCommand("/effort", "LEVEL", "set the reasoning effort", tuple(ReasoningEffort)),
        SlashCommand("/reasoning", "MODE", "show, collapse or hide the reasoning", tuple(ReasoningDisplay)),
        SlashCommand("/model", "NAME", "continue the conversation with another model", ("20b", "120b", "demo")),
        SlashCommand("/instructions", "TEXT|@FILE", "set the instructions for the model; off removes them"),
        SlashCommand("/set", "NAME VALUE", "change a setting; without arguments, list them", SETTINGS),
        SlashCommand("/file", "PATH", "attach a text file to the next message", takes_file=True),
        SlashCommand("/retry", "[LEVEL]", "answer the last message again", tuple(ReasoningEffort)),
        SlashCommand("/undo", "", "remove the last message and its answer"),
        SlashCommand("/edit", "", "edit the last message and send it again"),
        SlashCommand("/copy", "[code [N]]", "copy the last answer, its last code block, or its Nth", ("code",)),
        SlashCommand("/save", "[TITLE]", "keep this conversation, under a title"),
        SlashCommand("/export", "[FILE]", "write this conversation to a new .md or .json file", takes_file=True),
        SlashCommand("/conversations", "[WORDS]", "list saved conversations, or search them"),
        SlashCommand("/resume", "ID", "continue a saved conversation"),
        SlashCommand("/fork", "", "continue as a copy, and leave the original as it is"),
        SlashCommand("/tokens", "[last]", "show context usage; last: the last answer's tokens *", ("last",)),
        SlashCommand("/experts", "", "show which experts computed the last turn *"),
        SlashCommand("/raw", "", "show the last turn with its Harmony markup"),
        SlashCommand("/new", "", "start a new conversation"),
        SlashCommand("/exit", "", "leave the chat"),
    )
}
KEYS = {
    "Enter": "send",
    "Alt-Enter, Ctrl-J": 'insert a newline, like Enter after \\ or within """',
    "Ctrl-C": "stop the answer; at the prompt, clear the input",
    "Ctrl-O": "show or collapse the reasoning",
    "Ctrl-N": "while the model reasons: answer now",
    "Shift-Tab": "switch to the next reasoning effort",
    "Ctrl-R, Up": "search the history; recall the previous message",
    "Ctrl-X Ctrl-E": "edit the message in $EDITOR",
    "Ctrl-D": "leave the chat",
    "//...": "send a message that begins with a slash",
}


def parse(text: str) -> tuple[str, str] | None:
    """Return the command in `text` and its arguments, or None if `text` is a message.

    Raises UsageError for an unknown command, so that a misspelt command is never sent to the model.
    """
    text = text.strip()
    if not text.startswith("/") or text.startswith("//"):
        return None
    word, *rest = text.split(maxsplit=1)
    if word not in COMMANDS:
        close = difflib.get_close_matches(word, COMMANDS, n=1) or ["/help"]
        raise UsageError(f"There is no command {word}. Did you mean {close[0]}? To send it as a message, begin with //")
    return word, rest[0] if rest else ""


def message_of(text: str) -> str:
    """Return the message in `text`: of two slashes at its beginning, the first is removed."""
    stripped = text.lstrip()
    return stripped[1:] if stripped.startswith("//") else text


def help_lines() -> list[tuple[str, str]]:
    """Return every command and key with its help."""
    commands = [(f"{command.name} {command.arguments}".rstrip(), command.help) for command in COMMANDS.values()]
    return [*commands, *KEYS.items(), ("*", "reads the last turn again, as slowly as it was made")]


class SlashCompleter(Completer):
    """Completion of commands, their arguments and file names. `models` returns the names for /model."""

    def __init__(self, models: Callable[[], Iterable[str]]) -> None:
        self._models = models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield completions of the text before the cursor; see Completer."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name):
                    yield Completion(command.name, -len(name), display_meta=command.help)
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
