"""A model on a server, as a TokenGenerator: ids go there, ids come back, and Harmony stays here."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from gptoss_cli.errors import Hint, ResourceError, UsageError
from gptoss_cli.generation import Forced, Observer, Sampling, TokenConstraint, common_prefix
from gptoss_cli.remote.answer import Answer, InterruptionError, Link, Say
from gptoss_cli.remote.connection import Connection
from gptoss_cli.remote.dialects import Continuation, Dialect
from gptoss_cli.remote.draws import Draws

_PROGRESS_SECONDS: Final = 0.2
# A shorter prompt is read by the request that also draws: one more request would take longer than it.
_WARMED_TOKENS: Final = 256


class RemoteGenerator:
    """Continues ids on a server. See TokenGenerator.

    The server draws before a constraint can be asked. A draw that the constraint refuses is drawn again from the ids
    that it permits, which gives exactly the constrained distribution: an id t of the permitted set A comes out with
    p(t) + (1 - p(A)) p(t) / p(A) = p(t) / p(A). With top-p below 1 the server cuts before that, not after it.
    """

    def __init__(
        self, connection: Connection, dialect: Dialect, *, context_tokens: int, notice: Say = lambda text: None
    ) -> None:
        self._link = Link(connection, dialect, notice)
        self._context_tokens = context_tokens
        self._ids: list[int] = []
        self._read: list[int] = []
        self._warms = True
        self._has_warmed = False

    @property
    def requests(self) -> int:
        """The number of requests so far."""
        return self._link.requests

    @property
    def context_tokens(self) -> int:
        """See TokenGenerator.context_tokens."""
        return self._context_tokens

    @property
    def expert_hit_rate(self) -> float | None:
        """See TokenGenerator.expert_hit_rate. A server does not tell."""
        return None

    def kv_names(self) -> list[str]:
        """See TokenGenerator.kv_names. The KV cache is the server's."""
        return []

    def save_kv(self) -> list[str]:
        """See TokenGenerator.save_kv."""
        return []

    def interrupt(self) -> None:
        """See Interruptible.interrupt. Takes a twentieth of a second, even if the server is silent.

        Only sets a flag, so a signal handler may call it too.
        """
        self._link.interrupted = True

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill. Lets the server read a long prompt, so that `decode` finds it in its cache.

        Yields several times a second while the server reads. Raises NetworkError.
        """
        if len(ids) >= self._context_tokens:
            raise ResourceError(
                f"The conversation needs at least {len(ids) + 1} tokens, and the context holds {self._context_tokens}",
                Hint.SHORTER_CONVERSATION,
            )
        self._link.interrupted = False
        total = len(ids) - min(common_prefix(self._read, ids), len(ids) - 1)
        self._ids = list(ids)
        yield 0, total
        self._has_warmed = self._warms and total > _WARMED_TOKENS
        if self._has_warmed:
            yield from self._warm(total)
        if not self._link.interrupted:
            self._read = self._ids  # and what `decode` adds to it
            yield total, total

    def _warm(self, total: int) -> Iterator[tuple[int, int]]:
        request = Continuation(ids=self._ids, sampling=Sampling(0), seed=0, max_tokens=1, stop_ids=())
        answer = Answer(self._link, request)
        try:
            while not answer.ended:
                piece = answer.take(_PROGRESS_SECONDS)
                done, of = piece.read if piece is not None and piece.read is not None else (0, 0)
                if not answer.ended:
                    yield (min(total - 1, total - of + done), total) if of else (0, total)
        except InterruptionError:
            return
        finally:
            answer.close()

    def decode(
        self,
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        max_tokens: int | None,
        constraint: TokenConstraint | None = None,
        observer: Observer | None = None,
        top: int = 5,
    ) -> Iterator[int]:
        """See TokenGenerator.decode. Raises NetworkError, and UsageError for an observer: a server shows no logits."""
        if observer is not None:
            raise UsageError("A server does not show the probabilities of tokens")
        room = self._context_tokens - len(self._ids)
        left = most = room if max_tokens is None else min(room, max_tokens)
        limit = len(self._ids) + most
        self._link.forgets = False
        draws = Draws(self._link, self._ids, sampling, stop_ids=stop_ids, banned_ids=banned_ids, limit=limit)
        try:
            while left > 0:
                rule = constraint.next() if constraint is not None else None
                if isinstance(rule, Forced):
                    ids = rule.ids[:left]
                    if left == most:
                        draws.begin()
                    draws.expect(ids)
                else:
                    token = draws.draw(rule)
                    if token is None:
                        return
                    ids = (token,)
                for token in ids:
                    self._ids.append(token)
                    left -= 1
                    yield token
                    if token in stop_ids:
                        return
        except InterruptionError:
            return
        finally:
            draws.close()
            if self._has_warmed and self._link.forgets:
                self._warms = False  # the server reads everything twice
