"""What `ask` and `chat` have in common: choosing and loading a model, and running one turn."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gptoss_cli import settings
from gptoss_cli.cli.definition import TurnOptions
from gptoss_cli.errors import ExitStatus, ResourceError, UsageError
from gptoss_cli.settings import Execution
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.chat.session import ChatSession
    from gptoss_cli.engine.generator import Generator
    from gptoss_cli.generation import TokenGenerator
    from gptoss_cli.harmony.events import TurnEnd
    from gptoss_cli.placement.placement import Placement

_LARGEST_INSTRUCTIONS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Why a turn gave less than a whole answer."""

    status: ExitStatus
    message: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What answers, and how it is computed. `revision` is the commit of its checkpoint, None where it is not known."""

    model: str
    revision: str | None = None
    execution: str = "cpu"
    device: str = "cpu"
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A conversation that can begin, and what answers in it."""

    session: "ChatSession"
    running: ModelInfo


def open_session(options: TurnOptions, console: Console) -> "ChatSession":
    """The conversation of `open_model`."""
    return open_model(options, console).session


def open_model(options: TurnOptions, console: Console) -> OpenedModel:
    """Find the model, load it, and begin a conversation.

    Says on stderr when the demo model stands in for a real one. Raises whatever is wrong with the options before
    anything is loaded.
    """
    # Without a handler of its own a warning would reach stderr even where nobody asked for it.
    logging.getLogger("gptoss_cli").addHandler(logging.NullHandler())
    instructions = instructions_text(options.instructions)
    name, folder = choose_checkpoint(options.model, console)
    placement = place(name, folder, options, console)
    with console.activity() as activity:
        activity.say(f"Loading {name}")
        generator = load(folder, placement, options, activity.say)
        session = begin(generator, instructions, options)
        if not options.no_prefix_cache:
            generator.keep_prefix(session.prefix())
    if generator.numerics is not None and generator.numerics.shortcoming is not None:
        console.notice(f"{generator.numerics.shortcoming}. Until then it is slow.")
    running = ModelInfo(name, revision_of(folder), placement.execution, device=placement.device, dtype=options.dtype)
    return OpenedModel(session, running)


@contextmanager
def importing_the_engine() -> Iterator[None]:
    """Within the block what is wrong with torch is told as a ResourceError."""
    try:
        yield
    except (ImportError, OSError) as exc:
        raise ResourceError(f"The engine cannot be loaded: {exc}. Install torch again: pip install torch") from exc


def load(folder: Path, placement: "Placement", options: TurnOptions, say: Callable[[str], None]) -> "Generator":
    """The model in `folder`, as `placement` has it. Raises what loader.load raises, or that torch cannot be used."""
    with importing_the_engine():
        from gptoss_cli.engine import loader
    return loader.load(folder, placement, progress=say)


def place(name: str, folder: Path, options: TurnOptions, console: Console) -> "Placement":
    """Decide how the checkpoint in `folder` runs here, and say so: all of it at a terminal, else only what is amiss.

    Raises what choose raises, and what is wrong with the checkpoint's config.
    """
    from gptoss_cli.checkpoint import catalog
    from gptoss_cli.checkpoint.folder import weights_folder
    from gptoss_cli.placement import hardware
    from gptoss_cli.placement.choose import choose
    from gptoss_cli.placement.model_config import load_config
    from gptoss_cli.placement.request import PlacementRequest

    is_demo = name == catalog.DEMO.name
    is_open = options.device == "auto" and options.execution is Execution.AUTO
    wishes = PlacementRequest(
        execution=options.execution,
        # The demo is so small that it has answered before a GPU is ready.
        device="cpu" if is_demo and is_open else options.device,
        gpu_memory_bytes=options.gpu_memory,
        context_tokens=options.context,
        dtype=options.dtype,
        dense=options.dense,
        activations=options.activations,
        threads=options.threads,
    )
    config = load_config(weights_folder(folder) / "config.json")
    placement = choose(config, hardware.detect(settings.data_folder()), wishes)
    reasons = placement.reasons if console.reads_terminal else placement.warnings
    if reasons and not is_demo:
        console.notice(" ".join((f"{name} runs {placement.summary}.", *(reason.text for reason in reasons))))
    return placement


def begin(generator: "TokenGenerator", instructions: str | None, options: TurnOptions) -> "ChatSession":
    """An empty conversation with a model that is loaded."""
    from gptoss_cli.chat.session import ChatSession

    return ChatSession(
        generator,
        instructions=instructions,
        effort=options.effort,
        date=date.today(),
        seed=options.seed,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        max_tokens=options.max_tokens,
        think_budget=options.think_budget,
        free_headers=options.free_headers,
    )


@contextmanager
def stops(session: "ChatSession") -> Iterator[None]:
    """Within the block Ctrl-C asks the turn to stop: an exception could strike in the middle of a cache update.

    SIGTERM asks so too, and ends the program when the block is left.
    """
    received = set()

    def handle(number: int, frame: FrameType | None) -> None:
        received.add(number)
        session.stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
    if signal.SIGTERM in received:
        raise SystemExit(ExitStatus.TERMINATED)


def instructions_text(value: str | None) -> str | None:
    """The text given with -s, or what the file holds that is given with -s @FILE. Raises UsageError."""
    if value is None or not value.startswith("@"):
        return value
    file = Path(value[1:]).expanduser()
    try:
        if not file.is_file():
            raise UsageError(f"There is no file {file} to read instructions from. Check -s @FILE.")
        if file.stat().st_size > _LARGEST_INSTRUCTIONS_BYTES:
            raise UsageError(f"{file} is over 1 MiB: too long for instructions. Shorten it.")
        return file.read_text("utf-8", "replace")
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror}. Check -s @FILE.") from exc


def choose_checkpoint(model: str | None, console: Console) -> tuple[str, Path]:
    """The name and folder of the model that is wanted; without a wish, of the first real one that is installed."""
    from gptoss_cli.checkpoint import catalog, store

    if model is None:
        for name, folder in store.installed().items():
            return name, folder
        console.notice("The built-in demo model answers. Get the real one with: gptoss download 20b")
    if model is None or catalog.find_model(model) is catalog.DEMO:
        from gptoss_cli.demo.unpack import demo_checkpoint

        return catalog.DEMO.name, demo_checkpoint()
    return model, store.find_checkpoint(model)


def revision_of(folder: Path) -> str | None:
    """The commit a checkpoint was fetched at, where its manifest or, in the Hugging Face cache, its folder tells."""
    from gptoss_cli.checkpoint.manifest import is_commit
    from gptoss_cli.checkpoint.store import locations

    manifest = next((place.manifest() for place in locations() if place.folder == folder), None)
    if manifest is not None:
        return manifest.commit
    return folder.name if folder.parent.name == "snapshots" and is_commit(folder.name) else None


def incompleteness(end: "TurnEnd") -> Incomplete | None:
    """What a turn that ended so lacks, and the exit status for it; None if it gave a whole answer."""
    from gptoss_cli.harmony.events import EndReason

    cut, failed = ExitStatus.CUT_SHORT, ExitStatus.FAILED
    what = "The answer is cut short" if end.answered else "There is no answer"
    match end.reason:
        case EndReason.COMPLETE if end.answered:
            return None
        case EndReason.COMPLETE:
            return Incomplete(failed, "The model ended its turn without an answer. Ask again.")
        case EndReason.CALL:
            return Incomplete(failed, "The model called a tool, and there are none here. Ask again.")
        case EndReason.TOKEN_LIMIT:
            return Incomplete(cut, f"{what}: --max-tokens is used up.")
        case EndReason.CONTEXT_FULL:
            return Incomplete(cut, f"{what}: the context is full. Use a larger --context.")
        case EndReason.STOP_TEXT:
            return None
        case EndReason.TIMEOUT:
            return Incomplete(cut, f"{what}: its --timeout is over.")
        case EndReason.LOOP:
            return Incomplete(cut, f"{what}: it went round in circles and was stopped. Ask in another way.")
        case EndReason.NUMERICAL_FAILURE:
            return Incomplete(failed, "The model's numbers are not finite: the answer ends here. Try --dtype float32.")
        case EndReason.INTERRUPTED:
            return Incomplete(ExitStatus.INTERRUPTED, "Stopped. What was said so far stays in the conversation.")
