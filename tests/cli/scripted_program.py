"""The real program, with a generator that plays prepared turns in place of a model.

    scripted_program.py TURNS.json ARGUMENT...

TURNS.json holds a list of turns; a turn is a list of pieces, each a text with Harmony's markers in it. A number is a
pause in seconds.
"""

import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gptoss_cli.chat.request import ChatRequest, ModelInfo, Notify, OpenedModel, OpenModel, Say
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.cli import main
from gptoss_cli.generation import TokenGenerator
from gptoss_cli.harmony.vocabulary import load_encoding
from tests.scripted_generator import ScriptedGenerator


def _ids(turn: list[str | float]) -> Iterator[int]:
    for piece in turn:
        if isinstance(piece, str):
            yield from load_encoding().encode(piece, allowed_special="all")
        else:
            time.sleep(piece)


def opened_with(generator: TokenGenerator, request: ChatRequest) -> OpenedModel:
    """Return the conversation that `request` asks for, with `generator` as its model."""
    session = ChatSession(
        generator,
        instructions=request.instructions,
        effort=request.effort,
        date=request.date or datetime.date(2025, 8, 5),
        settings=request.settings,
    )
    return OpenedModel(session, ModelInfo("scripted"))


def scripted_opener(script: str) -> OpenModel:
    """Return an opener whose model plays the turns in the file `script`."""

    def open_scripted(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        turns = json.loads(Path(script).read_text("utf-8"))
        return opened_with(ScriptedGenerator([_ids(turn) for turn in turns]), request)

    return open_scripted


if __name__ == "__main__":
    sys.exit(main.run(sys.argv[2:], open_model=scripted_opener(sys.argv[1])))
