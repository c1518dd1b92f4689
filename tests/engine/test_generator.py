"""A generator reads nothing twice, stops where it should, and always continues as a new one would."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernels.protocol import LayerDecoder
from gptoss_cli.errors import Hint, IntegrityError, NumericalError, ResourceError
from gptoss_cli.generation import Sampling, TokenGenerator
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

SHAPE = Shape(layer_types=(SLIDING, FULL), window=11)
GREEDY = Sampling(seed=0, temperature=0)
PROMPT = [(7 * i * i + 3) % SHAPE.vocabulary for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)


@pytest.fixture(scope="module")
def shared(folder: Path) -> Generator:
    """One generator for every test: no test may depend on what another left in it."""
    return small_context(folder)


def small_context(folder: Path, *, context_tokens: int | None = 200, chunk_tokens: int = 16) -> Generator:
    return open_generator(folder, dtype=Dtype.FLOAT32, context_tokens=context_tokens, chunk_tokens=chunk_tokens)


def prefilled(generator: Generator, ids: list[int]) -> int:
    """Prefill `ids` to the end -> the number of tokens that were read."""
    steps = list(generator.prefill(ids))
    assert steps[0] == (0, steps[-1][1])
    assert steps[-1][0] == steps[-1][1]
    return steps[-1][1]


def decode(
    generator: Generator, count: int | None, *, stop: tuple[int, ...] = (), sampling: Sampling = GREEDY
) -> list[int]:
    return list(generator.decode(sampling, stop_ids=stop, banned_ids=(), max_tokens=count))


def fresh(folder: Path, ids: list[int], count: int) -> list[int]:
    """Return the ids that a generator which has read nothing else decodes."""
    generator = small_context(folder, chunk_tokens=512)
    prefilled(generator, ids)
    return decode(generator, count)


def test_a_generator_is_a_token_generator(shared: Generator) -> None:
    generator: TokenGenerator = shared
    assert generator.context_tokens == 200


def test_prefill_reports_chunk_by_chunk(folder: Path) -> None:
    assert list(small_context(folder).prefill(PROMPT)) == [(0, 40), (16, 40), (32, 40), (40, 40)]


def test_greedy_decode_yields_the_argmax_of_the_logits(folder: Path, shared: Generator) -> None:
    prefilled(shared, PROMPT)
    (first,) = decode(shared, 1)
    assert first == int(shared.logits(PROMPT)[-1].argmax())


def test_logits_leave_the_sequence_unchanged(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    text = decode(generator, 5)
    assert generator.logits(PROMPT[::-1]).shape == (40, SHAPE.vocabulary)
    assert text + decode(generator, 5) == fresh(folder, PROMPT, 10)


def test_a_second_decode_continues_the_first(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    assert decode(generator, 4) + decode(generator, 4) == fresh(folder, PROMPT, 8)


def test_the_second_turn_reads_only_the_last_answer_and_the_new_message(folder: Path) -> None:
    """Harmony drops the reasoning, so the second prompt leaves the sequence where the first prompt ended."""
    generator = small_context(folder)
    assert prefilled(generator, PROMPT) == 40
    answer = decode(generator, 30)[20:]
    second = [*PROMPT, *answer, 1, 2, 3]
    assert prefilled(generator, second) == 10 + 3
    assert decode(generator, 6) == fresh(folder, second, 6)


def test_three_turns_each_read_only_what_is_new(folder: Path) -> None:
    generator, ids = small_context(folder), PROMPT
    for _ in range(3):
        assert prefilled(generator, ids) in (40, 9)
        ids = [*ids, *decode(generator, 25)[-6:], 5, 6, 7]


def test_an_answer_in_the_next_prompt_is_not_read_again(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    text = decode(generator, 25)
    assert prefilled(generator, [*PROMPT, *text, 8, 9]) == 3  # the last id was yielded but not yet run


def test_the_same_prompt_again_is_not_read_again(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    text = decode(generator, 30)
    assert prefilled(generator, PROMPT) == 0
    assert decode(generator, 30) == text


def test_the_same_prompt_twice_without_an_answer_is_not_read_again(folder: Path) -> None:
    generator = small_context(folder)
    assert [prefilled(generator, PROMPT) for _ in range(3)] == [40, 0, 0]
    assert decode(generator, 3) == fresh(folder, PROMPT, 3)


def test_a_rewind_by_two_turns_uses_the_mark_of_that_turn(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    decode(generator, 20)
    second = [*PROMPT, *range(30)]
    prefilled(generator, second)
    decode(generator, 20)
    other = [*PROMPT, 99, 98]
    assert prefilled(generator, other) == 2
    assert decode(generator, 5) == fresh(folder, other, 5)


def test_another_conversation_is_read_from_its_start(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    decode(generator, 20)
    assert prefilled(generator, PROMPT[::-1]) == 40
    assert decode(generator, 5) == fresh(folder, PROMPT[::-1], 5)


def test_a_shorter_prompt_reads_at_most_its_last_token(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT[:9])
    assert prefilled(generator, PROMPT[:6]) == 1
    assert decode(generator, 5) == fresh(folder, PROMPT[:6], 5)


def test_a_prefill_closed_between_chunks_can_be_continued(folder: Path) -> None:
    generator = small_context(folder)
    steps = generator.prefill(PROMPT)
    assert [next(steps), next(steps)] == [(0, 40), (16, 40)]
    assert isinstance(steps, Iterator)
    steps.close()  # type: ignore[attr-defined]
    assert prefilled(generator, PROMPT) == 24
    assert decode(generator, 5) == fresh(folder, PROMPT, 5)


def test_a_closed_decode_keeps_every_yielded_id(folder: Path) -> None:
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    steps = generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=None)
    answer = [next(steps) for _ in range(7)]
    steps.close()  # type: ignore[attr-defined]
    assert answer + decode(generator, 3) == fresh(folder, PROMPT, 10)
    assert prefilled(generator, [*PROMPT, *answer, 4]) <= 8


@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_failure_after_the_layers_leaves_a_sound_sequence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """The rings have been overwritten by then."""
    generator = small_context(folder)
    prefilled(generator, PROMPT)
    answer = decode(generator, 14)
    calls = iter(range(100))
    kernels = generator.model.kernels
    name = "decode_layers" if isinstance(kernels, LayerDecoder) else "mix_experts"
    operation = getattr(kernels, name)

    def failing(*arguments: object, **options: object) -> object:
        result = operation(*arguments, **options)
        if next(calls) == when:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(kernels, name, failing)
    with pytest.raises(KeyboardInterrupt):
        answer.extend(generator.decode(GREEDY, stop_ids=(), banned_ids=(), max_tokens=14))
    monkeypatch.undo()
    assert answer + decode(generator, 20 - len(answer)) == fresh(folder, PROMPT, 20)
    assert prefilled(generator, [*PROMPT, 1]) == 1
    assert decode(generator, 5) == fresh(folder, [*PROMPT, 1], 5)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_failure_in_a_later_chunk_does_not_spoil_the_ring(
    folder: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """The chunk of 16 that fails has overwritten keys that its own first query needs."""
    generator = small_context(folder)
    ids = [*PROMPT, *range(100, 140)]
    if turns:
        prefilled(generator, PROMPT)
    steps = generator.prefill(ids)
    read = [next(steps)[0], next(steps)[0]]
    monkeypatch.setattr(generator.model.kernels, "mix_experts", _out_of_memory)
    with pytest.raises(ResourceError):
        next(steps)
    monkeypatch.undo()
    assert read == [0, 16]
    assert prefilled(generator, ids) == len(ids) - turns * len(PROMPT)
    assert decode(generator, 8) == fresh(folder, ids, 8)


def test_a_failure_in_the_first_prefill_leaves_an_empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = small_context(folder)
    monkeypatch.setattr(generator.model.kernels, "mix_experts", _out_of_memory)
    with pytest.raises(ResourceError):
        prefilled(generator, PROMPT)
    monkeypatch.undo()
    assert prefilled(generator, PROMPT) == 40
    assert decode(generator, 5) == fresh(folder, PROMPT, 5)


def _out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("device full")


def test_a_full_apple_gpu_is_a_resource_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, message = small_context(folder), "MPS backend out of memory (MPS allocated: 12.00 GB)."

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(generator.model.kernels, "mix_experts", fail)
    with pytest.raises(ResourceError, match="out of memory"):
        prefilled(generator, PROMPT)
    message = "something else"
    with pytest.raises(RuntimeError, match=message):
        prefilled(generator, PROMPT)


def test_decode_ends_with_a_stop_id_included(folder: Path, shared: Generator) -> None:
    text = fresh(folder, PROMPT, 12)
    prefilled(shared, PROMPT)
    assert decode(shared, None, stop=(text[6],)) == text[: text.index(text[6]) + 1]


def test_decode_ends_when_the_context_is_full(folder: Path) -> None:
    generator = small_context(folder, context_tokens=45)
    prefilled(generator, PROMPT)
    assert len(decode(generator, None)) == 5
    assert decode(generator, None) == []


def test_a_prompt_without_room_for_one_token_is_refused_before_any_work(folder: Path) -> None:
    generator = small_context(folder, context_tokens=40)
    with pytest.raises(ResourceError, match="at least 41 tokens, and the context holds 40") as raised:
        generator.prefill(PROMPT)
    assert raised.value.hints == (Hint.SHORTER_CONVERSATION, Hint.LARGER_CONTEXT)
    assert prefilled(generator, PROMPT[:39]) == 39


def test_banned_ids_are_not_decoded(folder: Path, shared: Generator) -> None:
    banned = fresh(folder, PROMPT, 3)
    prefilled(shared, PROMPT)
    answer = list(shared.decode(GREEDY, stop_ids=(), banned_ids=banned, max_tokens=10))
    assert not set(answer) & set(banned)


def test_the_same_seed_decodes_the_same_ids(shared: Generator) -> None:
    def answer(seed: int) -> list[int]:
        prefilled(shared, PROMPT)
        return decode(shared, 12, sampling=Sampling(seed))

    assert answer(5) == answer(5) != answer(6)


def test_an_id_outside_the_vocabulary_is_refused(shared: Generator) -> None:
    with pytest.raises(IntegrityError, match="no token 200006"):
        shared.prefill([1, 200_006])


def test_the_default_context_is_the_models(folder: Path) -> None:
    assert small_context(folder, context_tokens=None).context_tokens == 4_000


def test_a_nan_scale_is_a_numerical_error(tmp_path: Path) -> None:
    """In E8M0, 255 is NaN: a checkpoint may hold it, and the answer must end."""
    write_checkpoint(tmp_path, SHAPE)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    damaged = torch.frombuffer(data, dtype=torch.uint8)
    name = b'"model.layers.1.mlp.experts.down_proj_scales"'
    start = data.index(b'"data_offsets": [', data.index(name)) + len(b'"data_offsets": [')
    first, last = (int(part) for part in bytes(data[start : data.index(b"]", start)]).split(b","))
    base = 8 + int.from_bytes(data[:8], "little")
    damaged[base + first : base + last] = 255
    path.write_bytes(data)
    generator = small_context(tmp_path)
    prefilled(generator, PROMPT)
    with pytest.raises(NumericalError):
        decode(generator, 5)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.lists(st.integers(0, 3), max_size=20), st.integers(0, 16)),
        min_size=1,
        max_size=6,
    )
)
def test_after_any_history_a_generator_continues_as_a_new_one(
    shared: Generator, turns: list[tuple[int, list[int], int]]
) -> None:
    """Prompts with common prefixes of any length, and answers of any length between them."""
    for kept, added, answered in turns:
        prompt = [*PROMPT[:kept], *added]
        prefilled(shared, prompt)
        answer = decode(shared, answered)
        assert len(answer) == answered
    assert decode(shared, 1) == [int(shared.logits([*prompt, *answer])[-1].argmax())]
