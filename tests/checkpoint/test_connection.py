"""Variables of the environment that would make every request fail are named, and their values are not shown."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from gptoss_cli.checkpoint import connection
from gptoss_cli.checkpoint.connection import Timeout, check_connection, check_endpoint, check_token, proxy_origin
from gptoss_cli.checkpoint.transfer import RetryPolicy
from gptoss_cli.errors import Hint, UsageError

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def clean(monkeypatch: Patch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "HF_TOKEN", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


def test_a_connection_has_6_seconds_and_an_answer_30() -> None:
    policy = RetryPolicy()
    assert policy.listing == policy.transfer == Timeout(6, 30)


def test_the_timeouts_of_huggingface_hub_are_heeded(monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "60")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "90")
    policy = RetryPolicy()
    assert (policy.listing, policy.transfer) == (Timeout(60, 60), Timeout(90, 90))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0")  # its default, in the library too
    assert RetryPolicy().listing == Timeout()


@pytest.mark.parametrize("name", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
@pytest.mark.parametrize("value", ["1.5", "-1", "soon", "", "٣"])
def test_a_timeout_that_is_no_number_is_named(name: str, value: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name} should be a whole number of seconds, not "):
        connection.check_import()


@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTPS_PROXY", "http_proxy"])
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("socks://secret:1080", "begins with socks://, which names no version. Write socks5:// instead"),
        ("socks4://secret:1080", "begins with socks4://. A proxy can be http://"),
        ("ftp://secret:1", "begins with ftp://. A proxy can be http://"),
        ("http://me:secret@host:port", "is not the address of a proxy"),
        ("http://me:secret@host:99999", "is not the address of a proxy"),
        ("http://me:secret@a host", "is not the address of a proxy"),
        ("me:secret@[host", "is not the address of a proxy"),
        ("http://", "is not the address of a proxy"),
        ("secret$://host", "is no address"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_address(
    name: str, address: str, message: str, monkeypatch: Patch
) -> None:
    monkeypatch.setenv(name, address)
    with pytest.raises(UsageError) as caught:
        check_connection()
    assert str(caught.value).startswith(f"{name} {message}")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
def test_socks_needs_a_package(scheme: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:1080")
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="ALL_PROXY is a SOCKS proxy") as caught:
        check_connection()
    assert caught.value.hints == (Hint.INSTALL_SOCKS,)
    monkeypatch.setattr(connection, "find_spec", lambda name: find_spec("ssl"))
    check_connection()
    monkeypatch.setenv("NO_PROXY", "localhost, *")
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    check_connection()


@pytest.mark.parametrize(
    "address",
    ["proxy.example:8080", "http://me:secret@[::1]:1", "https://proxy.example", "http://mé:secrét@bücher.example"],
)
def test_proxies_that_can_be_used_are_not_refused(address: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    check_connection()


def test_the_variable_of_the_proxy_in_use_is_known(monkeypatch: Patch) -> None:
    address = "https://hub.example/models"
    assert proxy_origin(address) is None
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert proxy_origin(address) == "ALL_PROXY"
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:2")
    assert proxy_origin(address) == "https_proxy"
    monkeypatch.setenv("NO_PROXY", "hub.example")
    assert proxy_origin(address) is None


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"SSL_CERT_DIR is .*none, which is not a folder"):
        check_connection()
    (tmp_path / "ca.pem").touch()
    for folders in (tmp_path, f"{tmp_path / 'none'}{os.pathsep}{tmp_path}"):
        monkeypatch.setenv("SSL_CERT_DIR", str(folders))
        with pytest.raises(UsageError, match="not a folder" if "none" in str(folders) else "openssl rehash"):
            check_connection()
    (tmp_path / "0a1b2c3d.0").touch()
    check_connection()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    with pytest.raises(UsageError, match=r"SSL_CERT_FILE is .*absent.pem: No such file or directory"):
        check_connection()
    (tmp_path / "absent.pem").write_text("not a certificate")
    with pytest.raises(UsageError, match=r"absent.pem: it holds no certificates"):
        check_connection()


@pytest.mark.parametrize("token", ["hf_é", "hf_a b", "hf_a\x7f", "hf_“x”"])
def test_a_token_that_no_header_can_hold_is_not_shown(token: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=r"HF_TOKEN is not a valid token: character [45] of \d") as caught:
        check_token(token, "/token")
    assert token not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="The token in /token is not a valid token"):
        check_token(token, "/token")
    check_token("hf_AbC-1.2~", "/token")


@pytest.mark.parametrize("endpoint", ["foo", "https://", "ftp://host", "http://host:port", "http://[::1"])
def test_an_endpoint_that_is_no_address_is_named(endpoint: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT is not an address"):
        check_endpoint(endpoint)


def test_an_endpoint_that_stops_the_import_of_the_library_is_named(monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://[x")
    with pytest.raises(UsageError, match="HF_ENDPOINT is not an address"):
        connection.check_import()
