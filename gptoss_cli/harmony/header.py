"""What a message header says, read leniently: every text is some header, and what has no place in one is told."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gptoss_cli.harmony.events import Channel, Message, Role
from gptoss_cli.harmony.vocabulary import ANALYSIS, ASSISTANT, CHANNEL, COMMENTARY, FINAL

_CHANNEL_MARK: Final = "<|channel|>"
_CONSTRAIN_MARK: Final = "<|constrain|>"
_CHANNEL_IDS: Final = ((Channel.ANALYSIS, ANALYSIS), (Channel.COMMENTARY, COMMENTARY), (Channel.FINAL, FINAL))
_CHANNELS: Final = frozenset(Channel)
_BEGINNING: Final = re.compile(
    r"(assistant)?( to(=[^\s<]*)?)?"
    r"(<\|channel\|>(?P<channel>\w*)( to(=[^\s<]*)?)?(?P<type> ?(<\|constrain\|>)?\w*))?"
)
_EVERYBODY: Final = frozenset({"user", "all"})
_TYPE_OF_ANSWER: Final = re.compile(r"<\|constrain\|>\w+|json|code|text")
_OTHER_ROLES: Final = frozenset(Role) - {Role.ASSISTANT}

ANSWER: Final = Message(Role.ASSISTANT, "")
REASONING: Final = Message(Role.ASSISTANT, "", channel=Channel.ANALYSIS)


@dataclass(frozen=True, slots=True)
class Header:
    """The message that follows, its text still empty; `stray` if the header held more than a header may."""

    message: Message
    stray: bool


def read_header(text: str, *, names_role: bool, otherwise: Message) -> Header:
    """Read the decoded text between `<|start|>` (or the prompt's end) and `<|message|>`.

    On well-formed headers this agrees with the library, which raises on many malformed ones and takes any
    single word for a recipient. `names_role`: a `<|start|>` was seen, so the first word is the role. `otherwise` is
    the message meant when no channel is named. A header of another role is stray, and its message is reasoning: the
    model plays somebody else.
    """
    head, *named = text.replace(_CONSTRAIN_MARK, f" {_CONSTRAIN_MARK}").split(_CHANNEL_MARK)
    words = head.split()
    role = _take_role(words, names_role=names_role)
    if role in _OTHER_ROLES or (role is not None and any(word.startswith("to=") for word in words)):
        return Header(REASONING, stray=True)
    channels = []
    for part in named:
        name = re.match(r"\s*[^\s<]*", part)
        assert name is not None
        channels.append(name[0].strip())
        words += part[name.end() :].split()
    message, rest = _sort_words(words, _choose_channel(channels, words, otherwise))
    return Header(message, stray=bool(rest) or role is not None or len(channels) > 1)


def may_become_header(text: str) -> bool:
    """Whether a well-formed header on a known channel can begin with `text`: nothing is said if it is cut there."""
    found = _BEGINNING.fullmatch(text)
    if found is None or ((found["type"] or "").strip() and " to=" not in text):
        return False
    return any(channel.startswith(found["channel"] or "") for channel in Channel)


def split_unfinished(ids: Sequence[int], otherwise: Message) -> tuple[Message, Sequence[int]]:
    """Of a header that never came to `<|message|>`: the message meant, and the ids that are its content.

    Works on ids, so that a character split over two tokens stays whole.
    """
    if ids and ids[0] == ASSISTANT:
        ids = ids[1:]
    if not ids or ids[0] != CHANNEL:
        return otherwise, ids
    for channel, name in _CHANNEL_IDS:
        if tuple(ids[1 : 1 + len(name)]) == name:
            return Message(Role.ASSISTANT, "", channel=channel), ids[1 + len(name) :]
    return otherwise, ids[1:]


def _take_role(words: list[str], *, names_role: bool) -> str | None:
    """Remove the role from the front of `words`; return it if it is not the assistant's."""
    if not words or words[0].startswith("to=") or words[0] in _CHANNELS:
        return None
    if words[0].startswith(Role.ASSISTANT):
        # "assistantfinal": the channel marker is missing.
        glued = words[0].removeprefix(Role.ASSISTANT)
        words[:1] = [glued] if glued else []
        return None
    return words.pop(0) if names_role else None


def _choose_channel(channels: Iterable[str], words: list[str], otherwise: Message) -> Message:
    named = [name for name in channels if name]
    if not named:
        # "assistant final": the marker is missing.
        named = [word for word in words if word in _CHANNELS][:1]
        for word in named:
            words.remove(word)
    if not named:
        return otherwise
    known = [name for name in named if name in _CHANNELS]
    return Message(Role.ASSISTANT, "", channel=(known or named)[-1])


def _sort_words(words: Iterable[str], message: Message) -> tuple[Message, list[str]]:
    """Give `message` its recipient and content type; return the words that are neither."""
    recipient, content_type = message.recipient, message.content_type
    rest = []
    for word in words:
        if word in ("to=", _CONSTRAIN_MARK):
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
    if recipient in _EVERYBODY:
        recipient = None
    if recipient is None and content_type and not _TYPE_OF_ANSWER.fullmatch(content_type):
        rest.append(content_type)
        content_type = None
    return replace(message, recipient=recipient, content_type=content_type), rest
