"""`gptoss ask --efforts`: one question answered at several efforts, one after the other and with the same seed."""

import json
import secrets
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import typer

from gptoss_cli.cli.definition import TurnOptions
from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.chat.session import ChatSession
    from gptoss_cli.terminal.tables import EffortAnswer

_JSON_VERSION = 1


def parse_efforts(value: str) -> list[ReasoningEffort]:
    """The efforts named in `value`, each once, in order. Raises UsageError."""
    names = [name.strip().lower() for name in value.split(",")]
    unknown = [name for name in names if name not in list(ReasoningEffort)]
    if unknown:
        known = ",".join(ReasoningEffort)
        raise UsageError(f"There is no effort {unknown[0]!r}. Name some of these, with commas: --efforts {known}")
    return [ReasoningEffort(name) for name in dict.fromkeys(names)]


def ask_at_efforts(
    text: str, efforts: Iterable[ReasoningEffort], *, as_json: bool, options: TurnOptions, console: Console
) -> None:
    """Ask `text` at each of `efforts`: a table on a terminal, else one JSON object.

    Exits with the status of the first answer that is not whole. What was answered before a stop is shown.
    """
    from gptoss_cli.chat import opening

    session = opening.open_session(options, console)
    answers = []
    for effort in efforts:
        answers.append(_answer(session, text, effort, console))
        if answers[-1].exit_status is ExitStatus.INTERRUPTED:
            break
    if as_json or not console.stdout.is_terminal:
        console.out(json.dumps(_described(text, answers), ensure_ascii=False) + "\n")
    else:
        from gptoss_cli.terminal.tables import show_answers

        show_answers(answers, console)
    status = next((answer.exit_status for answer in answers if answer.exit_status is not None), None)
    if status is not None:
        raise typer.Exit(status)


def _answer(session: "ChatSession", text: str, effort: ReasoningEffort, console: Console) -> "EffortAnswer":
    from gptoss_cli.chat import opening
    from gptoss_cli.harmony.events import AnswerDelta, ReasoningDelta
    from gptoss_cli.terminal.tables import EffortAnswer

    session.conversation.truncate(0)
    session.set_effort(effort)
    if session.seed is None:
        session.seed = secrets.randbits(32)
    said: dict[type, list[str]] = {AnswerDelta: [], ReasoningDelta: []}
    with console.activity() as activity, opening.stops(session), closing(session.turn(text)) as events:
        for event in events:
            if isinstance(event, AnswerDelta | ReasoningDelta):
                said[type(event)].append(event.text)
                activity.say(f"Effort {effort}: {'answering' if said[AnswerDelta] else 'reasoning'}")
    assert session.last_end is not None
    shortfall = opening.incompleteness(session.last_end)
    return EffortAnswer(
        effort=effort,
        text="".join(said[AnswerDelta]),
        reasoning="".join(said[ReasoningDelta]),
        end=session.last_end,
        exit_status=None if shortfall is None else shortfall.status,
        note="" if shortfall is None else shortfall.message,
    )


def _described(question: str, answers: Iterable["EffortAnswer"]) -> dict[str, Any]:
    return {
        "version": _JSON_VERSION,
        "question": question,
        "answers": [
            {
                "effort": answer.effort,
                "answer": answer.text,
                "reasoning": answer.reasoning,
                "ended": answer.end.reason,
                "cuts": [{"cut": cut.cut, "reasoning_tokens": cut.reasoning_tokens} for cut in answer.end.cuts],
                "prompt_tokens": answer.end.prompt_tokens,
                "reasoning_tokens": answer.end.reasoning_tokens,
                "answer_tokens": answer.end.answer_tokens,
                "first_token_seconds": answer.end.first_token_seconds,
                "seconds": answer.end.total_seconds,
                "seed": answer.end.seed,
            }
            for answer in answers
        ],
    }
