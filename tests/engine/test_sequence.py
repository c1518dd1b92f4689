"""A sequence rewinds exactly, and counts a step in flight only once its id has been yielded."""

from collections.abc import Iterable
from itertools import chain

import pytest
import torch

from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.sequence import Sequence, read_together
from gptoss_cli.errors import Hint, ResourceError
from gptoss_cli.settings import Dtype
from tests.engine.checkpoints import FULL, SLIDING, Shape, write_checkpoint
from tests.engine.open_generator import open_generator

SHAPE = Shape(layer_types=(SLIDING, FULL), window=11)
IDS = [(7 * i * i + 3) % SHAPE.vocabulary for i in range(30)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SHAPE)
    return open_generator(folder, dtype=Dtype.FLOAT32).model


@pytest.fixture
def sequence(model: Transformer) -> Sequence:
    """A sequence that has read IDS."""
    sequence = Sequence(model, context_tokens=90, chunk_tokens=8)
    for chunk in sequence.chunks(IDS):
        sequence.read(chunk)
    return sequence


def assert_follows(model: Transformer, sequence: Sequence, ids: list[int]) -> None:
    """Check that the state of `sequence` is that after `ids`."""
    expected = model.forward(ids, model.new_cache(90))[-1:]
    assert sequence.hidden is not None
    assert torch.allclose(sequence.hidden, expected, atol=1e-4)


def start_step(model: Transformer, sequence: Sequence, id_: int) -> torch.Tensor:
    """Read `id_` into the cache as an overlapped stepper does, without the sequence knowing."""
    sequence.cache.position.fill_(sequence.cache.length)
    hidden = model.forward_on_device(torch.tensor([id_]), sequence.cache)
    sequence.cache.advance(1)
    return hidden


def test_chunks_cover_the_ids_in_order(sequence: Sequence) -> None:
    chunks = list(sequence.chunks(IDS))
    assert [len(chunk) for chunk in chunks] == [8, 8, 8, 6]
    assert [*chain(*chunks)] == IDS == sequence.cached


def test_a_step_in_flight_counts_once_its_id_is_pending(model: Transformer, sequence: Sequence) -> None:
    hidden = start_step(model, sequence, 77)
    assert not sequence.commit(hidden)
    sequence.pending.append(77)
    assert sequence.commit(hidden)
    assert (sequence.cached, sequence.pending) == ([*IDS, 77], [])
    sequence.read([78])
    assert_follows(model, sequence, [*IDS, 77, 78])


def test_a_discarded_step_leaves_no_trace(model: Transformer, sequence: Sequence) -> None:
    start_step(model, sequence, 77)
    sequence.discard()
    assert sequence.cache.length == len(sequence) == len(IDS)
    sequence.read([78])
    assert_follows(model, sequence, [*IDS, 78])


def test_pending_ids_are_read_a_chunk_at_a_time(sequence: Sequence) -> None:
    sequence.pending = list(range(10))
    sequence.read_pending_chunk()
    assert (sequence.cached, sequence.pending) == ([*IDS, *range(8)], [8, 9])


def test_a_sequence_rewinds_to_a_mark_with_its_hidden_state(model: Transformer, sequence: Sequence) -> None:
    sequence.mark()
    for id_ in range(20):  # which overwrites the whole ring
        sequence.read([id_])
    sequence.pending = [5]
    sequence.rewind_to_prefix_of(IDS)
    assert (sequence.cached, sequence.pending, len(sequence)) == (IDS, [], len(IDS))
    assert_follows(model, sequence, IDS)


def test_without_a_mark_a_full_ring_loses_everything(sequence: Sequence) -> None:
    sequence.rewind_to_prefix_of([*IDS[:20], 99])
    assert len(sequence) == 0


def marked(model: Transformer, lengths: Iterable[int]) -> Sequence:
    """Return a sequence that has read IDS, with marks at `lengths`."""
    sequence = Sequence(model, context_tokens=90, chunk_tokens=8)
    for length, id_ in enumerate(IDS, 1):
        sequence.read([id_])
        if length in lengths:
            sequence.mark()
    return sequence


def test_the_marks_that_cost_least_to_lose_go_first(model: Transformer) -> None:
    sequence = marked(model, [4, 8, 12, 14, 18, 19, 22, 26, 29, 30])
    assert [sequence.kept_tokens([*IDS[:length], 99]) for length in (5, 14, 19, 28, 29)] == [4, 12, 18, 26, 29]
    sequence.rewind_to_prefix_of([*IDS[:14], 99])
    assert_follows(model, sequence, IDS[:12])


def test_a_sequence_keeps_what_ends_at_a_mark_or_all_of_it(model: Transformer) -> None:
    sequence = marked(model, [20])
    kept = [sequence.kept_tokens(ids) for ids in ([*IDS, 7], IDS, IDS[:29], [*IDS[:20], 99], IDS[:19], [99])]
    assert kept == [30, 30, 20, 20, 0, 0]
    assert sequence.prompt_tokens == 20


def test_a_copied_prefix_continues_as_the_original(model: Transformer, sequence: Sequence) -> None:
    source = marked(model, [12, 20])
    sequence.copy_prefix(source, IDS)
    assert sequence.cached == IDS, "it keeps all of them itself"
    other = [*IDS[:20], 99, 98]
    sequence.clear()
    sequence.copy_prefix(source, other)
    assert sequence.cached == IDS[:20]
    sequence.read(other[20:])
    assert_follows(model, sequence, other)
    assert_follows(model, source, IDS)


def test_ids_of_several_sequences_are_read_together(model: Transformer) -> None:
    sequences = [marked(model, [25]), Sequence(model, context_tokens=90, chunk_tokens=8)]
    sequences[1].read([5, 6, 7])
    sequences[0].pending, sequences[1].pending = [71], [72, 73]
    logits = read_together(model, sequences)
    assert [sequence.pending for sequence in sequences] == [[], [73]]
    for sequence, row, ids in zip(sequences, logits, ([*IDS, 71], [5, 6, 7, 72]), strict=True):
        assert sequence.cached == ids
        assert_follows(model, sequence, ids)
        assert sequence.hidden is not None
        assert torch.allclose(row, model.unembed(sequence.hidden)[0], atol=1e-4)


def test_sequences_that_fail_together_return_to_their_marks(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [marked(model, [25]), marked(model, [12, 20])]
    for sequence in sequences:
        sequence.pending = [71]
    monkeypatch.setattr(model.kernels, "mix_experts", _fail)
    with pytest.raises(ResourceError, match="out of memory"):
        read_together(model, sequences)
    monkeypatch.undo()
    assert [len(sequence.cached) for sequence in sequences] == [25, 20]
    for sequence in sequences:
        assert sequence.cached + sequence.pending == [*IDS, 71]
        while sequence.pending:
            sequence.read_pending_chunk()
        assert_follows(model, sequence, [*IDS, 71])


def _fail(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("full")


def test_a_failed_device_is_not_touched_again(sequence: Sequence, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    sequence.mark()
    monkeypatch.setattr(Transformer, "forward", fail)
    monkeypatch.setattr(type(sequence.cache), "rewind", fail)
    with pytest.raises(ResourceError, match="The GPU failed: CUDA error: an illegal memory access") as raised:
        sequence.read([1])
    assert raised.value.hints == (Hint.START_AGAIN, Hint.CPU)
