"""Starts real chats in no time: it has imported everything and forks for each of them.

    chat_server.py

It reads requests as lines of JSON and answers each with a line. A request names a terminal to chat on, the arguments
of `gptoss`, a home, the seconds that each token takes, and a log file; the answer is the process id. The log gets a
line of JSON for everything that the user could have seen, with its time on the monotonic clock: "turn" before the first
token of a turn, "text" with a piece of a message, "end" of a turn, and "exit" of the program with its status.
"""

import fcntl
import json
import os
import signal
import sys
import termios
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator
from typing import Any

# Imported here, once, although the program imports them late.
import gptoss_cli.chat.opening
import gptoss_cli.cli.chat
import gptoss_cli.cli.chat_commands
import gptoss_cli.cli.saving  # noqa: F401
from gptoss_cli.archive.recorder import Attachment
from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, Say
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.cli import main, model_opener
from gptoss_cli.harmony.events import Delta, Event, TurnEnd


class _Log:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **values: object) -> None:
        # One write, so that a kill leaves no half a line before the last.
        os.write(self._file, (json.dumps({"time": time.monotonic(), "event": event, **values}) + "\n").encode())


def _listen(session: ChatSession, log: _Log, token_seconds: float) -> None:
    """Make the turns of `session` as slow as those of a larger model, and log what they show."""
    answer, decode = session.answer, session._generator.decode

    def logged(attachments: Iterable[Attachment] = ()) -> Generator[Event]:
        began = False
        for event in answer(attachments):
            if not began:
                log.write("turn", question=session.conversation.messages[-1].text)
                began = True
            if isinstance(event, Delta):
                log.write("text", text=event.text)
            elif isinstance(event, TurnEnd):
                log.write("end", reason=event.reason)
            yield event

    def paced(*arguments: Any, **options: Any) -> Iterator[int]:
        for token in decode(*arguments, **options):
            time.sleep(token_seconds)
            yield token

    session.answer = logged  # type: ignore[method-assign]
    session._generator.decode = paced  # type: ignore[method-assign]


def _chat(terminal: str, arguments: list[str], home: str, token_seconds: float, log: _Log) -> int:
    def open_model(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        opened = model_opener.open_model(request, progress=progress, notice=notice)
        _listen(opened.session, log, token_seconds)
        return opened

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(handle, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(handle, number)
    os.environ["GPTOSS_HOME"] = home
    # Those of the server belong to its pipes, and may hold the next request.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    return main.run(arguments, open_model=open_model)


def _serve() -> None:
    # Whatever is built once in a process is built here; there is one thread, so that a fork is sound.
    model_opener.open_model(
        ChatRequest(model="demo"), progress=lambda text: None, notice=lambda text, *hints, **_: None
    )
    assert threading.active_count() == 1
    # Killed chats need no parent that waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        log = _Log(request.pop("log"))
        process = os.fork()
        if process == 0:
            status = 99
            try:
                status = _chat(**request, log=log)
            except BaseException:  # noqa: BLE001  it goes to the log
                log.write("crash", text=traceback.format_exc())
            finally:
                log.write("exit", status=status)
                os._exit(0)
        print(process, flush=True)


if __name__ == "__main__":
    _serve()
