"""Well-formed headers are parsed as openai_harmony parses them, others leniently."""

import openai_harmony as library
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.harmony.events import Message, Role
from gptoss_cli.harmony.header import ANSWER, Header, is_header_prefix, read_header, split_unfinished
from gptoss_cli.harmony.vocabulary import MESSAGE, START, load_encoding


def read(text: str, *, has_role: bool = True) -> Header:
    return read_header(text, has_role=has_role, default=ANSWER)


def message(channel: str | None = None, recipient: str | None = None, content_type: str | None = None) -> Message:
    return Message(Role.ASSISTANT, "", channel=channel, recipient=recipient, content_type=content_type)


channels = st.sampled_from(["analysis", "commentary", "final", "musing"])
recipients = st.sampled_from(["functions.look", "browser.search", "python"]).map("to={}".format)
content_types = st.sampled_from(["json", "<|constrain|>json", "code"])


@st.composite
def well_formed(draw: st.DrawFn) -> str:
    recipient = draw(st.none() | recipients)
    in_role, in_channel = draw(st.sampled_from([("", f" {recipient}"), (f" {recipient}", "")]))
    content_type = f" {draw(content_types)}" if draw(st.booleans()) else ""
    if recipient is None:
        in_role = in_channel = content_type = ""
    return f"assistant{in_role}<|channel|>{draw(channels)}{in_channel}{content_type}"


@settings(deadline=None)
@given(well_formed())
def test_well_formed_headers_are_parsed_as_by_openai_harmony(text: str) -> None:
    encoding = load_encoding()
    parser = library.StreamableParser(encoding, None, strict=False)
    for token in [START, *encoding.encode(text, allowed_special="all"), MESSAGE]:
        parser.process(token)
    expected = message(parser.current_channel, parser.current_recipient, parser.current_content_type)
    assert read(text) == Header(expected, malformed=False)
    assert read(text.removeprefix("assistant"), has_role=False) == Header(expected, malformed=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", message()),
        ("assistant", message()),
        ("assistantfinal", message("final")),
        ("assistant analysis", message("analysis")),
        ("final", message("final")),
        ("<|channel|>final", message("final")),
        ("assistant<|channel|>", message()),
        ("assistant<|channel|> final", message("final")),
        ("assistant<|channel|>final to=user", message("final")),
        ("assistant<|channel|>commentary json", message("commentary", None, "json")),
        ("assistant<|channel|>final <|constrain|>json", message("final", None, "<|constrain|>json")),
        ("assistant<|channel|>commentary functions.f", message("commentary", "functions.f")),
        ("assistant<|channel|>commentary to= functions.f", message("commentary", "functions.f")),
        ("to=functions.f<|channel|>commentary", message("commentary", "functions.f")),
        (
            "assistant<|channel|>commentary to=python<|constrain|>json",
            message("commentary", "python", "<|constrain|>json"),
        ),
        ("assistant<|channel|>commentary to=python<|constrain|> json", message("commentary", "python", "json")),
    ],
)
def test_nearly_well_formed_headers_are_understood(text: str, expected: Message) -> None:
    assert read(text) == Header(expected, malformed=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("assistant<|channel|>final json well then", message("final", None, "json")),
        ("assistant<|channel|>analysis<|channel|>final", message("final")),
        ("assistant to=functions.f<|channel|>commentary to=functions.g", message("commentary", "functions.f")),
        ("assistant<|channel|>final perhaps", message("final")),
        ("asistant<|channel|>final", message("final")),
        ("user", message("analysis")),
        ("tool<|channel|>final", message("analysis")),
        ("functions.look to=assistant<|channel|>commentary", message("analysis")),
    ],
)
def test_headers_with_unexpected_parts_are_malformed(text: str, expected: Message) -> None:
    assert read(text) == Header(expected, malformed=True)


def test_a_header_without_a_channel_opens_the_default_message() -> None:
    default = message("analysis")
    assert read_header("<|channel|>", has_role=False, default=default).message == default


@settings(deadline=None)
@given(well_formed().filter(lambda text: "musing" not in text))
def test_every_beginning_of_a_well_formed_header_is_a_prefix(text: str) -> None:
    ids = load_encoding().encode(text, allowed_special="all")
    for length in range(len(ids) + 1):
        assert is_header_prefix(load_encoding().decode(ids[:length]))


@pytest.mark.parametrize("text", ["Sorry", "assistant Sorry", "<|channel|>Sorry", "<|channel|>final Sorry", "user"])
def test_content_is_no_header_prefix(text: str) -> None:
    assert not is_header_prefix(text)


@settings(deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(["<|channel|>", "<|constrain|>", "to=", "assistant", "<", " ", "é"])).map("".join)
)
def test_every_text_is_a_header(text: str) -> None:
    assert read(text).message.text == ""
    assert read(text, has_role=False).message.role is Role.ASSISTANT


@pytest.mark.parametrize(
    ("text", "channel", "content"),
    [
        ("assistant", None, ""),
        ("Sorry, no.", None, "Sorry, no."),
        ("<|channel|>final Sorry", "final", " Sorry"),
        ("assistant<|channel|>commentary{}", "commentary", "{}"),
        ("<|channel|>analysis", "analysis", ""),
        ("<|channel|>Sorry", None, "Sorry"),
    ],
)
def test_an_unfinished_header_is_split_into_channel_and_content(text: str, channel: str | None, content: str) -> None:
    found, ids = split_unfinished(load_encoding().encode(text, allowed_special="all"), ANSWER)
    assert (found, load_encoding().decode(ids)) == (message(channel), content)
