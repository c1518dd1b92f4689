"""The vocabulary is unpacked once, verified at every use, and never downloaded."""

import hashlib
import importlib.resources
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from gptoss_cli.errors import Hint, IntegrityError
from gptoss_cli.harmony import vocabulary
from gptoss_cli.harmony.vocabulary import RESERVED_IDS, STOP_IDS, VOCABULARY_SIZE, load_encoding, vocabulary_folder

SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
LOAD = "from gptoss_cli.harmony.vocabulary import load_encoding; print(load_encoding().decode([24912, 2375]))"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "cache" / "vocabulary"


def unpacked(folder: Path) -> bytes:
    return (folder / "o200k_base.tiktoken").read_bytes()


def run(
    code: str, home: Path, *, wrapper: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrapper, sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GPTOSS_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_unpacked_file_is_o200k_base(cache: Path) -> None:
    with ExitStack() as temporary:
        assert vocabulary_folder(temporary) == cache
    assert hashlib.sha256(unpacked(cache)).hexdigest() == SHA256
    assert [path.name for path in cache.iterdir()] == ["o200k_base.tiktoken"]


def test_an_intact_file_is_not_written_again(cache: Path) -> None:
    with ExitStack() as temporary:
        before = (vocabulary_folder(temporary) / "o200k_base.tiktoken").stat()
        after = (vocabulary_folder(temporary) / "o200k_base.tiktoken").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("damage", [b"", b"not a vocabulary", b"x" * 3_613_922])
def test_a_damaged_file_is_replaced(cache: Path, damage: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / "o200k_base.tiktoken").write_bytes(damage)
    with ExitStack() as temporary:
        assert vocabulary_folder(temporary) == cache
    assert hashlib.sha256(unpacked(cache)).hexdigest() == SHA256


def test_a_private_folder_is_used_if_the_cache_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with ExitStack() as temporary:
        folder = vocabulary_folder(temporary)
        assert folder.stat().st_mode & 0o077 == 0
        assert hashlib.sha256(unpacked(folder)).hexdigest() == SHA256
    assert not folder.exists()


def test_a_folder_in_the_place_of_the_file_is_replaced(cache: Path) -> None:
    (cache / "o200k_base.tiktoken" / "x").mkdir(parents=True)
    with ExitStack() as temporary:
        assert hashlib.sha256(unpacked(vocabulary_folder(temporary))).hexdigest() == SHA256
    assert [path.name for path in cache.iterdir()] == ["o200k_base.tiktoken"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_a_full_disk_is_a_resource_error_of_one_line_with_a_hint(tmp_path: Path) -> None:
    full_disk = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
from gptoss_cli.errors import ResourceError
try:
    {LOAD}
except ResourceError as error:
    sys.exit(str((*error.args, *error.hints)))
"""
    result = run(full_disk, tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr
    assert "Hint.ANOTHER_DATA_FOLDER" in result.stderr
    assert not list((tmp_path / "cache" / "vocabulary").iterdir())


def test_several_processes_can_unpack_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GPTOSS_HOME": str(tmp_path)}
    racing = [
        subprocess.Popen([sys.executable, "-c", LOAD], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate()[0].strip() for process in racing] == ["hello world"] * 4
    assert [path.name for path in (tmp_path / "cache" / "vocabulary").iterdir()] == ["o200k_base.tiktoken"]


def without_network() -> tuple[str, ...]:
    unshare = shutil.which("unshare")
    if unshare and subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode == 0:
        return (unshare, "-rn")
    return ()


def test_a_preset_base_folder_and_a_missing_network_make_no_difference(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    result = run(
        LOAD,
        tmp_path,
        wrapper=without_network(),
        TIKTOKEN_ENCODINGS_BASE=str(tmp_path / "missing"),
        HTTPS_PROXY=nowhere,
        HTTP_PROXY=nowhere,
        TMPDIR=str(tmp_path),
    )
    assert result.stdout.strip() == "hello world", result.stderr


def test_a_damaged_package_has_a_hint_to_reinstall(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "o200k_base.tokens.xz").write_bytes(b"\xfd7zXZ\x00 and then nothing")
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with ExitStack() as temporary, pytest.raises(IntegrityError, match="vocabulary in the package") as caught:
        vocabulary_folder(temporary)
    assert caught.value.hints == (Hint.REINSTALL,)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([vocabulary.START_OF_TEXT], "<|startoftext|>"),
        ([vocabulary.END_OF_TEXT], "<|endoftext|>"),
        ([vocabulary.RETURN], "<|return|>"),
        ([vocabulary.CONSTRAIN], "<|constrain|>"),
        ([vocabulary.CHANNEL], "<|channel|>"),
        ([vocabulary.START], "<|start|>"),
        ([vocabulary.END], "<|end|>"),
        ([vocabulary.MESSAGE], "<|message|>"),
        ([vocabulary.CALL], "<|call|>"),
        ([vocabulary.ASSISTANT], "assistant"),
        (vocabulary.ANALYSIS, "analysis"),
        (vocabulary.COMMENTARY, "commentary"),
        (vocabulary.FINAL, "final"),
    ],
)
def test_named_ids_match_the_encoding(ids: list[int], text: str) -> None:
    assert load_encoding().encode(text, allowed_special="all") == list(ids)


def test_reserved_ids_are_all_special_ids_but_those_of_the_format() -> None:
    encoding = load_encoding()
    allowed = set(range(VOCABULARY_SIZE)) - RESERVED_IDS
    assert allowed >= STOP_IDS
    special = {encoding.decode([i]) for i in allowed if encoding.is_special_token(i)}
    formatting = {"start", "end", "message", "channel", "constrain", "return", "call", "endoftext"}
    assert special == {f"<|{name}|>" for name in formatting}
