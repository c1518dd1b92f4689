"""The rules about who may connect: the host names that a request may be addressed to, origins, and the key."""

import hmac
import ipaddress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from gptoss_cli.server.failures import ApiError


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect. `key` None is no key; `origins` are the web pages that may use the server."""

    host: str = "127.0.0.1"
    key: str | None = None
    origins: frozenset[str] = frozenset()

    def check_place(self, host: str | None, origin: str | None) -> None:
        """Raise ApiError for a request that comes from elsewhere, by its Host and Origin.

        A page of any site can make a browser send requests here, under a name that leads to this machine. Such a
        request has another Host, or an Origin.
        """
        if is_loopback(self.host) and not is_loopback(_hostname(host)):
            raise ApiError("This server is for local programs: the Host is not", status=HTTPStatus.FORBIDDEN)
        if origin is not None and origin not in self.origins and "*" not in self.origins:
            raise ApiError(f"Pages of {origin} may not use this server", status=HTTPStatus.FORBIDDEN)

    def check_key(self, authorization: str | None) -> None:
        """Raise ApiError for a request without the key."""
        if self.key is None:
            return
        given = (authorization or "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self.key.encode()):
            raise ApiError("The API key is missing or wrong", status=HTTPStatus.UNAUTHORIZED, code="invalid_api_key")


def is_loopback(host: str) -> bool:
    """Return True if only programs on this machine can reach `host`."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hostname(host: str | None) -> str:
    try:
        return urlsplit(f"//{host or ''}").hostname or ""
    except ValueError:
        return ""
