"""A prompt takes the sequence that it continues; a small one that continues nothing drops no conversation."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from gptoss_cli.cache_files import kv_folder
from gptoss_cli.engine.generator import Generator
from gptoss_cli.generation import Sampling, TokenGenerator
from gptoss_cli.server.job import OneSequence
from gptoss_cli.server.pool import SMALL_TOKENS, ConversationPool
from gptoss_cli.server.response_store import ResponseStore
from gptoss_cli.server.responses_input import read_responses
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator
from tests.scripted_generator import ScriptedGenerator
from tests.server.branching import BranchingScripted
from tests.server.turns import ANSWER, SERVED, WEATHER, body, ids_of

SHAPE: Final = Shape(layer_types=(SLIDING, FULL), window=11)
SYSTEM: Final = list(range(100, 140))
GREEDY: Final = Sampling(seed=0, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)


def opened(folder: Path) -> Generator:
    return open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=3000, kv_limit_bytes=0)


class Clients:
    """Conversations with a pool, by name. Each prompt begins with SYSTEM."""

    def __init__(self, folder: Path, conversations: int) -> None:
        self.pool = ConversationPool(opened(folder), conversations=conversations)
        self.prompts: dict[str, list[int]] = {}

    def ask(self, name: str, tokens: int = 20) -> int:
        """Let a conversation ask for ten ids -> how many tokens of its last prompt and of SYSTEM were read again."""
        before = self.prompts.get(name, SYSTEM)
        new = [(3 * sum(map(ord, name)) + len(before) + 7 * i * i) % SHAPE.vocabulary for i in range(tokens)]
        ids = self.prompts[name] = [*before, *new]
        with self.pool.sequence(ids, len(SYSTEM)) as generator:
            *_, (_, read) = generator.prefill(ids)
            list(generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=30))
        return read - len(new)


def test_two_conversations_and_title_requests_read_only_what_is_new(folder: Path) -> None:
    clients = Clients(folder, 2)
    assert [clients.ask(name) for name in "aabb"] == [len(SYSTEM), 0, 0, 0]
    for turn in range(4):
        assert clients.ask("b") == 0
        assert clients.ask(f"title {turn}") == 0
        assert clients.ask("a") == 0
        assert clients.ask(f"Title {turn}") == 0


def test_the_conversation_of_the_longest_time_ago_is_dropped(folder: Path) -> None:
    clients = Clients(folder, 2)
    for name in "aabbcc":
        clients.ask(name)
    assert clients.ask("d") == 0
    assert [clients.ask(name) for name in "cb"] == [0, 0]
    assert clients.ask("a") == 40


def test_a_long_prompt_is_a_conversation_at_once(folder: Path) -> None:
    clients = Clients(folder, 1)
    clients.ask("a", SMALL_TOKENS)
    clients.ask("b")
    clients.ask("c")
    assert clients.ask("a") == 0


@pytest.mark.parametrize("turns", [3, 6])
def test_a_question_that_another_conversation_began_with_does_not_cut_it(folder: Path, turns: int) -> None:
    clients = Clients(folder, 2)
    for _ in range(turns):
        clients.ask("a")
    first = clients.prompts["a"][: len(SYSTEM) + 20]
    with clients.pool.sequence(first, len(SYSTEM)) as generator:
        assert list(generator.prefill(first)) == [(0, 0)], "it is copied"
    assert clients.ask("a") == 0


def test_strangers_at_the_same_time_replace_short_conversations_first() -> None:
    pool = ConversationPool(BranchingScripted(), conversations=2, threads=3)
    long, short = list(range(SMALL_TOKENS)), [*SYSTEM, 1]
    for ids in (long, short, [*short, 2]):
        with pool.sequence(ids) as generator:
            list(generator.prefill(ids))
    with pool.sequence([7]), pool.sequence([8]), pool.sequence([*long, 9]) as third:
        assert isinstance(third, BranchingScripted)
        assert third.kept_tokens([*long, 9]) == len(long)


@pytest.mark.parametrize("conversations", [1, 3])
def test_a_pool_decodes_as_a_fresh_engine(folder: Path, conversations: int) -> None:
    clients = Clients(folder, conversations)
    for name in "abcabdabca":
        clients.ask(name)
        ids = clients.prompts[name]
        with clients.pool.sequence(ids, len(SYSTEM)) as generator:
            list(generator.prefill(ids))
            found = list(generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=8))
        fresh = opened(folder)
        list(fresh.prefill(ids))
        assert found == list(fresh.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=8))


def test_only_what_every_conversation_begins_with_is_written_to_disk_and_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path))

    def read(ids: list[int], *, is_private: bool) -> int:
        """Return how many tokens a new server reads, and close it."""
        generator = open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=3000)
        with ConversationPool(generator, conversations=2).sequence(ids, len(SYSTEM), is_private=is_private) as chosen:
            return list(chosen.prefill(ids))[-1][1]

    ids = [*SYSTEM, 1, 2, 3]
    assert [read(ids, is_private=True) for _ in range(2)] == [len(ids)] * 2
    assert not list(kv_folder().glob("*"))
    assert [read(ids, is_private=False) for _ in range(2)] == [len(ids), 3]


class PrivacyPool(OneSequence):
    """Remembers whether the beginning of the last prompt is private."""

    is_private: bool | None = None

    def sequence(
        self, ids: Sequence[int], prefix_tokens: int = 0, *, is_private: bool = True
    ) -> AbstractContextManager[TokenGenerator]:
        self.is_private = is_private
        return super().sequence(ids, prefix_tokens)


@pytest.mark.parametrize(
    ("fields", "is_private"),
    [({}, False), ({"instructions": "Be brief."}, True), ({"tools": [{"type": "function", **WEATHER}]}, True)],
)
def test_instructions_and_functions_of_a_client_are_private(fields: dict[str, object], is_private: bool) -> None:
    pool = PrivacyPool(ScriptedGenerator([ids_of(ANSWER)]))
    exchange = read_responses(body(input="Hi", **fields), SERVED, ResponseStore())
    list(exchange.job.run(pool, lambda stop: None))
    assert pool.is_private is is_private


def test_threads_never_get_the_same_sequence(folder: Path) -> None:
    pool = ConversationPool(opened(folder), conversations=2, threads=9)
    assert pool.threads == 3
    ids = [*SYSTEM, 7]
    with pool.sequence(ids) as first, pool.sequence(ids) as second, pool.sequence(ids) as third:
        assert len({id(first), id(second), id(third)}) == 3
