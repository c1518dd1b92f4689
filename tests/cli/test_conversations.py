"""`gptoss conversations`: what each command prints, refuses and leaves behind."""

import json
import time
from importlib import resources
from pathlib import Path

import pytest

from gptoss_cli.archive.archive import Archive
from gptoss_cli.archive.saving import Origin
from gptoss_cli.cli.resuming import archive_path
from tests.archive.conversations import complain, save
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))


def _archive() -> Archive:
    return Archive(archive_path(), notice=complain)


def _titled(title: str, *texts: str) -> str:
    return save(_archive(), *texts, origin=Origin(model="gpt-oss-20b", identity="", title=title))


def test_list_shows_the_newest_first_with_what_names_it(run: Run) -> None:
    save(_archive(), "Sky?", "Blue.")
    save(_archive(), "Grass?", "Green.", "Why?", "Chlorophyll.")
    status, shown, _ = run("conversations", "list")
    heading, first, second = shown.splitlines()
    assert (status, heading.split()) == (0, ["ID", "UPDATED", "MODEL", "MESSAGES", "TITLE"])
    assert first.split()[1:] == ["just", "now", "gpt-oss-20b", "4", "Grass?"]
    assert second.split()[-1] == "Sky?"
    assert len(run("conversations", "list", "-n", "1")[1].splitlines()) == 2
    values = json.loads(run("conversations", "list", "--json")[1])
    assert [(each["title"], each["messages"]) for each in values["conversations"]] == [("Grass?", 4), ("Sky?", 2)]


def test_list_of_nothing_is_no_error(run: Run) -> None:
    assert run("conversations", "list") == (0, "", "There are no conversations yet. gptoss chat saves them.\n")


def test_a_title_with_control_characters_is_one_clean_line(run: Run) -> None:
    save(_archive(), "\x1b[31mred\u202e\n\nsecond line", "x")
    row = run("conversations", "list")[1].splitlines()[1]
    assert row.endswith("[31mred")
    assert row.isprintable()


def test_show_prints_the_messages_and_names_the_branches(run: Run) -> None:
    name = save(_archive(), "Sky?", "Blue.")
    shown = run("conversations", "show", name)[1]
    assert shown.endswith("\n\nYou\n\nSky?\n\ngpt-oss\n\nBlue.\n")
    assert run("conversations", "show", name[:5])[1] == shown
    status, _, asides = run("conversations", "show", name, "--branch", "2")
    assert (status, "has 1 branch, not 2" in asides) == (2, True)


def test_show_raw_is_the_next_prompt(run: Run) -> None:
    shown = run("conversations", "show", save(_archive(), "Sky?", "Blue."), "--raw")[1]
    assert "Current date: 2026-01-02" in shown
    assert shown.endswith(
        "<|start|>user<|message|>Sky?<|end|><|start|>assistant<|channel|>final<|message|>Blue."
        "<|end|><|start|>assistant\n"
    )


def test_search_marks_the_hit_and_says_where_it_is(run: Run) -> None:
    save(_archive(), "About the sky", "one line\nThe sky is blue.\nanother")
    status, shown, _ = run("conversations", "search", "blue")
    assert status == 0
    assert "About the sky  (message 1, just now)\n    one line\n  > The sky is »blue«.\n    another\n" in shown
    hits = json.loads(run("conversations", "search", "blue", "--json")[1])["hits"]
    assert [(each["line"], each["spans"]) for each in hits] == [("The sky is blue.", [[11, 15]])]


def test_search_without_a_hit_exits_1_and_without_a_word_2(run: Run) -> None:
    save(_archive(), "a", "b")
    assert run("conversations", "search", "nothing")[::2] == (1, "No message has: nothing\n")
    assert run("conversations", "search", " ")[0] == 2


def test_export_and_import_round_trip_but_for_the_ids(run: Run, tmp_path: Path) -> None:
    save(_archive(), "Sky?", "Blue.")
    file = tmp_path / "all.json"
    assert run("conversations", "export", "--all", "-o", str(file))[0] == 0
    status, _, asides = run("conversations", "import", str(file))
    assert (status, asides) == (0, "Imported 1 conversation with 2 messages.\n")
    first, second = json.loads(run("conversations", "export", "--all", "-f", "json")[1])["conversations"]
    assert {**first, "id": ""} == {**second, "id": ""}


def test_export_never_replaces_a_file_without_force(run: Run, tmp_path: Path) -> None:
    name = save(_archive(), "Sky?", "Blue.")
    file = tmp_path / "sky.md"
    file.write_text("mine")
    status, _, asides = run("conversations", "export", name, "-o", str(file))
    assert (status, file.read_text()) == (2, "mine")
    assert "exists already" in asides
    assert run("conversations", "export", name, "-o", str(file), "--force")[0] == 0
    assert "## You\n\nSky?" in file.read_text()


def test_export_to_a_folder_is_refused_and_to_a_dash_goes_to_stdout(run: Run, tmp_path: Path) -> None:
    name = save(_archive(), "Sky?", "Blue.")
    assert run("conversations", "export", name, "-o", str(tmp_path))[0] == 2
    assert "## gpt-oss\n\nBlue." in run("conversations", "export", name, "-o", "-")[1]
    assert run("conversations", "export")[0] == 2


def test_the_schema_describes_an_export(run: Run) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    save(_archive(), "Sky?", "Blue.")
    exported = json.loads(run("conversations", "export", "--all", "-f", "json")[1])
    schema = (resources.files("gptoss_cli.cli") / "schemas" / "conversation.schema.json").read_text("utf-8")
    jsonschema.validate(exported, json.loads(schema))


def test_a_file_that_is_no_export_exits_2(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("[")
    assert run("conversations", "import", str(file))[::2] == (2, f"gptoss: {file} is not JSON\n")
    assert run("conversations", "import", str(tmp_path / "none"))[0] == 2


def test_rename_makes_a_clean_title(run: Run) -> None:
    name = save(_archive(), "a", "b")
    assert run("conversations", "rename", name, " The\tsky \n")[::2] == (0, "Renamed to “The sky”.\n")
    assert run("conversations", "show", "The sky")[0] == 0
    assert run("conversations", "rename", name, "\x1b")[0] == 2


def test_rm_asks_on_a_terminal_only_and_removes_for_good(run: Run) -> None:
    _titled("Secret", "unforgettable words", "noted")
    kept = save(_archive(), "a", "b")
    status, _, asides = run("conversations", "rm", "Secret")
    assert (status, "Remove 1 conversation with 2 messages: “Secret”?" in asides) == (2, True)
    assert run("conversations", "rm", "Secret", "--yes")[::2] == (0, "1 conversation removed.\n")
    assert _archive().ids() == [kept]
    for file in archive_path().parent.iterdir():
        assert b"unforgettable" not in file.read_bytes()


def _aged(title: str, days: float) -> str:
    name, archive = _titled(title, "Why?", "Because."), _archive()
    with archive.database.transaction() as connection:
        connection.execute("UPDATE conversation SET updated = ? WHERE id = ?", (time.time() - days * 86_400, name))
    return name


def _titles() -> list[str | None]:
    return [each.row.title for each in _archive().summaries()]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--older-than", "90d"], ["New", "Month"]),
        (["--keep", "1"], ["New"]),
        (["--keep", "3", "--older-than", "1d"], ["New", "Month", "Old"]),
        (["--keep", "1", "--older-than", "9w"], ["New", "Month"]),
        (["--keep", "9"], ["New", "Month", "Old", "Older"]),
        (["--keep", "0"], []),
    ],
)
def test_prune_removes_what_is_both_old_and_not_among_the_last(arguments: list[str], left: list[str], run: Run) -> None:
    for title, days in (("Older", 400), ("New", 0), ("Old", 91), ("Month", 30)):
        _aged(title, days)
    status, out, asides = run("conversations", "prune", *arguments, "--dry-run")
    gone = [title for title in ("Old", "Older", "Month", "New") if title not in left]
    assert (status, [title for title in gone if f"  {title}\n" not in out], len(_titles())) == (0, [], 4)
    assert ("would be removed" in asides) == bool(gone)
    assert run("conversations", "prune", *arguments, "-y")[:2] == (0, "")
    assert _titles() == left


def test_prune_lists_what_it_removes_and_asks_on_a_terminal_only(run: Run) -> None:
    _aged("Secret", 100)
    status, out, asides = run("conversations", "prune", "--older-than", "90d")
    assert (status, out) == (2, "")
    assert "Remove 1 conversation with 2 messages?" in asides
    assert _titles() == ["Secret"]
    assert "  Secret\n" in run("conversations", "prune", "--older-than", "90d", "--yes")[2]
    assert b"Because" not in archive_path().read_bytes()
    assert "There are no conversations to remove." in run("conversations", "prune", "--keep", "0")[2]


@pytest.mark.parametrize("age", ["90", "d", "-1d", "1.5d", "9 d", "٣d", "1234567d", "soon", ""])
def test_prune_refuses_an_age_that_is_none(age: str, run: Run) -> None:
    _aged("Old", 9999)
    assert run("conversations", "prune", f"--older-than={age}", "-y")[0] == 2
    assert run("conversations", "prune", "-y")[0] == 2
    assert _titles() == ["Old"]


def test_rm_names_the_copies_that_may_still_have_the_text(run: Run) -> None:
    save(_archive(), "a", "b")
    copy = archive_path().with_name("conversations.db.v0")
    copy.touch()
    asides = run("conversations", "rm", "--all", "-y", "-q")[2]
    assert f"may still have the text; delete them if you do not need them:\n  {copy}\n" in asides


def test_backup_writes_a_whole_copy_and_no_file_is_replaced(run: Run, tmp_path: Path) -> None:
    name = save(_archive(), "a", "b")
    assert run("conversations", "backup", str(tmp_path / "copy.db"))[0] == 0
    assert Archive(tmp_path / "copy.db", notice=complain).ids() == [name]
    assert run("conversations", "backup", str(tmp_path / "copy.db"))[0] == 2


def test_path_and_check(run: Run) -> None:
    save(_archive(), "a", "b")
    assert run("conversations", "path") == (0, f"{archive_path()}\n", "")
    assert run("conversations", "check") == (0, "1 conversation, no problem found\n", "")


def test_check_of_wrong_rows_exits_4(run: Run) -> None:
    save(_archive(), "a", "b")
    with _archive().database.transaction() as connection:
        connection.execute("UPDATE message SET parent = id")
    status, shown, _ = run("conversations", "check")
    assert (status, shown) == (4, "2 messages stand before the message they follow\n")


def test_a_damaged_database_is_moved_aside_with_a_notice(run: Run) -> None:
    archive_path().parent.mkdir(parents=True)
    archive_path().write_bytes(b"garbage" * 1000)
    status, shown, asides = run("conversations", "list")
    assert (status, shown) == (0, "")
    assert "conversations.db is damaged. It was moved to conversations.db.corrupt-" in asides


def test_a_database_of_a_newer_version_is_read_and_never_written(run: Run) -> None:
    name = save(_archive(), "Sky?", "Blue.")
    with _archive().database.writing() as connection:
        connection.execute("PRAGMA user_version = 99")
    before = archive_path().read_bytes()
    assert run("conversations", "show", name)[0] == 0
    status, _, asides = run("conversations", "rename", name, "x")
    assert (status, "was written by a newer version of gptoss" in asides) == (1, True)
    assert archive_path().read_bytes() == before


def test_a_setting_of_all_commands_holds_within_the_group(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_COLOR", "pink")
    assert run("conversations", "path")[0] == 2


def test_help_lists_the_commands(run: Run) -> None:
    shown = run("conversations")[1]
    assert shown == run("conversations", "--help")[1]
    assert "Commands:\n  list " in shown
