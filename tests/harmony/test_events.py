"""Messages are classified by channel and recipient, and rates are computed from the end of a turn."""

from dataclasses import replace

import pytest

from gptoss_cli.harmony.events import EndReason, Message, Role, TurnEnd

_END = TurnEnd(
    reason=EndReason.COMPLETE,
    answered=True,
    cuts=(),
    prompt_tokens=120,
    prefilled_tokens=100,
    reasoning_tokens=15,
    answer_tokens=6,
    seed=1,
    first_token_seconds=0.5,
    total_seconds=2.5,
)


@pytest.mark.parametrize(
    ("channel", "recipient", "kind"),
    [
        ("analysis", None, "reasoning"),
        ("musing", None, "reasoning"),
        ("commentary", None, None),
        ("commentary", "functions.look", "call"),
        ("final", None, "answer"),
        ("final", "functions.look", "answer"),
        (None, None, "answer"),
    ],
)
def test_the_kind_of_a_message_depends_on_its_channel_and_recipient(
    channel: str | None, recipient: str | None, kind: str | None
) -> None:
    message = Message(Role.ASSISTANT, "x", channel=channel, recipient=recipient)
    flags = {"reasoning": message.is_reasoning, "call": message.is_call, "answer": message.is_answer}
    assert [name for name, flag in flags.items() if flag] == ([kind] if kind else [])


def test_a_call_on_the_analysis_channel_is_reasoning_too() -> None:
    message = Message(Role.ASSISTANT, "x", channel="analysis", recipient="python")
    assert (message.is_call, message.is_reasoning) == (True, True)


def test_messages_of_the_user_are_no_answers() -> None:
    assert not Message(Role.USER, "x").is_answer


def test_rates_are_tokens_per_second_before_and_after_the_first_token() -> None:
    assert (_END.prefill_rate, _END.decode_rate) == (200, 10)


def test_there_is_no_rate_without_tokens_or_time() -> None:
    assert replace(_END, prefilled_tokens=0).prefill_rate is None
    assert replace(_END, first_token_seconds=None).prefill_rate is None
    assert replace(_END, first_token_seconds=None).decode_rate is None
    assert replace(_END, reasoning_tokens=0, answer_tokens=1).decode_rate is None
