"""A sequence rewinds exactly, and counts a step in flight only once its id has been yielded."""

from itertools import chain

import pytest
import torch

from gptoss_cli.engine.model import Transformer
from gptoss_cli.engine.sequence import Sequence
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


def test_a_sequence_keeps_only_its_last_marks(model: Transformer) -> None:
    sequence = Sequence(model, context_tokens=90, chunk_tokens=8)
    for id_ in IDS:
        sequence.read([id_])
        sequence.mark()
    sequence.rewind_to_prefix_of(IDS[:24])
    assert len(sequence) == 24
    sequence.rewind_to_prefix_of(IDS[:15])
    assert len(sequence) == 0


def test_a_failed_device_is_not_touched_again(sequence: Sequence, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    sequence.mark()
    monkeypatch.setattr(Transformer, "forward", fail)
    monkeypatch.setattr(type(sequence.cache), "rewind", fail)
    with pytest.raises(ResourceError, match="The GPU failed: CUDA error: an illegal memory access") as raised:
        sequence.read([1])
    assert raised.value.hints == (Hint.START_AGAIN, Hint.CPU)
