"""A model on a server, as a TokenGenerator: ids go there, ids come back, and Harmony stays here."""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from gptoss_cli.errors import Hint, NetworkError, ResourceError, UsageError
from gptoss_cli.generation import (
    Allowed,
    Forced,
    Observer,
    Restriction,
    Sampling,
    TokenConstraint,
    common_prefix,
)
from gptoss_cli.remote.connection import BrokenError, Complete, Connection, Exchange, Json, Waiting
from gptoss_cli.remote.dialects import Continuation, Dialect, Finish, Piece, Reader

_LOGGER = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.05
_PROGRESS_SECONDS: Final = 0.2
# A shorter prompt is read by the request that also draws: one more request would take longer than it.
_WARMED_TOKENS: Final = 256
# After so many draws in a turn that its constraint refused, constrained draws are asked for one at a time.
_MOST_RESTARTS: Final = 8
_MASKED_ATTEMPTS: Final = 20
BUSY_NOTICE: Final = "The server is busy. It is asked again, for up to a minute."

Say = Callable[[str], None]


class _InterruptionError(Exception):
    """The user does not wait any longer."""


class RemoteGenerator:
    """Continues ids on a server. See TokenGenerator.

    The server draws before a constraint can be asked. A draw that the constraint refuses is drawn again from the ids
    that it permits, which gives exactly the constrained distribution: an id t of the permitted set A comes out with
    p(t) + (1 - p(A)) p(t) / p(A) = p(t) / p(A). With top-p below 1 the server cuts before that, not after it.
    """

    def __init__(
        self, connection: Connection, dialect: Dialect, *, context_tokens: int, notice: Say = lambda text: None
    ) -> None:
        self.connection = connection
        self.dialect = dialect
        self.notice = notice
        self.requests = 0
        self._context_tokens = context_tokens
        self._ids: list[int] = []
        self._read: list[int] = []
        self._warms = True
        self._has_warmed = False
        self._interrupted = False

    @property
    def sequence(self) -> Sequence[int]:
        """The ids so far: those of the prompt, and those that were yielded."""
        return self._ids

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
        self._interrupted = True

    def prefill(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See TokenGenerator.prefill. Lets the server read a long prompt, so that `decode` finds it in its cache.

        Yields several times a second while the server reads. Raises NetworkError.
        """
        if len(ids) >= self._context_tokens:
            raise ResourceError(
                f"The conversation needs at least {len(ids) + 1} tokens, and the context holds {self._context_tokens}",
                Hint.SHORTER_CONVERSATION,
            )
        self._interrupted = False
        total = len(ids) - min(common_prefix(self._read, ids), len(ids) - 1)
        self._ids = list(ids)
        yield 0, total
        self._has_warmed = self._warms and total > _WARMED_TOKENS
        if self._has_warmed:
            yield from self._warm(total)
        if not self._interrupted:
            self._read = self._ids  # and what `decode` adds to it
            yield total, total

    def _warm(self, total: int) -> Iterator[tuple[int, int]]:
        request = Continuation(ids=self._ids, sampling=Sampling(0), seed=0, max_tokens=1, stop_ids=())
        answer = Answer(self, request)
        try:
            while not answer.ended:
                piece = answer.take(_PROGRESS_SECONDS)
                done, of = piece.read if piece is not None and piece.read is not None else (0, 0)
                if not answer.ended:
                    yield (min(total - 1, total - of + done), total) if of else (0, total)
        except _InterruptionError:
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
        left = room if max_tokens is None else min(room, max_tokens)
        draws = _Draws(self, sampling, stop_ids, banned_ids, len(self._ids) + left)
        try:
            while left > 0:
                rule = constraint.next() if constraint is not None else None
                if isinstance(rule, Forced):
                    ids = rule.ids[:left]
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
        except _InterruptionError:
            return
        finally:
            draws.close()

    def start(self, request: Continuation, *, stream: bool) -> Exchange:
        """Send a request."""
        self.requests += 1
        _LOGGER.debug("request %d: %d ids, %d more", self.requests, len(request.ids), request.max_tokens)
        body = self.dialect.body(request, stream=stream)
        return Exchange(self.connection, self.dialect.path, body, stream=stream)

    def check_interrupted(self) -> None:
        """Raise _InterruptionError after `interrupt`."""
        if self._interrupted:
            raise _InterruptionError

    def remember_cached(self, cached: int | None) -> None:
        """Stop reading prompts ahead if the server forgets what it has read."""
        if self._has_warmed and cached == 0:
            self._warms = False


class Answer:
    """The answer to one request, piece by piece."""

    def __init__(self, generator: RemoteGenerator, request: Continuation, *, stream: bool = True) -> None:
        self.request = request
        self.ended = False
        self._has_waited = False
        self._generator = generator
        self._reader: Reader = generator.dialect.reader()
        self._exchange = generator.start(request, stream=stream)

    def take(self, seconds: float) -> Piece | None:
        """Return the next piece, None if nothing came. Raises NetworkError; BrokenError if the stream broke."""
        self._generator.check_interrupted()
        event = self._exchange.take(seconds)
        match event:
            case None:
                return None
            case Waiting():
                if not self._has_waited:
                    self._generator.notice(BUSY_NOTICE)
                self._has_waited = True
                return None
            case Complete():  # without a piece that says why
                raise BrokenError(f"{self._generator.connection.request.url} broke the answer off", Hint.RETRY)
            case _:
                return self._read(event)

    def _read(self, data: Json) -> Piece:
        try:
            piece = self._reader.read(data)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
            url = self._generator.connection.request.url
            raise NetworkError(f"{url} answers with unexpected JSON", Hint.CHECK_SERVER) from exc
        self.ended = piece.finish is not None
        return piece

    def all_ids(self) -> list[int]:
        """Wait for the end and return every id. Raises as `take`."""
        ids: list[int] = []
        while not self.ended:
            piece = self.take(_POLL_SECONDS)
            ids += piece.ids if piece is not None else ()
        return ids

    def close(self) -> None:
        """End the request. May be called twice."""
        self._exchange.close()


class _Draws:
    """The draws of one decode: a stream of the server's as long as it draws what is wanted."""

    def __init__(
        self,
        generator: RemoteGenerator,
        sampling: Sampling,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        limit: int,
    ) -> None:
        self._generator = generator
        self._sampling = sampling
        self._stop_ids = stop_ids
        self._banned_ids = banned_ids
        self._limit = limit
        self._answer: Answer | None = None
        self._drawn: list[int] = []  # by the open stream, forced ids that it drew by itself included
        self._coming: deque[int] = deque()
        self._expected: deque[int] = deque()
        self._restarts = 0
        self._has_broken = False
        self._is_full = False

    def expect(self, ids: Sequence[int]) -> None:
        """Take note of ids that come next whatever the server draws. If it draws them too, its stream goes on."""
        if self._answer is not None:
            self._expected.extend(ids)

    def draw(self, rule: Restriction | None) -> int | None:
        """Return the next id; None if the context of the server is full. Raises NetworkError."""
        if rule is not None and self._restarts >= _MOST_RESTARTS:
            self.close()
            return self._masked(rule)
        token = self._next()
        if token is None or self._permits(rule, token):
            return token
        self.close()
        self._restarts += 1
        if self._restarts == _MOST_RESTARTS:
            self._generator.notice("The model strays from the format often: the server is asked token by token.")
        return self._masked(rule)

    def close(self) -> None:
        """Close the stream, so that the server stops."""
        if self._answer is not None:
            self._answer.close()
        self._answer = None
        self._coming.clear()
        self._expected.clear()

    def _permits(self, rule: Restriction | None, token: int) -> bool:
        if isinstance(rule, Allowed):
            return token in rule.ids
        return token not in self._banned_ids and (rule is None or token not in rule.ids)

    def _next(self) -> int | None:
        """Return the next id of a stream that has drawn all ids so far; None if the context of the server is full."""
        while True:
            if self._coming:
                token = self._coming.popleft()
                if not self._expected:
                    return token
                if token != self._expected.popleft():
                    self.close()
            elif self._is_full:
                return None
            elif self._answer is None or self._answer.ended:
                self._open()
            else:
                self._receive(self._answer)

    def _open(self) -> None:
        self.close()
        ids = self._generator.sequence
        self._drawn = []
        self._answer = Answer(self._generator, self._continuation(ids, self._limit - len(ids)))

    def _receive(self, answer: Answer) -> None:
        """Wait for ids, for at most a moment. Afterwards the stream may be closed."""
        try:
            piece = answer.take(_POLL_SECONDS)
            if piece is None:
                return
            if piece.finish is Finish.ABORT or (piece.finish is Finish.STOP and not (self._drawn or piece.ids)):
                raise BrokenError(f"{self._generator.connection.request.url} broke the answer off", Hint.RETRY)
        except BrokenError as exc:
            self._go_on(exc)
            return
        self._generator.remember_cached(piece.cached)
        ids = self._recovered(answer, piece.lost) if piece.lost else list(piece.ids)
        self._drawn += ids
        if piece.finish is Finish.STOP and piece.stop_id is not None and self._drawn[-1:] != [piece.stop_id]:
            ids.append(piece.stop_id)
        self._coming.extend(ids)
        is_short = not piece.lost and len(self._drawn) < answer.request.max_tokens
        self._is_full = piece.finish is Finish.LENGTH and is_short

    def _go_on(self, error: BrokenError) -> None:
        """Close the stream; the next one goes on from the ids so far. Raises the error the second time in a turn."""
        if self._has_broken:
            raise error
        self._has_broken = True
        self._generator.notice("The answer broke off. The server is asked to go on from there.")
        self.close()

    def _recovered(self, answer: Answer, lost: int) -> list[int]:
        """Return ids that the server has drawn but not sent: with the same seed it draws them again.

        An answer that is not streamed has all of its ids. If the first of them are others, nothing is known of those
        that were lost, and the stream goes on without them.
        """
        answer.close()
        answer.ended = True
        count = len(self._drawn)
        ids = self._complete(replace(answer.request, max_tokens=count + lost))
        if ids[:count] == self._drawn:
            return ids[count : count + lost]
        _LOGGER.warning("the server does not draw the same ids again: %d are drawn anew", lost)
        return []

    def _masked(self, rule: Restriction | None) -> int:
        """Return one id that the server draws from those that are permitted."""
        allowed = rule.ids if isinstance(rule, Allowed) else frozenset[int]()
        banned = frozenset[int]() if allowed else frozenset(self._banned_ids).union(rule.ids if rule else ())
        for attempt in range(_MASKED_ATTEMPTS):
            ids = self._generator.sequence
            request = self._continuation(ids, 1, allowed=allowed, banned=banned, attempt=attempt + 1)
            drawn = self._complete(request)
            if drawn and self._permits(rule, drawn[0]):
                return drawn[0]
        url = self._generator.connection.request.url
        raise NetworkError(f"{url} draws ids that it was asked not to draw", Hint.TOKEN_SERVER)

    def _complete(self, request: Continuation) -> list[int]:
        """Return all ids of a request that is not streamed. It is sent once more if its connection breaks."""
        try:
            return self._whole(request)
        except BrokenError:
            return self._whole(request)

    def _whole(self, request: Continuation) -> list[int]:
        answer = Answer(self._generator, request, stream=False)
        try:
            return answer.all_ids()
        finally:
            answer.close()

    def _continuation(
        self,
        ids: Sequence[int],
        count: int,
        *,
        allowed: Collection[int] = (),
        banned: Collection[int] = (),
        attempt: int = 0,
    ) -> Continuation:
        return Continuation(
            ids=tuple(ids),
            sampling=self._sampling,
            seed=_derived_seed(self._sampling.seed, len(ids), attempt),
            max_tokens=count,
            stop_ids=self._stop_ids,
            allowed=allowed,
            banned=banned,
        )


def _derived_seed(seed: int, position: int, attempt: int) -> int:
    """Return a seed of its own for each request: with the same one, a draw after a refusal would not be independent."""
    digest = hashlib.sha256(f"{seed} {position} {attempt}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1  # some servers take signed numbers of 32 bits
