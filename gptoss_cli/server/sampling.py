"""The parts of a request that several endpoints share: sampling, effort, functions, output formats and content."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gptoss_cli.errors import UsageError
from gptoss_cli.harmony.functions import Functions, FunctionTool, ToolChoice
from gptoss_cli.harmony.structured_output import OutputFormat
from gptoss_cli.server.failures import ApiError
from gptoss_cli.server.fields import Fields
from gptoss_cli.settings import LARGEST_SEED, ReasoningEffort

LARGEST_TEMPERATURE: Final = 10
MOST_ALTERNATIVES: Final = 20
_MOST_STOP_TEXTS: Final = 16
_LARGEST_TOKENS: Final = 1 << 24
_LARGEST_INTEGER: Final = 1 << 63
_EFFORTS: Final = {
    "none": ReasoningEffort.NONE,
    "minimal": ReasoningEffort.LOW,
    "low": ReasoningEffort.LOW,
    "medium": ReasoningEffort.MEDIUM,
    "high": ReasoningEffort.HIGH,
    "xhigh": ReasoningEffort.HIGH,
}
_TEXT_PARTS: Final = {
    "text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
# The model asked for it, so it must learn that it cannot see it.
LEFT_OUT: Final = "[This part of the result is not text, so it is left out.]"
# Fields that need not be honoured: they do not change what a model on this machine answers.
HARMLESS: Final = frozenset(
    (
        *("user", "metadata", "client_metadata", "safety_identifier", "service_tier", "store", "include", "text"),
        *("prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls", "verbosity", "truncation", "modalities"),
    )
)
_ANY_OBJECT: Final = {"type": "object"}


def sampling_settings(fields: Fields) -> dict[str, Any]:
    """Return temperature, top-p, top-k and seed as keywords of TurnSettings; those that are missing are left out."""
    seed = fields.integer("seed", -_LARGEST_INTEGER, 2 * _LARGEST_INTEGER)
    top_k = fields.integer("top_k", -1, _LARGEST_TOKENS)
    read = {
        "temperature": fields.number("temperature", 0, LARGEST_TEMPERATURE),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": top_k if top_k is not None and top_k > 0 else None,
        "seed": None if seed is None else seed & LARGEST_SEED,
    }
    if read["top_p"] == 0:
        raise fields.wrong("top_p", "must be more than 0")
    return {name: value for name, value in read.items() if value is not None}


def token_limit(fields: Fields, *names: str) -> int | None:
    """Return the first limit of tokens that is given."""
    limits = [fields.integer(name, 1, _LARGEST_TOKENS) for name in names]
    return next((limit for limit in limits if limit is not None), None)


def stop_texts(fields: Fields) -> tuple[str, ...]:
    """Return the texts that end the answer."""
    value = fields.get("stop")
    texts = [value] if isinstance(value, str) else fields.items("stop")
    if len(texts) > _MOST_STOP_TEXTS or not all(isinstance(text, str) for text in texts):
        raise fields.wrong("stop", f"must be a string, or up to {_MOST_STOP_TEXTS} strings")
    return tuple(text for text in texts if text)


def read_effort(fields: Fields, name: str, default: ReasoningEffort) -> ReasoningEffort:
    """Return the reasoning effort: one of the model's, or `none`."""
    effort = fields.text(name)
    if effort is None:
        return default
    if effort not in _EFFORTS:
        raise fields.wrong(name, f"must be one of {', '.join(_EFFORTS)}")
    return _EFFORTS[effort]


def refuse_unsupported(fields: Fields, neutral: Mapping[str, Sequence[object]]) -> None:
    """Raise ApiError for a field that would change the result and cannot be honoured. `neutral` are harmless values."""
    for name, values in neutral.items():
        value = fields.get(name)
        if value is not None and value not in values:
            raise fields.wrong(name, "is not supported", code="unsupported_parameter")


def content_text(fields: Fields, name: str = "content", *, left_out: str | None = None) -> str:
    """Return the text of a message: a string, or parts of text.

    `left_out` stands for images and other parts; without it they raise ApiError.
    """
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    texts = []
    for part in fields.objects(name):
        kind = part.text("type")
        key = _TEXT_PARTS.get(kind or "")
        if key is None and left_out is not None:
            texts.append(left_out)
            continue
        if key is None:
            raise part.wrong(
                "type", f"{kind!r} is not supported: the model reads text only", code="unsupported_content"
            )
        texts.append(part.needed_text(key))
    return "\n".join(texts)


def function_tool(fields: Fields) -> FunctionTool:
    """Return the function that an object with name, description and parameters declares."""
    parameters = fields.inner("parameters")
    return FunctionTool(
        fields.needed_text("name"),
        fields.text("description") or "",
        parameters.values if parameters is not None and parameters.values else None,
    )


def functions_with_choice(fields: Fields, tools: Sequence[FunctionTool]) -> Functions:
    """Return the functions with the `tool_choice` of a request: a word, or an object that names one."""
    value = fields.get("tool_choice")
    only = None
    if isinstance(value, Mapping):
        choice = fields.inner("tool_choice")
        assert choice is not None
        named = choice.inner("function") or choice
        only = named.needed_text("name") if choice.get("type") in ("function", "custom") else None
        mode = choice.get("mode") if choice.get("type") == "allowed_tools" else "required"
        value = "auto" if only is None and mode != "required" else "required"
    try:
        choice_ = ToolChoice(value or "auto")
    except ValueError as exc:
        raise fields.wrong("tool_choice", "must be none, auto, required or a function") from exc
    try:
        return Functions(tools, choice=choice_, only=only)
    except UsageError as exc:
        param = "tool_choice" if "twice" not in str(exc) else "tools"
        raise ApiError(str(exc), param=param, code="invalid_value") from exc


def output_format(fields: Fields | None, schema_in: str | None) -> OutputFormat | None:
    """Return the format of the answer: text, json_object or json_schema, whose schema is in the object `schema_in`."""
    kind = fields.text("type") if fields is not None else "text"
    if fields is None or kind == "text":
        return None
    if kind == "json_object":
        return _format_of(_ANY_OBJECT, fields)
    if kind != "json_schema":
        raise fields.wrong("type", "must be text, json_object or json_schema")
    holder = fields if schema_in is None else fields.inner(schema_in)
    schema = holder.inner("schema") if holder is not None else None
    if schema is None:
        raise fields.wrong(schema_in or "schema", "has no schema", code="missing_required_parameter")
    return _format_of(schema.values, schema)


def _format_of(schema: Mapping[str, Any], fields: Fields) -> OutputFormat:
    try:
        return OutputFormat.of_schema(dict(schema))
    except UsageError as exc:
        raise ApiError(str(exc), param=fields.path, code="invalid_schema") from exc
