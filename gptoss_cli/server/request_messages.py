"""The messages of a request as those of a conversation. Calls and their results find each other by id."""

from dataclasses import replace
from typing import Final

from gptoss_cli.harmony.events import Channel, Message, Role
from gptoss_cli.harmony.functions import Functions
from gptoss_cli.server.fields import Fields
from gptoss_cli.server.sampling import content_text

_ARGUMENTS_TYPE: Final = "<|constrain|>json"
_NOT_RUN: Final = "interrupted, not run"


class RequestMessages:
    """Collects the messages of a request.

    The model was trained to get the result of a call before it makes another one. So the results of several calls,
    which clients send after all of them, are put after their own calls, and a call without a result gets one.
    """

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.messages: list[Message] = []
        self._results: dict[str, int] = {}
        self._answered: set[int] = set()
        self._system: list[str] = []
        self._developer: list[str] = []

    @property
    def instructions(self) -> str:
        """The text of the developer message."""
        return "\n\n".join(text for text in (*self._system, *self._developer) if text.strip())

    def add_instructions(self, text: str, *, first: bool = False) -> None:
        """Add instructions; those of the system come `first`."""
        (self._system if first else self._developer).append(text)

    def add(self, message: Message) -> None:
        """Add a message that is neither a call nor a result."""
        self.messages.append(message)

    def add_call(self, id_: str, name: str, arguments: str) -> None:
        """Add a call, and a result that says it was not run until its own one comes."""
        recipient = self.functions.recipient(name)
        self.messages.append(Message(Role.ASSISTANT, arguments, Channel.COMMENTARY, recipient, _ARGUMENTS_TYPE))
        self._results[id_] = len(self.messages)
        self.messages.append(_result(recipient, _NOT_RUN))

    def add_result(self, fields: Fields, id_: str, text: str) -> None:
        """Add the result, which `fields` came with, of the call with this id. Raises ApiError if there is none."""
        place = self._results.get(id_)
        if place is None:
            raise fields.wrong("", f"is a result without a call: no call has the id {id_!r}")
        earlier = self.messages[place]
        whole = f"{earlier.text}\n{text}" if place in self._answered else text
        self._answered.add(place)
        self.messages[place] = replace(earlier, text=whole)


def add_prompt_message(fields: Fields, request: RequestMessages) -> bool:
    """Add a message of the system, the developer or the user; return False for any other. Raises ApiError."""
    match fields.text("role"):
        case "system":
            request.add_instructions(content_text(fields), first=True)
        case "developer":
            request.add_instructions(content_text(fields))
        case "user":
            request.add(Message(Role.USER, content_text(fields)))
        case _:
            return False
    return True


def _result(recipient: str, text: str) -> Message:
    return Message(Role.TOOL, text, Channel.COMMENTARY, recipient=Role.ASSISTANT, name=recipient)
