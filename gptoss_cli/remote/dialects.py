"""The APIs that continue token ids: how each is asked, and how the ids are read from its answers.

vLLM         /v1/completions   allowed ids and a bias; several ids may come at once
SGLang       /generate         a bias; all ids so far in each piece, or only the new ones
llama-server /completion       a bias; no ids for tokens that end within a character, which `LlamaReader` finds again

Sources: vllm/entrypoints/openai/completion/protocol.py, sglang/srt/managers/io_struct.py, llama.cpp/tools/server.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Protocol

from gptoss_cli.errors import Hint, NetworkError
from gptoss_cli.generation import VOCABULARY_SIZE, Sampling
from gptoss_cli.settings import ServerApi

# A bias that no difference of logits comes near. llama-server takes any number; float32 stays exact enough with this.
_BIAS: Final = 100

_REPLACEMENT: Final = "\ufffd"


class Spelling(Protocol):
    """The bytes of the vocabulary."""

    def spellings(self, text: str, count: int) -> Sequence[tuple[int, ...]]:
        """Return every sequence of `count` ids whose bytes are those of `text`."""

    def partial_ids(self) -> frozenset[int]:
        """Return the ids whose bytes end within a character."""


class Finish(Enum):
    """The reason of a server to end a continuation."""

    STOP = auto()
    LENGTH = auto()
    ABORT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A request to continue `ids` by up to `max_tokens`, until one of `stop_ids`.

    `allowed`, if not empty, are the only ids that may be drawn; `banned` may not. `seed` replaces that of `sampling`.
    """

    ids: Sequence[int]
    sampling: Sampling
    seed: int
    max_tokens: int
    stop_ids: Collection[int]
    allowed: Collection[int] = ()
    banned: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. `cached` of the prompt's tokens had been read before; None if the server does not tell.

    `stop_id` ended the continuation and may be missing in `ids`. If `lost_among` is not empty, one of these ids was
    drawn and not sent, and nothing is known of what followed.
    """

    ids: Sequence[int] = ()
    finish: Finish | None = None
    stop_id: int | None = None
    cached: int | None = None
    read: tuple[int, int] | None = None
    lost_among: frozenset[int] = frozenset()


class Reader(Protocol):
    """Reads the pieces of one answer."""

    def read(self, data: Mapping[str, Any]) -> Piece:
        """Return what an object of the answer holds. Raises NetworkError if it has no ids."""


class Dialect(Protocol):
    """One API."""

    api: ServerApi
    path: str

    def body(self, request: Continuation, *, stream: bool) -> dict[str, Any]:
        """Return the JSON that asks for a continuation."""

    def reader(self) -> Reader:
        """Return a reader for one answer."""


class Vllm:
    """`/v1/completions` of vLLM, and of `gptoss serve`."""

    api = ServerApi.VLLM
    path = "/v1/completions"

    def __init__(self, model: str) -> None:
        self._model = model

    def body(self, request: Continuation, *, stream: bool) -> dict[str, Any]:
        """See Dialect.body. What is left out is taken from a file of the model, so nothing is."""
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": list(request.ids),
            "max_tokens": request.max_tokens,
            "stream": stream,
            "return_token_ids": True,
            "stop_token_ids": sorted(request.stop_ids),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "top_k": request.sampling.top_k or 0,
            "min_p": 0,
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "repetition_penalty": 1,
            "seed": request.seed,
        }
        if request.allowed:
            body["allowed_token_ids"] = sorted(request.allowed)
        if request.banned:
            body["logit_bias"] = {str(id_): -_BIAS for id_ in sorted(request.banned)}
        return body

    def reader(self) -> Reader:
        """See Dialect.reader."""
        return _VllmReader()


class _VllmReader:
    def read(self, data: Mapping[str, Any]) -> Piece:
        usage = data.get("usage") or {}
        cached = _integer((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
        choices = data.get("choices")
        if not choices:
            return Piece(cached=cached)
        choice = choices[0]
        if choice.get("token_ids") is None and not choice.get("finish_reason"):
            raise NetworkError("The server sends no token ids: vLLM does since version 0.11", Hint.TOKEN_SERVER)
        finish = _FINISHES.get(str(choice.get("finish_reason")))
        return Piece(_ids(choice.get("token_ids")), finish, _integer(choice.get("stop_reason")), cached)


class Sglang:
    """`/generate` of SGLang."""

    api = ServerApi.SGLANG
    path = "/generate"

    def body(self, request: Continuation, *, stream: bool) -> dict[str, Any]:
        """See Dialect.body."""
        bias = {str(id_): -_BIAS for id_ in sorted(request.banned)}
        bias |= {str(id_): _BIAS for id_ in sorted(request.allowed)}
        sampling: dict[str, Any] = {
            "max_new_tokens": request.max_tokens,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "top_k": request.sampling.top_k or -1,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "sampling_seed": request.seed,
            "stop_token_ids": sorted(request.stop_ids),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "no_stop_trim": True,
        }
        if bias:
            sampling["logit_bias"] = bias
        return {"input_ids": list(request.ids), "stream": stream, "sampling_params": sampling}

    def reader(self) -> Reader:
        """See Dialect.reader."""
        return _SglangReader()


class _SglangReader:
    def __init__(self) -> None:
        self._count = 0

    def read(self, data: Mapping[str, Any]) -> Piece:
        meta = data.get("meta_info")
        if not isinstance(meta, dict) or "output_ids" not in data:
            raise NetworkError("The server sends no token ids, which SGLang's /generate has", Hint.TOKEN_SERVER)
        ids = _ids(data["output_ids"])
        # All ids so far, unless the server was started to send each only once: the number of them tells.
        total = _integer(meta.get("completion_tokens"))
        is_cumulative = total is None or len(ids) >= total
        new = ids[self._count :] if is_cumulative else ids
        self._count += len(new)
        reason = meta.get("finish_reason") or {}
        matched = _integer(reason.get("matched"))
        return Piece(new, _FINISHES.get(str(reason.get("type"))), matched, _integer(meta.get("cached_tokens")))


class Llama:
    """`/completion` of llama-server. It stops at the ends of a turn by itself: they are those of the GGUF."""

    api = ServerApi.LLAMA
    path = "/completion"

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling

    def body(self, request: Continuation, *, stream: bool) -> dict[str, Any]:
        """See Dialect.body. Every default of the server is another one than ours."""
        return {
            "prompt": list(request.ids),
            "stream": stream,
            "return_tokens": True,
            "return_progress": stream,
            "n_predict": request.max_tokens,
            "cache_prompt": True,
            "id_slot": -1,
            "samplers": ["temperature", "top_k", "top_p"],
            "temperature": request.sampling.temperature,
            "top_k": request.sampling.top_k or 0,
            "top_p": request.sampling.top_p,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "seed": request.seed,
            "logit_bias": [
                *([id_, False] for id_ in sorted(request.banned)),
                *([id_, _BIAS] for id_ in sorted(request.allowed)),
            ],
        }

    def reader(self) -> Reader:
        """See Dialect.reader."""
        return LlamaReader(self._spelling)


class LlamaReader:
    """Reads an answer of llama-server, and finds the ids again that it does not send.

    A token whose text ends within a character is held back. When the character is complete, the text of all these
    tokens comes with the id of the last one. The text and the number of the ids nearly always leave one possibility.
    """

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._count = 0

    def read(self, data: Mapping[str, Any]) -> Piece:
        """See Reader.read. Bytes that make no character leave ids unknown: see Piece.lost_among."""
        progress = data.get("prompt_progress")
        if isinstance(progress, dict):
            # With an id 0 that was not drawn.
            total, cached, processed = (_integer(progress.get(name)) or 0 for name in ("total", "cache", "processed"))
            return Piece(read=(max(0, processed - cached), total - cached), cached=cached)
        count = _integer(data.get("tokens_predicted"))
        if count is None or "tokens" not in data:
            raise NetworkError("The server sends no token ids, which llama-server's /completion has", Hint.TOKEN_SERVER)
        ids, grown = _ids(data["tokens"]), count - self._count
        self._count = count
        ended = bool(data.get("stop"))
        finish = _FINISHES.get(str(data.get("stop_type")), Finish.STOP) if ended else None
        from_cache = _integer((data.get("timings") or {}).get("cache_n"))
        if len(ids) < grown:
            found = self._spelled(str(data.get("content")), grown, ids[-1:])
            if len(found) != 1:
                return Piece(finish=finish, cached=from_cache, lost_among=self._spelling.partial_ids())
            ids = list(found[0])
        return Piece(ids, finish, None, from_cache)

    def _spelled(self, text: str, count: int, last: list[int]) -> list[tuple[int, ...]]:
        if _REPLACEMENT in text:  # stands for bytes that are not known
            return []
        return [ids for ids in self._spelling.spellings(text, count) if list(ids[-1:]) == last or not last]


_FINISHES: Final = {
    "stop": Finish.STOP,
    "eos": Finish.STOP,
    "word": Finish.STOP,
    "length": Finish.LENGTH,
    "limit": Finish.LENGTH,
    "abort": Finish.ABORT,
    "error": Finish.ABORT,
}


def _ids(value: object) -> list[int]:
    if value is None:
        return []
    if not isinstance(value, list) or any(_integer(id_) is None for id_ in value):
        raise NetworkError("The server sends ids that are no numbers", Hint.CHECK_SERVER)
    if any(not 0 <= id_ < VOCABULARY_SIZE for id_ in value):
        raise NetworkError("The server sends ids that gpt-oss does not have", Hint.CHECK_SERVER)
    return value


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
