"""The server of forked_program imports this: what the program imports late, or makes once in a process."""

import gptoss_cli.chat.session
import gptoss_cli.cli.ask
import gptoss_cli.cli.chat
import gptoss_cli.cli.chat_commands
import gptoss_cli.cli.definition
import gptoss_cli.cli.loaded_chat
import gptoss_cli.cli.resuming
import gptoss_cli.cli.saving
import gptoss_cli.terminal.turn_live
import gptoss_cli.terminal.turn_rendered  # noqa: F401
from gptoss_cli.harmony.vocabulary import load_encoding

load_encoding()
