"""Values that a user can choose, and the folders of files. Reads the environment only when a folder is requested."""

import os
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from gptoss_cli.errors import UsageError
from gptoss_cli.paths import expanded

LARGEST_SEED: Final = 2**32 - 1
DEVICE_PATTERN: Final = r"auto|cpu|mps|cuda(:[0-9]{1,3})?"


class ReasoningEffort(StrEnum):
    """Amount of reasoning. The model was trained for low, medium and high; none makes it begin with the answer."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


TRAINED_EFFORTS: Final = (ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH)


class Dtype(StrEnum):
    """The floating-point type of the computation."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Execution(StrEnum):
    """Kind of placement: all weights on the GPU, the experts in host memory, or everything on the CPU."""

    AUTO = "auto"
    MXFP4 = "mxfp4"
    OFFLOAD = "offload"
    CPU = "cpu"


class Dense(StrEnum):
    """Format of the attention and unembedding weights: as in the checkpoint, or 8 bits per weight."""

    BF16 = "bf16"
    INT8 = "int8"


class Activations(StrEnum):
    """Format of the activations that the CPU multiplies by expert weights: integers, one scale per 32 values."""

    INT16 = "int16"
    INT8 = "int8"


class ReasoningField(StrEnum):
    """The field of an API's chat completions that has the reasoning: that of vLLM, or of llama.cpp; or none."""

    REASONING = "reasoning"
    REASONING_CONTENT = "reasoning_content"
    NONE = "none"


class ReasoningDisplay(StrEnum):
    """Display of the analysis channel; collapsed is one line while the model reasons and one afterwards."""

    SHOW = "show"
    COLLAPSE = "collapse"
    HIDE = "hide"


class ColorChoice(StrEnum):
    """Colour on stderr; `auto` depends on the terminal, NO_COLOR and TERM."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class ServerApi(StrEnum):
    """The kinds of server that continue token ids, and the API of each."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA = "llama"


class ExportFormat(StrEnum):
    """Formats of an export. `json` alone keeps every branch with all that is known of it; `chatgpt` every branch."""

    MARKDOWN = "md"
    JSON = "json"
    JSON_LINES = "jsonl"
    CHATGPT = "chatgpt"


class Group(StrEnum):
    """The groups of figures that `compare` knows."""

    DEPTH = "depth"
    EXPERTS = "experts"
    SIZE = "size"
    MEMORY = "memory"
    COMPUTE = "compute"


def data_folder() -> Path:
    """Return the folder of checkpoints and conversations: `$XDG_DATA_HOME/gptoss`, or the platform's own."""
    return _folder("data")


def cache_folder() -> Path:
    """Return the folder of files that can be made again: unpacked vocabulary and demo, 8-bit weights, KV caches."""
    return _folder("cache")


def state_folder() -> Path:
    """Return the folder of the input history: `$XDG_STATE_HOME/gptoss`."""
    return _folder("state")


def config_folder() -> Path:
    """Return the folder of `config.toml`: `$XDG_CONFIG_HOME/gptoss`."""
    return _folder("config")


def _folder(kind: str) -> Path:
    home = os.environ.get("GPTOSS_HOME")
    if home:
        folder = expanded(home)
        if folder.startswith("~"):
            raise UsageError(f"GPTOSS_HOME is {home}, but there is no such home folder. Set it to a folder")
        return Path(folder) / kind
    import platformdirs  # not at the top: help needs no folder, and this import takes a twentieth of its time

    find: Callable[..., Path] = getattr(platformdirs, f"user_{kind}_path")
    with suppress(RuntimeError):
        found = find("gptoss", appauthor=False)
        # If the user has no home folder, some versions of platformdirs raise, and others leave the path as it is.
        if not os.fspath(found).startswith("~"):
            return found
    raise UsageError("Your home folder is not known. Set HOME to it, or GPTOSS_HOME to a folder for gptoss")


def config_file() -> Path:
    """Return the path of config.toml; the file may not exist."""
    return config_folder() / "config.toml"
