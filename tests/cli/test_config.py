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
        ("[history]\nsave = true\n[history]", 3, "[history] stands in the file twice"),
        ("seed =", 1, "seed has no valid value"),
        ("device = 'tpu'", 1, "device: 'tpu' is not a device. Choose auto, cpu, cuda, cuda:N or mps"),
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


@pytest.mark.parametrize("arguments", [("edit",), ("set", "seed", "1")])
def test_a_file_that_cannot_be_written_is_named(arguments: tuple[str, ...], config: Path, run: Run) -> None:
    config.parent.rmdir()
    config.parent.touch()
    status, _, asides = run("config", *arguments)
    assert (status, asides.count("\n")) == (2, 1)
    assert f"{config} cannot be written" in asides
    assert "EDITOR" not in asides


def test_an_argument_is_not_set_by_the_file(config: Path, run: Run) -> None:
    config.write_text('action = "path"\nshell = "bash"\nwords = "x"\n')
    status, shown, _ = run("ask")
    assert (status, shown) == (2, "")


_COMMENTED = '# mine\n\neffort = "low"  # "until" Monday\ninstructions = """\neffort = # no\n""" # long\nseed = 1\n'


@pytest.mark.parametrize(
    ("before", "key", "value", "after"),
    [
        ("", "effort", "high", 'effort = "high"\n'),
        (_COMMENTED, "effort", "high", _COMMENTED.replace('"low"', '"high"')),
        (_COMMENTED, "seed", "7", _COMMENTED.replace("seed = 1", "seed = 7")),
        (_COMMENTED, "top-k", "5", f"{_COMMENTED}top-k = 5\n"),
        (_COMMENTED, "instructions", "a # b", _COMMENTED.replace('"""\neffort = # no\n"""', '"a # b"')),
        ('effort = "low" # a\r\nseed = 1\r\n', "seed", "2", 'effort = "low" # a\r\nseed = 2\r\n'),
        ("\ufeffseed = 1", "seed", "2", "\ufeffseed = 2\n"),
        ("seed = 1", "top-k", "2", "seed = 1\ntop-k = 2\n"),
        ("'seed'=1", "seed", "2", "'seed'=2\n"),
        ("seed = nan\ntop-k = [ # a\n 1 ] # b\n", "top-k", "3", "seed = nan\ntop-k = 3 # b\n"),
        ("# seed = 1\ntop-k = 1\n", "seed", "2", "# seed = 1\nseed = 2\ntop-k = 1\n"),
        ("# a\n[history] # b\nask = true\n", "seed", "2", "seed = 2\n# a\n[history] # b\nask = true\n"),
        ("[history] # b\nask = true # c\n", "history.ask", "no", "[history] # b\nask = false # c\n"),
        ("[history]\nask = true\n", "history.save", "false", "[history]\nask = true\nsave = false\n"),
        ("history . 'ask' = true", "history.ask", "false", "history . 'ask' = false\n"),
        ("history.ask = true\n", "history.save", "false", "history.ask = true\nhistory.save = false\n"),
        ("[other]\nseed = 1\n", "seed", "2", "seed = 2\n[other]\nseed = 1\n"),
        ("", "gpu-memory", "8GiB", 'gpu-memory = "8GiB"\n'),
        ("", "temperature", "1", "temperature = 1.0\n"),
        ("", "instructions", " a ", 'instructions = " a "\n'),
        ("", "instructions", 'a "b"\n\x7f\\é', 'instructions = "a \\"b\\"\\n\\u007f\\\\é"\n'),
    ],
)
def test_set_changes_one_value_and_keeps_the_rest(
    before: str, key: str, value: str, after: str, config: Path, run: Run
) -> None:
    if before:
        config.write_bytes(before.encode())
    status, shown, asides = run("config", "set", key, value)
    assert (status, shown) == (0, "")
    assert config.read_bytes().decode() == after
    assert asides.startswith(f"{key} = ")


def test_set_repairs_a_wrong_value_and_keeps_a_link_and_its_mode(config: Path, run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.toml"
    kept.write_text("effort = 'hgh'\n")
    kept.chmod(0o644)
    config.symlink_to(kept)
    assert run("config", "set", "effort=low")[0] == 0
    assert (config.is_symlink(), kept.read_text(), kept.stat().st_mode & 0o777) == (True, 'effort = "low"\n', 0o644)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "temprature", "1"), "There is no setting 'temprature'. Did you mean temperature?"),
        (("set", "top_k", "1"), "There is no setting 'top_k'. Did you mean top-k?"),
        (("set", "effort", "hgh"), "There is no effort 'hgh'. Choose none, low, medium or high"),
        (("set", "temperature", "20"), "temperature is a number from 0 to 10, not 20"),
        (("set", "gpu-memory", "8"), "gpu-memory: '8' is not a size. Write one like 24GiB, or 0"),
        (("set", "instructions", "\udcff"), "instructions has characters that UTF-8 does not have"),
        (("set", "effort"), "gptoss config set takes a KEY and a VALUE, such as: gptoss config set effort high"),
        (("show", "effort"), "gptoss config show takes nothing more. To set one: gptoss config set KEY VALUE"),
    ],
)
def test_set_refuses_what_no_setting_takes(arguments: tuple[str, ...], message: str, config: Path, run: Run) -> None:
    assert run("config", *arguments) == (2, "", f"gptoss: {message}\n")
    assert not config.exists()


@pytest.mark.parametrize("text", ["seed = ", "history = {ask = true}\n", "history = 1\n", b"\xff"])
def test_a_file_that_set_cannot_change_stays_as_it_is(text: str | bytes, config: Path, run: Run) -> None:
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = config.read_bytes()
    status, _, asides = run("config", "set", "history.ask", "no")
    assert (status, asides.count("\n"), str(config) in asides) == (2, 1, True)
    assert config.read_bytes() == before


def test_set_says_that_a_variable_overrides_the_file(config: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_EFFORT", "low")
    assert run("config", "set", "effort", "high")[2].endswith("The environment variable GPTOSS_EFFORT overrides it.\n")


def test_a_size_is_shown_as_it_was_written(config: Path, run: Run) -> None:
    config.write_text('gpu-memory = "8GiB"\n')
    assert 'gpu-memory = "8GiB"' in run("config")[1]
