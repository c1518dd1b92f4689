"""The application over HTTP: routes, access, streams, comments, and clients that go away or send rubbish."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.server.access import Access
from gptoss_cli.server.app import LARGEST_BODY_BYTES, ServerSettings
from tests.cli.scripted_program import opened_with
from tests.server.running import SECONDS, Running, scripted, wait_until
from tests.server.slow_generator import SlowGenerator
from tests.server.turns import ANSWER

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def error_of(content: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(content)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.fixture(scope="module")
def idle() -> Iterator[Running]:
    with Running(scripted()) as running:
        yield running


@pytest.fixture
def slow() -> Iterator[tuple[Running, SlowGenerator]]:
    generator = SlowGenerator()
    with Running(lambda: opened_with(generator, ChatRequest()), ServerSettings(comment_seconds=0.05)) as running:
        yield running, generator


def test_health_models_and_metrics_answer(idle: Running) -> None:
    assert idle.request("/health")[0] == 200
    models = json.loads(idle.request("/v1/models")[2])
    assert models["data"][0]["id"] == models["models"][0]["slug"] == "scripted"
    assert models["data"][0]["max_model_len"] == models["models"][0]["context_window"] == 4096
    assert json.loads(idle.request("/v1/models/scripted")[2]).keys() == models["data"][0].keys()
    assert idle.request("/v1/models/other")[0] == 404
    text = idle.request("/metrics")[2].decode()
    assert 'gptoss_requests_total{endpoint="/health",status="200"}' in text
    assert "gptoss_queue_length 0\n" in text


def test_each_endpoint_answers_whole_and_as_a_stream() -> None:
    with Running(scripted(*[ANSWER] * 6)) as running:
        chat = running.post("/v1/chat/completions", HI)
        assert chat["choices"][0]["message"]["content"] == "Hello 🙂, you\n\nall."
        responses = running.post("/v1/responses", {"input": "Hi"})
        assert responses["output"][-1]["content"][0]["text"] == "Hello 🙂, you\n\nall."
        raw = running.post("/v1/completions", {"prompt": [1, 2], "max_tokens": 100})
        assert raw["choices"][0]["text"].endswith("Hello 🙂, you\n\nall.")
        for path, body in (("chat/completions", HI), ("responses", {"input": "Hi"}), ("completions", {"prompt": [1]})):
            status, headers, content = running.request(f"/v1/{path}", {**body, "stream": True})
            assert status == 200
            assert headers["content-type"].startswith("text/event-stream")
            assert content.endswith(b"\n\n")
            assert (b"data: [DONE]\n\n" in content) == (path != "responses")
        assert "gptoss_decoded_tokens_total" in running.request("/metrics")[2].decode()


def test_tokens_of_an_input_are_counted(idle: Running) -> None:
    counted = idle.post("/v1/responses/input_tokens", {"input": "Hi"})
    assert counted["input_tokens"] > 50


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:1", None, 200),
        ("localhost", None, 200),
        ("[::1]:80", None, 200),
        ("evil.example", None, 403),
        ("127.0.0.1.evil.example", None, 403),
        ("", None, 403),
        ("localhost", "https://evil.example", 403),
        ("localhost", "null", 403),
    ],
)
def test_only_local_programs_are_answered(idle: Running, host: str, origin: str | None, status: int) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    assert idle.request("/v1/models", headers=headers)[0] == status


def test_a_key_is_demanded_and_an_origin_can_be_allowed() -> None:
    access = Access("127.0.0.1", "secret", frozenset({"https://a.example"}))
    with Running(scripted(), ServerSettings(access=access)) as running:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer sécret"}, 401),
            ({"Authorization": "Bearer secret"}, 200),
        ):
            assert running.request("/v1/models", headers=headers)[0] == status
        assert running.request("/health")[0] == 200
        found = {"Authorization": "Bearer secret", "Origin": "https://a.example"}
        assert running.request("/v1/models", headers=found)[1]["access-control-allow-origin"] == "https://a.example"
        preflight = {"Origin": "https://b.example", "Access-Control-Request-Method": "POST"}
        assert running.request("/v1/models", method="OPTIONS", headers=preflight)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"seed": ' + b"9" * 5_000 + b"}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}], "temperature": NaN}',
        b'{"messages": [], "input": "Hi", "prompt": "Hi", "metadata": {"a": NaN}}',
        b'{"messages": [], "input": "Hi", "prompt": "Hi", "metadata": {"a": 1e999}}',
    ],
)
def test_rubbish_is_a_bad_request(idle: Running, body: bytes) -> None:
    for path in ("chat/completions", "responses", "completions"):
        status, _, content = idle.request(f"/v1/{path}", body)
        assert status == 400
        assert error_of(content)["type"] == "invalid_request_error"


def test_half_of_a_surrogate_pair_is_repeated_as_it_came() -> None:
    metadata = {"half": "\ud800"}
    with Running(scripted(ANSWER, ANSWER)) as running:
        assert running.post("/v1/responses", {"input": "Hi", "metadata": metadata})["metadata"] == metadata
        content = running.request("/v1/responses", {"input": "Hi", "metadata": metadata, "stream": True})[2]
        assert b'{"half": "\\ud800"}' in content


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(idle: Running) -> None:
    head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGEST_BODY_BYTES + 1}\r\n"
    for more in ("", "Expect: 100-continue\r\n"):
        with socket.create_connection(("127.0.0.1", idle.port), timeout=SECONDS) as connection:
            connection.sendall(f"{head}{more}\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [True, False])
def test_old_clients_and_bodies_in_chunks_are_read(version: str, stream: bool) -> None:
    body = json.dumps({**HI, "stream": stream}).encode()
    length = f"Content-Length: {len(body)}" if version == "1.0" else "Transfer-Encoding: chunked"
    parts = [body] if version == "1.0" else [b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body))]
    ending = b"" if version == "1.0" else b"0\r\n\r\n"
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n\r\n"
    with (
        Running(scripted(ANSWER)) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=SECONDS) as connection,
    ):
        connection.sendall(head.encode() + b"".join(parts) + ending)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b" 200 OK\r\n" in received
    assert b"Hello" in received


def test_requests_in_a_row_on_a_connection_are_answered_in_order() -> None:
    with (
        Running(scripted(ANSWER, "<|channel|>final<|message|>Second.<|return|>")) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=SECONDS) as connection,
    ):
        body = json.dumps(HI)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}\r\n{body}{head}Connection: close\r\n\r\n{body}".encode())
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert 0 < received.index(b"Hello") < received.index(b"Second.")


def test_tools_that_are_nested_deeply_are_no_server_error() -> None:
    deep = b'{"a":' * 900 + b"{}" + b"}" * 900
    body = b'{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f",'
    with Running(scripted(ANSWER)) as running:
        assert running.request("/v1/chat/completions", body + b'"parameters":' + deep + b"}}]}")[0] in (200, 400)


def test_a_body_that_is_too_large_is_refused(idle: Running) -> None:
    assert idle.request("/v1/chat/completions", b" " * (LARGEST_BODY_BYTES + 1))[0] == 413


def test_a_prompt_that_is_too_long_says_so_before_anything_is_read(idle: Running) -> None:
    for path, body in (("chat/completions", {"messages": [{"role": "user", "content": "a " * 9_000}]}),
                       ("responses", {"input": "a " * 9_000, "stream": True})):  # fmt: skip
        status, _, content = idle.request(f"/v1/{path}", body)
        assert status == 400
        error = error_of(content)
        assert error["code"] == "context_length_exceeded"
        assert "4096" in error["message"]


def test_unknown_paths_and_methods_have_the_shape_of_errors(idle: Running) -> None:
    for path, method, expected in (("/v1/nothing", "GET", 404), ("/v1/chat/completions", "GET", 405)):
        status, _, content = idle.request(path, method=method)
        assert status == expected
        error_of(content)


def test_before_the_model_is_loaded_everything_says_so() -> None:
    release = threading.Event()

    def open_later() -> OpenedModel:
        assert release.wait(SECONDS)
        return scripted()()

    running = Running(open_later)
    opening = threading.Thread(target=running.__enter__)
    opening.start()
    for path, body in (("/health", None), ("/v1/models", None), ("/v1/chat/completions", HI)):
        status, headers, content = running.request(path, body)
        assert (status, headers["retry-after"]) == (503, "2")
        assert error_of(content)["code"] == "model_loading"
    release.set()
    opening.join()
    assert running.request("/health")[0] == 200
    running.__exit__()


def test_a_client_that_waits_gets_comments(slow: tuple[Running, SlowGenerator]) -> None:
    running, generator = slow
    generator.prefill_seconds = 0.1
    with running.send("/v1/responses", {"input": "Hi", "stream": True}) as connection:
        received = b""
        while b"tokens read\n\n" not in received:
            received += connection.recv(4096)
    assert b"event: response.created" in received
    assert b": waiting" in received


def test_a_full_queue_is_status_429() -> None:
    generator = SlowGenerator()
    with Running(lambda: opened_with(generator, ChatRequest()), queue_limit=0) as running:
        connection = running.send("/v1/chat/completions", {**HI, "stream": True})
        wait_until(lambda: generator.busy)
        status, headers, content = running.request("/v1/chat/completions", HI)
        assert (status, headers["retry-after"]) == (429, "5")
        assert error_of(content)["type"] == "rate_limit_error"
        connection.close()


def test_fifty_clients_each_get_their_own_answer() -> None:
    answers = [f"<|channel|>final<|message|>Number {number}.<|return|>" for number in range(50)]
    with Running(scripted(*answers), queue_limit=50) as running, ThreadPoolExecutor(50) as clients:
        bodies = [{**HI, "seed": number} for number in range(50)]
        found = list(clients.map(lambda body: running.post("/v1/chat/completions", body), bodies))
    texts = {answer["choices"][0]["message"]["content"] for answer in found}
    assert texts == {f"Number {number}." for number in range(50)}
    assert len({answer["id"] for answer in found}) == 50


def test_when_the_server_ends_the_running_answer_ends_in_order() -> None:
    generator = SlowGenerator()
    with Running(lambda: opened_with(generator, ChatRequest())) as running:
        connection = running.send("/v1/chat/completions", {**HI, "stream": True})
        wait_until(lambda: generator.busy)
        running.worker.close()
        received = b""
        while part := connection.recv(65_536):
            received += part
            if b"[DONE]" in received:
                break
        assert b'"reason": "interrupted"' in received
        assert running.request("/v1/chat/completions", HI)[0] == 503
