"""The real program, with a generator that plays prepared turns in place of a model.

    scripted_program.py TURNS.json ARGUMENT...

TURNS.json holds a list of turns; a turn is a list of pieces, each a text with Harmony's markers in it. A number is a
pause in seconds.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gptoss_cli.chat import opening
from gptoss_cli.cli import main
from gptoss_cli.cli.options import TurnOptions
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.terminal.console import Console
from tests.scripted_generator import ScriptedGenerator


def _ids(turn: list[str | float]) -> Iterator[int]:
    for piece in turn:
        if isinstance(piece, str):
            yield from load_encoding().encode(piece, allowed_special="all")
        else:
            time.sleep(piece)


def scripted_opening(script: str) -> Callable[[TurnOptions, Console], opening.OpenedModel]:
    """What takes the place of `opening.open_model` to play the turns in the file `script`."""

    def open_scripted(options: TurnOptions, console: Console) -> opening.OpenedModel:
        played = [_ids(turn) for turn in json.loads(Path(script).read_text("utf-8"))]
        session = opening.begin(ScriptedGenerator(played), opening.instructions_text(options.instructions), options)
        return opening.OpenedModel(session, opening.ModelInfo("scripted"))

    return open_scripted


if __name__ == "__main__":
    opening.open_model = scripted_opening(sys.argv[1])  # type: ignore[assignment]
    sys.exit(main.run(sys.argv[2:]))
