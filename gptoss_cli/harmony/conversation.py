"""A conversation as messages, and its prompt. Reasoning of finished turns is kept but is not part of the prompt."""

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import openai_harmony
from openai_harmony import Author, DeveloperContent, RenderOptions, SystemContent, ToolNamespaceConfig
from openai_harmony import ReasoningEffort as HarmonyEffort

from gptoss_cli.harmony.encoding import render
from gptoss_cli.harmony.events import Channel, Message, Role
from gptoss_cli.harmony.functions import Functions
from gptoss_cli.harmony.grammar import Grammar
from gptoss_cli.harmony.vocabulary import ANSWER_HEADER, load_encoding, without_surrogates
from gptoss_cli.settings import ReasoningEffort

_NOT_RUN: Final = "interrupted, not run"


class Conversation:
    """The messages of a conversation in order, rendered to a prompt.

    The system and developer messages are made of `instructions`, `date`, `effort` and `functions`; they are not in
    `messages`.

    The date is fixed, since another one would change the system message and invalidate every cached token after it.
    A change of `effort` between turns does that. NONE is the exception: the model was not trained on that word, so
    the system message keeps the previous effort, or medium: `written_effort`.
    """

    def __init__(
        self,
        instructions: str | None,
        date: datetime.date,
        effort: ReasoningEffort,
        functions: Functions | None = None,
    ) -> None:
        self.functions = functions or Functions()
        self.instructions = instructions
        self.date = date
        self._effort = effort
        self.written_effort = ReasoningEffort.MEDIUM
        self.effort = effort
        self._messages: list[Message] = []
        self._rendered: dict[Message, list[int]] = {}

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, reasoning and partial ones included."""
        return tuple(self._messages)

    @property
    def effort(self) -> ReasoningEffort:
        """The reasoning effort of the next turn."""
        return self._effort

    @effort.setter
    def effort(self, effort: ReasoningEffort) -> None:
        self._effort = effort
        if effort is not ReasoningEffort.NONE:
            self.written_effort = effort

    def add(self, message: Message) -> None:
        """Append a message, with lone surrogates, which UTF-8 cannot encode, replaced by U+FFFD."""
        self._messages.append(_clean(message))

    def add_result(self, recipient: str, text: str) -> None:
        """Append the result of a call to `recipient`. Text that looks like a special token stays text."""
        self.add(Message(Role.TOOL, text, channel=Channel.COMMENTARY, recipient=Role.ASSISTANT, name=recipient))

    def add_user(self, text: str) -> None:
        """Append a message of the user. Text that looks like a special token stays text."""
        self.add(Message(Role.USER, text))

    @property
    def starts_with_answer(self) -> bool:
        """True if the prompt ends with the header of the answer: without reasoning, unless a function can be called."""
        return self.effort is ReasoningEffort.NONE and not self.functions.recipients

    def grammar(self, recipients: Iterable[str] = ()) -> Grammar:
        """Return the grammar of the next turn; `recipients` may be called beside the functions."""
        functions = self.functions
        reasons = self.effort is not ReasoningEffort.NONE or not functions.recipients
        return Grammar((*recipients, *functions.recipients), must_call=functions.must_call, reasoning=reasons)

    def answer_interrupted_call(self) -> None:
        """If the last message is a call, append the output that says it was not run.

        Whoever would have run it is gone, or was stopped; the model must not take the next message for its output.
        """
        call = self._messages[-1] if self._messages else None
        if call is not None and call.is_call:
            self.add(Message(Role.TOOL, _NOT_RUN, call.channel, recipient=Role.ASSISTANT, name=call.recipient))

    def truncate(self, count: int) -> None:
        """Keep the first `count` messages."""
        assert 0 <= count <= len(self._messages)
        del self._messages[count:]

    def render(self) -> list[int]:
        """Return the ids of the prompt for the next assistant message, which end with `<|start|>assistant`.

        If it `starts_with_answer`, the header of the answer follows, so that the model starts with its content. The
        prompt else equals openai_harmony's `render_conversation_for_completion` of the messages of `prompted`.

        A turn that was cut off during its reasoning leaves no message, so two messages of the user follow each other:
        an empty answer would be an example to the model. Each message is encoded once.
        """
        ids = self.preface()
        for message in self.prompted():
            if message not in self._rendered:
                self._rendered[message] = _rendered(message)
            ids.extend(self._rendered[message])
        ids.extend(ANSWER_HEADER if self.starts_with_answer else ANSWER_HEADER[:2])
        return ids

    def prompted(self) -> Iterator[Message]:
        """Yield the messages that are part of the prompt.

        Reasoning is part of it only during a tool call of the current turn: if there is a call after the last user
        message or answer. openai_harmony itself drops only the reasoning before the first answer.
        """
        turn_start = 1 + max((i for i, message in enumerate(self._messages) if _ends_reasoning(message)), default=-1)
        in_call = any(message.is_call for message in self._messages[turn_start:])
        for i, message in enumerate(self._messages):
            if not message.is_reasoning or (in_call and i >= turn_start):
                yield message

    def preface(self) -> list[int]:
        """Return the ids of the system and developer messages, which every prompt begins with."""
        system = SystemContent.new().with_reasoning_effort(HarmonyEffort[self.written_effort.name])
        system = system.with_conversation_start_date(self.date.isoformat())
        declaration = self.functions.declaration
        # With it the system message names the channel of the calls.
        options = RenderOptions(conversation_has_function_tools=declaration is not None)
        ids = load_encoding().render(_from_content(Role.SYSTEM, system), options)
        # openai_harmony would render an empty developer message, which the model was not trained on.
        instructions = self.instructions if self.instructions and self.instructions.strip() else ""
        if instructions or declaration is not None:
            ids += render(lambda text: _developer_message(text, declaration), without_surrogates(instructions))
        return ids


def _ends_reasoning(message: Message) -> bool:
    return message.role is Role.USER or message.is_answer


def _clean(message: Message) -> Message:
    optional = (message.channel, message.recipient, message.content_type, message.name)
    channel, recipient, content_type, name = (part and without_surrogates(part) for part in optional)
    text = without_surrogates(message.text)
    return replace(message, text=text, channel=channel, recipient=recipient, content_type=content_type, name=name)


def _rendered(message: Message) -> list[int]:
    return render(lambda text: _to_library(replace(message, text=text)), message.text)


def _developer_message(instructions: str, declaration: ToolNamespaceConfig | None) -> openai_harmony.Message:
    content = DeveloperContent.new()
    if instructions:
        content = content.with_instructions(instructions)
    return _from_content(Role.DEVELOPER, content if declaration is None else content.with_tools(declaration))


def _from_content(role: Role, content: SystemContent | DeveloperContent) -> openai_harmony.Message:
    return openai_harmony.Message.from_role_and_content(openai_harmony.Role(role), content)


def _to_library(message: Message) -> openai_harmony.Message:
    author = Author(role=openai_harmony.Role(message.role), name=message.name)
    converted = openai_harmony.Message.from_author_and_content(author, message.text)
    converted.channel = message.channel
    converted.recipient = message.recipient
    converted.content_type = message.content_type
    return converted
