"""The real server of llama.cpp, with a tiny random model and the vocabulary of gpt-oss. Needs xllamacpp and gguf."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptoss_cli.chat.remote_opening import connect
from gptoss_cli.generation import Allowed, Restriction, Sampling
from gptoss_cli.harmony import vocabulary
from gptoss_cli.harmony.events import AnswerDelta, Channel, Cut, EndReason, ReasoningDelta
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, RESERVED_IDS, STOP_IDS, load_encoding
from gptoss_cli.remote.dialects import Continuation, Llama
from gptoss_cli.remote.draws import derived_seed
from gptoss_cli.remote.generator import RemoteGenerator
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.settings import ReasoningEffort, ServerApi
from tests.remote.tiny_gguf import CONTEXT_TOKENS, write_tiny_gguf
from tests.remote.turns import ANALYSIS, PERSON_SCHEMA, Notices, session_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("gguf") is None,
        reason="needs: pip install xllamacpp gguf",
    ),
]
_CHANNELS = (Channel.ANALYSIS, Channel.COMMENTARY, Channel.FINAL)
_PROGRAM = Path(__file__).with_name("llama_program.py")


class _Server:
    """The address of the server, and questions to it that gptoss does not ask."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=60) as response:
            return json.load(response)

    def generator(self) -> RemoteGenerator:
        return connect(ServerRequest(self.url), None, Notices())[1]

    @property
    def is_busy(self) -> bool:
        return any(slot["is_processing"] for slot in self.ask("/slots"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(pytest.importorskip("gguf"), file)
    program = subprocess.Popen(
        [sys.executable, str(_PROGRAM), str(file), str(CONTEXT_TOKENS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert program.stdout is not None
    lines = iter(program.stdout.readline, "")
    yield _Server(next(line.strip() for line in lines if line.startswith("http")))
    program.communicate("", timeout=60)


def test_the_server_is_found_out(server: _Server) -> None:
    found = connect(ServerRequest(server.url), None, Notices())[0]
    assert (found.api, found.model, found.context_tokens) == (ServerApi.LLAMA, "tiny.gguf", CONTEXT_TOKENS)


def test_fifty_turns_at_temperature_1(server: _Server) -> None:
    generator = server.generator()
    efforts = list(ReasoningEffort)
    reasons: Counter[EndReason] = Counter()
    tokens = 0
    for index in range(50):
        session = session_of(
            generator, effort=efforts[index % 4], seed=index, max_tokens=80, think_budget=(None, 0, 25)[index % 3]
        )
        events = list(session.turn(f"Sag etwas über Ünïcödé 🫠 Nr. {index}"))
        assert session.last_end is not None
        assert session.last_turn is not None
        ids = session.last_turn.ids
        assert not RESERVED_IDS.intersection(ids)
        # Nothing is lost: what is shown is what these ids say.
        assert load_encoding().decode(ids).replace("\ufffd", "") == session.last_raw.replace("\ufffd", "")
        assert all(message.channel in _CHANNELS for message in session.conversation.messages[1:])
        assert len(list(events)) > 1
        reasons[session.last_end.reason] += 1
        tokens += len(ids)
    print(f"{tokens} tokens, {generator.requests} requests, {dict(reasons)}")
    assert reasons.keys() <= {EndReason.COMPLETE, EndReason.TOKEN_LIMIT}
    assert tokens > 2000


def test_no_id_of_a_stream_is_lost_within_a_character(server: _Server) -> None:
    generator, dialect, holes = server.generator(), Llama(vocabulary), 0
    for seed in range(60):
        list(generator.prefill(ANALYSIS))
        before = generator.requests
        streamed = list(generator.decode(Sampling(seed), stop_ids=STOP_IDS, banned_ids=(), max_tokens=60))
        holes += generator.requests - before > 1
        request = Continuation(
            ids=ANALYSIS,
            sampling=Sampling(seed),
            seed=derived_seed(seed, len(ANALYSIS), 1),
            max_tokens=60,
            stop_ids=STOP_IDS,
        )
        whole = server.ask("/completion", dialect.body(request, stream=False))["tokens"]
        # After a hole there is a new stream with another seed.
        assert streamed == whole[: len(streamed)] or generator.requests - before > 1
        assert streamed[:1] == whole[:1]
        assert len(streamed) == 60 or streamed[-1] in STOP_IDS
    print(f"{holes} of 60 streams had ids within a character that had to be drawn again")
    assert holes > 0


def test_text_of_many_bytes_is_read_by_its_only_spelling(server: _Server) -> None:
    generator = server.generator()
    text = load_encoding().encode(" 🫠 é 𠮷 ")
    list(generator.prefill(ANALYSIS))
    constraint = _Each([Allowed(frozenset({id_})) for id_ in text])
    drawn = list(
        generator.decode(Sampling(3), stop_ids=STOP_IDS, banned_ids=(), max_tokens=len(text), constraint=constraint)
    )
    assert drawn == text


class _Each:
    """A token constraint with a rule for each id."""

    def __init__(self, rules: list[Restriction]) -> None:
        self._rules = iter(rules)

    def next(self) -> Restriction:
        return next(self._rules)


def test_answer_now_and_the_budget_cut_the_reasoning(server: _Server) -> None:
    session = session_of(server.generator(), seed=3, max_tokens=200)
    reasoned = 0
    for event in session.turn("Hello"):
        reasoned += isinstance(event, ReasoningDelta)
        if reasoned == 5:
            session.answer_now()
    assert session.last_end is not None
    assert [cut.cut for cut in session.last_end.cuts][:1] in ([Cut.ANSWER_NOW], [])
    session = session_of(server.generator(), seed=4, max_tokens=200, think_budget=20)
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
    assert session.last_end is not None
    assert session.last_end.reason is EndReason.COMPLETE


def test_an_abort_frees_the_slot(server: _Server) -> None:
    generator = server.generator()
    list(generator.prefill(ANALYSIS))
    decode = generator.decode(Sampling(3), stop_ids=STOP_IDS, banned_ids=(), max_tokens=3000)
    for _ in range(5):
        next(decode)
    assert server.is_busy
    decode.close()  # type: ignore[attr-defined]
    seconds = wait_until(lambda: not server.is_busy)
    print(f"the slot was free after {seconds:.3f} s")
    assert seconds < 1.5


def test_a_restart_reads_almost_nothing_again(server: _Server) -> None:
    generator, randomness = server.generator(), random.Random(4)
    prompt = [*ANALYSIS, *(randomness.randrange(FIRST_SPECIAL_ID) for _ in range(1500))]
    list(generator.prefill(prompt))
    drawn = list(generator.decode(Sampling(3), stop_ids=STOP_IDS, banned_ids=(), max_tokens=20))
    request = Continuation(
        ids=[*prompt, *drawn, 1], sampling=Sampling(3), seed=1, max_tokens=1, stop_ids=STOP_IDS, banned=[5]
    )
    timings = server.ask("/completion", Llama(vocabulary).body(request, stream=False))["timings"]
    print(f"{timings['cache_n']} tokens from the cache, {timings['prompt_n']} read")
    assert timings["prompt_n"] <= 64
