"""Carries out the slash commands of a chat. What one is given wrongly is a UsageError, and changes nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gptoss_cli.chat import opening
from gptoss_cli.errors import UsageError
from gptoss_cli.settings import ReasoningDisplay, ReasoningEffort
from gptoss_cli.terminal.console import Style

if TYPE_CHECKING:
    from gptoss_cli.chat.session import ChatSession
    from gptoss_cli.cli.conversing import Chat
    from gptoss_cli.harmony.events import Message

# The least, the most, and what they count in.
_BOUNDS: dict[str, tuple[int, int | None, type[float] | type[int]]] = {
    "temperature": (0, 10, float),
    "top-p": (0, 1, float),
    "top-k": (1, None, int),
    "seed": (0, 2**32 - 1, int),
    "max-tokens": (1, None, int),
    "think-budget": (0, None, int),
}


def obey(chat: "Chat", name: str, argument: str) -> None:
    """Carry out the command `name`. Raises UsageError, or what the turn or the load it asks for raises."""
    if name in _WITHOUT_SESSION:
        _WITHOUT_SESSION[name](chat, argument)
        return
    session = chat.session()
    if session is not None:
        _WITH_SESSION[name](chat, session, argument)


def _help(chat: "Chat", argument: str) -> None:
    from gptoss_cli.terminal.slash import help_lines

    for typed, meaning in help_lines():
        chat.console.err(f"  {typed:<23}")
        chat.console.err(f"{meaning}\n", Style.DIM)


def _exit(chat: "Chat", argument: str) -> None:
    chat.leaving = True


def _reasoning(chat: "Chat", argument: str) -> None:
    if argument not in list(ReasoningDisplay):
        raise UsageError(f"The reasoning is set to {chat.reasoning}. To change it: /reasoning show|collapse|hide")
    chat.reasoning = ReasoningDisplay(argument)
    chat.console.notice(f"The reasoning is set to {argument} from now on.")


def _effort(chat: "Chat", session: "ChatSession", argument: str) -> None:
    if argument not in list(ReasoningEffort):
        raise UsageError(f"The effort is {session.conversation.effort}. To change it: /effort none|low|medium|high")
    effort = ReasoningEffort(argument)
    cost = session.set_effort(effort)
    price = f" The next turn reads {cost:,} tokens of the conversation again for it." if cost else ""
    chat.console.notice(f"The effort is {effort} from now on.{price}")


def _model(chat: "Chat", session: "ChatSession", argument: str) -> None:
    if not argument:
        raise UsageError("Which model goes on? Try: /model 20b, /model 120b, /model demo, or a checkpoint's folder")
    chat.change_model(argument)
    chat.console.notice(f"{argument} answers from now on, and knows the conversation.")


def _instructions(chat: "Chat", session: "ChatSession", argument: str) -> None:
    if not argument:
        current = session.conversation.instructions
        chat.console.err(f"{current}\n" if current else "There are no instructions. To give some: /instructions TEXT\n")
        return
    session.conversation.instructions = None if argument == "off" else opening.instructions_text(argument)
    chat.console.notice("The instructions hold from the next turn on." if argument != "off" else "No instructions.")


def _set(chat: "Chat", session: "ChatSession", argument: str) -> None:
    from gptoss_cli.terminal.slash import SETTINGS

    words = argument.split()
    if not words:
        for name in SETTINGS:
            value = getattr(session, name.replace("-", "_"))
            chat.console.err(f"  {name:<14}{'off' if value is None else value}\n")
        return
    if len(words) != 2 or words[0] not in SETTINGS:
        raise UsageError(f"That cannot be set. Try: /set temperature 0.7, or one of {', '.join(SETTINGS)}")
    name, value = words
    setattr(session, name.replace("-", "_"), _value(name, value))
    chat.console.notice(f"{name} is {value} from now on.")


def _value(name: str, value: str) -> float | int | None:
    """What `value` stands for. Raises UsageError."""
    least, most, kind = _BOUNDS[name]
    if value == "off" and kind is int:
        return None
    bounds = f"from {least} to {most}" if most is not None else f"from {least} on, or off"
    try:
        number = kind(value)
    except ValueError:
        raise UsageError(f"{name} cannot be {value}. It is a number {bounds}.") from None
    # Written so that what is no number at all is refused too.
    if not (least <= number and (most is None or number <= most)) or (name == "top-p" and number == 0):
        raise UsageError(f"{name} cannot be {value}. It is a number {bounds}.")
    return number


def _file(chat: "Chat", session: "ChatSession", argument: str) -> None:
    if not argument:
        raise UsageError("Which file goes along? Try: /file PATH")
    before = len(session.conversation.render())
    chat.attach(argument)
    # Counted as the next turn would read it, without sending it.
    conversation = session.conversation
    count = len(conversation.messages)
    conversation.add_user(chat.attached[-1])
    tokens = len(conversation.render()) - before
    conversation.truncate(count)
    chat.console.notice(f"{argument} goes along with the next message: about {tokens:,} tokens.")


def _retry(chat: "Chat", session: "ChatSession", argument: str) -> None:
    if argument:
        _effort(chat, session, argument)
    asked = _last_user(session, "answer again")
    chat.forget(asked + 1)
    chat.answer(lambda session: session.answer())


def _undo(chat: "Chat", session: "ChatSession", argument: str) -> None:
    asked = _last_user(session, "take back")
    text = session.conversation.messages[asked].text
    chat.forget(asked)
    chat.console.notice(f"Taken back: {_short(text)}")


def _edit(chat: "Chat", session: "ChatSession", argument: str) -> None:
    asked = _last_user(session, "change")
    chat.draft = session.conversation.messages[asked].text
    chat.edited_from = asked
    chat.console.notice("Sent, it takes the place of your last message. Ctrl-C leaves everything as it is.")


def _copy(chat: "Chat", session: "ChatSession", argument: str) -> None:
    from gptoss_cli.terminal.clipboard import copy
    from gptoss_cli.terminal.markdown.parse import code_blocks

    text = _last_answer(session).text
    if argument == "code":
        blocks = code_blocks(text)
        if not blocks:
            raise UsageError("There is no code in the last answer. /copy takes all of it.")
        text = blocks[-1]
    elif argument:
        raise UsageError(f"{argument} cannot be copied. Try: /copy, or /copy code")
    copy(text, chat.console)
    chat.console.notice(f"Copied {len(text):,} characters.")


def _save(chat: "Chat", session: "ChatSession", argument: str) -> None:
    if not argument:
        raise UsageError("Where to? Try: /save FILE")
    text = _last_answer(session).text
    file = Path(argument).expanduser()
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8") as stream:
            stream.write(f"{text}\n")
    except FileExistsError as exc:
        raise UsageError(f"{file} exists already. Give another name: /save FILE") from exc
    except OSError as exc:
        raise UsageError(f"{file} cannot be written: {exc.strerror}. Give another name: /save FILE") from exc
    chat.console.notice(f"The last answer is in {file}.")


def _tokens(chat: "Chat", session: "ChatSession", argument: str) -> None:
    used, most = len(session.conversation.render()), session.context_tokens
    lines = [f"  {used:>9,} of {most:,} tokens: the conversation as the next turn reads it ({used / most:.0%})"]
    end = session.last_end
    if end is not None:
        lines += [
            f"  {end.reasoning_tokens:>9,} of the last turn's reasoning, which the next turn does not read",
            f"  {end.answer_tokens:>9,} of the last answer",
            f"  {end.prefilled_tokens:>9,} were read for it, all others were known already",
        ]
    chat.console.err("\n".join(lines) + "\n")


def _raw(chat: "Chat", session: "ChatSession", argument: str) -> None:
    from gptoss_cli.terminal.turn_plain import raw_pieces

    if not session.last_raw:
        raise UsageError("There is no turn yet. Send a message first.")
    for text, style in raw_pieces(session.last_raw):
        chat.console.err(text, style)
    chat.console.err("\n")


def _new(chat: "Chat", session: "ChatSession", argument: str) -> None:
    chat.forget(0)
    chat.attached = []
    chat.console.notice("A new conversation.")


def _last_user(session: "ChatSession", wish: str) -> int:
    from gptoss_cli.harmony.events import Role

    messages = session.conversation.messages
    asked = [i for i, message in enumerate(messages) if message.role is Role.USER]
    if not asked:
        raise UsageError(f"There is no message to {wish} yet.")
    return asked[-1]


def _last_answer(session: "ChatSession") -> "Message":
    answers = [message for message in session.conversation.messages if message.is_answer]
    if not answers:
        raise UsageError("There is no answer yet.")
    return answers[-1]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


_WITHOUT_SESSION: "dict[str, Callable[[Chat, str], None]]" = {"/help": _help, "/exit": _exit, "/reasoning": _reasoning}
_WITH_SESSION: "dict[str, Callable[[Chat, ChatSession, str], None]]" = {
    "/effort": _effort,
    "/model": _model,
    "/instructions": _instructions,
    "/set": _set,
    "/file": _file,
    "/retry": _retry,
    "/undo": _undo,
    "/edit": _edit,
    "/copy": _copy,
    "/save": _save,
    "/tokens": _tokens,
    "/raw": _raw,
    "/new": _new,
}
