"""Functions that a client offers to the model: their names, their declaration in the prompt, and their arguments."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, Final

from openai_harmony import ToolDescription, ToolNamespaceConfig

from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.schemas import simplify
from gptoss_cli.harmony.structured_output import OutputFormat, is_available
from gptoss_cli.harmony.vocabulary import without_surrogates

_NAMESPACE: Final = "functions"
_PREFIX: Final = f"{_NAMESPACE}."
LONGEST_NAME: Final = 64
# The model was trained with tools of these names and calls them as it learned, whatever a client declares.
_RESERVED: Final = frozenset({"python", "browser", "container", "repo_browser", "apply_patch"}) | frozenset(
    {"functions", "assistant", "bash", "shell", "computer"}
)
_ALIAS_PREFIX: Final = "my_"
_KEPT_FORMATS: Final = 256
_MOST_CHARACTERS: Final = 1 << 20
# It takes time quadratic in the length of a word; see harmony.encoding, which handles other texts.
_LONG_RUN: Final = re.compile(r"[^ \t\n]{20000}|\s{5000}")


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function of a client. `parameters` is the JSON Schema of its arguments, None if it takes none."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = field(default=None, hash=False)


class ToolChoice(StrEnum):
    """The calls that a turn may make: none, the model's choice, or at least one."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


class Functions:
    """The functions that are offered in a conversation.

    The names in the prompt are aliases where the model could not write a name, or would mistake it for a tool that it
    was trained with: `recipient` and `name` translate. With ToolChoice.NONE the functions are declared, so that
    earlier calls make sense and the KV cache stays valid, but none can be called. `only` is the one function that may
    be called.
    """

    def __init__(
        self, tools: Iterable[FunctionTool] = (), *, choice: ToolChoice = ToolChoice.AUTO, only: str | None = None
    ) -> None:
        """Raises UsageError if two functions have one name, or if no function can be called as `choice` demands."""
        self.tools = tuple(tools)
        self.choice = choice
        names = [tool.name for tool in self.tools]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"The function {name!r} is declared twice")
        if only is not None and only not in names:
            raise UsageError(f"The function {only!r} is not declared")
        if choice is ToolChoice.REQUIRED and not names:
            raise UsageError("A call is required, and no function is declared")
        self._aliases = _aliases(names)
        self._names = {alias: name for name, alias in self._aliases.items()}
        self._callable = [] if choice is ToolChoice.NONE else names if only is None else [only]

    @property
    def recipients(self) -> tuple[str, ...]:
        """The recipients that may be called, such as `functions.look_up`."""
        return tuple(map(self.recipient, self._callable))

    @property
    def must_call(self) -> bool:
        """True if the turn has to end with a call."""
        return self.choice is ToolChoice.REQUIRED

    def recipient(self, name: str) -> str:
        """Return the recipient of a call to the function `name`, which may be one that is no longer declared."""
        return _PREFIX + (self._aliases.get(name) or _alias(without_surrogates(name)))

    def name(self, recipient: str) -> str:
        """Return the client's name of the function that `recipient` calls."""
        alias = recipient.removeprefix(_PREFIX)
        return self._names.get(alias, alias)

    def arguments_format(self, recipient: str) -> OutputFormat | None:
        """Return the format of the arguments of a call; None for any text: an unknown recipient, or no llguidance."""
        alias = recipient.removeprefix(_PREFIX)
        if alias not in self._names or not is_available():
            return None
        (tool,) = (tool for tool in self.tools if tool.name == self._names[alias])
        return _arguments_format(json.dumps(tool.parameters))

    @cached_property
    def declaration(self) -> ToolNamespaceConfig | None:
        """The declaration of the functions for openai_harmony; None if there are none.

        Raises UsageError if it is longer than any context, or has a word that openai_harmony cannot encode in time.
        """
        if not self.tools:
            return None
        described = [
            ToolDescription(
                name=self._aliases[tool.name],
                description=without_surrogates(tool.description),
                parameters=simplify(tool.parameters) if tool.parameters else None,
            )
            for tool in self.tools
        ]
        text = "".join(each.model_dump_json() for each in described)
        if len(text) > _MOST_CHARACTERS or _LONG_RUN.search(text):
            raise UsageError("The functions are declared with more text than the model can read")
        return ToolNamespaceConfig(name=_NAMESPACE, description=None, tools=described)


@lru_cache(maxsize=_KEPT_FORMATS)
def _arguments_format(schema: str) -> OutputFormat:
    return OutputFormat.of_arguments(json.loads(schema) or {"type": "object", "properties": {}})


def _alias(name: str) -> str:
    """Return `name` as an identifier that is not reserved and has at most LONGEST_NAME characters."""
    alias = re.sub(r"[^a-zA-Z0-9_]", "_", name)[:LONGEST_NAME] or "_"
    return f"{_ALIAS_PREFIX}{alias}"[:LONGEST_NAME] if alias in _RESERVED or alias[0].isdigit() else alias


def _aliases(names: Iterable[str]) -> dict[str, str]:
    """Return name -> its alias; no two are equal. A valid name is never changed for the sake of an invalid one."""
    aliases: dict[str, str] = {}
    taken = set[str]()
    for name in sorted(names, key=lambda name: _alias(name) != name):
        alias = base = _alias(without_surrogates(name))
        number = 2
        while alias in taken:
            alias = f"{base[: LONGEST_NAME - 1 - len(str(number))]}_{number}"
            number += 1
        taken.add(alias)
        aliases[name] = alias
    return aliases
