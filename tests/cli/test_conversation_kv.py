"""The KV cache of a saved conversation: continuing reads only what is new, and removing removes it too."""

import datetime
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptoss_cli.archive.archive import Archive
from gptoss_cli.cache_files import KV_LIMIT_BYTES, kv_folder
from gptoss_cli.chat.opening import open_model
from gptoss_cli.chat.request import ChatRequest
from gptoss_cli.chat.session import ChatSession
from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.cli.resuming import archive_path
from gptoss_cli.engine.generator import Generator
from tests.archive.conversations import complain
from tests.cli.conftest import Run, link_demo


@pytest.fixture
def kv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of KV caches, in a home of this test alone."""
    link_demo(tmp_path)
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    return kv_folder()


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.suffix != ".prefix"} if folder.is_dir() else set()


def test_a_continued_conversation_reads_only_what_is_new_and_its_removal_leaves_no_file(run: Run, kv: Path) -> None:
    assert run("ask", "-m", "demo", "--save", "--seed", "1", "My name is Ada. Please remember it.")[0] == 0
    assert _files(kv)
    status, stdout, _ = run("ask", "-c", "--json", "--seed", "2", "What is my name?")
    continued = json.loads(stdout)
    assert (status, "Ada" in continued["answer"]) == (0, True)
    assert continued["prefilled_tokens"] < continued["prompt_tokens"] // 2
    assert run("conversations", "rm", "--all", "--yes")[0] == 0
    assert _files(kv) == set()


def test_a_conversation_that_is_not_saved_leaves_no_kv_cache(run: Run, kv: Path) -> None:
    assert run("ask", "-m", "demo", "--seed", "1", "My name is Ada. Please remember it.")[0] == 0
    assert _files(kv) == set()


def test_no_save_writes_no_kv_cache_of_the_conversation_that_it_continues_or_of_instructions(
    run: Run, kv: Path
) -> None:
    assert run("ask", "-m", "demo", "--save", "--seed", "1", "My name is Ada. Please remember it.")[0] == 0
    before = set(kv.iterdir())
    assert run("ask", "-c", "--no-save", "--seed", "2", "What is my name?")[0] == 0
    assert run("ask", "-m", "demo", "--no-save", "-s", "Be brief.", "Hello")[0] == 0
    assert set(kv.iterdir()) == before


def test_whatever_the_umask_nobody_else_reads_a_conversation_and_its_removal_leaves_no_byte(
    run: Run, kv: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "data" / "copy.db"
    with _umask(0o000):
        assert run("ask", "-m", "demo", "--save", "--seed", "1", "The zanzibar said: my name is Ada.")[0] == 0
        assert run("conversations", "backup", str(backup))[0] == 0
        kept = Archive(archive_path(), notice=complain)
        kept.summaries()  # so that the log is not removed
        assert run("ask", "-c", "--seed", "2", "What did the zanzibar say?")[0] == 0
        assert archive_path().with_name("conversations.db-wal").exists()
        private = [*archive_path().parent.iterdir(), *kv.iterdir()]
        assert {path.suffix for path in private} >= {".db", ".db-wal", ".db-shm", ".point", ".prefix"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
        assert {stat.S_IMODE(path.stat().st_mode) for path in (archive_path().parent, kv)} == {0o700}
        kept.close()
    backup.unlink()
    held = [path for path in tmp_path.rglob("*") if path.is_file() and b"zanzibar" in path.read_bytes()]
    assert archive_path() in held
    assert run("conversations", "rm", "--all", "--yes")[0] == 0
    assert not [each for each in tmp_path.rglob("*") if each.is_file() and b"zanzibar" in each.read_bytes().lower()]
    assert _files(kv) == set()


def _opened(*, kv_limit_bytes: int = KV_LIMIT_BYTES) -> ChatSession:
    request = ChatRequest(
        model="demo",
        date=datetime.date(2026, 1, 2),
        settings=TurnSettings(seed=7),
        kv_limit_bytes=kv_limit_bytes,
    )
    return open_model(request, progress=lambda text: None, notice=lambda text, *hints, subject="": None).session


def _next_logits(session: ChatSession) -> Tensor:
    """Return the logits [V] of the first token of the next answer."""
    generator = session._generator
    assert isinstance(generator, Generator)
    list(generator.prefill(session.conversation.render()))
    assert generator.sequence.hidden is not None
    return generator.model.unembed(generator.sequence.hidden)[0]


def test_a_chat_that_is_resumed_for_each_turn_has_exactly_the_logits_of_one_that_was_not(kv: Path) -> None:
    whole, resumed = _opened(), _opened()
    for text in ("My name is Ada. Please remember it.", "How do I bound the length of an answer?", "What is my name?"):
        list(whole.turn(text))
        before, resumed = resumed, _opened()
        resumed.restore(before.conversation.messages)
        list(resumed.turn(text))
        assert resumed._generator.save_kv()
    assert resumed.conversation.messages == whole.conversation.messages
    again = _opened()
    again.restore(resumed.conversation.messages)
    logits = _next_logits(again)
    assert torch.equal(logits, _next_logits(whole))
    # Read without files, the ids are cut elsewhere: exactly as in another chat without, else but for rounding.
    fresh = [_opened(kv_limit_bytes=0), _opened(kv_limit_bytes=0)]
    for each in fresh:
        each.restore(whole.conversation.messages)
    assert torch.equal(_next_logits(fresh[0]), _next_logits(fresh[1]))
    assert (logits - _next_logits(fresh[0])).abs().max() < 0.005 * logits.std()
