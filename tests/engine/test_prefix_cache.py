"""The first messages of chats are computed once: a sequence continues from disk exactly as from a prefill."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_cli.cache_files import kv_folder
from gptoss_cli.engine.generator import Generator
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
def _empty_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))


def computed(
    folder: Path,
    *,
    dtype: Dtype = Dtype.FLOAT32,
    dense: Dense = Dense.BF16,
    notice: Callable[[str], None] | None = None,
) -> tuple[int, list[int]]:
    """Return how many tokens of PROMPT a new generator computes, and the ids that it decodes after them."""
    generator = open_generator(folder, dtype=dtype, dense=dense, context_tokens=200, chunk_tokens=16, notice=notice)
    generator.keep_prefix(PREFIX)
    steps = list(generator.prefill(PROMPT))
    return steps[-1][1], decoded(generator, 12)


def decoded(generator: Generator, tokens: int) -> list[int]:
    return list(generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=tokens))


def prefilled(generator: Generator, ids: list[int]) -> int:
    """Read `ids`; return how many of them were computed."""
    return list(generator.prefill(ids))[-1][1]


def stored_files() -> list[Path]:
    return sorted(kv_folder().glob("*"))


@pytest.mark.parametrize("dtype", Dtype)
def test_the_second_chat_computes_only_what_follows_and_decodes_the_same_ids(folder: Path, dtype: Dtype) -> None:
    tokens, answer = computed(folder, dtype=dtype)
    assert tokens == len(PROMPT)
    assert computed(folder, dtype=dtype) == (len(PROMPT) - len(PREFIX), answer)


def test_a_prompt_with_another_beginning_is_computed_whole(folder: Path) -> None:
    computed(folder)
    generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=200)
    generator.keep_prefix(PREFIX)
    assert prefilled(generator, PROMPT[1:]) == len(PROMPT) - 1


def test_each_numerics_has_its_own_files(folder: Path) -> None:
    computed(folder)
    assert computed(folder, dtype=Dtype.BFLOAT16)[0] == len(PROMPT)
    assert computed(folder, dense=Dense.INT8)[0] == len(PROMPT)


def test_a_changed_checkpoint_computes_the_prompt_again(tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "one", SHAPE)
    computed(one)
    assert computed(write_checkpoint(tmp_path / "one", SHAPE, seed=1))[0] == len(PROMPT)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:-1] + b"x"])
def test_a_damaged_file_is_ignored_and_written_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    _, answer = computed(folder)
    (file,) = stored_files()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    notices: list[str] = []
    assert computed(folder, notice=notices.append) == (len(PROMPT), answer)
    assert notices == [f"{file} is damaged: its tokens are computed again"]
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_changes_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kv").touch()
    assert computed(folder)[0] == len(PROMPT)


def test_a_prefix_from_disk_can_be_rewound_to(folder: Path) -> None:
    computed(folder)
    generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=200)
    generator.keep_prefix(PREFIX)
    prefilled(generator, PROMPT)
    decoded(generator, 40)
    assert prefilled(generator, [*PREFIX, 5, 6, 7]) == 3


def test_a_prefix_that_begins_with_a_stored_one_is_stored_too(folder: Path) -> None:
    computed(folder)
    for tokens in (len(PROMPT) - len(PREFIX), 3):
        generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=200, chunk_tokens=16)
        generator.keep_prefix(PROMPT[:37])
        assert prefilled(generator, PROMPT) == tokens


def test_nothing_is_read_or_written_without_room_on_disk(folder: Path) -> None:
    computed(folder)
    generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=200, kv_limit_bytes=0)
    assert prefilled(generator, PROMPT) == len(PROMPT)
    assert generator.save_kv() == generator.kv_names() == []
