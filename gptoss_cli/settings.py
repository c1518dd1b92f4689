"""Values that a user can choose, and the folders of files. Reads the environment only when a folder is requested."""

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import platformdirs

from gptoss_cli.errors import Hint, UsageError

_LARGEST_CONFIG_BYTES: Final = 1 << 20


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


def data_folder() -> Path:
    """Return the folder of checkpoints and conversations: `$XDG_DATA_HOME/gptoss`, or the platform's own."""
    return _folder("data", platformdirs.user_data_path)


def cache_folder() -> Path:
    """Return the folder of files that can be made again: unpacked vocabulary and demo, 8-bit weights, prefix cache."""
    return _folder("cache", platformdirs.user_cache_path)


def state_folder() -> Path:
    """Return the folder of the input history: `$XDG_STATE_HOME/gptoss`."""
    return _folder("state", platformdirs.user_state_path)


def config_folder() -> Path:
    """Return the folder of `config.toml`: `$XDG_CONFIG_HOME/gptoss`."""
    return _folder("config", platformdirs.user_config_path)


def _folder(kind: str, find: Callable[..., Path]) -> Path:
    home = os.environ.get("GPTOSS_HOME")
    if home:
        return Path(home).expanduser() / kind
    return find("gptoss", appauthor=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of config.toml: its TOML value and its line number."""

    value: object
    line: int


def config_file() -> Path:
    """Return the path of config.toml; the file may not exist."""
    return config_folder() / "config.toml"


def read_config(file: Path) -> dict[str, Entry]:
    """Return the keys of a TOML file; none if there is no such file. Raises UsageError with file and line."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror or exc}", Hint.EDIT_SETTINGS) from exc
    if len(data) > _LARGEST_CONFIG_BYTES:
        raise UsageError(f"{file} is over 1 MiB, too long for settings. Shorten it")
    try:
        text = data.decode("utf-8-sig")
        values = tomllib.loads(text)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{file}, line {line}: not UTF-8", Hint.EDIT_SETTINGS) from exc
    except RecursionError as exc:
        raise UsageError(f"{file} is nested too deeply", Hint.EDIT_SETTINGS) from exc
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{file}, {_toml_problem(str(exc), text)}", Hint.EDIT_SETTINGS) from exc
    return {key: Entry(value, _line_of(key, text)) for key, value in values.items()}


def _toml_problem(message: str, text: str) -> str:
    """Return the line and the problem of a TOMLDecodeError, whose message ends with its position."""
    lines = text.splitlines()
    position = re.search(r"\(at line (\d+), ", message)
    line = int(position[1]) if position else text.count("\n") + 1
    reason = re.sub(r" \(at .*\)$", "", message)
    key = re.match(r"""\s*["']?([\w-]+)["']?\s*=""", lines[line - 1] if line <= len(lines) else "")
    if reason == "Cannot overwrite a value" and key:
        reason = f"{key[1]} is set twice"
    return f"line {line}: {reason}"


def _line_of(key: str, text: str) -> int:
    lines = text.splitlines()
    begins = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    return next((number for number, line in enumerate(lines, start=1) if begins.match(line)), 1)
