"""The built-in demo model is unpacked into an ordinary checkpoint folder."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from gptoss_cli.demo import unpack
from gptoss_cli.demo.unpack import FILES, WEIGHTS, demo_checkpoint
from gptoss_cli.errors import ResourceError
from tests.engine.open_generator import open_generator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    return tmp_path


def test_folder_is_an_ordinary_checkpoint_with_the_bytes_it_always_had(home: Path) -> None:
    folder = demo_checkpoint()
    assert folder.is_relative_to(home)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing unfinished is left behind
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "gpt_oss"
    generator = open_generator(folder)
    assert generator.config.vocabulary_size == 201088
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in folder.glob("*.*")}
    # Most rows of the vocabulary tables are computed, and every machine must compute the same ones.
    assert digests == {
        "config.json": "fe06d938404f4cdf",
        "generation_config.json": "3650ac777679f71b",
        WEIGHTS: "b74052f878dd5337",
    }


@pytest.fixture
def small(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpack files of a few bytes, which takes no second."""

    def unpack_small(packed: bytes, folder: Path) -> None:
        for name in FILES:
            (folder / name).write_bytes(name.encode() * 9)

    monkeypatch.setattr(unpack, "_unpack", unpack_small)
    monkeypatch.setattr(unpack, "_BLOCK_BYTES", 50)


@pytest.mark.usefixtures("small")
def test_second_call_writes_nothing() -> None:
    before = (demo_checkpoint() / WEIGHTS).stat()
    after = (demo_checkpoint() / WEIGHTS).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.usefixtures("small")
def test_truncated_copy_is_unpacked_again() -> None:
    weights = demo_checkpoint() / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert (demo_checkpoint() / WEIGHTS).read_bytes() == whole


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_made_again_with_a_notice(name: str) -> None:
    file = demo_checkpoint() / name
    whole = file.read_bytes()
    start = len(whole) // 3
    file.write_bytes(whole[:start] + bytes(40) + whole[start + 40 :])
    notices: list[str] = []
    assert demo_checkpoint(notice=notices.append) / name == file
    assert file.read_bytes() == whole
    assert [notice for notice in notices if "damaged: the demo model is unpacked again" in notice] == notices != []


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_a_fifo_in_the_place_of_a_file_is_replaced() -> None:
    folder = demo_checkpoint()
    for name in (WEIGHTS, "digests"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert (demo_checkpoint() / name).is_file()


def test_two_processes_can_unpack_it_at_once(home: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(demo_checkpoint, [(), ()])
    assert first == second
    open_generator(first)


def test_cache_that_is_a_file_is_one_clear_error(home: Path) -> None:
    (home / "cache").write_text("")
    with pytest.raises(ResourceError, match="cannot be unpacked"):
        demo_checkpoint()
