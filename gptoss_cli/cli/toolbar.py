"""The toolbar of a chat: one line about the model and the conversation, of which a narrow terminal shows less."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from gptoss_cli.checkpoint import catalog
from gptoss_cli.terminal.cells import cells, cut
from gptoss_cli.terminal.sanitize import one_line
from gptoss_cli.units import counted

_LONGEST_NAME: Final = 24
_SHORT_NAME: Final = 10
# The order in which parts are shortened by one form each until the line fits. The count of tokens is never left out.
_SHORTENED: Final = (
    "experts",
    "tokens",
    "effort",
    "rate",
    "model",
    "rate",
    "attached",
    "execution",
    "model",
    "effort",
    "attached",
    "tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatStatus:
    """The content of the toolbar. `context_tokens` 0: the model is loading; `model` is empty while its name is unknown.

    `attached` is how many files go with the next message.
    """

    model: str
    execution: str = ""
    effort: str = ""
    used_tokens: int = 0
    context_tokens: int = 0
    decode_rate: float | None = None
    expert_hit_rate: float | None = None
    attached: int = 0


def toolbar_line(status: ChatStatus, columns: int) -> str:
    """Return the line for a terminal of so many columns."""
    forms = _forms(status)
    shown = dict.fromkeys(forms, 0)
    for name in _SHORTENED:
        if cells(_joined(forms, shown)) <= columns:
            break
        shown[name] = min(shown[name] + 1, len(forms[name]) - 1)
    return _joined(forms, shown)


def _joined(forms: dict[str, list[str]], shown: dict[str, int]) -> str:
    return " · ".join(text for name, each in forms.items() if (text := each[shown[name]]))


def _forms(status: ChatStatus) -> dict[str, list[str]]:
    """Return the parts of the line in order, each in its forms from the longest to the shortest."""
    used, context = f"{status.used_tokens:,}", f"{status.context_tokens:,}"
    tokens = [f"{used} of {context} tokens", f"{used}/{context}", used] if status.context_tokens else ["loading"]
    rate, hits = status.decode_rate, status.expert_hit_rate
    return {
        "model": _names(status.model),
        "execution": [status.execution, ""],
        "effort": [f"effort {status.effort}" if status.effort else "", status.effort, ""],
        "tokens": tokens,
        "rate": ["", "", ""] if rate is None else [f"{rate:.1f} tokens/s", f"{rate:.1f}/s", ""],
        "experts": ["" if hits is None else f"{hits:.0%} of the experts on the GPU", ""],
        "attached": _attached(status.attached),
    }


def _names(model: str) -> list[str]:
    known = catalog.find_model(model) if model else None
    if known is not None:
        return [known.name, known.short_name, ""]
    name = one_line(PurePath(model).name or model)
    return [_cut(name, _LONGEST_NAME), _cut(name, _SHORT_NAME), ""]


def _cut(name: str, columns: int) -> str:
    return name if cells(name) <= columns else f"{cut(name, columns - 1)}…"


def _attached(count: int) -> list[str]:
    return [f"{counted(count, 'file')} attached", counted(count, "file"), ""] if count else ["", "", ""]
