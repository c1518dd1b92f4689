"""Opens a chat: finds the checkpoint, chooses a placement, loads the model and begins the conversation."""

import logging
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

from gptoss_cli import settings
from gptoss_cli.cache_files import KV_LIMIT_BYTES
from gptoss_cli.chat.request import ChatRequest, ModelInfo, Notify, OpenedModel, Say
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.checkpoint.manifest import is_commit
from gptoss_cli.checkpoint.store import locations
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.engine import loader
from gptoss_cli.errors import Hint
from gptoss_cli.generation import TokenGenerator
from gptoss_cli.placement import hardware
from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.model_config import ModelConfig, load_config
from gptoss_cli.placement.placement import Placement
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Execution

# Without any handler Python writes warnings to stderr, also if nobody asked for a log.
_NO_LOG: Final = logging.NullHandler()


def open_model(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
    """Find the model, load it and begin a conversation. See OpenModel.

    Raises the errors of `choose_checkpoint`, `choose_placement` and the loader.
    """
    logging.getLogger("gptoss_cli").addHandler(_NO_LOG)
    name, folder = choose_checkpoint(request.model, notice)
    placement = choose_placement(name, folder, request.placement, notice, every_reason=request.every_reason)
    progress(f"Loading {name}")
    kv_limit_bytes = KV_LIMIT_BYTES if request.prefix_cache else 0
    generator = loader.load(folder, placement, progress=progress, kv_limit_bytes=kv_limit_bytes)
    session = _begin(generator, request)
    if request.prefix_cache:
        generator.keep_prefix(session.prefix())
    if generator.numerics is not None and generator.numerics.shortcoming is not None:
        notice(f"{generator.numerics.shortcoming}. Until then the model runs slowly.")
    info = ModelInfo(
        name,
        revision_of(folder),
        execution=placement.execution,
        device=placement.device,
        dtype=request.placement.dtype,
    )
    return OpenedModel(session, info, generator.measure_attention)


def choose_checkpoint(model: str | None, notice: Notify) -> tuple[str, Path]:
    """Return the name and folder of `model`; for None of the first published model that is installed, else the demo.

    Raises UsageError, NotInstalledError or IntegrityError.
    """
    if model is None:
        for name, folder in store.installed().items():
            return name, folder
        notice("No model is installed: the built-in demo answers", Hint.DOWNLOAD, subject="20b")
    if model is None or catalog.find_model(model) is catalog.DEMO:
        return catalog.DEMO.name, demo_checkpoint()
    return model, store.find_checkpoint(model)


def choose_placement(
    name: str, folder: Path, request: PlacementRequest, notice: Notify, *, every_reason: bool = False
) -> Placement:
    """Choose how the checkpoint in `folder` runs on this machine.

    A notice gives the warnings of the placement, with `every_reason` all of its reasons; none for the demo.
    Raises what `choose` raises, and NotInstalledError or IntegrityError for the config of the checkpoint.
    """
    return place_config(name, load_config(weights_folder(folder) / "config.json"), request, notice, every_reason)


def place_config(
    name: str, config: ModelConfig, request: PlacementRequest, notice: Notify, every_reason: bool
) -> Placement:
    """Choose how a model with `config` runs on this machine. See choose_placement."""
    is_demo = name == catalog.DEMO.name
    if is_demo and request.device == "auto" and request.execution is Execution.AUTO:
        # The demo is so small that it has answered before a GPU is ready.
        request = replace(request, device="cpu")
    placement = choose(config, hardware.detect(settings.data_folder()), request)
    reasons = placement.reasons if every_reason else placement.warnings
    if reasons and not is_demo:
        notice(" ".join((f"{name} runs {placement.summary}.", *(reason.text for reason in reasons))))
    return placement


def _begin(generator: TokenGenerator, request: ChatRequest) -> ChatSession:
    """Return an empty conversation with a loaded model."""
    return ChatSession(
        generator,
        instructions=request.instructions,
        effort=request.effort,
        date=request.date or date.today(),
        settings=request.settings,
    )


def revision_of(folder: Path) -> str | None:
    """Return the commit of a checkpoint from its manifest or, in the Hugging Face cache, its folder; else None."""
    manifest = next((location.manifest() for location in locations() if location.folder == folder), None)
    if manifest is not None:
        return manifest.commit
    return folder.name if folder.parent.name == "snapshots" and is_commit(folder.name) else None
