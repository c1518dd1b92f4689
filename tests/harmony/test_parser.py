"""The ids of a turn become events: no input raises, and no text is lost."""

import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_harmony import StreamableParser

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Delta,
    Event,
    Markup,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Role,
)
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.vocabulary import END, END_OF_TEXT, FINAL, MESSAGE, START, VOCABULARY_SIZE, load_encoding
from tests.harmony.malformed import ANALYSIS, FIRST_FINAL, GOOD_TURNS, LOOK, MALFORMED, THEN_FINAL, Malformed, ids_of


def parse(ids: Iterable[int]) -> tuple[TurnParser, list[Event]]:
    parser = TurnParser()
    events = [event for token in ids for event in parser.feed(token)]
    return parser, events + parser.close()


def shown(events: Iterable[Event], kind: type[AnswerDelta | ReasoningDelta | PreambleDelta | CallDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def decoded(ids: Iterable[int]) -> str:
    return load_encoding().decode([token if 0 <= token < VOCABULARY_SIZE else VOCABULARY_SIZE for token in ids])


def assert_consistent(parser: TurnParser, events: list[Event], ids: Iterable[int]) -> None:
    """Every message ends once, its deltas are its text, and deltas and markup are the decoded turn."""
    assert "".join(event.text for event in events if isinstance(event, Delta | Markup)) == decoded(ids)
    delivered = ""
    ends = []
    for event in events:
        if isinstance(event, Markup):
            assert event.text
        elif isinstance(event, MessageEnd):
            assert event.message.text == delivered
            ends.append(event.message)
            delivered = ""
        else:
            assert isinstance(event, AnswerDelta | ReasoningDelta | PreambleDelta | CallDelta)
            assert event.text
            delivered += event.text
    assert delivered == ""
    assert tuple(ends) == parser.messages


def test_a_turn_of_reasoning_and_answer() -> None:
    parser, events = parse(ids_of(f"{ANALYSIS}Short.<|end|>{THEN_FINAL}Yes.<|return|>"))
    thought = Message(Role.ASSISTANT, "Short.", channel="analysis")
    answer = Message(Role.ASSISTANT, "Yes.", channel="final")
    assert events == [
        Markup(ANALYSIS),
        ReasoningDelta("Short"),
        ReasoningDelta("."),
        MessageEnd(thought),
        Markup("<|end|>"),
        Markup("<|start|>"),
        Markup("assistant<|channel|>final<|message|>"),
        AnswerDelta("Yes"),
        AnswerDelta("."),
        MessageEnd(answer),
        Markup("<|return|>"),
    ]
    assert parser.messages == (thought, answer)


def test_a_call_has_its_recipient() -> None:
    parser, events = parse(ids_of(GOOD_TURNS["call"]))
    assert shown(events, PreambleDelta) == "One moment."
    assert next(event.recipient for event in events if isinstance(event, CallDelta)) == "functions.look"
    assert parser.messages[-1] == Message(
        Role.ASSISTANT,
        '{"a":1}',
        channel="commentary",
        recipient="functions.look",
        content_type="<|constrain|>json",
    )


@pytest.mark.parametrize("header", [" to=python<|channel|>analysis code", "<|channel|>analysis to=python code"])
def test_a_call_on_the_analysis_channel_is_a_call(header: str) -> None:
    _, events = parse(ids_of(f"{header}<|message|>1+1<|call|>"))
    assert shown(events, CallDelta) == "1+1"
    assert shown(events, ReasoningDelta) == ""


def test_a_character_of_several_tokens_arrives_whole() -> None:
    ids = ids_of("🫨")
    assert len(ids) > 1
    _, events = parse([*ids_of(FIRST_FINAL), *ids, *ids_of("<|return|>")])
    assert events[1] == AnswerDelta("🫨")


def test_bytes_pending_at_the_end_of_a_message_are_delivered() -> None:
    _, events = parse([*ids_of(f"{FIRST_FINAL}so"), *ids_of("🫨")[:-1], *ids_of("<|return|>")])
    assert shown(events, AnswerDelta) == "so\ufffd"


def test_text_after_a_bad_byte_is_delivered() -> None:
    ids = [*ids_of("🫨")[:1], *ids_of("ab cd ef")]
    _, events = parse([*ids_of(FIRST_FINAL), *ids, *ids_of("<|return|>")])
    assert shown(events, AnswerDelta) == "\ufffdab cd ef"


def test_every_token_is_reasoning_or_answer() -> None:
    reasoning = f"{ANALYSIS}Short.<|end|>"
    answer = f"{THEN_FINAL}Yes.<|return|>"
    parser, _ = parse(ids_of(reasoning + answer))
    assert parser.reasoning_tokens == len(ids_of(reasoning))
    assert parser.answer_tokens == len(ids_of(answer))


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
def test_malformed_turns_lose_no_text(case: Malformed) -> None:
    parser, events = parse(case.ids)
    assert shown(events, AnswerDelta) == case.answer
    assert shown(events, ReasoningDelta) == case.reasoning
    assert shown(events, PreambleDelta) + shown(events, CallDelta) == case.other
    assert_consistent(parser, events, case.ids)


def test_a_header_without_an_end_becomes_content_after_its_limit() -> None:
    parser = TurnParser()
    story = "<|channel|>final" + " once upon a time" * 100
    early = [event for token in ids_of(story)[:70] for event in parser.feed(token)]
    assert shown(early, AnswerDelta).startswith(" once upon a time")


@pytest.mark.parametrize("text", ["Sorry", "I am sorry, but I can't"])
def test_text_in_a_header_that_is_cut_off_is_delivered(text: str) -> None:
    parser, events = parse(ids_of(text))
    assert shown(events, AnswerDelta) == text
    assert not parser.messages[0].complete


@pytest.mark.parametrize("text", ["<|channel|>", "<|channel|>comment", "<|channel|>final", " to=functions"])
def test_a_header_that_is_cut_off_is_markup(text: str) -> None:
    parser, events = parse(ids_of(text))
    assert events == [Markup(text)]
    assert parser.messages == ()


@pytest.mark.parametrize("turn", GOOD_TURNS.values(), ids=GOOD_TURNS)
def test_a_turn_cut_off_anywhere_keeps_its_text(turn: str) -> None:
    ids = ids_of(turn)
    whole = "".join(message.text for message in parse(ids)[0].messages)
    for length in range(len(ids)):
        parser, events = parse(ids[:length])
        assert_consistent(parser, events, ids[:length])
        kept = "".join(message.text for message in parser.messages)
        assert whole.startswith(kept.removesuffix("\ufffd"))
        assert all(message.complete for message in parser.messages[:-1])


def test_a_message_that_is_cut_off_is_not_complete() -> None:
    parser, _ = parse(ids_of(f"{ANALYSIS}Hm.<|end|>{THEN_FINAL}Yes, bu"))
    assert [(message.text, message.complete) for message in parser.messages] == [("Hm.", True), ("Yes, bu", False)]


def test_closing_twice_delivers_nothing_twice() -> None:
    parser, _ = parse(ids_of(f"{FIRST_FINAL}Yes"))
    assert parser.close() == []
    assert len(parser.messages) == 1


def test_the_answer_can_be_open_from_the_start() -> None:
    parser = TurnParser(answering=True)
    assert parser.open_message == Message(Role.ASSISTANT, "", channel="final")
    ids = ids_of("Yes.<|return|>")
    events = [event for token in ids for event in parser.feed(token)]
    assert shown(events, AnswerDelta) == "Yes."
    assert_consistent(parser, events, ids)
    assert parser.answer_tokens == len(ids)


format_ids = st.integers(199_998, VOCABULARY_SIZE)
broken = st.text("🫨🙂äß漢", min_size=1, max_size=3).flatmap(
    lambda text: st.integers(1, 3).map(lambda cut: load_encoding().encode(text)[:-cut])
)
pieces = st.one_of(
    st.text(max_size=8).map(lambda text: load_encoding().encode(text, disallowed_special=())),
    st.sampled_from([MESSAGE, START, END, END_OF_TEXT, 200_005, 200_002, 200_012, 200_003, 173_781, *FINAL]).map(
        lambda token: [token]
    ),
    st.sampled_from([ANALYSIS, FIRST_FINAL, THEN_FINAL, LOOK, "<|end|>"]).map(ids_of),
    broken,
    st.integers(0, 199_997).map(lambda token: [token]),
    format_ids.map(lambda token: [token]),
    st.integers(0, 255).map(lambda count: [220] * count),
    st.integers(1, 3).map(lambda count: ids_of("<|channel|>" + "analysis " * 64 * count)),
)
streams = st.lists(pieces, max_size=30).map(lambda parts: [token for part in parts for token in part])


class CheapParser:
    """The parser of openai_harmony without the attributes that take longer with every token."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._real = StreamableParser(*arguments, **options)
        self.process = self._real.process

    @property
    def last_content_delta(self) -> str | None:
        return self._real.last_content_delta

    @property
    def messages(self) -> list[Any]:
        return self._real.messages


def check_stream(ids: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gptoss_cli.harmony.parser.StreamableParser", CheapParser)
        parser, events = parse(ids)
    assert_consistent(parser, events, ids)
    assert parser.reasoning_tokens + parser.answer_tokens == len(ids)


@settings(max_examples=300, deadline=None)
@given(streams)
def test_no_text_of_a_random_stream_is_lost(ids: list[int]) -> None:
    check_stream(ids)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(streams)
def test_no_text_of_a_hundred_thousand_random_streams_is_lost(ids: list[int]) -> None:
    check_stream(ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 199_997), max_size=40))
def test_content_is_what_the_ids_decode_to(ids: list[int]) -> None:
    _, events = parse([MESSAGE, *ids, END])
    assert shown(events, AnswerDelta) == load_encoding().decode(ids)


def test_a_header_holds_back_no_more_than_its_limit() -> None:
    parser = TurnParser()
    most = 0
    for token in ids_of("<|channel|>" + "commentary to=" * 5_000):
        parser.feed(token)
        most = max(most, parser.header_tokens)
    assert most < 100


def test_the_time_per_token_does_not_grow_with_the_message() -> None:
    parser = TurnParser()
    for token in ids_of(FIRST_FINAL):
        parser.feed(token)
    ids = ids_of("All work and no play. " * 500)
    seconds = []
    for _ in range(8):
        began = time.process_time()
        for token in ids:
            parser.feed(token)
        seconds.append(time.process_time() - began)
    assert min(seconds[4:]) < 3 * min(seconds[:4])
    assert min(seconds) / len(ids) < 100e-6
