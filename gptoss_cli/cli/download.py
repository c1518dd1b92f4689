"""`gptoss download`: gets a checkpoint, after saying what, how large and where."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_cli.cli.checkpoints import confirm, stopping, write_json
from gptoss_cli.cli.definition import command
from gptoss_cli.errors import ExitStatus
from gptoss_cli.terminal.console import Console

if TYPE_CHECKING:
    from gptoss_cli.checkpoint.download import DownloadPlan, Outcome
    from gptoss_cli.checkpoint.hub import Hub
    from gptoss_cli.checkpoint.manifest import Manifest
    from gptoss_cli.checkpoint.store import ModelLocation
    from gptoss_cli.checkpoint.transfer import RetryPolicy
    from gptoss_cli.cli.outlook import PlannedModel


@command
def download(
    model: Annotated[str, typer.Argument(metavar="[20b|120b|OWNER/NAME]", help="What to get.")] = "20b",
    *,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="A branch, tag or commit of the repository.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    console: Console,
) -> None:
    """Get a model's checkpoint and prove it.

    Interrupted at any moment, it goes on from there when it is run again; what is here already is checked and kept, and
    a wrong file is fetched anew.
    """
    from gptoss_cli.checkpoint.store import find_location

    place = find_location(model)
    if revision is None and _is_cached(place, console, as_json=as_json):
        return
    _Download(place, revision, console, as_json=as_json).run(dry_run=dry_run, yes=yes or as_json)


class _Download:
    """One run of the command."""

    def __init__(self, place: "ModelLocation", revision: str | None, console: Console, *, as_json: bool) -> None:
        self._place, self._revision, self._console, self._as_json = place, revision, console, as_json
        self._hub: Hub | None = None

    def run(self, *, dry_run: bool, yes: bool) -> None:
        if dry_run:
            self._show(self._plan())
            return
        with self._lock():
            plan = self._plan()
            self._say(plan)
            plan.check_space()
            if plan.missing and not confirm("Fetch it?", self._console, yes=yes, needs_yes=False):
                raise typer.Exit(ExitStatus.INTERRUPTED)
            self._finish(plan, self._carry_out(plan))

    def _lock(self) -> AbstractContextManager[None]:
        from gptoss_cli.checkpoint.lock import locked
        from gptoss_cli.checkpoint.partial import writing

        lock = self._place.lock_path
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        except OSError:
            if self._place.manifest_path.is_file():
                return nullcontext()  # a disk that can only be read is no reason not to prove what is on it
            with writing(lock):
                raise
        return locked(lock, waiting=self._waiting())

    def _plan(self) -> "DownloadPlan":
        from gptoss_cli.checkpoint.download import choose_files, known_files, make_plan

        known = known_files(self._place)
        manifest = choose_files(self._place, self._revision, self._connect, patience())
        if known is not None and known.commit != manifest.commit:
            asked, here = manifest.commit[:12], known.commit[:12]
            self._console.notice(f"{manifest.revision} is revision {asked} now; what is here is {here}.")
        return make_plan(self._place, manifest)

    def _carry_out(self, plan: "DownloadPlan") -> "Outcome":
        from gptoss_cli.checkpoint.download import carry_out
        from gptoss_cli.terminal.progress import FileProgress

        try:
            with stopping() as stop, FileProgress(self._console, plan.manifest.size_bytes, done="right") as watcher:
                return carry_out(plan, connect=self._connect, retry_policy=patience(), progress=watcher, stop=stop)
        except KeyboardInterrupt:
            self._console.notice("Stopped. What has arrived is kept: the same command goes on from there.")
            raise

    def _connect(self) -> "Hub":
        from gptoss_cli.checkpoint.hub import Hub

        if self._hub is None:
            wait = patience()
            self._hub = Hub(
                connect_seconds=wait.connect_seconds, stall_seconds=wait.stall_seconds, notice=self._console.notice
            )
        return self._hub

    def _waiting(self) -> Callable[[], None]:
        told: list[bool] = []

        def wait() -> None:
            if not told:
                told.append(True)
                self._console.notice(f"Another gptoss is downloading {self._place.name}: waiting for it.")

        return wait

    def _say(self, plan: "DownloadPlan") -> None:
        from gptoss_cli.units import size_words

        what = f"{plan.manifest.repository} at {plan.manifest.commit[:12]}"
        if not plan.missing:
            self._console.notice(
                f"{what} is in {plan.location.folder}: checking {size_words(plan.manifest.size_bytes)}."
            )
            return
        arrived = plan.manifest.size_bytes - plan.needed_bytes
        rest = f", {size_words(arrived)} of it here already" if arrived else ""
        count = f"{len(plan.manifest.files)} files, {size_words(plan.manifest.size_bytes)}{rest}"
        self._console.notice(f"{what}: {count}")
        self._console.notice(f"into {plan.location.folder}, where {size_words(plan.free_bytes)} are free")
        self._foretell()

    def _foretell(self) -> None:
        """Say how a published model will run here, and what is amiss with that."""
        outlook = _outlook(self._place)
        if outlook is None:
            return
        if outlook.placement is not None:
            summary, more = outlook.placement.summary, f"gptoss plan {self._place.short_name}"
            self._console.notice(f"It will run {summary}. To see why: {more}")
        for text, is_warning in outlook.reasons():
            if is_warning:
                self._console.notice(text)

    def _show(self, plan: "DownloadPlan") -> None:
        """What --dry-run answers. Raises ResourceError if it would not fit."""
        from gptoss_cli.units import size_words

        plan.check_space()
        if self._as_json:
            outlook = _outlook(self._place)
            facts = {"missing": [file.name for file in plan.missing], "outlook": outlook and outlook.to_json()}
            write_json({**_facts(plan), **facts}, self._console)
            return
        self._say(plan)
        for file in plan.missing:
            self._console.answer(f"{size_words(file.size_bytes):>9}  {file.name}\n")
        self._console.answer(f"{size_words(plan.needed_bytes):>9}  to fetch in all\n")

    def _finish(self, plan: "DownloadPlan", outcome: "Outcome") -> None:
        if self._as_json:
            facts = {"fetched": list(outcome.fetched), "repaired": list(outcome.repaired)}
            write_json({**_facts(plan), **facts}, self._console)
            return
        for name in outcome.repaired:
            self._console.notice(f"{name} was wrong and is fetched anew.")
        done = "is complete, and every digest is right" if outcome.fetched else f"was already complete{_offline()}"
        self._console.notice(f"{plan.location.name} {done}. Try: gptoss chat -m {plan.location.short_name}")


def patience() -> "RetryPolicy":
    """How long the Hub is waited for."""
    from gptoss_cli.checkpoint.transfer import RetryPolicy

    return RetryPolicy()


def _is_cached(place: "ModelLocation", console: Console, *, as_json: bool) -> bool:
    """Whether a complete copy in the Hugging Face cache makes a download needless; says so."""
    from gptoss_cli.checkpoint import store
    from gptoss_cli.checkpoint.download import known_files

    folder = store.cached(place.name)
    if folder is None or known_files(place) is not None:
        return False
    if as_json:
        write_json({"model": place.name, "folder": str(folder), "fetched": []}, console)
    else:
        console.notice(f"{place.name} is complete in the Hugging Face cache, and is used where it lies: {folder}")
    return True


def _outlook(place: "ModelLocation") -> "PlannedModel | None":
    """How the model will run here; None if it is none of the published ones."""
    from gptoss_cli import settings
    from gptoss_cli.cli.outlook import outlooks
    from gptoss_cli.placement.hardware import detect

    machine = detect(settings.data_folder())
    return next((outlook for outlook in outlooks(machine) if outlook.name == place.name), None)


def _facts(plan: "DownloadPlan") -> dict[str, object]:
    manifest: Manifest = plan.manifest
    return {
        "model": plan.location.name,
        "repository": manifest.repository,
        "commit": manifest.commit,
        "folder": str(plan.location.folder),
        "bytes": manifest.size_bytes,
        "bytes_to_fetch": plan.needed_bytes,
        "bytes_free": plan.free_bytes,
    }


def _offline() -> str:
    from gptoss_cli.checkpoint.hub import is_offline

    return " (offline)" if is_offline() else ""
