"""`gptoss remove`: delete a downloaded model, or the rest of a broken download."""

import shutil

import typer

from gptoss_cli.checkpoint import store
from gptoss_cli.checkpoint.lock import locked
from gptoss_cli.checkpoint.partial import writing
from gptoss_cli.checkpoint.store import find_location
from gptoss_cli.cli.confirmation import confirm
from gptoss_cli.cli.damaged_copies import notice_damaged_copies
from gptoss_cli.cli.list import held_bytes, partial_bytes
from gptoss_cli.errors import ExitStatus, NotInstalledError, UsageError
from gptoss_cli.terminal.console import Console
from gptoss_cli.units import size_words


def run_remove(model: str, console: Console, *, partial: bool, yes: bool) -> None:
    """Run `gptoss remove`. Raises UsageError, NotInstalledError, or typer.Exit if the user does not confirm."""
    notice_damaged_copies(console)
    location = find_location(model)
    target = location.partial if partial else location.folder
    if not target.is_dir():
        if partial:
            raise NotInstalledError(f"There is no unfinished download of {location.full_name}")
        if (cached := store.cached(location)) is not None:
            raise UsageError(
                f"{location.full_name} is in the Hugging Face cache, {cached}. Remove it with: hf cache rm"
            )
        raise NotInstalledError(f"{location.full_name} is not downloaded")
    size_bytes = partial_bytes(location) + (0 if partial else held_bytes(location.folder))
    if not confirm(f"Delete {size_words(size_bytes)} in {target}?", console, yes=yes, needs_yes=True):
        raise typer.Exit(ExitStatus.INTERRUPTED)

    def refuse() -> None:
        raise UsageError(f"Another gptoss is writing {location.full_name}. Stop it first")

    with writing(target), locked(location.lock_path, waiting=refuse):
        if not partial:
            location.manifest_path.unlink(missing_ok=True)  # first, so that no half-deleted model counts as installed
        shutil.rmtree(target)
    console.notice(f"{size_words(size_bytes)} deleted.")
