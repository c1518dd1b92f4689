"""`gptoss completions`: print the completion script of a shell."""

from importlib import metadata
from pathlib import Path

from gptoss_cli.cli.options import Shell
from gptoss_cli.errors import GptossError
from gptoss_cli.terminal.console import Console

SCRIPTS = {
    Shell.BASH: "gptoss.bash",
    Shell.ZSH: "_gptoss",
    Shell.FISH: "gptoss.fish",
    Shell.POWERSHELL: "gptoss.ps1",
}


def run_completions(shell: Shell, console: Console) -> None:
    """Run `gptoss completions`."""
    console.out(find_script(SCRIPTS[shell]).read_text("utf-8"))


def find_script(name: str) -> Path:
    """Return the script of that name: beside the package in a copy of the repository, else as installed.

    Raises GptossError if it is in neither place.
    """
    script = Path(__file__).parents[2] / "completions" / name
    if script.is_file():
        return script
    for file in metadata.files("gptoss") or ():
        if file.name == name and (installed := Path(str(file.locate()))).is_file():
            return installed
    raise GptossError(f"The completion script {name} is not installed. Install gptoss again: pip install gptoss")
