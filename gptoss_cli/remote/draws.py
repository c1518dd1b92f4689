"""Ids that a server draws, held to rules that it does not know."""

import hashlib
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from gptoss_cli.errors import Hint, NetworkError
from gptoss_cli.generation import Allowed, Restriction, Sampling
from gptoss_cli.remote.answer import POLL_SECONDS, Answer, Link
from gptoss_cli.remote.connection import BrokenError
from gptoss_cli.remote.dialects import Continuation, Finish

# After so many draws in a turn that its constraint refused, constrained draws are asked for one at a time.
_MOST_RESTARTS: Final = 8
_MASKED_ATTEMPTS: Final = 20


class Draws:
    """The draws of one decode: a stream of the server's as long as it draws what is wanted.

    `sequence` are all ids so far, to which the caller adds each that comes; there will be `limit` of them at most.
    """

    def __init__(
        self,
        link: Link,
        sequence: Sequence[int],
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        banned_ids: Collection[int],
        limit: int,
    ) -> None:
        self._link = link
        self._sequence = sequence
        self._sampling = sampling
        self._stop_ids = stop_ids
        self._banned_ids = banned_ids
        self._limit = limit
        self._answer: Answer | None = None
        self._drawn: list[int] = []  # by the open stream, forced ids that it drew by itself included
        self._coming: deque[int] = deque()
        self._expected: deque[int] = deque()
        self._requests = 0
        self._restarts = 0
        self._has_broken = False
        self._is_full = False

    def begin(self) -> None:
        """Wait for the first id: nothing that is forced has been said yet if the server does not answer."""
        while not self._coming and not self._is_full:
            if self._answer is None or self._answer.ended:
                self._open()
            else:
                self._receive(self._answer)

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
            self._link.notice("The model strays from the format often: the server is asked token by token.")
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
        self._drawn = []
        self._answer = Answer(self._link, self._continuation(self._limit - len(self._sequence)))

    def _receive(self, answer: Answer) -> None:
        """Wait for ids, for at most a moment. Afterwards the stream may be closed."""
        try:
            piece = answer.take(POLL_SECONDS)
            if piece is None:
                return
            if piece.finish is Finish.ABORT or (piece.finish is Finish.STOP and not (self._drawn or piece.ids)):
                raise BrokenError(f"{self._link.url} broke the answer off", Hint.RETRY)
        except BrokenError as exc:
            self._go_on(exc)
            return
        self._link.forgets |= piece.cached == 0 and len(answer.request.ids) > 1
        if piece.lost_among:
            self._replace_lost(piece.lost_among)
            return
        ids = list(piece.ids)
        self._drawn += ids
        if piece.finish is Finish.STOP and piece.stop_id is not None and self._drawn[-1:] != [piece.stop_id]:
            ids.append(piece.stop_id)
        self._coming.extend(ids)
        self._is_full = piece.finish is Finish.LENGTH and len(self._drawn) < answer.request.max_tokens

    def _replace_lost(self, among: frozenset[int]) -> None:
        """Draw the id again that the server did not send. It is one of the ids `among`; nothing after it is known.

        Drawn from these alone, each of them keeps its probability.
        """
        is_forced = bool(self._expected)  # then it does not matter what was drawn
        self.close()
        if not is_forced:
            self._coming.append(self._masked(Allowed(among)))

    def _go_on(self, error: BrokenError) -> None:
        """Close the stream; the next one goes on from the ids so far. Raises the error the second time in a turn."""
        if self._has_broken:
            raise error
        self._has_broken = True
        self._link.notice("The answer broke off. The server is asked to go on from there.")
        self.close()

    def _masked(self, rule: Restriction | None) -> int:
        """Return one id that the server draws from those that are permitted."""
        allowed = rule.ids if isinstance(rule, Allowed) else frozenset[int]()
        banned = frozenset[int]() if allowed else frozenset(self._banned_ids).union(rule.ids if rule else ())
        for _ in range(_MASKED_ATTEMPTS):
            drawn = self._complete(self._continuation(1, allowed=allowed, banned=banned))
            if drawn and self._permits(rule, drawn[0]):
                return drawn[0]
        raise NetworkError(f"{self._link.url} draws ids that it was asked not to draw", Hint.TOKEN_SERVER)

    def _complete(self, request: Continuation) -> list[int]:
        """Return all ids of a request that is not streamed. It is sent once more if its connection breaks."""
        try:
            return self._whole(request)
        except BrokenError:
            return self._whole(request)

    def _whole(self, request: Continuation) -> list[int]:
        answer = Answer(self._link, request, stream=False)
        try:
            return answer.all_ids()
        finally:
            answer.close()

    def _continuation(self, count: int, *, allowed: Collection[int] = (), banned: Collection[int] = ()) -> Continuation:
        self._requests += 1
        return Continuation(
            ids=tuple(self._sequence),
            sampling=self._sampling,
            seed=derived_seed(self._sampling.seed, len(self._sequence), self._requests),
            max_tokens=count,
            stop_ids=self._stop_ids,
            allowed=allowed,
            banned=banned,
        )


def derived_seed(seed: int, position: int, number: int) -> int:
    """Return a seed of its own for each request: with the same one, a draw after a refusal would not be independent."""
    digest = hashlib.sha256(f"{seed} {position} {number}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1  # some servers take signed numbers of 32 bits
