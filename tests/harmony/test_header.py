"""Headers are read as the library reads them where it can, and leniently where it cannot."""

import openai_harmony as library
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.harmony.events import Message, Role
from gptoss_cli.harmony.header import ANSWER, Header, may_become_header, read_header, split_unfinished
from gptoss_cli.harmony.vocabulary import MESSAGE, START, load_encoding


def read(text: str, *, names_role: bool = True) -> Header:
    return read_header(text, names_role=names_role, otherwise=ANSWER)


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
def test_well_formed_headers_are_read_as_the_library_reads_them(text: str) -> None:
    encoding = load_encoding()
    parser = library.StreamableParser(encoding, None, strict=False)
    for token in [START, *encoding.encode(text, allowed_special="all"), MESSAGE]:
        parser.process(token)
    expected = message(parser.current_channel, parser.current_recipient, parser.current_content_type)
    assert read(text) == Header(expected, stray=False)
    assert read(text.removeprefix("assistant"), names_role=False) == Header(expected, stray=False)


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
def test_headers_that_are_nearly_right_mean_what_they_must(text: str, expected: Message) -> None:
    assert read(text) == Header(expected, stray=False)


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
def test_headers_with_something_stray_say_so(text: str, expected: Message) -> None:
    assert read(text) == Header(expected, stray=True)


def test_a_header_without_a_channel_means_the_message_it_was_told() -> None:
    otherwise = message("analysis")
    assert read_header("<|channel|>", names_role=False, otherwise=otherwise).message == otherwise


@settings(deadline=None)
@given(well_formed().filter(lambda text: "musing" not in text))
def test_every_beginning_of_a_well_formed_header_may_become_one(text: str) -> None:
    ids = load_encoding().encode(text, allowed_special="all")
    for length in range(len(ids) + 1):
        assert may_become_header(load_encoding().decode(ids[:length]))


@pytest.mark.parametrize("text", ["Sorry", "assistant Sorry", "<|channel|>Sorry", "<|channel|>final Sorry", "user"])
def test_speech_in_a_header_cannot_become_one(text: str) -> None:
    assert not may_become_header(text)


@settings(deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(["<|channel|>", "<|constrain|>", "to=", "assistant", "<", " ", "é"])).map("".join)
)
def test_every_text_is_some_header(text: str) -> None:
    assert read(text).message.text == ""
    assert read(text, names_role=False).message.role is Role.ASSISTANT


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
