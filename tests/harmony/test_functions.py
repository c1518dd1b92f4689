"""Functions of a client: names that the model can write, and a prompt that equals openai_harmony's."""

import datetime
from typing import Any

import openai_harmony as library
import pytest

from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.events import Message, Role
from gptoss_cli.harmony.functions import LONGEST_NAME, Functions, FunctionTool, ToolChoice
from gptoss_cli.harmony.schemas import simplify
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.settings import ReasoningEffort
from tests.harmony.function_schemas import FIFTY_SCHEMAS

DATE = datetime.date(2025, 8, 5)
RESERVED = ["python", "browser", "container", "repo_browser", "apply_patch", "functions", "assistant"]
RESERVED += ["bash", "shell", "computer"]


def functions(*names: str, **options: Any) -> Functions:
    return Functions([FunctionTool(name, "Do it.") for name in names], **options)


def by_the_library(tools: list[FunctionTool], messages: list[library.Message], instructions: str | None) -> list[int]:
    system = library.SystemContent.new().with_conversation_start_date(DATE.isoformat())
    described = [
        library.ToolDescription.new(tool.name, tool.description, simplify(tool.parameters) if tool.parameters else None)
        for tool in tools
    ]
    developer = library.DeveloperContent.new().with_function_tools(described)
    if instructions:
        developer = developer.with_instructions(instructions)
    preface = [
        library.Message.from_role_and_content(library.Role.SYSTEM, system),
        library.Message.from_role_and_content(library.Role.DEVELOPER, developer),
    ]
    conversation = library.Conversation.from_messages([*preface, *messages])
    return load_encoding().render_conversation_for_completion(conversation, library.Role.ASSISTANT)


def assistant(channel: str, text: str) -> library.Message:
    return library.Message.from_role_and_content(library.Role.ASSISTANT, text).with_channel(channel)


@pytest.mark.parametrize("instructions", [None, "Be brief."])
def test_a_prompt_with_functions_and_several_results_equals_that_of_openai_harmony(instructions: str | None) -> None:
    tools = [FunctionTool(f"f{i}", "First line.\nSecond 🙂.", schema) for i, schema in enumerate(FIFTY_SCHEMAS)]
    made = Conversation(instructions, DATE, ReasoningEffort.MEDIUM, Functions([*tools, FunctionTool("empty")]))
    made.add_user("q")
    expected = [library.Message.from_role_and_content(library.Role.USER, "q")]
    for step, content_type in enumerate((None, "json", "<|constrain|>json", "code")):
        made.add(Message(Role.ASSISTANT, f"step {step}", channel="analysis"))
        made.add(Message(Role.ASSISTANT, "{}", "commentary", f"functions.f{step}", content_type))
        made.add_result(f"functions.f{step}", "<|end|> is text")
        call = assistant("commentary", "{}").with_recipient(f"functions.f{step}")
        result = library.Message.from_author_and_content(
            library.Author.new(library.Role.TOOL, f"functions.f{step}"), "<|end|> is text"
        )
        expected += [
            assistant("analysis", f"step {step}"),
            call.with_content_type(content_type) if content_type else call,
            result.with_recipient("assistant").with_channel("commentary"),
        ]
    assert made.render() == by_the_library([*tools, FunctionTool("empty")], expected, instructions)


def test_a_result_is_written_as_the_model_was_trained() -> None:
    made = Conversation(None, DATE, ReasoningEffort.MEDIUM, functions("look"))
    made.add_result("functions.look", "42")
    text = load_encoding().decode(made.render())
    assert "Calls to these tools must go to the commentary channel: 'functions'.<|end|>" in text
    assert text.endswith(
        "<|start|>functions.look to=assistant<|channel|>commentary<|message|>42<|end|><|start|>assistant"
    )


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_name_has_an_alias_that_is_translated_back(name: str) -> None:
    offered = functions(name)
    assert offered.recipients == (f"functions.my_{name}",)
    assert offered.name(f"functions.my_{name}") == name
    assert offered.declaration is not None
    assert offered.declaration.tools[0].name == f"my_{name}"


@pytest.mark.parametrize(
    "name", ["get-weather", "a.b", "ünïcode", "", "2nd", "x" * 200, "a b", "<|end|>", "\ud800", "functions.x", "a\nb"]
)
def test_a_name_that_no_header_can_hold_has_an_alias(name: str) -> None:
    offered = functions(name, "other")
    (alias, _) = (recipient.removeprefix("functions.") for recipient in offered.recipients)
    assert alias.isidentifier()
    assert alias.isascii()
    assert len(alias) <= LONGEST_NAME
    assert offered.name(f"functions.{alias}") == name


def test_aliases_differ_and_a_valid_name_is_kept() -> None:
    names = ["a-b", "a.b", "a_b", "my_python", "python", "y" * 80, "y" * 90, "y" * 64]
    offered = functions(*names)
    assert len(set(offered.recipients)) == len(names)
    assert [offered.name(recipient) for recipient in offered.recipients] == names
    assert offered.recipient("a_b") == "functions.a_b"
    assert offered.recipient("my_python") == "functions.my_python"
    assert offered.recipient("y" * 64) == f"functions.{'y' * 64}"


def test_a_call_to_a_function_that_is_no_longer_declared_keeps_its_name() -> None:
    assert functions("look").recipient("look.up") == "functions.look_up"
    assert functions("look").name("functions.other") == "other"


def test_the_choice_decides_what_may_be_called() -> None:
    assert functions("a", "b", choice=ToolChoice.NONE).recipients == ()
    assert functions("a", "b", choice=ToolChoice.NONE).declaration == functions("a", "b").declaration
    required = functions("a", "b", choice=ToolChoice.REQUIRED, only="b")
    assert (required.recipients, required.must_call) == (("functions.b",), True)


@pytest.mark.parametrize(
    ("names", "options"),
    [(("a", "a"), {}), (("a",), {"only": "b"}), ((), {"choice": ToolChoice.REQUIRED})],
)
def test_contradictory_functions_are_an_error(names: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        functions(*names, **options)


@pytest.mark.parametrize("text", ["x" * 50_000, " " * 50_000, "word " * 300_000])
def test_a_declaration_that_no_context_holds_is_an_error(text: str) -> None:
    for tool in (FunctionTool("f", text), FunctionTool("f", "", {"properties": {"a": {"description": text}}})):
        with pytest.raises(UsageError):
            assert Functions([tool]).declaration


def test_arguments_of_an_unsupported_schema_are_still_an_object() -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}, "b": {"type": "integer"}}}
    for parameters in (schema, {"type": "object", "$ref": "https://example.org/x"}, {"type": "string"}):
        arguments = Functions([FunctionTool("f", "", parameters)]).arguments_format("functions.f")
        assert arguments is not None
        assert arguments.accepts('{"b": 1}')
        assert not arguments.accepts("b = 1")


def test_arguments_are_written_with_or_without_spaces() -> None:
    pytest.importorskip("llguidance")
    arguments = Functions([FunctionTool("f", "", FIFTY_SCHEMAS[2])]).arguments_format("functions.f")
    assert arguments is not None
    assert arguments.accepts('{"city": "Rome", "unit": "celsius"}')
    assert arguments.accepts('{"city":"Rome","unit":"celsius"}')
    assert not arguments.accepts('{"city": "Rome", "unit": "kelvin"}')
    assert not arguments.accepts('{"city": "Rome", "country": "Italy"}')
