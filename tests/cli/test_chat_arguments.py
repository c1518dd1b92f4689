"""The arguments of slash commands: too many change nothing, and settings can be kept."""

import copy
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_cli.cli.config_file import read_config
from gptoss_cli.settings import config_file
from gptoss_cli.terminal.console import Console
from gptoss_cli.terminal.slash import COMMANDS
from tests.cli.test_chat_commands import Talk, begin

_LIMITED = {name: command.most_words for name, command in COMMANDS.items() if command.most_words is not None}
_WORD = st.text(string.ascii_letters + string.digits + "/-.漢", min_size=1, max_size=6)


def _state(talk: Talk) -> dict[str, Any]:
    session, state = talk.session, talk.chat.state
    return copy.deepcopy(
        {
            "messages": session.conversation.messages,
            "instructions": session.conversation.instructions,
            "effort": session.conversation.effort,
            "settings": session.settings,
            "raw": session.last_raw,
            "attached": state.attached,
            "reasoning": state.reasoning,
            "leaving": state.is_leaving,
            "edited": state.edited_from,
            "draft": state.draft,
            "prompts": len(talk.generator.prompts),
        }
    )


@pytest.fixture(scope="module")
def talk() -> Talk:
    """A chat after one turn, with an edit begun."""
    talk = begin("Blue.", "SENT", reasoning="Hm.")
    talk.say("Sky?", "/edit")
    return talk


@pytest.mark.parametrize(("name", "most"), _LIMITED.items())
@given(words=st.lists(_WORD, min_size=1, max_size=3), valid=st.booleans())
def test_too_many_words_are_an_error_and_nothing_happens(
    name: str, most: int, words: list[str], valid: bool, talk: Talk
) -> None:
    values = COMMANDS[name].values or ("x",)
    arguments = [values[0] if valid else "1"] * most + words
    before = _state(talk)
    told = talk.say(" ".join([name, *arguments]))
    assert f"gptoss: {name} has too many arguments: {' '.join(words)}. " in told
    assert _state(talk) == before


@pytest.mark.parametrize(
    "line", ["/new foo", "/undo 5", "/edit foo", "/tokens x y", "/raw foo", "/exit now", "/bye now"]
)
def test_a_surplus_word_is_named_with_what_the_command_takes(line: str, talk: Talk) -> None:
    before = _state(talk)
    told = talk.say(line)
    assert f"has too many arguments: {line.split()[-1]}. " in told
    assert ("It takes none" in told) == (not line.startswith("/tokens"))
    assert _state(talk) == before


def test_a_command_without_a_limit_takes_a_text_or_a_path() -> None:
    unlimited = {name for name, command in COMMANDS.items() if command.most_words is None}
    assert unlimited == {"/model", "/instructions", "/file", "/save", "/export", "/conversations", "/resume"}


@pytest.mark.parametrize("line", ["/retry hgh", "/retry high"])
def test_retry_without_a_message_changes_no_effort(line: str) -> None:
    talk = begin("Blue.")
    before = _state(talk)
    assert "gptoss: There is no " in talk.say(line)
    assert _state(talk) == before


@pytest.mark.parametrize(
    ("line", "meant"), [("/?", "/help"), ("/bye", "/exit"), ("/clear", "/new"), ("/quit", "/exit")]
)
def test_the_names_of_other_programs_act(line: str, meant: str) -> None:
    one, other = begin("Blue."), begin("Blue.")
    one.say("Sky?")
    other.say("Sky?")
    assert one.say(line) == other.say(meant)
    assert (one.said, one.chat.state.is_leaving) == (other.said, other.chat.state.is_leaving)


def test_a_name_of_another_program_for_something_similar_is_answered_with_ours() -> None:
    assert "There is no command /system. Did you mean /instructions?" in begin().say("/system x")
    assert "There is no command /HELP. Did you mean /help?" in begin().say("/HELP")


@pytest.mark.parametrize("command", ["/new", "/undo"])
def test_a_turn_that_was_removed_is_not_shown(command: str) -> None:
    talk = begin("Blue.")
    talk.say("Sky?", command)
    for line in ("/raw", "/tokens last", "/experts"):
        assert talk.say(line) == "gptoss: There is no turn to show. Send a message first.\n"


def test_files_that_wait_are_listed_and_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A")
    talk = begin("Fine.")
    talk.say(f"/file {tmp_path}/a.txt", f"/file {tmp_path}/a.txt")
    assert (
        talk.say("/file") == f"With the next message go {tmp_path}/a.txt, {tmp_path}/a.txt. To drop them: /file off\n"
    )
    assert talk.say("/file off") == "Dropped 2 files: the next message goes without.\n"
    talk.say("Hello")
    assert talk.said[0] == "Hello"
    assert "Name a file to send along: /file PATH" in talk.say("/file")
    assert "There is no file to drop. To attach one of that name: /file ./off" in talk.say("/file off")


_BLOCKS = "```py\na = 1\n```\n\nand\n\n```\nb\n```\n"


@pytest.mark.parametrize(("line", "copied"), [("/copy code", "b"), ("/copy code 1", "a = 1"), ("/copy code 2", "b")])
def test_a_code_block_is_copied_by_its_number(line: str, copied: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []

    def take(text: str, console: Console) -> str:
        texts.append(text)
        return "Copied."

    monkeypatch.setattr("gptoss_cli.cli.chat_commands.copy", take)
    talk = begin(_BLOCKS)
    talk.say("Code?")
    assert talk.say(line) == "Copied.\n"
    assert [text.strip() for text in texts] == [copied]


@pytest.mark.parametrize("number", ["0", "3", "-1", "x", "1.0", "²", "9" * 5000])
def test_a_code_block_that_is_not_there_is_an_error(number: str) -> None:
    talk = begin(_BLOCKS)
    talk.say("Code?")
    assert "The last answer has 2 code blocks, and none is number " in talk.say(f"/copy code {number}")


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))


def _kept() -> dict[str, object]:
    return {key: entry.value for key, entry in read_config(config_file()).items()}


@pytest.mark.usefixtures("_home")
def test_keep_writes_what_differs_and_leaves_the_rest_of_the_file() -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text("# mine\nseed = 7  # lucky\ntimeout = 5\n")
    talk = begin()
    talk.say("/effort high", "/set temperature 0.5", "/set seed 8", "/instructions Be\tbrief")
    told = talk.say("/keep")
    assert told.startswith('New chats begin with effort = "high", instructions = "Be\\tbrief"')
    assert _kept() == {
        "seed": 8,
        "timeout": 5,
        "effort": "high",
        "temperature": 0.5,
        "instructions": "Be\tbrief",
    }
    assert config_file().read_text().startswith("# mine\nseed = 8  # lucky\n")
    assert "There is nothing to keep: new chats begin like this already." in talk.say("/keep")


@pytest.mark.usefixtures("_home")
def test_keep_writes_one_setting_alone() -> None:
    talk = begin()
    talk.say("/effort high", "/set temperature 0.5", "/reasoning show", "/keep temperature", "/keep reasoning")
    assert _kept() == {"temperature": 0.5, "reasoning": "show"}


@pytest.mark.usefixtures("_home")
def test_keep_writes_a_default_over_another_value() -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text('effort = "high"\nseed = 7\n')
    talk = begin()
    talk.say("/keep effort")
    assert _kept()["effort"] == "medium"
    before = config_file().read_text()
    assert f"seed is off, but line 2 of {config_file()} sets it. Run: gptoss config edit" in talk.say("/keep")
    assert config_file().read_text() == before


@pytest.mark.usefixtures("_home")
def test_instructions_that_would_be_read_as_a_file_name_are_not_kept() -> None:
    talk = begin()
    talk.session.conversation.instructions = "@home is where you are"
    assert "Instructions that begin with @ cannot be kept" in talk.say("/keep")
    assert _kept() == {}


@pytest.mark.usefixtures("_home")
def test_a_broken_settings_file_is_named_and_nothing_is_kept() -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text("effort =\n")
    assert f"{config_file()}, line 1" in begin().say("/effort high", "/keep")
    assert config_file().read_text() == "effort =\n"


def test_pasted_text_and_several_lines_are_messages() -> None:
    talk = begin("One.", "Two.", "Three.", "Four.")
    talk.chat.take("// a comment", pasted=True)
    talk.chat.take("/* a\n * comment */")
    talk.chat.take("//one\n//two")
    talk.chat.take("/new", pasted=True)
    assert talk.said[::2] == ["// a comment", "/* a\n * comment */", "//one\n//two", "/new"]
    assert "Sent as a message, not run: a command has to be typed, in one line.\n" in talk.streams.err
    assert talk.streams.err.count("Sent as") == 1


def test_verbose_adds_one_line_of_statistics() -> None:
    talk = begin("Blue.", reasoning="Hm.")
    talk.streams.console.verbose = True
    told = talk.say("Sky?").splitlines()
    lines = [line for line in told if line.startswith("Tokens: ")]
    assert len(lines) == 1
    end = talk.session.last_end
    assert end is not None
    assert lines[0].startswith(f"Tokens: {end.prompt_tokens} prompt (0 cached), {end.reasoning_tokens} reasoning, ")
    assert lines[0].endswith(f"seed {end.seed}")
