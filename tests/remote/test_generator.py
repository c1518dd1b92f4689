"""Ids over HTTP: every server's answers, constraints by rejection, broken streams, and the user who does not wait."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gptoss_cli.errors import NetworkError, ResourceError, UsageError
from gptoss_cli.generation import Allowed, Banned, Forced, Restriction, Sampling, TokenGenerator
from gptoss_cli.harmony.events import AnswerDelta, EndReason, ReasoningDelta
from gptoss_cli.harmony.vocabulary import RETURN, STOP_IDS, partial_ids
from tests.remote.fake_servers import FAKES, FakeLlama, FakeServer, FakeSglang, FakeVllm, Faults, Json
from tests.remote.turns import (
    Continuing,
    Notices,
    generator_of,
    ids_of,
    scripted,
    session_of,
    wait_until,
)
from tests.scripted_generator import ScriptedGenerator

_TURN = (
    "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.<|return|>"
)
_MANY_BYTES = "<|channel|>final<|message|>é 🫠 👩‍👩‍👧 𠮷 日本語 done<|return|>"
_PROMPT = list(range(100, 110))

fakes = pytest.mark.parametrize("fake", FAKES)


class _Rules:
    """A token constraint with one rule for each draw, the last one for all others."""

    def __init__(self, *rules: Forced | Restriction | None) -> None:
        self._rules = list(rules)

    def next(self) -> Forced | Restriction | None:
        return self._rules.pop(0) if len(self._rules) > 1 else self._rules[0]


def _decoded(
    server: FakeServer, constraint: _Rules | None = None, *, tokens: int = 50, notice: Notices | None = None
) -> list[int]:
    generator = generator_of(server, notice=notice)
    for _ in generator.prefill(_PROMPT):
        pass
    decode = generator.decode(Sampling(1), stop_ids=STOP_IDS, banned_ids={7}, max_tokens=tokens, constraint=constraint)
    return list(decode)


@fakes
@pytest.mark.parametrize("text", [_TURN, _MANY_BYTES])
def test_every_id_arrives_once(fake: type[FakeServer], text: str) -> None:
    with fake(scripted(text)) as server:
        assert _decoded(server) == ids_of(text)


def test_sglang_may_send_each_id_only_once() -> None:
    with FakeSglang(scripted(_TURN), incremental=True) as server:
        assert _decoded(server) == ids_of(_TURN)


@fakes
def test_a_whole_turn_is_what_it_is_locally(fake: type[FakeServer]) -> None:
    local = session_of(scripted(_TURN)())
    list(local.turn("2 + 2?"))
    assert local.last_turn is not None
    with fake(Continuing(_TURN, after=len(local.last_turn.prompt))) as server:
        session = session_of(generator_of(server))
        events = list(session.turn("2 + 2?"))
    assert session.last_turn == local.last_turn
    assert "".join(each.text for each in events if isinstance(each, ReasoningDelta)) == "Let me see."
    assert "".join(each.text for each in events if isinstance(each, AnswerDelta)) == "It is 4."
    assert session.last_end is not None
    assert session.last_end.reason is EndReason.COMPLETE


@fakes
def test_the_stream_goes_on_after_forced_ids_that_the_server_draws_too(fake: type[FakeServer]) -> None:
    ids = ids_of(_TURN)
    rules = _Rules(None, None, Forced(tuple(ids[2:5])), None)
    with fake(Continuing(_TURN, after=len(_PROMPT))) as server:
        assert _decoded(server, rules) == ids
        assert len([path for path in server.seen.paths if path == server.path]) == 1


@fakes
def test_other_forced_ids_are_the_prompt_of_a_new_stream(fake: type[FakeServer]) -> None:
    ids = ids_of(_TURN)
    rules = _Rules(None, None, Forced((1, 2, 3)), None)
    with fake(Continuing(_TURN, after=len(_PROMPT))) as server:
        assert _decoded(server, rules) == [*ids[:2], 1, 2, 3, *ids[5:]]
        wait_until(lambda: server.seen.running == 0)


@fakes
@pytest.mark.parametrize("rule", [Allowed(frozenset({5, 9})), Banned(frozenset({1000, 7}))])
def test_a_refused_id_is_drawn_again_with_the_mask(fake: type[FakeServer], rule: Restriction) -> None:
    with fake(_obedient) as server:
        (first, *_) = _decoded(server, _Rules(rule, None), tokens=3)
        body = server.seen.bodies[-2]
    assert first == (5 if isinstance(rule, Allowed) else 1001)
    assert not body["stream"]


def test_after_eight_refusals_constrained_ids_are_asked_for_one_at_a_time() -> None:
    notice = Notices()
    with FakeVllm(_obedient) as server:
        assert _decoded(server, _Rules(Allowed(frozenset({5}))), tokens=30, notice=notice) == [5] * 30
        streams = [body for body in server.seen.bodies if body.get("stream")]
    assert len(streams) == 8
    assert len(notice.texts) == 1


def test_banned_ids_are_refused_without_a_constraint() -> None:
    with FakeVllm(lambda: _Obedient(wants=7)) as server:
        assert 7 not in _decoded(server, tokens=4)


@fakes
def test_the_server_is_asked_before_the_first_forced_ids(fake: type[FakeServer]) -> None:
    ids = ids_of(_TURN)
    with fake(Continuing(_TURN, after=len(_PROMPT))) as server:
        assert _decoded(server, _Rules(Forced(tuple(ids[:2])), None)) == ids
        assert len([path for path in server.seen.paths if path == server.path]) == 1
        generator = generator_of(server)
    list(generator.prefill(_PROMPT))
    rules = _Rules(Forced((1,)))
    decode = generator.decode(Sampling(1), stop_ids=STOP_IDS, banned_ids=(), max_tokens=None, constraint=rules)
    with pytest.raises(NetworkError, match="Nothing answers"):
        next(decode)


@fakes
def test_a_stream_that_breaks_goes_on_from_the_ids_so_far(fake: type[FakeServer]) -> None:
    notice = Notices()
    with fake(Continuing(_TURN, after=len(_PROMPT)), faults=Faults(dies_after=4)) as server:
        assert _decoded(server, notice=notice) == ids_of(_TURN)
    assert notice.texts == ["The answer broke off. The server is asked to go on from there."]


@fakes
def test_a_stream_that_breaks_twice_is_an_error_and_keeps_what_came(fake: type[FakeServer]) -> None:
    with fake(Continuing(_TURN, after=len(_PROMPT)), faults=Faults(dies_after=3, times=9)) as server:
        generator = generator_of(server)
        list(generator.prefill(_PROMPT))
        decode = generator.decode(Sampling(1), stop_ids=STOP_IDS, banned_ids=(), max_tokens=None)
        came: list[int] = []
        with pytest.raises(NetworkError, match="broke"):
            came.extend(decode)
    assert came
    assert came == ids_of(_TURN)[: len(came)]


@fakes
def test_an_error_in_the_stream_is_told_as_it_is(fake: type[FakeServer]) -> None:
    with fake(scripted(_TURN), faults=Faults(fails_after=3)) as server, pytest.raises(NetworkError, match="EngineDead"):
        _decoded(server)


@fakes
def test_closing_the_decode_frees_the_server_at_once(fake: type[FakeServer]) -> None:
    with fake(scripted(_TURN), faults=Faults(hangs_after=2)) as server:
        generator = generator_of(server)
        list(generator.prefill(_PROMPT))
        decode = generator.decode(Sampling(1), stop_ids=STOP_IDS, banned_ids=(), max_tokens=None)
        next(decode)
        decode.close()  # type: ignore[attr-defined]
        assert wait_until(lambda: server.seen.running == 0) < 0.5
        assert server.seen.aborts == 1


@fakes
def test_an_interrupted_wait_ends_at_once_and_frees_the_server(fake: type[FakeServer]) -> None:
    with fake(scripted(_TURN), faults=Faults(hangs_after=0)) as server:
        session = session_of(generator_of(server))
        timer = threading.Timer(0.2, session.stop)
        timer.start()
        began = time.monotonic()
        list(session.turn("Hello"))
        assert time.monotonic() - began < 1
        assert session.last_end is not None
        assert session.last_end.reason is EndReason.INTERRUPTED
        assert wait_until(lambda: server.seen.running == 0) < 0.5


@fakes
def test_a_long_prompt_is_read_ahead_and_the_wait_for_it_can_be_interrupted(fake: type[FakeServer]) -> None:
    with fake(scripted(_TURN), faults=Faults(hangs_after=0)) as server:
        generator = generator_of(server)
        steps = generator.prefill(list(range(1000)))
        assert next(steps) == (0, 1000)
        assert next(steps)[1] == 1000
        assert server.seen.running == 1
        steps.close()  # type: ignore[attr-defined]
        assert wait_until(lambda: server.seen.running == 0) < 0.5


def test_a_server_without_a_prefix_cache_reads_ahead_only_once() -> None:
    with FakeSglang(scripted(_TURN), faults=Faults(forgets=True)) as server:
        generator = generator_of(server)
        for turn in range(3):
            list(generator.prefill(list(range(1000 * turn, 1000 * turn + 500))))
            list(generator.decode(Sampling(1), stop_ids=STOP_IDS, banned_ids=(), max_tokens=None))
        counts = [body["sampling_params"]["max_new_tokens"] for body in server.seen.bodies[1:]]
    assert counts.count(1) == 1


@fakes
def test_only_new_ids_count_as_prefilled(fake: type[FakeServer]) -> None:
    with fake(scripted(_TURN)) as server:
        generator = generator_of(server)
        assert list(generator.prefill(_PROMPT))[-1] == (10, 10)
        drawn = list(generator.decode(Sampling(1), stop_ids=STOP_IDS, banned_ids=(), max_tokens=None))
        assert list(generator.prefill([*_PROMPT, *drawn, 1, 2]))[-1] == (2, 2)


def test_a_full_context_is_refused_before_anything_is_sent() -> None:
    with FakeVllm(scripted(_TURN, context_tokens=64)) as server:
        generator = generator_of(server)
        with pytest.raises(ResourceError, match="at least 65 tokens, and the context holds 64"):
            next(generator.prefill(list(range(64))))
        assert not any(path == server.path for path in server.seen.paths)


@fakes
def test_a_context_that_became_smaller_is_exit_6_with_both_numbers(fake: type[FakeServer]) -> None:
    with fake(scripted(_TURN)) as server:
        generator = generator_of(server)
        server.context_tokens = 12
        list(generator.prefill(list(range(20))))
        decode = generator.decode(Sampling(1), stop_ids=STOP_IDS, banned_ids=(), max_tokens=None)
        with pytest.raises(ResourceError, match=r"(?s)(?=.*12)(?=.*2[01]).*"):
            next(decode)


@fakes
def test_the_decode_ends_when_the_context_is_full(fake: type[FakeServer]) -> None:
    with fake(scripted(_TURN, context_tokens=16)) as server:
        assert _decoded(server) == ids_of(_TURN)[:6]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_and_that_is_said_once(status: int) -> None:
    notice = Notices()
    with FakeVllm(scripted(_TURN), faults=Faults(busy_status=status, times=2)) as server:
        assert _decoded(server, notice=notice) == ids_of(_TURN)
    assert notice.texts == ["The server is busy. It is asked again, for up to a minute."]


def test_a_wait_of_more_than_a_minute_is_an_error() -> None:
    with (
        FakeVllm(scripted(_TURN), faults=Faults(busy_status=429, retry_after="61")) as server,
        pytest.raises(NetworkError, match="is busy: queue is full"),
    ):
        _decoded(server)


def test_a_server_that_sends_no_ids_is_named_as_too_old() -> None:
    with FakeVllm(scripted(_TURN), faults=Faults(too_old=True)) as server, pytest.raises(NetworkError, match=r"0\.11"):
        _decoded(server)


@pytest.mark.parametrize(
    "line",
    [
        "data: {",
        "data: []",
        "data: {}",
        'data: {"choices": 3}',
        'data: {"choices": [3]}',
        'data: {"choices": [{"token_ids": ["a"]}]}',
        'data: {"choices": [{"token_ids": [201088]}]}',
        'data: {"choices": [{"token_ids": [-1]}]}',
        'data: {"choices": [], "usage": "none"}',
        "data: " + "[" * 100_000,
    ],
)
def test_rubbish_in_a_stream_is_an_error_of_the_network(line: str) -> None:
    class Rubbish(FakeVllm):
        def pieces(self, body: Json, ids: Iterator[int], finish: Callable[[], str]) -> Iterator[str]:
            yield line

    with Rubbish(scripted(_TURN)) as server, pytest.raises(NetworkError):
        _decoded(server)


def test_every_request_has_its_own_seed_and_a_length() -> None:
    with FakeVllm(_obedient) as server:
        _decoded(server, _Rules(Allowed(frozenset({5}))), tokens=5)
        seeds = [body["seed"] for body in server.seen.bodies if "seed" in body]
    assert len(seeds) == len(set(seeds)) == 10
    assert all(body["max_tokens"] for body in server.seen.bodies if "seed" in body)


def test_probabilities_are_refused() -> None:
    with FakeVllm(scripted(_TURN)) as server:
        generator = generator_of(server)
        decode = generator.decode(Sampling(1), stop_ids=(), banned_ids=(), max_tokens=1, observer=lambda info: None)
        with pytest.raises(UsageError, match="probabilities"):
            next(decode)


def test_ids_within_a_character_are_found_by_their_text() -> None:
    ids = [*ids_of("ok "), 9552, 104, 254, 64, RETURN]
    with FakeLlama(Continuing(ids, after=len(_PROMPT))) as server:
        assert _decoded(server) == ids
        assert all(body.get("stream") is not False for body in server.seen.bodies)


@pytest.mark.parametrize("rest", [[64, RETURN], [RETURN], []])
def test_an_id_that_is_not_sent_is_drawn_again_from_those_that_it_may_be(rest: list[int]) -> None:
    ids = [*ids_of("ok "), 169, *rest]  # 169 alone begins a character, and is no text
    with FakeLlama(Continuing(ids, after=len(_PROMPT))) as server:
        assert _decoded(server, tokens=len(ids)) == ids
        (body,) = (body for body in server.seen.bodies if body.get("stream") is False)
    assert {id_ for id_, _ in body["logit_bias"]} == partial_ids()
    assert 169 in partial_ids()
    assert 64 not in partial_ids()


def test_characters_that_end_lines_elsewhere_do_not_end_an_event() -> None:
    text = "<|channel|>final<|message|>a\u2028b\u2029c\x85d\x0be\x0cf\x1cg<|return|>"
    with FakeVllm(scripted(text)) as server:
        assert _decoded(server) == ids_of(text)


class _Obedient(ScriptedGenerator):
    """A model that says one id wherever it may, else the smallest that is allowed or the next that is not banned."""

    def __init__(self, wants: int = 1000) -> None:
        super().__init__([], context_tokens=4096)
        self._wants = wants

    def decode(self, *arguments: Any, **options: Any) -> Iterator[int]:
        """See TokenGenerator.decode."""
        constraint, banned = options["constraint"], options["banned_ids"]
        rule = constraint.next() if constraint else None
        token = self._wants
        if isinstance(rule, Allowed) and token not in rule.ids:
            token = min(rule.ids)
        while token in banned:
            token += 1
        yield from [token] * options["max_tokens"]


def _obedient() -> TokenGenerator:
    return _Obedient()
