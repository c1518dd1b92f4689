"""A turn on an emulated terminal: the scrollback holds the rendered answer once."""

import random
import unicodedata

import pytest

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Cut,
    Event,
    Message,
    MessageEnd,
    PreambleDelta,
    PrefillProgress,
    ReasoningCut,
    ReasoningDelta,
    Role,
)
from gptoss_cli.settings import ReasoningDisplay
from gptoss_cli.terminal.cells import Span, fold, text_of
from gptoss_cli.terminal.turn_live import TurnView
from tests.terminal.documents import DOCUMENTS
from tests.terminal.emulator import EmulatedScreen
from tests.terminal.markdown.test_stream import at_once, split

_END = MessageEnd(Message(Role.ASSISTANT, ""))


def show(
    events: list[Event], screen: EmulatedScreen, *, reasoning: ReasoningDisplay = ReasoningDisplay.SHOW, every: int = 1
) -> list[str]:
    """Return the rows of the terminal after a turn with a frame after `every` so many events."""
    view = TurnView(screen, reasoning)
    for number, event in enumerate(events):
        view.show(event)
        if number % every == 0:
            view.draw()
    view.end()
    return screen.terminal.rows


def expected(text: str, columns: int) -> list[str]:
    """Return the rows of a document that is printed at once."""
    # The emulator composes accents.
    lines = [unicodedata.normalize("NFC", line) for line in at_once(text, columns)]
    rows = [text_of(row).rstrip() for line in lines for row in fold([Span(line)], columns)]
    while rows and not rows[-1]:
        rows.pop()
    return rows


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("columns", [20, 80])
def test_the_scrollback_holds_the_answer_once(name: str, columns: int) -> None:
    text = DOCUMENTS[name]
    events: list[Event] = [AnswerDelta(piece) for piece in split(text, random.Random(name), 8)]
    assert show(events, EmulatedScreen(columns, 10)) == expected(text, columns)


@pytest.mark.parametrize(("columns", "rows"), [(3, 4), (20, 10), (80, 2)])
def test_a_long_answer_in_a_small_terminal_is_whole(columns: int, rows: int) -> None:
    text = "\n".join(f"- item {number}" if number % 7 else f"\nline {number}\n" for number in range(700))
    pieces: list[Event] = [AnswerDelta(piece) for piece in split(text, random.Random(rows), 60)]
    assert show(pieces, EmulatedScreen(columns, rows)) == expected(text, columns)


def test_a_terminal_that_becomes_wider_keeps_its_rows() -> None:
    screen = EmulatedScreen(20, 10)
    view = TurnView(screen, ReasoningDisplay.SHOW)
    view.show(AnswerDelta("one two three four five six seven\n\nlast words of"))
    view.draw()
    screen.terminal.screen.resize(10, 40)
    view.show(AnswerDelta(" this and no other paragraph"))
    view.draw()
    view.end()
    assert screen.terminal.rows == [
        "one two three four",
        "five six seven",
        "",
        "last words of this and no other",
        "paragraph",
    ]


def test_reasoning_is_shown_and_separated_from_the_answer() -> None:
    events: list[Event] = [ReasoningDelta("Hm"), ReasoningDelta("m."), _END, AnswerDelta("Blue."), _END]
    assert show(events, EmulatedScreen()) == ["Hmm.", "Reasoned 0 s (2 tokens)", "", "Blue."]


def test_collapsed_reasoning_is_one_line() -> None:
    events: list[Event] = [ReasoningDelta("Hm"), ReasoningDelta("m."), _END, AnswerDelta("Blue."), _END]
    rows = show(events, EmulatedScreen(), reasoning=ReasoningDisplay.COLLAPSE)
    assert rows == ["Reasoned 0 s (2 tokens), Ctrl-O shows it", "", "Blue."]


def test_a_status_line_shows_the_duration_of_the_reasoning() -> None:
    screen = EmulatedScreen()
    view = TurnView(screen, ReasoningDisplay.COLLAPSE)
    view.show(ReasoningDelta("secret thoughts"))
    view.draw()
    assert screen.terminal.rows == ["Reasoning 0 s, 1 token · Ctrl-O shows it · Ctrl-N answers now"]


def test_hidden_reasoning_is_not_shown() -> None:
    events: list[Event] = [ReasoningDelta("Hm"), _END, AnswerDelta("Blue."), _END]
    assert show(events, EmulatedScreen(), reasoning=ReasoningDisplay.HIDE) == ["Blue."]


def test_reasoning_can_be_shown_and_collapsed_again() -> None:
    screen = EmulatedScreen()
    view = TurnView(screen, ReasoningDisplay.COLLAPSE)
    view.show(ReasoningDelta("one "))
    view.toggle_reasoning()
    view.show(ReasoningDelta("two"))
    view.draw()
    assert screen.terminal.rows == ["one two"]
    view.toggle_reasoning()
    view.show(ReasoningDelta(" three"))
    view.show(_END)
    view.end()
    assert screen.terminal.rows == ["one two", "Reasoned 0 s (3 tokens), Ctrl-O shows it"]
    assert view.reasoning_text == "one two three"


def test_a_cut_and_a_call_are_shown() -> None:
    events: list[Event] = [
        PreambleDelta("I **look**."),
        _END,
        CallDelta("functions.find", '{"q":'),
        CallDelta("functions.find", "1}"),
        _END,
        ReasoningDelta("Hm"),
        ReasoningCut(Cut.ANSWER_NOW, 1),
        AnswerDelta("Yes."),
    ]
    assert show(events, EmulatedScreen()) == [
        "I look.",
        "",
        'call to functions.find: {"q":1}',
        "",
        "Hm",
        "Reasoned 0 s (1 token)",
        "The reasoning was stopped: the answer follows.",
        "",
        "Yes.",
    ]


def test_a_long_prefill_shows_its_progress() -> None:
    screen = EmulatedScreen()
    view = TurnView(screen, ReasoningDisplay.SHOW)
    view.show(PrefillProgress(0, 8_000))
    view.show(PrefillProgress(2_000, 8_000))
    view.draw()
    assert screen.terminal.rows == ["Reading the conversation, 2,000 of 8,000 tokens"]
    view.show(AnswerDelta("x"))
    view.end()
    assert screen.terminal.rows == ["x"]


@pytest.mark.parametrize("part", [ReasoningDelta, AnswerDelta, PreambleDelta, lambda text: CallDelta("f\x1b[2J", text)])
def test_model_output_cannot_control_the_terminal(part: type[AnswerDelta]) -> None:
    attack = "\x1b]52;c;eA==\x07 \x1b[2J \x9b5n [link](http://x/\x1b[8m) &#x9b;1m\n\n"
    attack += "```\n\x1bP\x1b\\\n```\n\n|\x1b[1m|\n|-|\n"
    screen = EmulatedScreen(colored=True)
    show([part(character) for character in attack], screen)
    written = screen.terminal.getvalue()
    for code in ("\x1b]", "\x1bP", "\x1b[2J", "\x1b[8", "\x9b", "\x07", "\x1b\\"):
        assert code not in written


def test_escape_sequences_for_colour_are_optional() -> None:
    events: list[Event] = [ReasoningDelta("x"), _END, AnswerDelta("# A\n\n**b** `c`\n\n```py\nimport d\n```\n")]
    plain, colored = EmulatedScreen(), EmulatedScreen(colored=True)
    assert show(events, plain) == show(events, colored)
    assert "\x1b[1;4m" in colored.terminal.getvalue()
    assert "m" not in {part[-1:] for part in plain.terminal.getvalue().split("\x1b")[1:]}
