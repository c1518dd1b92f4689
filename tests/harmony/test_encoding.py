"""Text is encoded in linear time, with the ids of openai_harmony wherever that can be asked."""

import datetime
import random
from collections.abc import Callable

import openai_harmony
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_cli.errors import ResourceError
from gptoss_cli.harmony import encoding
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.encoding import encode
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.settings import ReasoningEffort

# Characters of every class, and neighbours that the pieces depend on.
ALPHABETS = (
    *("a", "ab", "ACGT", "aA", "漢字かな", "漢Ab", "漢A", "אב", "กขค์", "աբ", "ǅaA", "ʰaA", "é\u0301"),
    *(" ", " \t", " \t\n", "\n", "\r\n ", "\u00a0 ", "\x1c ", "!", "!?-=", "!\u0301", "\u0301", "/\n", "!/\n"),
    *("1", "1a", "'s", "'", "\u017fs", "👍🏽", "_", "\0", "½Ⅷ", "<|end|>"),
)


def by_the_library(text: str) -> list[int]:
    return load_encoding().encode(text, disallowed_special=())


def runs(longest: int) -> st.SearchStrategy[str]:
    """Texts of a few runs, each of the characters of one alphabet, in order or at random."""
    lengths = st.sampled_from([1, 2, 3, 7, 480, 999, 1_001, longest])

    @st.composite
    def run(draw: Callable[[st.SearchStrategy[object]], object]) -> str:
        alphabet, length = str(draw(st.sampled_from(ALPHABETS))), int(str(draw(lengths)))
        if draw(st.booleans()):
            return (alphabet * length)[:length]
        return "".join(random.Random(str(draw(st.integers(0, 2**32)))).choices(alphabet, k=length))

    return st.lists(run(), min_size=1, max_size=5).map("".join)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(runs(2_500))
def test_long_runs_have_the_ids_of_the_library(text: str) -> None:
    assert encode(text) == by_the_library(text)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs(2_500))
def test_100_000_texts_of_long_runs_have_the_ids_of_the_library(text: str) -> None:
    assert encode(text) == by_the_library(text)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(ALPHABETS) | st.text(max_size=5), max_size=12).map("".join))
def test_pieces_are_those_of_the_library(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    pieces = list(encoding._pieces(text))
    assert "".join(text[start:end] for start, end, _ in pieces) == text
    assert [id_ for start, end, _ in pieces for id_ in by_the_library(text[start:end])] == by_the_library(text)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_short_text_is_encoded_by_the_library(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert encode(text) == by_the_library(text)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from((*ALPHABETS, "the", " x", ", ", ".\n", "。", "½!")), max_size=60).map("".join))
def test_a_text_that_is_read_in_parts_has_the_ids_of_the_whole(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_LONGEST_CALL", 10)
        assert encode(text) == by_the_library(text)


@pytest.mark.parametrize("text", ["x" + " " * 1_000_000 + "y", "!" * 300_000, "A" * 300_000, "\n" * 300_000 + "1"])
def test_text_that_the_library_cannot_encode_decodes_to_itself(text: str) -> None:
    assert load_encoding().decode(encode(text)) == text


@pytest.mark.parametrize("run", ["a", " ", "!", "\n", "漢", "ACGT", "\u0301", "漢AA"])
def test_the_characters_that_the_library_reads_grow_as_the_text_does(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    by_library = encoding._by_library

    def counted(text: str) -> list[int]:
        read.append(len(text))
        return by_library(text)

    monkeypatch.setattr(encoding, "_by_library", counted)
    work = []
    for length in (20_000, 80_000):
        read.clear()
        encode((run * length)[:length])
        assert max(read) <= encoding._LONGEST_PIECE
        work.append(sum(read))
    assert work[1] < 4.4 * work[0]
    assert work[0] < 2 * 20_000


def test_a_long_word_in_a_message_and_in_the_instructions_renders_as_the_library_renders_it() -> None:
    long = "before " + "x" * 5_000 + " after<|end|>"
    made = Conversation(f"# {long}\n\n", datetime.date(2026, 1, 2), ReasoningEffort.LOW)
    made.add_user(long)
    text = load_encoding().decode(made.render())
    assert text.count(long) == 2
    developer = openai_harmony.DeveloperContent.new().with_instructions(f"# {long}\n\n")
    message = openai_harmony.Message.from_role_and_content(openai_harmony.Role.DEVELOPER, developer)
    asked = openai_harmony.Message.from_role_and_content(openai_harmony.Role.USER, long)
    expected = load_encoding().render(message) + load_encoding().render(asked)
    assert made.render()[-len(expected) - 2 : -2] == expected


class PanicException(BaseException):
    """An exception as PyO3 raises for a panic of a library in Rust."""


@pytest.mark.parametrize("error", [PanicException("unwrap on a None value\nmore"), ValueError("no")])
def test_a_failure_of_the_library_is_a_resource_error_of_one_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def encode(self, text: str, *, disallowed_special: object) -> list[int]:
            raise error

    monkeypatch.setattr(encoding, "load_encoding", Broken)
    with pytest.raises(ResourceError, match=r"The text cannot be encoded \((unwrap on a None value|no)\)$"):
        encode("hello")


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyboardInterrupt), encoding.library_errors():
        raise KeyboardInterrupt
