"""A raw turn, told apart by channel."""

from gptoss_cli.terminal.console import Style
from gptoss_cli.terminal.raw import by_channel


def test_reasoning_calls_answers_and_markup_differ() -> None:
    raw = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.f"
        " <|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Blue.<|return|>"
    )
    pieces = list(by_channel(raw))
    assert "".join(text for text, _ in pieces) == raw
    styles = {text: style for text, style in pieces if text in ("Hm.", "{}", "Blue.", "analysis", "<|end|>")}
    assert styles == {
        "Hm.": Style.DIM,
        "{}": Style.CALL,
        "Blue.": Style.PLAIN,
        "analysis": Style.MARKUP,
        "<|end|>": Style.MARKUP,
    }
