"""The Hugging Face Hub: the files of a repository, and their bytes.

Endpoint, proxies and token are those of huggingface_hub. The token is sent to the endpoint only. Addresses that a
server redirects to may be signed, so they are never shown, logged or stored.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2
from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from gptoss_cli import __version__
from gptoss_cli.checkpoint.connection import Timeout, check_connection, check_endpoint, check_token, proxy_origin
from gptoss_cli.checkpoint.folder import is_plain_file_name
from gptoss_cli.checkpoint.judgement import judge_files, refusal
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest, Manifest, is_commit
from gptoss_cli.errors import GptossError, Hint, IntegrityError, NetworkError, UsageError
from gptoss_cli.units import duration_words

_NEEDED_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_TRUE = ("1", "ON", "YES", "TRUE")
_PORTS = {"http": 80, "https": 443}
# A shorter pause is over before its notice has been read.
_ANNOUNCED_SECONDS = 3.0


class TransientError(Exception):
    """A failure that may be over soon.

    `answered` is False if the server could not be reached. `wait_seconds` is the pause that the server asked for.
    """

    def __init__(self, message: str, *, answered: bool = True, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.answered, self.wait_seconds = answered, wait_seconds


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file from `start_byte` on, as they arrive. `is_whole` means that the server ignored the range."""

    start_byte: int
    is_whole: bool
    blocks: Iterator[bytes]


def is_offline() -> bool:
    """Return True if the user has switched the network off for huggingface_hub (its documentation, HF_HUB_OFFLINE)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


class Hub:
    """The Hub at HF_ENDPOINT, for one download. `notice` is called with messages for the user.

    Raises UsageError for a variable of the environment that makes every request impossible.
    """

    def __init__(self, *, listing: Timeout, transfer: Timeout, notice: Callable[[str], None]) -> None:
        # Otherwise the library sends facts about this machine to the Hub.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        # The library reads the variable when it is imported; one that is set later should count too.
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        check_endpoint(self.endpoint)
        check_connection()
        self._token = _read_token()
        self._listing = httpx2.Timeout(listing.read_seconds, connect=listing.connect_seconds)
        self._transfer = httpx2.Timeout(transfer.read_seconds, connect=transfer.connect_seconds)
        self._notice = notice
        self._announced_until = 0.0
        self._redirects: dict[str, str] = {}
        self._lock = threading.Lock()

    def listing(self, repository: str, revision: str | None) -> Manifest:
        """Return the files of a checkpoint in a repository's root, at the commit that `revision` names now.

        Raises TransientError, NetworkError, or IntegrityError for a listing that cannot be right.
        """
        try:
            info = self._ask(repository, revision)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise self._not_a_hub() from exc
        if not isinstance(info.sha, str) or not is_commit(info.sha):
            raise self._not_a_hub()
        return Manifest(repository, revision or "main", info.sha, _needed_files(repository, info.siblings or []))

    def _ask(self, repository: str, revision: str | None) -> Any:
        api = HfApi(endpoint=self.endpoint, token=self._token or False)
        timeout: Any = self._listing  # annotated as a number, and handed to the HTTP client
        try:
            return api.model_info(repository, revision=revision, files_metadata=True, timeout=timeout)
        except HfHubHTTPError as exc:
            status = exc.response.status_code
            if status == 401 and self._drop_token():
                return self._ask(repository, revision)
            raise self._refusal(status, exc.response.headers, f"{repository} at {revision or 'main'}") from exc
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
            raise self._unreachable(exc) from exc

    @contextmanager
    def open(self, manifest: Manifest, file: CheckpointFile, start_byte: int, end_byte: int) -> Iterator[Body]:
        """Request the bytes from `start_byte` up to, not including, `end_byte`. A server may send the whole file.

        Raises TransientError, NetworkError, or IntegrityError if the server has another file than it listed.
        """
        address = self._redirects.get(file.name) or hf_hub_url(
            manifest.repository, file.name, revision=manifest.commit, endpoint=self.endpoint
        )
        try:
            for _ in range(_MAX_REDIRECTS):
                with self._request(address, start_byte, end_byte) as response:
                    following = self._check(response, manifest, file)
                    if following is None:
                        start = _start(response, file, start_byte)
                        yield Body(start, response.status_code == 200, response.iter_raw())
                        return
                    address = following
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as exc:
            raise self._unreachable(exc) from exc
        raise NetworkError(f"{self.host} redirects too many times", Hint.RETRY_LATER)

    def _request(self, address: str, start_byte: int, end_byte: int) -> Any:
        headers = {"Range": f"bytes={start_byte}-{end_byte - 1}", "Accept-Encoding": "identity"}
        headers["User-Agent"] = f"gptoss/{__version__}"
        if self._token and self._is_ours(address):
            headers["Authorization"] = f"Bearer {self._token}"
        return get_session().stream("GET", address, headers=headers, timeout=self._transfer, follow_redirects=False)

    def _check(self, response: httpx2.Response, manifest: Manifest, file: CheckpointFile) -> str | None:
        """Return the address that the server redirects to, or None if the bytes of the file follow."""
        address, status = str(response.url), response.status_code
        if not self._is_ours(address):
            if status not in (200, 206):
                with self._lock:
                    self._redirects.pop(file.name, None)  # the signature of the address may have expired
                raise TransientError(
                    f"the server that holds {file.name} {_answers(status)}", wait_seconds=_retry_after(response.headers)
                )
            return None
        if status in _REDIRECTS and "location" in response.headers:
            following = urljoin(address, response.headers["location"])
            if not self._is_ours(following):
                self._check_identity(response.headers, manifest, file)
                with self._lock:
                    self._redirects[file.name] = following
            return following
        if status == 401 and self._drop_token():
            raise TransientError(f"{self.host} rejects the token")
        if status not in (200, 206):
            raise self._refusal(status, response.headers, f"{file.name} of {manifest.repository}")
        self._check_identity(response.headers, manifest, file)
        return None

    def _check_identity(self, headers: Mapping[str, str], manifest: Manifest, file: CheckpointFile) -> None:
        commit = headers.get("x-repo-commit")
        if commit is None:
            raise self._not_a_hub()
        tag = (headers.get("x-linked-etag") or headers.get("etag") or "").removeprefix("W/").strip('"')
        if commit != manifest.commit or (tag and tag != file.digest.hex):
            message = f"{self.host} has another {file.name} than it listed for {manifest.commit[:12]}"
            raise IntegrityError(message, Hint.RETRY_LATER, Hint.ANOTHER_REVISION)

    def announce_pause(self, error: TransientError, seconds: float) -> None:
        """Say why the next attempt is `seconds` away, once for all connections that wait now."""
        now = time.monotonic()
        with self._lock:
            if seconds < _ANNOUNCED_SECONDS or now < self._announced_until:
                return
            self._announced_until = now + seconds
        is_asked = (error.wait_seconds or 0.0) >= seconds
        goes_on = "and asks to wait: going on" if is_asked else "trying again"
        self._notice(f"{error}, {goes_on} in {duration_words(seconds)}.")

    def _drop_token(self) -> bool:
        """Continue without the token. Returns False if there was none."""
        with self._lock:
            token, self._token = self._token, None
        if token:
            self._notice("The Hub rejects your token (HF_TOKEN). Public models need no token: continuing without it.")
        return bool(token)

    def _refusal(self, status: int, headers: Mapping[str, str], what: str) -> Exception:
        """Return the error for an answer without success. `what` names the requested thing."""
        code = headers.get("x-error-code")
        if status in _TRANSIENT_STATUSES:
            return TransientError(f"{self.host} {_answers(status)}", wait_seconds=_retry_after(headers))
        if code == "GatedRepo" or status == 403:
            return NetworkError(f"{what} is not open to you. Accept its conditions on its page, and set HF_TOKEN")
        if code == "RevisionNotFound":
            return NetworkError(f"There is no such revision: {what}", Hint.ANOTHER_REVISION)
        if code == "EntryNotFound":
            return NetworkError(f"There is no {what} on {self.host}", Hint.ANOTHER_REVISION)
        if code == "RepoNotFound" or status in (401, 404):
            return NetworkError(f"{what} is not on {self.host}, or is private. Check its name, or set HF_TOKEN")
        return NetworkError(f"{self.host} answers {status} for {what}", Hint.RETRY_LATER)

    def _unreachable(self, exc: Exception) -> TransientError:
        # Addresses may be signed, and that of a proxy may contain a password.
        cause = re.sub(r"\S*(://|@)\S*", "(an address)", str(exc)) or type(exc).__name__
        proxy = proxy_origin(self.endpoint)
        through = f" through the proxy of {proxy}" if proxy else ""
        return TransientError(f"{self.host} cannot be reached{through} ({cause})", answered=False)

    @property
    def host(self) -> str:
        """The host name of the endpoint, without credentials."""
        return urlsplit(self.endpoint).hostname or "the Hub"

    def _not_a_hub(self) -> GptossError:
        message = f"{self.host} does not answer as the Hub does; there may be a login page in between"
        return NetworkError(f"{message}. Check HF_ENDPOINT")

    def _is_ours(self, address: str) -> bool:
        return _origin(address) == _origin(self.endpoint)


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _start(response: httpx2.Response, file: CheckpointFile, start_byte: int) -> int:
    """Return the first byte that a response sends. Raises IntegrityError if the file has another size than listed."""
    size, start = response.headers.get("content-length"), 0
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", response.headers.get("content-range", ""))
        if match is None or int(match[1]) != start_byte:
            raise TransientError("the server sends other bytes than were requested")
        start, size = start_byte, match[2]
    if size is not None and size != str(file.size_bytes):
        message = f"The server's {file.name} has {size[:20]} bytes, but {file.size_bytes:,} were listed"
        raise IntegrityError(message, Hint.RETRY_LATER)
    return start


def _needed_files(repository: str, siblings: list[Any]) -> tuple[CheckpointFile, ...]:
    """Return the files in the root of a repository that belong to a checkpoint, shards last."""
    files = []
    for sibling in siblings:
        name = sibling.rfilename
        if not isinstance(name, str) or _leads_out(name):
            raise IntegrityError(f"{repository} lists the file {ascii(name)[:80]}, which leads out of its folder")
        if name in _NEEDED_FILES or (name.endswith(".safetensors") and is_plain_file_name(name)):
            files.append(_file(repository, sibling))
    judged = judge_files([sibling.rfilename for sibling in siblings if "/" not in sibling.rfilename])
    if judged is not None:
        raise refusal(judged, repository)
    if not any(file.name.endswith(".safetensors") for file in files):
        raise NetworkError(f"{repository} holds no safetensors files: it is not a gpt-oss model")
    if len({file.name.casefold() for file in files}) != len(files):
        raise IntegrityError(f"{repository} lists a file twice", Hint.ANOTHER_REVISION)
    return tuple(sorted(files, key=lambda file: (file.name.endswith(".safetensors"), file.name)))


def _leads_out(name: str) -> bool:
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    return not name or ".." in parts or bool(PurePosixPath(name).anchor or PureWindowsPath(name).anchor)


def _file(repository: str, sibling: Any) -> CheckpointFile:
    size, digest = sibling.size, Digest("git-sha1", sibling.blob_id or "")
    if sibling.lfs is not None:
        size, digest = sibling.lfs.size, Digest("sha256", sibling.lfs.sha256)
    if not isinstance(size, int) or size < 0 or not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", digest.hex):
        raise IntegrityError(f"{repository} lists {sibling.rfilename} without size and digest", Hint.RETRY_LATER)
    return CheckpointFile(sibling.rfilename, size, digest)


def _read_token() -> str | None:
    """Return the user's token. Raises UsageError for one that cannot be sent."""
    try:
        token = get_token()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise UsageError(f"The token in {constants.HF_TOKEN_PATH} cannot be read: {reason}") from exc
    if token:
        check_token(token, constants.HF_TOKEN_PATH)
    return token


def _answers(status: int) -> str:
    return "answers 429 (too many requests)" if status == 429 else f"answers {status}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, or None.

    They are in Retry-After, as a number or a date (RFC 9110, 10.2.3), or in RateLimit, which the Hub sends
    (draft-ietf-httpapi-ratelimit-headers): `"api";r=0;t=75` means that none remains for 75 seconds.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,6}", value, re.ASCII):
        return float(value)
    if window := re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,6})\b", headers.get("ratelimit", ""), re.ASCII):
        return float(window[1])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
