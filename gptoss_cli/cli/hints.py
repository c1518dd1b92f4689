"""The words for hints: flags on the command line, slash commands in a chat."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from gptoss_cli.errors import GptossError, Hint
from gptoss_cli.terminal.console import Console

# For an annotation alone: help and most commands open no model.
if TYPE_CHECKING:
    from gptoss_cli.chat.request import Notify

_Words = tuple[str, str]
# A shorter part of a password says nothing about it, and may be a part of any word.
_SHORTEST_SECRET: Final = 3
_SECRET_VARIABLES: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GPTOSS_SERVER_KEY")
_START: Final = "start gptoss chat with"


def _same(verb: str, what: str) -> tuple[_Words, _Words]:
    """Return words that fit both the command line and a chat."""
    return (verb, what), (verb, what)


# Hint -> a verb and its object, on the command line and in a chat. `{subject}` is GptossError.subject,
# `{quoted}` the same for a shell.
HINT_WORDS: Final[dict[Hint, tuple[_Words, _Words]]] = {
    Hint.DOWNLOAD: _same("run:", "gptoss download {subject}"),
    Hint.LARGER_CONTEXT: (("use", "a larger --context"), (_START, "a larger --context")),
    Hint.SMALLER_CONTEXT: (("use", "a smaller --context"), (_START, "a smaller --context")),
    Hint.VALID_CONTEXT: (("check", "--context"), (_START, "another --context")),
    Hint.SHORTER_CONVERSATION: (
        ("shorten", "it"),
        ("use", "/undo to take the last turn back, or /new to begin a new conversation"),
    ),
    Hint.CPU: (("use", "--device cpu"), (_START, "--device cpu")),
    Hint.APPLE_GPU: (("use", "--device mps"), (_START, "--device mps")),
    Hint.ANOTHER_PORT: _same("use", "another --port"),
    Hint.ANOTHER_DEVICE: (("use", "another --device or none"), (_START, "another --device or none")),
    Hint.OFFLOAD: (("use", "--execution offload"), (_START, "--execution offload")),
    Hint.LESS_GPU_MEMORY: (("use", "a smaller --gpu-memory"), (_START, "a smaller --gpu-memory")),
    Hint.FLOAT32: (("use", "--dtype float32"), (_START, "--dtype float32")),
    Hint.BF16_DENSE: (("use", "--dense bf16"), (_START, "--dense bf16")),
    Hint.CONSISTENT_PLACEMENT: (
        ("use", "another --execution or --device"),
        (_START, "another --execution or --device"),
    ),
    Hint.EDIT_SETTINGS: _same("run:", "gptoss config edit"),
    Hint.ANOTHER_REVISION: (("use", "another --revision"), ("run:", "gptoss download with another --revision")),
    Hint.INSTALL_STRUCTURED: _same("run:", "pip install 'gptoss[structured]'"),
    Hint.INSTALL_SERVE: _same("run:", "pip install 'gptoss[serve]'"),
    Hint.INSTALL_SOCKS: _same("run:", "pip install 'gptoss[socks]'"),
    Hint.INSTALL_TORCH: _same("install torch again:", "pip install torch"),
    Hint.FREE_MEMORY: _same("end", "other programs"),
    Hint.FREE_DISK_SPACE: _same("free", "disk space"),
    Hint.ANOTHER_DATA_FOLDER: _same("set", "GPTOSS_HOME to a folder on another disk"),
    Hint.RETRY: (("run", "the same command again"), ("try", "again")),
    Hint.RETRY_LATER: _same("try", "again later"),
    Hint.ALLOW_NETWORK: _same("unset", "HF_HUB_OFFLINE to use the network"),
    Hint.REINSTALL: _same("reinstall", "gptoss"),
    Hint.DELETE_FOLDER: _same("delete", "{subject}"),
    Hint.SAVE_ANSWER: (("write", "it to a file with -o FILE"), ("use", "/export FILE")),
    Hint.START_AGAIN: _same("start", "gptoss again"),
    Hint.LIST_CONVERSATIONS: (("run:", "gptoss conversations list"), ("use", "/conversations")),
    Hint.ANOTHER_MODEL: (("continue with", "another model: -m MODEL"), (_START, "another model: -m MODEL")),
    Hint.CHECK_SERVER: _same("check", "the address, and that the server is running"),
    Hint.SERVER_KEY: (
        ("use", "--api-key-file FILE, or set GPTOSS_SERVER_KEY"),
        (_START, "--api-key-file FILE, or set GPTOSS_SERVER_KEY"),
    ),
    Hint.SERVER_MODEL: (("use", "--server-model NAME"), (_START, "--server-model NAME")),
    Hint.SERVER_API: (
        ("use", "--server-api vllm, sglang or llama if it is one of these"),
        (_START, "--server-api vllm, sglang or llama if it is one of these"),
    ),
    Hint.TOKEN_SERVER: _same("ask", "a vLLM, SGLang or llama-server instead"),
    Hint.CONVERT: _same("run:", "gptoss convert {quoted} NAME"),
    Hint.CONVERT_AGAIN: _same("convert it again:", "gptoss remove {subject}, then gptoss convert SOURCE {subject}"),
    Hint.ALLOW_ROUNDING: _same("leave out", "--exact"),
    Hint.POLICY: (("give", "it one with -s @FILE"), ("give", "it one: /instructions @FILE")),
    Hint.FETCH_AND_CONVERT: _same("run:", "hf download {subject}, then gptoss convert {subject} NAME"),
    Hint.VERIFY: _same("run:", "gptoss verify {quoted}"),
}


def sentence(error: GptossError, *, in_chat: bool = False) -> str:
    """Return the message of `error`, followed by its hints in words."""
    return with_hints(str(error), *error.hints, subject=error.subject, in_chat=in_chat)


def notifier(console: Console) -> Notify:
    """Return a function that shows notices on `console`, with their hints in words."""

    def notice(text: str, *hints: Hint, subject: str = "") -> None:
        console.notice(with_hints(text, *hints, subject=subject))

    return notice


def unexpected(error: BaseException) -> str:
    """Return the words for an exception that is not ours."""
    if isinstance(error, MemoryError):
        return "There is not enough memory. Use a smaller --context or a smaller model"
    return f"An error in gptoss itself, {type(error).__name__}: {error}"


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` without passwords of proxies, the token of the Hub and keys, which other libraries may quote.

    A library that cannot parse the URL of a proxy may quote any part of it.
    """
    secrets = {environment.get(name, "") for name in _SECRET_VARIABLES}
    for name, value in environment.items():
        if name.lower().endswith("_proxy") and "@" in value:
            _, _, password = value.rpartition("@")[0].partition("://")[2].partition(":")
            password = password or value.rpartition("@")[0]
            secrets |= {password, unquote(password), *re.split(r"[/?#@:\[\]\s\\]", password)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def with_hints(message: str, *hints: Hint, subject: str = "", in_chat: bool = False) -> str:
    """Return `message`, followed by `hints` in words."""
    if not hints:
        return message
    words = [HINT_WORDS[hint][in_chat] for hint in hints]
    quoted = shlex.quote(subject) if subject else ""
    advice = _alternatives([(verb, what.format(subject=subject, quoted=quoted).rstrip()) for verb, what in words])
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} {advice}"


def _alternatives(words: list[_Words]) -> str:
    """Return one clause; a verb that is the same as the one before it is not repeated."""
    before = [None, *(verb for verb, _ in words)]
    parts = [what if verb == last else f"{verb} {what}" for (verb, what), last in zip(words, before, strict=False)]
    joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, or {parts[-1]}"
    return joined[0].upper() + joined[1:]
