"""A turn's ids become events; whatever comes, nothing is raised and nothing is lost."""

import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Event,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Role,
)
from gptoss_cli.harmony.parser import TurnParser
from gptoss_cli.harmony.vocabulary import END, END_OF_TEXT, FINAL, MESSAGE, START, VOCABULARY_SIZE, load_encoding

FIRST_FINAL = "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
THEN_FINAL = "<|start|>assistant<|channel|>final<|message|>"
GOOD_TURNS = [
    f"{ANALYSIS}The user greets.<|end|>{THEN_FINAL}Hello 🙂 there!<|return|>",
    f"{ANALYSIS}Look.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
    '<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"a":1}<|call|>',
    "<|message|>I cannot help with that.<|return|>",
]


def ids_of(text: str) -> list[int]:
    return load_encoding().encode(text, allowed_special="all")


def parse(ids: Iterable[int]) -> tuple[TurnParser, list[Event]]:
    parser = TurnParser()
    events = [event for token in ids for event in parser.feed(token)]
    return parser, events + parser.close()


def shown(events: Iterable[Event], kind: type[AnswerDelta | ReasoningDelta | PreambleDelta | CallDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def assert_consistent(parser: TurnParser, events: list[Event]) -> None:
    """Every message is announced once, and its deltas are its text."""
    delivered = ""
    ends = []
    for event in events:
        if isinstance(event, MessageEnd):
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
        ReasoningDelta("Short"),
        ReasoningDelta("."),
        MessageEnd(thought),
        AnswerDelta("Yes"),
        AnswerDelta("."),
        MessageEnd(answer),
    ]
    assert parser.messages == (thought, answer)


def test_a_call_says_whom_it_is_for() -> None:
    parser, events = parse(ids_of(GOOD_TURNS[1]))
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
    assert events[0] == AnswerDelta("🫨")


def test_bytes_held_back_at_a_message_end_are_delivered() -> None:
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


MALFORMED = {
    "text after the end without a start": (f"{ANALYSIS}Hm.<|end|>Sure thing.<|return|>", "Sure thing.", "Hm."),
    "role after the end without a start": (f"{ANALYSIS}Hm.<|end|>assistant{FIRST_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "channel after the end without a start": (f"{ANALYSIS}Hm.<|end|>{FIRST_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "message after the end without a header": (f"{ANALYSIS}Hm.<|end|><|message|>Yes.<|return|>", "Yes.", "Hm."),
    "a second return": (f"{FIRST_FINAL}Yes.<|return|><|return|>", "Yes.", ""),
    "a second end": (f"{ANALYSIS}Hm.<|end|><|end|>{THEN_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "a second start": (f"{ANALYSIS}Hm.<|end|><|start|>{THEN_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "extra words in a header": (
        "<|channel|>final some extra words<|message|>Yes.<|return|>",
        "Yes.",
        "<|channel|>final some extra words",
    ),
    "a channel marker without a name": ("<|channel|><|message|>Yes.<|return|>", "Yes.", ""),
    "a channel marker without a name or a message": (f"<|channel|><|end|>{THEN_FINAL}Yes.<|return|>", "Yes.", ""),
    "two channels": (
        "<|channel|>analysis<|channel|>final<|message|>Yes.<|return|>",
        "Yes.",
        "<|channel|>analysis<|channel|>final",
    ),
    "an unknown role": (
        f"{ANALYSIS}Hm.<|end|><|start|>asistant<|channel|>final<|message|>Yes.<|return|>",
        "Yes.",
        "Hm.asistant<|channel|>final",
    ),
    "somebody else's role": (
        f"{FIRST_FINAL}Yes.<|end|><|start|>user<|message|>And now?<|end|>",
        "Yes.",
        "userAnd now?",
    ),
    "no message marker": ("<|channel|>final Yes.<|return|>", " Yes.", ""),
    "no header at all": ("Yes, of course.<|return|>", "Yes, of course.", ""),
    "no channel marker": (f"{ANALYSIS}Hm.<|end|><|start|>assistantfinal<|message|>Yes.<|return|>", "Yes.", "Hm."),
    "no channel": ("<|message|>I cannot.<|return|>", "I cannot.", ""),
    "an unknown channel": (f"<|channel|>musing<|message|>Hm.<|end|>{THEN_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "no end before a start": (f"{ANALYSIS}Hm.{THEN_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "no end before a channel": (f"{ANALYSIS}Hm.{FIRST_FINAL}Yes.<|return|>", "Yes.", "Hm."),
    "a lone channel marker in reasoning": (
        f"{ANALYSIS}Hm.<|channel|> right<|end|>{THEN_FINAL}Yes.<|return|>",
        "Yes.",
        "Hm. right",
    ),
    "a message marker in content": (f"{FIRST_FINAL}a<|message|>b<|return|>", "a<|message|>b", ""),
    "a reserved token in content": (f"{FIRST_FINAL}a<|reserved_200013|>b<|return|>", "a<|reserved_200013|>b", ""),
    "end of text instead of return": (f"{FIRST_FINAL}Yes.<|endoftext|>", "Yes.", ""),
    "end of text in a header": ("<|channel|>final<|endoftext|>", "", ""),
    "nothing but an end": ("<|return|>", "", ""),
    "an empty answer": (f"{FIRST_FINAL}<|return|>", "", ""),
}


@pytest.mark.parametrize(("text", "answer", "reasoning"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_turns_keep_their_answer(text: str, answer: str, reasoning: str) -> None:
    parser, events = parse(ids_of(text))
    assert shown(events, AnswerDelta) == answer
    assert shown(events, ReasoningDelta) == reasoning
    assert_consistent(parser, events)


def test_a_header_that_never_ends_becomes_content_before_long() -> None:
    parser = TurnParser()
    story = "<|channel|>final" + " once upon a time" * 100
    early = [event for token in ids_of(story)[:70] for event in parser.feed(token)]
    assert shown(early, AnswerDelta).startswith(" once upon a time")


@pytest.mark.parametrize("text", ["Sorry", "I am sorry, but I can't"])
def test_text_in_a_header_that_is_cut_is_delivered(text: str) -> None:
    parser, events = parse(ids_of(text))
    assert shown(events, AnswerDelta) == text
    assert not parser.messages[0].complete


@pytest.mark.parametrize("text", ["<|channel|>", "<|channel|>comment", "<|channel|>final", " to=functions"])
def test_a_header_that_is_cut_says_nothing(text: str) -> None:
    parser, events = parse(ids_of(text))
    assert events == []
    assert parser.messages == ()


def test_ids_outside_the_vocabulary_are_shown_as_such() -> None:
    _, events = parse([*ids_of(FIRST_FINAL), VOCABULARY_SIZE, VOCABULARY_SIZE + 5, -1, *ids_of("ok<|return|>")])
    assert shown(events, AnswerDelta) == f"<|reserved_{VOCABULARY_SIZE}|>" * 3 + "ok"


@pytest.mark.parametrize("turn", GOOD_TURNS, ids=["answer", "call", "no channel"])
def test_a_cut_anywhere_keeps_what_was_said(turn: str) -> None:
    ids = ids_of(turn)
    whole = "".join(message.text for message in parse(ids)[0].messages)
    for length in range(len(ids)):
        parser, events = parse(ids[:length])
        assert_consistent(parser, events)
        kept = "".join(message.text for message in parser.messages)
        assert whole.startswith(kept.removesuffix("\ufffd"))
        assert all(message.complete for message in parser.messages[:-1])


def test_a_message_that_was_cut_is_not_complete() -> None:
    parser, _ = parse(ids_of(f"{ANALYSIS}Hm.<|end|>{THEN_FINAL}Yes, bu"))
    assert [(message.text, message.complete) for message in parser.messages] == [("Hm.", True), ("Yes, bu", False)]


def test_closing_twice_says_nothing_twice() -> None:
    parser, _ = parse(ids_of(f"{FIRST_FINAL}Yes"))
    assert parser.close() == []
    assert len(parser.messages) == 1


format_ids = st.integers(199_998, VOCABULARY_SIZE)
pieces = st.one_of(
    st.text(max_size=8).map(lambda text: load_encoding().encode(text, disallowed_special=())),
    st.sampled_from([MESSAGE, START, END, END_OF_TEXT, 200_005, 200_002, 200_012, 200_003, 173_781, *FINAL]).map(
        lambda token: [token]
    ),
    st.integers(0, 199_997).map(lambda token: [token]),
    format_ids.map(lambda token: [token]),
    st.integers(0, 255).map(lambda count: [220] * count),
)
streams = st.lists(pieces, max_size=30).map(lambda parts: [token for part in parts for token in part])


@settings(max_examples=400, deadline=None)
@given(streams)
def test_any_stream_is_parsed(ids: list[int]) -> None:
    parser, events = parse(ids)
    assert_consistent(parser, events)
    assert parser.reasoning_tokens + parser.answer_tokens == len(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 199_997), max_size=40))
def test_content_is_what_the_ids_decode_to(ids: list[int]) -> None:
    parser, events = parse([MESSAGE, *ids, END])
    assert shown(events, AnswerDelta) == load_encoding().decode(ids)
    assert_consistent(parser, events)


def test_a_token_costs_the_same_late_in_a_message() -> None:
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
