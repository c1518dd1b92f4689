"""The vocabulary of gpt-oss in the spelling of GPT-2, which the files of llama.cpp and of transformers have."""

import base64
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gptoss_cli.harmony.vocabulary import FIRST_SPECIAL_ID, VOCABULARY_SIZE, read_vocabulary

_SPECIAL_NAMES: Final = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
    200018: "<|endofprompt|>",
}


@dataclass(frozen=True)
class BpeVocabulary:
    """The ordinary tokens, the special ones that follow them, and the pairs that merge into a token."""

    texts: list[str]
    specials: list[str]
    merges: list[tuple[str, str]]


def bpe_vocabulary() -> BpeVocabulary:
    """Return the whole vocabulary."""
    with ExitStack() as temporary:
        lines = read_vocabulary(temporary).splitlines()
    spellings = [base64.b64decode(line.split()[0]) for line in lines]
    assert len(spellings) == FIRST_SPECIAL_ID
    letters = _letters()

    def text(spelling: bytes) -> str:
        return "".join(letters[byte] for byte in spelling)

    ranks = {spelling: rank for rank, spelling in enumerate(spellings)}
    halves = [_halves(ranks, spelling) for spelling in spellings if len(spelling) > 1]
    return BpeVocabulary(
        [text(spelling) for spelling in spellings],
        [_SPECIAL_NAMES.get(id_, f"<|reserved_{id_}|>") for id_ in range(FIRST_SPECIAL_ID, VOCABULARY_SIZE)],
        [(text(pair[0]), text(pair[1])) for pair in halves if len(pair) == 2],
    )


def _letters() -> list[str]:
    """Return the letter that stands for each byte in a vocabulary of GPT-2's kind."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _halves(ranks: dict[bytes, int], token: bytes) -> list[bytes]:
    """Return the parts of a token before the last merge that makes it: two, unless no merge does."""
    parts = [bytes([byte]) for byte in token]
    limit = ranks[token]
    while len(parts) > 2:
        found = [(ranks.get(left + right, limit), i) for i, (left, right) in enumerate(pairwise(parts))]
        rank, i = min(found)
        if rank >= limit:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
