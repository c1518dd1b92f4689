"""The KV sequences of a server: which one continues a prompt, and which one may be dropped for it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

from gptoss_cli.generation import BranchingGenerator, TokenGenerator

# Clients ask for titles and tags of a conversation in prompts of their own, which nothing ever continues.
SMALL_TOKENS: Final = 1024


@dataclass(slots=True, eq=False)
class _Entry:
    """A sequence. `used` orders the entries by their last use; it is 0 before the first one."""

    generator: BranchingGenerator
    used: int = 0
    is_conversation: bool = False
    is_busy: bool = False


class ConversationPool:
    """Keeps the sequences of the last `conversations` conversations, and one more for prompts of which little is known.

    A prompt takes the sequence that it continues: it begins with at least half of the messages of the last prompt,
    without the instructions and functions, which other conversations have too. Any other takes the one used the longest
    ago among those that are no conversations, after copying what another sequence has in common with it. A sequence
    becomes a conversation when it is continued, or with a prompt of SMALL_TOKENS; the conversation used the longest ago
    then is none any more. So small prompts that nothing continues replace each other only; if several threads do so at
    the same time, also conversations, short ones first.
    """

    def __init__(self, generator: BranchingGenerator, *, conversations: int, threads: int = 1) -> None:
        """At most `threads` threads use the pool at the same time, or fewer if there are fewer sequences."""
        self.threads = min(threads, conversations + 1)
        self._conversations = conversations
        self._entries = [_Entry(each) for each in generator.several(conversations + 1, threads=self.threads)]
        self._uses = count(1)
        self._lock = threading.Lock()

    @property
    def context_tokens(self) -> int:
        """See SequencePool.context_tokens."""
        return self._entries[0].generator.context_tokens

    @property
    def sequences(self) -> int:
        """See SequencePool.sequences."""
        return len(self._entries)

    @contextmanager
    def sequence(
        self, ids: Sequence[int], prefix_tokens: int = 0, *, is_private: bool = True
    ) -> Iterator[TokenGenerator]:
        """See SequencePool.sequence."""
        with self._lock:
            kept = {id(entry): entry.generator.kept_tokens(ids) for entry in self._entries}
            entry = self._choose(kept, len(ids), prefix_tokens)
            entry.used, entry.is_busy = next(self._uses), True
            source = max(self._entries, key=lambda each: kept[id(each)])
        generator = entry.generator
        try:
            generator.keep_prefix(ids[:prefix_tokens], on_disk=not is_private)
            if kept[id(source)] > kept[id(entry)]:
                generator.copy_prefix(source.generator, ids)
            yield generator
        finally:
            entry.is_busy = False

    def _choose(self, kept: dict[int, int], tokens: int, prefix_tokens: int) -> _Entry:
        free = sorted((entry for entry in self._entries if not entry.is_busy), key=lambda entry: entry.used)
        continued = [
            entry
            for entry in free
            if kept[id(entry)] > prefix_tokens
            and (kept[id(entry)] - prefix_tokens) * 2 >= entry.generator.prompt_tokens - prefix_tokens
        ]
        if continued:
            best = max(continued, key=lambda entry: (kept[id(entry)], entry.used))
            if best.generator.prompt_tokens < tokens:  # else it is the same request once more
                self._make_conversation(best)
            return best
        replaced = next((entry for entry in free if not entry.is_conversation), free[0])
        if replaced.is_conversation and tokens < SMALL_TOKENS:
            # All others are at work. A short one is soon read again.
            replaced = min(free, key=lambda entry: (entry.generator.prompt_tokens >= SMALL_TOKENS, entry.used))
        replaced.is_conversation = False
        if tokens >= SMALL_TOKENS:
            self._make_conversation(replaced)
        return replaced

    def _make_conversation(self, entry: _Entry) -> None:
        entry.is_conversation = True
        conversations = [each for each in self._entries if each.is_conversation]
        if len(conversations) > self._conversations:
            oldest = min((each for each in conversations if each is not entry), key=lambda each: each.used)
            oldest.is_conversation = False
