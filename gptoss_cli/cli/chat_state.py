"""The state that the prompt of a chat, its turns and its commands share."""

import datetime
from dataclasses import dataclass, field

from gptoss_cli.cli.prompt_input import AttachedFile
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.live_region import LiveRegion


@dataclass(slots=True)
class ChatState:
    """The state of a chat.

    `screen` None shows turns without Markdown. `model` is the name on the toolbar. `draft` is the text that the next
    prompt starts with, `attached` are files that go with the next message, and `edited_from`, if it is set, is how
    many messages are kept when the next message is sent. `date` is that of new conversations, None for today.
    """

    console: Console
    screen: LiveRegion | None
    reasoning: ReasoningDisplay
    model: str
    date: datetime.date | None = None
    draft: str = ""
    attached: list[AttachedFile] = field(default_factory=list)
    edited_from: int | None = None
    last_reasoning: str = ""
    is_leaving: bool = False
