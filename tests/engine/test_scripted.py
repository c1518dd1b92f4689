"""A scripted generator counts the tokens that a real one would have to read."""

import pytest

from gptoss_cli.errors import ResourceError
from gptoss_cli.generation import Sampling, TokenGenerator
from tests.scripted_generator import ScriptedGenerator

GREEDY = Sampling(seed=0, temperature=0.0)


def decode(generator: TokenGenerator, *, max_tokens: int | None = None) -> list[int]:
    return list(generator.decode(GREEDY, stop_ids={9}, banned_ids=set(), max_tokens=max_tokens))


def test_prefill_reads_only_the_ids_after_the_common_prefix() -> None:
    generator = ScriptedGenerator([[4, 5, 9]], chunk_tokens=2)
    assert list(generator.prefill([1, 2, 3])) == [(0, 3), (2, 3), (3, 3)]
    assert decode(generator) == [4, 5, 9]
    assert list(generator.prefill([1, 2, 3, 4, 6, 7])) == [(0, 2), (2, 2)]
    assert generator.prefilled_tokens == [3, 2]


def test_the_last_id_of_a_prompt_is_always_read() -> None:
    generator = ScriptedGenerator([])
    list(generator.prefill([1, 2, 3]))
    assert list(generator.prefill([1, 2])) == [(0, 1), (1, 1)]


def test_a_closed_prefill_keeps_what_was_read() -> None:
    generator = ScriptedGenerator([], chunk_tokens=2)
    next(generator.prefill([1, 2, 3, 4]))
    reading = generator.prefill([1, 2, 3, 4])
    next(reading)
    next(reading)
    assert generator.sequence == (1, 2)


def test_decode_ends_at_a_stop_id_the_limit_or_a_full_context() -> None:
    generator = ScriptedGenerator([[4, 9, 5], [4, 5, 6], [4, 5, 6]], context_tokens=5)
    list(generator.prefill([1]))
    assert decode(generator) == [4, 9]
    list(generator.prefill([1]))
    assert decode(generator, max_tokens=1) == [4]
    list(generator.prefill([1, 2, 3]))
    assert decode(generator) == [4, 5]


def test_a_prompt_without_room_for_one_more_token_is_refused() -> None:
    generator = ScriptedGenerator([], context_tokens=3)
    with pytest.raises(ResourceError):
        list(generator.prefill([1, 2, 3]))
    assert generator.prompts == []
