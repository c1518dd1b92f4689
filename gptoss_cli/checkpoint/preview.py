"""Judge a repository of the Hub by its config, and by its index or one header, before any weights are fetched."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from gptoss_cli.checkpoint import catalog
from gptoss_cli.checkpoint.download import DownloadPlan
from gptoss_cli.checkpoint.folder import INDEX, MAX_JSON_BYTES, load_json, parse_json, read_index
from gptoss_cli.checkpoint.hub import Hub, TransientError, is_offline
from gptoss_cli.checkpoint.judgement import CONFIG, Judgement, Kind, judge, judge_folder, refusal
from gptoss_cli.checkpoint.manifest import CheckpointFile
from gptoss_cli.checkpoint.transfer import RetryPolicy, TransferContext, fetch_file
from gptoss_cli.errors import Hint, IntegrityError


class _NoProgress:
    """The progress of files that are too small to show."""

    def begin(self, name: str, done_bytes: int, total_bytes: int) -> None:
        """Ignore it."""

    def advance(self, name: str, count_bytes: int) -> None:
        """Ignore it."""

    def end(self, name: str) -> None:
        """Ignore it."""


def check_kind(plan: DownloadPlan, connect: Callable[[], Hub], retry_policy: RetryPolicy) -> None:
    """Raise IntegrityError, with what to do, if the repository holds a checkpoint that cannot be loaded.

    Nothing that is fetched for it stays on the disk. The models of the catalog are known, and offline nothing can be
    fetched. Raises also what `fetch_file` raises.
    """
    if catalog.find_model(plan.location.name) is not None:
        return
    if not plan.missing:
        judged = judge_folder(plan.location.folder)
    elif is_offline():
        return
    else:
        context = TransferContext(connect(), plan.manifest, retry_policy, _NoProgress(), threading.Event())
        with tempfile.TemporaryDirectory(prefix="gptoss-") as temporary:
            folder = Path(temporary)
            _get_small_files(plan, context, folder)
            judged = _judged(folder, plan.manifest.repository)
            if judged.kind in (Kind.PACKED, Kind.UNPACKED, Kind.UNKNOWN) and not (folder / INDEX).is_file():
                judged = judge(load_json(folder / CONFIG), _names_in_header(plan, context))
    if not judged.is_loadable:
        repository = plan.manifest.repository
        hint = Hint.FETCH_AND_CONVERT if plan.missing else Hint.CONVERT
        raise refusal(judged, repository, sum(map(_weights_bytes, plan.manifest.files)), hint)


def _judged(folder: Path, repository: str) -> Judgement:
    """Judge by config and index, which were fetched into `folder`. Raises IntegrityError that names the repository."""
    if not (folder / CONFIG).is_file():
        raise IntegrityError(f"{repository} has no {CONFIG}, so nothing tells how its weights are used")
    try:
        return judge(load_json(folder / CONFIG), _indexed_names(folder))
    except IntegrityError as exc:
        # The message names a file that is deleted by now.
        raise IntegrityError(str(exc).replace(str(folder), repository), *exc.hints, subject=exc.subject) from exc


def _get_small_files(plan: DownloadPlan, context: TransferContext, folder: Path) -> None:
    """Put config and index into `folder`, as far as the repository has them."""
    for file in plan.manifest.files:
        if file.name in (CONFIG, INDEX) and file.size_bytes <= MAX_JSON_BYTES:
            if file in plan.missing:
                fetch_file(context, file, folder=folder, target=folder / file.name)
            else:
                shutil.copyfile(plan.location.folder / file.name, folder / file.name)


def _indexed_names(folder: Path) -> Collection[str]:
    return read_index(folder / INDEX).keys() if (folder / INDEX).is_file() else ()


def _names_in_header(plan: DownloadPlan, context: TransferContext) -> Collection[str]:
    """Return the names of the tensors in the first file of weights; none if its header cannot be had now."""
    file = next(file for file in plan.manifest.files if _weights_bytes(file))
    if file not in plan.missing:
        return ()
    try:
        length = int.from_bytes(_range(context, file, 0, 8), "little")
        if length > min(MAX_JSON_BYTES, file.size_bytes - 8):
            return ()
        return parse_json(_range(context, file, 8, 8 + length), Path(file.name)).keys()
    except (TransientError, IntegrityError):
        return ()  # the transfer tries again, and the check after it names the fault


def _range(context: TransferContext, file: CheckpointFile, start_byte: int, end_byte: int) -> bytes:
    """Return a few bytes of a file on the Hub. A server may send the file from its beginning."""
    data = b""
    with context.hub.open(context.manifest, file, start_byte, end_byte) as body:
        for block in body.blocks:
            data += block
            if body.start_byte + len(data) >= end_byte:
                break
        return data[start_byte - body.start_byte : end_byte - body.start_byte]


def _weights_bytes(file: CheckpointFile) -> int:
    return file.size_bytes if file.name.endswith(".safetensors") else 0
