"""Slash commands: their names, arguments, help and completion. They are run elsewhere."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from gptoss_cli.errors import UsageError
from gptoss_cli.settings import ReasoningDisplay, ReasoningEffort

SETTINGS = ("temperature", "top-p", "top-k", "seed", "max-tokens", "think-budget")
KEPT_SETTINGS = ("effort", "instructions", "reasoning", *SETTINGS)


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """A slash command. It takes at most `most_words`, or for None a text or a path that may have any number of them.

    Completion offers `values`, or files if `takes_file`.
    """

    name: str
    arguments: str
    help: str
    most_words: int | None = 0
    values: tuple[str, ...] = ()
    takes_file: bool = False


_ANY = None
COMMANDS = {
    command.name: command
    for command in (
        SlashCommand("/help", "", "show this list"),
        SlashCommand("/effort", "LEVEL", "set the reasoning effort", 1, tuple(ReasoningEffort)),
        SlashCommand("/reasoning", "MODE", "show, collapse or hide the reasoning", 1, tuple(ReasoningDisplay)),
        SlashCommand("/model", "NAME", "continue the conversation with another model", _ANY, ("20b", "120b", "demo")),
        SlashCommand("/instructions", "TEXT|@FILE", "set the instructions for the model; off removes them", _ANY),
        SlashCommand("/set", "NAME VALUE", "change a setting (off: default); alone, list them", 2, SETTINGS),
        SlashCommand("/keep", "[NAME]", "keep the settings, or one, for all new chats", 1, KEPT_SETTINGS),
        SlashCommand("/file", "PATH|off", "attach a text file to the next message, or none", _ANY, takes_file=True),
        SlashCommand("/retry", "[LEVEL]", "answer the last message again", 1, tuple(ReasoningEffort)),
        SlashCommand("/undo", "", "remove the last message and its answer"),
        SlashCommand("/edit", "", "edit the last message and send it again"),
        SlashCommand("/copy", "[code [N]]", "copy the last answer, or its last or Nth code block", 2, ("code",)),
        SlashCommand("/save", "[TITLE]", "keep this conversation, under a title", _ANY),
        SlashCommand("/export", "[FILE]", "write this conversation to a new .md or .json file", _ANY, takes_file=True),
        SlashCommand("/conversations", "[WORDS]", "list saved conversations, or search them", _ANY),
        SlashCommand("/resume", "[ID]", "continue a saved conversation; alone, choose one", _ANY),
        SlashCommand("/fork", "", "continue as a copy, and leave the original as it is"),
        SlashCommand("/tokens", "[last]", "show context usage; last: the last answer's tokens *", 1, ("last",)),
        SlashCommand("/experts", "", "show which experts computed the last turn *"),
        SlashCommand("/raw", "", "show the last turn with its Harmony markup"),
        SlashCommand("/new", "", "start a new conversation"),
        SlashCommand("/exit", "", "leave the chat"),
    )
}
# Names that other chat programs have for the same commands.
_ALIASES = {
    "/?": "/help",
    "/bye": "/exit",
    "/clear": "/new",
    "/q": "/exit",
    "/quit": "/exit",
    "/reset": "/new",
}
# Names that other chat programs have for something that is nearly the same: the command is named, not run.
_RELATED = {
    "/attach": "/file",
    "/history": "/conversations",
    "/list": "/conversations",
    "/load": "/resume",
    "/regenerate": "/retry",
    "/show": "/tokens",
    "/system": "/instructions",
    "/think": "/effort",
    "/nothink": "/effort none",
}
KEYS = {
    "Enter": "send",
    "Alt-Enter, Ctrl-J": 'insert a newline, like Enter after \\ or in a """',
    "Ctrl-C": "stop the answer; at the prompt, clear the input",
    "Ctrl-O": "show or fold the reasoning, after an answer print it",
    "Ctrl-N": "while the model reasons: answer now",
    "Shift-Tab": "switch to the next reasoning effort",
    "Ctrl-R, Up": "search the history; recall the previous message",
    "Ctrl-X Ctrl-E": "edit the message in $EDITOR; Enter then sends it",
    "Ctrl-D": "leave the chat",
    "//...": "send a typed line that begins with a slash",
}


def parse(text: str, *, pasted: bool = False) -> tuple[str, str] | None:
    """Return the command in `text` and its arguments, or None if `text` is a message.

    Text that was pasted or has several lines is a message. Raises UsageError for an unknown command, so that a misspelt
    one is never sent to the model, and for more words than a command takes.
    """
    if _is_verbatim(text, pasted) or not text.lstrip().startswith("/") or text.lstrip().startswith("//"):
        return None
    word, *rest = text.split(maxsplit=1)
    command = COMMANDS.get(_ALIASES.get(word, word))
    if command is None:
        raise UsageError(f"There is no command {word}. {_advice(word)} To send it as a message, begin with //")
    argument = rest[0].strip() if rest else ""
    if command.most_words is not None and len(argument.split()) > command.most_words:
        takes = f"Write: {command.name} {command.arguments}" if command.arguments else "It takes none"
        surplus = " ".join(argument.split()[command.most_words :])
        raise UsageError(f"{word} has too many arguments: {surplus}. {takes}")
    return command.name, argument


def message_of(text: str, *, pasted: bool = False) -> str:
    """Return the message in `text`: of two slashes at the beginning of a typed line, the first is removed."""
    stripped = text.lstrip()
    return stripped[1:] if stripped.startswith("//") and not _is_verbatim(text, pasted) else text


def is_like_command(text: str) -> bool:
    """Return True if `text` begins with the name of a command."""
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    return word in COMMANDS or word in _ALIASES


def _is_verbatim(text: str, pasted: bool) -> bool:
    return pasted or "\n" in text.strip()


def _advice(word: str) -> str:
    lowered = word.lower()
    # A slash alone is too short to be like anything: it would be like the shortest command.
    close = difflib.get_close_matches(lowered, [*COMMANDS, *_ALIASES], n=1) if len(word) > 1 else []
    return f"Did you mean {_RELATED.get(lowered) or (close[0] if close else '/help')}?"


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
        known = COMMANDS.get(_ALIASES.get(name, name))
        if known is None:
            return
        if known.takes_file or rest.startswith("@"):
            yield from self._paths.get_completions(Document(rest.removeprefix("@")), complete_event)
            return
        for value in self._models() if name == "/model" else known.values:
            if value.startswith(rest):
                yield Completion(value, -len(rest))
