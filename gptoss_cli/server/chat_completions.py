"""`/v1/chat/completions`: a request as a job, and the events of a turn as chunks or one object."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    Channel,
    EndReason,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Role,
    Token,
    TurnEnd,
)
from gptoss_cli.harmony.functions import Functions, FunctionTool
from gptoss_cli.server.exchange import Exchange, ServerEvent, new_id, now
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.fields import Fields
from gptoss_cli.server.job import Usage, chat_job
from gptoss_cli.server.outcome import check_turn, finish_reason, gptoss_field, logprob_entry
from gptoss_cli.server.request_messages import RequestMessages, add_prompt_message
from gptoss_cli.server.sampling import (
    HARMLESS,
    LEFT_OUT,
    MOST_ALTERNATIVES,
    content_text,
    function_tool,
    functions_with_choice,
    output_format,
    read_effort,
    refuse_unsupported,
    sampling_settings,
    stop_texts,
    token_limit,
)
from gptoss_cli.server.served import Served

# Fields that change the result, with the values that change nothing.
_UNSUPPORTED: Final[Mapping[str, Sequence[object]]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "audio": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
_REASONING_FIELDS: Final = ("reasoning", "reasoning_content", "thinking")


def read_chat(fields: Fields, served: Served) -> Exchange:
    """Return the exchange for a request. Raises ApiError."""
    served.check_model(fields.text("model"))
    refuse_unsupported(fields, _UNSUPPORTED)
    functions = functions_with_choice(fields, [_tool(each) for each in fields.objects("tools")])
    request = _read_messages(fields, functions)
    reasoning = fields.inner("reasoning")
    effort = read_effort(fields, "reasoning_effort", served.effort)
    if reasoning is not None:
        effort = read_effort(reasoning, "effort", effort)
    settings = TurnSettings(
        **sampling_settings(fields),
        max_tokens=token_limit(fields, "max_completion_tokens", "max_tokens"),
        output=output_format(fields.inner("response_format"), "json_schema"),
        logprobs=(fields.integer("top_logprobs", 0, MOST_ALTERNATIVES) or 0) if fields.flag("logprobs") else None,
    )
    job = chat_job(request, settings, effort=effort, date=served.date, stop_texts=stop_texts(fields))
    options = fields.inner("stream_options")
    hidden = reasoning is not None and reasoning.flag("exclude")
    writer = ChatWriter(
        served.name,
        functions,
        reasoning_field=None if hidden else served.reasoning_field,
        include_usage=options is not None and options.flag("include_usage"),
        logprobs=settings.logprobs is not None,
    )
    exchange = Exchange(job, writer, fields.flag("stream"))
    fields.log_unused(HARMLESS)
    return exchange


def _tool(fields: Fields) -> FunctionTool:
    if fields.text("type") not in (None, "function"):
        raise fields.wrong("type", "must be 'function'")
    inner = fields.inner("function")
    if inner is None:
        raise fields.wrong("function", "is missing", code="missing_required_parameter")
    return function_tool(inner)


def _read_messages(fields: Fields, functions: Functions) -> RequestMessages:
    request = RequestMessages(functions)
    for message in fields.objects("messages"):
        if add_prompt_message(message, request):
            continue
        match message.text("role"):
            case "assistant":
                _read_assistant(message, request)
            case "tool":
                request.add_result(
                    message, message.needed_text("tool_call_id"), content_text(message, left_out=LEFT_OUT)
                )
            case _:
                raise message.wrong("role", "must be system, developer, user, assistant or tool")
    if not request.messages and not request.instructions:
        raise fields.wrong("messages", "must have a message", code="missing_required_parameter")
    return request


def _read_assistant(message: Fields, request: RequestMessages) -> None:
    for name in _REASONING_FIELDS:
        value = message.get(name)
        if isinstance(value, str) and value:
            request.add(Message(Role.ASSISTANT, value, Channel.ANALYSIS))
            break
    calls = list(message.objects("tool_calls"))
    text = content_text(message)
    if text:
        request.add(Message(Role.ASSISTANT, text, Channel.COMMENTARY if calls else Channel.FINAL))
    for call in calls:
        function = call.inner("function")
        if function is None:
            raise call.wrong("function", "is missing", code="missing_required_parameter")
        arguments = function.get("arguments")
        request.add_call(
            call.text("id") or "",
            function.needed_text("name"),
            arguments if isinstance(arguments, str) else json.dumps(arguments if arguments is not None else {}),
        )


@dataclass(slots=True)
class _Call:
    """A call that is being written."""

    index: int
    id: str
    name: str
    parts: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": "".join(self.parts)},
        }


class ChatWriter:
    """Writes a turn as `chat.completion.chunk` events and as a `chat.completion`. See Writer."""

    def __init__(
        self,
        model: str,
        functions: Functions,
        *,
        reasoning_field: str | None = "reasoning",
        include_usage: bool = False,
        logprobs: bool = False,
    ) -> None:
        self._head = {"id": new_id("chatcmpl-"), "created": now(), "model": model}
        self._functions = functions
        self._reasoning_field = reasoning_field
        self._include_usage = include_usage
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._last_message: dict[str, int] = {}
        self._message = 0
        self._calls: list[_Call] = []
        self._call_is_open = False
        self._logprobs: list[dict[str, Any]] | None = [] if logprobs else None
        self._pending_logprobs: list[dict[str, Any]] = []
        self._end: TurnEnd | None = None

    @property
    def ended(self) -> bool:
        """See Writer.ended."""
        return self._end is not None

    def begin(self) -> Sequence[ServerEvent]:
        """See Writer.begin."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def feed(self, event: object) -> Sequence[ServerEvent]:
        """See Writer.feed."""
        match event:
            case ReasoningDelta(text):
                part = self._part("reasoning", text)
                return [] if self._reasoning_field is None else [self._chunk({self._reasoning_field: part})]
            case PreambleDelta(text) | AnswerDelta(text):
                return [self._chunk({"content": self._part("content", text)})]
            case CallDelta(recipient, text):
                return [*self._open_call(recipient), self._argument(text)]
            case MessageEnd(message):
                events = self._open_call(message.recipient or "") if message.is_call else []
                self._message += 1
                self._call_is_open = False
                return events
            case Token() if self._logprobs is not None and not event.is_reasoning and event.channel is not None:
                entry = logprob_entry(event)
                self._logprobs.append(entry)
                self._pending_logprobs.append(entry)
            case TurnEnd():
                return self._finish(event)
        return []

    def fail(self, failure: ApiError) -> Sequence[ServerEvent]:
        """See Writer.fail."""
        return [ServerEvent(failure.to_json())]

    def result(self) -> dict[str, Any]:
        """See Writer.result."""
        end = self._end
        assert end is not None, "the job has ended"
        check_turn(end)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._texts["content"]) or None}
        if not self._calls:
            message["content"] = message["content"] or ""
        message["refusal"] = None
        if self._reasoning_field is not None and self._texts["reasoning"]:
            message[self._reasoning_field] = "".join(self._texts["reasoning"])
        if self._calls:
            message["tool_calls"] = [call.to_json() for call in self._calls]
        logprobs = None if self._logprobs is None else {"content": self._logprobs, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason(end)}
        whole = {**self._head, "object": "chat.completion", "choices": [choice]}
        return whole | {"usage": usage_json(Usage.of_turn(end))} | gptoss_field(end)

    def _part(self, name: str, text: str) -> str:
        """Keep a part of a text, and return it with a blank line before it if it begins another message."""
        last = self._last_message.get(name, self._message)
        self._last_message[name] = self._message
        part = f"\n\n{text}" if last != self._message and self._texts[name] else text
        self._texts[name].append(part)
        return part

    def _open_call(self, recipient: str) -> list[ServerEvent]:
        if self._call_is_open:
            return []
        self._call_is_open = True
        call = _Call(len(self._calls), new_id("call"), self._functions.name(recipient))
        self._calls.append(call)
        return [self._chunk({"tool_calls": [{"index": call.index, **call.to_json()}]})]

    def _argument(self, text: str) -> ServerEvent:
        call = self._calls[-1]
        call.parts.append(text)
        return self._chunk({"tool_calls": [{"index": call.index, "function": {"arguments": text}}]})

    def _finish(self, end: TurnEnd) -> Sequence[ServerEvent]:
        self._end = end
        if end.reason is EndReason.NUMERICAL_FAILURE:
            return self._failed(end)
        events = [self._chunk({}, finish_reason(end), **gptoss_field(end))]
        if self._include_usage:
            usage = {"choices": [], "usage": usage_json(Usage.of_turn(end))}
            events.append(ServerEvent({**self._head, "object": "chat.completion.chunk", **usage}))
        return [*events, ServerEvent("[DONE]")]

    def _failed(self, end: TurnEnd) -> Sequence[ServerEvent]:
        try:
            check_turn(end)
        except ApiError as exc:
            return self.fail(exc)
        return []

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> ServerEvent:
        logprobs = None
        if self._pending_logprobs and ("content" in delta or "tool_calls" in delta or finish is not None):
            logprobs = {"content": self._pending_logprobs, "refusal": None}
            self._pending_logprobs = []
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return ServerEvent({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage, **more})


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return the usage of a chat completion."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
