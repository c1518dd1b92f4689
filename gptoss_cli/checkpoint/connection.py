"""The environment variables that the HTTP client and huggingface_hub read, checked before these read them.

Their own errors do not name the variable, and some show its value: that of a proxy may hold a password. This module
imports neither, because huggingface_hub fails to be imported if a timeout is no number or an endpoint no URL.
"""

import os
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from gptoss_cli.errors import Hint, UsageError, first_line

_LISTING_VARIABLE = "HF_HUB_ETAG_TIMEOUT"
_TRANSFER_VARIABLE = "HF_HUB_DOWNLOAD_TIMEOUT"
_SOCKS = ("socks5", "socks5h")
_PROXY_SCHEMES = ("http", "https", *_SOCKS)
_HASHED_NAME = re.compile(r"[0-9a-fA-F]{8}\.\d+")


@dataclass(frozen=True, slots=True)
class Timeout:
    """The longest wait for a connection, and for the next bytes on it."""

    connect_seconds: float = 6.0
    read_seconds: float = 30.0

    @classmethod
    def for_listing(cls) -> Self:
        """Return the timeout of a question about files: HF_HUB_ETAG_TIMEOUT, if it is set. Raises UsageError."""
        return cls._of_variable(_LISTING_VARIABLE)

    @classmethod
    def for_transfer(cls) -> Self:
        """Return the timeout of the bytes of a file: HF_HUB_DOWNLOAD_TIMEOUT, if it is set. Raises UsageError."""
        return cls._of_variable(_TRANSFER_VARIABLE)

    @classmethod
    def _of_variable(cls, name: str) -> Self:
        value = os.environ.get(name)
        if value is None:
            return cls()
        if not re.fullmatch(r"\s*\d{1,6}\s*", value, re.ASCII):  # huggingface_hub takes no fraction either
            raise UsageError(f"{name} should be a whole number of seconds, not {value[:20]!r}")
        return cls(float(value), float(value)) if int(value) else cls()


def check_import() -> None:
    """Raise UsageError for a variable that stops huggingface_hub from being imported."""
    Timeout.for_listing()
    Timeout.for_transfer()
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint:
        check_endpoint(endpoint)


def check_connection() -> None:
    """Raise UsageError for proxies or certificates that the HTTP client cannot use."""
    for name, address in _proxies().values():
        _check_proxy(name, address)
    _check_certificates()


def check_endpoint(endpoint: str) -> None:
    """Raise UsageError if HF_ENDPOINT is no address."""
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError("HF_ENDPOINT is not an address such as https://huggingface.co")


def check_token(token: str, token_file: str) -> None:
    """Raise UsageError for a token that no HTTP header can hold, with its origin but without its characters."""
    wrong = next((i for i, letter in enumerate(token, start=1) if not "!" <= letter <= "~"), None)
    if wrong is not None:
        variables = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
        origin = next((name for name in variables if os.environ.get(name)), f"The token in {token_file}")
        raise UsageError(f"{origin} is not a valid token: character {wrong} of {len(token)} is not allowed in one")


def proxy_origin(address: str) -> str | None:
    """Return the variable with the proxy that requests to `address` go through; None for a direct connection."""
    parts = urlsplit(address)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = _proxies()
    name, _ = proxies.get(parts.scheme) or proxies.get("all") or (None, "")
    return name


def _proxies() -> dict[str, tuple[str, str]]:
    """Return scheme -> origin and address of its proxy, as the HTTP client finds them."""
    found = getproxies()
    if "*" in (host.strip() for host in found.get("no", "").split(",")):
        return {}
    proxies = {}
    for scheme in ("http", "https", "all"):
        if found.get(scheme):
            names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())  # the first one counts
            name = next((name for name in names if os.environ.get(name)), f"{scheme}_proxy (of the system)")
            proxies[scheme] = name, found[scheme]
    return proxies


def _check_proxy(name: str, address: str) -> None:
    scheme, separator, _ = address.partition("://")
    scheme = scheme.lower() if separator else "http"
    missing = [] if find_spec("socksio") else [Hint.INSTALL_SOCKS]
    if scheme == "socks":
        raise UsageError(f"{name} begins with socks://, which names no version. Write socks5:// instead", *missing)
    if scheme not in _PROXY_SCHEMES:
        begins = f"begins with {scheme}://" if re.fullmatch(r"[a-z0-9+.-]{1,20}", scheme) else "is no address"
        raise UsageError(f"{name} {begins}. A proxy can be http://, https://, socks5:// or socks5h://")
    if not _is_address(address if separator else f"http://{address}"):
        raise UsageError(f"{name} is not the address of a proxy, such as http://proxy.example:8080")
    if scheme in _SOCKS and missing:
        raise UsageError(f"{name} is a SOCKS proxy, which needs one more package", *missing)


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        # The port is read to be checked: a wrong one raises.
        return bool(re.fullmatch(r"\S+", parts.hostname or "")) and parts.port != 0 and address.isprintable()
    except ValueError:
        return False


def _check_certificates() -> None:
    """Load the file of SSL_CERT_FILE, or look into the folders of SSL_CERT_DIR, which count only without the file."""
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        try:
            ssl.create_default_context(cafile=file)
        except OSError as exc:
            why = "it holds no certificates" if isinstance(exc, ssl.SSLError) else exc.strerror or first_line(exc)
            raise UsageError(f"SSL_CERT_FILE is {file}: {why}. Set it to a file of certificates, or unset it") from exc
    elif folders:
        _check_certificate_folders([folder for folder in folders.split(os.pathsep) if folder])


def _check_certificate_folders(folders: list[str]) -> None:
    """Raise UsageError if OpenSSL finds no certificate in any of the folders, where it looks by the hash of a name."""
    for folder in folders:
        with suppress(OSError):
            if any(map(_HASHED_NAME.fullmatch, os.listdir(folder))):
                return
    for folder in folders:
        if not os.path.isdir(folder):
            raise UsageError(f"SSL_CERT_DIR is {folder}, which is not a folder. Set it to one, or unset it")
    raise UsageError(
        f"SSL_CERT_DIR is {os.pathsep.join(folders)}: it has no certificate that is named by its hash, as 5ed36f99.0 "
        "is. Run openssl rehash on the folder, or set SSL_CERT_FILE to a file of certificates"
    )
