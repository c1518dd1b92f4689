"""`gptoss ask`: one turn, from words or a pipe to an answer on stdout."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

import typer

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.recorder import Attachment
from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.chat.stopping import Incomplete, Problem, apply_stop_conditions, incompleteness, timed_out
from gptoss_cli.chat.transcript import Transcript
from gptoss_cli.cli.deadline import Deadline
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.incomplete import incomplete_words
from gptoss_cli.cli.json_output import JsonLines, answer_record, json_text, token_json
from gptoss_cli.cli.options import AnswerOptions, AskHistoryOptions, TemplateOptions, TurnOptions
from gptoss_cli.cli.output import check_output, code_block, output_format, without_answer, write_answer
from gptoss_cli.cli.prompt_input import attachment, chat_request
from gptoss_cli.cli.resuming import Resumed, archive_path, check_choice, find_stored
from gptoss_cli.cli.saving import Saving
from gptoss_cli.cli.signals import stopping
from gptoss_cli.cli.templates import find_template, prompt_of
from gptoss_cli.errors import ExitStatus, Hint, UsageError
from gptoss_cli.generation import random_seed
from gptoss_cli.harmony.events import Event, Token, TurnEnd
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.turn_plain import show_turn, statistics_line


@dataclass(frozen=True, slots=True)
class Question:
    """The input of `ask`. `given` are the names of the options on the command line itself."""

    words: Sequence[str]
    answer: AnswerOptions
    history: AskHistoryOptions
    given: frozenset[str] = frozenset()
    template: TemplateOptions | None = None


def run_ask(question: Question, options: TurnOptions, environment: Environment) -> None:
    """Ask once and write the answer.

    Everything that is wrong with the input is raised before the model is opened. Raises typer.Exit if the answer is
    incomplete.
    """
    console, answer = environment.console, question.answer
    lines = JsonLines(console, shows_reasoning=_keeps_reasoning(options)) if answer.stream_json else None
    turn = _Turn(options, question, environment, lines)
    deadline = Deadline(answer.timeout, began=environment.began, give_up=turn.give_up)
    with nullcontext() if lines is None else lines.closing(), deadline.watched():
        check_combination(answer, question.history)
        check_output(answer.output)
        attached = [attachment(file, console) for file in answer.files or ()]
        template = find_template(question.template, console)
        text = prompt_of(template, question.words, console, attached=attached)
        output = output_format(answer.schema, answer.choice, console)
        request = replace(chat_request(options, console, question.given), is_private=question.history.no_save)
        if request.server is not None and answer.logprobs is not None:
            raise UsageError("--logprobs and --server do not go together: a server does not show the probabilities.")
        resumed = _resumed(question, console)
        turn.resumed = resumed
        turn.attachments = [each.record for each in attached]
        turn.run(text, resumed.request(request) if resumed else request, output, deadline)


def _resumed(question: Question, console: Console) -> Resumed | None:
    """Return the conversation to continue, named in a notice, or None for a new one. Raises GptossError."""
    history = question.history
    if not history.continue_last and history.resume is None:
        return None
    if history.resume == "":
        raise UsageError("--resume needs an id or a title", Hint.LIST_CONVERSATIONS)
    with closing(Archive(archive_path(), notice=console.notice)) as archive:
        resumed = Resumed(find_stored(archive, history.resume), question.given)
    console.notice(resumed.description())
    return resumed


class _Turn:
    """The only turn of an `ask`, and the ways in which its answer is written."""

    def __init__(
        self,
        options: TurnOptions,
        question: Question,
        environment: Environment,
        lines: JsonLines | None,
    ) -> None:
        self._options = options
        self._answer = question.answer
        self._history = question.history
        self._environment = environment
        self._console = environment.console
        self._lines = lines
        self.resumed: Resumed | None = None
        self.attachments: Sequence[Attachment] = ()
        self._transcript = Transcript()
        self._tokens: list[Token] = []

    def run(self, text: str, request: ChatRequest, output: OutputFormat | None, deadline: Deadline) -> None:
        """Open the model, ask, and write the answer. Raises typer.Exit if the answer is incomplete."""
        opened = self._open(request)
        _require_format(opened, output)
        saving = self._save(opened)
        try:
            end = self._show(opened, text, deadline)
            deadline.end()
        finally:
            if not deadline.has_passed:
                opened.session.save_kv()
            saving.close(self._console, command=None if self.resumed else "gptoss ask")
        incomplete = incompleteness(end, timeout_seconds=self._answer.timeout) or self._wrong_format(output)
        if self._lines:
            self._lines.end(end, incomplete)
        elif self._answer.is_buffered and (incomplete is None or incomplete.status is ExitStatus.CUT_SHORT):
            self._write(opened, end)
        if incomplete is not None:
            if incomplete.status is not ExitStatus.INTERRUPTED:
                self._console.error(incomplete_words(incomplete))
            raise typer.Exit(incomplete.status)

    def _open(self, request: ChatRequest) -> OpenedModel:
        if self.resumed is None:
            return self._environment.open(request)
        opened = self.resumed.open(self._environment.open, request)
        for notice in self.resumed.notices(opened):
            self._console.notice(notice)
        return opened

    def _save(self, opened: OpenedModel) -> Saving:
        history = self._history
        saving = Saving(opened.info, enabled=history.saves, keep_reasoning=history.save_reasoning)
        opened.session.recorder = saving.begin(self.resumed.stored if self.resumed else None, title=history.title)
        return saving

    def _show(self, opened: OpenedModel, text: str, deadline: Deadline) -> TurnEnd:
        session = opened.session
        seed = random_seed() if session.settings.seed is None else session.settings.seed
        session.settings = replace(session.settings, seed=seed, logprobs=self._answer.logprobs)
        if self._lines:
            self._lines.start(opened.info, session.conversation, seed)
        with stopping(session.stop), closing(session.turn(text, self.attachments)) as turn:
            events = deadline.ending(turn, session.stop)
            stops = self._answer.stop or ()
            events = apply_stop_conditions(events, session.stop, stop_texts=stops, deadline=deadline.at)
            show = _show_turn(self._console)
            end = show(self._visible(events), self._console, reasoning=self._display)
        if self._console.verbose:
            self._console.notice(statistics_line(end))
        return end

    def give_up(self) -> None:
        """Write what there is of the answer, since the process ends now."""
        answer = self._transcript.answer
        incomplete = timed_out(self._answer.timeout, answered=bool(answer.strip()))
        if self._lines:
            self._lines.fail(incomplete.status, incomplete_words(incomplete))
        elif answer and not self._answer.is_buffered:
            self._console.out("\n")
        elif answer and not self._answer.as_json:
            self._write_text(answer)
        self._console.error(incomplete_words(incomplete))

    def _visible(self, events: Iterable[Event]) -> Iterable[Event]:
        """Return the events for the screen; the transcript and the JSON lines take all of them."""
        events = self._transcript.record(events)
        if self._lines:
            return without_answer(self._lines.record(events))
        if self._answer.logprobs is not None:
            events = self._keep_tokens(events)
        return without_answer(events) if self._answer.is_buffered else events

    def _keep_tokens(self, events: Iterable[Event]) -> Iterable[Event]:
        for event in events:
            if isinstance(event, Token) and (_keeps_reasoning(self._options) or not event.is_reasoning):
                self._tokens.append(event)
            yield event

    @property
    def _display(self) -> ReasoningDisplay:
        in_json = self._answer.as_json or self._answer.stream_json
        return ReasoningDisplay.HIDE if in_json else self._options.reasoning or ReasoningDisplay.SHOW

    def _wrong_format(self, output: OutputFormat | None) -> Incomplete | None:
        """Return the problem of a complete answer in another format: free headers may have let it pass."""
        if output is None or output.accepts(self._transcript.answer):
            return None
        return Incomplete(Problem.WRONG_FORMAT, ExitStatus.FAILED, answered=True)

    def _write(self, opened: OpenedModel, end: TurnEnd) -> None:
        answer, text = self._answer, self._transcript.answer
        if answer.as_json:
            reasoning = self._transcript.reasoning if _keeps_reasoning(self._options) else None
            record = answer_record(opened.info, opened.session.conversation, end, answer=text, reasoning=reasoning)
            if answer.logprobs is not None:
                record["tokens"] = [token_json(token) for token in self._tokens]
            write_answer(json_text(record), answer.output, self._console)
        elif text or answer.extract is not None:
            self._write_text(text)

    def _write_text(self, text: str) -> None:
        answer = self._answer
        extracted = f"{text}\n" if answer.extract is None else code_block(text, answer.extract)
        if self._transcript.reasoning and self._display is ReasoningDisplay.SHOW and answer.output is None:
            self._separate()
        write_answer(extracted, answer.output, self._console, is_markdown=answer.extract is None)

    def _separate(self) -> None:
        """Write an empty line between the reasoning and the answer if both are on the terminal."""
        if self._console.stdout.is_terminal and self._console.stderr.is_terminal:
            self._console.err("\n")


def _show_turn(console: Console) -> Callable[..., TurnEnd]:
    """Return the function that shows a turn on the streams of `console`."""
    if not console.renders_on(console.stdout) and not console.renders_on(console.stderr):
        return show_turn
    # Only here: an answer in a pipe does not wait for the Markdown parser.
    from gptoss_cli.terminal.turn_rendered import show_rendered_turn

    return show_rendered_turn


def _require_format(opened: OpenedModel, output: OutputFormat | None) -> None:
    """Constrain the answer to `output` and describe the format in the instructions.

    Only after the model was opened: the prefix that is kept on disk is that of the instructions alone.
    """
    if output is None:
        return
    session = opened.session
    session.settings = replace(session.settings, output=output)
    parts = (session.conversation.instructions, output.description)
    session.conversation.instructions = "\n\n".join(part for part in parts if part)


def _keeps_reasoning(options: TurnOptions) -> bool:
    return options.reasoning is not ReasoningDisplay.HIDE


def check_combination(answer: AnswerOptions, history: AskHistoryOptions) -> None:
    """Raise UsageError for options that contradict each other."""
    check_choice(continue_last=history.continue_last, resume=history.resume)
    if history.title is not None and not history.save:
        raise UsageError("--title needs --save.")
    given = {
        "--json": answer.as_json,
        "--stream-json": answer.stream_json,
        "--no-stream": answer.no_stream,
        "--extract": answer.extract is not None,
        "--output": answer.output is not None,
        "--efforts": answer.efforts is not None,
        "--timeout": answer.timeout is not None,
        "--stop": bool(answer.stop),
        "--schema": answer.schema is not None,
        "--choice": answer.choice is not None,
        "--logprobs": answer.logprobs is not None,
        "--continue": history.continue_last,
        "--resume": history.resume is not None,
    }
    excluded = {
        "--stream-json": ("--json", "--no-stream", "--extract", "--output", "--efforts"),
        "--extract": ("--json", "--efforts"),
        "--efforts": ("--no-stream", "--output", "--timeout", "--stop", "--schema", "--choice", "--logprobs"),
        "--continue": ("--efforts",),
        "--resume": ("--efforts",),
        "--schema": ("--choice", "--extract", "--stop"),
        "--choice": ("--extract", "--stop"),
    }
    for option, others in excluded.items():
        clash = next((other for other in others if given[option] and given[other]), None)
        if clash is not None:
            raise UsageError(f"{option} and {clash} do not go together. Leave one of them out.")
    if answer.logprobs is not None and not (answer.as_json or answer.stream_json):
        raise UsageError("--logprobs is for JSON. Add --json or --stream-json.")
    if answer.stop and not all(answer.stop):
        raise UsageError("--stop needs a text that is not empty.")
