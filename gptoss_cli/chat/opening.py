"""Opens a chat: finds the checkpoint, chooses a placement, loads the model and begins the conversation."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from gptoss_cli import settings
from gptoss_cli.chat.beginning import begin_session
from gptoss_cli.chat.request import ChatRequest, ModelInfo, Notify, OpenedModel, Say
from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.checkpoint.manifest import is_commit
from gptoss_cli.checkpoint.store import locations
from gptoss_cli.demo.unpack import demo_checkpoint
from gptoss_cli.engine import loader
from gptoss_cli.errors import Hint
from gptoss_cli.placement import hardware
from gptoss_cli.placement.choose import choose
from gptoss_cli.placement.fitting import Fit, fit
from gptoss_cli.placement.hardware import Hardware
from gptoss_cli.placement.model_config import ModelConfig, load_config, published_config
from gptoss_cli.placement.placement import Placement
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.settings import Execution
from gptoss_cli.terminal_modes import TerminalModes

_FIT_WORDS: Final = {
    Fit.GPU: "fits on the GPU",
    Fit.GPU_AND_HOST: "fits on GPU and CPU",
    Fit.HOST: "fits",
    Fit.DISK: "would run slowly, from disk",
    Fit.NONE: "does not fit",
}
# Without any handler Python writes warnings to stderr, also if nobody asked for a log.
_NO_LOG: Final = logging.NullHandler()


def open_model(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
    """Find the model, load it and begin a conversation. See OpenModel.

    Raises the errors of `choose_checkpoint`, `choose_placement` and the loader.
    """
    logging.getLogger("gptoss_cli").addHandler(_NO_LOG)
    name, folder = choose_checkpoint(request.model, notice)
    if (known := store.known_model(name)) is not None and known.is_classifier and request.instructions is None:
        notice(f"{known.name} is a classifier: it judges messages by the policy in its instructions", Hint.POLICY)
    placement = choose_placement(name, folder, request.placement, notice, every_reason=request.every_reason)
    progress(f"Loading {name}")
    generator = loader.load(folder, placement, progress=progress, notice=notice, kv_limit_bytes=request.kv_limit_bytes)
    session = begin_session(generator, request)
    if request.kv_limit_bytes and not (request.is_private and request.instructions):
        generator.keep_prefix(session.prefix())
    if generator.numerics is not None and generator.numerics.shortcoming is not None:
        notice(f"{generator.numerics.shortcoming}. Until then the model runs slowly.")
    info = ModelInfo(
        name,
        revision_of(folder),
        execution=placement.execution,
        device=placement.device,
        dtype=request.placement.dtype,
        cache_bytes=(placement.gpu or placement.host).cache_bytes,
    )
    return OpenedModel(
        session, info, generator.measure_attention, branching=generator if placement.sequences > 1 else None
    )


def end_at_lost_page(line: Callable[[str], str], terminal: TerminalModes | None) -> None:
    """End the process in one line when a mapped file becomes shorter. See `loader.end_at_lost_page`."""
    loader.end_at_lost_page(line, terminal)


def choose_checkpoint(model: str | None, notice: Notify) -> tuple[str, Path]:
    """Return the name and folder of `model`; for None of the first published model that is installed, else the demo.

    Raises UsageError, NotInstalledError or IntegrityError.
    """
    if model is None or catalog.find_model(model) not in (None, catalog.DEMO):
        for problem in store.damaged_copies():
            notice(str(problem), *problem.hints, subject=problem.subject)
    if model is None:
        for name, folder in store.installed().items():
            return name, folder
        advise_download(hardware.detect(settings.data_folder()), notice)
    if model is None or catalog.find_model(model) is catalog.DEMO:
        return catalog.DEMO.name, demo_checkpoint(notice=notice)
    return model, store.find_checkpoint(model)


def advise_download(machine: Hardware, notice: Notify) -> None:
    """Give the notice that there is no model yet: what would fit this machine, and how to get it."""
    sizes = {
        model.short_name: fit(published_config(layers=published.layers, experts=published.experts), machine)
        for model in catalog.MODELS
        if (published := model.published) is not None and not model.is_classifier
    }
    # The catalog begins with the smallest.
    best = next((name for name in reversed(sizes) if sizes[name].is_good), next(iter(sizes)))
    words = ", ".join(f"{name} {_FIT_WORDS[found]}" for name, found in sizes.items())
    notice(f"No model is installed: the built-in demo answers. On this machine {words}", Hint.DOWNLOAD, subject=best)


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


def revision_of(folder: Path) -> str | None:
    """Return the commit of a checkpoint from its manifest or, in the Hugging Face cache, its folder; else None."""
    manifest = next((location.manifest() for location in locations() if location.folder == folder), None)
    if manifest is not None:
        return manifest.commit
    return folder.name if folder.parent.name == "snapshots" and is_commit(folder.name) else None
