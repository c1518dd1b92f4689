"""Output streams in memory, with and without a terminal."""

import io

from gptoss_cli.terminal.console import Console


class KeptStream(io.TextIOWrapper):
    """A text stream in memory. `terminal` is the value of isatty()."""

    def __init__(self, *, terminal: bool = False, encoding: str = "utf-8", text: bytes = b"") -> None:
        super().__init__(io.BytesIO(text), encoding=encoding)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def written(self) -> bytes:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


class Streams:
    """A console with streams in memory."""

    def __init__(self, *, terminal: bool = False, environment: dict[str, str] | None = None) -> None:
        self.stdout = KeptStream(terminal=terminal)
        self.stderr = KeptStream(terminal=terminal)
        self.console = Console(KeptStream(terminal=terminal), self.stdout, self.stderr, environment or {})

    @property
    def out(self) -> str:
        return self.stdout.written.decode()

    @property
    def err(self) -> str:
        return self.stderr.written.decode()
