"""`gptoss download`: show what would be downloaded and where, then download and verify it."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import typer

from gptoss_cli import settings
from gptoss_cli.checkpoint import catalog, store
from gptoss_cli.checkpoint.download import DownloadPlan, Outcome, carry_out, choose_files, known_files, make_plan
from gptoss_cli.checkpoint.folder import weights_folder
from gptoss_cli.checkpoint.header import check_tensors
from gptoss_cli.checkpoint.hub import Hub, is_offline
from gptoss_cli.checkpoint.judgement import check_loadable
from gptoss_cli.checkpoint.lock import locked
from gptoss_cli.checkpoint.partial import writing
from gptoss_cli.checkpoint.preview import check_kind
from gptoss_cli.checkpoint.store import ModelLocation, find_location
from gptoss_cli.checkpoint.transfer import RetryPolicy
from gptoss_cli.cli.confirmation import confirm
from gptoss_cli.cli.damaged_copies import notice_damaged_copies
from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.plan import PlannedModel, published_plans
from gptoss_cli.cli.signals import stopping
from gptoss_cli.errors import ExitStatus, GptossError, UsageError
from gptoss_cli.placement import hardware
from gptoss_cli.placement.model_config import load_config
from gptoss_cli.placement.tensor_specs import Layout, expected_tensors
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.progress import FileProgress
from gptoss_cli.units import counted, size_words


def run_download(
    model: str, revision: str | None, console: Console, *, dry_run: bool, as_json: bool, yes: bool
) -> None:
    """Run `gptoss download`. With `as_json` nothing is asked."""
    notice_damaged_copies(console)
    location = find_location(model)
    if location.is_converted:
        raise UsageError(f"{location.name} was converted on this machine: there is nothing to download")
    if revision is None and _is_cached(location, console, as_json=as_json):
        return
    _Download(location, revision, console, as_json=as_json).run(dry_run=dry_run, yes=yes or as_json)


class _Download:
    """One run of the command."""

    def __init__(self, location: ModelLocation, revision: str | None, console: Console, *, as_json: bool) -> None:
        self._location = location
        self._revision = revision
        self._console = console
        self._as_json = as_json
        self._hub: Hub | None = None
        self._notice: Callable[[str], None] = console.notice

    def run(self, *, dry_run: bool, yes: bool) -> None:
        if dry_run:
            plan = self._plan()
            check_kind(plan, self._connect, retry_policy())
            self._show(plan)
            return
        with self._lock():
            plan = self._plan()
            check_kind(plan, self._connect, retry_policy())
            self._announce(plan)
            plan.check_space()
            if plan.missing and not confirm("Download it?", self._console, yes=yes, needs_yes=False):
                raise typer.Exit(ExitStatus.INTERRUPTED)
            self._report(plan, self._carry_out(plan))

    def _lock(self) -> AbstractContextManager[None]:
        lock = self._location.lock_path
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        except OSError:
            if self._location.manifest_path.is_file():
                return nullcontext()  # a model on a read-only disk can be verified all the same
            with writing(lock):
                raise
        return locked(lock, waiting=self._waiting())

    def _plan(self) -> DownloadPlan:
        known = known_files(self._location)
        manifest = choose_files(self._location, self._revision, self._connect, retry_policy())
        if known is not None and known.commit != manifest.commit:
            wanted, here = manifest.commit[:12], known.commit[:12]
            self._console.notice(f"{manifest.revision} is now revision {wanted}; the files here are of {here}.")
        return make_plan(self._location, manifest)

    def _carry_out(self, plan: DownloadPlan) -> Outcome:
        stop = threading.Event()
        try:
            with stopping(stop.set), FileProgress(self._console, plan.manifest.size_bytes, done="right") as progress:
                self._notice = progress.notice  # a line of the console itself would break what is drawn
                return carry_out(plan, connect=self._connect, retry_policy=retry_policy(), progress=progress, stop=stop)
        except KeyboardInterrupt:
            self._console.notice("Stopped. The downloaded part is kept: run the same command to continue.")
            raise
        finally:
            self._notice = self._console.notice

    def _connect(self) -> Hub:
        if self._hub is None:
            policy = retry_policy()
            self._hub = Hub(listing=policy.listing, transfer=policy.transfer, notice=lambda text: self._notice(text))
        return self._hub

    def _waiting(self) -> Callable[[], None]:
        """Return a function that gives the notice at its first call only."""

        @cache
        def wait() -> None:
            self._console.notice(f"Another gptoss is downloading {self._location.full_name}: waiting for it.")

        return wait

    def _announce(self, plan: DownloadPlan) -> None:
        source = f"{plan.manifest.repository} at {plan.manifest.commit[:12]}"
        total = size_words(plan.manifest.size_bytes)
        if not plan.missing:
            self._console.notice(f"{source} is in {plan.location.folder}: verifying {total}.")
            return
        arrived = plan.manifest.size_bytes - plan.needed_bytes
        rest = f", {size_words(arrived)} of it already here" if arrived else ""
        self._console.notice(f"{source}: {counted(len(plan.manifest.files), 'file')}, {total}{rest}")
        self._console.notice(f"into {plan.location.folder}, with {size_words(plan.free_bytes)} free")
        self._predict()

    def _predict(self) -> None:
        """Show how a published model will run here, with warnings."""
        planned = _planned(self._location)
        if planned is None:
            return
        if planned.placement is not None:
            summary, more = planned.placement.summary, f"gptoss plan {self._location.short_name}"
            self._console.notice(f"It will run {summary}. To see why: {more}")
        for text, is_warning in planned.reasons():
            if is_warning:
                self._console.notice(text)

    def _show(self, plan: DownloadPlan) -> None:
        """Print the result of --dry-run. Raises ResourceError if the disk is too small."""
        plan.check_space()
        if self._as_json:
            planned = _planned(self._location)
            facts = {"missing": [file.name for file in plan.missing], "outlook": planned and planned.to_json()}
            write_json({**_facts(plan), **facts}, self._console, indent=2)
            return
        self._announce(plan)
        for file in plan.missing:
            self._console.out(f"{size_words(file.size_bytes):>9}  {file.name}\n")
        self._console.out(f"{size_words(plan.needed_bytes):>9}  to download in total\n")

    def _report(self, plan: DownloadPlan, outcome: Outcome) -> None:
        if self._as_json:
            facts = {"fetched": list(outcome.fetched), "repaired": list(outcome.repaired)}
            write_json({**_facts(plan), **facts}, self._console, indent=2)
            return
        for name in outcome.repaired:
            self._console.notice(f"{name} was wrong and has been downloaded again.")
        offline = " (offline)" if is_offline() else ""
        done = "is complete, and every digest is right" if outcome.fetched else f"was already complete{offline}"
        advice = "" if _is_wrong(plan.location) else f". Try: gptoss chat -m {plan.location.short_name}"
        self._console.notice(f"{plan.location.full_name} {done}{advice}")


def retry_policy() -> RetryPolicy:
    """Return how long and how often the Hub is tried."""
    return RetryPolicy()


def _is_wrong(location: ModelLocation) -> bool:
    """Return True if the tensors are not those of a gpt-oss. Those of the models in the catalog are known to be."""
    if catalog.find_model(location.name) is not None:
        return False
    try:
        folder = weights_folder(location.folder)
        check_tensors(folder, [expected_tensors(load_config(folder / "config.json"), layout) for layout in Layout])
    except GptossError:
        return True
    return False


def _is_cached(location: ModelLocation, console: Console, *, as_json: bool) -> bool:
    """Return True, and say so, if a complete copy in the Hugging Face cache makes a download unnecessary."""
    folder = store.cached(location)
    if folder is None or known_files(location) is not None:
        return False
    check_loadable(folder, location.short_name)
    if as_json:
        write_json({"model": location.full_name, "folder": str(folder), "fetched": []}, console, indent=2)
    else:
        console.notice(f"{location.full_name} is complete in the Hugging Face cache and is used from there: {folder}")
    return True


def _planned(location: ModelLocation) -> PlannedModel | None:
    """Return how the model will run here; None if it is not a published one."""
    machine = hardware.detect(settings.data_folder())
    return next((planned for planned in published_plans(machine) if planned.name == location.name), None)


def _facts(plan: DownloadPlan) -> dict[str, object]:
    return {
        "model": plan.location.full_name,
        "repository": plan.manifest.repository,
        "commit": plan.manifest.commit,
        "folder": str(plan.location.folder),
        "bytes": plan.manifest.size_bytes,
        "bytes_to_fetch": plan.needed_bytes,
        "bytes_free": plan.free_bytes,
    }
