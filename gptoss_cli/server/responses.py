"""`/v1/responses`: the events of a turn as OpenAI's response events, in their order, or as one object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptoss_cli.harmony.events import (
    AnswerDelta,
    CallDelta,
    EndReason,
    Message,
    MessageEnd,
    PreambleDelta,
    ReasoningDelta,
    Token,
    TurnEnd,
)
from gptoss_cli.harmony.functions import Functions
from gptoss_cli.server.declared_tools import DeclaredTool, DeclaredTools, plain_input
from gptoss_cli.server.exchange import ServerEvent, new_id, now
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.job import Usage
from gptoss_cli.server.outcome import check_turn, gptoss_field, logprob_entry

Keep = Callable[[str, Sequence[Any]], None]
_FINISHED = (EndReason.COMPLETE, EndReason.STOP_TEXT, EndReason.CALL)


@dataclass(slots=True)
class _Item:
    """An item of the output while its text comes. `tool` is set for a call, `phase` for a message."""

    id: str
    kind: str
    index: int
    tool: DeclaredTool | None = None
    phase: str | None = None
    call_id: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def part(self, text: str) -> dict[str, Any]:
        """Return the content part with this text."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self.logprobs)}

    def to_json(self, status: str) -> dict[str, Any]:
        """Return the item; one that is in progress has no text yet."""
        head = {"id": self.id, "type": self.kind, "status": status}
        is_open = status == "in_progress"
        content = [] if is_open else [self.part(self.text)]
        if self.kind == "reasoning":
            return {**head, "summary": [], "content": content, "encrypted_content": None}
        if self.tool is None:
            return {**head, "role": "assistant", "phase": self.phase, "content": content}
        text = "" if is_open else self.text
        inner = {"input": plain_input(text)} if self.tool.takes_text else {"arguments": text}
        space = {"namespace": self.tool.namespace} if self.tool.namespace is not None else {}
        return {**head, "call_id": self.call_id, "name": self.tool.name, **space, **inner}


class ResponsesWriter:
    """Writes a turn as response events and as a response. See Writer.

    `head` are the fields that repeat the request. `keep` gets the id and the output of a response that has ended.
    """

    def __init__(
        self,
        head: dict[str, Any],
        tools: DeclaredTools,
        functions: Functions,
        *,
        logprobs: bool = False,
        keep: Keep | None = None,
    ) -> None:
        self._id = new_id("resp")
        self._head = {"id": self._id, "object": "response", "created_at": now(), **head}
        self._tools = tools
        self._functions = functions
        self._logprobs = logprobs
        self._keep = keep
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open: _Item | None = None
        self._pending_logprobs: list[dict[str, Any]] = []
        self._end: TurnEnd | None = None

    @property
    def ended(self) -> bool:
        """See Writer.ended."""
        return self._end is not None

    def begin(self) -> Sequence[ServerEvent]:
        """See Writer.begin."""
        return [
            self._event(kind, response=self._response("in_progress"))
            for kind in ("response.created", "response.in_progress")
        ]

    def feed(self, event: object) -> Sequence[ServerEvent]:
        """See Writer.feed."""
        match event:
            case ReasoningDelta(text):
                return self._add("reasoning", text)
            case PreambleDelta(text):
                return self._add("message", text, phase="commentary")
            case AnswerDelta(text):
                return self._add("message", text, phase="final_answer")
            case CallDelta(recipient, text):
                return [*self._open_call(recipient), *self._delta(text)]
            case MessageEnd(message):
                return self._close(message)
            case Token() if self._logprobs and not event.is_reasoning and event.channel is not None:
                self._pending_logprobs.append(logprob_entry(event))
            case TurnEnd():
                return self._finish(event)
        return []

    def fail(self, failure: ApiError) -> Sequence[ServerEvent]:
        """See Writer.fail."""
        error = {"code": failure.code or "server_error", "message": failure.message}
        return [self._event("response.failed", response=self._response("failed") | {"error": error})]

    def result(self) -> dict[str, Any]:
        """See Writer.result."""
        assert self._end is not None, "the job has ended"
        check_turn(self._end)
        return self._final(self._end)

    def _add(self, kind: str, text: str, *, phase: str | None = None) -> list[ServerEvent]:
        if self._open is not None:
            return self._delta(text)
        prefix = "rs" if kind == "reasoning" else "msg"
        item = self._open = _Item(new_id(prefix), kind, len(self._items), phase=phase)
        added = self._event("response.output_item.added", output_index=item.index, item=item.to_json("in_progress"))
        part = self._event("response.content_part.added", **self._place(item), part=item.part(""))
        return [added, part, *self._delta(text)]

    def _open_call(self, recipient: str) -> list[ServerEvent]:
        if self._open is not None:
            return []
        tool = self._tools.find(self._functions.name(recipient))
        kind, prefix = ("custom_tool_call", "ctc") if tool.takes_text else ("function_call", "fc")
        item = self._open = _Item(new_id(prefix), kind, len(self._items), tool=tool, call_id=new_id("call"))
        return [self._event("response.output_item.added", output_index=item.index, item=item.to_json("in_progress"))]

    def _delta(self, text: str) -> list[ServerEvent]:
        item = self._open
        assert item is not None
        item.parts.append(text)
        if item.tool is not None:
            if item.tool.takes_text:
                return []  # it stands within JSON, so it is written when it is whole
            return [self._event("response.function_call_arguments.delta", **_target(item), delta=text)]
        if item.kind == "reasoning":
            return [self._event("response.reasoning_text.delta", **self._place(item), delta=text)]
        logprobs, self._pending_logprobs = self._pending_logprobs, []
        item.logprobs += logprobs
        return [self._event("response.output_text.delta", **self._place(item), delta=text, logprobs=logprobs)]

    def _close(self, message: Message) -> list[ServerEvent]:
        events = self._open_call(message.recipient or "") if message.is_call else []
        item = self._open
        if item is None:
            return events
        item.logprobs += self._pending_logprobs
        self._pending_logprobs = []
        self._open = None
        done = item.to_json("completed" if message.complete else "incomplete")
        self._items.append(done)
        events += self._done_events(item)
        return [*events, self._event("response.output_item.done", output_index=item.index, item=done)]

    def _done_events(self, item: _Item) -> list[ServerEvent]:
        if item.tool is not None and item.tool.takes_text:
            text = plain_input(item.text)
            return [
                self._event("response.custom_tool_call_input.delta", **_target(item), delta=text),
                self._event("response.custom_tool_call_input.done", **_target(item), input=text),
            ]
        if item.tool is not None:
            name = {"name": item.tool.name}
            return [self._event("response.function_call_arguments.done", **_target(item), **name, arguments=item.text)]
        kind = "reasoning_text" if item.kind == "reasoning" else "output_text"
        more = {} if item.kind == "reasoning" else {"logprobs": list(item.logprobs)}
        return [
            self._event(f"response.{kind}.done", **self._place(item), text=item.text, **more),
            self._event("response.content_part.done", **self._place(item), part=item.part(item.text)),
        ]

    def _finish(self, end: TurnEnd) -> Sequence[ServerEvent]:
        self._end = end
        try:
            check_turn(end)
        except ApiError as exc:
            return self.fail(exc)
        response = self._final(end)
        if self._keep is not None:
            self._keep(self._id, self._items)
        return [self._event(f"response.{response['status']}", response=response)]

    def _final(self, end: TurnEnd) -> dict[str, Any]:
        if end.reason in _FINISHED:
            response = self._response("completed")
        else:
            response = self._response("incomplete") | {"incomplete_details": {"reason": "max_output_tokens"}}
        return response | {"usage": usage_json(Usage.of_turn(end))} | gptoss_field(end)

    def _response(self, status: str) -> dict[str, Any]:
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": list(self._items),
            "usage": None,
        }

    def _place(self, item: _Item) -> dict[str, Any]:
        return {**_target(item), "content_index": 0}

    def _event(self, kind: str, **data: Any) -> ServerEvent:
        number = self._number
        self._number += 1
        return ServerEvent({"type": kind, "sequence_number": number, **data}, kind)


def _target(item: _Item) -> dict[str, Any]:
    return {"item_id": item.id, "output_index": item.index}


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return the usage of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
