"""Listening to a sentence encoder."""

import random
import re
import zlib
from pathlib import Path

import pytest
import torch

from gptoss_cli.demo.batches import Batcher, trained_ids
from gptoss_cli.demo.conversations import FIRST_PLACEHOLDER, PLACEHOLDERS, held_out
from gptoss_cli.demo.layout import VOCABULARY_SIZE
from gptoss_cli.demo.network import Network, Shape
from gptoss_cli.demo.sentences import Lesson, Lessons, Listener, common_ids, write
from gptoss_cli.harmony.vocabulary import END, load_encoding

SHAPE = Shape(hidden_size=48, copy_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, head_dim=8)  # fmt: skip
LINES = ["How far is the moon?", "The kettle is on the stove.", "bake bread", "How far is the moon?", ""]


class BagOfWords:
    """An encoder that knows which words there are."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def encode(self, texts: list[str]) -> torch.Tensor:
        self.read = texts
        vectors = torch.zeros(len(texts), 16)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                vector[zlib.crc32(word.encode()) % 16] += 1
        return vectors


@pytest.fixture(scope="module")
def encoder() -> BagOfWords:
    return BagOfWords()


@pytest.fixture(scope="module")
def file(encoder: BagOfWords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sentences") / "sentences.pt"
    write(out, encoder, [*LINES, next(iter(held_out()))], questions=60, seed=2)
    return out


def _lessons(file: Path, ids: list[int]) -> Lessons:
    return Lessons(file, Batcher(ids, seed=1, size=1, limit=300), seed=3, size=2, limit=300)


def test_held_out_questions_and_repetitions_are_left_out(file: Path) -> None:
    saved = torch.load(file)
    assert saved["texts"][saved["own"] :] == LINES[:3]
    assert len(saved["vectors"]) == len(saved["texts"]) > 50


def test_the_encoder_reads_no_placeholders(file: Path, encoder: BagOfWords) -> None:
    assert any(ord(char) >= FIRST_PLACEHOLDER for text in torch.load(file)["texts"] for char in text)
    assert not any(ord(char) >= FIRST_PLACEHOLDER for text in encoder.read for char in text)


def test_each_end_has_the_vector_of_its_message(file: Path) -> None:
    saved = torch.load(file)
    ids = common_ids(file, 10_000)
    lessons = _lessons(file, sorted({*ids, *trained_ids(random.Random(3), 5, 1)}))
    lesson = next(lessons)
    assert int(lesson.ends.sum()) == len(lesson.vectors) > 10
    back = {row: piece for piece, row in lessons.batcher.row_of.items()}
    texts = [" ".join(text.lower().split()).rstrip("?.!") for text in saved["texts"]]
    found = 0
    for (tree, at), vector in zip(lesson.ends.nonzero().tolist(), lesson.vectors, strict=True):
        assert back[int(lesson.batch.rows[tree, at])] == END
        branch = lesson.batch.branches[tree] == lesson.batch.branches[tree, at]
        message = [back.get(row, -1) for row in lesson.batch.rows[tree, branch].tolist()][3:-1]
        if -1 not in message:
            text = load_encoding().decode(message).lower().rstrip("?.!")
            number = texts.index(" ".join(text.split()))
            assert torch.equal(vector, lessons.vectors[number])
            found += 1
    assert found > 5


def test_a_listener_learns_what_messages_mean(file: Path) -> None:
    torch.manual_seed(5)
    ids = sorted({*common_ids(file, 10_000), *trained_ids(random.Random(3), 5, 1)})
    network = Network(SHAPE, ids, PLACEHOLDERS, VOCABULARY_SIZE)
    lessons = _lessons(file, ids)
    listener = Listener(network, 16)
    optimizer = torch.optim.Adam([*network.parameters(), *listener.parameters()], lr=3e-3)

    def missed(lesson: Lesson) -> torch.Tensor:
        loss, helping = listener(network, lesson)
        return torch.Tensor(loss + helping)

    before = missed(held := next(lessons)).item()
    for _ in range(25):
        torch.autograd.backward(missed(next(lessons)))
        optimizer.step()
        optimizer.zero_grad()
    assert missed(held).item() < 0.5 * before
