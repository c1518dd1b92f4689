"""`gptoss ask --efforts`: one question answered at several efforts, one after the other and with the same seed."""

from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

import typer

from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.stopping import incompleteness
from gptoss_cli.chat.transcript import Transcript
from gptoss_cli.cli.ask import Question, check_combination
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.incomplete import incomplete_words
from gptoss_cli.cli.json_output import cuts_json, write_json
from gptoss_cli.cli.options import TurnOptions
from gptoss_cli.cli.prompt_input import attachment, chat_request
from gptoss_cli.cli.signals import stopping
from gptoss_cli.cli.templates import find_template, prompt_of
from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.generation import random_seed
from gptoss_cli.harmony.events import AnswerDelta, ReasoningDelta
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.tables import EffortAnswer, show_answers


def run_efforts(question: Question, options: TurnOptions, environment: Environment) -> None:
    """Run `gptoss ask --efforts`. Everything that is wrong with the input is raised before the model is opened."""
    answer = question.answer
    assert answer.efforts is not None
    check_combination(answer, question.history)
    refuse_single_effort(question.given)
    efforts = parse_efforts(answer.efforts)
    attached = [attachment(file, environment.console) for file in answer.files or ()]
    template = find_template(question.template, environment.console)
    text = prompt_of(template, question.words, environment.console, attached=attached)
    request = chat_request(options, environment.console, question.given)
    ask_at_efforts(text, efforts, request, environment, as_json=answer.as_json)


def refuse_single_effort(given: Collection[str]) -> None:
    """Raise UsageError if the command line, whose options are `given`, names one effort beside several."""
    if "effort" in given:
        raise UsageError("--effort and --efforts do not go together. Leave one of them out.")


def parse_efforts(value: str) -> list[ReasoningEffort]:
    """Return the efforts named in `value`, each once, in order. Raises UsageError."""
    names = [name.strip().lower() for name in value.split(",")]
    unknown = [name for name in names if name not in list(ReasoningEffort)]
    if unknown:
        known = ",".join(ReasoningEffort)
        raise UsageError(f"There is no effort {unknown[0]!r}. Choose from: --efforts {known}")
    return [ReasoningEffort(name) for name in dict.fromkeys(names)]


def ask_at_efforts(
    text: str, efforts: Iterable[ReasoningEffort], request: ChatRequest, environment: Environment, *, as_json: bool
) -> None:
    """Ask `text` at each of `efforts` and write a table on a terminal, else one JSON object.

    After Ctrl-C the answers so far are written. Raises typer.Exit with the status of the first incomplete answer.
    """
    console, session = environment.console, environment.open(request).session
    if session.settings.seed is None:
        session.settings = replace(session.settings, seed=random_seed())
    answers: list[EffortAnswer] = []
    interrupted = None
    try:
        for effort in efforts:
            answers.append(_answer(session, text, effort, console))
            if answers[-1].exit_status is ExitStatus.INTERRUPTED:
                break
    except KeyboardInterrupt:  # between two answers
        if not answers:
            raise
        interrupted = ExitStatus.INTERRUPTED
    if as_json or not console.stdout.is_terminal:
        write_json({"question": text, "answers": [_answer_json(answer) for answer in answers]}, console)
    else:
        show_answers(answers, console)
    status = interrupted or next((answer.exit_status for answer in answers if answer.exit_status is not None), None)
    if status is not None:
        raise typer.Exit(status)


def _answer(session: ChatSession, text: str, effort: ReasoningEffort, console: Console) -> EffortAnswer:
    session.conversation.truncate(0)
    session.set_effort(effort)
    transcript = Transcript()
    with console.activity() as activity, stopping(session.stop), closing(session.turn(text)) as turn:
        for event in transcript.record(turn):
            match event:
                case AnswerDelta():
                    activity.say(f"Effort {effort}: answering")
                case ReasoningDelta():
                    activity.say(f"Effort {effort}: reasoning")
    assert session.last_end is not None
    incomplete = incompleteness(session.last_end)
    return EffortAnswer(
        effort=effort,
        text=transcript.answer,
        reasoning=transcript.reasoning,
        end=session.last_end,
        exit_status=None if incomplete is None else incomplete.status,
        note="" if incomplete is None else incomplete_words(incomplete),
    )


def _answer_json(answer: EffortAnswer) -> dict[str, Any]:
    return {
        "effort": answer.effort,
        "answer": answer.text,
        "reasoning": answer.reasoning,
        "ended": answer.end.reason,
        "cuts": cuts_json(answer.end),
        "prompt_tokens": answer.end.prompt_tokens,
        "reasoning_tokens": answer.end.reasoning_tokens,
        "answer_tokens": answer.end.answer_tokens,
        "first_token_seconds": answer.end.first_token_seconds,
        "seconds": answer.end.total_seconds,
        "seed": answer.end.seed,
    }
