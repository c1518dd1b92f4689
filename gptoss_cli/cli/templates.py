"""Prompt templates: texts in the settings folder, with `$input` for the prompt and other names for parameters."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from gptoss_cli.cli.options import TemplateOptions
from gptoss_cli.cli.prompt_input import AttachedFile, prompt_text, read_text_file, valid_text
from gptoss_cli.errors import UsageError
from gptoss_cli.settings import config_folder
from gptoss_cli.terminal.console import Console

_INPUT: Final = "input"
# `$name`, `${name}`, and `$$` for a dollar sign. Any other one is text.
_VARIABLE: Final = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_][A-Za-z_0-9]*)|\{(?P<braced>[A-Za-z_][A-Za-z_0-9]*)\})"
)


@dataclass(frozen=True, slots=True)
class Template:
    """A template and the values of its parameters, which are complete."""

    name: str
    text: str
    parameters: Mapping[str, str]

    @property
    def takes_input(self) -> bool:
        """True if the text has a place for the prompt."""
        return _INPUT in _variables(self.text)

    def filled(self, prompt: str) -> str:
        """Return the text with its variables replaced. Without a place for it, `prompt` follows the text."""
        values = {**self.parameters, _INPUT: prompt}
        text = _VARIABLE.sub(
            lambda match: "$" if match["dollar"] else values[match["bare"] or match["braced"]], self.text
        )
        return text if self.takes_input or not prompt else f"{text}\n\n{prompt}"


def find_template(options: TemplateOptions | None, console: Console) -> Template | None:
    """Return the template that was asked for, or None. Raises UsageError if it or a parameter is missing or unknown."""
    if options is None or options.template is None:
        if options is not None and options.parameters:
            raise UsageError("--param needs a template. Add --template NAME.")
        return None
    name, folder = options.template, config_folder() / "templates"
    names = sorted(file.stem for file in folder.glob("*.txt"))
    if name not in names:
        close = get_close_matches(name, names, n=1)
        advice = f"Did you mean {close[0]}?" if close else f"Put its text into a file NAME.txt in {folder}"
        raise UsageError(f"There is no template {name!r}. {advice}")
    text = read_text_file(folder / f"{name}.txt", console).rstrip("\n")
    return Template(name, text, _parameters(name, text, options.parameters or ()))


def prompt_of(
    template: Template | None, words: Sequence[str], console: Console, *, attached: Sequence[AttachedFile] = ()
) -> str:
    """Return the prompt as `prompt_text` does, within the template if there is one. Raises as `prompt_text`."""
    if template is None:
        return prompt_text(words, console, attached=attached)
    return template.filled(prompt_text(words, console, attached=attached, optional=not template.takes_input))


def _parameters(name: str, text: str, given: Sequence[str]) -> dict[str, str]:
    wanted = [each for each in _variables(text) if each != _INPUT]
    values = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--param takes a name and a value, such as: --param {key} VALUE")
        if key not in wanted:
            known = f"It has: {', '.join(wanted)}" if wanted else "It has none"
            raise UsageError(f"The template {name} has no parameter {key!r}. {known}")
        values[key] = valid_text(value)
    missing = next((each for each in wanted if each not in values), None)
    if missing is not None:
        raise UsageError(f"The template {name} needs a value: --param {missing} VALUE. If it means a dollar sign: $$")
    return values


def _variables(text: str) -> list[str]:
    """Return the names in a template, each once, in order."""
    found = (match["bare"] or match["braced"] for match in _VARIABLE.finditer(text))
    return list(dict.fromkeys(name for name in found if name))
