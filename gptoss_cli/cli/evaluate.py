"""`gptoss evaluate`: the accuracy, tokens and seconds of a model on the user's questions, at several efforts."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import typer

from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.chat.transcript import Transcript
from gptoss_cli.cli.efforts import parse_efforts
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.evaluation import (
    Answered,
    EffortFigures,
    Question,
    Results,
    answer_key,
    answer_seed,
    figures_of,
    read_questions,
)
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.model_options import EvaluateOptions
from gptoss_cli.cli.options import TurnOptions
from gptoss_cli.cli.prompt_input import chat_request, printable_path
from gptoss_cli.cli.signals import stopping
from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.harmony.events import EndReason
from gptoss_cli.settings import ReasoningEffort
from gptoss_cli.terminal.architecture_table import Grid, grid_lines, show_lines
from gptoss_cli.terminal.cells import Line, Span, wrap
from gptoss_cli.terminal.plot import Point, plot_lines

_EXTENSION: Final = ".results.jsonl"


def run_evaluate(
    file: Path, evaluate: EvaluateOptions, options: TurnOptions, environment: Environment, given: Collection[str] = ()
) -> None:
    """Run `gptoss evaluate`. Everything that is wrong with the input is raised before the model is opened.

    `given` are the names of the options on the command line itself.
    After Ctrl-C the figures so far are written, and typer.Exit is raised.
    """
    if "effort" in given:
        raise UsageError(f"--effort is for one answer. To measure an effort: --efforts {options.effort}")
    efforts = parse_efforts(evaluate.efforts)
    questions = read_questions(file)
    request = chat_request(options, environment.console)
    path = evaluate.output or file.with_name(file.name + _EXTENSION)
    results = Results(path)
    with closing(results):
        run = _Evaluation(request, environment, results, repeat=evaluate.repeat)
        finished = run.ask_missing(questions, efforts)
        answers = run.answers(questions, efforts)
    figures = [
        figures_of(effort, own)
        for effort in efforts
        if (own := [answer for answer in answers if answer.effort is effort])
    ]
    if evaluate.as_json or not environment.console.stdout.is_terminal:
        values = {"file": printable_path(file), "results": printable_path(path), "questions": len(questions)}
        write_json(values | _figures_json(figures, answers), environment.console, indent=2)
    elif figures:
        lines = figure_lines(figures, environment.console.stdout.columns, repeat=evaluate.repeat)
        show_lines(lines, environment.console)
    if not finished:
        environment.console.notice(f"Stopped. The answers are in {path}; the same command goes on.")
        raise typer.Exit(ExitStatus.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _Task:
    """One answer to ask for."""

    question: Question
    effort: ReasoningEffort
    repetition: int


class _Evaluation:
    """Asks for the answers that the results lack. The model is opened when it is needed."""

    def __init__(self, request: ChatRequest, environment: Environment, results: Results, *, repeat: int) -> None:
        self._request = request
        self._environment = environment
        self._results = results
        self._repeat = repeat
        self._opened: OpenedModel | None = None
        # The model that is chosen without a name may be another one next time.
        own = request.model if request.server is None else None
        self._model = own or self._open().info.model

    def ask_missing(self, questions: Sequence[Question], efforts: Sequence[ReasoningEffort]) -> bool:
        """Ask for what is missing; return False if the user stopped it. Raises what a turn raises."""
        try:
            return self._ask_all(questions, efforts)
        except KeyboardInterrupt:  # between two turns, such as while the command of a question judges
            return False

    def _ask_all(self, questions: Sequence[Question], efforts: Sequence[ReasoningEffort]) -> bool:
        tasks = list(self._tasks(questions, efforts))
        missing = [task for task in tasks if self._key(task) not in self._results.answers]
        for number, task in enumerate(missing, start=len(tasks) - len(missing) + 1):
            answered = self._ask(task, f"Answer {number:,} of {len(tasks):,}, effort {task.effort}")
            if answered is None:
                return False
            self._results.add(answered)
        return True

    def answers(self, questions: Sequence[Question], efforts: Sequence[ReasoningEffort]) -> list[Answered]:
        """Return the answers to these questions that the results have."""
        keys = map(self._key, self._tasks(questions, efforts))
        return [self._results.answers[key] for key in keys if key in self._results.answers]

    def _tasks(self, questions: Sequence[Question], efforts: Sequence[ReasoningEffort]) -> Iterator[_Task]:
        """Yield every task, the first repetition of all of them first, so that an early table has all efforts."""
        for repetition in range(self._repeat):
            for question in questions:
                for effort in efforts:
                    yield _Task(question, effort, repetition)

    def _key(self, task: _Task) -> str:
        settings = asdict(self._request.settings)
        placement = asdict(self._request.placement)
        numerics = {name: placement[name] for name in ("dtype", "dense", "activations")}
        identity = {"model": self._model, "instructions": self._request.instructions}
        return answer_key(task.question, task.effort, task.repetition, settings | numerics | identity)

    def _open(self) -> OpenedModel:
        if self._opened is None:
            self._opened = self._environment.open(self._request)
        return self._opened

    def _ask(self, task: _Task, progress: str) -> Answered | None:
        session = self._open().session
        session.conversation.truncate(0)
        session.set_effort(task.effort)
        seed = answer_seed(task.question, task.repetition, self._request.settings.seed or 0)
        session.settings = replace(session.settings, seed=seed)
        transcript = Transcript()
        with self._environment.console.activity() as activity, stopping(session.stop):
            activity.say(progress)
            with closing(session.turn(task.question.text)) as turn:
                for _ in transcript.record(turn):
                    pass
        end = session.last_end
        assert end is not None
        if end.reason is EndReason.INTERRUPTED:
            return None
        return Answered(
            key=self._key(task),
            question=task.question.text,
            effort=task.effort,
            repetition=task.repetition,
            model=self._model,
            seed=seed,
            correct=task.question.accepts(transcript.answer),
            answer=transcript.answer,
            ended=end.reason,
            reasoning_tokens=end.reasoning_tokens,
            answer_tokens=end.answer_tokens,
            seconds=end.total_seconds,
        )


def figure_lines(figures: Sequence[EffortFigures], columns: int, *, repeat: int) -> list[Line]:
    """Return a table of the efforts, and the accuracy over tokens and over seconds."""
    header = ["effort", "correct", "accuracy", "95% interval", "tokens", "seconds"]
    rows = [
        [
            str(each.effort),
            f"{each.correct:,} of {each.answers:,}",
            f"{each.accuracy:.0%}",
            f"{each.low:.0%} to {each.high:.0%}",
            f"{each.mean_tokens:,.0f}",
            f"{each.mean_seconds:,.1f}",
        ]
        for each in figures
    ]
    lines = grid_lines(Grid(header, rows), columns)
    for title, values in (
        ("mean tokens", [each.mean_tokens for each in figures]),
        ("mean seconds", [each.mean_seconds for each in figures]),
    ):
        points = [
            Point(str(each.effort)[0].upper(), x, each.accuracy, each.low, each.high)
            for each, x in zip(figures, values, strict=True)
        ]
        lines += [[], *plot_lines("accuracy", title, points, columns)]
    note = "L, M and H are the efforts, and the lines their 95% Wilson intervals."
    if repeat > 1:
        note += " They take all answers as independent; those to one question are not, so the true ones are wider."
    return [*lines, [], *wrap([Span(note)], columns)]


def _figures_json(figures: Sequence[EffortFigures], answers: Sequence[Answered]) -> dict[str, Any]:
    return {"efforts": [asdict(each) for each in figures], "answers": [asdict(answer) for answer in answers]}
