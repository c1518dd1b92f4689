"""Settings: the content of config.toml, what overrides it, and the messages for its mistakes."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from gptoss_cli import settings
from tests.cli.conftest import Run, Script, ask_here, turn


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the path of config.toml, in a folder that exists."""
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    settings.config_folder().mkdir()
    return settings.config_file()


def _ask(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ask_here(script, *arguments, "x")


def test_a_flag_beats_a_variable_beats_the_file(config: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('effort = "low"\nmax-tokens = 500\n')
    answers = script(turn("Blue."))
    assert json.loads(_ask(answers, "--json").stdout)["effort"] == "low"
    monkeypatch.setenv("GPTOSS_EFFORT", "high")
    assert json.loads(_ask(answers, "--json").stdout)["effort"] == "high"
    assert json.loads(_ask(answers, "--json", "-e", "medium").stdout)["effort"] == "medium"


def test_show_prints_each_value_and_its_origin(config: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('# mine\n\neffort = "low"\ntop-k = 5\n')
    monkeypatch.setenv("GPTOSS_TOP_K", "7")
    status, shown, asides = run("config", "--json")
    values = json.loads(shown)["settings"]
    assert (status, asides) == (0, "")
    assert values["effort"] == {"value": "low", "origin": f"{config}, line 3"}
    assert values["top-k"] == {"value": 7, "origin": "GPTOSS_TOP_K"}
    assert values["temperature"] == {"value": 1.0, "origin": "default"}


def test_the_shown_settings_are_a_file_that_sets_the_same(config: Path, run: Run) -> None:
    config.write_text('effort = "low"\ninstructions = "Say \\"hi\\"\\n"\ntimeout = 2.5\ngpu-memory = "8GiB"\n')
    status, shown, _ = run("config", "show")
    assert status == 0
    values = tomllib.loads(shown)
    assert (values["effort"], values["instructions"], values["timeout"]) == ("low", 'Say "hi"\n', 2.5)
    assert values["gpu-memory"] == "8GiB"
    assert "model" not in values
    config.write_text(shown)
    assert [line.split("#")[0].rstrip() for line in run("config")[1].splitlines() if line[0] != "#"] == [
        line.split("#")[0].rstrip() for line in shown.splitlines() if line[0] != "#"
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\neffort = 'hgh'", 2, "There is no effort 'hgh'. Choose none, low, medium or high. Run: gptoss config edit"),
        ("effort = 3", 1, "effort should be text in quotes"),
        ("\n\nseed = 1.5", 3, "seed should be a whole number from 0 to 4294967295, not 1.5. Run: gptoss config edit"),
        ("seed = true", 1, "seed should be a whole number from 0 to 4294967295, not true"),
        ("seed = [1]", 1, "seed should be one value"),
        ("[seed]\na = 1", 1, "seed should be one value"),
        ("top-p = 0", 1, "top-p: 0 leaves no token to choose"),
        ("temperature = nan", 1, "temperature should be a number from 0 to 10, not nan"),
        ("context = 1_000_000_000", 1, "context should be a whole number from 2 to 131072, not 1000000000"),
        ("a = 1\na = 2", 2, "a is set twice"),
        ("a = 1\nb = [", 2, "Run: gptoss config edit"),
        ("a = 1\n\x00", 2, "line 2"),
        ("color = 'pink'", 1, "There is no color mode 'pink'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_location(
    text: str, line: int, message: str, config: Path, run: Run
) -> None:
    config.write_text(text)
    for arguments in (("config",), ("ask", "x")):
        status, answer, asides = run(*arguments)
        assert (status, answer, asides.count("\n")) == (2, "", 1)
        assert f"{config}, line {line}: " in asides
        assert message in asides


def test_bytes_that_are_not_utf8_are_reported_with_their_line(config: Path, run: Run) -> None:
    config.write_bytes(b"seed = 1\n# \xff\n")
    status, _, asides = run("config")
    assert (status, f"{config}, line 2: not UTF-8" in asides) == (2, True)


def test_a_byte_order_mark_is_allowed(config: Path, run: Run) -> None:
    config.write_bytes('effort = "low"'.encode("utf-8-sig"))
    assert 'effort = "low"' in run("config")[1]


def test_an_unknown_key_is_a_warning_with_the_closest_one(config: Path, run: Run) -> None:
    config.write_text("temprature = 1\n")
    status, _, asides = run("config")
    assert status == 0
    assert asides == f"{config}, line 1: there is no setting temprature. Did you mean temperature?\n"


def test_quiet_silences_the_warning(config: Path, script: Script) -> None:
    config.write_text("temprature = 1\n")
    assert "temprature" in _ask(script(turn("Blue."))).stderr
    assert _ask(script(turn("Blue.")), "-q").stderr == ""


def test_a_folder_instead_of_the_file_is_an_error(config: Path, run: Run) -> None:
    config.mkdir()
    status, _, asides = run("config")
    assert (status, asides.count("\n")) == (2, 1)
    assert str(config) in asides


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("ask", "--help"), ("config", "path")])
def test_a_broken_file_stops_neither_help_nor_its_repair(arguments: tuple[str, ...], config: Path, run: Run) -> None:
    config.write_text("[")
    status, shown, asides = run(*arguments)
    assert (status, asides) == (0, "")
    assert shown


def test_path_prints_the_path_of_the_file(config: Path, run: Run) -> None:
    assert run("config", "path") == (0, f"{config}\n", "")


def test_edit_opens_a_file_with_every_setting(config: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "sh -c 'sed -i s/^.#.seed/seed/ \"$1\" && true' sh")
    config.parent.rmdir()
    assert run("config", "edit")[0] == 0
    named = json.loads(run("config", "--json")[1])["settings"]
    text = config.read_text()
    assert [key for key in named if f"# {key} =" not in text] == []
    tomllib.loads(text)


def test_edit_reports_mistakes_afterwards(config: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("seed = 1\n")
    monkeypatch.setenv("EDITOR", "sed -i s/1/one/")
    status, _, asides = run("config", "edit")
    assert (status, f"{config}, line 1" in asides) == (2, True)


@pytest.mark.parametrize(("editor", "status"), [("/absent/editor", 2), ("'", 2), ("false", 1)])
def test_an_editor_that_cannot_be_run_is_an_error(
    editor: str, status: int, config: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    found, _, asides = run("config", "edit")
    assert (found, asides.count("\n")) == (status, 1)


def test_an_argument_is_not_set_by_the_file(config: Path, run: Run) -> None:
    config.write_text('action = "path"\nshell = "bash"\nwords = "x"\n')
    status, shown, _ = run("ask")
    assert (status, shown) == (2, "")
