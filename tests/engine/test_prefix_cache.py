"""The first messages are read once: what is kept of them continues exactly as a real prefill does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_cli import settings
from gptoss_cli.generation import Sampling
from gptoss_cli.settings import Dense, Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

SHAPE = Shape(layer_types=(SLIDING, FULL), window=11)
GREEDY = Sampling(seed=0, temperature=0)
PROMPT = [(7 * i * i + 3) % SHAPE.vocabulary for i in range(40)]
PREFIX = PROMPT[:25]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))


def read_tokens(folder: Path, *, dtype: Dtype = Dtype.FLOAT32, dense: Dense = Dense.BF16) -> tuple[int, list[int]]:
    """How much of PROMPT a new generator reads, and what it says then."""
    generator = open_generator(folder, dtype=dtype, dense=dense, context_tokens=200, chunk_tokens=16)
    generator.keep_prefix(PREFIX)
    steps = list(generator.prefill(PROMPT))
    return steps[-1][1], list(generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=12))


def kept_files() -> list[Path]:
    return sorted((settings.cache_folder() / "prefixes").glob("*"))


@pytest.mark.parametrize("dtype", Dtype)
def test_the_second_chat_reads_only_what_follows_and_says_the_same(folder: Path, dtype: Dtype) -> None:
    read, said = read_tokens(folder, dtype=dtype)
    assert read == len(PROMPT)
    assert read_tokens(folder, dtype=dtype) == (len(PROMPT) - len(PREFIX), said)


def test_a_prompt_that_begins_otherwise_reads_all(folder: Path) -> None:
    read_tokens(folder)
    generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=200)
    generator.keep_prefix(PREFIX)
    assert list(generator.prefill(PROMPT[1:]))[-1][1] == len(PROMPT) - 1


def test_other_numerics_have_a_prefix_of_their_own(folder: Path) -> None:
    read_tokens(folder)
    assert read_tokens(folder, dtype=Dtype.BFLOAT16)[0] == len(PROMPT)
    assert read_tokens(folder, dense=Dense.INT8)[0] == len(PROMPT)


def test_a_changed_checkpoint_reads_all(tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "one", SHAPE)
    read_tokens(one)
    assert read_tokens(write_checkpoint(tmp_path / "one", SHAPE, seed=1))[0] == len(PROMPT)


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-1], lambda data: data[:-1] + b"x"])
def test_a_damaged_file_is_ignored_and_written_again(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    _, said = read_tokens(folder)
    (file,) = kept_files()
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    assert read_tokens(folder) == (len(PROMPT), said)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_changes_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "prefixes").touch()
    assert read_tokens(folder)[0] == len(PROMPT)


def test_rewinding_to_the_kept_prefix_reads_only_what_follows(folder: Path) -> None:
    read_tokens(folder)
    generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=200)
    generator.keep_prefix(PREFIX)
    list(generator.prefill(PROMPT))
    list(generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=40))
    assert list(generator.prefill([*PREFIX, 5, 6, 7]))[-1][1] == 3
