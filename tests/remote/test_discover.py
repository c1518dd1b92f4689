"""First contact: what answers, with which model and context, and what cannot be used is named."""

import socket
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from gptoss_cli.chat.remote_opening import connect
from gptoss_cli.errors import GptossError, Hint, NetworkError, UsageError
from gptoss_cli.remote.connection import Connection
from gptoss_cli.remote.discover import Server, find_server
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.settings import ServerApi
from tests.remote.fake_servers import FAKES, FakeLlama, FakeServer, FakeSglang, FakeVllm, Faults, Json
from tests.remote.turns import Notices, scripted

_VLLM_MODEL = {"owned_by": "vllm", "max_model_len": 4096}


def _found(server: FakeServer, **request: Any) -> Server:
    return find_server(Connection(ServerRequest(server.url, **request)))


def _refusal(server: FakeServer, kind: type[GptossError] = UsageError, **request: Any) -> GptossError:
    with pytest.raises(kind) as caught:
        _found(server, **request)
    return caught.value


class _TextServer(FakeServer):
    """A server that takes no ids, with the answers of its addresses."""

    owner = "library"
    path = "/none"
    default_tokens = 0
    answers: ClassVar[Json] = {}

    def get(self, path: str) -> Json | None:
        return self.answers.get(path)


class _Ollama(_TextServer):
    answers: ClassVar[Json] = {
        "/v1/models": {"data": [{"id": "gpt-oss:20b", "owned_by": "library"}, {"id": "qwen3", "owned_by": "library"}]},
        "/api/version": {"version": "0.13.1"},
    }


class _LmStudio(_TextServer):
    answers: ClassVar[Json] = {
        "/v1/models": {"data": [{"id": "openai/gpt-oss-20b", "owned_by": "organization_owner"}]},
        "/api/v0/models": {"data": []},
    }


class _Tgi(_TextServer):
    answers: ClassVar[Json] = {"/info": {"model_id": "openai/gpt-oss-20b"}}


@pytest.mark.parametrize(
    ("fake", "api", "summary"),
    [
        (FakeVllm, ServerApi.VLLM, "vLLM 0.32.0 at "),
        (FakeSglang, ServerApi.SGLANG, "SGLang at "),
        (FakeLlama, ServerApi.LLAMA, "llama-server b11434-abc at "),
    ],
)
def test_a_server_is_found_out_in_three_requests(fake: type[FakeServer], api: ServerApi, summary: str) -> None:
    with fake(scripted("")) as server:
        found = _found(server)
        assert (found.api, found.model, found.context_tokens) == (api, "gpt-oss-20b", 4096)
        assert found.summary == f"{summary}127.0.0.1:{server.port}"
        assert len(server.seen.paths) == 3


@pytest.mark.parametrize(("fake", "name"), [(_Ollama, "ollama"), (_LmStudio, "LM Studio"), (_Tgi, "TGI")])
def test_a_server_that_takes_only_text_is_named_with_what_to_use(fake: type[FakeServer], name: str) -> None:
    with fake(scripted("")) as server:
        refusal = _refusal(server)
    assert str(refusal) == f"{name} at {server.url} cannot take token ids"
    assert refusal.hints == (Hint.TOKEN_SERVER,)


def test_an_unknown_server_may_be_named_by_the_user() -> None:
    with FakeVllm(scripted(""), models=[{"id": "m", "owned_by": "me", "max_model_len": 9}]) as server:
        assert Hint.SERVER_API in _refusal(server).hints
        assert _found(server, api=ServerApi.VLLM).context_tokens == 9


def test_a_model_with_another_vocabulary_is_refused() -> None:
    models = [{"id": "/models/Qwen3.gguf", **_VLLM_MODEL}]
    with FakeVllm(scripted(""), models=models, faults=Faults(other_vocabulary=True)) as server:
        assert str(_refusal(server)) == f"{server.url} serves Qwen3.gguf, which is not a gpt-oss"


def test_one_of_several_models_must_be_chosen() -> None:
    models = [{"id": "a", **_VLLM_MODEL}, {"id": "b", **_VLLM_MODEL}]
    with FakeVllm(scripted(""), models=models) as server:
        assert str(_refusal(server)) == f"{server.url} has several models: a, b"
        assert _found(server, model="b").model == "b"
        assert str(_refusal(server, model="c")) == f"{server.url} has no model c, but a, b"


@pytest.mark.parametrize(
    ("faults", "message", "hint"),
    [
        (Faults(key="right"), "{url} wants a key", Hint.SERVER_KEY),
        (Faults(html=True), "{url} answers with a web page: it is no server of a model", Hint.CHECK_SERVER),
        (
            Faults(redirect="http://elsewhere.example"),
            "{url} redirects to http://elsewhere.example, which was not asked for",
            Hint.CHECK_SERVER,
        ),
    ],
)
def test_other_answers_are_errors_of_the_network(faults: Faults, message: str, hint: Hint) -> None:
    with FakeVllm(scripted(""), faults=faults) as server:
        refusal = _refusal(server, NetworkError)
        assert str(refusal) == message.format(url=server.url)
    assert refusal.hints == (hint,)


def test_nothing_answers() -> None:
    with FakeVllm(scripted("")) as server:
        pass
    refusal = _refusal(server, NetworkError)
    assert str(refusal) == f"Nothing answers at {server.url}"
    assert refusal.exit_status == 5


@pytest.mark.parametrize(
    "answer",
    [
        lambda: {"data": "none"},
        lambda: {"data": [1, 2]},
        lambda: {"data": [{"owned_by": 3}]},
        lambda: {"data": [{"owned_by": "vllm", "max_model_len": "many"}]},
        dict,
    ],
)
def test_rubbish_is_refused(answer: Callable[[], Json]) -> None:
    class Rubbish(FakeVllm):
        def get(self, path: str) -> Json | None:
            return answer()

    with Rubbish(scripted("")) as server, pytest.raises(GptossError):
        _found(server)


@pytest.mark.parametrize("fake", FAKES)
def test_the_key_goes_with_every_request(fake: type[FakeServer]) -> None:
    with fake(scripted(""), faults=Faults(key="right")) as server:
        _found(server, key="right")
        assert set(server.seen.keys) == {"Bearer right"}


def test_a_wrong_key_is_not_repeated_even_if_the_server_does() -> None:
    with FakeVllm(scripted(""), faults=Faults(key="right")) as server:
        refusal = _refusal(server, NetworkError, key="sk-wrong-secret")
    assert str(refusal) == f"{server.url} does not accept the key"


def test_a_redirection_never_carries_the_key() -> None:
    with FakeVllm(scripted("")) as elsewhere, FakeVllm(scripted(""), faults=Faults(redirect=elsewhere.url)) as server:
        _refusal(server, NetworkError, key="secret")
        assert elsewhere.seen.paths == []


@pytest.mark.parametrize(("name", "value"), [("https_proxy", "socks://me:pw@a"), ("SSL_CERT_FILE", __file__)])
def test_a_wrong_environment_is_exit_2_without_a_password(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        Connection(ServerRequest("https://gpu.example"))
    assert "pw" not in str(caught.value)
    Connection(ServerRequest("http://localhost"))


def test_a_conversation_that_anybody_on_the_way_can_read_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_local, key, said in (
        (True, "k", []),
        (False, None, ["The conversation goes to {} without encryption."]),
        (False, "k", ["The conversation and the key go to {} without encryption."]),
    ):
        with FakeVllm(scripted("")) as server:
            monkeypatch.setattr(ServerRequest, "is_local", is_local)
            notice, request = Notices(), ServerRequest(server.url, key=key)
            connect(request, None, notice)
        assert notice.texts == [text.format(request.address) for text in said]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_that_nobody_knows_is_named_and_nothing_else_is_said(scheme: str, key: str | None) -> None:
    notice = Notices()
    with pytest.raises(NetworkError, match=r"^The host name gpu\.invalid is unknown$"):
        connect(ServerRequest(f"{scheme}://gpu.invalid:9", key=key), None, notice)
    assert notice.texts == []


def test_https_to_a_server_without_it_says_so() -> None:
    with FakeVllm(scripted("")) as server, pytest.raises(NetworkError) as caught:
        find_server(Connection(ServerRequest(server.url.replace("http://", "https://"))))
    assert str(caught.value) == f"{server.url.partition('://')[2]} does not speak https, it seems. Try {server.url}"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"]
)
def test_http_to_a_server_that_speaks_https_says_so(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with pytest.raises(NetworkError) as caught:
            find_server(Connection(ServerRequest(url)))
        server.join()
    assert url in str(caught.value)
    assert f"rite {url.replace('http:', 'https:')}" in str(caught.value)
