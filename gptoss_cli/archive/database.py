"""The archive's file: private, opened when it is first needed, set aside when it is damaged."""

import errno
import glob
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from gptoss_cli.archive.index import ensure_index
from gptoss_cli.archive.schema import MIGRATIONS, statements
from gptoss_cli.errors import GptossError, Hint, IntegrityError, ResourceError, UsageError, first_line
from gptoss_cli.paths import shown_path

Notice = Callable[[str], None]

WAIT_SECONDS: Final = 5.0
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FORBIDDEN: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The write-ahead log and its index lie beside the database.
_SUFFIXES: Final = ("", "-wal", "-shm")


class Database:
    """One SQLite file, for use by one thread at a time.

    `notice` gets a line when the file is found damaged, or deleted while it was open. `generation` counts
    the reopenings after a deletion, each of which makes the row ids that a caller knows invalid.
    """

    def __init__(self, path: Path, *, notice: Notice, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path
        self.generation = 0
        self._notice = notice
        self._migrations = migrations
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._lost = False
        # Why nothing can be written, None if it can.
        self._refusal: GptossError | None = None

    @property
    def is_read_only(self) -> bool:
        """True if nothing can be written, which is known once the file was opened."""
        return self._refusal is not None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for queries. Raises GptossError, for errors of SQLite in the block too."""
        with self._translating():
            yield self._open()

    @contextmanager
    def transaction(self, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[sqlite3.Connection]:
        """Yield a connection for changes; they are on the disk, all or none, when the block ends.

        Waits so long for another program's transaction. Raises GptossError.
        """
        with self.writing(wait_seconds=wait_seconds) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    @contextmanager
    def writing(self, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[sqlite3.Connection]:
        """Yield a connection for statements that allow no transaction around them. Raises GptossError."""
        with self._translating():
            connection = self._open()
            if self._refusal is not None:
                raise self._refusal
            connection.execute(f"PRAGMA busy_timeout = {round(wait_seconds * 1000)}")
            yield connection

    def backup(self, target: Path) -> None:
        """Write a copy of the database, which must not be there yet. Raises GptossError."""
        with self.reading() as connection:
            _vacuum_into(connection, target)

    def copies(self) -> tuple[Path, ...]:
        """Return the files beside the database that were made from it: before migrations, and after damage."""
        return tuple(sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.*")))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            if _identity(self.path) == self._file:
                return self._connection
            # SQLite would go on writing to a file that nobody finds again.
            self.close()
            self._remove_log()
            self._lost = self.generation > 0
            self.generation += 1
            if self._lost:
                raise GptossError(f"{self.path.name} was deleted again")
            self._notice(f"{self.path.name} was deleted or replaced while it was in use. It was opened again.")
        if self._lost:
            raise GptossError(f"{self.path.name} was deleted again")
        try:
            self._connection = self._prepared()
        except sqlite3.DatabaseError as exc:
            if _code(exc) not in _DAMAGED:
                raise
            self._set_aside()
            self._connection = self._prepared()
        self._file, self._log = _identity(self.path), _identity(self._log_path)
        return self._connection

    def _remove_log(self) -> None:
        """Remove the log of the file that was deleted: SQLite would apply it to the one that took its place.

        The log of another program that opened the new file already is another file.
        """
        if self._log is not None and _identity(self._log_path) == self._log:
            for suffix in _SUFFIXES[1:]:
                with suppress(OSError):
                    os.unlink(f"{self.path}{suffix}")

    @property
    def _log_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")

    def _prepared(self) -> sqlite3.Connection:
        self._refusal = None
        _make_private(self.path)
        if not os.access(self.path, os.W_OK) or not os.access(self.path.parent, os.W_OK):
            self._refusal = GptossError(f"{self.path} is read-only")
            return _connect_read_only(self.path)
        connection = sqlite3.connect(
            self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            return self._configured(connection)
        except BaseException:
            connection.close()
            raise

    def _configured(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        version = _version(connection)
        if version > len(self._migrations):
            connection.close()
            self._refusal = GptossError(
                f"{self.path.name} was written by a newer version of gptoss (format {version}; this version writes "
                f"{len(self._migrations)}) and is read-only here"
            )
            return _connect_read_only(self.path)
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        # The version is read again: another program may just have created the tables.
        if version == 0 and tables and _version(connection) == 0:
            raise _Foreign(self.path)
        _choose_journal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        if version < len(self._migrations):
            self._migrate(connection, version)
        ensure_index(connection)
        return connection

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        if version:
            target = _free_name(self.path.with_name(f"{self.path.name}.v{version}"))
            _vacuum_into(connection, target)
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another program may have migrated meanwhile.
            for number in range(_version(connection), len(self._migrations)):
                for statement in statements(self._migrations[number]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _set_aside(self) -> None:
        moment = time.strftime("%Y%m%d-%H%M%S")
        target = _free_name(self.path.with_name(f"{self.path.name}.corrupt-{moment}"))
        for suffix in _SUFFIXES:
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{target}{suffix}")
        self._notice(f"{self.path.name} is damaged. It was moved to {target.name}, and a new one was begun.")

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self._error(exc) from exc
        except OSError as exc:
            reason = exc.strerror or str(exc)
            if exc.errno in _FULL:
                raise ResourceError(f"{self.path}: {reason}", Hint.FREE_DISK_SPACE) from exc
            if exc.errno in _FORBIDDEN:
                raise ResourceError(f"{self.path}: {reason}", Hint.ANOTHER_DATA_FOLDER) from exc
            raise GptossError(f"{self.path}: {reason}") from exc

    def _error(self, exc: sqlite3.Error) -> GptossError:
        code = _code(exc)
        if code in _LOCKED:
            return GptossError(f"{self.path.name} is locked by another program", Hint.RETRY_LATER)
        if code == sqlite3.SQLITE_FULL or getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_WRITE:
            return ResourceError(f"{self.path.name} cannot grow: the disk is full", Hint.FREE_DISK_SPACE)
        if code in _DAMAGED:
            return IntegrityError(f"{self.path.name} is damaged: {first_line(exc)}")
        return GptossError(f"{self.path.name}: {first_line(exc)}")


class _Foreign(sqlite3.DatabaseError):
    """A database of another program."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path.name} is not an archive")


def _code(exc: sqlite3.Error) -> int:
    """Return the primary error code; errors of the sqlite3 module itself have none."""
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make_private(path: Path) -> None:
    """Create the file and its folder for the owner alone, whatever the umask is, or take permissions away.

    An existing folder only loses the write permission of others: it also holds checkpoints, which may be shared.
    SQLite gives the files beside the database the same mode. An existing file is not opened, because closing it would
    release the locks that this process has on it.
    """
    for folder in reversed([folder for folder in path.parents if not folder.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for each, mask in ((path.parent, 0o755), (path, 0o700)):
        mode = each.stat().st_mode & 0o777
        if mode & ~mask:
            with suppress(OSError):
                each.chmod(mode & mask)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    address = path.absolute().as_uri()
    for parameters in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(
            f"{address}?{parameters}", uri=True, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
        except sqlite3.OperationalError:
            # A write-ahead log cannot be read in a folder where its index cannot be created.
            connection.close()
            if "immutable" in parameters:
                raise
    raise AssertionError("the loop returns or raises")


def _choose_journal(connection: sqlite3.Connection) -> None:
    """Use a write-ahead log, or a rollback journal on a file system that cannot share memory between programs."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as exc:
            # SQLite does not wait here by itself while another program creates the same file.
            if _code(exc) in _LOCKED:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
                continue
            if _code(exc) == sqlite3.SQLITE_FULL:
                raise
        connection.execute("PRAGMA journal_mode = DELETE")
        return


def _vacuum_into(connection: sqlite3.Connection, target: Path) -> None:
    """Write a copy of the database for the owner alone. Raises UsageError if `target` cannot be created."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as exc:
        raise UsageError(f"{shown_path(target)} cannot be written: {exc.strerror}") from exc
    try:
        connection.execute("VACUUM INTO ?", (str(target),))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _free_name(path: Path) -> Path:
    """Return `path`, with a number behind it if there is such a file."""
    number, name = 1, path
    while name.exists():
        number += 1
        name = path.with_name(f"{path.name}-{number}")
    return name
