"""Plain output of a turn."""

from collections.abc import Iterable, Iterator

import pytest

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Cut,
    EndReason,
    Event,
    Markup,
    Message,
    MessageEnd,
    PreambleDelta,
    PrefillProgress,
    ReasoningCut,
    ReasoningDelta,
    Role,
    TurnEnd,
)
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.console import Style
from gptoss_cli.terminal.turn_plain import raw_pieces, show_turn
from tests.terminal.streams import Streams

_MESSAGE_END = MessageEnd(Message(Role.ASSISTANT, ""))
_END = TurnEnd(
    answered=True,
    cuts=(),
    reason=EndReason.COMPLETE,
    prompt_tokens=9,
    prefilled_tokens=9,
    reasoning_tokens=2,
    answer_tokens=2,
    seed=1,
    first_token_seconds=0.1,
    total_seconds=0.2,
)
_TURN: list[Event] = [
    PrefillProgress(0, 9),
    PrefillProgress(9, 9),
    ReasoningDelta("Hm"),
    ReasoningDelta("m."),
    _MESSAGE_END,
    AnswerDelta("Be"),
    AnswerDelta("cause."),
    _MESSAGE_END,
    _END,
]


def _show(events: Iterable[Event], *, terminal: bool = False, reasoning: str = "show") -> Streams:
    streams = Streams(terminal=terminal)
    assert show_turn(events, streams.console, reasoning=ReasoningDisplay(reasoning)) is _END
    return streams


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr() -> None:
    streams = _show(_TURN)
    assert (streams.out, streams.err) == ("Because.\n", "Hmm.\n")


def test_a_terminal_shows_the_reasoning_dim_and_separated_from_the_answer() -> None:
    streams = _show(_TURN, terminal=True)
    assert streams.out == "Because.\n"
    assert streams.err == "\x1b[2mHm\x1b[0m\x1b[2mm.\x1b[0m\n\n"


def test_reasoning_can_be_hidden() -> None:
    streams = _show(_TURN, reasoning="hide")
    assert (streams.out, streams.err) == ("Because.\n", "")


def test_a_preamble_and_a_call_go_to_stderr() -> None:
    events: list[Event] = [
        PreambleDelta("I will look."),
        CallDelta("functions.find", '{"q":'),
        CallDelta("functions.find", "1}"),
    ]
    streams = _show([*events, _MESSAGE_END, AnswerDelta("Done."), _MESSAGE_END, _END])
    assert streams.out == "Done.\n"
    assert streams.err == 'I will look.\ncall to functions.find: {"q":1}\n'


def test_each_answer_message_is_on_its_own_line() -> None:
    streams = _show([AnswerDelta("one"), _MESSAGE_END, AnswerDelta("two"), _MESSAGE_END, _END])
    assert streams.out == "one\ntwo\n"


def test_a_turn_without_an_answer_leaves_stdout_empty() -> None:
    assert _show([ReasoningDelta("Hm"), _END]).out == ""


def test_each_piece_is_on_stdout_before_the_next_is_generated() -> None:
    streams = Streams()
    seen = []

    def events() -> Iterator[Event]:
        for piece in ("a", "b", "c"):
            yield AnswerDelta(piece)
            seen.append(streams.out)
        yield _END

    show_turn(events(), streams.console, reasoning=ReasoningDisplay.SHOW)
    assert seen == ["a", "ab", "abc"]


def test_a_turn_that_fails_still_ends_its_line() -> None:
    def events() -> Iterator[Event]:
        yield AnswerDelta("half")
        raise MemoryError

    streams = Streams()
    with pytest.raises(MemoryError):
        show_turn(events(), streams.console, reasoning=ReasoningDisplay.SHOW)
    assert streams.out == "half\n"


def test_markup_and_escapes_in_the_reasoning_are_shown_as_text() -> None:
    streams = _show([ReasoningDelta("[/x]\x1b"), ReasoningDelta("[2J"), _END], terminal=True)
    assert streams.err.replace("\x1b[2m", "").replace("\x1b[0m", "") == "[/x]␛[2J\n"


@pytest.mark.parametrize("cut", Cut)
def test_a_cut_is_a_notice_on_its_own_line(cut: Cut) -> None:
    streams = Streams()
    after: list[Event] = [_MESSAGE_END, Markup("<|end|>"), AnswerDelta("Yes."), _END]
    show_turn([ReasoningDelta("Hm"), ReasoningCut(cut, 9), *after], streams.console, reasoning=ReasoningDisplay.SHOW)
    assert streams.out == "Yes.\n"
    reasoning, notice = streams.err.splitlines()
    assert reasoning == "Hm"
    assert notice.endswith(": the answer follows.")


def test_reasoning_calls_answers_and_markup_of_a_raw_turn_differ_in_style() -> None:
    raw = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.f"
        " <|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Blue.<|return|>"
    )
    pieces = list(raw_pieces(raw))
    assert "".join(text for text, _ in pieces) == raw
    styles = {text: style for text, style in pieces if text in ("Hm.", "{}", "Blue.", "analysis", "<|end|>")}
    assert styles == {
        "Hm.": Style.DIM,
        "{}": Style.CALL,
        "Blue.": Style.PLAIN,
        "analysis": Style.MARKUP,
        "<|end|>": Style.MARKUP,
    }
