"""`gptoss cache`: list or delete the KV caches and 8-bit weights on disk."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import typer

from gptoss_cli import settings
from gptoss_cli.cache_files import KV_LIMIT_BYTES, CacheFile, CacheKind, list_cache
from gptoss_cli.cli.confirmation import confirm
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.options import CacheAction
from gptoss_cli.errors import ExitStatus, GptossError, first_line
from gptoss_cli.terminal.cells import stacked
from gptoss_cli.terminal.console import Console
from gptoss_cli.units import counted, size_words

_HEADINGS = ("NAME", "KIND", "SIZE", "LAST USED")
_NAME_COLUMNS = 24


def run_cache(action: CacheAction, console: Console, *, as_json: bool, yes: bool, kv_limit_bytes: int | None) -> None:
    """Run `gptoss cache`. `kv_limit_bytes` None is the default limit.

    Raises GptossError, or typer.Exit if the user does not confirm.
    """
    files = list_cache()
    if action is CacheAction.LIST:
        limit_bytes = KV_LIMIT_BYTES if kv_limit_bytes is None else kv_limit_bytes
        _list(files, console, as_json=as_json, kv_limit_bytes=limit_bytes)
    else:
        _clear(files, console, as_json=as_json, yes=yes)


def _list(files: Sequence[CacheFile], console: Console, *, as_json: bool, kv_limit_bytes: int) -> None:
    if as_json:
        values = {
            "folder": str(settings.cache_folder()),
            "bytes": _total_bytes(files),
            "kv_limit_bytes": kv_limit_bytes,
        }
        write_json({**values, "files": [_to_json(file) for file in files]}, console, indent=2)
        return
    if files:
        console.out_lines("\n".join(_lines([_HEADINGS, *map(_cells, files)], console)))
    console.notice(f"{_count(files)}, {size_words(_total_bytes(files))}, in {settings.cache_folder()}")
    kv_bytes = _total_bytes([file for file in files if file.kind is not CacheKind.INT8])
    limit = f"at most {size_words(kv_limit_bytes)}. To change that: the setting history.kv-limit"
    console.notice(f"KV caches take {size_words(kv_bytes)} of {limit}")


def _lines(table: Sequence[tuple[str, ...]], console: Console) -> Iterator[str]:
    """Yield the lines of a table that fits the terminal; on a narrow one a row has several."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if console.stdout.is_terminal and sum(widths) + 2 * (len(widths) - 1) > console.stdout.columns:
        yield from stacked(table)
        return
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _clear(files: Sequence[CacheFile], console: Console, *, as_json: bool, yes: bool) -> None:
    if files:
        parts = [f"{size_words(_total_bytes(some))} of {kind}" for kind in CacheKind if (some := _of(files, kind))]
        question = f"Delete {', '.join(parts)} in {settings.cache_folder()}? They are made again when needed."
        if not confirm(question, console, yes=yes, needs_yes=True):
            raise typer.Exit(ExitStatus.INTERRUPTED)
    deleted, failure = _delete(files)
    if as_json:
        write_json({"deleted_files": len(deleted), "deleted_bytes": _total_bytes(deleted)}, console)
    else:
        console.notice(f"{_count(deleted)} deleted, {size_words(_total_bytes(deleted))}.")
    if failure is not None:
        raise failure


def _delete(files: Sequence[CacheFile]) -> tuple[list[CacheFile], GptossError | None]:
    """Delete all files that can be deleted; return them, and an error for the last of the others."""
    deleted, failure = [], None
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
            deleted.append(file)
        except OSError as exc:
            failure = GptossError(f"{file.path} cannot be deleted: {first_line(exc)}")
    return deleted, failure


def _of(files: Sequence[CacheFile], kind: CacheKind) -> list[CacheFile]:
    return [file for file in files if file.kind is kind]


def _total_bytes(files: Sequence[CacheFile]) -> int:
    return sum(file.bytes for file in files)


def _count(files: Sequence[CacheFile]) -> str:
    return counted(len(files), "file")


def _to_json(file: CacheFile) -> dict[str, str | int]:
    used = datetime.fromtimestamp(file.last_used, UTC).isoformat(timespec="seconds")
    return {"name": file.path.name, "kind": file.kind, "bytes": file.bytes, "last_used": used}


def _cells(file: CacheFile) -> tuple[str, ...]:
    name = file.path.name
    if len(name) > _NAME_COLUMNS:
        name = name[: _NAME_COLUMNS - 10] + "..." + name[-7:]
    used = datetime.fromtimestamp(file.last_used).strftime("%Y-%m-%d %H:%M")
    return "".join(mark if mark.isprintable() else "?" for mark in name), file.kind, size_words(file.bytes), used
