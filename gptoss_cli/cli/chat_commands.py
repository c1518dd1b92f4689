"""The slash commands of a chat that need the model. A wrong argument is a UsageError and changes nothing."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.cli.conversation_commands import CONVERSATION_COMMANDS
from gptoss_cli.cli.loaded_chat import LoadedChat
from gptoss_cli.cli.prompt_input import attachment, instructions_text
from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.events import Message, Role, Token
from gptoss_cli.paths import typed_path
from gptoss_cli.settings import LARGEST_SEED, ReasoningEffort
from gptoss_cli.terminal.architecture_table import show_lines_on_stderr
from gptoss_cli.terminal.clipboard import copy
from gptoss_cli.terminal.markdown.parse import code_blocks
from gptoss_cli.terminal.slash import SETTINGS
from gptoss_cli.terminal.turn_inspection import expert_lines, token_lines
from gptoss_cli.terminal.turn_plain import raw_pieces

# Minimum, maximum and type of a setting.
_BOUNDS: Final[dict[str, tuple[int, int | None, type[float] | type[int]]]] = {
    "temperature": (0, 10, float),
    "top-p": (0, 1, float),
    "top-k": (1, None, int),
    "seed": (0, LARGEST_SEED, int),
    "max-tokens": (1, None, int),
    "think-budget": (0, None, int),
}


def _effort(chat: LoadedChat, argument: str) -> None:
    if argument not in list(ReasoningEffort):
        current = chat.session.conversation.effort
        raise UsageError(f"The effort is {current}. To change it: /effort none|low|medium|high")
    effort = ReasoningEffort(argument)
    cost = chat.session.set_effort(effort)
    note = f" The next turn reads {cost:,} tokens of the conversation again because of it." if cost else ""
    chat.console.notice(f"The effort is {effort} from now on.{note}")


def _model(chat: LoadedChat, argument: str) -> None:
    if not argument:
        raise UsageError("Name a model: /model 20b, /model 120b, /model demo, or the folder of a checkpoint")
    if chat.change_model(argument):
        chat.console.notice(f"{argument} answers from now on, with the conversation so far.")
    else:
        chat.console.notice("The model stays as it is.")


def _instructions(chat: LoadedChat, argument: str) -> None:
    conversation = chat.session.conversation
    if not argument:
        current = conversation.instructions or "There are no instructions. To give some: /instructions TEXT"
        chat.console.err(f"{current}\n")
        return
    conversation.instructions = None if argument == "off" else instructions_text(argument)
    chat.session.recorder.record(chat.session.snapshot())
    chat.console.notice("The instructions apply from the next turn on." if argument != "off" else "No instructions.")


def _set(chat: LoadedChat, argument: str) -> None:
    words = argument.split()
    if not words:
        for name in SETTINGS:
            value = getattr(chat.session.settings, _field(name))
            chat.console.err(f"  {name:<14}{'off' if value is None else value}\n")
        return
    if len(words) != 2 or words[0] not in SETTINGS:
        raise UsageError(f"Name a setting and its value, as in: /set temperature 0.7. Settings: {', '.join(SETTINGS)}")
    name, text = words
    change: dict[str, Any] = {_field(name): _value(name, text)}
    chat.session.settings = replace(chat.session.settings, **change)
    chat.session.recorder.record(chat.session.snapshot())
    chat.console.notice(f"{name} is {text} from now on.")


def _field(setting: str) -> str:
    """Return the attribute of TurnSettings for a setting."""
    return setting.replace("-", "_")


def _value(name: str, text: str) -> float | int | None:
    """Return the value of a setting. Raises UsageError."""
    least, most, kind = _BOUNDS[name]
    if text == "off" and kind is int:
        return None
    bounds = f"from {least} to {most}" if most is not None else f"of at least {least}, or off"
    try:
        number = kind(text)
    except ValueError:
        raise UsageError(f"{name} cannot be {text}. It is a number {bounds}.") from None
    # Written so that NaN is refused too.
    if not (least <= number and (most is None or number <= most)) or (name == "top-p" and number == 0):
        raise UsageError(f"{name} cannot be {text}. It is a number {bounds}.")
    return number


def _file(chat: LoadedChat, argument: str) -> None:
    if not argument:
        raise UsageError("Name a file to send along: /file PATH")
    attached = attachment(typed_path(argument), chat.console)
    chat.state.attached.append(attached)
    tokens = _message_tokens(chat.session, attached.text)
    chat.console.notice(f"{argument} goes along with the next message: about {tokens:,} tokens.")


def _message_tokens(session: ChatSession, text: str) -> int:
    """Return how many tokens a message adds to the next turn, without sending it."""
    before, conversation = session.used_tokens, session.conversation
    count = len(conversation.messages)
    conversation.add_user(text)
    tokens = session.used_tokens - before
    conversation.truncate(count)
    return tokens


def _retry(chat: LoadedChat, argument: str) -> None:
    if argument:
        _effort(chat, argument)
    last = _last_user_message(chat.session, "answer again")
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
    chat.console.notice("When you send it, it replaces your last message. Ctrl-C leaves everything as it is.")


def _copy(chat: LoadedChat, argument: str) -> None:
    text = _last_answer(chat.session).text
    if argument == "code":
        blocks = code_blocks(text)
        if not blocks:
            raise UsageError("There is no code in the last answer. /copy takes all of it.")
        text = blocks[-1]
    elif argument:
        raise UsageError(f"{argument} cannot be copied. Try: /copy, or /copy code")
    copy(text, chat.console)
    chat.console.notice(f"Copied {len(text):,} characters.")


def _tokens(chat: LoadedChat, argument: str) -> None:
    if argument == "last":
        console = chat.console
        shown = token_lines(_inspected(chat), console.stderr.columns, colored=console.colors)
        show_lines_on_stderr(shown, console)
        return
    if argument:
        raise UsageError(f"There is no /tokens {argument}. Try: /tokens, or /tokens last")
    used, most = chat.session.used_tokens, chat.session.context_tokens
    lines = [f"  {used:>9,} of {most:,} tokens: the conversation as the next turn reads it ({used / most:.0%})"]
    end = chat.session.last_end
    if end is not None:
        lines += [
            f"  {end.reasoning_tokens:>9,} of the last turn's reasoning, which the next turn does not read",
            f"  {end.answer_tokens:>9,} of the last answer",
            f"  {end.prefilled_tokens:>9,} were read for it; all others were cached",
        ]
    chat.console.err("\n".join(lines) + "\n")


def _experts(chat: LoadedChat, argument: str) -> None:
    tokens = [token.info.experts for token in _inspected(chat) if token.info.experts]
    if not tokens:
        raise UsageError(
            "The experts of the last turn are not known: it is too short, or its model does not report them."
        )
    show_lines_on_stderr(expert_lines(tokens, tokens[0][0].count, chat.console.stderr.columns), chat.console)


def _inspected(chat: LoadedChat) -> list[Token]:
    tokens = chat.inspect_last_turn()
    if not tokens:
        raise UsageError("There is no turn yet. Send a message first.")
    return tokens


def _raw(chat: LoadedChat, argument: str) -> None:
    if not chat.session.last_raw:
        raise UsageError("There is no turn yet. Send a message first.")
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
