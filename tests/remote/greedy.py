"""Greedy turns of many kinds: prompts, and the ids that a generator answers with."""

import random
from collections.abc import Iterator

from gptoss_cli.generation import TokenGenerator
from gptoss_cli.settings import ReasoningEffort
from tests.remote.turns import session_of

_WORDS = (
    "who are you",
    "what can you do",
    "why is the sky blue",
    "tell me about mixtures of experts",
    "write a poem in Japanese",
    "2 + 2",
    "bonjour",
    "🫠",
)


def prompts(number: int) -> Iterator[str]:
    """Yield prompts that are nearly all different."""
    randomness = random.Random(3)
    for index in range(number):
        yield f"{randomness.choice(_WORDS)} {index if index % 3 else ''}"


def greedy_ids(generator: TokenGenerator, prompt: str, index: int, max_tokens: int) -> list[int]:
    """Return the ids of a greedy turn. `index` chooses its effort and its budget."""
    efforts = list(ReasoningEffort)
    session = session_of(
        generator,
        effort=efforts[index % len(efforts)],
        temperature=0.0,
        max_tokens=max_tokens,
        think_budget=(None, 4, 30)[index % 3],
    )
    list(session.turn(prompt))
    assert session.last_turn is not None
    return session.last_turn.ids
