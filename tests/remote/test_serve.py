"""`--server` against `gptoss serve`: the same ids as without both of them. Needs the extra `serve`."""

import pytest

from gptoss_cli.chat.opening import open_model
from gptoss_cli.chat.remote_opening import connect
from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.generation import TokenGenerator
from gptoss_cli.remote.request import ServerRequest
from tests.remote.greedy import greedy_ids, prompts
from tests.remote.turns import Notices

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
running = pytest.importorskip("tests.server.running")


def _open() -> OpenedModel:
    return open_model(ChatRequest(model="demo", kv_limit_bytes=0), progress=lambda text: None, notice=Notices())


def _ids_are_equal(number: int, max_tokens: int) -> None:
    local: TokenGenerator = _open().session.generator
    with running.Running(_open) as server:
        found, remote = connect(ServerRequest(f"http://127.0.0.1:{server.port}"), None, Notices())
        assert (found.name, found.model) == ("gptoss serve", "demo")
        for index, prompt in enumerate(prompts(number)):
            assert greedy_ids(remote, prompt, index, max_tokens) == greedy_ids(local, prompt, index, max_tokens), prompt


def test_greedy_ids_through_both_are_those_of_the_engine() -> None:
    _ids_are_equal(2, 16)


@pytest.mark.slow
def test_greedy_ids_of_200_prompts_through_both_are_those_of_the_engine() -> None:
    _ids_are_equal(200, 48)
