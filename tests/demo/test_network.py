"""What is trained is what the engine runs."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gptoss_cli.demo.batches import Batcher, trained_ids
from gptoss_cli.demo.conversations import PLACEHOLDERS
from gptoss_cli.demo.export import SHARPNESS, export, restore
from gptoss_cli.demo.layout import VOCABULARY_SIZE, write_checkpoint
from gptoss_cli.demo.mxfp4 import pack, rounded
from gptoss_cli.demo.network import LANE_IN, Batch, Network, Shape
from gptoss_cli.demo.train import resumed, save
from gptoss_cli.demo.vocabulary import FIRST_SPECIAL_ID, Lane, untrained_rows
from gptoss_cli.engine.generator import Generator
from gptoss_cli.engine.kernels.reference import dequantize
from gptoss_cli.settings import Dtype

SHAPE = Shape(
    hidden_size=96, copy_size=32, intermediate_size=64, num_hidden_layers=3, sliding_window=11, original_context=40
)


@pytest.fixture(scope="module")
def trained() -> tuple[Network, list[int]]:
    torch.manual_seed(3)
    ids, said = trained_ids(random.Random(3), 20, 1)
    network = Network(SHAPE, ids, said, PLACEHOLDERS, VOCABULARY_SIZE)
    for name, parameter in network.named_parameters():
        if name.endswith(("bias", "sinks", "base")):
            torch.nn.init.normal_(parameter, std=0.3)
    # Only what the shipped file can hold is compared.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.bfloat16())
        network.hold_copy_lane()
        for _, experts in network.layers():
            for weights in (experts.gate_up, experts.down):
                weights.copy_(rounded(weights))
    return network.eval(), ids


def test_engine_computes_what_was_trained(trained: tuple[Network, list[int]], tmp_path: Path) -> None:
    network, ids = trained
    save(tmp_path / "state.pt", network, ids)
    export(tmp_path / "state.pt", tmp_path / "demo.safetensors")
    (folder := tmp_path / "checkpoint").mkdir()
    write_checkpoint((tmp_path / "demo.safetensors").read_bytes(), folder)
    batch = next(Batcher(ids, seed=1, size=1, limit=300))
    keep = [i for i, branch in enumerate(batch.branches[0].tolist()) if branch == 0 and batch.rows[0, i] < len(ids)][
        :90
    ]
    prompt = [ids[row] for row in batch.rows[0, keep].tolist()]
    trunk = Batch(
        batch.rows[:, keep], torch.arange(len(keep))[None], torch.zeros(1, len(keep)).long(), batch.targets[:, keep]
    )
    with torch.no_grad():
        hidden, _ = network.hidden(network.embedding[trunk.rows], trunk)
        expected = SHARPNESS * (hidden @ network.tables()[1][: len(ids)].T)[0]
    logits = Generator.open(folder, dtype=Dtype.FLOAT32).logits(prompt)[:, ids]
    # Special tokens that are only read have a direction there, and none in training: no softmax ever holds them.
    compared = [row for row, token in enumerate(ids) if row < len(network.unembedding) or token < FIRST_SPECIAL_ID]
    logits, expected = logits[:, compared], expected[:, compared]
    assert (logits - expected).square().mean().sqrt() < 1e-4 * expected.std()


@pytest.fixture
def shipped(trained: tuple[Network, list[int]], tmp_path: Path) -> Path:
    save(tmp_path / "state.pt", *trained)
    export(tmp_path / "state.pt", tmp_path / "demo.safetensors")
    return tmp_path / "demo.safetensors"


def test_what_ships_is_a_state_to_go_on_from(trained: tuple[Network, list[int]], shipped: Path, tmp_path: Path) -> None:
    state = restore(shipped)
    assert Shape(**state["shape"]) == SHAPE
    assert state["ids"] == trained[1]
    torch.save(state, tmp_path / "restored.pt")
    export(tmp_path / "restored.pt", tmp_path / "again.safetensors")
    before, after = load_file(shipped), load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    assert not [name for name in before if not torch.equal(before[name], after[name])]


def test_training_goes_on_with_rows_for_new_tokens_that_begin_as_untrained_ones(
    trained: tuple[Network, list[int]], shipped: Path
) -> None:
    old, ids = trained
    new = [token for token in range(100, 300) if token not in ids]
    said = len(old.unembedding)
    network, grown = resumed(shipped, new + ids[5:], 3)
    network.hold_copy_lane()
    assert grown[: said + 3] == sorted({*ids[:said], *new[:3]})
    assert grown[said + 3 :] == sorted({*ids[said:], *new[3:]})
    rows = [grown.index(token) for token in ids]
    assert torch.equal(network.embedding[rows], old.embedding)
    assert torch.equal(network.unembedding[rows[:said]], old.unembedding)
    free = slice(-SHAPE.copy_size)
    begun = network.unembedding[[grown.index(token) for token in new[:3]], free]
    assert torch.equal(begun, old.unembedding_base[free].expand(3, -1))
    made = untrained_rows(np.array(new), old.embedding_base.detach().numpy(), Lane(SHAPE.copy_size, LANE_IN))
    added = network.embedding.detach()[[grown.index(token) for token in new]]
    assert torch.allclose(added[:, : -SHAPE.copy_size], torch.from_numpy(made)[:, : -SHAPE.copy_size])
    assert torch.equal(added[:, -SHAPE.copy_size :], torch.from_numpy(made)[:, -SHAPE.copy_size :])


def test_untrained_rows_are_the_trainer_s_placeholders(trained: tuple[Network, list[int]]) -> None:
    network, _ = trained
    base = network.embedding_base.detach()
    with torch.no_grad():
        placeholders = network.tables()[0][-network.placeholders :] - base
    made = torch.from_numpy(untrained_rows(np.arange(5000), base.numpy(), Lane(SHAPE.copy_size, LANE_IN))) - base
    for rows in (placeholders, made):
        assert not rows[:, : -SHAPE.copy_size].any()
        assert torch.allclose(rows[:, -SHAPE.copy_size :].abs(), torch.tensor(LANE_IN))
        assert rows[:, -SHAPE.copy_size :].sign().mean().abs() < 0.05
    assert len({tuple(row) for row in made.sign().int().tolist()}) == 5000


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_token_to_copy_is_one_of_all_that_are_never_said(
    trained: tuple[Network, list[int]], is_trained: bool
) -> None:
    network, ids = trained
    said = len(network.unembedding)
    copied = said + 5 if is_trained else len(ids) + 5
    batch = Batch(*(torch.tensor([row]) for row in ([3, copied, 7], [0, 1, 2], [0, 0, 0], [-1, -1, copied])))
    torch.manual_seed(8)
    loss, _ = network(batch)
    torch.manual_seed(8)
    embedding, unembedding = network.tables()
    logits = (network.hidden(embedding[batch.rows], batch)[0] @ unembedding.T)[0, 2]
    others = [row for row in range(len(ids), len(logits)) if row != copied]
    unsaid = logits[others].repeat_interleave(round(network.stands_for))
    everything = torch.cat((logits[:said], logits[copied][None], unsaid)).logsumexp(0)
    assert loss.item() == pytest.approx((everything - logits[copied]).item(), abs=0.01)


def test_copying_heads_write_back_what_they_see(trained: tuple[Network, list[int]]) -> None:
    network, _ = trained
    attention, _ = network.layers()[-1]
    lane = slice(-SHAPE.copy_size, None)
    values = attention.qkv.detach()[lane]
    written = attention.out.detach()[:, -SHAPE.copying_heads * SHAPE.head_dim :]
    heads = written.reshape(len(written), -1, 2, SHAPE.head_dim).sum(2).flatten(1)
    product = heads @ values
    expected = torch.zeros_like(product)
    expected[lane, lane] = network.lane_gain**2 * torch.eye(SHAPE.copy_size)
    assert torch.allclose(product, expected)


def test_packed_weights_are_the_rounded_ones() -> None:
    weights = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 5)[:, None]
    blocks, scales = pack(weights)
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat((values, -values))
    nibbles = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
    unpacked = values[nibbles] * torch.exp2(scales.float() - 127)[..., None]
    assert torch.equal(unpacked.flatten(-2), rounded(weights))
    assert torch.equal(dequantize(blocks, scales, torch.float32), rounded(weights))
    assert (unpacked.flatten(-2) - weights).norm() < 0.13 * weights.norm()
