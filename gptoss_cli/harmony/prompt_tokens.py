"""The tokens of a rendered prompt, each with its text and the message that it belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass

from gptoss_cli.harmony.vocabulary import CHANNEL, END, FIRST_SPECIAL_ID, MESSAGE, START, load_encoding


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token, with the role and channel of its message; both empty until the header has named them.

    A special token has its name as text. Bytes that are only a part of a character are shown as U+FFFD.
    """

    id: int
    text: str
    role: str
    channel: str


def prompt_tokens(ids: Sequence[int]) -> list[PromptToken]:
    """Return the tokens of `ids`, which are whole messages and perhaps the header of another one."""
    encoding = load_encoding()
    tokens: list[PromptToken] = []
    begin = 0
    for end in (*(i for i, token in enumerate(ids) if token == START and i), len(ids)):
        message = list(ids[begin:end])
        texts = [encoding.decode([token]) for token in message]
        role, channel = _header(message, texts)
        tokens += [PromptToken(token, text, role, channel) for token, text in zip(message, texts, strict=True)]
        begin = end
    return tokens


def _header(message: Sequence[int], texts: Sequence[str]) -> tuple[str, str]:
    """Return role and channel: the words after <|start|> and <|channel|>, up to the next special token."""
    named = {START: "", CHANNEL: ""}
    current = None
    for token, text in zip(message, texts, strict=True):
        if token in (MESSAGE, END):
            break
        if token >= FIRST_SPECIAL_ID:
            current = token if token in named else None
        elif current is not None:
            named[current] += text
    return named[START].strip(), named[CHANNEL].strip()
