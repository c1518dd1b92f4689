"""The routes of the server. The only module with coroutines: it moves requests to the worker, and events to clients."""

import asyncio
import functools
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gptoss_cli.harmony.events import PrefillProgress, TurnEnd
from gptoss_cli.server.access import Access
from gptoss_cli.server.chat_completions import read_chat
from gptoss_cli.server.completions import CompletionEnd, read_completion
from gptoss_cli.server.exchange import Exchange, ServerEvent
from gptoss_cli.server.failures import ApiError, context_exceeded, failure_of, model_loading
from gptoss_cli.server.fields import Fields, parse_body
from gptoss_cli.server.job import Usage
from gptoss_cli.server.metrics import Metrics
from gptoss_cli.server.models import model_id, models_object
from gptoss_cli.server.response_store import ResponseStore
from gptoss_cli.server.responses_input import read_responses
from gptoss_cli.server.served import Served
from gptoss_cli.server.worker import JobEnd, Ticket, Worker
from gptoss_cli.settings import ReasoningEffort, ReasoningField

LARGEST_BODY_BYTES: Final = 16 << 20
# A proxy, and Codex, give up on a connection that says nothing for minutes.
COMMENT_SECONDS: Final = 10.0
_EVENT_STREAM: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_LOGGER: Final = logging.getLogger(__name__)
_Read = Callable[[Fields, Served], Exchange]
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The choices of whoever starts the server."""

    access: Access = field(default_factory=Access)
    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    reasoning: ReasoningField = ReasoningField.REASONING
    comment_seconds: float = COMMENT_SECONDS


class _Delivery:
    """The items of one job on their way from the worker's thread to the event loop.

    The loop is woken once for all items that come before it has run: a token has several, and waking it costs more than
    they do.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[object] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_woken = False

    async def next(self, seconds: float | None = None) -> list[object]:
        """Wait for items and return those that have come; there may be none, at the latest after `seconds`."""
        if not self._items:
            self._waiter = self._loop.create_future()
            timer = None if seconds is None else self._loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        return [self._items.popleft() for _ in range(len(self._items))]

    def deliver(self, item: object) -> None:
        """Take an item in any thread; nothing once the loop has ended."""
        self._items.append(item)
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_woken = False  # before the items are taken: one that comes later wakes the loop again
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Server:
    """The handlers of the routes."""

    def __init__(self, worker: Worker, settings: ServerSettings) -> None:
        self.metrics = Metrics()
        self._store = ResponseStore()
        self._worker = worker
        self._settings = settings

    def routes(self) -> list[Route]:
        """Return the routes."""
        posts: dict[str, _Read] = {
            "/v1/chat/completions": read_chat,
            "/v1/responses": functools.partial(read_responses, store=self._store),
            "/v1/completions": read_completion,
        }
        return [
            self._route("/health", self._health, needs_key=False),
            self._route("/metrics", self._metrics),
            self._route("/v1/responses/input_tokens", self._input_tokens, method="POST"),
            self._route("/v1/models", self._models),
            self._route("/v1/models/{name:path}", self._model),
            *(self._route(path, functools.partial(self._answer, read), method="POST") for path, read in posts.items()),
        ]

    def _route(self, path: str, handler: _Handler, *, method: str = "GET", needs_key: bool = True) -> Route:
        """Return the route of `handler` for requests that have access; what it raises becomes the response."""

        async def handle(request: Request) -> Response:
            headers, access = request.headers, self._settings.access
            try:
                access.check_place(headers.get("host"), headers.get("origin"))
                if needs_key:
                    access.check_key(headers.get("authorization"))
                response = await handler(request)
            except ClientDisconnect:
                response = Response(status_code=HTTPStatus.BAD_REQUEST)
            except ApiError as exc:
                response = failure_response(exc)
            except Exception as exc:  # noqa: BLE001  whatever it is, the client gets OpenAI's shape
                _LOGGER.warning("a request failed: %s", type(exc).__name__)
                response = failure_response(failure_of(exc))
            self.metrics.count_request(path, response.status_code)
            return response

        return Route(path, handle, methods=[method])

    def _served(self) -> Served:
        model = self._worker.served
        if model is None:
            raise model_loading()
        return Served(model_id(model.name), model.context_tokens, self._settings.effort, self._settings.reasoning)

    async def _health(self, request: Request) -> Response:
        if self._worker.served is None:
            return failure_response(model_loading())
        return _Json({"status": "ok", "model": "loaded" if self._worker.sequences else "released"})

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.metrics.text(self._worker.queue_length, self._worker.sequences))

    async def _models(self, request: Request) -> Response:
        served = self._served()
        return _Json(models_object(served.name, served.context_tokens))

    async def _model(self, request: Request) -> Response:
        served = self._served()
        served.check_model(request.path_params["name"])
        return _Json(models_object(served.name, served.context_tokens)["data"][0])

    async def _input_tokens(self, request: Request) -> Response:
        served = self._served()
        fields = await asyncio.to_thread(parse_body, await read_body(request))
        exchange = await asyncio.to_thread(read_responses, fields, served, self._store)
        return _Json({"object": "response.input_tokens", "input_tokens": len(exchange.job.prompt)})

    async def _answer(self, read: _Read, request: Request) -> Response:
        served = self._served()
        fields = await asyncio.to_thread(parse_body, await read_body(request))
        exchange = await asyncio.to_thread(read, fields, served)
        if len(exchange.job.prompt) >= served.context_tokens:
            raise context_exceeded(len(exchange.job.prompt), served.context_tokens)
        delivery = _Delivery()
        ticket = self._worker.submit(exchange.job, delivery.deliver)
        if exchange.stream:
            return _EventStream(self._events(exchange, delivery), ticket)
        return await self._whole(exchange, delivery, ticket, request)

    async def _whole(self, exchange: Exchange, delivery: _Delivery, ticket: Ticket, request: Request) -> Response:
        """Return the response when the job has ended; a client that goes away cancels it."""
        failure = None
        async with _cancelling(ticket, request.receive):
            has_ended = False
            while not has_ended:
                for item in await delivery.next():
                    if isinstance(item, ApiError):
                        failure = item
                    elif isinstance(item, JobEnd):
                        has_ended = True
                    else:
                        exchange.writer.feed(item)
                        self._count(item)
        if failure is not None:
            raise failure
        if ticket.cancelled and not exchange.writer.ended:
            raise ClientDisconnect
        return _Json(exchange.writer.result())

    async def _events(self, exchange: Exchange, delivery: _Delivery) -> AsyncIterator[bytes]:
        """Yield the bytes of a stream; a comment now and then while there is nothing to say."""
        for event in exchange.writer.begin():
            yield event.encode()
        progress: PrefillProgress | None = None
        loop = asyncio.get_running_loop()
        spoke = loop.time()
        while True:
            items = await delivery.next(max(self._settings.comment_seconds - (loop.time() - spoke), 0))
            if not items:
                if loop.time() - spoke >= self._settings.comment_seconds:
                    spoke = loop.time()
                    yield _comment(progress)
                continue
            # Everything that has come is sent at once: a client that reads slowly is not sent each token by itself.
            written = b"".join(event.encode() for item in items for event in self._written(exchange, item))
            if written:
                spoke = loop.time()
                yield written
            progress = next((item for item in reversed(items) if isinstance(item, PrefillProgress)), progress)
            if isinstance(items[-1], JobEnd):
                return

    def _written(self, exchange: Exchange, item: object) -> Sequence[ServerEvent]:
        """Return the events of a stream for an item of its job."""
        self._count(item)
        return exchange.writer.fail(item) if isinstance(item, ApiError) else exchange.writer.feed(item)

    def _count(self, item: object) -> None:
        if isinstance(item, TurnEnd):
            self.metrics.count_usage(Usage.of_turn(item))
        elif isinstance(item, CompletionEnd):
            self.metrics.count_usage(item.usage)


class _Json(Response):
    """A response whose text is all ASCII, as in streams: half of a surrogate pair can be written in no other way."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Return the body."""
        return json.dumps(content).encode()


class _EventStream(Response):
    """A response of server-sent events that cancels its job as soon as the client has gone."""

    def __init__(self, events: AsyncIterator[bytes], ticket: Ticket) -> None:
        self.status_code = HTTPStatus.OK
        self.background = None
        self._events = events
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": list(_EVENT_STREAM)})
        async with _cancelling(self._ticket, receive):
            async for part in self._events:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _cancelling:  # noqa: N801  it reads as a function does
    """Cancels a job if the client goes away within the block, or if the block fails."""

    def __init__(self, ticket: Ticket, receive: Receive) -> None:
        self._ticket = ticket
        self._receive = receive

    async def __aenter__(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def __aexit__(self, kind: object, exc: object, traceback: object) -> None:
        self._watcher.cancel()
        if kind is not None:
            self._ticket.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._ticket.cancel()


def create_app(worker: Worker, settings: ServerSettings) -> Starlette:
    """Return the application. `worker` may still be loading its model."""
    origins = sorted(settings.access.origins)
    cors = [Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])]
    server = _Server(worker, settings)
    return Starlette(
        routes=server.routes(),
        middleware=cors if origins else [],
        exception_handlers={HTTPStatus.NOT_FOUND: _no_route, HTTPStatus.METHOD_NOT_ALLOWED: _no_method},
    )


async def read_body(request: Request) -> bytes:
    """Return the body. Raises ApiError if it is larger than any conversation could be, if possible before it comes."""
    _check_size(int(request.headers.get("content-length", "0")))  # h11 has checked that it is a number
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        _check_size(size)
        parts.append(part)
    return b"".join(parts)


def _check_size(size: int) -> None:
    if size > LARGEST_BODY_BYTES:
        raise ApiError(
            f"The body is larger than {LARGEST_BODY_BYTES >> 20} MiB", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        )


def failure_response(failure: ApiError) -> Response:
    """Return the response to a request that failed."""
    wait = failure.retry_after_seconds
    headers = {} if wait is None else {"Retry-After": str(wait)}
    if failure.status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _Json(failure.to_json(), failure.status, headers)


async def _no_route(request: Request, exc: Exception) -> Response:
    failure = ApiError(f"There is no {request.url.path} here", status=HTTPStatus.NOT_FOUND, code="unknown_url")
    return failure_response(failure)


async def _no_method(request: Request, exc: Exception) -> Response:
    failure = ApiError(f"{request.method} is not possible here", status=HTTPStatus.METHOD_NOT_ALLOWED)
    return failure_response(failure)


def _comment(progress: PrefillProgress | None) -> bytes:
    if progress is None or progress.done_tokens == progress.total_tokens:
        return b": waiting\n\n"
    return f": waiting, {progress.done_tokens} of {progress.total_tokens} tokens read\n\n".encode()
