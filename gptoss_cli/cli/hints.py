"""The words for hints: flags on the command line, slash commands in a chat."""

from typing import Final

from gptoss_cli.errors import GptossError, Hint

_START: Final = "start gptoss chat with"

# Hint -> a verb and its object, on the command line and in a chat. `{subject}` is GptossError.subject.
HINT_WORDS: Final[dict[Hint, tuple[tuple[str, str], tuple[str, str]]]] = {
    Hint.DOWNLOAD: (("run:", "gptoss download {subject}"), ("run:", "gptoss download {subject}")),
    Hint.LARGER_CONTEXT: (("use", "a larger --context"), (_START, "a larger --context")),
    Hint.SMALLER_CONTEXT: (("use", "a smaller --context"), (_START, "a smaller --context")),
    Hint.VALID_CONTEXT: (("check", "--context"), (_START, "another --context")),
    Hint.SHORTER_CONVERSATION: (
        ("shorten", "it"),
        ("use", "/undo to take the last turn back, or /new to begin a new conversation"),
    ),
    Hint.CPU: (("use", "--device cpu"), (_START, "--device cpu")),
    Hint.APPLE_GPU: (("use", "--device mps"), (_START, "--device mps")),
    Hint.ANOTHER_DEVICE: (("use", "another --device or none"), (_START, "another --device or none")),
    Hint.OFFLOAD: (("use", "--execution offload"), (_START, "--execution offload")),
    Hint.LESS_GPU_MEMORY: (("use", "a smaller --gpu-memory"), (_START, "a smaller --gpu-memory")),
    Hint.FLOAT32: (("use", "--dtype float32"), (_START, "--dtype float32")),
    Hint.BF16_DENSE: (("use", "--dense bf16"), (_START, "--dense bf16")),
    Hint.CONSISTENT_PLACEMENT: (
        ("leave out", "--execution or --device"),
        ("start gptoss chat without", "--execution or --device"),
    ),
    Hint.EDIT_SETTINGS: (("run:", "gptoss config edit"), ("run:", "gptoss config edit")),
    Hint.ANOTHER_REVISION: (("use", "another --revision"), ("run:", "gptoss download with another --revision")),
    Hint.INSTALL_STRUCTURED: (
        ("run:", "pip install 'gptoss[structured]'"),
        ("run:", "pip install 'gptoss[structured]'"),
    ),
    Hint.INSTALL_TORCH: (("install torch again:", "pip install torch"), ("install torch again:", "pip install torch")),
}


def sentence(error: GptossError, *, in_chat: bool = False) -> str:
    """Return the message of `error`, followed by its hints in words."""
    message = str(error)
    if not error.hints:
        return message
    words = [HINT_WORDS[hint][in_chat] for hint in error.hints]
    advice = _alternatives([(verb, what.format(subject=error.subject).rstrip()) for verb, what in words])
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} {advice}"


def _alternatives(words: list[tuple[str, str]]) -> str:
    """Return one clause; a verb that is the same as the one before it is not repeated."""
    before = [None, *(verb for verb, _ in words)]
    parts = [what if verb == last else f"{verb} {what}" for (verb, what), last in zip(words, before, strict=False)]
    joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, or {parts[-1]}"
    return joined[0].upper() + joined[1:]
