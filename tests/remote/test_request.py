"""Addresses and keys, as they are typed, and what is refused without a word of a key."""

from pathlib import Path

import pytest

from gptoss_cli.errors import UsageError
from gptoss_cli.remote.request import server_request


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("localhost:8000", "http://localhost:8000"),
        (" https://gpu.example/ ", "https://gpu.example"),
        ("https://gpu.example/team/v1/", "https://gpu.example/team"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_an_address_may_be_that_of_an_openai_client(typed: str, url: str) -> None:
    assert server_request(typed).url == url


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "http://",
        "ftp://a",
        "http://a:99999",
        "http://a:0",
        "http://a b",
        "http://a\nb",
        "http://a/?x=1",
        "a#b",
        "///",
    ],
)
def test_no_address_is_exit_2(typed: str) -> None:
    with pytest.raises(UsageError, match="address of the server"):
        server_request(typed)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        server_request("http://me:hunter2@gpu.example")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "is_local"),
    [("localhost:1", True), ("127.3.2.1", True), ("[::1]:1", True), ("10.0.0.1", False), ("gpu.example", False)],
)
def test_only_this_machine_is_local(typed: str, is_local: bool) -> None:
    assert server_request(typed).is_local is is_local


def test_a_key_is_in_a_file_or_else_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("sk-of-file\n", "utf-8")
    monkeypatch.setenv("GPTOSS_SERVER_KEY", "sk-of-environment")
    assert server_request("a").key == "sk-of-environment"
    request = server_request("a", key_file=tmp_path / "key")
    assert request.key == "sk-of-file"
    assert "sk-of-file" not in repr(request)


@pytest.mark.parametrize("content", [b"", b"  \n", b"sk a\n", b"sk\nka", "schlüssel".encode(), b"\xff\xfe"])
def test_no_key_is_refused_without_its_characters(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match="key") as caught:
        server_request("a", key_file=tmp_path / "key")
    assert not content.split() or content.split()[0].decode("utf-8", "replace") not in str(caught.value)


def test_a_missing_key_file_and_a_folder_are_exit_2(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="cannot be read"):
            server_request("a", key_file=path)
