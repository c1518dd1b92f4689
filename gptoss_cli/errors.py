"""The errors a user can meet, each with its exit status.

GptossError                 1
├── UsageError              2   an argument, a setting or the input is not usable
├── NotInstalledError       3   a model is missing or incomplete
├── IntegrityError          4   a file is not what it should be
├── NetworkError            5   the network or the server failed
├── ResourceError           6   not enough memory, disk or context
└── NumericalError          1   the model's output is NaN or infinite

A message is one line: what, where, and what to do next.
"""

from enum import IntEnum
from typing import ClassVar


class ExitStatus(IntEnum):
    """What the process tells the shell; the table in the README."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_INSTALLED = 3
    INTEGRITY = 4
    NETWORK = 5
    RESOURCES = 6
    CUT_SHORT = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class GptossError(Exception):
    """Something went wrong that one line can explain."""

    exit_status: ClassVar[ExitStatus] = ExitStatus.FAILED


class UsageError(GptossError):
    """An argument, a setting or the input is not usable."""

    exit_status = ExitStatus.USAGE


class NotInstalledError(GptossError):
    """A model is missing or incomplete."""

    exit_status = ExitStatus.NOT_INSTALLED


class IntegrityError(GptossError):
    """A file is not what it should be."""

    exit_status = ExitStatus.INTEGRITY


class NetworkError(GptossError):
    """The network or the server failed."""

    exit_status = ExitStatus.NETWORK


class ResourceError(GptossError):
    """There is not enough memory, disk or context."""

    exit_status = ExitStatus.RESOURCES


class NumericalError(GptossError):
    """The model's output is NaN or infinite."""


def first_line(exc: Exception) -> str:
    """What an exception of somebody else's says, without its further lines and its full stop."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
