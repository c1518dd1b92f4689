"""`gptoss completions`: prints the script that completes gptoss in a shell."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gptoss_cli.cli.definition import command
from gptoss_cli.errors import GptossError
from gptoss_cli.terminal.console import Console


class Shell(StrEnum):
    """A shell that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


_SCRIPTS = {
    Shell.BASH: "gptoss.bash",
    Shell.ZSH: "_gptoss",
    Shell.FISH: "gptoss.fish",
    Shell.POWERSHELL: "gptoss.ps1",
}


@command
def completions(
    shell: Annotated[Shell, typer.Argument(help="The shell to complete in.", show_default=False)], *, console: Console
) -> None:
    """Print the completion script of a shell. For bash: gptoss completions bash > ~/.bash_completion"""
    console.out(find_script(_SCRIPTS[shell]).read_text("utf-8"))


def find_script(name: str) -> Path:
    """The script of that name: beside the package in a copy of the repository, else where installing put it.

    Raises GptossError if it is in neither place.
    """
    script = Path(__file__).parents[2] / "completions" / name
    if script.is_file():
        return script
    from importlib import metadata

    for file in metadata.files("gptoss") or ():
        if file.name == name and (installed := Path(str(file.locate()))).is_file():
            return installed
    raise GptossError(f"The completion script {name} is not installed. Install gptoss again: pip install gptoss")
