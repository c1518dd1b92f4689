"""The loop of a chat: asks for a message, shows the turn, and keeps what both need to know."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gptoss_cli import settings
from gptoss_cli.chat import opening
from gptoss_cli.cli.definition import TurnOptions
from gptoss_cli.cli.loading import Loading
from gptoss_cli.cli.prompt_input import attachment
from gptoss_cli.errors import GptossError, ResourceError
from gptoss_cli.terminal.console import Console, Style

if TYPE_CHECKING:
    from collections.abc import Generator

    from gptoss_cli.chat.session import ChatSession
    from gptoss_cli.harmony.events import Event, TurnEnd
    from gptoss_cli.terminal.typeahead import TypeAhead

_NEARLY_FULL = 0.8


class Chat:
    """One run of `gptoss chat`. What its commands change are plain attributes.

    `draft` is what the next prompt begins with; `attached` goes before the next message; `edited_from`, if it is set,
    is how many messages are kept when the next one is sent.
    """

    def __init__(self, options: TurnOptions, console: Console, *, plain: bool, vi: bool) -> None:
        from gptoss_cli.terminal.live_region import open_screen
        from gptoss_cli.terminal.prompt import ChatPrompt, open_history
        from gptoss_cli.terminal.slash import SlashCompleter

        self.console = console
        self.options = options
        self.reasoning = options.reasoning or settings.ReasoningDisplay.COLLAPSE
        self.draft = ""
        self.attached: list[str] = []
        self.edited_from: int | None = None
        self.leaving = False
        self._screen = None if plain else open_screen(console)
        self._last_reasoning = ""
        history, problem = open_history(settings.state_folder() / "history")
        if problem is not None:
            console.notice(problem)
        self._prompt = ChatPrompt(
            history,
            toolbar=self._toolbar,
            shortcuts={"c-o": self._show_reasoning, "s-tab": self._next_effort},
            completer=SlashCompleter(model_names),
            # Not before: what is imported meanwhile would hold the prompt up.
            on_shown=lambda: self._loading.start(),
            vi=vi,
            colored=console.colors,
        )
        self._loading = Loading(options, self._loaded)

    def run(self, text: str | None) -> None:
        """Talk until the user leaves; `text`, unless it is blank, is what is said first."""
        # One Ctrl-C too many, between an answer's end and the prompt, must not end the chat.
        signal.signal(signal.SIGINT, lambda number, frame: None)
        while text is not None:
            if text.strip():
                self.take(text)
            if self.leaving:
                return
            draft, self.draft = self.draft, ""
            text = self._prompt.read(draft)
            if self._prompt.was_cleared:
                self.edited_from = None

    def session(self) -> "ChatSession | None":
        """The session, waited for while it loads; None if the user would not wait. Raises why it cannot be loaded."""
        self._wait_for(self._loading)
        if not self._loading.is_done:
            return None
        self._tell_notices()
        return self._loading.session()

    def attach(self, path: str) -> None:
        """Let the file at `path` go along with the next message. Raises UsageError or ResourceError."""
        self.attached.append(attachment(Path(path), self.console))

    def forget(self, count: int) -> None:
        """Keep the first `count` messages of the conversation."""
        session = self._loading.session()
        session.conversation.truncate(count)
        session.last_end = None
        self._last_reasoning = ""
        self.edited_from = None

    def answer(self, make: "Callable[[ChatSession], Generator[Event]]") -> None:
        """Show the turn that `make` begins. Raises what the turn raises."""
        from gptoss_cli.terminal.typeahead import TypeAhead

        session = self._loading.session()
        typed = TypeAhead({"c-n": session.answer_now})
        try:
            with opening.stops(session), closing(make(session)) as events:
                end = self._show(events, typed)
        finally:
            self._prompt.type_ahead(typed.keys)
        shortfall = opening.incompleteness(end)
        if shortfall is not None:
            self.console.notice(shortfall.message)
        self._warn_of_context(session)
        self.console.err("\n")

    def change_model(self, name: str) -> None:
        """Let another model go on with the conversation. Where it cannot be loaded the one before stays.

        Raises why it cannot.
        """
        old = self._loading.session()
        loading = Loading(replace(self.options, model=name), lambda loading: None)
        self._wait_for(loading)
        if not loading.is_done:
            self.console.notice("The model stays as it is.")
            return
        new = loading.session()
        new.conversation = old.conversation
        for setting in ("seed", "temperature", "top_p", "top_k", "max_tokens", "think_budget", "free_headers"):
            setattr(new, setting, getattr(old, setting))
        self._loading, self.options = loading, replace(self.options, model=name)
        self._tell_notices()

    def take(self, text: str) -> None:
        """Carry out a command or send a message; what goes wrong with it is one line, and the chat goes on."""
        from gptoss_cli.cli import chat_commands
        from gptoss_cli.terminal import slash

        try:
            command = slash.parse(text)
            if command is None:
                self._send(slash.message_of(text))
            else:
                self.edited_from = None
                chat_commands.obey(self, *command)
        except GptossError as exc:
            if exc is self._loading.error:
                raise
            self.console.error(str(exc))

    def _send(self, text: str) -> None:
        session = self.session()
        if session is None:
            self.draft = text
            return
        if self.edited_from is not None:
            self.forget(self.edited_from)
        whole = "\n\n".join([*self.attached, text])
        before = len(session.conversation.messages)
        try:
            self.answer(lambda session: session.turn(whole))
        except ResourceError as exc:
            if len(session.conversation.messages) > before:
                raise
            self.draft = text
            advice = "/undo takes the last turn back, /new begins anew, and gptoss chat --context N makes more room."
            raise ResourceError(f"It was not sent. {exc} {advice}") from exc
        self.attached = []

    def _show(self, events: "Generator[Event]", typed: "TypeAhead") -> "TurnEnd":
        from gptoss_cli.terminal.turn_live import TurnView
        from gptoss_cli.terminal.turn_plain import show_turn

        if self._screen is None:
            with typed.reading():
                return show_turn(events, self.console, reasoning=self.reasoning)
        view = TurnView(self._screen, self.reasoning)
        typed.actions["c-o"] = view.toggle_reasoning
        with typed.reading():
            try:
                return view.follow(events)
            finally:
                self._last_reasoning = view.reasoning_text

    def _wait_for(self, loading: Loading) -> None:
        """Until it is done or the user presses Ctrl-C."""
        loading.start()
        if loading.is_done:
            return
        with self.console.activity() as activity, _interrupts() as interrupts:
            activity.say("Loading the model. Ctrl-C goes back to the prompt.")
            while not interrupts and not loading.wait(0.05):
                pass

    def _loaded(self, loading: Loading) -> None:
        if loading.error is not None:
            self._prompt.interrupt(loading.error)
        else:
            self._prompt.above(self._tell_notices)

    def _tell_notices(self) -> None:
        notices, self._loading.notices = self._loading.notices, []
        for notice in notices:
            self.console.notice(notice)

    def _warn_of_context(self, session: "ChatSession") -> None:
        used, most = len(session.conversation.render()), session.context_tokens
        if used >= most * _NEARLY_FULL:
            self.console.notice(
                f"The conversation fills {used / most:.0%} of the context, {used:,} of {most:,} tokens."
                " /undo takes the last turn back, /new begins anew; gptoss chat --context N makes more room."
            )

    def _show_reasoning(self) -> None:
        reasoning = self._last_reasoning.strip() or "There was no reasoning to show."
        self._prompt.above(lambda: self.console.err(f"{reasoning}\n", Style.DIM))

    def _next_effort(self) -> None:
        if self._loading.is_done:
            session = self._loading.session()
            efforts = list(settings.TRAINED_EFFORTS)
            effort = session.conversation.effort
            session.set_effort(efforts[(efforts.index(effort) + 1) % len(efforts) if effort in efforts else 0])

    def _toolbar(self) -> str:
        model = self.options.model or "gptoss"
        if not self._loading.is_done or self._loading.error is not None:
            return f"{model} · loading"
        session = self._loading.session()
        used = len(session.conversation.render())
        parts = [model, f"effort {session.conversation.effort}", f"{used:,} of {session.context_tokens:,} tokens"]
        end = session.last_end
        if end is not None and end.first_token_seconds is not None and end.total_seconds > end.first_token_seconds:
            rate = (end.reasoning_tokens + end.answer_tokens) / (end.total_seconds - end.first_token_seconds)
            parts.append(f"{rate:.1f} tokens/s")
        if end is not None and end.expert_hit_rate is not None:
            parts.append(f"{end.expert_hit_rate:.0%} of the experts on the GPU")
        if self.attached:
            parts.append(f"{len(self.attached)} files go with the message")
        return " · ".join(parts)


def model_names() -> list[str]:
    """What /model can be given, apart from a path."""
    from gptoss_cli.checkpoint import catalog

    return [model.short_name for model in catalog.MODELS]


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Within the block each Ctrl-C is only noted."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
