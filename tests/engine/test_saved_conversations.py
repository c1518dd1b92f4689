"""KV caches on disk: a sequence continues from them with exactly the logits that it would have had without."""

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptoss_cli.cache_files import forget, kv_folder
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.prefix_cache import PrefixCache
from gptoss_cli.generation import Sampling
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

SHAPE = Shape(layer_types=(SLIDING, FULL), window=11)
GREEDY = Sampling(seed=0, temperature=0)
PROMPT = [(7 * i * i + 3) % SHAPE.vocabulary for i in range(40)]
CHUNK = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)


def decoded(generator: Generator, tokens: int) -> list[int]:
    return list(generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=tokens))


def prefilled(generator: Generator, ids: list[int]) -> int:
    """Read `ids`; return how many of them were computed."""
    return list(generator.prefill(ids))[-1][1]


def next_logits(generator: Generator) -> Tensor:
    """Return the logits [V] after the sequence."""
    assert generator.sequence.hidden is not None
    return generator.model.unembed(generator.sequence.hidden)[0]


@dataclass
class Chats:
    """Generators over one model, which is loaded once, with small chunks on disk."""

    opened: Generator
    read_tokens: int = 8

    def new(self, *, disk: Path | None, limit_bytes: int = 1 << 30) -> Generator:
        files = PrefixCache(disk, "model", limit_bytes=limit_bytes, chunk_tokens=CHUNK) if disk else None
        model = self.opened.model
        return Generator(model, context_tokens=400, chunk_tokens=self.read_tokens, prefix_cache=files)


@pytest.fixture(scope="module", params=list(Dtype))
def chats(folder: Path, request: pytest.FixtureRequest) -> Chats:
    return Chats(open_generator(folder, dtype=request.param, context_tokens=400, kv_limit_bytes=0))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def replaced_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def replaced_by_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def replaced_by_neighbour(path: Path) -> None:
    """Put another file of the same kind in its place, as a wrong restore from a backup would."""
    for other in sorted(path.parent.glob(f"*{path.suffix}")):
        if other != path:
            shutil.copy(other, path)
            return
    path.unlink()


DAMAGES: list[Callable[[Path], object]] = [
    Path.unlink,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    lambda path: path.write_bytes(b"\xff" + path.read_bytes()[1:]),
    lambda path: path.write_bytes(path.read_bytes()[:-40] + bytes(40)),
    replaced_by_fifo,
    replaced_by_link,
    replaced_by_device,
    replaced_by_neighbour,
]
ids_of = st.lists(st.integers(0, SHAPE.vocabulary - 1), min_size=1, max_size=50)


@dataclass(frozen=True)
class Turn:
    """Do a turn as a chat does: read `new` ids, decode, and save or not."""

    new: list[int]
    decoded: int
    saves: bool


turns_of = st.lists(st.builds(Turn, ids_of, st.integers(0, 20), st.booleans()), min_size=1, max_size=4)


def run_turns(generator: Generator, turns: list[Turn], *, last_decodes: bool) -> list[int]:
    """Let `generator` have `turns`; return the ids that the next prompt begins with."""
    ids: list[int] = []
    for number, turn in enumerate(turns, 1):
        ids = ids + turn.new
        prefilled(generator, ids)
        if last_decodes or number < len(turns):
            decoded(generator, turn.decoded)
        if turn.saves:
            assert generator.save_kv() == generator.kv_names()
    return ids


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=turns_of,
    last=ids_of,
    read_tokens=st.integers(1, 60),
    damage=st.none() | st.tuples(st.integers(0, 99), st.sampled_from(DAMAGES)),
)
def test_a_resumed_sequence_has_the_logits_of_one_that_was_never_interrupted(
    chats: Chats,
    tmp_path: Path,
    turns: list[Turn],
    last: list[int],
    read_tokens: int,
    damage: tuple[int, Callable[[Path], object]] | None,
) -> None:
    disk = tmp_path / "kv"
    shutil.rmtree(disk, ignore_errors=True)
    chats = replace(chats, read_tokens=read_tokens)
    ids = run_turns(chats.new(disk=disk), turns, last_decodes=True)
    lengths = [sum(len(turn.new) for turn in turns[:count]) for count in range(len(turns) + 1)]
    saved = [length for length, turn in zip(lengths[1:], turns, strict=True) if turn.saves]
    files = sorted(disk.glob("*"))
    if damage is not None and files:
        damage[1](files[damage[0] % len(files)])

    resumed = chats.new(disk=disk)
    loaded = len(ids + last) - prefilled(resumed, ids + last)
    assert loaded in (0, *saved)
    if damage is None:
        assert loaded == max((0, *saved))
    # The same computation in one generator, which has no disk: it reads the last prompt where the other was resumed.
    whole = chats.new(disk=None)
    unsaved = [replace(turn, saves=False) for turn in turns[: lengths.index(loaded)]]
    run_turns(whole, unsaved, last_decodes=False)
    assert prefilled(whole, ids + last) == len(ids + last) - loaded
    assert torch.equal(next_logits(resumed), next_logits(whole))
    assert decoded(resumed, 8) == decoded(whole, 8)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, SHAPE.vocabulary - 1), min_size=2, max_size=120), data=st.data())
def test_kv_from_disk_is_that_of_one_prefill_but_for_rounding(
    chats: Chats, tmp_path: Path, ids: list[int], data: st.DataObject
) -> None:
    if chats.opened.model.dtype is not torch.float32:
        return
    shutil.rmtree(tmp_path / "kv", ignore_errors=True)
    first, resumed, fresh = (chats.new(disk=disk) for disk in (tmp_path / "kv", tmp_path / "kv", None))
    cut = data.draw(st.integers(1, len(ids) - 1))
    prefilled(first, ids[:cut])
    first.save_kv()
    assert prefilled(resumed, ids) == len(ids) - cut
    prefilled(fresh, ids)
    torch.testing.assert_close(next_logits(resumed), next_logits(fresh), atol=1e-3, rtol=1e-3)


def test_a_prompt_that_is_stored_whole_is_not_read_at_all(chats: Chats, tmp_path: Path) -> None:
    first, second = chats.new(disk=tmp_path), chats.new(disk=tmp_path)
    prefilled(first, PROMPT)
    first.save_kv()
    assert prefilled(second, PROMPT) == 0
    assert torch.equal(next_logits(first), next_logits(second))


def test_a_longer_conversation_adds_files_and_a_fork_shares_them(chats: Chats, tmp_path: Path) -> None:
    generator = chats.new(disk=tmp_path)
    prefilled(generator, PROMPT)
    first = generator.save_kv()
    before = {name: (tmp_path / name).stat().st_ino for name in first if name.endswith(".chunk")}
    prefilled(generator, [*PROMPT, *range(20)])
    longer = generator.save_kv()
    fork = chats.new(disk=tmp_path)
    prefilled(fork, [*PROMPT, 1, 2, 3])
    forked = fork.save_kv()
    chunks = [{name for name in names if name.endswith(".chunk")} for names in (first, longer, forked)]
    assert [len(names) for names in chunks] == [2, 3, 2]
    assert chunks[0] == chunks[2] < chunks[1]
    assert before == {name: (tmp_path / name).stat().st_ino for name in chunks[0]}
    points = {path.name for path in tmp_path.glob("*.point")}
    assert points == {longer[-1], forked[-1]}, "the first point was superseded"


def test_forgetting_a_conversation_leaves_what_others_use(
    chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))
    generator, other = chats.new(disk=kv_folder()), chats.new(disk=kv_folder())
    prefilled(generator, PROMPT)
    prefilled(other, [*PROMPT[:20], 9])
    names, kept = generator.save_kv(), other.save_kv()
    foreign = tmp_path / "foreign"
    foreign.touch()
    assert forget([*names, "../../foreign", str(foreign)], kept=kept) > 0
    assert foreign.exists()
    assert sorted(kept) == sorted(file.name for file in kv_folder().iterdir())
    assert prefilled(chats.new(disk=kv_folder()), [*PROMPT[:20], 9, 9]) == 1
    assert forget(names, kept=kept) == 0


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_files_are_private_whatever_the_umask(chats: Chats, tmp_path: Path, mask: int) -> None:
    generator = chats.new(disk=tmp_path / "kv")
    prefilled(generator, PROMPT)
    (tmp_path / "kv").mkdir(mode=0o755)
    with umask(mask):
        generator.save_kv()
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "kv").iterdir()}
    assert (stat.S_IMODE((tmp_path / "kv").stat().st_mode), modes) == (0o700, {0o600})


def test_the_files_used_longest_ago_go_first(chats: Chats, tmp_path: Path) -> None:
    names = []
    for number in range(3):
        generator = chats.new(disk=tmp_path)
        prefilled(generator, [number, *PROMPT])
        names.append(generator.save_kv())
    limit_bytes = sum(file.stat().st_size for file in tmp_path.iterdir())
    for number, conversation in enumerate(names):
        for name in conversation:
            os.utime(tmp_path / name, (number, number))
    assert prefilled(chats.new(disk=tmp_path), [0, *PROMPT, 1]) == 1  # which uses the first one
    last = chats.new(disk=tmp_path, limit_bytes=limit_bytes)
    prefilled(last, [9, *PROMPT])
    assert last.save_kv() != []
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept.issuperset(names[0])
    assert kept.isdisjoint(names[1])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= limit_bytes


def test_a_sequence_larger_than_the_limit_deletes_nothing(chats: Chats, tmp_path: Path) -> None:
    prefilled(generator := chats.new(disk=tmp_path), PROMPT)
    names = generator.save_kv()
    small = chats.new(disk=tmp_path, limit_bytes=5_000)
    prefilled(small, PROMPT[1:])
    assert small.save_kv() == []
    assert sorted(names) == sorted(file.name for file in tmp_path.iterdir())


def test_a_nearly_full_disk_stores_nothing(chats: Chats, tmp_path: Path) -> None:
    files = PrefixCache(tmp_path, "model", spare_bytes=1 << 60)
    generator = Generator(chats.opened.model, context_tokens=400, chunk_tokens=16, prefix_cache=files)
    prefilled(generator, PROMPT)
    assert generator.save_kv() == []
    assert list(tmp_path.iterdir()) == []


def test_saving_beside_running_turns_stores_what_can_be_resumed(chats: Chats, tmp_path: Path) -> None:
    generator = chats.new(disk=tmp_path)
    ends = threading.Event()

    def save_again_and_again() -> None:
        while not ends.is_set():
            generator.save_kv()

    saver = threading.Thread(target=save_again_and_again)
    saver.start()
    prompts = [[number % 3, *PROMPT[number % 5 :], *range(number % 7 + 1)] for number in range(60)]
    for prompt in prompts:
        prefilled(generator, prompt)
        decoded(generator, 3)
    ends.set()
    saver.join()
    generator.save_kv()
    resumed, fresh = chats.new(disk=tmp_path), chats.new(disk=None)
    assert prefilled(resumed, [*prompts[-1], 7]) == 1
    prefilled(fresh, prompts[-1])
    prefilled(fresh, [*prompts[-1], 7])
    torch.testing.assert_close(next_logits(resumed), next_logits(fresh), atol=0.3, rtol=0.1)


def test_a_chunk_from_another_computation_is_not_mixed_with_a_point(chats: Chats, tmp_path: Path) -> None:
    generator = chats.new(disk=tmp_path)
    prefilled(generator, PROMPT)
    chunk = tmp_path / generator.save_kv()[0]
    whole = chunk.read_bytes()
    rounded_otherwise = bytes([whole[0] ^ 1]) + whole[1:-32]
    chunk.write_bytes(rounded_otherwise + hashlib.sha256(chunk.name.encode() + rounded_otherwise).digest())
    assert prefilled(chats.new(disk=tmp_path), PROMPT) == len(PROMPT)
    assert chunk.exists(), "it may belong to another point"
    generator.save_kv()
    assert chunk.read_bytes() == whole
    assert prefilled(chats.new(disk=tmp_path), PROMPT) == 0


def test_a_sequence_that_is_rewound_while_it_is_saved_is_not_saved(chats: Chats, tmp_path: Path) -> None:
    generator = chats.new(disk=tmp_path)
    prefilled(generator, PROMPT)
    marked = generator.sequence.last_mark()
    assert marked is not None
    assert generator.sequence.snapshot(marked[0], 0, 16) is not None
    prefilled(generator, PROMPT[1:])
    assert generator.sequence.snapshot(marked[0], 0, 16) is None


def test_a_switch_of_conversations_loads_the_other_one(chats: Chats, tmp_path: Path) -> None:
    other = chats.new(disk=tmp_path)
    prefilled(other, [*PROMPT, *PROMPT])
    other.save_kv()
    generator = chats.new(disk=tmp_path)
    prefilled(generator, [*PROMPT[:20], 9, 9, 9])
    assert prefilled(generator, [*PROMPT, *PROMPT, 9]) == 1


def test_little_is_not_loaded_instead_of_what_is_in_memory(chats: Chats, tmp_path: Path) -> None:
    generator = chats.new(disk=tmp_path)
    prefilled(generator, [*PROMPT, 1])
    generator.save_kv()
    prefilled(generator, PROMPT)
    (tmp_path / generator.kv_names()[0]).unlink()
    assert prefilled(generator, [*PROMPT, 1, 2]) == 2
