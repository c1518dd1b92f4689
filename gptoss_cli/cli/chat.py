"""`gptoss chat`: a conversation at the terminal. The prompt is shown while the model loads in a thread."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar

from gptoss_cli import settings
from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel
from gptoss_cli.checkpoint import catalog
from gptoss_cli.cli.chat_state import ChatState
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.hints import sentence, unexpected, without_secrets
from gptoss_cli.cli.loading import Loading
from gptoss_cli.cli.options import HistoryOptions, TemplateOptions, TurnOptions
from gptoss_cli.cli.prompt_input import attachment, chat_request, valid_text
from gptoss_cli.cli.refusals import alternatives
from gptoss_cli.cli.signals import StrayInterrupts, stopping
from gptoss_cli.cli.templates import Template, find_template
from gptoss_cli.cli.toolbar import ChatStatus, toolbar_line
from gptoss_cli.errors import GptossError, UsageError
from gptoss_cli.terminal import slash
from gptoss_cli.terminal.cells import in_two_columns
from gptoss_cli.terminal.console import Console, Style
from gptoss_cli.terminal.live_region import open_screen
from gptoss_cli.terminal.prompt import ChatPrompt, Entered, open_history, temporary_history
from gptoss_cli.terminal.typeahead import keys_kept

# For annotations alone: they import the database, which a new conversation does not need before its prompt.
if TYPE_CHECKING:
    from gptoss_cli.cli.resuming import Resumed

_UNSAVED: Final = HistoryOptions(save=False)
_Loaded = TypeVar("_Loaded")
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True, slots=True)
class ChatStart:
    """The beginning of a chat: the words of the first message, files that go with it, and what it continues.

    `given` are the names of the options on the command line itself, which replace what a conversation has of its own.
    """

    words: Sequence[str]
    files: Sequence[Path]
    history: HistoryOptions
    plain: bool = False
    vi: bool = False
    given: frozenset[str] = frozenset()
    template: TemplateOptions | None = None


def run_chat(start: ChatStart, options: TurnOptions, environment: Environment) -> None:
    """Talk until the user leaves. Raises GptossError."""
    console = environment.console
    if not console.reads_terminal:
        raise UsageError("gptoss chat needs a terminal on stdin. For pipes and files use: gptoss ask")
    first = Entered(valid_text(" ".join(start.words)))
    template = find_template(start.template, console)
    if template is not None and (first.text.strip() or not template.takes_input):
        first, template = Entered(template.filled(first.text), pasted=True), None
    resumed = _resumed(start, console)
    chat = Chat(
        replace(chat_request(options, console, start.given), is_private=not start.history.save),
        environment,
        plain=start.plain,
        vi=start.vi,
        history=start.history,
        resumed=resumed,
    )
    if options.reasoning is not None:
        chat.state.reasoning = options.reasoning
    for file in start.files:
        chat.state.attached.append(attachment(file, console))
    try:
        chat.run(first, template)
    finally:
        chat.close()


def _resumed(start: ChatStart, console: Console) -> Resumed | None:
    """Return the conversation to continue, named in a notice, or None for a new one. Raises GptossError."""
    history = start.history
    if not (history.continue_last or history.resume is not None or history.fork or history.at is not None):
        return None
    # Here and not at the top: a new conversation needs no database before its prompt.
    from gptoss_cli.archive.archive import Archive
    from gptoss_cli.cli.resuming import Resumed, archive_path, check_choice, find_stored

    resume = history.resume
    check_choice(continue_last=history.continue_last, resume=resume, at=history.at, fork=history.fork)
    archive = Archive(archive_path(), notice=console.notice)
    try:
        if resume == "":
            # Here and not at the top, as above.
            from gptoss_cli.cli.conversation_picker import pick_conversation

            resume = pick_conversation(archive, console)
        stored = find_stored(archive, resume, at=history.at, fork=history.fork)
    finally:
        archive.close()
    resumed = Resumed(stored, start.given)
    console.notice(resumed.description())
    return resumed


def _shown_model(request: ChatRequest) -> str:
    """Return what the toolbar shows before the model is loaded."""
    return request.server.address if request.server is not None else request.model or ""


def _quietly(text: Callable[_Arguments, str]) -> Callable[_Arguments, str]:
    """Return a function that returns "" if `text` raises: the toolbar must not end the prompt."""

    def run(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> str:
        try:
            return text(*arguments, **options)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001  a panic of a Rust library is no Exception
            return ""

    return run


class TurnRunner(Protocol):
    """The part of LoadedChat that the prompt needs."""

    def send(self, text: str) -> None:
        """Send a message and show the answer."""

    def run(self, command: str, argument: str) -> None:
        """Run a slash command."""

    def next_effort(self) -> None:
        """Change to the next effort."""

    def status(self) -> ChatStatus:
        """Return what the toolbar shows."""

    def report(self) -> None:
        """Show what happened to the saved conversation meanwhile."""

    def close(self) -> None:
        """End the saving, and say how to continue the conversation."""


class Chat:
    """One run of `gptoss chat`: the prompt, and the model that loads behind it."""

    def __init__(
        self,
        request: ChatRequest,
        environment: Environment,
        *,
        plain: bool,
        vi: bool,
        history: HistoryOptions = _UNSAVED,
        resumed: Resumed | None = None,
    ) -> None:
        self._environment = environment
        self._console = console = environment.console
        self._request = resumed.request(request) if resumed else request
        self._history = history
        self._resumed = resumed
        self._template: Template | None = None
        self.state = ChatState(
            console=console,
            screen=None if plain else open_screen(console),
            reasoning=settings.ReasoningDisplay.COLLAPSE,
            model=_shown_model(self._request),
            date=request.date,
        )
        inputs, problem = open_history(settings.state_folder() / "history") if history.save else temporary_history()
        if problem is not None:
            console.notice(problem)
        self._prompt = ChatPrompt(
            inputs,
            toolbar=_quietly(self._toolbar),
            shortcuts={
                "c-o": self._guarded(self._show_reasoning, None),
                "s-tab": self._guarded(self._next_effort, None),
            },
            completer=slash.SlashCompleter(lambda: [model.short_name for model in catalog.MODELS]),
            # Not before: the imports of the load would delay the prompt.
            on_shown=lambda: self._loading.start(),
            on_error=self._show_error,
            vi=vi,
            colored=console.colors,
        )
        self._loading: Loading[TurnRunner] = Loading(self._load, self._on_loaded)

    def run(self, first: Entered, template: Template | None = None) -> None:
        """Talk until the user leaves. Raises the error of the load.

        `first`, unless it is blank, is sent first. The first message goes into `template`.
        """
        self._template = template
        if template is not None:
            self._console.notice(f"Your first message goes into the template {template.name}.")
        # A Ctrl-C between the end of an answer and the prompt must not end the chat.
        stray = StrayInterrupts()
        if first.text.strip():
            self._show_prompt(first.text)
        entered: Entered | None = first
        while entered is not None:
            if entered.text.strip():
                with keys_kept():
                    self.take(entered.text, pasted=entered.pasted)
            if self.state.is_leaving:
                return
            draft, self.state.draft = self.state.draft, ""
            # What was typed since is a message of its own; only after /edit it belongs to the draft.
            if draft and self.state.edited_from is None and self._prompt.set_aside(draft):
                self._console.notice("The message was not sent. The Up key recalls it.")
                draft = ""
            entered = self._prompt.read(draft)
            stray.forget()
            if self._prompt.was_cleared:
                self.state.edited_from = None

    def close(self) -> None:
        """End the saving of the conversation."""
        if self._is_ready:
            self._loading.result().close()

    def take(self, text: str, *, pasted: bool = False) -> None:
        """Run a command or send a message. An error is shown in one line, and the chat goes on.

        Raises the error of the load: without a model there is no chat.
        """
        try:
            command = slash.parse(text, pasted=pasted)
            if command is None:
                if slash.is_like_command(text):
                    self._console.notice("Sent as a message, not run: a command has to be typed, in one line.")
                self._send(slash.message_of(text, pasted=pasted))
            else:
                self.state.edited_from = None
                self._run_command(*command)
            if self._is_ready:
                self._loading.result().report()
        except (BrokenPipeError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # a panic of a Rust library is no Exception
            if exc is self._loading.error:
                raise
            self._show_error(exc)

    def _show_error(self, exc: BaseException) -> None:
        if self._console.debug:
            self._console.err(without_secrets("".join(traceback.format_exception(exc)), self._console.environment))
        line = sentence(exc, in_chat=True) if isinstance(exc, GptossError) else unexpected(exc)
        self._console.error(without_secrets(line, self._console.environment))

    def _guarded(self, act: Callable[[], _Loaded], otherwise: _Loaded) -> Callable[[], _Loaded]:
        """Return `act` for the prompt, which an exception of it would end; the error is shown above the prompt."""

        def run() -> _Loaded:
            try:
                return act()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:  # noqa: BLE001  as in `take`
                error = exc
                self._prompt.above(lambda: self._show_error(error))
                return otherwise

        return run

    def loaded(self) -> TurnRunner | None:
        """Wait for the load; None if the user does not wait. Raises the error of the load."""
        self._wait_for(self._loading)
        if not self._loading.is_done:
            return None
        self._show_notices(self._loading)
        return self._loading.result()

    def _send(self, text: str) -> None:
        if self._template is not None:
            text, self._template = self._template.filled(text), None
        loaded = self.loaded()
        if loaded is None:
            self.state.draft = text
        else:
            loaded.send(text)

    def _run_command(self, command: str, argument: str) -> None:
        match command:
            case "/help":
                self._help()
            case "/exit":
                self.state.is_leaving = True
            case "/reasoning":
                self._set_reasoning(argument)
            case _:
                loaded = self.loaded()
                if loaded is not None:
                    loaded.run(command, argument)

    def _help(self) -> None:
        for name, meaning in in_two_columns(slash.help_lines(), self._console.stderr.columns - 2):
            self._console.err(f"  {name}")
            self._console.err(f"{meaning}\n", Style.DIM)

    def _show_prompt(self, text: str) -> None:
        """Show a prompt of the command line as if it had been typed."""
        first, *others = text.split("\n")
        self._console.err("> ", Style.PROMPT)
        self._console.err("".join(f"{line}\n" for line in (first, *(f"  {each}" for each in others))))

    def _set_reasoning(self, argument: str) -> None:
        modes = list(settings.ReasoningDisplay)
        if not argument:
            self._console.err(
                f"The reasoning display is {self.state.reasoning}. To change it: /reasoning {'|'.join(modes)}\n"
            )
            return
        if argument not in modes:
            raise UsageError(f"There is no reasoning display {argument!r}. Choose {alternatives(modes)}.")
        self.state.reasoning = settings.ReasoningDisplay(argument)
        self._console.notice(f"The reasoning display is {argument} from now on.")

    def _load(self, notice: Notify) -> TurnRunner:
        """Import what answers and open the model, in the thread of the load."""
        # Here and not at the top: these import openai_harmony, rich and sqlite3, and the prompt does not wait for them.
        from gptoss_cli.cli.chat_commands import COMMANDS
        from gptoss_cli.cli.loaded_chat import LoadedChat
        from gptoss_cli.cli.saving import Saving

        resumed = self._resumed
        if resumed is None:
            opened = self._open(self._request, notice)
        else:
            opened = resumed.open(lambda request: self._open(request, notice), self._request)
            for line in resumed.notices(opened):
                notice(line)
        saving = Saving(opened.info, enabled=self._history.save, keep_reasoning=self._history.save_reasoning)
        opened.session.recorder = saving.begin(resumed.stored if resumed else None)
        return LoadedChat(opened, self.state, COMMANDS, prompt=self._prompt, open_other=self._open_other, saving=saving)

    def _open(self, request: ChatRequest, notice: Notify) -> OpenedModel:
        return self._environment.open_model(request, progress=lambda text: None, notice=notice)

    def _open_other(self, model: str) -> OpenedModel | None:
        """Open another model while the user waits; None if the user does not wait. Raises what opening it raises."""
        loading = Loading(lambda notice: self._open(replace(self._request, model=model, server=None), notice))
        self._wait_for(loading)
        if not loading.is_done:
            return None
        opened = loading.result()
        self._show_notices(loading)
        return opened

    def _wait_for(self, loading: Loading[_Loaded]) -> None:
        """Wait until the load is done or the user presses Ctrl-C."""
        loading.start()
        if loading.is_done:
            return
        interrupted = threading.Event()
        with self._console.activity() as activity, stopping(interrupted.set):
            activity.say("Loading the model. Ctrl-C goes back to the prompt.")
            while not interrupted.is_set() and not loading.wait(0.05):
                pass

    def _on_loaded(self) -> None:
        if self._loading.error is not None:
            self._prompt.interrupt(self._loading.error)
        else:
            self._prompt.above(lambda: self._show_notices(self._loading))

    def _show_notices(self, loading: Loading[_Loaded]) -> None:
        notices, loading.notices = loading.notices, []
        for notice in notices:
            self._console.notice(notice)

    def _show_reasoning(self) -> None:
        reasoning = self.state.last_reasoning.strip() or "There is no reasoning to show."
        self._prompt.above(lambda: self._console.lines(reasoning, Style.DIM))

    def _next_effort(self) -> None:
        if self._is_ready:
            self._loading.result().next_effort()

    @property
    def _is_ready(self) -> bool:
        return self._loading.is_done and self._loading.error is None

    def _toolbar(self, columns: int) -> str:
        if self._is_ready:
            return toolbar_line(self._loading.result().status(), columns)
        return toolbar_line(ChatStatus(model=self.state.model, attached=len(self.state.attached)), columns)
