"""The words for hints and for incomplete answers: flags on the command line, slash commands in a chat."""

from typing import Final

from gptoss_cli.chat.request import Notify
from gptoss_cli.chat.stopping import Incomplete, Problem
from gptoss_cli.errors import GptossError, Hint
from gptoss_cli.terminal.console import Console

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


_MORE_ROOM: Final = (Hint.LARGER_CONTEXT,), (Hint.SHORTER_CONVERSATION, Hint.LARGER_CONTEXT)
_NOT_FINITE: Final = "The answer ends here: the model computed numbers that are not finite"
_CUT_SHORT: Final[dict[Problem, tuple[str, str]]] = {
    Problem.TOKEN_LIMIT: ("--max-tokens is used up.", "max-tokens is used up. /set max-tokens changes it."),
    Problem.TIMEOUT: ("--timeout has passed.", "the time limit has passed."),
    Problem.REPETITION: ("it repeated itself and was stopped. Ask in another way.",) * 2,
}
_FAILED: Final[dict[Problem, tuple[str, str]]] = {
    Problem.NO_ANSWER: ("The model ended its turn without an answer. Ask again.",) * 2,
    Problem.TOOL_CALL: ("The model called a tool, but there are no tools. Ask again.",) * 2,
    Problem.INTERRUPTED: ("Stopped.", "Stopped. The partial answer stays in the conversation."),
    Problem.WRONG_FORMAT: ("The answer does not match the requested format. Ask again.",) * 2,
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


def with_hints(message: str, *hints: Hint, subject: str = "", in_chat: bool = False) -> str:
    """Return `message`, followed by `hints` in words."""
    if not hints:
        return message
    words = [HINT_WORDS[hint][in_chat] for hint in hints]
    advice = _alternatives([(verb, what.format(subject=subject).rstrip()) for verb, what in words])
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} {advice}"


def incomplete_words(incomplete: Incomplete, *, in_chat: bool = False) -> str:
    """Return one line that says what is missing of an answer, and why."""
    problem = incomplete.problem
    if problem in _FAILED:
        return _FAILED[problem][in_chat]
    if problem is Problem.NUMERICAL_FAILURE:
        return with_hints(_NOT_FINITE, Hint.FLOAT32, in_chat=in_chat)
    lacking = "The answer is cut short" if incomplete.answered else "There is no answer"
    if problem is Problem.CONTEXT_FULL:
        return with_hints(f"{lacking}: the context is full", *_MORE_ROOM[in_chat], in_chat=in_chat)
    return f"{lacking}: {_CUT_SHORT[problem][in_chat]}"


def _alternatives(words: list[tuple[str, str]]) -> str:
    """Return one clause; a verb that is the same as the one before it is not repeated."""
    before = [None, *(verb for verb, _ in words)]
    parts = [what if verb == last else f"{verb} {what}" for (verb, what), last in zip(words, before, strict=False)]
    joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, or {parts[-1]}"
    return joined[0].upper() + joined[1:]
