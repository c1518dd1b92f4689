"""Lenient parsing of message headers: every text is a header, and one with unexpected parts is marked malformed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gptoss_cli.harmony.events import Channel, Message, Role
from gptoss_cli.harmony.vocabulary import ANALYSIS, ASSISTANT, CHANNEL, COMMENTARY, FINAL

_CHANNEL_TEXT: Final = "<|channel|>"
_CONSTRAIN_TEXT: Final = "<|constrain|>"
_CHANNEL_IDS: Final = ((Channel.ANALYSIS, ANALYSIS), (Channel.COMMENTARY, COMMENTARY), (Channel.FINAL, FINAL))
_CHANNELS: Final = frozenset(Channel)
_HEADER_PREFIX: Final = re.compile(
    r"(assistant)?( to(=[^\s<]*)?)?"
    r"(<\|channel\|>(?P<channel>\w*)( to(=[^\s<]*)?)?(?P<type> ?(<\|constrain\|>)?\w*))?"
)
_USER_RECIPIENTS: Final = frozenset({"user", "all"})
_ANSWER_TYPE: Final = re.compile(r"<\|constrain\|>\w+|json|code|text")
_OTHER_ROLES: Final = frozenset(Role) - {Role.ASSISTANT}

ANSWER: Final = Message(Role.ASSISTANT, "")
REASONING: Final = Message(Role.ASSISTANT, "", channel=Channel.ANALYSIS)


@dataclass(frozen=True, slots=True)
class Header:
    """The message that a header opens, its text still empty; `malformed` if the header has unexpected parts."""

    message: Message
    malformed: bool


def read_header(text: str, *, has_role: bool, default: Message) -> Header:
    """Parse the decoded text between `<|start|>` (or the end of the prompt) and `<|message|>`.

    Well-formed headers are read as openai_harmony reads them, which raises on many malformed ones and takes any single
    word for a recipient. `has_role`: the first word is the role, since `<|start|>` came before it. `default` is the
    message if no channel is named. A header of another role than the assistant is malformed, and its message is
    reasoning, since the model only imitates that role.
    """
    head, *named = text.replace(_CONSTRAIN_TEXT, f" {_CONSTRAIN_TEXT}").split(_CHANNEL_TEXT)
    words = head.split()
    role = _take_role(words, has_role=has_role)
    if role in _OTHER_ROLES or (role is not None and any(word.startswith("to=") for word in words)):
        return Header(REASONING, malformed=True)
    channels = []
    for part in named:
        name = re.match(r"\s*[^\s<]*", part)
        assert name is not None
        channels.append(name[0].strip())
        words += part[name.end() :].split()
    message, rest = _take_recipient_and_type(words, _choose_channel(channels, words, default))
    return Header(message, malformed=bool(rest) or role is not None or len(channels) > 1)


def is_header_prefix(text: str) -> bool:
    """Return True if a well-formed header on a known channel can begin with `text`, which is then no content."""
    found = _HEADER_PREFIX.fullmatch(text)
    if found is None or ((found["type"] or "").strip() and " to=" not in text):
        return False
    return any(channel.startswith(found["channel"] or "") for channel in Channel)


def split_unfinished(ids: Sequence[int], default: Message) -> tuple[Message, Sequence[int]]:
    """Split a header without `<|message|>` into the message that it opens and the ids of the content.

    It is split by ids, so that a character of two tokens stays whole.
    """
    if ids and ids[0] == ASSISTANT:
        ids = ids[1:]
    if not ids or ids[0] != CHANNEL:
        return default, ids
    for channel, name in _CHANNEL_IDS:
        if tuple(ids[1 : 1 + len(name)]) == name:
            return Message(Role.ASSISTANT, "", channel=channel), ids[1 + len(name) :]
    return default, ids[1:]


def _take_role(words: list[str], *, has_role: bool) -> str | None:
    """Remove the role from the front of `words`. Return it unless it is the assistant."""
    if not words or words[0].startswith("to=") or words[0] in _CHANNELS:
        return None
    if words[0].startswith(Role.ASSISTANT):
        # "assistantfinal": <|channel|> is missing.
        joined = words[0].removeprefix(Role.ASSISTANT)
        words[:1] = [joined] if joined else []
        return None
    return words.pop(0) if has_role else None


def _choose_channel(channels: Iterable[str], words: list[str], default: Message) -> Message:
    named = [name for name in channels if name]
    if not named:
        # "assistant final": <|channel|> is missing.
        named = [word for word in words if word in _CHANNELS][:1]
        for word in named:
            words.remove(word)
    if not named:
        return default
    known = [name for name in named if name in _CHANNELS]
    return Message(Role.ASSISTANT, "", channel=(known or named)[-1])


def _take_recipient_and_type(words: Iterable[str], message: Message) -> tuple[Message, list[str]]:
    """Return `message` with its recipient and content type, and the words that are neither."""
    recipient, content_type = message.recipient, message.content_type
    rest = []
    for word in words:
        if word in ("to=", _CONSTRAIN_TEXT):
            continue
        if word.startswith("to="):
            if recipient is None:
                recipient = word.removeprefix("to=")
            else:
                rest.append(word)
        elif recipient is None and "." in word and word[-1] != "." and not word.startswith("<"):
            recipient = word
        elif content_type is None:
            content_type = word
        else:
            rest.append(word)
    if recipient in _USER_RECIPIENTS:
        recipient = None
    if recipient is None and content_type and not _ANSWER_TYPE.fullmatch(content_type):
        rest.append(content_type)
        content_type = None
    return replace(message, recipient=recipient, content_type=content_type), rest
