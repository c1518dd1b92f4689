"""The words for hints."""

import re

import pytest

from gptoss_cli.cli.hints import HINT_WORDS, sentence
from gptoss_cli.errors import GptossError, Hint, NotInstalledError, ResourceError


@pytest.mark.parametrize("hint", Hint)
def test_every_hint_has_words_for_the_command_line_and_for_a_chat(hint: Hint) -> None:
    for words in HINT_WORDS[hint]:
        verb, what = words
        assert verb[0].islower()
        assert what.strip(" .")


@pytest.mark.parametrize("hint", Hint)
def test_every_sentence_is_the_message_and_then_the_hint(hint: Hint) -> None:
    for in_chat in (False, True):
        words = sentence(GptossError("It failed", hint, subject="20b"), in_chat=in_chat)
        assert re.match(r"It failed\. [A-Z]", words)
        assert "{" not in words


def test_a_message_without_hints_stays_as_it_is() -> None:
    assert sentence(GptossError("It failed")) == "It failed"


def test_hints_are_alternatives_and_a_verb_is_not_repeated() -> None:
    error = ResourceError("It does not fit", Hint.SMALLER_CONTEXT, Hint.OFFLOAD, Hint.CPU)
    assert sentence(error) == "It does not fit. Use a smaller --context, --execution offload, or --device cpu"
    error = ResourceError("It is too long", Hint.SHORTER_CONVERSATION, Hint.LARGER_CONTEXT)
    assert sentence(error) == "It is too long. Shorten it, or use a larger --context"


def test_the_subject_is_part_of_the_hint() -> None:
    error = NotInstalledError("gpt-oss-20b is not downloaded", Hint.DOWNLOAD, subject="20b")
    assert sentence(error) == "gpt-oss-20b is not downloaded. Run: gptoss download 20b"
    assert sentence(NotInstalledError("config.json is missing", Hint.DOWNLOAD)).endswith("Run: gptoss download")


def test_a_message_that_is_a_question_gets_no_full_stop() -> None:
    assert sentence(GptossError("Which one?", Hint.EDIT_SETTINGS)) == "Which one? Run: gptoss config edit"


def test_a_chat_names_its_own_commands() -> None:
    error = ResourceError("It is too long", Hint.SHORTER_CONVERSATION, Hint.LARGER_CONTEXT)
    words = sentence(error, in_chat=True)
    assert "/undo" in words
    assert "/new" in words
    assert "start gptoss chat with a larger --context" in words
