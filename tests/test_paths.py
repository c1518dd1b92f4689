"""Any text that a user gives as a path is a path or a UsageError, in the forms that terminals and file managers use."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptoss_cli.errors import UsageError
from gptoss_cli.paths import expanded, shown_path, typed_output, typed_path

# Texts made of the marks that mean something to a shell, a home folder or a URL.
_TEXTS = st.text(st.one_of(st.sampled_from("~$'\"\\/% .:\0-"), st.characters()), max_size=40)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with `my docs/a b.txt` the current one, and the home."""
    (tmp_path / "my docs").mkdir()
    (tmp_path / "my docs" / "a b.txt").write_text("content")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "my docs/a b.txt",
        '"my docs/a b.txt"',
        "'my docs/a b.txt'",
        r"my\ docs/a\ b.txt",
        "'my docs/a b.txt' ",
        "my' 'docs/a\\ b.txt",
        "~/my docs/a b.txt",
        "~/my\\ docs/a\\ b.txt",
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="cmd.exe has other quotes")
def test_a_path_is_unquoted_as_a_shell_would(text: str) -> None:
    assert typed_path(text).read_text() == "content"


def test_a_file_url_is_a_path(folder: Path) -> None:
    assert typed_path((folder / "my docs" / "a b.txt").as_uri()).read_text() == "content"
    assert typed_path(f"file://localhost{folder}/my%20docs") == folder / "my docs"
    assert typed_path(f"file://{folder}/100%") == folder / "100%"


@pytest.mark.parametrize("url", ["file://server/share", "file:///a%00b", "file://", "file:///%FF%00"])
def test_a_url_of_no_file_here_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        typed_path(url)


@pytest.mark.parametrize("name", ['"quoted"', "a\\ b", "~", "it's", " x "])
def test_the_name_as_it_stands_comes_first(name: str, folder: Path) -> None:
    (folder / name).write_text("as it stands")
    assert typed_path(name).read_text() == "as it stands"


def test_an_output_that_is_not_there_yet_is_unquoted_and_a_dash_stays() -> None:
    assert typed_output('"new file.txt"') == Path("new file.txt")
    assert typed_output("new file.txt") == Path("new file.txt")
    assert typed_output("-") == Path("-")


@pytest.mark.parametrize(
    "name", ["~$report.txt", "~nobody-of-this-name/x", "it's", 'a "b', "x" * 300, f"~{5000 * chr(120)}"]
)
def test_a_name_that_no_file_has_stays_as_it_is(name: str) -> None:
    assert typed_path(name) == Path(name)


@pytest.mark.parametrize("name", ["", "a\0b", "~a\0b", "'a\0b'", "\ud800", "~\ud800"])
def test_a_text_that_is_no_path_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        typed_path(name)


@given(_TEXTS)
@example("~\0")
@example("''")
@example("file:///%00")
def test_any_text_is_a_path_or_a_usage_error(text: str) -> None:
    shown_path(expanded(text)).encode()
    with suppress(UsageError):
        assert len(shown_path(typed_path(text))) <= 203


@pytest.mark.skipif(os.name == "nt", reason="there are no numbers of users")
def test_without_home_and_passwd_entry_the_variable_to_set_is_named(tmp_path: Path) -> None:
    program = (
        "import os, pwd, sys\n"
        "def unknown(key): raise KeyError(key)\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
        "os.environ.pop('HOME', None)\n"
        "from gptoss_cli.cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    variables = ("HOME", "GPTOSS_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    for command in (["ask", "hello"], ["list"], ["config", "path"], ["ask", "-f", "~/x", "hello"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2, done
        assert "Set HOME to it, or GPTOSS_HOME" in done.stderr or "~/x cannot be read: No such file" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "~").exists()
