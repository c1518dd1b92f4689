"""A generator of the tests that can have several sequences, and a model with it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.generation import BranchingGenerator, common_prefix
from tests.cli.scripted_program import opened_with
from tests.scripted_generator import ScriptedGenerator
from tests.server.turns import ANSWER, ids_of


class BranchingScripted(ScriptedGenerator):
    """Plays no turns: a subclass decodes. It forgets all prompts but the last, so that it does not grow."""

    def __init__(self, *, context_tokens: int = 8192) -> None:
        super().__init__([], context_tokens=context_tokens)
        self._prefix_tokens = 0
        self._marks: list[int] = []  # the ends of prompts and of kept prefixes

    @property
    def prompt_tokens(self) -> int:
        """See BranchingGenerator.prompt_tokens."""
        return len(self.prompts[-1]) if self.prompts else 0

    def several(self, count: int, *, threads: int = 1) -> list[Self]:
        """See BranchingGenerator.several."""
        return [self, *(type(self)(context_tokens=self.context_tokens) for _ in range(count - 1))]

    def keep_prefix(self, ids: Sequence[int], *, on_disk: bool = True) -> None:
        """See BranchingGenerator.keep_prefix."""
        self._prefix_tokens = len(ids)

    def kept_tokens(self, ids: Sequence[int]) -> int:
        """See BranchingGenerator.kept_tokens."""
        common = common_prefix(self.sequence, ids)
        return max((mark for mark in (*self._marks, len(self.sequence)) if mark <= common), default=0)

    def copy_prefix(self, other: Self, ids: Sequence[int]) -> None:
        """See BranchingGenerator.copy_prefix: to copy nothing is right too."""

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill."""
        self.prompts.clear()
        self.prefilled_tokens.clear()
        common = common_prefix(self.sequence, ids)
        self._marks = [*(mark for mark in self._marks if mark <= common), self._prefix_tokens, len(ids)]
        return super().prefill(ids)


class BranchingAnswers(BranchingScripted):
    """Answers every prompt with ANSWER."""

    def decode(self, *arguments: Any, **options: Any) -> Iterator[int]:
        """See TokenGenerator.decode."""
        self._turns = iter([ids_of(ANSWER)])
        return super().decode(*arguments, **options)


def opened_branching(generator: BranchingGenerator) -> OpenedModel:
    """Return a model whose sequences `generator` makes."""
    return replace(opened_with(generator, ChatRequest()), branching=generator)
