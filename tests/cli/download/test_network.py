"""`gptoss download` on bad connections and from bad servers."""

import email.utils
import socket
import threading
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from gptoss_cli.checkpoint.connection import Timeout
from gptoss_cli.checkpoint.transfer import RetryPolicy
from gptoss_cli.cli import download
from tests.checkpoint.hub_server import Answer, HubServer, Request
from tests.checkpoint.repository import SHARD_BYTES, SHARDS
from tests.checkpoint.socks_server import SocksServer
from tests.cli.conftest import Run
from tests.cli.download.conftest import FIRST, NO_HUB, SECOND, Patch, is_complete, listed


def test_without_a_network_nothing_is_installed(run: Run, home: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NO_HUB)
    status, out, err = run("download")
    assert (status, out) == (5, "")
    assert "127.0.0.1 cannot be reached" in err
    assert listed(run)["gpt-oss-20b"]["state"] == "not downloaded"


def test_a_network_that_never_answers_is_given_up(run: Run, home: Path, monkeypatch: Patch) -> None:
    """A firewall drops every packet: nothing is refused, and nothing answers."""
    with ExitStack() as open_until_the_end:
        silent = open_until_the_end.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # more than may wait to be accepted: those that follow get no answer at all
            waiting = open_until_the_end.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        hurried = RetryPolicy(
            listing=Timeout(0.5, 0.5), transfer=Timeout(0.5, 0.5), attempts=1, first_pause_seconds=0.01
        )
        monkeypatch.setattr(download, "retry_policy", lambda: hurried)
        status, out, err = run("download")
    assert (status, out) == (5, "")
    assert "127.0.0.1" in err
    assert err.count("\n") == 1
    assert listed(run)["gpt-oss-20b"]["state"] == "not downloaded"


def test_a_complete_model_needs_no_network(run: Run, hub: HubServer, monkeypatch: Patch) -> None:
    run("download")
    hub.requests.clear()
    assert "already complete" in run("download")[2]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, _, err = run("download")
    assert status == 0
    assert "already complete (offline)" in err
    assert hub.requests == []


def test_offline_an_incomplete_model_exits_3_and_names_the_missing_file(
    run: Run, hub: HubServer, folder: Path, monkeypatch: Patch
) -> None:
    run("download")
    (folder / SECOND).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, _, err = run("download")
    assert status == 3
    assert SECOND in err
    monkeypatch.setenv("GPTOSS_HOME", str(folder))
    assert run("download")[0] == 3


def test_a_cut_connection_continues_from_there(run: Run, hub: HubServer, folder: Path) -> None:
    cuts = [1_000, 70_000, 300_000]
    hub.cut = lambda request: cuts.pop() if cuts and request.file == FIRST else None
    assert run("download")[0] == 0
    assert is_complete(folder, hub.files)
    assert hub.sent_bytes(FIRST) == SHARD_BYTES


def test_a_connection_that_always_breaks_exits_5_and_keeps_complete_files(
    run: Run, hub: HubServer, folder: Path
) -> None:
    hub.cut = lambda request: 100 if request.file == SECOND else None
    status, _, err = run("download")
    assert status == 5
    assert SECOND in err
    assert "3 times in a row" in err
    assert (folder / FIRST).exists()
    assert not (folder / "manifest.json").exists()
    assert run("ask", "-m", "20b", "x")[0] == 3
    hub.cut = lambda request: None
    asked = len(hub.asked(FIRST))
    assert run("download")[0] == 0
    assert len(hub.asked(FIRST)) == asked


def test_a_server_without_ranges_sends_no_byte_twice_into_the_file(run: Run, hub: HubServer, folder: Path) -> None:
    hub.honours_range = False
    cuts = [500_000]
    hub.cut = lambda request: cuts.pop() if cuts and request.file == SECOND else None
    assert run("download")[0] == 0
    assert is_complete(folder, hub.files)


def test_a_stalled_connection_is_tried_again_and_then_exits_5(
    run: Run, hub: HubServer, folder: Path, monkeypatch: Patch
) -> None:
    impatient = RetryPolicy(listing=Timeout(20, 20), transfer=Timeout(20, 0.3), attempts=1, first_pause_seconds=0.01)
    go_on = threading.Event()

    def stall() -> None:
        if hub.requests[-1].file in SHARDS:
            go_on.wait(60)

    run("download")
    (folder / FIRST).unlink()
    monkeypatch.setattr(download, "retry_policy", lambda: impatient)
    hub.pace = stall
    status, _, err = run("download")
    go_on.set()
    assert status == 5
    assert "2 times in a row" in err


def test_a_body_shorter_than_it_says_is_not_accepted(run: Run, hub: HubServer, folder: Path) -> None:
    hub.honours_range = False
    hub.cut = lambda request: SHARD_BYTES - 1 if request.file == FIRST else None
    assert run("download")[0] == 5
    assert not (folder / FIRST).exists()


@pytest.mark.parametrize(
    ("answer", "arguments", "message"),
    [
        (Answer(403, {"X-Error-Code": "GatedRepo"}), [], "is not open to you"),
        (Answer(404, {"X-Error-Code": "RepoNotFound"}), [], "or is private"),
        (Answer(401), [], "or is private"),
        (None, ["--revision", "absent"], "There is no such revision"),
        (Answer(451), [], "answers 451"),
    ],
)
def test_each_refusal_has_its_own_message(
    answer: Answer | None, arguments: list[str], message: str, run: Run, hub: HubServer
) -> None:
    hub.fault = lambda request: answer
    status, _, err = run("download", *arguments)
    assert status == 5
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("where", ["", FIRST])
@pytest.mark.parametrize("busy", [Answer(429, {"Retry-After": "0"}), Answer(500), Answer(503)])
def test_a_busy_server_is_waited_for(busy: Answer, where: str, run: Run, hub: HubServer, folder: Path) -> None:
    refusals = [busy, busy]
    hub.fault = lambda request: refusals.pop() if refusals and request.file == where else None
    assert run("download")[0] == 0
    assert is_complete(folder, hub.files)


@pytest.mark.parametrize("where", ["", FIRST])
@pytest.mark.parametrize("busy", [Answer(503), Answer(429, {"Retry-After": "86400"})])
def test_a_server_that_stays_busy_exits_5(busy: Answer, where: str, run: Run, hub: HubServer) -> None:
    hub.fault = lambda request: busy if request.file == where else None
    status, _, err = run("download")
    assert status == 5
    assert f"answers {busy.status}" in err


@pytest.mark.parametrize("where", ["", "config.json", FIRST])
def test_a_login_page_is_not_taken_for_the_hub(where: str, run: Run, hub: HubServer, folder: Path) -> None:
    page = Answer(200, {"Content-Type": "text/html"}, b"<html>Accept our terms</html>")
    hub.fault = lambda request: page if request.file == where else None
    status, _, err = run("download")
    assert status == 5
    assert "does not answer as the Hub does" in err
    assert not (folder / FIRST).exists()


def test_a_redirect_to_a_login_page_is_not_followed(run: Run, hub: HubServer) -> None:
    away = Answer(302, {"Location": "http://localhost:1/login"})
    hub.fault = lambda request: away if request.file == FIRST else None
    status, _, err = run("download")
    assert status == 5
    assert "does not answer as the Hub does" in err


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"HTTP_PROXY": "http://me:proxy-password@127.0.0.1:1"}, "reached through the proxy of HTTP_PROXY ("),
        ({"HTTP_PROXY": "http://me:proxy-password@127.0.0.1:1"}, "refused"),
        ({"HF_ENDPOINT": "https"}, "SSL"),
    ],
)
def test_a_proxy_or_tls_failure_is_reported_with_its_cause(
    variables: dict[str, str], cause: str, run: Run, hub: HubServer, monkeypatch: Patch
) -> None:
    from huggingface_hub import close_session

    for name, value in variables.items():
        monkeypatch.setenv(name, hub.address.replace("http:", "https:") if value == "https" else value)
    close_session()  # the library reads proxies once
    status, _, err = run("--debug", "download")
    close_session()
    assert status == 5
    assert cause in err
    assert "proxy-password" not in err


def test_an_expired_address_is_requested_again(run: Run, hub: HubServer, folder: Path) -> None:
    with HubServer(hub.files) as store:
        hub.redirect = store.store
        refusals = [Answer(403)]
        store.fault = lambda request: refusals.pop() if refusals and request.file == SECOND else None
        assert run("download")[0] == 0
    assert is_complete(folder, hub.files)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://me:secret@127.0.0.1:port"),
        ("SSL_CERT_FILE", "/absent/certificates.pem"),
        ("HF_TOKEN", "hf_secreté"),
        ("HF_HUB_ETAG_TIMEOUT", "soon"),
        ("HF_ENDPOINT", "huggingface.co"),
    ],
)
def test_a_variable_that_stops_every_request_exits_2_and_is_named(
    name: str, value: str, run: Run, hub: HubServer, monkeypatch: Patch
) -> None:
    monkeypatch.setenv(name, value)
    status, out, err = run("--debug", "download")
    assert (status, out) == (2, "")
    assert f"gptoss: {name} " in err
    assert "secret" not in err
    assert hub.requests == []


@pytest.mark.parametrize("where", ["", FIRST])
def test_the_hubs_rate_limit_is_waited_for_and_announced_once(
    where: str, run: Run, hub: HubServer, folder: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("gptoss_cli.checkpoint.hub._ANNOUNCED_SECONDS", 0.5)
    refusals = [Answer(429, {"RateLimit": '"api";r=0;t=1'})]
    hub.fault = lambda request: refusals.pop() if refusals and request.file == where else None
    begun = time.monotonic()
    status, _, err = run("download")
    assert status == 0
    assert time.monotonic() - begun >= 1
    assert err.count("127.0.0.1 answers 429 (too many requests), and asks to wait: going on in 1 s.") == 1
    assert is_complete(folder, hub.files)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"RateLimit": '"api";r=0;t=275', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, "4 min 35 s"),
        ({"RateLimit": '"api"; r=0; t=300', "Retry-After": "3900"}, "1 h 5 min"),
        ({"Retry-After": "in 7230 s, as a date"}, "2 h 0 min"),
    ],
)
def test_a_long_wait_is_not_sat_through_but_told(headers: dict[str, str], words: str, run: Run, hub: HubServer) -> None:
    if headers.get("Retry-After", "").startswith("in"):
        headers = {"Retry-After": email.utils.formatdate(time.time() + 7230, usegmt=True)}
    hub.fault = lambda request: Answer(429, headers)
    status, _, err = run("download")
    assert status == 5
    assert err == f"gptoss: 127.0.0.1 answers 429 (too many requests), and asks to wait {words}. Try again later\n"


@pytest.mark.parametrize("where", ["", FIRST])
def test_a_pause_that_the_server_did_not_ask_for_is_announced_too(
    where: str, run: Run, hub: HubServer, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("gptoss_cli.checkpoint.hub._ANNOUNCED_SECONDS", 0.0)
    refusals = [Answer(429, {"RateLimit": '"api";r=0;t=soon', "Retry-After": "-5"})]
    hub.fault = lambda request: refusals.pop() if refusals and request.file == where else None
    status, _, err = run("download")
    assert status == 0
    assert err.count("127.0.0.1 answers 429 (too many requests), trying again in") == 1


def test_a_limit_that_is_not_reached_is_not_waited_for(run: Run, hub: HubServer) -> None:
    refusals = [Answer(503, {"RateLimit": '"api";r=499;t=300'})]
    hub.fault = lambda request: refusals.pop() if refusals else None
    assert run("download")[0] == 0


def test_a_mirror_that_answers_late_has_longer_than_a_connection(run: Run, hub: HubServer, monkeypatch: Patch) -> None:
    policy = RetryPolicy(listing=Timeout(0.3, 20), transfer=Timeout(0.3, 20), attempts=0)
    monkeypatch.setattr(download, "retry_policy", lambda: policy)

    def late(request: Request) -> None:
        time.sleep(0.0 if request.file else 0.6)

    hub.fault = late
    assert run("download")[0] == 0


@pytest.mark.skipif(find_spec("socksio") is None, reason="needs the extra socks")
def test_a_socks_proxy_is_used(run: Run, hub: HubServer, folder: Path, monkeypatch: Patch) -> None:
    from huggingface_hub import close_session

    with SocksServer() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.address)
        close_session()  # the library reads proxies once
        status, _, err = run("download")
        close_session()
    assert (status, proxy.connections > 0) == (0, True), err
    assert is_complete(folder, hub.files)
