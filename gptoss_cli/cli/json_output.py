"""The JSON of `ask`: one object, or lines while the answer is made. schemas/ says what both are."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from gptoss_cli.chat.opening import Incomplete, ModelInfo
from gptoss_cli.errors import ExitStatus, GptossError
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.harmony.events import Event, TurnEnd

JSON_VERSION = 1  # of every command's JSON


def answer_record(
    running: ModelInfo, effort: ReasoningEffort, end: "TurnEnd", *, answer: str, reasoning: str | None
) -> dict[str, Any]:
    """The object of `--json`."""
    return {
        "version": JSON_VERSION,
        "answer": answer,
        "reasoning": reasoning,
        **_setting(running, effort, end.seed),
        **_ending(end),
    }


class JsonLines:
    """The lines of `--stream-json` on stdout: a start, what is said, notices, and an end or an error."""

    def __init__(self, console: Console, *, shows_reasoning: bool) -> None:
        self._console = console
        self._shows_reasoning = shows_reasoning
        self._over = False

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Within the block whatever ends the program is told in a last line."""
        try:
            yield
        except BrokenPipeError:
            raise
        except BaseException as exc:
            if not self._over:
                status, message = _failure(exc)
                self.fail(status, message)
            raise

    def start(self, running: ModelInfo, effort: ReasoningEffort, seed: int) -> None:
        """Who answers, before the prompt is read."""
        self._write("start", version=JSON_VERSION, **_setting(running, effort, seed))

    def tell(self, events: Iterable["Event"]) -> Iterator["Event"]:
        """Pass `events` on, and write a line for each that says something."""
        from gptoss_cli.harmony.events import AnswerDelta, PreambleDelta, ReasoningCut, ReasoningDelta

        for event in events:
            match event:
                case AnswerDelta(text):
                    self._write("answer", text=text)
                case ReasoningDelta(text) if self._shows_reasoning:
                    self._write("reasoning", text=text)
                case PreambleDelta(text):
                    self._write("notice", text=text)
                case ReasoningCut(cut, tokens):
                    self._write("notice", text=f"The reasoning was cut after {tokens} tokens: {cut}.")
            yield event

    def end(self, end: "TurnEnd", shortfall: Incomplete | None) -> None:
        """The last line of a turn: an end, or an error if there is no answer to speak of."""
        if shortfall is None or shortfall.status is ExitStatus.CUT_SHORT:
            self._over = True
            self._write("end", **_ending(end))
        else:
            self.fail(shortfall.status, shortfall.message)

    def fail(self, status: int, message: str) -> None:
        """The last line of what went wrong."""
        self._over = True
        self._write("error", status=status, message=message)

    def _write(self, kind: str, **values: Any) -> None:
        self._console.out(json_line({"type": kind, **values}))


def write_json(values: Mapping[str, object], console: Console, *, indent: int | None = None) -> None:
    """Write one object, with the version, on stdout."""
    console.out(json.dumps({"version": JSON_VERSION, **values}, ensure_ascii=False, indent=indent) + "\n")


def json_line(value: dict[str, Any]) -> str:
    """`value` on one line, with its newline."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def _setting(running: ModelInfo, effort: ReasoningEffort, seed: int) -> dict[str, Any]:
    return {**asdict(running), "effort": effort, "seed": seed}


def _ending(end: "TurnEnd") -> dict[str, Any]:
    tokens = end.reasoning_tokens + end.answer_tokens
    first, total = end.first_token_seconds, end.total_seconds
    return {
        "ended": end.reason,
        "cuts": [{"cut": cut.cut, "reasoning_tokens": cut.reasoning_tokens} for cut in end.cuts],
        "prompt_tokens": end.prompt_tokens,
        "prefilled_tokens": end.prefilled_tokens,
        "reasoning_tokens": end.reasoning_tokens,
        "answer_tokens": end.answer_tokens,
        "first_token_seconds": first,
        "seconds": total,
        "prefill_rate": _rate(end.prefilled_tokens, first),
        "decode_rate": None if first is None else _rate(tokens - 1, total - first),
        "expert_hit_rate": end.expert_hit_rate,
    }


def _rate(tokens: int, seconds: float | None) -> float | None:
    return round(tokens / seconds, 3) if seconds and tokens > 0 else None


def _failure(exc: BaseException) -> tuple[int, str]:
    match exc:
        case GptossError():
            return exc.exit_status, str(exc)
        case KeyboardInterrupt():
            return ExitStatus.INTERRUPTED, "Interrupted."
        case SystemExit(code=int(status)):
            return status, "Terminated."
        case typer.Exit():
            return exc.exit_code, "Ended."
        case MemoryError():
            return ExitStatus.RESOURCES, "There is not enough memory."
        case _:
            return ExitStatus.FAILED, f"An error in gptoss itself, {type(exc).__name__}: {exc}"
