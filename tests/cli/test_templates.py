"""Prompt templates of `ask` and `chat`."""

from pathlib import Path

import pytest

from gptoss_cli.cli.options import TemplateOptions
from gptoss_cli.cli.templates import Template, find_template, prompt_of
from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.vocabulary import load_encoding
from gptoss_cli.settings import config_folder
from tests.cli.conftest import Run, Script, turn
from tests.cli.scripted_program import opened_with
from tests.cli.terminal_driver import ForkedTerminal
from tests.scripted_generator import ScriptedGenerator
from tests.terminal.streams import Streams


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of templates, with one that takes a prompt and a language, and one that takes neither."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    templates = config_folder() / "templates"
    templates.mkdir(parents=True)
    (templates / "translate.txt").write_text("To $lang, for $$5:\n$input\n", "utf-8")
    (templates / "joke.txt").write_text("Tell a joke.", "utf-8")
    return templates


def _found(name: str, *parameters: str) -> Template:
    template = find_template(TemplateOptions(template=name, parameters=list(parameters)), Streams().console)
    assert template is not None
    return template


def test_the_prompt_and_the_parameters_are_put_in_once() -> None:
    filled = _found("translate", "lang=$input").filled("costs $lang $$")
    assert filled == "To $input, for $5:\ncosts $lang $$"


def test_a_prompt_without_a_place_for_it_follows_the_text() -> None:
    assert _found("joke").filled("About cats.") == "Tell a joke.\n\nAbout cats."
    assert _found("joke").filled("") == "Tell a joke."


@pytest.mark.parametrize(
    ("text", "filled"),
    [("a $ b", "a $ b"), ("$5 and $", "$5 and $"), ("${input}s", "Xs"), ("$$input", "$input"), ("$input$input", "XX")],
)
def test_a_dollar_sign_that_names_nothing_is_text(text: str, filled: str, folder: Path) -> None:
    (folder / "own.txt").write_text(text, "utf-8")
    assert _found("own").filled("X").removesuffix("\n\nX") == filled


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("translat", [], "There is no template 'translat'. Did you mean translate?"),
        ("translate.txt", [], "Did you mean translate?"),
        ("../config", [], "There is no template '../config'. Put its text into a file NAME.txt in "),
        ("", [], "There is no template ''."),
        ("translate", [], "The template translate needs a value: --param lang VALUE."),
        ("translate", ["lang=French", "tone=dry"], "has no parameter 'tone'. It has: lang"),
        ("translate", ["input=x"], "has no parameter 'input'. It has: lang"),
        ("translate", ["lang"], "--param takes a name and a value, such as: --param lang VALUE"),
        ("joke", ["lang=French"], "The template joke has no parameter 'lang'. It has none"),
        (None, ["lang=French"], "--param needs a template. Add --template NAME."),
    ],
)
def test_an_unknown_name_or_a_missing_value_is_a_usage_error(
    name: str | None, parameters: list[str], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        find_template(TemplateOptions(template=name, parameters=parameters), Streams().console)
    assert told in str(caught.value)


def test_a_template_that_takes_no_prompt_needs_none() -> None:
    console = Streams().console
    assert prompt_of(_found("joke"), [], console) == "Tell a joke."
    with pytest.raises(UsageError, match="There is no prompt"):
        prompt_of(_found("translate", "lang=French"), [], console)


@pytest.mark.parametrize(
    "parameter", [["--param", "lang", "--x"], ["--param", "lang=--x"], ["--param=lang=--x"]], ids=" ".join
)
def test_ask_puts_its_prompt_into_the_template(parameter: list[str], run: Run) -> None:
    encoding = load_encoding()
    generator = ScriptedGenerator([encoding.encode(str(turn("Bonjour.")[0]), allowed_special="all")])
    status, out, err = run(
        "ask",
        "--template",
        "translate",
        *parameter,
        "Hello",
        open_model=lambda request, **_: opened_with(generator, request),
    )
    assert (status, out, err) == (0, "Bonjour.\n", "")
    assert "To --x, for $5:\nHello<|end|>" in encoding.decode(generator.prompts[0])


def test_an_unknown_template_exits_2_before_the_model_is_opened(run: Run) -> None:
    status, out, err = run("ask", "--template", "jok", "Hello")
    assert (status, out) == (2, "")
    assert err == "gptoss: There is no template 'jok'. Did you mean joke?\n"


def test_the_first_message_of_a_chat_goes_into_the_template(script: Script) -> None:
    played = script(turn("Bonjour."), turn("Salut."))
    options = ["--template", "translate", "--param", "lang", "French"]
    with ForkedTerminal("chat", *options, script=played) as terminal:
        terminal.wait_for("Your first message goes into the template translate.")
        terminal.wait_for("131,072")
        terminal.type("Hello\r")
        terminal.wait_for("Bonjour.\n\n>")
        terminal.type("/edit\r")
        terminal.wait_for("> To French, for $5:\n  Hello")


def test_a_chat_shows_and_sends_the_filled_template(script: Script) -> None:
    with ForkedTerminal("chat", "--template", "joke", "Cats.", script=script(turn("Ha."))) as terminal:
        terminal.wait_for("> Tell a joke.\n\n  Cats.\nHa.")
