"""`/v1/responses`: a request as a job."""

from typing import Any, Final

from gptoss_cli.chat.turn_settings import TurnSettings
from gptoss_cli.harmony.events import Channel, Message, Role
from gptoss_cli.harmony.functions import Functions
from gptoss_cli.server.declared_tools import DeclaredTools, function_name, text_arguments
from gptoss_cli.server.exchange import Exchange
from gptoss_cli.server.fields import Fields
from gptoss_cli.server.job import chat_job
from gptoss_cli.server.request_messages import RequestMessages, add_prompt_message
from gptoss_cli.server.response_store import ResponseStore
from gptoss_cli.server.responses import ResponsesWriter
from gptoss_cli.server.sampling import (
    HARMLESS,
    LEFT_OUT,
    MOST_ALTERNATIVES,
    content_text,
    functions_with_choice,
    output_format,
    read_effort,
    refuse_unsupported,
    sampling_settings,
    token_limit,
)
from gptoss_cli.server.served import Served

_UNSUPPORTED: Final = {"background": (False,), "conversation": (), "prompt": ()}
_LOGPROBS: Final = "message.output_text.logprobs"
_ECHOED: Final = (
    "instructions",
    "metadata",
    "temperature",
    "top_p",
    "max_output_tokens",
    "previous_response_id",
    "text",
)


def read_responses(fields: Fields, served: Served, store: ResponseStore) -> Exchange:
    """Return the exchange for a request. Raises ApiError."""
    served.check_model(fields.text("model"))
    refuse_unsupported(fields, _UNSUPPORTED)
    tools = DeclaredTools(fields)
    functions = functions_with_choice(fields, tools.functions)
    items = [*store.items(fields.text("previous_response_id")), *_input_items(fields)]
    request = _read_items(Fields({"input": items}), functions)
    request.add_instructions(fields.text("instructions") or "", first=True)
    reasoning, text = fields.inner("reasoning"), fields.inner("text")
    wants_logprobs = _LOGPROBS in fields.items("include")
    alternatives = fields.integer("top_logprobs", 0, MOST_ALTERNATIVES) or 0
    settings = TurnSettings(
        **sampling_settings(fields),
        max_tokens=token_limit(fields, "max_output_tokens"),
        output=output_format(text.inner("format") if text is not None else None, None),
        logprobs=alternatives if wants_logprobs else None,
    )
    effort = served.effort if reasoning is None else read_effort(reasoning, "effort", served.effort)
    job = chat_job(request, settings, effort=effort, date=served.date)
    keep = fields.flag("store", default=True)
    writer = ResponsesWriter(
        _head(fields, served, str(effort), keep=keep),
        tools,
        functions,
        logprobs=wants_logprobs,
        keep=(lambda id_, output: store.add(id_, [*items, *output])) if keep else None,
    )
    exchange = Exchange(job, writer, fields.flag("stream"))
    fields.log_unused(HARMLESS)
    return exchange


def _head(fields: Fields, served: Served, effort: str, *, keep: bool) -> dict[str, Any]:
    """Return the fields of the response that repeat the request."""
    echoed = {name: fields.get(name) for name in _ECHOED}
    if echoed["text"] is None:
        echoed["text"] = {"format": {"type": "text"}}
    return {
        **echoed,
        "model": served.name,
        "store": keep,
        "tools": fields.items("tools"),
        "tool_choice": fields.get("tool_choice") or "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": effort, "summary": None},
        "truncation": "disabled",
    }


def _input_items(fields: Fields) -> list[Any]:
    value = fields.get("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if value is None:
        raise fields.wrong("input", "is missing", code="missing_required_parameter")
    return fields.items("input")


def _read_items(fields: Fields, functions: Functions) -> RequestMessages:
    request = RequestMessages(functions)
    for item in fields.objects("input"):
        match item.text("type") or "message":
            case "message":
                _read_message(item, request)
            case "reasoning":
                text = content_text(item) or content_text(item, "summary")
                if text:
                    request.add(Message(Role.ASSISTANT, text, Channel.ANALYSIS))
            case "function_call":
                name = function_name(item.needed_text("name"), item.text("namespace"))
                request.add_call(item.needed_text("call_id"), name, item.text("arguments") or "{}")
            case "custom_tool_call":
                name = function_name(item.needed_text("name"), item.text("namespace"))
                request.add_call(item.needed_text("call_id"), name, text_arguments(item.text("input") or ""))
            case "function_call_output" | "custom_tool_call_output":
                output = content_text(item, "output", left_out=LEFT_OUT)
                request.add_result(item, item.needed_text("call_id"), output)
            case kind:
                raise item.wrong("type", f"{kind!r} is not supported", code="unsupported_content")
    if not request.messages and not request.instructions:
        raise fields.wrong("input", "must have a message", code="missing_required_parameter")
    return request


def _read_message(item: Fields, request: RequestMessages) -> None:
    if add_prompt_message(item, request):
        return
    if item.text("role") != "assistant":
        raise item.wrong("role", "must be system, developer, user or assistant")
    text = content_text(item)
    if text:
        channel = Channel.COMMENTARY if item.text("phase") == "commentary" else Channel.FINAL
        request.add(Message(Role.ASSISTANT, text, channel))
