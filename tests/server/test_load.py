"""Many clients at once, some of which go away, read slowly or send rubbish: nothing fails, leaks or is mixed up."""

import ctypes
import gc
import json
import random
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from collections.abc import Collection, Iterator

from gptoss_cli.generation import Observer, Sampling, TokenConstraint
from gptoss_cli.harmony.vocabulary import load_encoding
from tests.server.branching import BranchingScripted, opened_branching
from tests.server.running import SECONDS, Running
from tests.server.turns import ids_of

_MOST_GROWTH: Final = 1.05
_STATUS_OF_MEMORY: Final = Path("/proc/self/status")
_LARGE_BYTES: Final = 100 << 20
_CROWD: Final = 50
_LONGEST_MESSAGES: Final = 41
_LIBC: Final = ctypes.CDLL(None)
_IS_GLIBC: Final = hasattr(_LIBC, "malloc_trim")
_M_MMAP_THRESHOLD: Final = -3  # of malloc.h


class EchoGenerator(BranchingScripted):
    """Answers every prompt with the number of its last message, many times."""

    def decode(
        self,
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        max_tokens: int | None,
        constraint: TokenConstraint | None = None,
        observer: Observer | None = None,
        top: int = 5,
    ) -> Iterator[int]:
        """See TokenGenerator.decode."""
        number = re.findall(r"number (\d+)", load_encoding().decode(self.sequence))[-1]
        for token in ids_of(f"<|channel|>final<|message|>{f'{number} ' * 40}<|return|>"):
            time.sleep(0.0005)
            yield token


def _memory_bytes() -> int:
    """Return the resident memory, without what has been freed and the allocator keeps for later."""
    gc.collect()
    if _IS_GLIBC:
        _LIBC.malloc_trim(0)
    found = re.search(r"VmRSS:\s+(\d+) kB", _STATUS_OF_MEMORY.read_text())
    assert found is not None
    return int(found[1]) * 1024


class _Client:
    """A client that does one thing after another until the end, and keeps what went wrong."""

    def __init__(self, running: Running, number: int, end: float) -> None:
        self.problems: list[str] = []
        self.answers = 0
        self._running = running
        self._number = number
        self._random = random.Random(number)
        self._end = end

    def run(self) -> None:
        """Act until the end."""
        often = (self._ask, self._stream, self._leave, self._read_slowly) * 2
        acts = (*often, self._rave, self._send_too_much, self._crowd)
        while time.monotonic() < self._end:
            act = self._random.choice(acts)
            try:
                act()
            except Exception as exc:  # noqa: BLE001  a thread of a test must not lose it
                self.problems.append(f"{act.__name__}: {exc!r}")

    def _body(self, **more: object) -> dict[str, object]:
        self._number += 100
        return {"messages": [{"role": "user", "content": f"This is number {self._number}"}], **more}

    def _check(self, text: str) -> None:
        self.answers += 1
        if set(text.split()) != {str(self._number)}:
            self.problems.append(f"{self._number} got {text[:40]!r}")

    def _ask(self) -> None:
        status, _, content = self._running.request("/v1/chat/completions", self._body())
        if status == 200:
            self._check(json.loads(content)["choices"][0]["message"]["content"])
        elif status != 429:
            self.problems.append(f"status {status}: {content!r}")

    def _stream(self) -> None:
        _, _, content = self._running.request("/v1/chat/completions", self._body(stream=True))
        chunks = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
        if chunks and "error" not in chunks[0]:
            self._check("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks))

    def _leave(self) -> None:
        connection = self._running.send("/v1/responses", {"input": "number 1", "stream": self._random.random() < 0.5})
        time.sleep(self._random.random() / 10)
        connection.close()

    def _read_slowly(self) -> None:
        with self._running.send("/v1/chat/completions", self._body(stream=True)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            for _ in range(5):
                time.sleep(0.05)
                connection.recv(64)

    def _rave(self) -> None:
        rubbish = self._random.choice((b"{", b"[" * 10_000, b'{"messages":[{"role":7}]}', b" " * (17 << 20)))
        status, _, _ = self._running.request("/v1/chat/completions", rubbish)
        if status not in (400, 413):
            self.problems.append(f"rubbish got {status}")

    def _send_too_much(self) -> None:
        head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {_LARGE_BYTES}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._running.port), timeout=SECONDS) as connection:
            connection.sendall(head.encode())
            part = b" " * (1 << 20)
            # The server answers without reading everything, and closes the connection.
            with suppress(ConnectionError):
                for _ in range(_LARGE_BYTES // len(part)):
                    connection.sendall(part)
            with suppress(ConnectionError):
                assert connection.recv(4096)[:12] == b"HTTP/1.1 413"

    def _crowd(self) -> None:
        """Ask many times at once, and leave after the answers that come first."""
        body = {"input": "number 1", "stream": True}
        connections = [self._running.send("/v1/responses", body) for _ in range(_CROWD)]
        for connection in connections:
            assert connection.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 429")
            connection.close()


class _Conversation:
    """A client whose long conversation goes on, and must be found in the cache each time."""

    def __init__(self, running: Running, end: float) -> None:
        self.problems: list[str] = []
        self._running = running
        self._end = end

    def run(self) -> None:
        """Talk until the end; begin again when the conversation is long."""
        messages: list[dict[str, str]] = []
        read = 0
        while time.monotonic() < self._end:
            if len(messages) % _LONGEST_MESSAGES == 0:
                messages, read = [{"role": "system", "content": f"{time.monotonic()} " * 300}], 0
            messages.append({"role": "user", "content": f"This is number {len(messages)}"})
            status, _, content = self._running.request("/v1/chat/completions", {"messages": messages})
            if status == 429:
                messages.pop()
                time.sleep(0.05)
                continue
            answer = json.loads(content)
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            if cached < read:
                self.problems.append(f"{cached} tokens are cached of {read}")
            read = answer["usage"]["prompt_tokens"]
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})


def check_load(seconds: float, *, batch: int) -> None:
    if _IS_GLIBC:
        # Large blocks go back to the system when they are freed. Else each of twenty arenas keeps up to twice the size
        # of the largest body at its top, where malloc_trim leaves it: memory grows for minutes until all have done so.
        _LIBC.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    with Running(
        lambda: opened_branching(EchoGenerator()), queue_limit=16, conversations=batch, batch=batch
    ) as running:
        # The first requests make threads and load modules; arenas and buffers of all threads are there after a while.
        before = 0
        for _ in range(4):
            _act(running, seconds / 16)
            before = max(before, _memory_bytes())
        answers = _act(running, seconds)
        assert answers > seconds
        assert _memory_bytes() < before * _MOST_GROWTH
        assert running.request("/health")[0] == 200
        assert running.worker.queue_length == 0


def _act(running: Running, seconds: float) -> int:
    """Let eight clients act; return the number of answers."""
    end = time.monotonic() + seconds
    clients = [_Client(running, number, end) for number in range(8)]
    everyone: list[_Client | _Conversation] = [*clients, _Conversation(running, end)]
    threads = [threading.Thread(target=each.run) for each in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = [problem for each in everyone for problem in each.problems]
    assert not problems, problems
    return sum(client.answers for client in clients)


@pytest.mark.slow
@pytest.mark.skipif(not _STATUS_OF_MEMORY.exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("batch", [1, 3])
def test_eight_clients_of_every_kind_are_served(batch: int) -> None:
    check_load(60, batch=batch)
