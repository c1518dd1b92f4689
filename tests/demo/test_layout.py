"""The shipped demo model becomes an ordinary checkpoint folder."""

import json
import multiprocessing
from pathlib import Path

import pytest

from gptoss_cli.demo.layout import WEIGHTS, demo_checkpoint
from gptoss_cli.engine.generator import Generator
from gptoss_cli.errors import ResourceError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    return tmp_path


def test_folder_is_an_ordinary_checkpoint(home: Path) -> None:
    folder = demo_checkpoint()
    assert folder.is_relative_to(home)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "gpt_oss"
    generator = Generator.open(folder)
    assert generator.config.vocabulary_size == 201088


def test_second_call_writes_nothing(home: Path) -> None:
    before = (demo_checkpoint() / WEIGHTS).stat()
    after = (demo_checkpoint() / WEIGHTS).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_truncated_copy_is_made_again(home: Path) -> None:
    weights = demo_checkpoint() / WEIGHTS
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:-1])
    assert (demo_checkpoint() / WEIGHTS).stat().st_size == size


def test_unfinished_copy_leaves_nothing_behind(home: Path) -> None:
    folder = demo_checkpoint()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_two_processes_may_lay_it_out_at_once(home: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(demo_checkpoint, [(), ()])
    assert first == second
    Generator.open(first)


def test_cache_that_is_a_file_is_one_clear_error(home: Path) -> None:
    (home / "cache").write_text("")
    with pytest.raises(ResourceError, match="cannot be unpacked"):
        demo_checkpoint()
