"""A chat whose model is loaded: it sends messages, shows turns and runs commands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing

from gptoss_cli.chat.inspection import DecodedTurn
from gptoss_cli.chat.request import OpenedModel
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.stopping import incompleteness
from gptoss_cli.cli.chat_state import ChatState
from gptoss_cli.cli.hints import with_hints
from gptoss_cli.cli.incomplete import incomplete_words
from gptoss_cli.cli.saving import Saving
from gptoss_cli.cli.signals import stopping
from gptoss_cli.cli.toolbar import ChatStatus
from gptoss_cli.errors import Hint, NetworkError, ResourceError
from gptoss_cli.harmony.events import Event, Token, TurnEnd
from gptoss_cli.settings import TRAINED_EFFORTS
from gptoss_cli.terminal.prompt import ChatPrompt
from gptoss_cli.terminal.turn_live import TurnView
from gptoss_cli.terminal.turn_plain import show_turn, statistics_line
from gptoss_cli.terminal.typeahead import TypeAhead

_NEARLY_FULL = 0.8


# The KV cache is then written while nobody waits, in case the chat does not end in order.
_IDLE_SECONDS = 60


class LoadedChat:
    """A conversation with a loaded model at the terminal.

    `prompt` gets the keys that were typed during a turn. `open_other` opens another model by name; it returns None if
    the user does not wait for it.
    """

    def __init__(
        self,
        opened: OpenedModel,
        state: ChatState,
        commands: Mapping[str, Callable[[LoadedChat, str], None]],
        *,
        prompt: ChatPrompt,
        open_other: Callable[[str], OpenedModel | None],
        saving: Saving,
    ) -> None:
        self.session: ChatSession = opened.session
        self._info = opened.info
        self.state = state
        state.model = opened.info.model
        self.console = state.console
        self.saving = saving
        self._commands = commands
        self._prompt = prompt
        self._open_other = open_other
        self._inspected: tuple[DecodedTurn, list[Token]] | None = None
        self._idle: threading.Timer | None = None

    def run(self, command: str, argument: str) -> None:
        """Run a slash command. Raises UsageError for a wrong argument, and what its turn or load raises."""
        self._commands[command](self, argument)

    def send(self, text: str) -> None:
        """Send a message with the attached files and show the answer. Raises what the turn raises."""
        state, session = self.state, self.session
        if state.edited_from is not None:
            self.keep_messages(state.edited_from)
        before = len(session.conversation.messages)
        try:
            message = "\n\n".join([*(each.text for each in state.attached), text])
            self.show(session.turn(message, [each.record for each in state.attached]))
        except (NetworkError, ResourceError) as exc:
            if len(session.conversation.messages) > before:
                raise
            state.draft = text
            kind = NetworkError if isinstance(exc, NetworkError) else ResourceError
            raise kind(f"The message was not sent. {exc}", *exc.hints, subject=exc.subject) from exc
        state.attached = []

    def show(self, turn: Generator[Event]) -> None:
        """Run a turn and show it. Raises what the turn raises."""
        session = self.session
        typed = TypeAhead({"c-n": session.answer_now})
        self._stop_idling()
        session.forget_stop()
        try:
            with stopping(session.stop), closing(turn) as events:
                end = self._follow(events, typed)
        finally:
            self._prompt.type_ahead(typed.keys)
            # Not of `session`: the timer would keep a model in memory that another has replaced.
            self._idle = threading.Timer(_IDLE_SECONDS, lambda: self.session.save_kv())
            self._idle.daemon = True
            self._idle.start()
        incomplete = incompleteness(end)
        if incomplete is not None:
            self.console.notice(incomplete_words(incomplete, in_chat=True))
        if self.console.verbose:
            self.console.notice(statistics_line(end))
        self._warn_of_context()
        self.console.err("\n")

    def inspect_last_turn(self) -> list[Token]:
        """Return the tokens of the last turn, which is read again unless it was before; after Ctrl-C, the first ones.

        Returns nothing if there is no turn. Raises what the reading raises.
        """
        session, turn = self.session, self.session.last_turn
        if turn is None or not turn.ids:
            return []
        if self._inspected is not None and self._inspected[0] is turn:
            return self._inspected[1]
        tokens = []
        session.forget_stop()
        with self.console.activity() as activity, stopping(session.stop), closing(session.inspect_last_turn()) as read:
            for token in read:
                tokens.append(token)
                activity.say(f"Reading the last turn again, {len(tokens):,} of {len(turn.ids):,} tokens")
        if len(tokens) == len(turn.ids):
            self._inspected = turn, tokens
        else:
            beginning = f" This is the beginning, {len(tokens):,} of {len(turn.ids):,} tokens." if tokens else ""
            self.console.notice(f"Stopped.{beginning}")
        return tokens

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def keep_messages(self, count: int) -> None:
        """Keep the first `count` messages of the conversation and remove the others."""
        self.session.keep_messages(count)
        self.state.last_reasoning = ""
        self.state.edited_from = None

    def change_model(self, name: str) -> bool:
        """Continue the conversation with another model; return False if the user did not wait for it.

        Raises what opening it raises. The model then stays as it is.
        """
        opened = self._open_other(name)
        if opened is None:
            return False
        opened.session.conversation = self.session.conversation
        opened.session.settings = self.session.settings
        opened.session.recorder = self.session.recorder
        opened.session.kv_names = self.session.kv_names
        self.saving.change_model(opened.info)
        self.session, self._info = opened.session, opened.info
        self.state.model = opened.info.model
        return True

    def report(self) -> None:
        """Show what happened to the saved conversation meanwhile."""
        self.saving.report(self.console)

    def close(self) -> None:
        """End the saving, and say how to continue the conversation."""
        self._stop_idling()
        self.session.save_kv()
        self.saving.close(self.console, command="gptoss chat" if self.session.conversation.messages else None)

    def next_effort(self) -> None:
        """Change to the next of the efforts that the model was trained for."""
        efforts, effort = list(TRAINED_EFFORTS), self.session.conversation.effort
        self.session.set_effort(efforts[(efforts.index(effort) + 1) % len(efforts) if effort in efforts else 0])

    def status(self) -> ChatStatus:
        """Return what the toolbar shows."""
        session, info, end = self.session, self._info, self.session.last_end
        return ChatStatus(
            model=self.state.model,
            execution=info.execution if info.server is None else f"{info.execution}, {info.device}",
            effort=session.conversation.effort,
            used_tokens=session.used_tokens,
            context_tokens=session.context_tokens,
            decode_rate=None if end is None else end.decode_rate,
            expert_hit_rate=None if end is None else end.expert_hit_rate,
            attached=len(self.state.attached),
        )

    def _follow(self, events: Generator[Event], typed: TypeAhead) -> TurnEnd:
        state = self.state
        if state.screen is None:
            with typed.reading():
                return show_turn(events, self.console, reasoning=state.reasoning)
        view = TurnView(state.screen, state.reasoning)
        typed.actions["c-o"] = view.toggle_reasoning
        with typed.reading():
            try:
                return view.follow(events)
            finally:
                state.last_reasoning = view.reasoning_text

    def _warn_of_context(self) -> None:
        used, most = self.session.used_tokens, self.session.context_tokens
        if used >= most * _NEARLY_FULL:
            text = f"The conversation fills {used / most:.0%} of the context, {used:,} of {most:,} tokens"
            self.console.notice(with_hints(text, Hint.SHORTER_CONVERSATION, Hint.LARGER_CONTEXT, in_chat=True))
