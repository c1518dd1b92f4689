"""A session carries ids between a conversation and a generator, and survives whatever ends a turn."""

import datetime
import itertools
from collections.abc import Iterable, Iterator

import pytest

from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.errors import NumericalError, ResourceError
from gptoss_cli.generation import TokenGenerator
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import (
    AnswerDelta,
    EndReason,
    Event,
    Markup,
    Message,
    MessageEnd,
    PrefillProgress,
    ReasoningDelta,
    Role,
    TurnEnd,
)
from gptoss_cli.harmony.vocabulary import RETURN, load_encoding
from gptoss_cli.settings import ReasoningEffort
from tests.scripted_generator import ScriptedGenerator

DATE = datetime.date(2025, 8, 5)
THINK = "<|channel|>analysis<|message|>"
SAY = "<|channel|>final<|message|>"
NEXT = "<|start|>assistant"
GREETING = f"{THINK}They greet me.<|end|>{NEXT}{SAY}Hello 🙂 to you!<|return|>"
SECOND = f"{THINK}Now what?<|end|>{NEXT}{SAY}Nothing.<|return|>"


def ids_of(text: str) -> list[int]:
    return load_encoding().encode(text, allowed_special="all")


def script(*turns: str | Iterable[int], context_tokens: int = 4096, chunk_tokens: int = 16) -> ScriptedGenerator:
    played = [ids_of(turn) if isinstance(turn, str) else turn for turn in turns]
    return ScriptedGenerator(played, context_tokens=context_tokens, chunk_tokens=chunk_tokens)


def session(
    generator: TokenGenerator,
    *,
    max_tokens: int | None = None,
    seed: int | None = None,
    free_headers: bool = False,
    recipients: Iterable[str] = (),
) -> ChatSession:
    return ChatSession(
        generator,
        instructions="Be kind.",
        effort=ReasoningEffort.LOW,
        date=DATE,
        settings=TurnSettings(max_tokens=max_tokens, seed=seed, free_headers=free_headers),
        recipients=recipients,
    )


def answer(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, AnswerDelta))


def end(events: list[Event]) -> TurnEnd:
    last = events[-1]
    assert isinstance(last, TurnEnd)
    return last


def from_scratch(messages: Iterable[Message]) -> list[int]:
    fresh = Conversation("Be kind.", DATE, ReasoningEffort.LOW)
    for message in messages:
        fresh.add(message)
    return fresh.render()


def failing(ids: list[int]) -> Iterator[int]:
    yield from ids
    raise NumericalError("the logits are not numbers")


def test_a_turn_yields_progress_then_text_then_its_end() -> None:
    events = list(session(script(GREETING)).turn("Hi"))
    order = [kind for kind, _ in itertools.groupby(events, type) if kind is not Markup]
    assert order == [PrefillProgress, ReasoningDelta, MessageEnd, AnswerDelta, MessageEnd, TurnEnd]
    assert answer(events) == "Hello 🙂 to you!"


def test_prefill_progress_begins_at_nothing_and_ends_at_all() -> None:
    progress = [event for event in session(script(GREETING)).turn("Hi") if isinstance(event, PrefillProgress)]
    assert progress[0].done_tokens == 0
    assert progress[-1].done_tokens == progress[-1].total_tokens
    assert len(progress) > 2


def test_the_end_counts_tokens() -> None:
    generator = script(GREETING)
    chat = session(generator)
    result = end(list(chat.turn("Hi")))
    assert result.reason is EndReason.COMPLETE
    assert result.prompt_tokens == result.prefilled_tokens == len(generator.prompts[0])
    assert result.reasoning_tokens == len(ids_of(f"{THINK}They greet me.<|end|>"))
    assert result.answer_tokens == len(ids_of(f"{NEXT}{SAY}Hello 🙂 to you!<|return|>"))
    assert result.first_token_seconds is not None
    assert 0 <= result.first_token_seconds <= result.total_seconds
    assert chat.last_end == result


def test_the_end_tells_how_many_experts_were_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end(list(session(script(GREETING)).turn("Hi"))).expert_hit_rate is None
    monkeypatch.setattr(ScriptedGenerator, "expert_hit_rate", 0.875)
    assert end(list(session(script(GREETING)).turn("Hi"))).expert_hit_rate == 0.875


def test_every_prompt_is_a_render_from_scratch() -> None:
    generator = script(GREETING, SECOND, GREETING)
    chat = session(generator)
    for turn, text in enumerate(["Hi", "And now?", "Again <|end|>"]):
        before = chat.conversation.messages
        list(chat.turn(text))
        assert generator.prompts[turn] == from_scratch([*before, Message(Role.USER, text)])


def test_only_the_last_answer_and_the_new_message_are_prefilled() -> None:
    generator = script(GREETING, SECOND, GREETING)
    chat = session(generator)
    list(chat.turn("Hi"))
    second = end(list(chat.turn("And now?")))
    third = end(list(chat.turn("Bye")))
    # The answer's <|channel|> is where the reasoning's was.
    said = ids_of("final<|message|>Hello 🙂 to you!<|end|><|start|>user<|message|>And now?<|end|><|start|>assistant")
    assert second.prefilled_tokens == len(said)
    said = ids_of("final<|message|>Nothing.<|end|><|start|>user<|message|>Bye<|end|><|start|>assistant")
    assert third.prefilled_tokens == len(said)


@pytest.mark.parametrize("count", range(40))
def test_a_turn_closed_after_any_event_can_be_followed_by_another(count: int) -> None:
    generator = script(GREETING, GREETING)
    chat = session(generator)
    turn = chat.turn("Hi")
    seen = list(itertools.islice(turn, count))
    turn.close()
    messages = chat.conversation.messages
    if count:
        assert messages[0] == Message(Role.USER, "Hi")
        assert answer(seen) == "".join(message.text for message in messages[1:] if message.is_answer)
    assert answer(list(chat.turn("And now?"))) == "Hello 🙂 to you!"
    assert generator.prompts[-1] == from_scratch([*messages, Message(Role.USER, "And now?")])


def test_a_turn_that_was_closed_leaves_its_end() -> None:
    chat = session(script(GREETING))
    turn = chat.turn("Hi")
    next(event for event in turn if isinstance(event, AnswerDelta))
    turn.close()
    assert chat.last_end is not None
    assert chat.last_end.reason is EndReason.INTERRUPTED
    assert chat.conversation.messages[-1] == Message(Role.ASSISTANT, "Hello", channel="final", complete=False)


def test_an_exception_in_the_generator_keeps_what_was_said() -> None:
    def interrupted() -> Iterator[int]:
        yield from ids_of(f"{SAY}Hello")
        raise KeyboardInterrupt

    chat = session(script(interrupted(), SECOND))
    with pytest.raises(KeyboardInterrupt):
        list(chat.turn("Hi"))
    assert chat.conversation.messages[-1].text == "Hello"
    assert answer(list(chat.turn("And now?"))) == "Nothing."


def test_stopping_while_the_prompt_is_read_keeps_the_question() -> None:
    chat = session(script(SECOND))
    events = []
    for event in chat.turn("Hi"):
        events.append(event)
        chat.stop()
    assert [type(event) for event in events] == [PrefillProgress, TurnEnd]
    assert end(events).reason is EndReason.INTERRUPTED
    assert end(events).first_token_seconds is None
    assert chat.conversation.messages == (Message(Role.USER, "Hi"),)
    chat.forget_stop()
    assert answer(list(chat.turn("And now?"))) == "Nothing."


@pytest.mark.parametrize("moment", ["before the turn", "after the turn before"])
def test_a_stop_outside_a_turn_ends_the_next_one_before_its_first_token(moment: str) -> None:
    chat = session(script(GREETING, SECOND))
    if moment == "after the turn before":
        list(chat.turn("Hi"))
    turn = chat.turn("And now?")
    chat.stop()
    assert [type(event) for event in turn] == [PrefillProgress, TurnEnd]
    assert chat.last_end is not None
    assert chat.last_end.reason is EndReason.INTERRUPTED


def test_stopping_ends_the_turn_at_the_next_token() -> None:
    chat = session(script(GREETING))
    events = []
    for event in chat.turn("Hi"):
        events.append(event)
        if isinstance(event, AnswerDelta):
            chat.stop()
    assert answer(events) == "Hello"
    assert events[-2] == MessageEnd(Message(Role.ASSISTANT, "Hello", channel="final", complete=False))
    assert end(events).reason is EndReason.INTERRUPTED


def test_a_turn_stopped_while_reasoning_prompts_only_its_question() -> None:
    generator = script(GREETING, SECOND)
    chat = session(generator)
    for event in chat.turn("Hi"):
        if isinstance(event, ReasoningDelta):
            chat.stop()
    chat.forget_stop()
    list(chat.turn("And now?"))
    questions = [Message(Role.USER, "Hi"), Message(Role.USER, "And now?")]
    assert generator.prompts[-1] == from_scratch(questions)


def test_the_token_limit_cuts_the_answer() -> None:
    chat = session(script(GREETING), max_tokens=14)
    result = end(list(chat.turn("Hi")))
    assert result.reason is EndReason.TOKEN_LIMIT
    assert result.reasoning_tokens + result.answer_tokens == 14
    assert not chat.conversation.messages[-1].complete


def test_a_turn_that_ends_at_the_token_limit_is_complete() -> None:
    result = end(list(session(script(GREETING), max_tokens=len(ids_of(GREETING))).turn("Hi")))
    assert result.reason is EndReason.COMPLETE


def test_a_full_context_cuts_the_answer() -> None:
    room = len(from_scratch([Message(Role.USER, "Hi")])) + 11
    chat = session(script(GREETING, context_tokens=room))
    result = end(list(chat.turn("Hi")))
    assert result.reason is EndReason.CONTEXT_FULL
    assert result.reasoning_tokens + result.answer_tokens == 11


def test_a_message_that_does_not_fit_is_taken_back() -> None:
    chat = session(script(SECOND, context_tokens=120))
    with pytest.raises(ResourceError, match="context"):
        list(chat.turn("many words " * 100))
    assert chat.conversation.messages == ()
    assert answer(list(chat.turn("Hi"))) == "Nothing."


def test_a_numerical_failure_ends_the_turn_and_keeps_what_was_said() -> None:
    chat = session(script(failing(ids_of(f"{THINK}Hm.<|end|>{NEXT}{SAY}It is")), SECOND))
    events = list(chat.turn("Hi"))
    assert end(events).reason is EndReason.NUMERICAL_FAILURE
    assert answer(events) == "It is"
    assert chat.conversation.messages[-1] == Message(Role.ASSISTANT, "It is", channel="final", complete=False)
    assert answer(list(chat.turn("And now?"))) == "Nothing."


@pytest.mark.parametrize("free_headers", [False, True])
def test_a_call_ends_the_turn(free_headers: bool) -> None:
    call = "<|channel|>commentary to=functions.f json<|message|>{}<|call|>"
    chat = session(script(call), free_headers=free_headers, recipients=["functions.f"])
    assert end(list(chat.turn("Hi"))).reason is EndReason.CALL
    assert chat.conversation.messages[-1].recipient == "functions.f"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("<|channel|>commentary to=functions.f json<|message|>{}<|return|>", EndReason.CALL),
        (f"{SAY}Yes<|call|>", EndReason.COMPLETE),
        ("<|call|>", EndReason.COMPLETE),
    ],
)
def test_what_was_said_tells_a_call_from_an_answer(turn: str, reason: EndReason) -> None:
    assert end(list(session(script(turn), free_headers=True).turn("Hi"))).reason is reason


def test_end_of_text_completes_the_turn() -> None:
    assert end(list(session(script(f"{SAY}Yes<|endoftext|>")).turn("Hi"))).reason is EndReason.COMPLETE


def test_a_given_seed_is_used_for_every_turn() -> None:
    generator = script(GREETING, SECOND)
    chat = session(generator, seed=7)
    assert [end(list(chat.turn(text))).seed for text in "ab"] == [7, 7]
    assert [sampling.seed for sampling in generator.samplings] == [7, 7]


def test_without_a_seed_every_turn_draws_one_and_tells_it() -> None:
    generator = script(GREETING, SECOND)
    chat = session(generator)
    seeds = [end(list(chat.turn(text))).seed for text in "ab"]
    assert len(set(seeds)) == 2
    assert [sampling.seed for sampling in generator.samplings] == seeds


def test_the_conversation_can_be_answered_again() -> None:
    generator = script(GREETING, SECOND)
    chat = session(generator)
    list(chat.turn("Hi"))
    chat.conversation.truncate(1)
    assert answer(list(chat.answer())) == "Nothing."
    assert generator.prompts[0] == generator.prompts[1]


def test_a_script_that_ends_without_a_stop_token_fills_the_context() -> None:
    assert end(list(session(script(f"{SAY}Yes")).turn("Hi"))).reason is EndReason.CONTEXT_FULL


def test_return_in_history_is_end() -> None:
    generator = script(GREETING, SECOND)
    chat = session(generator)
    list(chat.turn("Hi"))
    list(chat.turn("And now?"))
    assert RETURN not in generator.prompts[1]


@pytest.mark.parametrize("effort", ReasoningEffort)
def test_every_prompt_begins_with_the_prefix_and_goes_on_with_the_users_words(effort: ReasoningEffort) -> None:
    generator = script(GREETING, SECOND)
    chat = ChatSession(generator, instructions="Be kind.", effort=effort, date=DATE)
    prefix = chat.prefix()
    list(chat.turn("Hi"))
    list(chat.turn("And now?"))
    for prompt in generator.prompts:
        assert prompt[: len(prefix)] == prefix
        assert prompt[: len(prefix)][-3:] == ids_of("<|start|>user<|message|>")
    assert [prompt[len(prefix) :][:2] for prompt in generator.prompts] == [ids_of("Hi<|end|>")] * 2
