"""The tokens of a prompt have the text, role and channel of their message."""

import datetime

from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import Channel, Message, Role
from gptoss_cli.harmony.prompt_tokens import prompt_tokens
from gptoss_cli.settings import ReasoningEffort


def _conversation(effort: ReasoningEffort = ReasoningEffort.LOW) -> Conversation:
    conversation = Conversation("Be brief.", datetime.date(2025, 8, 5), effort)
    conversation.add_user("Hello <|end|>")
    return conversation


def test_ids_are_those_of_the_conversation() -> None:
    ids = _conversation().render()
    assert [token.id for token in prompt_tokens(ids)] == ids


def test_each_token_has_the_role_of_its_message() -> None:
    tokens = prompt_tokens(_conversation().render())
    assert list(dict.fromkeys(token.role for token in tokens)) == ["system", "developer", "user", "assistant"]
    assert {token.channel for token in tokens} == {""}


def test_an_answer_has_its_channel() -> None:
    conversation = _conversation()
    conversation.add(Message(Role.ASSISTANT, "Hi.", Channel.FINAL))
    conversation.add_user("Bye")
    tokens = prompt_tokens(conversation.render())
    assert "".join(token.text for token in tokens if token.channel == "final") == (
        "<|start|>assistant<|channel|>final<|message|>Hi.<|end|>"
    )


def test_a_header_at_the_end_is_shown_with_its_channel() -> None:
    tokens = prompt_tokens(_conversation(ReasoningEffort.NONE).render())
    assert (tokens[-1].text, tokens[-1].role, tokens[-1].channel) == ("<|message|>", "assistant", "final")


def test_special_tokens_in_the_text_of_a_user_stay_text() -> None:
    tokens = [token for token in prompt_tokens(_conversation().render()) if token.role == "user"]
    assert "".join(token.text for token in tokens) == "<|start|>user<|message|>Hello <|end|><|end|>"
    assert [token.text for token in tokens].count("<|end|>") == 1


def test_a_part_of_a_character_is_shown_as_a_replacement() -> None:
    conversation = _conversation()
    conversation.add_user("\N{LLAMA}\N{EGYPTIAN HIEROGLYPH A001}")
    assert any("\ufffd" in token.text for token in prompt_tokens(conversation.render()))
