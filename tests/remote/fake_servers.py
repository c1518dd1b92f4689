"""Small real HTTP servers over any TokenGenerator, each with the habits and the faults of the server it stands for."""

import contextlib
import json
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

from gptoss_cli.generation import Allowed, Forced, Restriction, Sampling, TokenGenerator
from gptoss_cli.harmony.vocabulary import STOP_IDS, ends_within_character, load_encoding, token_text

Json = dict[str, Any]


@dataclass
class Faults:
    """Faults of a server. Counts are of ids after which it does; None never does."""

    dies_after: int | None = None
    times: int = 1  # that it dies, or is busy
    hangs_after: int | None = None
    fails_after: int | None = None
    busy_status: int | None = None
    retry_after: str = "0"
    key: str | None = None
    html: bool = False
    redirect: str | None = None
    other_vocabulary: bool = False
    too_old: bool = False
    forgets: bool = False


@dataclass
class Seen:
    """Events that the server has noticed."""

    paths: list[str] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    aborts: int = 0
    running: int = 0


class _DiedError(Exception):
    """The server ends in the middle of an answer."""


class _Rule:
    """A token constraint that is always the same."""

    def __init__(self, restriction: Restriction) -> None:
        self._restriction = restriction

    def next(self) -> Forced | Restriction | None:
        return self._restriction


class FakeServer:
    """A server in a thread. `make` returns a new generator for a request, or always the same one.

    `drawn` returns the ids that a request would get, without the habits of a server.
    """

    owner: ClassVar[str]
    path: ClassVar[str]
    default_tokens: ClassVar[int]

    def __init__(self, make: Callable[[], TokenGenerator], *, faults: Faults | None = None, **habits: Any) -> None:
        self.faults = faults or Faults()
        self.seen = Seen()
        self.habits = habits
        self.context_tokens = make().context_tokens
        self._make = make
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def get(self, path: str) -> Json | None:
        """Return the answer to a question without a body; None if there is no such path."""
        if path == "/v1/models":
            model = {
                "id": "gpt-oss-20b",
                "object": "model",
                "owned_by": self.owner,
                "max_model_len": self.context_tokens,
            }
            return {"object": "list", "data": self.habits.get("models", [model])}
        return None

    def request(self, body: Json) -> tuple[list[int], Sampling, int, list[int], list[int]]:
        """Return prompt, sampling, tokens, allowed and banned ids of a request."""
        raise NotImplementedError

    def pieces(self, body: Json, ids: Iterator[int], finish: Callable[[], str]) -> Iterator[str]:
        """Yield the lines of a stream."""
        raise NotImplementedError

    def whole(self, ids: list[int], finish: str) -> Json:
        """Return an answer that is not streamed."""
        raise NotImplementedError

    def refusal(self, prompt: list[int]) -> Json | None:
        """Return the error for a prompt that is too long."""
        raise NotImplementedError

    def drawn(self, body: Json) -> tuple[Iterator[int], Callable[[], str]]:
        """Return the ids for a request, and a function that returns the reason of their end."""
        prompt, sampling, count, allowed, banned = self.request(body)
        left = [count]
        last: list[int] = []

        def ids() -> Iterator[int]:
            with self._lock:  # one engine, one sequence
                generator = self._make()
                for _ in generator.prefill(prompt):
                    pass
                rule = _Rule(Allowed(frozenset(allowed))) if allowed else None
                for token in generator.decode(
                    sampling, stop_ids=STOP_IDS, banned_ids=frozenset(banned), max_tokens=count, constraint=rule
                ):
                    left[0] -= 1
                    last[:] = [token]
                    yield token

        return ids(), lambda: "stop" if last and last[0] in STOP_IDS else "length"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(_Handler):
            fake = server

        return Handler


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self._is_faulty():
            return
        answer = self.fake.get(self.path)
        self._send(200 if answer is not None else 404, answer or {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_faulty():
            return
        self.fake.seen.bodies.append(body)
        if self.path == "/tokenize":
            text = body.get("prompt", body.get("content"))
            ids = load_encoding().encode(text, allowed_special="all")
            self._send(200, {"tokens": [1, 2, 3] if self.fake.faults.other_vocabulary else ids})
        elif self.path != self.fake.path:
            self._send(404, {"detail": "Not Found"})
        else:
            self._complete(body)

    def _complete(self, body: Json) -> None:
        fake = self.fake
        prompt, *_ = fake.request(body)
        refusal = fake.refusal(prompt) if len(prompt) + 1 > fake.context_tokens else None
        if refusal is not None:
            self._send(400, refusal)
            return
        ids, finish = fake.drawn(body)
        fake.seen.running += 1
        try:
            if not body.get("stream"):
                self._send(200, fake.whole(list(ids), finish()))
                return
            self._stream(fake.pieces(body, self._with_faults(ids), finish))
        except OSError:
            fake.seen.aborts += 1
        except _DiedError:
            pass
        finally:
            ids.close()  # type: ignore[attr-defined]
            fake.seen.running -= 1

    def _with_faults(self, ids: Iterator[int]) -> Iterator[int]:
        faults = self.fake.faults
        for number, token in enumerate(ids):
            if number == faults.dies_after and faults.times:
                faults.times -= 1
                raise _DiedError
            if number == faults.hangs_after:
                while not self._is_gone():
                    time.sleep(0.01)
                raise BrokenPipeError
            if number == faults.fails_after:
                self.wfile.write(b'data: {"error": {"message": "EngineDeadError", "code": 500}}\n\n')
                raise _DiedError
            if self._is_gone():
                raise BrokenPipeError
            yield token

    def _is_gone(self) -> bool:
        """Return True if the client has closed its end."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        with contextlib.suppress(OSError):
            return bool(readable) and not self.connection.recv(1)
        return True

    def _stream(self, lines: Iterator[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        for line in lines:
            self.wfile.write(f"{line}\n\n".encode())
            self.wfile.flush()

    def _is_faulty(self) -> bool:
        faults, seen = self.fake.faults, self.fake.seen
        seen.paths.append(self.path)
        seen.keys.append(self.headers.get("Authorization", ""))
        if faults.key is not None and self.headers.get("Authorization") != f"Bearer {faults.key}":
            key = self.headers.get("Authorization", "")
            self._send(401, {"error": {"message": f"Incorrect API key provided: {key.removeprefix('Bearer ')}"}})
        elif faults.redirect is not None:
            self._send(307, {}, Location=f"{faults.redirect}{self.path}")
        elif faults.html:
            self._send(200, "<html>Welcome to nginx</html>")
        elif faults.busy_status is not None and faults.times and self.path == self.fake.path:
            faults.times -= 1
            self._send(
                faults.busy_status, {"error": {"message": "queue is full"}}, **{"Retry-After": faults.retry_after}
            )
        else:
            return False
        return True

    def _send(self, status: int, value: Json | str, **headers: str) -> None:
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, each in headers.items():
            self.send_header(name, each)
        self.end_headers()
        self.wfile.write(data)


class FakeVllm(FakeServer):
    """vLLM: several ids in a piece, comments that keep the connection alive, 16 tokens unless told otherwise."""

    owner = "vllm"
    path = "/v1/completions"
    default_tokens = 16

    def get(self, path: str) -> Json | None:
        return {"version": "0.32.0"} if path == "/version" else super().get(path)

    def request(self, body: Json) -> tuple[list[int], Sampling, int, list[int], list[int]]:
        sampling = Sampling(
            body["seed"], temperature=body["temperature"], top_p=body["top_p"], top_k=body["top_k"] or None
        )
        banned = [int(id_) for id_, bias in body.get("logit_bias", {}).items() if bias == -100]
        count = body.get("max_tokens", self.default_tokens)
        return body["prompt"], sampling, count, body.get("allowed_token_ids", []), banned

    def pieces(self, body: Json, ids: Iterator[int], finish: Callable[[], str]) -> Iterator[str]:
        size = self.habits.get("stream_interval", 3)
        first = True
        waiting: list[int] = []
        yield ": keep-alive"
        for token in ids:
            waiting.append(token)
            if first or len(waiting) == size or token in STOP_IDS:
                more = {"prompt_token_ids": body["prompt"]} if first else {}
                yield self._chunk(waiting, "stop" if token in STOP_IDS else None, more)
                waiting, first = [], False
        if waiting or finish() == "length":
            yield self._chunk(waiting, finish())
        yield 'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}'
        yield "data: [DONE]"

    def _chunk(self, ids: list[int], finish: str | None, more: Json | None = None) -> str:
        choice: Json = {"index": 0, "text": "".join(token_text(id_).text for id_ in ids), "finish_reason": finish}
        if not self.faults.too_old:
            choice |= {"token_ids": ids, **(more or {})}
        if finish == "stop":
            choice["stop_reason"] = ids[-1]
        return f"data: {json.dumps({'object': 'text_completion', 'choices': [choice]}, ensure_ascii=False)}"

    def whole(self, ids: list[int], finish: str) -> Json:
        stop = {"stop_reason": ids[-1]} if finish == "stop" else {}
        return {"choices": [{"index": 0, "text": "", "token_ids": ids, "finish_reason": finish, **stop}]}

    def refusal(self, prompt: list[int]) -> Json | None:
        said = (
            f"This model's maximum context length is {self.context_tokens} tokens, but you requested {len(prompt) + 1}."
        )
        return {"error": {"message": said, "type": "BadRequestError", "code": 400}}


class FakeSglang(FakeServer):
    """SGLang: all ids so far in each piece, or only the new ones (`incremental`); 128 tokens unless told otherwise."""

    owner = "sglang"
    path = "/generate"
    default_tokens = 128

    def get(self, path: str) -> Json | None:
        return {"model_path": "openai/gpt-oss-20b"} if path == "/get_model_info" else super().get(path)

    def request(self, body: Json) -> tuple[list[int], Sampling, int, list[int], list[int]]:
        given = body["sampling_params"]
        top_k = None if given["top_k"] == -1 else given["top_k"]
        sampling = Sampling(given["sampling_seed"], given["temperature"], given["top_p"], top_k)
        bias = {int(id_): value for id_, value in given.get("logit_bias", {}).items()}
        allowed = [id_ for id_, value in bias.items() if value > 0]
        banned = [id_ for id_, value in bias.items() if value < 0]
        return body["input_ids"], sampling, given.get("max_new_tokens", self.default_tokens), allowed, banned

    def pieces(self, body: Json, ids: Iterator[int], finish: Callable[[], str]) -> Iterator[str]:
        so_far: list[int] = []
        cached = 0 if self.faults.forgets else len(body["input_ids"]) - 1
        for token in ids:
            so_far.append(token)
            reason = {"type": "stop", "matched": token} if token in STOP_IDS else None
            shown = so_far[-1:] if self.habits.get("incremental") else so_far
            yield self._chunk(shown, so_far, reason, cached)
        if finish() == "length":
            reason = {"type": "length", "length": len(so_far)}
            yield self._chunk([] if self.habits.get("incremental") else so_far, so_far, reason, cached)
        yield "data: [DONE]"

    def _chunk(self, shown: list[int], so_far: list[int], reason: Json | None, cached: int) -> str:
        meta = {"id": "1", "finish_reason": reason, "completion_tokens": len(so_far), "cached_tokens": cached}
        return f"data: {json.dumps({'text': '', 'output_ids': shown, 'meta_info': meta})}"

    def whole(self, ids: list[int], finish: str) -> Json:
        reason = {"type": finish, "matched": ids[-1]} if finish == "stop" else {"type": "length", "length": len(ids)}
        return {"text": "", "output_ids": ids, "meta_info": {"finish_reason": reason, "completion_tokens": len(ids)}}

    def refusal(self, prompt: list[int]) -> Json | None:
        said = f"The input ({len(prompt)} tokens) is longer than the context length ({self.context_tokens} tokens)."
        return {"error": {"message": said, "code": 400}}


class FakeLlama(FakeServer):
    """llama-server: the progress of the prompt, no [DONE], and no ids for tokens that end within a character."""

    owner = "llamacpp"
    path = "/completion"
    default_tokens = 2**31

    def get(self, path: str) -> Json | None:
        if path == "/props":
            return {"default_generation_settings": {"n_ctx": self.context_tokens}, "build_info": "b11434-abc"}
        found = super().get(path)
        for model in (found or {}).get("data", []):
            model.pop("max_model_len", None)
        return found

    def request(self, body: Json) -> tuple[list[int], Sampling, int, list[int], list[int]]:
        sampling = Sampling(
            body["seed"], body.get("temperature", 0.8), body.get("top_p", 0.95), body.get("top_k", 40) or None
        )
        bias = body.get("logit_bias", [])
        allowed = [id_ for id_, value in bias if value is not False and value > 0]
        banned = [id_ for id_, value in bias if value is False]
        # This server draws at least one.
        return body["prompt"], sampling, max(1, body.get("n_predict", self.default_tokens)), allowed, banned

    def pieces(self, body: Json, ids: Iterator[int], finish: Callable[[], str]) -> Iterator[str]:
        total = len(body["prompt"])
        for processed in (total // 2, total):
            progress = {"total": total, "cache": 0, "processed": processed, "time_ms": 1}
            yield self._chunk({"content": "", "tokens": [0], "tokens_predicted": 0, "prompt_progress": progress})
        count, held = 0, b""
        for token in ids:
            count += 1
            held += b"" if token in STOP_IDS else token_text(token).data
            if not ends_within_character(held):
                yield self._chunk(
                    {"content": held.decode("utf-8", "replace"), "tokens": [token], "tokens_predicted": count}
                )
                held = b""
        stop_type = {"stop": "eos", "length": "limit"}[finish()]
        end = {"content": "", "tokens": [], "stop": True, "stop_type": stop_type, "tokens_predicted": count}
        yield self._chunk(end)

    def _chunk(self, values: Json) -> str:
        return f"data: {json.dumps({'index': 0, 'stop': False, **values})}"

    def whole(self, ids: list[int], finish: str) -> Json:
        stop_type = {"stop": "eos", "length": "limit"}[finish]
        return {"content": "", "tokens": ids, "stop": True, "stop_type": stop_type, "tokens_predicted": len(ids)}

    def refusal(self, prompt: list[int]) -> Json | None:
        said = f"request ({len(prompt)} tokens) exceeds the available context size ({self.context_tokens} tokens)"
        return {"error": {"code": 400, "message": said, "type": "exceed_context_size_error"}}


FAKES: tuple[type[FakeServer], ...] = (FakeVllm, FakeSglang, FakeLlama)
