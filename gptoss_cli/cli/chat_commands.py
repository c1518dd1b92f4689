"""The slash commands of a chat that need the model. A wrong argument is a UsageError and changes nothing."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.cli.config_file import Entry, as_toml, read_config, set_value
from gptoss_cli.cli.conversation_commands import CONVERSATION_COMMANDS
from gptoss_cli.cli.loaded_chat import LoadedChat
from gptoss_cli.cli.prompt_input import attachment, instructions_text, printable_path
from gptoss_cli.cli.refusals import alternatives
from gptoss_cli.errors import Hint, UsageError
from gptoss_cli.harmony.events import Message, Role, Token
from gptoss_cli.paths import typed_path
from gptoss_cli.settings import LARGEST_SEED, ReasoningDisplay, ReasoningEffort, config_file
from gptoss_cli.terminal.architecture_table import show_lines_on_stderr
from gptoss_cli.terminal.cells import Span, text_of, wrap
from gptoss_cli.terminal.clipboard import copy
from gptoss_cli.terminal.markdown.extract import code_blocks
from gptoss_cli.terminal.slash import KEPT_SETTINGS, SETTINGS
from gptoss_cli.terminal.turn_inspection import expert_lines, token_lines
from gptoss_cli.terminal.turn_plain import raw_pieces
from gptoss_cli.units import counted

# The figures of /tokens, with the blanks around them.
_FIGURE_COLUMNS: Final = 12
# Minimum, maximum and type of a setting. 0 is no top-p.
_BOUNDS: Final[dict[str, tuple[int, int | None, type[float] | type[int]]]] = {
    "temperature": (0, 10, float),
    "top-p": (0, 1, float),
    "top-k": (1, None, int),
    "seed": (0, LARGEST_SEED, int),
    "max-tokens": (1, None, int),
    "think-budget": (0, None, int),
}


def _effort(chat: LoadedChat, argument: str) -> None:
    if not argument:
        current = chat.session.conversation.effort
        chat.console.err(f"The effort is {current}. To change it: /effort {'|'.join(ReasoningEffort)}\n")
        return
    _set_effort(chat, _parsed_effort(argument))


def _parsed_effort(text: str) -> ReasoningEffort:
    if text.lower() not in list(ReasoningEffort):
        raise UsageError(f"There is no effort {text!r}. Choose {alternatives(list(ReasoningEffort))}.")
    return ReasoningEffort(text.lower())


def _set_effort(chat: LoadedChat, effort: ReasoningEffort) -> None:
    cost = chat.session.set_effort(effort)
    note = f" The next turn reads {counted(cost, 'token')} of the conversation again because of it." if cost else ""
    chat.console.notice(f"The effort is {effort} from now on.{note}")


def _model(chat: LoadedChat, argument: str) -> None:
    if not argument:
        chat.console.err(
            f"{chat.state.model} answers. To change it: /model 20b|120b|demo, or the folder of a checkpoint\n"
        )
        return
    if chat.change_model(argument):
        chat.console.notice(f"{argument} answers from now on, with the conversation so far.")
    else:
        chat.console.notice("The model stays as it is.")


def _instructions(chat: LoadedChat, argument: str) -> None:
    conversation = chat.session.conversation
    if not argument:
        current = conversation.instructions or "There are no instructions. To give some: /instructions TEXT"
        chat.console.lines(current)
        return
    conversation.instructions = None if argument == "off" else instructions_text(argument)
    chat.session.recorder.record(chat.session.snapshot())
    is_off = conversation.instructions is None
    words = "There are no instructions" if is_off else "The instructions apply"
    chat.console.notice(f"{words} from the next turn on.")


def _set(chat: LoadedChat, argument: str) -> None:
    name, _, text = argument.partition(" ")
    if not name:
        for each in SETTINGS:
            chat.console.err(f"  {each:<14}{_shown(getattr(chat.session.settings, _field(each)))}\n")
        return
    if name not in SETTINGS:
        raise UsageError(f"There is no setting {name!r}. Choose {alternatives(SETTINGS)}.")
    if not text:
        now = _shown(getattr(chat.session.settings, _field(name)))
        raise UsageError(f"{name} is {now} now. To change it: /set {name} VALUE")
    value = _value(name, text.strip())
    change: dict[str, Any] = {_field(name): value}
    chat.session.settings = replace(chat.session.settings, **change)
    chat.session.recorder.record(chat.session.snapshot())
    chat.console.notice(f"{name} is {_shown(value)} from now on.")


def _shown(value: float | None) -> str:
    return "off" if value is None else str(value)


def _field(setting: str) -> str:
    """Return the attribute of TurnSettings for a setting."""
    return setting.replace("-", "_")


def _value(name: str, text: str) -> float | int | None:
    """Return the value of a setting, for off the default. Raises UsageError."""
    least, most, kind = _BOUNDS[name]
    if text == "off":
        default: float | int | None = getattr(TurnSettings(), _field(name))
        return default
    noun = "a whole number" if kind is int else "a number"
    bounds = f", at least {least}" if most is None else f" from {least} to {most}"
    if name == "top-p":
        bounds = f" above {least}, at most {most}"
    try:
        number = kind(text)
    except ValueError:
        raise UsageError(f"{name} is {noun}{bounds}, or off; not {text}.") from None
    # Written so that NaN is refused too.
    if not (least <= number and (most is None or number <= most)) or (name == "top-p" and number == 0):
        raise UsageError(f"{name} is {noun}{bounds}, or off; not {text}.")
    return number


def _keep(chat: LoadedChat, argument: str) -> None:
    if argument and argument not in KEPT_SETTINGS:
        raise UsageError(f"There is no setting {argument!r} to keep. Choose {alternatives(KEPT_SETTINGS)}.")
    path = config_file()
    names = [argument] if argument else list(KEPT_SETTINGS)
    values = {name: value for name in names if (value := _to_keep(chat, name, read_config(path))) is not None}
    if not values:
        chat.console.notice("There is nothing to keep: new chats begin like this already.")
        return
    for name, value in values.items():
        set_value(path, name, value)
    words = (f"{name} = {as_toml(value)}" for name, value in values.items())
    chat.console.notice(f"New chats begin with {_shortened(', '.join(words))}: written to {path}.")
    for variable in (f"GPTOSS_{_field(name).upper()}" for name in values):
        if chat.console.environment.get(variable):
            chat.console.notice(f"The environment variable {variable} overrides it.")


def _to_keep(chat: LoadedChat, name: str, entries: Mapping[str, Entry]) -> float | str | None:
    """Return the value that config.toml has to get for a setting; None if it needs none. Raises UsageError."""
    session, entry = chat.session, entries.get(name)
    value: float | str | None
    default: float | str | None
    match name:
        case "effort":
            value, default = str(session.conversation.effort), str(ReasoningEffort.MEDIUM)
        case "reasoning":
            value, default = str(chat.state.reasoning), str(ReasoningDisplay.COLLAPSE)
        case "instructions":
            value, default = session.conversation.instructions, None
        case _:
            value, default = getattr(session.settings, _field(name)), getattr(TurnSettings(), _field(name))
    written = default if entry is None else entry.value
    if name == "instructions" and entry is not None and value == instructions_text(str(entry.value)):
        return None
    if value == written:
        return None
    if value is None:
        assert entry is not None, "a setting that may be off is off by default"
        raise UsageError(f"{name} is off, but line {entry.line} of {config_file()} sets it", Hint.EDIT_SETTINGS)
    if name == "instructions" and str(value).startswith("@"):
        raise UsageError("Instructions that begin with @ cannot be kept: they would be read as the name of a file.")
    return value


def _file(chat: LoadedChat, argument: str) -> None:
    attached = chat.state.attached
    if argument == "off":
        if not attached:
            raise UsageError("There is no file to drop. To attach one of that name: /file ./off")
        chat.console.notice(f"Dropped {counted(len(attached), 'file')}: the next message goes without.")
        chat.state.attached = []
        return
    if not argument:
        if not attached:
            raise UsageError("Name a file to send along: /file PATH")
        names = ", ".join(each.record.path for each in attached)
        goes, them = ("goes", "it") if len(attached) == 1 else ("go", "them")
        chat.console.lines(f"With the next message {goes} {names}. To drop {them}: /file off")
        return
    file = typed_path(argument)
    added = attachment(file, chat.console)
    attached.append(added)
    name, tokens = printable_path(file), counted(_message_tokens(chat.session, added.text), "token")
    chat.console.notice(f"{name} goes along with the next message: about {tokens}. To drop it: /file off")


def _message_tokens(session: ChatSession, text: str) -> int:
    """Return how many tokens a message adds to the next turn, without sending it."""
    before, conversation = session.used_tokens, session.conversation
    count = len(conversation.messages)
    conversation.add_user(text)
    tokens = session.used_tokens - before
    conversation.truncate(count)
    return tokens


def _retry(chat: LoadedChat, argument: str) -> None:
    effort = _parsed_effort(argument) if argument else None
    last = _last_user_message(chat.session, "answer again")
    if effort is not None:
        _set_effort(chat, effort)
    chat.keep_messages(last + 1)
    chat.show(chat.session.answer())


def _undo(chat: LoadedChat, argument: str) -> None:
    last = _last_user_message(chat.session, "take back")
    text = chat.session.conversation.messages[last].text
    chat.keep_messages(last)
    chat.console.notice(f"Taken back: {_shortened(text)}")


def _edit(chat: LoadedChat, argument: str) -> None:
    last = _last_user_message(chat.session, "change")
    chat.state.draft = chat.session.conversation.messages[last].text
    chat.state.edited_from = last
    chat.console.notice("Edit your last message; Enter sends it again, Ctrl-C cancels.")


def _copy(chat: LoadedChat, argument: str) -> None:
    kind, _, number = argument.partition(" ")
    text = _last_answer(chat.session).text
    if kind == "code":
        text = _code_block(code_blocks(text), number.strip())
    elif kind:
        raise UsageError(f"{kind} cannot be copied. Try: /copy, /copy code, or /copy code 2")
    chat.console.notice(copy(text, chat.console))


def _code_block(blocks: Sequence[str], number: str) -> str:
    """Return the block with this number, which counts from 1; for an empty one the last. Raises UsageError."""
    if not blocks:
        raise UsageError("There is no code in the last answer. /copy takes all of it.")
    if not number:
        return blocks[-1]
    if not (number.isascii() and number.isdigit() and len(number) < 10 and 1 <= int(number) <= len(blocks)):
        raise UsageError(f"The last answer has {counted(len(blocks), 'code block')}, and none is number {number}.")
    return blocks[int(number) - 1]


def _tokens(chat: LoadedChat, argument: str) -> None:
    if argument == "last":
        console = chat.console
        inspected = _inspected(chat)
        if inspected:
            show_lines_on_stderr(token_lines(inspected, console.stderr.columns, colored=console.colors), console)
        return
    if argument:
        raise UsageError(f"There is no /tokens {argument}. Try: /tokens, or /tokens last")
    used, most = chat.session.used_tokens, chat.session.context_tokens
    rows = [(used, f"of {most:,} tokens: the conversation as the next turn reads it ({used / most:.0%})")]
    end = chat.session.last_end
    if end is not None:
        rows += [
            (end.reasoning_tokens, "of the last turn's reasoning, which the next turn does not read"),
            (end.answer_tokens, "of the last answer"),
            (end.prefilled_tokens, "had to be read for the last turn; the rest was cached"),
        ]
    columns = chat.console.stderr.columns - _FIGURE_COLUMNS
    for figure, words in rows:
        first, *others = (text_of(row) for row in wrap([Span(words)], columns, whole_words=True))
        chat.console.err(f"{figure:>{_FIGURE_COLUMNS - 1},} {first}\n")
        chat.console.err("".join(f"{' ' * _FIGURE_COLUMNS}{row}\n" for row in others))


def _experts(chat: LoadedChat, argument: str) -> None:
    inspected = _inspected(chat)
    if not inspected:
        return
    tokens = [token.info.experts for token in inspected if token.info.experts]
    if not tokens:
        raise UsageError(
            "The experts of the last turn are not known: it is too short, or its model does not report them."
        )
    show_lines_on_stderr(expert_lines(tokens, tokens[0][0].count, chat.console.stderr.columns), chat.console)


def _inspected(chat: LoadedChat) -> list[Token]:
    """Return the tokens of the last turn, none if the user stops before the first. Raises UsageError."""
    turn = chat.session.last_turn
    if turn is None or not turn.ids:
        raise UsageError("There is no turn to show. Send a message first.")
    return chat.inspect_last_turn()


def _raw(chat: LoadedChat, argument: str) -> None:
    if not chat.session.last_raw:
        raise UsageError("There is no turn to show. Send a message first.")
    for text, style in raw_pieces(chat.session.last_raw):
        chat.console.err(text, style)
    chat.console.err("\n")


def _new(chat: LoadedChat, argument: str) -> None:
    chat.session.recorder = chat.saving.begin()
    chat.session.kv_names = []
    chat.keep_messages(0)
    chat.session.conversation.date = chat.state.date or datetime.date.today()
    chat.state.attached = []
    chat.console.notice("A new conversation.")


def _last_user_message(session: ChatSession, purpose: str) -> int:
    """Return the index of the user's last message. Raises UsageError."""
    messages = session.conversation.messages
    indices = [i for i, message in enumerate(messages) if message.role is Role.USER]
    if not indices:
        raise UsageError(f"There is no message to {purpose} yet.")
    return indices[-1]


def _last_answer(session: ChatSession) -> Message:
    answers = [message for message in session.conversation.messages if message.is_answer]
    if not answers:
        raise UsageError("There is no answer yet.")
    return answers[-1]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


COMMANDS: Final[dict[str, Callable[[LoadedChat, str], None]]] = {
    "/effort": _effort,
    "/model": _model,
    "/instructions": _instructions,
    "/set": _set,
    "/keep": _keep,
    "/file": _file,
    "/retry": _retry,
    "/undo": _undo,
    "/edit": _edit,
    "/copy": _copy,
    "/tokens": _tokens,
    "/experts": _experts,
    "/raw": _raw,
    "/new": _new,
    **CONVERSATION_COMMANDS,
}
