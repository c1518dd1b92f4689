"""Turns that call functions: every header form, arguments held to their schema, results, and the choice of calls."""

import datetime
import json
import random
from collections.abc import Collection
from typing import Any

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.generation import Allowed, Banned, Restriction, TokenGenerator
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import CallDelta, Channel, Cut, EndReason, Event, Message, Role, TurnEnd
from gptoss_cli.harmony.functions import Functions, FunctionTool, ToolChoice
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.settings import ReasoningEffort
from tests.harmony.function_schemas import FIFTY_SCHEMAS
from tests.harmony.malformed import ids_of
from tests.random_generator import RandomGenerator
from tests.scripted_generator import ScriptedGenerator

DATE = datetime.date(2025, 8, 5)
THINK = "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant"
ARGUMENTS = '{"city": "Rome"}'
LOOK = FunctionTool("look", "Look.", {"type": "object", "properties": {"city": {"type": "string"}}})
HEADERS = {
    "channel part": "<|channel|>commentary to=functions.look <|constrain|>json<|message|>",
    "channel part, no space": "<|channel|>commentary to=functions.look<|constrain|>json<|message|>",
    "role part": " to=functions.look<|channel|>commentary <|constrain|>json<|message|>",
    "plain type": "<|channel|>commentary to=functions.look json<|message|>",
    "code": " to=functions.look<|channel|>commentary code<|message|>",
    "no type": "<|channel|>commentary to=functions.look<|message|>",
}
# The library builds the tokenizer of llguidance for seconds.
pytest.importorskip("llguidance")


def session(
    generator: TokenGenerator,
    *,
    functions: Functions | None = None,
    effort: ReasoningEffort = ReasoningEffort.LOW,
    **settings: Any,
) -> ChatSession:
    return ChatSession(
        generator,
        instructions=None,
        effort=effort,
        date=DATE,
        settings=TurnSettings(**settings),
        functions=functions or Functions([LOOK, FunctionTool("python")]),
    )


def play(*turns: str) -> ScriptedGenerator:
    return ScriptedGenerator([ids_of(turn) for turn in turns])


def calls(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, CallDelta))


def reason(events: list[Event]) -> EndReason:
    assert isinstance(events[-1], TurnEnd)
    return events[-1].reason


@pytest.mark.parametrize("preamble", ["", "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant"])
@pytest.mark.parametrize("end", ["<|call|>", "<|return|>", "<|end|>"])
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_call_of_every_form_is_read_and_answered(header: str, end: str, preamble: str) -> None:
    made = session(play(f"{THINK}{preamble}{header}{ARGUMENTS}{end}", "<|channel|>final<|message|>Sunny.<|return|>"))
    events = list(made.turn("Weather?"))
    assert calls(events) == ARGUMENTS
    assert reason(events) is EndReason.CALL
    made.conversation.add_result("functions.look", "sunny")
    assert reason(list(made.answer())) is EndReason.COMPLETE
    fresh = Conversation(None, DATE, ReasoningEffort.LOW, made.conversation.functions)
    for message in made.conversation.messages:
        fresh.add(message)
    assert fresh.render() == made.conversation.render()
    (call,) = (message for message in made.conversation.messages if message.is_call)
    assert (call.recipient, call.text) == ("functions.look", ARGUMENTS)


def test_the_result_is_the_only_thing_a_step_reads_when_the_header_is_as_it_is_rendered() -> None:
    generator = play(f"{THINK}{HEADERS['role part']}{ARGUMENTS}<|call|>", "<|channel|>final<|message|>Yes.<|return|>")
    made = session(generator)
    list(made.turn("Weather?"))
    made.conversation.add_result("functions.look", "sunny")
    list(made.answer())
    result = "<|start|>functions.look to=assistant<|channel|>commentary<|message|>sunny<|end|><|start|>assistant"
    assert generator.prefilled_tokens[1] == len(ids_of(result))


def test_two_results_follow_their_calls() -> None:
    made = session(play("<|channel|>final<|message|>Yes.<|return|>"))
    made.conversation.add_user("Weather?")
    for city in ("Rome", "Oslo"):
        made.conversation.add(Message(Role.ASSISTANT, city, Channel.COMMENTARY, "functions.look", "json"))
        made.conversation.add_result("functions.look", f"sunny in {city}")
    list(made.answer())
    text = load_encoding().decode(made.conversation.render())
    assert text.index("sunny in Rome") < text.index("<|message|>Oslo<|call|>") < text.index("sunny in Oslo")


@pytest.mark.parametrize("recipient", ["functions.other", "repo_browser.search", "container.exec", "look"])
def test_with_free_headers_an_unknown_recipient_is_reported_as_it_is(recipient: str) -> None:
    made = session(play(f"{THINK}<|channel|>commentary to={recipient} code<|message|>x<|call|>"), free_headers=True)
    assert [event for event in made.turn("Hi") if isinstance(event, CallDelta)] == [CallDelta(recipient, "x")]


class HastyGenerator(RandomGenerator):
    """Closes strings, lists and objects sooner than a draw from the whole vocabulary would."""

    def __init__(self) -> None:
        super().__init__(rarity=3)
        self._closing = [token for text in ('"', '"}', "}", "]", ']}', '"]', " ", "1", '"}}', "200012") for token in [
            200012 if text == "200012" else ids_of(text)[0]
        ]]  # fmt: skip

    def _draw(self, randomness: random.Random, restriction: Restriction | None, banned_ids: Collection[int]) -> int:
        hasty = [token for token in self._closing if _is_allowed(token, restriction)]
        # Only the mask of a schema leaves `<|call|>` and forbids ordinary text.
        if isinstance(restriction, Allowed | Banned) and hasty and randomness.random() < 0.7:
            return randomness.choice(hasty)
        return super()._draw(randomness, restriction, banned_ids)


def _is_allowed(token: int, restriction: Restriction | None) -> bool:
    if isinstance(restriction, Allowed):
        return token in restriction.ids
    return restriction is not None and token not in restriction.ids


def check_random_turns(count: int) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    tools = [FunctionTool(f"f{i}", "", schema) for i, schema in enumerate(FIFTY_SCHEMAS)]
    finished = 0
    for seed in range(count):
        number = seed % len(tools)
        offered = [tools[number], tools[(number + 7) % len(tools)]]
        choice = (ToolChoice.AUTO, ToolChoice.REQUIRED, ToolChoice.NONE)[seed % 5 % 3]
        functions = Functions(offered, choice=choice, only=offered[0].name if seed % 2 else None)
        made = session(HastyGenerator(), functions=functions, seed=seed, max_tokens=200, think_budget=6)
        end = reason(list(made.turn("Go")))
        for message in made.conversation.messages:
            if not message.is_call:
                continue
            assert message.recipient in functions.recipients
            if message.complete:
                finished += 1
                (tool,) = (tool for tool in offered if functions.recipient(tool.name) == message.recipient)
                jsonschema.validate(json.loads(message.text), tool.parameters)
        assert (end is EndReason.CALL) <= (choice is not ToolChoice.NONE)
        assert end is not EndReason.COMPLETE or choice is not ToolChoice.REQUIRED
    assert finished >= count // 5


def test_a_random_model_calls_only_what_is_offered_with_valid_arguments() -> None:
    check_random_turns(60)


@pytest.mark.slow
def test_a_random_model_calls_only_what_is_offered_in_two_thousand_turns() -> None:
    check_random_turns(2_000)


@pytest.mark.parametrize("only", [None, "python"])
def test_a_required_call_follows_the_budget_and_answer_now(only: str | None) -> None:
    functions = Functions([LOOK, FunctionTool("python")], choice=ToolChoice.REQUIRED, only=only)
    for budget in (0, 5, 20):
        made = session(HastyGenerator(), functions=functions, seed=budget, max_tokens=400, think_budget=budget)
        events = list(made.turn("Go"))
        end = events[-1]
        assert isinstance(end, TurnEnd)
        assert end.reason in (EndReason.CALL, EndReason.TOKEN_LIMIT)
        assert end.reasoning_tokens <= max(budget, 6)
        assert [cut.cut for cut in end.cuts] in ([Cut.BUDGET], [])
        assert not end.answered
        assert {message.recipient for message in made.conversation.messages if message.is_call} <= set(
            functions.recipients
        )


def test_a_required_call_follows_the_first_reasoning() -> None:
    functions = Functions([LOOK], choice=ToolChoice.REQUIRED)
    for seed in range(10):
        made = session(HastyGenerator(), functions=functions, seed=seed, max_tokens=400)
        list(made.turn("Go"))
        kinds = [(message.channel, message.is_call) for message in made.conversation.messages[1:]]
        assert kinds in ([("analysis", False), ("commentary", True)], [("commentary", True)], [("analysis", False)])


def test_without_reasoning_a_function_can_still_be_called() -> None:
    made = session(play(f"{HEADERS['role part']}{ARGUMENTS}<|call|>"), effort=ReasoningEffort.NONE)
    assert reason(list(made.turn("Weather?"))) is EndReason.CALL
    for seed in range(20):
        made = session(HastyGenerator(), effort=ReasoningEffort.NONE, seed=seed, max_tokens=60)
        list(made.turn("Go"))
        assert not any(message.is_reasoning for message in made.conversation.messages)


def test_without_reasoning_and_without_calls_the_answer_starts_at_once() -> None:
    functions = Functions([LOOK], choice=ToolChoice.NONE)
    made = session(play("Sunny.<|return|>"), functions=functions, effort=ReasoningEffort.NONE)
    assert reason(list(made.turn("Weather?"))) is EndReason.COMPLETE
