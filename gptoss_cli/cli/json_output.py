"""The JSON of the commands: the version, one object, and the lines of `ask --stream-json`. See schemas/."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import typer

from gptoss_cli.chat.request import ModelInfo
from gptoss_cli.chat.stopping import Incomplete
from gptoss_cli.cli.hints import sentence, unexpected
from gptoss_cli.cli.incomplete import incomplete_words
from gptoss_cli.errors import ExitStatus, GptossError
from gptoss_cli.harmony.events import (
    AnswerDelta,
    Event,
    PreambleDelta,
    ReasoningCut,
    ReasoningDelta,
    Token,
    TokenText,
    TurnEnd,
)
from gptoss_cli.terminal.console import Console

# For an annotation alone: it imports openai_harmony, which most commands do not need.
if TYPE_CHECKING:
    from gptoss_cli.harmony.conversation import Conversation

JSON_VERSION: Final = 1  # of every command's JSON


def write_json(values: Mapping[str, object], console: Console, *, indent: int | None = None) -> None:
    """Write one object with the version on stdout."""
    console.out(json_text(values, indent=indent))


def json_text(values: Mapping[str, object], *, indent: int | None = None) -> str:
    """Return one object with the version, and a newline."""
    return json.dumps({"version": JSON_VERSION, **values}, ensure_ascii=False, indent=indent) + "\n"


def answer_record(
    info: ModelInfo, conversation: Conversation, end: TurnEnd, *, answer: str, reasoning: str | None
) -> dict[str, Any]:
    """Return the object of `ask --json` without the version."""
    return {"answer": answer, "reasoning": reasoning, **_beginning(info, conversation, end.seed), **_ending(end)}


def token_json(token: Token) -> dict[str, Any]:
    """Return a token as a JSON value, with OpenAI's names for what its API has too."""
    info = token.info
    return {
        **_token_text_json(token.token, info.logprob),
        "rank": info.rank,
        "channel": token.channel,
        "forced": info.forced,
        "restricted": info.restricted,
        "top_logprobs": [_token_text_json(text, logprob) for text, logprob in token.top],
    }


def _token_text_json(token: TokenText, logprob: float) -> dict[str, Any]:
    return {"token": token.text, "id": token.id, "logprob": logprob, "bytes": list(token.data)}


class JsonLines:
    """The lines of `--stream-json` on stdout: a start, text, notices, and an end or an error."""

    def __init__(self, console: Console, *, shows_reasoning: bool) -> None:
        self._console = console
        self._shows_reasoning = shows_reasoning
        self._ended = False

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Within the block, write a last line for any exception that ends the program."""
        try:
            yield
        except BrokenPipeError:
            raise
        except BaseException as exc:
            if not self._ended:
                status, message = _failure(exc)
                self.fail(status, message)
            raise

    def start(self, info: ModelInfo, conversation: Conversation, seed: int) -> None:
        """Write the first line, before the prompt is read."""
        self._write("start", version=JSON_VERSION, **_beginning(info, conversation, seed))

    def record(self, events: Iterable[Event]) -> Iterator[Event]:
        """Pass `events` on, and write a line for each that has text."""
        for event in events:
            match event:
                case AnswerDelta(text):
                    self._write("answer", text=text)
                case ReasoningDelta(text) if self._shows_reasoning:
                    self._write("reasoning", text=text)
                case PreambleDelta(text):
                    self._write("notice", text=text)
                case Token() if self._shows_reasoning or not event.is_reasoning:
                    self._write("token", **token_json(event))
                case ReasoningCut(cut, tokens):
                    self._write("notice", text=f"The reasoning was cut after {tokens} tokens: {cut}.")
            yield event

    def end(self, end: TurnEnd, incomplete: Incomplete | None) -> None:
        """Write the last line of a turn: an end, or an error if there is no usable answer."""
        if incomplete is None or incomplete.status is ExitStatus.CUT_SHORT:
            self._ended = True
            self._write("end", **_ending(end))
        else:
            self.fail(incomplete.status, incomplete_words(incomplete))

    def fail(self, status: int, message: str) -> None:
        """Write an error as the last line."""
        self._ended = True
        self._write("error", status=status, message=message)

    def _write(self, kind: str, **values: Any) -> None:
        self._console.out(json.dumps({"type": kind, **values}, ensure_ascii=False) + "\n")


def cuts_json(end: TurnEnd) -> list[dict[str, Any]]:
    """Return the cuts of the reasoning as JSON values."""
    return [{"cut": cut.cut, "reasoning_tokens": cut.reasoning_tokens} for cut in end.cuts]


def _beginning(info: ModelInfo, conversation: Conversation, seed: int) -> dict[str, Any]:
    """Return everything that an answer can be repeated with, apart from the messages and the sampling settings."""
    return {**asdict(info), "effort": conversation.effort, "date": conversation.date.isoformat(), "seed": seed}


def _ending(end: TurnEnd) -> dict[str, Any]:
    return {
        "ended": end.reason,
        "cuts": cuts_json(end),
        "prompt_tokens": end.prompt_tokens,
        "prefilled_tokens": end.prefilled_tokens,
        "reasoning_tokens": end.reasoning_tokens,
        "answer_tokens": end.answer_tokens,
        "first_token_seconds": end.first_token_seconds,
        "seconds": end.total_seconds,
        "prefill_rate": _rounded(end.prefill_rate),
        "decode_rate": _rounded(end.decode_rate),
        "expert_hit_rate": end.expert_hit_rate,
    }


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 3)


def _failure(exc: BaseException) -> tuple[int, str]:
    """Return the exit status of an exception, and words for it."""
    match exc:
        case GptossError():
            return exc.exit_status, sentence(exc)
        case KeyboardInterrupt():
            return ExitStatus.INTERRUPTED, "Interrupted."
        case SystemExit(code=int(status)):
            return status, "Terminated."
        case typer.Exit():
            return exc.exit_code, "Ended."
        case MemoryError():
            return ExitStatus.RESOURCES, "There is not enough memory."
        case _:
            return ExitStatus.FAILED, unexpected(exc)
