"""The Hub as huggingface_hub reaches it: what a repository holds, and the bytes of its files.

Endpoint, proxies and token are huggingface_hub's own. The token goes to the endpoint and nowhere else; no address that
a server redirects to is ever shown, logged or written down.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from gptoss_cli import __version__
from gptoss_cli.checkpoint.folder import is_plain_file_name
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, is_commit
from gptoss_cli.errors import IntegrityError, NetworkError

if TYPE_CHECKING:
    import httpx2

WANTED = ("config.json", "generation_config.json", "model.safetensors.index.json")
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_TRUE = ("1", "ON", "YES", "TRUE")
_PORTS = {"http": 80, "https": 443}


class TransientError(Exception):
    """A failure that may be over soon; `wait_seconds` is what the server asked for, None if nothing.

    `answered` tells a server that refused from one that could not be reached.
    """

    def __init__(self, message: str, *, answered: bool = True, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.answered, self.wait_seconds = answered, wait_seconds


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file from `start_byte` on, as they arrive; `is_whole` if the server did not heed the range."""

    start_byte: int
    is_whole: bool
    blocks: Iterator[bytes]


def is_offline() -> bool:
    """Whether the user has told huggingface_hub to stay off the network (its documentation, HF_HUB_OFFLINE)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


class Hub:
    """The Hub that HF_ENDPOINT names, for one download. `notice` is told what the user should know."""

    def __init__(self, *, connect_seconds: float, stall_seconds: float, notice: Callable[[str], None]) -> None:
        # The library tells the Hub about this machine unless it is told not to before it is imported.
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        from huggingface_hub import constants, get_token

        # Read here and not at import, as the library does: a variable set later must count.
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._token = get_token()
        self._connect_seconds, self._stall_seconds = connect_seconds, stall_seconds
        self._notice = notice
        self._places: dict[str, str] = {}
        self._lock = threading.Lock()

    def listing(self, repository: str, revision: str | None) -> Manifest:
        """The files a checkpoint needs of a repository's root, at the commit `revision` now stands for.

        Raises TransientError, NetworkError, or IntegrityError for a listing no honest repository has.
        """
        try:
            info = self._ask(repository, revision)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise NetworkError(self._no_hub()) from exc
        if not isinstance(info.sha, str) or not is_commit(info.sha):
            raise NetworkError(self._no_hub())
        return Manifest(repository, revision or "main", info.sha, _wanted(repository, info.siblings or []))

    def _ask(self, repository: str, revision: str | None) -> Any:
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi(endpoint=self.endpoint, token=self._token or False)
        try:
            return api.model_info(repository, revision=revision, files_metadata=True, timeout=self._connect_seconds)
        except HfHubHTTPError as exc:
            status = exc.response.status_code
            if status == 401 and self._drop_token():
                return self._ask(repository, revision)
            raise self._refusal(status, exc.response.headers, f"{repository} at {revision or 'main'}") from exc
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
            raise self._passing(exc) from exc

    @contextmanager
    def open(self, manifest: Manifest, file: CheckpointFile, start_byte: int, end_byte: int) -> Iterator[Body]:
        """Ask for the bytes from `start_byte` up to, not including, `end_byte`; a server may send the whole file.

        Raises TransientError, NetworkError, or IntegrityError if the server has another file than the listing said.
        """
        import httpx2

        address = self._places.get(file.name) or self._address(manifest, file)
        try:
            for _ in range(_MOST_REDIRECTS):
                with self._request(address, start_byte, end_byte) as response:
                    following = self._check(response, manifest, file)
                    if following is None:
                        start = _start(response, file, start_byte)
                        yield Body(start, response.status_code == 200, response.iter_raw())
                        return
                    address = following
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as exc:
            raise self._passing(exc) from exc
        raise NetworkError(f"{self.host} redirects without end. Try again later")

    def _address(self, manifest: Manifest, file: CheckpointFile) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(manifest.repository, file.name, revision=manifest.commit, endpoint=self.endpoint)

    def _request(self, address: str, start_byte: int, end_byte: int) -> Any:
        import httpx2
        from huggingface_hub import get_session

        headers = {"Range": f"bytes={start_byte}-{end_byte - 1}", "Accept-Encoding": "identity"}
        headers["User-Agent"] = f"gptoss/{__version__}"
        if self._token and self._is_ours(address):
            headers["Authorization"] = f"Bearer {self._token}"
        timeout = httpx2.Timeout(self._stall_seconds, connect=self._connect_seconds)
        return get_session().stream("GET", address, headers=headers, timeout=timeout, follow_redirects=False)

    def _check(self, response: "httpx2.Response", manifest: Manifest, file: CheckpointFile) -> str | None:
        """Where to ask instead, or None if the file's bytes follow."""
        address, status = str(response.url), response.status_code
        where = f"{file.name} of {manifest.repository}"
        if not self._is_ours(address):
            if status not in (200, 206):
                with self._lock:
                    self._places.pop(file.name, None)  # the address may have run out
                raise TransientError(
                    f"the server that holds {file.name} answers {status}", wait_seconds=_retry_after(response.headers)
                )
            return None
        if status in _REDIRECTS and "location" in response.headers:
            following = urljoin(address, response.headers["location"])
            if not self._is_ours(following):
                self._check_identity(response.headers, manifest, file)
                with self._lock:
                    self._places[file.name] = following
            return following
        if status == 401 and self._drop_token():
            raise TransientError(f"{self.host} rejects the token")
        if status not in (200, 206):
            raise self._refusal(status, response.headers, where)
        self._check_identity(response.headers, manifest, file)
        return None

    def _check_identity(self, headers: Mapping[str, str], manifest: Manifest, file: CheckpointFile) -> None:
        commit = headers.get("x-repo-commit")
        if commit is None:
            raise NetworkError(self._no_hub())
        tag = (headers.get("x-linked-etag") or headers.get("etag") or "").removeprefix("W/").strip('"')
        if commit != manifest.commit or (tag and tag != file.digest.hex):
            raise IntegrityError(
                f"{self.host} has another {file.name} than it listed for {manifest.commit[:12]}. "
                "Try again later, or choose a --revision"
            )

    def _drop_token(self) -> bool:
        """Go on without the token; False if there was none."""
        with self._lock:
            token, self._token = self._token, None
        if token:
            self._notice("The Hub rejects your token (HF_TOKEN). Public models need none: going on without.")
        return bool(token)

    def _refusal(self, status: int, headers: Mapping[str, str], what: str) -> Exception:
        """What to raise for an answer that is no success. `what` names the thing that was asked for."""
        code = headers.get("x-error-code")
        if status in _PASSING:
            return TransientError(f"{self.host} answers {status}", wait_seconds=_retry_after(headers))
        if code == "GatedRepo" or status == 403:
            return NetworkError(f"{what} is not open to you. Accept its conditions on its page, and set HF_TOKEN")
        if code == "RevisionNotFound":
            return NetworkError(f"There is no such revision: {what}. Check --revision")
        if code == "EntryNotFound":
            return NetworkError(f"There is no {what} on {self.host}. Choose a --revision that has it")
        if code == "RepoNotFound" or status in (401, 404):
            return NetworkError(f"{what} is not on {self.host}, or is private. Check its name, or set HF_TOKEN")
        return NetworkError(f"{self.host} answers {status} for {what}. Try again later")

    def _passing(self, exc: Exception) -> TransientError:
        # Addresses may be signed, and a proxy's may hold a password.
        cause = re.sub(r"\S*(://|@)\S*", "(an address)", str(exc)) or type(exc).__name__
        return TransientError(f"{self.host} cannot be reached ({cause})", answered=False)

    @property
    def host(self) -> str:
        """The endpoint's name without what a user may have put before it."""
        return urlsplit(self.endpoint).hostname or "the Hub"

    def _no_hub(self) -> str:
        return f"{self.host} does not answer as the Hub does; is there a login page in between? Check HF_ENDPOINT"

    def _is_ours(self, address: str) -> bool:
        return _origin(address) == _origin(self.endpoint)


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _start(response: "httpx2.Response", file: CheckpointFile, start_byte: int) -> int:
    """The first byte that a response sends. Raises IntegrityError if it is about a file of another size."""
    size, start = response.headers.get("content-length"), 0
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", response.headers.get("content-range", ""))
        if match is None or int(match[1]) != start_byte:
            raise TransientError("the server sends other bytes than it was asked for")
        start, size = start_byte, match[2]
    if size is not None and size != str(file.size_bytes):
        raise IntegrityError(
            f"The server's {file.name} has {size[:20]} bytes, but {file.size_bytes:,} were listed. Try again later"
        )
    return start


def _wanted(repository: str, siblings: list[Any]) -> tuple[CheckpointFile, ...]:
    """Of a repository's files those in its root that make a checkpoint; small ones first."""
    files = []
    for sibling in siblings:
        name = sibling.rfilename
        if not isinstance(name, str) or _leads_out(name):
            raise IntegrityError(f"{repository} lists the file {ascii(name)[:80]}, which leads out of its folder")
        if name in WANTED or (name.endswith(".safetensors") and is_plain_file_name(name)):
            files.append(_file(repository, sibling))
    if not any(file.name.endswith(".safetensors") for file in files):
        raise NetworkError(f"{repository} holds no safetensors files. Choose a gpt-oss model")
    if len({file.name.casefold() for file in files}) != len(files):
        raise IntegrityError(f"{repository} lists a file twice. Choose another --revision")
    return tuple(sorted(files, key=lambda file: (file.name.endswith(".safetensors"), file.name)))


def _leads_out(name: str) -> bool:
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    return not name or ".." in parts or bool(PurePosixPath(name).anchor or PureWindowsPath(name).anchor)


def _file(repository: str, sibling: Any) -> CheckpointFile:
    size, digest = sibling.size, Digest("git-sha1", sibling.blob_id or "")
    if sibling.lfs is not None:
        size, digest = sibling.lfs.size, Digest("sha256", sibling.lfs.sha256)
    if not isinstance(size, int) or size < 0 or not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", digest.hex):
        raise IntegrityError(f"{repository} lists {sibling.rfilename} without size and digest. Try again later")
    return CheckpointFile(sibling.rfilename, size, digest)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value, re.ASCII) else None
