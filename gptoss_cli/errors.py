"""The errors a user can meet, each with its exit status, and hints about what to do next.

GptossError                 1
├── UsageError              2   an argument, a setting or the input is not usable
├── NotInstalledError       3   a model is missing or incomplete
├── IntegrityError          4   a file is not what it should be
├── NetworkError            5   the network or the server failed
├── ResourceError           6   not enough memory, disk or context
├── DeadlineError           7   the time that the user gave ran out
└── NumericalError          1   the model's output is NaN or infinite

A message is one line without a final full stop: what happened, and where. What to do next is a `Hint`, because the
command line, a chat and a server each word it differently.
"""

from enum import Enum, IntEnum, auto
from typing import ClassVar


class ExitStatus(IntEnum):
    """The exit status of the process; README.md has the table."""

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


class Hint(Enum):
    """Advice about an error: something that the user can do. Only the packages that talk to users put it into words."""

    DOWNLOAD = auto()  # `subject` names the model
    LARGER_CONTEXT = auto()
    SMALLER_CONTEXT = auto()
    VALID_CONTEXT = auto()
    SHORTER_CONVERSATION = auto()
    CPU = auto()
    APPLE_GPU = auto()
    ANOTHER_PORT = auto()
    ANOTHER_DEVICE = auto()  # another number, or none
    OFFLOAD = auto()
    LESS_GPU_MEMORY = auto()
    FLOAT32 = auto()
    BF16_DENSE = auto()
    CONSISTENT_PLACEMENT = auto()  # change one of two settings that contradict each other
    EDIT_SETTINGS = auto()
    ANOTHER_REVISION = auto()
    INSTALL_STRUCTURED = auto()
    INSTALL_SERVE = auto()
    INSTALL_SOCKS = auto()
    INSTALL_TORCH = auto()
    FREE_MEMORY = auto()  # end other programs
    FREE_DISK_SPACE = auto()
    ANOTHER_DATA_FOLDER = auto()  # GPTOSS_HOME on another disk
    RETRY = auto()  # the same command again
    RETRY_LATER = auto()
    ALLOW_NETWORK = auto()  # HF_HUB_OFFLINE unset
    REINSTALL = auto()  # gptoss itself
    DELETE_FOLDER = auto()  # `subject` is its path
    SAVE_ANSWER = auto()  # to a file, since there is no clipboard
    START_AGAIN = auto()
    LIST_CONVERSATIONS = auto()
    ANOTHER_MODEL = auto()
    CHECK_SERVER = auto()  # its address, and that it runs
    SERVER_KEY = auto()
    SERVER_MODEL = auto()  # one of those that the server has
    SERVER_API = auto()
    TOKEN_SERVER = auto()  # one that continues token ids
    CONVERT = auto()  # `subject` is the path of a checkpoint
    CONVERT_AGAIN = auto()  # `subject` is the name of a checkpoint that was converted
    ALLOW_ROUNDING = auto()  # not only a conversion without loss
    POLICY = auto()  # a policy as the instructions
    FETCH_AND_CONVERT = auto()  # `subject` is OWNER/NAME
    VERIFY = auto()  # check the files of the checkpoint; `subject` is its name or path, if it is known


class GptossError(Exception):
    """A failure that one line can explain.

    `hints` are alternatives, the best one first. `subject` is the thing that a hint is about, such as a model's name.
    """

    exit_status: ClassVar[ExitStatus] = ExitStatus.FAILED

    def __init__(self, message: str, *hints: Hint, subject: str = "") -> None:
        super().__init__(message)
        self.hints = hints
        self.subject = subject


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


class DeadlineError(GptossError):
    """The time that the user gave ran out before there was any answer."""

    exit_status = ExitStatus.CUT_SHORT


class NumericalError(GptossError):
    """The model's output is NaN or infinite."""


def first_line(exc: BaseException) -> str:
    """Return the first line of another library's message, without its final full stop."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
