"""`gptoss ask`: one turn, from words or a pipe to an answer on stdout."""

import codecs
import re
from typing import Annotated, BinaryIO

import typer

from gptoss_cli.cli.efforts import ask_at_efforts, parse_efforts
from gptoss_cli.cli.options import LONGEST_CONTEXT_TOKENS, TurnOptions, command
from gptoss_cli.errors import ExitStatus, ResourceError, UsageError
from gptoss_cli.terminal.console import Console

# No token of the vocabulary is longer than 128 bytes, but text averages four: what is over this fits no context.
_LARGEST_INPUT_BYTES = LONGEST_CONTEXT_TOKENS * 32
# Bytes that are no text, of a thousand, from which a pipe is taken for binary.
_BINARY_PER_MILLE = 100
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@command
def ask(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="The words of the prompt.", show_default=False)
    ] = None,
    *,
    efforts: Annotated[
        str | None,
        typer.Option(
            envvar="GPTOSS_EFFORTS", show_envvar=False, metavar="LIST", help="Answer at each: low,medium,high."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --efforts: JSON, on a terminal too.")] = False,
    console: Console,
    options: TurnOptions,
) -> None:
    """Ask one thing. The answer goes to stdout, all else to stderr.

    Without a PROMPT, or with - for one, the prompt is read from stdin; with both, the piped text follows the PROMPT.
    A prompt that begins with a dash goes after --.
    """
    from gptoss_cli.cli import turns

    if as_json and efforts is None:
        raise UsageError("--json goes with --efforts. Name some: --efforts low,medium,high")
    chosen = [] if efforts is None else parse_efforts(efforts)
    text = prompt_text(words or [], console)
    if chosen:
        ask_at_efforts(text, chosen, as_json=as_json, options=options, console=console)
        return
    session = turns.open_session(options, console)
    shortfall = turns.run_turn(session, text, options=options, console=console)
    if shortfall is not None:
        if shortfall.status is not ExitStatus.INTERRUPTED:
            console.error(shortfall.message)
        raise typer.Exit(shortfall.status)


def prompt_text(words: list[str], console: Console) -> str:
    """The prompt: the words, the piped text, or both with the piped text in a fence it cannot close.

    Raises UsageError if there is nothing to ask or the piped bytes are no text, ResourceError if they fit no context.
    """
    asked = "" if words == ["-"] else whole_characters(" ".join(words))
    piped = _piped_text(console) if words == ["-"] or not console.reads_terminal else ""
    if not asked.strip() and not piped.strip():
        raise UsageError('There is no prompt. Try: gptoss ask "Why is the sky blue?", or pipe a text into it.')
    if not asked.strip() or not piped.strip():
        return asked if asked.strip() else piped
    longest = max((len(ticks) for ticks in re.findall("`+", piped)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((asked, "", fence, piped.rstrip("\n"), fence))


def whole_characters(text: str) -> str:
    """`text` with what stands for bytes that were no UTF-8 (lone surrogates) replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _piped_text(console: Console) -> str:
    data = _read_limited(console.stdin.buffer) if console.stdin else b""
    encoding = "utf-8"
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            data, encoding = data.removeprefix(mark), name
            break
    text = data.decode(encoding, "replace")
    broken = text.count("\ufffd") + text.count("\0")
    if broken * 1000 > len(text) * _BINARY_PER_MILLE:
        raise UsageError("What was piped in is not text. Pipe UTF-8 or UTF-16 text into gptoss ask.")
    if broken:
        console.notice(f"The piped text is not all UTF-8: {broken} characters of it may be wrong.")
    return text


def _read_limited(stream: BinaryIO) -> bytes:
    try:
        data = stream.read(_LARGEST_INPUT_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"stdin cannot be read: {exc.strerror or exc}.") from exc
    if len(data) > _LARGEST_INPUT_BYTES:
        limit = f"{_LARGEST_INPUT_BYTES // 2**20} MiB"
        raise ResourceError(f"The piped text is over {limit}: more than any model's context holds. Pipe less of it.")
    return data
