"""The grammar allows every header that the model was trained to write, and no other."""

import random
from collections.abc import Iterable, Iterator

import pytest
from openai_harmony import Role as LibraryRole
from openai_harmony import StreamableParser

from gptoss_cli.harmony.grammar import Grammar, State
from gptoss_cli.harmony.vocabulary import (
    ANALYSIS,
    ANSWER_HEADER,
    ANSWER_NOW,
    ASSISTANT,
    CALL,
    CHANNEL,
    COMMENTARY,
    CONSTRAIN,
    END,
    END_OF_TEXT,
    FINAL,
    MESSAGE,
    RETURN,
    START,
    load_encoding,
)
from tests.harmony.malformed import GOOD_TURNS, MALFORMED, Malformed, ids_of

PLAIN = Grammar()
TOOLS = Grammar(["functions.look", "functions.look_up", "python"])
CALL_HEADERS = [
    "<|channel|>commentary to=functions.look <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.look<|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.look_up json<|message|>",
    "<|channel|>commentary to=functions.look<|message|>",
    " to=functions.look<|channel|>commentary <|constrain|>json<|message|>",
    " to=python<|channel|>analysis code<|message|>",
    "<|channel|>analysis to=python code<|message|>",
    "<|channel|>commentary to=python<|message|>",
]


def walk(state: State, ids: Iterable[int]) -> State:
    """Return the state after `ids`; each of them must be allowed."""
    for token in ids:
        assert state.allowed is None or token in state.allowed
        assert token not in state.banned
        state = state.after(token)
    return state


def headers(state: State, ids: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Yield every header that is allowed from `state`."""
    if state.allowed is None:
        yield ids
        return
    for token in state.allowed:
        yield from headers(state.after(token), (*ids, token))


@pytest.mark.parametrize("turn", ["answer", "call"])
def test_a_good_turn_is_allowed(turn: str) -> None:
    walk(TOOLS.start, ids_of(GOOD_TURNS[turn]))


@pytest.mark.parametrize("header", CALL_HEADERS)
def test_a_call_is_allowed_as_the_model_writes_it(header: str) -> None:
    content = walk(TOOLS.start, ids_of(header))
    assert content.allowed is None
    assert CALL not in content.banned
    assert RETURN in content.banned


def test_without_tools_three_headers_are_allowed() -> None:
    written = {load_encoding().decode(ids) for ids in headers(PLAIN.start)}
    assert written == {f"<|channel|>{name}<|message|>" for name in ("analysis", "commentary", "final")}


def test_every_header_is_parsed_and_encoded_alike_by_openai_harmony() -> None:
    written = list(headers(TOOLS.start))
    assert len(written) == 3 + 2 * 5 * (1 + 1 + 2)
    for ids in written:
        parser = StreamableParser(load_encoding(), LibraryRole.ASSISTANT, strict=True)
        for token in ids:
            parser.process(token)
        assert parser.current_channel in ("analysis", "commentary", "final")
        text = load_encoding().decode(ids)
        assert parser.current_recipient in (None, "functions.look", "functions.look_up", "python")
        assert (parser.current_recipient is None) == ("to=" not in text)
        assert load_encoding().encode(f"<|start|>assistant{text}", allowed_special="all")[2:] == list(ids)


@pytest.mark.parametrize("name", ["functions.other", "functions.loo", "functions.look.up", "assistant"])
def test_an_undeclared_tool_is_not_allowed(name: str) -> None:
    with pytest.raises(AssertionError):
        walk(TOOLS.start, ids_of(f"<|channel|>commentary to={name} json<|message|>"))


def test_special_tokens_in_a_tool_name_are_text() -> None:
    grammar = Grammar(["functions.<|end|>"])
    assert all(END not in ids for ids in headers(grammar.start))


def test_headers_without_a_choice_are_forced() -> None:
    assert PLAIN.start.forced == (CHANNEL,)
    reasoning = walk(PLAIN.start, (CHANNEL, *ANALYSIS))
    assert reasoning.forced == (MESSAGE,)
    over = walk(reasoning, (MESSAGE, 1234, END))
    assert over.forced == (START, ASSISTANT, CHANNEL)
    assert walk(PLAIN.start, (CHANNEL, COMMENTARY[0])).forced == (COMMENTARY[1], MESSAGE)
    assert TOOLS.start.forced == ()


def test_in_content_nothing_is_forced_and_only_special_tokens_are_banned() -> None:
    header_tokens = {START, CHANNEL, MESSAGE, CONSTRAIN}
    ends = {END, RETURN, CALL, END_OF_TEXT}
    opened = {name: walk(PLAIN.start, ids_of(f"<|channel|>{name}<|message|>")) for name in ("analysis", "commentary")}
    for content in opened.values():
        assert content.banned == header_tokens | ends - {END}
    assert PLAIN.answer.banned == header_tokens | {CALL}
    assert walk(PLAIN.start, (CHANNEL, *FINAL, MESSAGE)) is PLAIN.answer
    for content in (*opened.values(), PLAIN.answer):
        assert (content.forced, content.allowed) == ((), None)
        assert content.after(1234) is content


def test_end_after_an_answer_or_a_call_forces_the_token_that_ends_the_turn() -> None:
    assert walk(PLAIN.answer, (1234, END)).forced == (RETURN,)
    assert walk(TOOLS.start, [*ids_of(CALL_HEADERS[0]), END]).forced == (CALL,)


def test_to_answer_leads_from_every_state_to_the_answer() -> None:
    reached = [PLAIN.start]
    for token in (CHANNEL, *ANALYSIS, MESSAGE, 1234, END, START, ASSISTANT, CHANNEL):
        reached.append(reached[-1].after(token))
    paths = [state.to_answer for state in reached]
    assert paths[:2] == [ANSWER_HEADER[2:], ANSWER_HEADER[3:]]
    assert paths[3:5] == [ANSWER_NOW] * 2
    assert paths[5:] == [ANSWER_HEADER, ANSWER_HEADER[1:], ANSWER_HEADER[2:], ANSWER_HEADER[3:]]
    for state in reached:
        if state.to_answer:
            end = state
            for token in state.to_answer:
                end = end.after(token)
            assert end is PLAIN.answer


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
def test_the_header_after_any_malformed_turn_is_followed(case: Malformed) -> None:
    state = PLAIN.start
    for token in (*case.ids, *ANSWER_HEADER):
        state = state.after(token)
    assert state is PLAIN.answer


def test_random_turns_of_the_grammar_are_parsed_by_openai_harmony() -> None:
    draw = random.Random(20250805)
    special = {START, CHANNEL, MESSAGE, CONSTRAIN, END, RETURN, CALL, END_OF_TEXT}
    words = special | set(ids_of("one two three four five six seven"))
    for grammar in [PLAIN, TOOLS] * 300:
        parser = StreamableParser(load_encoding(), LibraryRole.ASSISTANT, strict=True)
        state = grammar.start
        while state.forced not in ((RETURN,), (CALL,)):
            token = draw.choice(sorted(state.allowed or words - state.banned))
            parser.process(token)
            if token in (RETURN, CALL, END_OF_TEXT):
                break
            state = state.after(token)
