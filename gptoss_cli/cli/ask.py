"""`gptoss ask`: one turn, from words or a pipe to an answer on stdout."""

import secrets
import time
from collections.abc import Iterable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_cli.chat.stopping import limited
from gptoss_cli.cli.definition import AnswerOptions, TurnOptions, command
from gptoss_cli.cli.efforts import ask_at_efforts, parse_efforts
from gptoss_cli.cli.json_output import JsonLines, answer_record, json_line
from gptoss_cli.cli.output import Transcript, code_block, refuse_unwritable, without_answer, write_whole
from gptoss_cli.cli.prompt_input import answer_form, prompt_text, whole_characters
from gptoss_cli.errors import ExitStatus, UsageError
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.chat.opening import Incomplete, OpenedModel
    from gptoss_cli.harmony.events import Event, TurnEnd
    from gptoss_cli.harmony.structured_output import OutputFormat

__all__ = ["ask", "whole_characters"]


@command
def ask(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="The words of the prompt.", show_default=False)
    ] = None,
    *,
    console: Console,
    form: AnswerOptions,
    options: TurnOptions,
) -> None:
    """Ask one thing. The answer goes to stdout, all else to stderr.

    Without a PROMPT, or with - for one, the prompt is read from stdin; with both, the piped text follows the PROMPT.
    A prompt that begins with a dash goes after --.
    """
    began = time.monotonic()
    lines = JsonLines(console, shows_reasoning=_keeps_reasoning(options)) if form.stream_json else None
    with nullcontext() if lines is None else lines.closing():
        _refuse_contradictions(form)
        refuse_unwritable(form.output)
        efforts = [] if form.efforts is None else parse_efforts(form.efforts)
        text = prompt_text(words or [], console, files=form.files or ())
        if efforts:
            ask_at_efforts(text, efforts, as_json=form.as_json, options=options, console=console)
        else:
            held_to = answer_form(form.schema, form.choice, console)
            _Reply(form, options, console, lines).give(text, held_to, began=began)


class _Reply:
    """One answer, in the form that was asked for."""

    def __init__(self, form: AnswerOptions, options: TurnOptions, console: Console, lines: JsonLines | None) -> None:
        self._form = form
        self._options = options
        self._console = console
        self._lines = lines
        self._said = Transcript()

    def give(self, text: str, held_to: "OutputFormat | None", *, began: float) -> None:
        """Ask and answer. Raises typer.Exit if the answer is not whole."""
        from gptoss_cli.chat import opening

        opened = opening.open_model(self._options, self._console)
        if held_to is not None:
            opened.session.form = held_to
            conversation = opened.session.conversation
            told = (conversation.instructions, held_to.description)
            conversation.instructions = "\n\n".join(each for each in told if each)
        end = self._turn(opened, text, began)
        shortfall = opening.incompleteness(end) or self._misshapen(held_to)
        if self._lines:
            self._lines.end(end, shortfall)
        elif self._form.is_buffered and (shortfall is None or shortfall.status is ExitStatus.CUT_SHORT):
            self._deliver(opened, end)
        if shortfall is not None:
            if shortfall.status is not ExitStatus.INTERRUPTED:
                self._console.error(shortfall.message)
            raise typer.Exit(shortfall.status)

    def _misshapen(self, held_to: "OutputFormat | None") -> "Incomplete | None":
        """What a whole answer lacks that was to have a form: one may be lost to a header that was left free."""
        from gptoss_cli.chat.opening import Incomplete

        if held_to is None or held_to.accepts(self._said.answer):
            return None
        return Incomplete(ExitStatus.FAILED, "The answer has not the form that was asked for. Ask again.")

    def _turn(self, opened: "OpenedModel", text: str, began: float) -> "TurnEnd":
        from gptoss_cli.chat import opening
        from gptoss_cli.terminal.turn_plain import show_turn

        session = opened.session
        if session.seed is None:
            session.seed = secrets.randbits(32)
        if self._lines:
            self._lines.start(opened.running, self._options.effort, session.seed)
        deadline = None if self._form.timeout is None else began + self._form.timeout
        with opening.stops(session), closing(session.turn(text)) as turn:
            events = limited(turn, session.stop, stop_texts=self._form.stop or (), deadline=deadline)
            return show_turn(self._shown(events), self._console, reasoning=self._display)

    def _shown(self, events: Iterable["Event"]) -> Iterable["Event"]:
        """What of `events` is for the screen; the rest is kept or told in lines."""
        events = self._said.watch(events)
        if self._lines:
            return without_answer(self._lines.tell(events))
        return without_answer(events) if self._form.is_buffered else events

    @property
    def _display(self) -> ReasoningDisplay:
        in_json = self._form.as_json or self._form.stream_json
        return ReasoningDisplay.HIDE if in_json else self._options.reasoning or ReasoningDisplay.SHOW

    def _deliver(self, opened: "OpenedModel", end: "TurnEnd") -> None:
        form, said = self._form, self._said
        if form.as_json:
            reasoning = said.reasoning if _keeps_reasoning(self._options) else None
            record = answer_record(opened.running, self._options.effort, end, answer=said.answer, reasoning=reasoning)
            write_whole(json_line(record), form.output, self._console)
        elif said.answer:
            text = f"{said.answer}\n" if form.extract is None else code_block(said.answer, form.extract)
            write_whole(text, form.output, self._console)


def _keeps_reasoning(options: TurnOptions) -> bool:
    return options.reasoning is not ReasoningDisplay.HIDE


def _refuse_contradictions(form: AnswerOptions) -> None:
    given = {
        "--json": form.as_json,
        "--stream-json": form.stream_json,
        "--no-stream": form.no_stream,
        "--extract": form.extract is not None,
        "--output": form.output is not None,
        "--efforts": form.efforts is not None,
        "--timeout": form.timeout is not None,
        "--stop": bool(form.stop),
        "--schema": form.schema is not None,
        "--choice": form.choice is not None,
    }
    alone = {
        "--stream-json": ("--json", "--no-stream", "--extract", "--output", "--efforts"),
        "--extract": ("--json", "--efforts"),
        "--efforts": ("--no-stream", "--output", "--timeout", "--stop", "--schema", "--choice"),
        "--schema": ("--choice", "--extract", "--stop"),
        "--choice": ("--extract", "--stop"),
    }
    for option, others in alone.items():
        clash = next((other for other in others if given[option] and given[other]), None)
        if clash is not None:
            raise UsageError(f"{option} and {clash} do not go together. Leave one of them out.")
    if form.stop and not all(form.stop):
        raise UsageError("--stop needs a text that is not empty.")
