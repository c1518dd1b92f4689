"""Standing preferences: what config.toml may say, what beats it, and how its mistakes are told."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from gptoss_cli import settings
from tests.cli.conftest import Run, Script, ask_here, turn


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The path of config.toml, in a folder that is there."""
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


def test_show_tells_each_value_and_where_it_comes_from(config: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('# mine\n\neffort = "low"\ntop-k = 5\n')
    monkeypatch.setenv("GPTOSS_TOP_K", "7")
    status, shown, asides = run("config", "--json")
    told = json.loads(shown)["settings"]
    assert (status, asides) == (0, "")
    assert told["effort"] == {"value": "low", "origin": f"{config}, line 3"}
    assert told["top-k"] == {"value": 7, "origin": "GPTOSS_TOP_K"}
    assert told["temperature"] == {"value": 1.0, "origin": "default"}


def test_what_is_shown_is_a_file_that_sets_the_same(config: Path, run: Run) -> None:
    config.write_text('effort = "low"\ninstructions = "Say \\"hi\\"\\n"\ntimeout = 2.5\n')
    status, shown, _ = run("config", "show")
    assert status == 0
    values = tomllib.loads(shown)
    assert (values["effort"], values["instructions"], values["timeout"]) == ("low", 'Say "hi"\n', 2.5)
    assert "model" not in values
    config.write_text(shown)
    assert [line.split("#")[0].rstrip() for line in run("config")[1].splitlines() if line[0] != "#"] == [
        line.split("#")[0].rstrip() for line in shown.splitlines() if line[0] != "#"
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("\neffort = 'hgh'", 2, "effort: 'hgh' is not one of"),
        ("effort = 3", 1, "effort should be text in quotes"),
        ("\n\nseed = 1.5", 3, "seed: "),
        ("seed = true", 1, "seed: "),
        ("seed = [1]", 1, "seed should be one value"),
        ("[seed]\na = 1", 1, "seed should be one value"),
        ("top-p = 0", 1, "top-p: It should be above 0"),
        ("temperature = nan", 1, "temperature: "),
        ("context = 1_000_000_000", 1, "context: "),
        ("a = 1\na = 2", 2, "Cannot overwrite"),
        ("a = 1\nb = [", 2, "Run: gptoss config edit"),
        ("a = 1\n\x00", 2, "line 2"),
        ("color = 'pink'", 1, "color: "),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_place(
    text: str, line: int, said: str, config: Path, run: Run
) -> None:
    config.write_text(text)
    for arguments in (("config",), ("ask", "x")):
        status, answer, asides = run(*arguments)
        assert (status, answer, asides.count("\n")) == (2, "", 1)
        assert f"{config}, line {line}: " in asides
        assert said in asides


def test_bytes_that_are_no_text_are_told_with_their_line(config: Path, run: Run) -> None:
    config.write_bytes(b"seed = 1\n# \xff\n")
    status, _, asides = run("config")
    assert (status, f"{config}, line 2: not UTF-8" in asides) == (2, True)


def test_a_byte_order_mark_is_no_mistake(config: Path, run: Run) -> None:
    config.write_bytes('effort = "low"'.encode("utf-8-sig"))
    assert 'effort = "low"' in run("config")[1]


def test_a_key_nobody_knows_is_a_warning_with_the_closest_one(config: Path, run: Run) -> None:
    config.write_text("temprature = 1\n")
    status, _, asides = run("config")
    assert status == 0
    assert asides == f"{config}, line 1: there is no setting temprature. Did you mean temperature?\n"


def test_quiet_silences_the_warning(config: Path, script: Script) -> None:
    config.write_text("temprature = 1\n")
    assert "temprature" in _ask(script(turn("Blue."))).stderr
    assert _ask(script(turn("Blue.")), "-q").stderr == ""


def test_a_folder_in_its_place_is_told(config: Path, run: Run) -> None:
    config.mkdir()
    status, _, asides = run("config")
    assert (status, asides.count("\n")) == (2, 1)
    assert str(config) in asides


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("ask", "--help"), ("config", "path")])
def test_a_broken_file_hinders_neither_help_nor_mending(arguments: tuple[str, ...], config: Path, run: Run) -> None:
    config.write_text("[")
    status, shown, asides = run(*arguments)
    assert (status, asides) == (0, "")
    assert shown


def test_path_is_where_the_file_is(config: Path, run: Run) -> None:
    assert run("config", "path") == (0, f"{config}\n", "")


def test_edit_opens_a_file_that_names_every_setting(config: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "sh -c 'sed -i s/^.#.seed/seed/ \"$1\" && true' sh")
    config.parent.rmdir()
    assert run("config", "edit")[0] == 0
    named = json.loads(run("config", "--json")[1])["settings"]
    text = config.read_text()
    assert [key for key in named if f"# {key} =" not in text] == []
    tomllib.loads(text)


def test_edit_tells_what_is_wrong_afterwards(config: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("seed = 1\n")
    monkeypatch.setenv("EDITOR", "sed -i s/1/one/")
    status, _, asides = run("config", "edit")
    assert (status, f"{config}, line 1" in asides) == (2, True)


@pytest.mark.parametrize(("editor", "status"), [("/absent/editor", 2), ("'", 2), ("false", 1)])
def test_an_editor_that_cannot_be_run_is_told(
    editor: str, status: int, config: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    found, _, asides = run("config", "edit")
    assert (found, asides.count("\n")) == (status, 1)


def test_an_argument_is_not_set_by_the_file(config: Path, run: Run) -> None:
    config.write_text('action = "path"\nshell = "bash"\nwords = "x"\n')
    status, shown, _ = run("ask")
    assert (status, shown) == (2, "")
