"""The messages of a request as those of a conversation. Calls and their results find each other by id."""

from gptoss_cli.harmony.events import Channel, Message, Role
from gptoss_cli.harmony.functions import Functions
from gptoss_cli.server.fields import Fields

_ARGUMENTS_TYPE = "<|constrain|>json"


class Transcript:
    """Collects the messages of a request.

    The model was trained to get the result of a call before it makes another one. So the results of several calls,
    which clients send after all of them, are put after their own calls.
    """

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self._messages: list[Message | None] = []
        self._calls: dict[str, int] = {}
        self._system: list[str] = []
        self._developer: list[str] = []

    @property
    def messages(self) -> list[Message]:
        """The messages in order."""
        return [message for message in self._messages if message is not None]

    @property
    def instructions(self) -> str:
        """The text of the developer message."""
        return "\n\n".join(text for text in (*self._system, *self._developer) if text.strip())

    def add_instructions(self, text: str, *, first: bool = False) -> None:
        """Add instructions; those of the system come `first`."""
        (self._system if first else self._developer).append(text)

    def add(self, message: Message) -> None:
        """Add a message that is neither a call nor a result."""
        self._messages.append(message)

    def add_call(self, id_: str, name: str, arguments: str, content_type: str = _ARGUMENTS_TYPE) -> None:
        """Add a call, with room for its result after it."""
        self._messages.append(
            Message(Role.ASSISTANT, arguments, Channel.COMMENTARY, self.functions.recipient(name), content_type)
        )
        self._calls[id_] = len(self._messages)
        self._messages.append(None)

    def add_result(self, fields: Fields, id_: str, text: str) -> None:
        """Add the result, which `fields` came with, of the call with this id. Raises ApiError if there is none."""
        place = self._calls.get(id_)
        if place is None:
            raise fields.wrong("", f"is a result without a call: no call has the id {id_!r}")
        call = self._messages[place - 1]
        assert call is not None
        earlier = self._messages[place]
        whole = text if earlier is None else f"{earlier.text}\n{text}"
        self._messages[place] = Message(
            Role.TOOL, whole, Channel.COMMENTARY, recipient=Role.ASSISTANT, name=call.recipient
        )
