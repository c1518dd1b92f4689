"""Turns the demo's conversations into trees of token ids, and those into batches. The trunk of a tree is what later
turns are shown (answers only); each turn's reasoning and answer hang off it as a branch, as in a real chat.
"""

import datetime
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from gptoss_cli.demo.conversations import FIRST_KNOWN, FIRST_PLACEHOLDER, KNOWN, PLACEHOLDERS, conversation
from gptoss_cli.demo.network import Batch
from gptoss_cli.demo.turns import Turn
from gptoss_cli.harmony.conversation import Conversation
from gptoss_cli.harmony.vocabulary import (
    ANALYSIS,
    ASSISTANT,
    CHANNEL,
    END,
    FINAL,
    FIRST_SPECIAL_ID,
    MESSAGE,
    RETURN,
    START,
    load_encoding,
)
from gptoss_cli.settings import ReasoningEffort

EFFORTS = (ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH)
_PLACEHOLDER = re.compile(f" ?([{chr(FIRST_PLACEHOLDER)}-{chr(FIRST_KNOWN + KNOWN - 1)}])")
INSTRUCTIONS = (
    "Be brief.",
    "Answer in French.",
    "You are a helpful assistant.",
    "Answer in one sentence.",
    "Speak like a pirate.",
    "Be polite.",
    "Answer in German.",
    "Use simple words.",
    "You are an expert.",
    "Never use lists.",
)

Piece = int | str  # a token id, or a placeholder character


@lru_cache(maxsize=1 << 16)
def encoded(text: str) -> tuple[Piece, ...]:
    """Ordinary text as token ids; a placeholder stands for one token and the space before it."""
    pieces: list[Piece] = []
    for n, part in enumerate(_PLACEHOLDER.split(text)):
        if n % 2:
            pieces.append(part)
        elif part:
            pieces.extend(load_encoding().encode(part, disallowed_special=()))
    return tuple(pieces)


@lru_cache(maxsize=4096)
def preface(effort: ReasoningEffort, date: datetime.date, instructions: str | None) -> tuple[int, ...]:
    """The system and developer messages as the program renders them."""
    rendered = Conversation(instructions, date, effort).render()
    return tuple(rendered[:-2])  # without `<|start|>assistant`


def user_pieces(text: str) -> tuple[Piece, ...]:
    """A whole message of the user."""
    return (START, *encoded("user"), MESSAGE, *encoded(text), END)


def some_date(rng: random.Random) -> datetime.date:
    """The date of a conversation."""
    return datetime.date(2025, 1, 1) + datetime.timedelta(days=rng.randrange(3000))


@dataclass(slots=True)
class Tree:
    """Parallel lists: pieces, positions, branches and whether the piece is said by the model."""

    pieces: list[Piece] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    said: list[bool] = field(default_factory=list)

    def add(self, pieces: tuple[Piece, ...], *, start: int, branch: int = 0, said: bool = False) -> int:
        """Append pieces from position `start`; the position after them."""
        self.pieces += pieces
        self.positions += range(start, start + len(pieces))
        self.branches += [branch] * len(pieces)
        self.said += [said] * len(pieces)
        return start + len(pieces)


def tree(turns: list[Turn], head: tuple[int, ...], *, limit: int, gaps: Iterator[int]) -> Tree:
    """The tree of a conversation, cut before the turn that would pass `limit` pieces."""
    made = Tree()
    position = made.add(head, start=0)
    answer_head = (CHANNEL, *FINAL, MESSAGE)
    for number, turn in enumerate(turns, 1):
        user = user_pieces(turn.user)
        answer = encoded(turn.answer)
        reply = _reply(turn)
        if len(made.pieces) + len(user) + len(reply) + len(answer) + 8 > limit:
            break
        if turn.aside:
            branch = made.add((*user, START, ASSISTANT), start=position, branch=number)
            made.add(reply, start=branch, branch=number, said=True)
            continue
        # A jump in positions stands for turns that are not here, so that long chats are nothing new.
        position = made.add(user, start=position + next(gaps))
        branch = made.add((START, ASSISTANT), start=position, branch=number)
        made.add(reply, start=branch, branch=number, said=True)
        position = made.add((START, ASSISTANT, *answer_head, *answer, END), start=position)
    return made


def _reply(turn: Turn) -> tuple[Piece, ...]:
    """What the model says. In an aside, only the first sentence where all the rest follows from it."""
    head = (CHANNEL, *ANALYSIS, MESSAGE)
    if turn.aside and turn.is_lookup:
        return *head, *encoded(turn.reasoning[: turn.reasoning.index(".") + 1])
    answer = (START, ASSISTANT, CHANNEL, *FINAL, MESSAGE, *encoded(turn.answer), RETURN)
    return *head, *encoded(turn.reasoning), END, *answer


def training_trees(rng: random.Random, *, limit: int) -> Iterator[Tree]:
    """Trees of fresh conversations, for ever."""
    while True:
        effort = rng.choices(EFFORTS, (40, 30, 30))[0]
        date = some_date(rng)
        instructions = rng.choice(INSTRUCTIONS) if rng.random() < 0.1 else None
        turns = conversation(rng, effort, turns=9)
        yield tree(turns, preface(effort, date, instructions), limit=limit, gaps=_gaps(rng))


def _gaps(rng: random.Random) -> Iterator[int]:
    yield 0
    jumps = rng.random() < 0.25
    while True:
        yield rng.randrange(1200) if jumps and rng.random() < 0.5 else 0


def trained_ids(rng: random.Random, conversations: int, least: int) -> tuple[list[int], int]:
    """The token ids that deserve a row of their own, and how many of them, the first ones, the model says.

    Those are all that the generator has it say, and what else it writes at least `least` times.
    """
    counts: Counter[Piece] = Counter()
    said: set[Piece] = set()
    for made, _ in zip(training_trees(rng, limit=1 << 20), range(conversations), strict=False):
        counts.update(made.pieces)
        said.update(piece for piece, is_said in zip(made.pieces, made.said, strict=True) if is_said)
    words = sorted(piece for piece in said if isinstance(piece, int))
    often = {piece for piece, count in counts.items() if count >= least}
    return [*words, *sorted(piece for piece in often - said if isinstance(piece, int))], len(words)


class Batcher:
    """Fills batches of `size` trees of at most `limit` pieces; every piece becomes a row of the vocabulary."""

    def __init__(self, ids: list[int], *, seed: int, size: int, limit: int) -> None:
        self.row_of = {piece: row for row, piece in enumerate(ids)}
        self.copyable = [row for piece, row in self.row_of.items() if piece < FIRST_SPECIAL_ID]
        self.first_placeholder = len(ids)
        self.size, self.limit = size, limit
        self.rng = random.Random(seed)
        self.trees = training_trees(self.rng, limit=limit)

    def __next__(self) -> Batch:
        return self.batch([next(self.trees) for _ in range(self.size)])

    def batch(self, trees: list[Tree]) -> Batch:
        """`trees` as rows, the shorter ones filled up."""
        width = max(len(t.pieces) for t in trees)
        columns = [self._columns(t, width) for t in trees]
        rows, positions, branches, targets = (torch.tensor(list(c)) for c in zip(*columns, strict=True))
        return Batch(rows, positions, branches, targets)

    def _columns(self, made: Tree, width: int) -> tuple[list[int], list[int], list[int], list[int]]:
        rows = self._rows(made.pieces)
        pad = width - len(rows)
        targets = [rows[i + 1] if said else -1 for i, said in enumerate(made.said[1:])] + [-1]
        # A branch must end where its turn ends: the piece after it belongs to the trunk.
        return rows + [0] * pad, made.positions + [1 << 20] * pad, made.branches + [-1] * pad, targets + [-1] * pad

    def _rows(self, pieces: list[Piece]) -> list[int]:
        known: dict[Piece, int] = {}
        spare = self.rng.sample(range(PLACEHOLDERS), PLACEHOLDERS)
        rows = []
        for piece in pieces:
            row = self.row_of.get(piece, -1) if isinstance(piece, int) else known.get(piece, -1)
            if row < 0:
                is_known = isinstance(piece, str) and ord(piece) >= FIRST_KNOWN
                row = known.setdefault(
                    piece,
                    self.rng.choice(self.copyable)
                    if is_known
                    else self.first_placeholder + spare[len(known) % PLACEHOLDERS],
                )
            rows.append(row)
        return rows
