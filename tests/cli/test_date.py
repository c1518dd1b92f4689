"""The date that the model is told can be given, so that the same seed gives the same answer another day."""

import datetime
import json
import tomllib
from pathlib import Path

import pytest

from gptoss_cli import settings
from gptoss_cli.archive.archive import Archive
from gptoss_cli.chat.request import ChatRequest, Notify, OpenedModel, Say
from gptoss_cli.cli.chat import Chat
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.resuming import archive_path
from gptoss_cli.harmony.vocabulary import load_encoding
from tests.archive.conversations import complain
from tests.cli.conftest import Run
from tests.cli.scripted_program import opened_with
from tests.scripted_generator import ScriptedGenerator
from tests.terminal.streams import Streams

TODAY = datetime.date(2031, 5, 6)
ANSWER = "<|channel|>final<|message|>Blue.<|return|>"


class Opener:
    """Opens a model that answers once; `prompt` is the text of the prompt that it read."""

    def __call__(self, request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
        self.generator = ScriptedGenerator([load_encoding().encode(ANSWER, allowed_special="all")])
        return opened_with(self.generator, ChatRequest(date=request.date or TODAY))

    @property
    def prompt(self) -> str:
        return load_encoding().decode(self.generator.prompts[0])


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("config", "variable", "arguments", "date"),
    [
        ("", "", [], "2031-05-06"),
        ("", "", ["--date", "2025-08-05"], "2025-08-05"),
        ("", "2025-08-06", [], "2025-08-06"),
        ('date = "2025-08-07"', "", [], "2025-08-07"),
        ("date = 2025-08-08", "", [], "2025-08-08"),
        ("date = 2025-08-08", "2025-08-06", ["--date", "2025-08-05"], "2025-08-05"),
    ],
)
def test_the_date_is_in_the_prompt_and_in_the_json(
    config: str, variable: str, arguments: list[str], date: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.config_folder().mkdir(parents=True)
    settings.config_file().write_text(config)
    if variable:
        monkeypatch.setenv("GPTOSS_DATE", variable)
    opener = Opener()
    status, out, err = run("ask", "--json", *arguments, "Sky?", open_model=opener)
    assert (status, err) == (0, "")
    assert json.loads(out)["date"] == date
    assert f"Current date: {date}\n" in opener.prompt
    start = json.loads(run("ask", "--stream-json", *arguments, "Sky?", open_model=opener)[1].splitlines()[0])
    assert start["date"] == date


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("", ["--date", "5 August"], "--date: '5 August' is not a date. Write one like 2025-08-05"),
        ("", ["--date", "2025-02-30"], "--date: '2025-02-30' is not a date. Write one like 2025-08-05"),
        ('date = "soon"', [], "line 1: date: 'soon' is not a date. Write one like 2025-08-05"),
    ],
)
def test_what_is_no_date_is_refused(config: str, arguments: list[str], message: str, run: Run) -> None:
    settings.config_folder().mkdir(parents=True)
    settings.config_file().write_text(config)
    status, out, err = run("ask", *arguments, "Sky?", open_model=Opener())
    assert (status, out) == (2, "")
    assert message in err


def test_a_date_in_the_settings_is_shown_as_a_setting(run: Run) -> None:
    settings.config_folder().mkdir(parents=True)
    settings.config_file().write_text("date = 2025-08-08")
    assert tomllib.loads(run("config")[1])["date"] == "2025-08-08"
    assert json.loads(run("config", "--json")[1])["settings"]["date"]["value"] == "2025-08-08"


def test_a_conversation_keeps_its_date_unless_another_is_given(run: Run) -> None:
    run("ask", "--save", "--date", "2025-08-05", "Sky?", open_model=Opener())
    opener = Opener()
    run("ask", "-c", "And?", open_model=opener)
    assert "Current date: 2025-08-05\n" in opener.prompt
    run("ask", "-c", "--date", "2025-08-09", "And?", open_model=opener)
    assert "Current date: 2025-08-09\n" in opener.prompt
    (row,) = [each.row for each in Archive(archive_path(), notice=complain).summaries()]
    assert row.date == "2025-08-09"


@pytest.mark.parametrize("given", [None, datetime.date(2025, 8, 5)])
def test_a_new_conversation_in_a_chat_has_the_date_that_was_given(given: datetime.date | None) -> None:
    streams, opener = Streams(), Opener()
    chat = Chat(ChatRequest(date=given), Environment(streams.console, opener), plain=True, vi=False)
    chat.take("/new")
    chat.take("Sky?")
    assert f"Current date: {given or datetime.date.today()}\n" in opener.prompt
