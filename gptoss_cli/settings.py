"""What a user may choose, and where files live. Reads the environment only when asked."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import platformdirs

from gptoss_cli.errors import UsageError

_LARGEST_CONFIG_BYTES: Final = 1 << 20


class ReasoningEffort(StrEnum):
    """How long the model reasons; low, medium and high as it was trained to, none by opening the answer for it."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


TRAINED_EFFORTS: Final = (ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH)


class Dtype(StrEnum):
    """The arithmetic the model runs in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Execution(StrEnum):
    """Where the weights lie and who computes: all on the GPU, experts in host memory too, or the CPU alone."""

    AUTO = "auto"
    MXFP4 = "mxfp4"
    OFFLOAD = "offload"
    CPU = "cpu"


class Dense(StrEnum):
    """How attention projections and unembedding are kept: as in the checkpoint, or with 8 bits a weight."""

    BF16 = "bf16"
    INT8 = "int8"


class Activations(StrEnum):
    """In what the CPU multiplies by the experts' weights: integers with a factor for each 32 values."""

    INT16 = "int16"
    INT8 = "int8"


class ReasoningDisplay(StrEnum):
    """What is shown of the analysis channel; collapsed, one line while it is made and one afterwards."""

    SHOW = "show"
    COLLAPSE = "collapse"
    HIDE = "hide"


class ColorChoice(StrEnum):
    """Whether stderr is coloured; `auto` asks the terminal, NO_COLOR and TERM."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def data_folder() -> Path:
    """Checkpoints and conversations: `$XDG_DATA_HOME/gptoss`, or the platform's own place."""
    return _folder("data", platformdirs.user_data_path)


def cache_folder() -> Path:
    """What can be made again: the unpacked vocabulary and demo model, 8-bit weights, the first messages' KV cache."""
    return _folder("cache", platformdirs.user_cache_path)


def state_folder() -> Path:
    """The input history: `$XDG_STATE_HOME/gptoss`."""
    return _folder("state", platformdirs.user_state_path)


def config_folder() -> Path:
    """`config.toml`: `$XDG_CONFIG_HOME/gptoss`."""
    return _folder("config", platformdirs.user_config_path)


def _folder(kind: str, find: Callable[..., Path]) -> Path:
    home = os.environ.get("GPTOSS_HOME")
    if home:
        return Path(home).expanduser() / kind
    return find("gptoss", appauthor=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of config.toml: its value, as TOML has it, and the line it stands on."""

    value: object
    line: int


def config_file() -> Path:
    """The file of standing preferences; it need not be there."""
    return config_folder() / "config.toml"


def read_config(file: Path) -> dict[str, Entry]:
    """The keys of a TOML file; none if there is no such file. Raises UsageError with file and line."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror or exc}. Check it, or run: gptoss config edit") from exc
    if len(data) > _LARGEST_CONFIG_BYTES:
        raise UsageError(f"{file} is over 1 MiB: too long for settings. Shorten it.")
    import tomllib

    try:
        text = data.decode("utf-8-sig")
        values = tomllib.loads(text)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{file}, line {line}: not UTF-8. Run: gptoss config edit") from exc
    except RecursionError as exc:
        raise UsageError(f"{file} is nested too deeply. Run: gptoss config edit") from exc
    except tomllib.TOMLDecodeError as exc:
        place = re.search(r"\(at line (\d+), ", str(exc))
        line = int(place[1]) if place else text.count("\n") + 1
        reason = re.sub(r" \(at .*\)$", "", str(exc))
        raise UsageError(f"{file}, line {line}: {reason}. Run: gptoss config edit") from exc
    return {key: Entry(value, _line_of(key, text)) for key, value in values.items()}


def _line_of(key: str, text: str) -> int:
    lines = text.splitlines()
    begins = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    return next((number for number, line in enumerate(lines, start=1) if begins.match(line)), 1)
