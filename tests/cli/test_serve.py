"""`gptoss serve`: what is refused before a model is loaded, the address it prints, and the order in which it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from tests.cli.conftest import Run, Script, turn
from tests.remote.fake_servers import FakeVllm
from tests.remote.turns import speaking

_PROGRAM = Path(__file__).with_name("scripted_program.py")
_SECONDS = 60


@contextmanager
def _serving(script: str | None, errors: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Yield the program and the address that it prints to `errors`; it is killed at the end if it still runs.

    Without a script it is the real one.
    """
    program_of = ["-m", "gptoss_cli"] if script is None else [str(_PROGRAM), script]
    command = [sys.executable, *program_of, "serve", "--port", "0", *options]
    with errors.open("w") as stderr:
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        end = time.monotonic() + _SECONDS
        while (found := re.search(r"^Serving [-a-z0-9]+ on (http://127.0.0.1:\d+) ", errors.read_text())) is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        yield program, found[1]
    finally:
        program.kill()
        program.wait(_SECONDS)


def _post(url: str, body: object) -> bytes:
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
        data: bytes = response.read()
    return data


def test_it_prints_its_address_answers_and_ends_with_143(script: Script, tmp_path: Path) -> None:
    hi = {"messages": [{"role": "user", "content": "a secret"}]}
    with _serving(script(turn("Hello there")), tmp_path / "errors") as (program, url):
        assert b"Hello there" in _post(url, hi)
        program.send_signal(signal.SIGTERM)
        out, _ = program.communicate(timeout=_SECONDS)
    err = (tmp_path / "errors").read_text()
    assert (program.returncode, out) == (143, "")
    assert f"OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=none\n" in err
    assert f'base_url = "{url}/v1"\n' in err
    assert "secret" not in err


def test_a_key_is_asked_for_and_not_shown(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_API_KEY", "sesame")
    with _serving(script(), tmp_path / "errors") as (_, url), pytest.raises(urllib.error.HTTPError, match="401"):
        _post(url, {"messages": [{"role": "user", "content": "Hi"}]})
    err = (tmp_path / "errors").read_text()
    assert f"OPENAI_BASE_URL={url}/v1 and the server's key in OPENAI_API_KEY\n" in err
    assert f'base_url = "{url}/v1", env_key = "OPENAI_API_KEY"\n' in err
    assert "sesame" not in err


def test_a_server_may_answer_for_it(tmp_path: Path) -> None:
    with (
        FakeVllm(speaking("<|channel|>final<|message|>Hello there<|return|>")) as fake,
        _serving(None, tmp_path / "errors", "--server", fake.url) as (_, url),
    ):
        assert b"Hello there" in _post(url, {"messages": [{"role": "user", "content": "Hi"}]})
    err = (tmp_path / "errors").read_text()
    assert f"Serving gpt-oss-20b on {url} (remote vllm on 127.0.0.1:{fake.port}, 4,096 tokens of context)." in err


def test_ctrl_c_ends_it_with_130(script: Script, tmp_path: Path) -> None:
    with _serving(script(), tmp_path / "errors") as (program, _):
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=_SECONDS)
    assert program.returncode == 130


def test_a_port_in_use_is_an_error_before_a_model_is_loaded(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run("serve", "--port", str(port))
    assert (status, out) == (2, "")
    assert err == f"gptoss: Another program listens on 127.0.0.1:{port} already. Use another --port\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_need_a_key(run: Run, host: str) -> None:
    status, _, err = run("serve", "--host", host)
    assert status == 2
    assert "clients must send a key. Set GPTOSS_API_KEY or use --api-key-file" in err


def test_a_key_file_must_have_a_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        status, _, err = run("serve", "--api-key-file", str(tmp_path / name))
        assert status == 2
        assert name in err


def test_a_host_that_is_no_address_is_an_error(run: Run) -> None:
    os.environ["GPTOSS_API_KEY"] = "x"
    try:
        status, _, err = run("serve", "--host", "no such host")
    finally:
        del os.environ["GPTOSS_API_KEY"]
    assert status == 2
    assert "no such host is no address of this machine" in err


def test_a_model_that_is_not_installed_ends_it_with_3(run: Run) -> None:
    status, out, err = run("serve", "-m", "20b", "--port", "0")
    assert (status, out) == (3, "")
    assert "gptoss download 20b" in err


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("gptoss_cli.server", "gptoss_cli.cli.serve"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, out, err = run("serve", "-m", "demo")
    assert (status, out) == (2, "")
    assert err == (
        "gptoss: The server needs starlette and uvicorn, which are not installed. Run: pip install 'gptoss[serve]'\n"
    )
