"""The address of a server and the key for it, checked before anything is sent. Imports no HTTP."""

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gptoss_cli.errors import UsageError
from gptoss_cli.files import read_regular
from gptoss_cli.paths import shown_path
from gptoss_cli.settings import ServerApi

KEY_VARIABLE: Final = "GPTOSS_SERVER_KEY"
_LARGEST_KEY_FILE_BYTES: Final = 1 << 16
_NAME_OF_THIS_MACHINE: Final = "localhost"


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A server that should answer. `url` ends without a slash and without the `/v1` of OpenAI's endpoints.

    `model` None is the only one that the server has; `api` None is found out. `key` is in no message, log or repr.
    """

    url: str
    model: str | None = None
    api: ServerApi | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The host and the port."""
        return urlsplit(self.url).netloc

    @property
    def host(self) -> str:
        """The host without the port."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_local(self) -> bool:
        """True if the host is this machine."""
        host = self.host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == _NAME_OF_THIS_MACHINE or host.endswith(f".{_NAME_OF_THIS_MACHINE}")

    @property
    def is_encrypted(self) -> bool:
        """True if nobody on the way can read what is sent."""
        return self.url.startswith("https://")

    @property
    def url_of_other_scheme(self) -> str:
        """The address with http instead of https, or the reverse."""
        return re.sub(r"^http(s?)", lambda scheme: "http" if scheme[1] else "https", self.url)


def server_request(
    url: str, *, model: str | None = None, api: ServerApi | None = None, key_file: Path | None = None
) -> ServerRequest:
    """Return a request for the server at `url`, with the key in `key_file`, else in the environment.

    Raises UsageError without the text of a key or a password.
    """
    return ServerRequest(_checked_url(url), model, api, _read_key(key_file))


def _checked_url(text: str) -> str:
    url = text.strip()
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0  # read to be checked: a wrong one raises
        is_valid = (
            parts.scheme in ("http", "https") and has_port and bool(re.fullmatch(r"[^\s/\\]+", parts.hostname or ""))
        )
    except ValueError:
        is_valid = False
    if not (is_valid and url.isprintable() and " " not in url):
        raise UsageError("The address of the server should be like http://localhost:8000")
    if "@" in parts.netloc:
        raise UsageError(f"The address of the server should have no user and no password. For a key: {KEY_VARIABLE}")
    if parts.query or parts.fragment:
        raise UsageError("The address of the server should end with its port or a path, without ? and #")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _read_key(file: Path | None) -> str | None:
    if file is None:
        return _checked_key(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE)
    name = shown_path(file)
    try:
        data = read_regular(file, _LARGEST_KEY_FILE_BYTES)
    except OSError as exc:
        raise UsageError(f"{name} cannot be read: {exc.strerror or exc}") from exc
    key = _checked_key(data.decode("utf-8", "replace"), f"The key in {name}")
    if key is None:
        raise UsageError(f"{name} has no key in it")
    return key


def _checked_key(text: str, origin: str) -> str | None:
    key = text.strip()
    wrong = next((i for i, letter in enumerate(key, start=1) if not "!" <= letter <= "~"), None)
    if wrong is not None:
        raise UsageError(f"{origin} is not a valid key: character {wrong} of {len(key)} is not allowed in one")
    return key or None
