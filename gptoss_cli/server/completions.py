"""`/v1/completions`: ids or raw text in, ids and text out, in the dialect of vLLM. No Harmony, no reasoning fields."""

import codecs
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gptoss_cli.generation import Allowed, Interruptible, Sampling, TokenGenerator, TokenInfo, random_seed
from gptoss_cli.harmony.encoding import encode
from gptoss_cli.harmony.events import PrefillProgress
from gptoss_cli.harmony.vocabulary import (
    FIRST_SPECIAL_ID,
    STOP_IDS,
    VOCABULARY_SIZE,
    load_encoding,
    token_text,
    without_surrogates,
)
from gptoss_cli.server.chat_completions import usage_json
from gptoss_cli.server.exchange import Exchange, ServerEvent, new_id, now
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.fields import Fields
from gptoss_cli.server.job import SequencePool, Usage
from gptoss_cli.server.sampling import refuse_unsupported, sampling_settings, token_limit
from gptoss_cli.server.served import Served

# vLLM's and OpenAI's default.
_DEFAULT_TOKENS: Final = 16
_MOST_ALTERNATIVES: Final = 20
_SPECIAL: Final = re.compile(r"(<\|[a-z_0-9]{1,20}\|>)")
_BANNING_BIAS: Final = -100
_UNSUPPORTED: Final = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "stop": ([], ""),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
}


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """An id that was decoded; `info` only if log probabilities were requested."""

    id: int
    info: TokenInfo | None


@dataclass(frozen=True, slots=True)
class CompletionEnd:
    """The end of a completion. `stop_id` is the id that ended it, None if a limit did."""

    usage: Usage
    stop_id: int | None


class _Only:
    """A token constraint that always allows the same ids."""

    def __init__(self, ids: frozenset[int]) -> None:
        self._allowed = Allowed(ids)

    def next(self) -> Allowed:
        """See TokenConstraint.next."""
        return self._allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionJob:
    """A continuation of `prompt`, whatever it means."""

    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    stop_ids: frozenset[int] = STOP_IDS
    banned_ids: frozenset[int] = frozenset()
    allowed_ids: frozenset[int] = frozenset()
    logprobs: int | None = None

    def run(self, pool: SequencePool, on_stop: Callable[[Callable[[], None]], None]) -> Generator[object]:
        """See Job.run. The last event is the CompletionEnd."""
        stopped = threading.Event()
        with pool.sequence(self.prompt) as generator:

            def stop() -> None:
                stopped.set()
                if isinstance(generator, Interruptible):
                    generator.interrupt()

            on_stop(stop)
            yield from self._run(generator, stopped)

    def _run(self, generator: TokenGenerator, stopped: threading.Event) -> Generator[object]:
        began = time.perf_counter()
        first, prefilled, count, stop_id = None, 0, 0, None
        seen: list[TokenInfo] = []
        for done, total in generator.prefill(self.prompt):
            prefilled = done
            yield PrefillProgress(done, total)
            if stopped.is_set():
                yield CompletionEnd(Usage(len(self.prompt), 0, 0), None)
                return
        tokens = generator.decode(
            self.sampling,
            stop_ids=self.stop_ids,
            banned_ids=self.banned_ids,
            max_tokens=self.max_tokens,
            constraint=_Only(self.allowed_ids) if self.allowed_ids else None,
            observer=None if self.logprobs is None else seen.append,
            top=self.logprobs or 0,
        )
        for token in tokens:
            first = time.perf_counter() - began if first is None else first
            count += 1
            stop_id = token if token in self.stop_ids else None
            yield DecodedToken(token, seen.pop() if seen else None)
            if stopped.is_set():
                break
        seconds = time.perf_counter() - began - (first or 0)
        cached = len(self.prompt) - prefilled
        yield CompletionEnd(
            Usage(len(self.prompt), cached, count, first_token_seconds=first, decode_seconds=seconds), stop_id
        )


def read_completion(fields: Fields, served: Served) -> Exchange:
    """Return the exchange for a request. Raises ApiError."""
    served.check_model(fields.text("model"))
    refuse_unsupported(fields, _UNSUPPORTED)
    settings = sampling_settings(fields)
    settings.setdefault("seed", random_seed())
    logprobs = fields.integer("logprobs", 0, _MOST_ALTERNATIVES)
    job = CompletionJob(
        prompt=_prompt(fields),
        sampling=Sampling(**settings),
        max_tokens=token_limit(fields, "max_tokens") or _DEFAULT_TOKENS,
        stop_ids=STOP_IDS | _ids(fields, "stop_token_ids"),
        banned_ids=_banned(fields),
        allowed_ids=_ids(fields, "allowed_token_ids"),
        logprobs=logprobs,
    )
    options = fields.inner("stream_options")
    writer = CompletionWriter(
        served.name,
        job,
        ids=fields.flag("return_token_ids"),
        specials=not fields.flag("skip_special_tokens", default=True),
        include_usage=options is not None and options.flag("include_usage"),
    )
    return Exchange(job, writer, fields.flag("stream"))


def _prompt(fields: Fields) -> list[int]:
    value = fields.get("prompt")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        ids = [id_ for part in _SPECIAL.split(value) for id_ in _encode(part)]
    else:
        ids = list(value) if isinstance(value, list) else []
        _check_ids(fields, "prompt", ids)
    if not ids:
        raise fields.wrong("prompt", "must be one text or one list of token ids")
    return ids


def _encode(part: str) -> list[int]:
    if _SPECIAL.fullmatch(part):
        return load_encoding().encode(part, allowed_special="all")
    return encode(without_surrogates(part))


def _ids(fields: Fields, name: str) -> frozenset[int]:
    ids = fields.items(name)
    _check_ids(fields, name, ids)
    return frozenset(ids)


def _check_ids(fields: Fields, name: str, ids: Sequence[Any]) -> None:
    if not all(isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < VOCABULARY_SIZE for id_ in ids):
        raise fields.wrong(name, f"must have token ids from 0 to {VOCABULARY_SIZE - 1}")


def _banned(fields: Fields) -> frozenset[int]:
    """Return the ids that a bias of -100 bans. Raises ApiError for any other bias."""
    bias = fields.inner("logit_bias")
    if bias is None:
        return frozenset()
    if any(value != _BANNING_BIAS for value in bias.values.values()):
        raise fields.wrong("logit_bias", f"can be {_BANNING_BIAS} only, which bans a token", code="unsupported_value")
    try:
        ids = [int(id_) for id_ in bias.values]
    except ValueError as exc:
        raise fields.wrong("logit_bias", "must have token ids as keys") from exc
    _check_ids(fields, "logit_bias", ids)
    return frozenset(ids)


@dataclass(slots=True)
class _Logprobs:
    """Log probabilities in the form of completions."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(self, info: TokenInfo, offset: int) -> None:
        """Add a token whose text begins at `offset`."""
        self.tokens.append(token_text(info.id).text)
        self.token_logprobs.append(info.logprob)
        self.top_logprobs.append({token_text(id_).text: logprob for id_, logprob in info.top})
        self.text_offset.append(offset)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `logprobs`."""
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }


class CompletionWriter:
    """Writes ids as `text_completion` objects. See Writer."""

    def __init__(
        self, model: str, job: CompletionJob, *, ids: bool = False, specials: bool = False, include_usage: bool = False
    ) -> None:
        self._head = {"id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": model}
        self._prompt = job.prompt if ids else None
        self._specials = specials
        self._include_usage = include_usage
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._length = 0
        self._logprobs = _Logprobs() if job.logprobs is not None else None
        self._end: CompletionEnd | None = None

    @property
    def ended(self) -> bool:
        """See Writer.ended."""
        return self._end is not None

    def begin(self) -> Sequence[ServerEvent]:
        """See Writer.begin."""
        return []

    def feed(self, event: object) -> Sequence[ServerEvent]:
        """See Writer.feed."""
        match event:
            case DecodedToken(id_, info):
                return [self._token(id_, info)]
            case CompletionEnd():
                self._end = event
                rest = self._decoder.decode(b"", final=True)
                self._texts.append(rest)
                events = [ServerEvent({**self._head, "choices": [self._choice(rest, [], event)]})]
                if self._include_usage:
                    events.append(ServerEvent({**self._head, "choices": [], "usage": usage_json(event.usage)}))
                return [*events, ServerEvent("[DONE]")]
        return []

    def fail(self, failure: ApiError) -> Sequence[ServerEvent]:
        """See Writer.fail."""
        return [ServerEvent(failure.to_json())]

    def result(self) -> dict[str, Any]:
        """See Writer.result."""
        end = self._end
        assert end is not None, "the job has ended"
        choice = self._choice("".join(self._texts), self._ids, end)
        choice["logprobs"] = None if self._logprobs is None else self._logprobs.to_json()
        if self._prompt is not None:
            choice["prompt_token_ids"] = self._prompt
        return {**self._head, "choices": [choice], "usage": usage_json(end.usage)}

    def _token(self, id_: int, info: TokenInfo | None) -> ServerEvent:
        first = not self._ids
        data = token_text(id_).data if id_ < FIRST_SPECIAL_ID or self._specials else b""
        text = self._decoder.decode(data)
        choice = self._choice(text, [id_], None)
        if info is not None and self._logprobs is not None:
            self._logprobs.add(info, self._length)
            one = _Logprobs()
            one.add(info, self._length)
            choice["logprobs"] = one.to_json()
        self._ids.append(id_)
        self._texts.append(text)
        self._length += len(text)
        if first and self._prompt is not None:
            choice["prompt_token_ids"] = self._prompt
        return ServerEvent({**self._head, "choices": [choice]})

    def _choice(self, text: str, ids: list[int], end: CompletionEnd | None) -> dict[str, Any]:
        finish = None if end is None else "length" if end.stop_id is None else "stop"
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        if end is not None:
            choice["stop_reason"] = end.stop_id
        return choice if self._prompt is None else choice | {"token_ids": ids}
