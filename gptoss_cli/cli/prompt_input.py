"""The input of a turn: a prompt from words, files and a pipe, instructions, and the request made from options.

Reads no more of anything than some context could hold.
"""

import codecs
import hashlib
import os
import re
import stat
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from gptoss_cli.archive.recorder import Attachment
from gptoss_cli.cache_files import KV_LIMIT_BYTES
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.cli.options import LONGEST_CONTEXT_TOKENS, TurnOptions
from gptoss_cli.cli.server_options import ServerOptions
from gptoss_cli.errors import ResourceError, UsageError
from gptoss_cli.files import READ_FLAGS, open_regular
from gptoss_cli.paths import shown_path, typed_path
from gptoss_cli.placement.request import PlacementRequest
from gptoss_cli.remote.request import ServerRequest, server_request
from gptoss_cli.settings import Activations, Dense, Dtype, Execution
from gptoss_cli.terminal.console import Console

# A token has up to 128 bytes, but text averages four per token: more than this fits no context.
_LARGEST_INPUT_BYTES: Final = LONGEST_CONTEXT_TOKENS * 32
_LARGEST_INSTRUCTIONS_BYTES: Final = 1 << 20
SLOW_STDIN_SECONDS: Final = 2.0
_READING_STDIN: Final = "Reading stdin until it is closed. To ask without it: gptoss ask ... < /dev/null"
# Input with more undecodable characters than this, per thousand, is binary.
_BINARY_PER_MILLE: Final = 100
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Surrogates, except those that Python makes of bytes it cannot decode.
_SURROGATES: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# Paths of pipes that a shell has opened: they have a writer, while any other pipe may never get one.
_OPEN_PIPES: Final = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


class PlacementOptions(Protocol):
    """The options about how a model runs, which several commands have."""

    @property
    def execution(self) -> Execution: ...
    @property
    def device(self) -> str: ...
    @property
    def gpu_memory(self) -> int | None: ...
    @property
    def dense(self) -> Dense: ...
    @property
    def activations(self) -> Activations: ...
    @property
    def threads(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A text file that goes with a message: its text below its name, in a code fence, and what is saved about it."""

    text: str
    record: Attachment


def prompt_text(
    words: Sequence[str], console: Console, *, attached: Sequence[AttachedFile] = (), optional: bool = False
) -> str:
    """Return the prompt: the words, then each attached file and the piped text in a code fence that they cannot close.

    Piped text alone is the prompt as it is. Raises UsageError if there is no prompt, unless it is `optional`, a file
    cannot be read or input is not text; ResourceError if input fits no context.
    """
    asked = "" if list(words) == ["-"] else valid_text(" ".join(words))
    piped = _piped_text(console) if list(words) == ["-"] or not console.reads_terminal else ""
    asked, piped = (text if text.strip() else "" for text in (asked, piped))
    if not (asked or attached or piped or optional):
        raise UsageError('There is no prompt. Try: gptoss ask "Why is the sky blue?", or pipe text into it.')
    if not (asked or attached):
        return piped
    return "\n\n".join(
        part for part in (asked, *(each.text for each in attached), _fenced(piped) if piped else "") if part
    )


def attachment(file: Path, console: Console) -> AttachedFile:
    """Return `file` as part of a message, in a code fence that it cannot close. Raises as `read_text_file`."""
    data = _read(file)
    name = valid_text(os.fspath(file))
    text = f"{name}:\n{_fenced(_decoded(data, printable_path(file), console))}"
    location = valid_text(os.path.abspath(file))
    return AttachedFile(text, Attachment(location, hashlib.sha256(data).hexdigest(), len(data)))


def read_text_file(file: Path, console: Console) -> str:
    """Return the text of `file`.

    Raises UsageError that names it, also for a folder, a device, or a pipe without a writer.
    """
    return _decoded(_read(file), printable_path(file), console)


def instructions_text(value: str | None) -> str | None:
    """Return instructions: the text `value` itself, or the content of FILE for `@FILE`. Raises UsageError."""
    if value is None or not value.startswith("@"):
        return value
    file = typed_path(value[1:])
    try:
        with _open_text(file) as stream:
            data = stream.read(_LARGEST_INSTRUCTIONS_BYTES + 1)
    except FileNotFoundError as exc:
        raise UsageError(f"There is no file {printable_path(file)} to read instructions from. Check @FILE.") from exc
    except OSError as exc:
        raise UsageError(f"{printable_path(file)} cannot be read: {exc.strerror}. Check @FILE.") from exc
    if len(data) > _LARGEST_INSTRUCTIONS_BYTES:
        raise UsageError(f"{printable_path(file)} is over 1 MiB, which is too long for instructions. Shorten it.")
    return data.decode("utf-8", "replace")


def chat_request(options: TurnOptions, console: Console, given: Collection[str] = ()) -> ChatRequest:
    """Return the request that the options describe. Raises UsageError for options that contradict each other.

    `given` are the names of those on the command line itself: there, a model means one on this machine.
    """
    return ChatRequest(
        model=options.model,
        placement=placement_request(options, context_tokens=options.context, dtype=options.dtype),
        instructions=instructions_text(options.instructions),
        effort=options.effort,
        date=options.date,
        settings=TurnSettings(
            seed=options.seed,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_tokens=options.max_tokens,
            think_budget=options.think_budget,
            free_headers=options.free_headers,
        ),
        kv_limit_bytes=_kv_limit_bytes(options),
        every_reason=console.reads_terminal,
        server=server_of(options, given),
    )


def placement_request(
    options: PlacementOptions, *, context_tokens: int | None, dtype: Dtype = Dtype.BFLOAT16, sequences: int = 1
) -> PlacementRequest:
    """Return the request that the options of a command describe. Raises UsageError if they contradict each other."""
    return PlacementRequest(
        execution=options.execution,
        device=options.device,
        gpu_memory_bytes=options.gpu_memory,
        context_tokens=context_tokens,
        dtype=dtype,
        dense=options.dense,
        activations=options.activations,
        threads=options.threads,
        sequences=sequences,
    )


def server_of(options: TurnOptions | ServerOptions, given: Collection[str]) -> ServerRequest | None:
    """Return the server that the options describe, None for this machine. See `chat_request`. Raises UsageError."""
    if not options.server:
        return None
    if "model" in given:
        if "server" in given:
            raise UsageError(
                "A model of this machine and --server do not go together. Leave one of them out, or use --server-model."
            )
        return None
    return server_request(
        options.server, model=options.server_model, api=options.server_api, key_file=options.api_key_file
    )


def _kv_limit_bytes(options: TurnOptions) -> int:
    if options.no_prefix_cache:
        return 0
    return KV_LIMIT_BYTES if options.kv_limit is None else options.kv_limit


def valid_text(text: str) -> str:
    """Return `text` with U+FFFD for each surrogate: bytes that are not UTF-8, and halves that Windows may pass."""
    text = _SURROGATES.sub("\ufffd", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def printable_path(file: Path) -> str:
    """Return the path as text that can be encoded, shortened if it is very long."""
    return shown_path(valid_text(os.fspath(file)))


def _read(file: Path) -> bytes:
    """Return the bytes of a file, one more than the most that can be used. Raises UsageError."""
    try:
        with _open_text(file) as stream:
            return stream.read(_LARGEST_INPUT_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"{printable_path(file)} cannot be read: {exc.strerror or exc}.") from exc


def _open_text(file: Path) -> BinaryIO:
    """Open a regular file, or a pipe that a shell has opened, as `<(command)` does. Raises OSError.

    Any other pipe is refused: it may never get a writer. Reading one ends with Ctrl-C or SIGTERM.
    """
    path = os.fspath(file)
    if path.startswith(_OPEN_PIPES):
        handle = os.open(path, READ_FLAGS)
        if stat.S_ISFIFO(os.fstat(handle).st_mode):
            os.set_blocking(handle, True)
            return os.fdopen(handle, "rb")
        os.close(handle)
    return open_regular(path)


def _piped_text(console: Console) -> str:
    try:
        with _said_if_slow(console):
            data = console.stdin.buffer.read(_LARGEST_INPUT_BYTES + 1) if console.stdin else b""
    except OSError as exc:
        raise UsageError(f"stdin cannot be read: {exc.strerror or exc}.") from exc
    return _decoded(data, "The piped input", console)


@contextmanager
def _said_if_slow(console: Console) -> Iterator[None]:
    """Say that stdin is being read if the block takes long: a pipe that nobody closes looks like a slow model."""
    timer = threading.Timer(SLOW_STDIN_SECONDS, console.notice, (_READING_STDIN,))
    timer.daemon = True
    if not console.reads_terminal:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _decoded(data: bytes, name: str, console: Console) -> str:
    if len(data) > _LARGEST_INPUT_BYTES:
        limit = f"{_LARGEST_INPUT_BYTES // 2**20} MiB"
        raise ResourceError(f"{name} is over {limit}, more than the context of any model holds. Shorten it.")
    encoding = "utf-8"
    for mark, marked in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            data, encoding = data.removeprefix(mark), marked
            break
    text = data.decode(encoding, "replace")
    broken = text.count("\ufffd") + text.count("\0")
    if broken * 1000 > len(text) * _BINARY_PER_MILLE:
        raise UsageError(f"{name} is not text. Give gptoss UTF-8 or UTF-16 text.")
    if broken:
        console.notice(f"{name} is not all UTF-8: {broken} of its characters may be wrong.")
    return text


def _fenced(text: str) -> str:
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((fence, text.rstrip("\n"), fence))
