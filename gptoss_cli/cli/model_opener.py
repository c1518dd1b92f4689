"""Opening a model for a command, with the engine, which is imported at that moment and not earlier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gptoss_cli.cli.hints import sentence
from gptoss_cli.errors import Hint, IntegrityError, ResourceError, UsageError, first_line
from gptoss_cli.terminal.console import Console

# For annotations alone: help and most commands open no model.
if TYPE_CHECKING:
    from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, OpenModel, Say


def open_model(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
    """Open a model with the engine of this program. Raises ResourceError if torch cannot be imported.

    torch is imported now and not earlier: a chat calls this in a thread, after its prompt has appeared. A model on a
    server does not need it.
    """
    if request.server is not None:
        from gptoss_cli.chat.remote_opening import open_remote

        return open_remote(request, progress=progress, notice=notice)
    with torch_errors():
        from gptoss_cli.chat.opening import open_model
    return open_model(request, progress=progress, notice=notice)


def opener(console: Console) -> OpenModel:
    """Return `open_model`, after which a file that becomes shorter while it is mapped ends the program in one line."""

    model = ""

    def line(path: str) -> str:
        message = f"{path} became shorter while it was in use, so gptoss cannot go on"
        return console.last_line(sentence(IntegrityError(message, Hint.VERIFY, subject=model)))

    def open_guarded(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        nonlocal model
        if request.server is not None:
            return open_model(request, progress=progress, notice=notice)
        model = request.model or ""
        with torch_errors():
            from gptoss_cli.chat.opening import end_at_lost_page
        end_at_lost_page(line, console.modes)
        opened = open_model(request, progress=progress, notice=notice)
        end_at_lost_page(line, console.modes)  # now with the names of the files
        return opened

    return open_guarded


@contextmanager
def torch_errors() -> Iterator[None]:
    """Raise ResourceError if an import within the block fails."""
    try:
        yield
    except (ImportError, OSError) as exc:
        if "failed to map" in str(exc) or "Cannot allocate" in str(exc):  # the words of the C library's loader
            raise ResourceError("There is not enough memory to load the engine", Hint.FREE_MEMORY) from exc
        raise ResourceError(f"The engine cannot be loaded: {first_line(exc)}", Hint.INSTALL_TORCH) from exc


@contextmanager
def serve_errors() -> Iterator[None]:
    """Raise UsageError if a module of the extra `serve` is missing within the block."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError("The server needs starlette and uvicorn, which are not installed", Hint.INSTALL_SERVE) from exc
