"""The environment of one command: its streams and a way to open a model, which tests replace."""

from dataclasses import dataclass

from gptoss_cli.chat.request import OpenModel
from gptoss_cli.terminal.console import Console


@dataclass(frozen=True, slots=True)
class Environment:
    """The parts of the process that a command uses."""

    console: Console
    open_model: OpenModel
