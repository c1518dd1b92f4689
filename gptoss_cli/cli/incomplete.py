"""The words for answers that are incomplete, on the command line and in a chat.

Not in hints.py, which `gptoss --help` imports too: the events of Harmony take milliseconds to import.
"""

from typing import Final

from gptoss_cli.chat.stopping import Incomplete, Problem
from gptoss_cli.cli.hints import with_hints
from gptoss_cli.errors import Hint

_MORE_ROOM: Final = (Hint.LARGER_CONTEXT,), (Hint.SHORTER_CONVERSATION, Hint.LARGER_CONTEXT)
_NOT_FINITE: Final = "The answer ends here: the model computed numbers that are not finite"
_CUT_SHORT: Final[dict[Problem, tuple[str, str]]] = {
    # The limit may come from a flag, a variable or the settings.
    Problem.TOKEN_LIMIT: ("max-tokens is used up.", "max-tokens is used up. /set max-tokens changes it."),
    Problem.REPETITION: ("it repeated itself and was stopped. Ask in another way.",) * 2,
}
_FAILED: Final[dict[Problem, tuple[str, str]]] = {
    Problem.NO_ANSWER: ("The model ended its turn without an answer. Ask again.",) * 2,
    Problem.TOOL_CALL: ("The model called a tool, but there are no tools. Ask again.",) * 2,
    Problem.INTERRUPTED: ("Stopped.", "Stopped. The partial answer stays in the conversation."),
    Problem.WRONG_FORMAT: ("The answer does not match the requested format. Ask again.",) * 2,
}


def incomplete_words(incomplete: Incomplete, *, in_chat: bool = False) -> str:
    """Return one line that says what is missing of an answer, and why."""
    problem = incomplete.problem
    if problem in _FAILED:
        return _FAILED[problem][in_chat]
    if problem is Problem.NUMERICAL_FAILURE:
        return with_hints(_NOT_FINITE, Hint.FLOAT32, in_chat=in_chat)
    lacking = "The answer is cut short" if incomplete.answered else "No answer"
    if problem is Problem.CONTEXT_FULL:
        return with_hints(f"{lacking}: the context is full", *_MORE_ROOM[in_chat], in_chat=in_chat)
    if problem is Problem.TIMEOUT:
        return f"{lacking}: {timeout_words(incomplete.timeout_seconds)}."
    return f"{lacking}: {_CUT_SHORT[problem][in_chat]}"


def timeout_words(seconds: float | None) -> str:
    """Return the reason that a time limit was reached, without a final full stop."""
    if seconds is None:
        return "the time for it ran out"
    return f"the {seconds:g} second{'' if seconds == 1 else 's'} of --timeout ran out"
