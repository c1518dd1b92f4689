"""What a user may choose, and where files live. Reads the environment only when asked."""

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

import platformdirs


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
    """What can be made again: the unpacked vocabulary and demo model."""
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
