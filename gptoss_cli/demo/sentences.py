"""Sentences and what they mean to a sentence encoder: `python -m gptoss_cli.demo.sentences OUT ENCODER TEXT...`.

A model this small, trained on its own conversations alone, knows of a word only what it is asked with. Training may
also listen: to how near an encoder, trained on far more text, finds the sentences of any text file (a line each) and
the questions of the conversations. The encoder is a sentence-transformers folder, which is no dependency of gptoss.
"""

import argparse
import importlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from gptoss_cli.demo.batches import EFFORTS, Batcher, Tree, encoded, preface, some_date, user_pieces
from gptoss_cli.demo.conversations import FIRST_PLACEHOLDER, held_out, lone_turn, plain
from gptoss_cli.demo.network import Batch, Network
from gptoss_cli.harmony.vocabulary import END

QUESTIONS = 50_000  # of the conversations, besides the lines of the files
OWN_SHARE = 0.4  # of what is listened to
_UNKNOWN_WORD = "zork"


@dataclass(frozen=True, slots=True)
class Lesson:
    """Messages in branches, where each `ends` [B, T] bool, and what they mean: `vectors` [N, D], of unit length."""

    batch: Batch
    ends: Tensor
    vectors: Tensor


class Lessons:
    """Batches of sentences drawn at random from a file that `write` made, for ever."""

    def __init__(self, file: Path, batcher: Batcher, *, seed: int, size: int, limit: int) -> None:
        saved = torch.load(file, weights_only=True)
        self.texts: list[str] = saved["texts"]
        self.own: int = saved["own"]
        vectors = saved["vectors"].float()
        self.vectors = normalize(vectors - vectors.mean(0), dim=1)
        self.batcher, self.size, self.limit, self.rng = batcher, size, limit, random.Random(seed)

    def __next__(self) -> Lesson:
        made = [self._tree() for _ in range(self.size)]
        batch = self.batcher.batch([tree for tree, _ in made])
        ends = (batch.rows == self.batcher.row_of[END]) & (batch.branches > 0)
        return Lesson(batch, ends, self.vectors[[number for _, numbers in made for number in numbers]])

    def _tree(self) -> tuple[Tree, list[int]]:
        """As many messages as fit, each the first of its chat or one far into it, and their numbers."""
        rng, made, numbers = self.rng, Tree(), list[int]()
        date, effort = some_date(rng), rng.choice(EFFORTS)
        start = made.add(preface(effort, date, None), start=0) + rng.choice((0, rng.randrange(1500)))
        while True:
            is_own = rng.random() < OWN_SHARE
            number = rng.randrange(self.own) if is_own else rng.randrange(self.own, len(self.texts))
            text = self.texts[number] if is_own else _respelled(self.texts[number], rng)
            pieces = user_pieces(text)
            if len(made.pieces) + len(pieces) > self.limit:
                return made, numbers
            numbers.append(number)
            made.add(pieces, start=start, branch=len(numbers))


class Listener(nn.Module):
    """Tells from the hidden state before the last layer what a message means. Used in training only."""

    def __init__(self, network: Network, size: int) -> None:
        super().__init__()
        free = network.shape.hidden_size - network.shape.copy_size
        self.head = nn.Linear(free, size, bias=False)

    def forward(self, network: Network, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """How far off it is, from 0 to 2, and a loss that helps training."""
        known, helping = network.known(lesson.batch, lesson.ends)
        return 1 - cosine_similarity(self.head(known), lesson.vectors).mean(), helping


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("text", type=Path, nargs="+")
    arguments = parser.parse_args()
    encoder = importlib.import_module("sentence_transformers").SentenceTransformer(str(arguments.encoder))
    lines = [line.strip() for text in arguments.text for line in text.read_text("utf-8").splitlines()]
    write(arguments.out, encoder, lines, questions=QUESTIONS, seed=1)


def write(out: Path, encoder: Any, lines: list[str], *, questions: int, seed: int) -> None:
    """Write `lines`, without those that are held out, and questions of the conversations, with their vectors.

    `encoder.encode(list of str)` gives [N, D] float32.
    """
    rng = random.Random(seed)
    own = dict(_questions(rng, questions))
    others = [line for line in dict.fromkeys(lines) if line and plain(line) not in held_out()]
    vectors = torch.as_tensor(encoder.encode([*own.values(), *others]))
    torch.save({"texts": [*own, *others], "own": len(own), "vectors": vectors.half()}, out)


def common_ids(file: Path, count: int) -> list[int]:
    """The token ids that are the most frequent ones in the sentences of a file that `write` made."""
    texts = torch.load(file, weights_only=True)["texts"]
    counts = Counter(piece for text in texts for piece in encoded(text) if isinstance(piece, int))
    return [piece for piece, _ in counts.most_common(count)]


def _questions(rng: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """What the model reads, and what the encoder does: it has never seen a placeholder."""
    while count:
        turn = lone_turn(rng)
        if not turn.is_lookup:
            continue
        instead = _UNKNOWN_WORD if turn.kind == "unknown" else ""
        words = "".join(instead if ord(char) >= FIRST_PLACEHOLDER else char for char in turn.user)
        yield turn.user, " ".join(words.split())
        count -= 1


def _respelled(text: str, rng: random.Random) -> str:
    text = text[0].upper() + text[1:] if rng.random() < 0.4 else text
    return text.lower().rstrip("?.!") or text if rng.random() < 0.4 else text


if __name__ == "__main__":
    main()
