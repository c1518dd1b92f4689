"""The end of a turn in the words of the API: finish reasons, and turns that failed."""

from http import HTTPStatus
from typing import Any

from gptoss_cli.harmony.events import EndReason, Token, TurnEnd
from gptoss_cli.server.failures import ApiError


def finish_reason(end: TurnEnd) -> str:
    """Return `stop`, `length` or `tool_calls`."""
    if end.reason is EndReason.CALL:
        return "tool_calls"
    return "stop" if end.reason in (EndReason.COMPLETE, EndReason.STOP_TEXT) else "length"


def gptoss_field(end: TurnEnd) -> dict[str, Any]:
    """Return the field that says why an answer is shorter than the client's limits explain; {} if they do."""
    cuts = [str(cut.cut) for cut in end.cuts]
    ended = end.reason in (EndReason.LOOP, EndReason.INTERRUPTED)
    found = ({"reason": str(end.reason)} if ended else {}) | ({"reasoning_cuts": cuts} if cuts else {})
    return {"gptoss": found} if found else {}


def check_turn(end: TurnEnd) -> None:
    """Raise ApiError for a turn that failed."""
    if end.reason is EndReason.NUMERICAL_FAILURE:
        raise ApiError(
            "The model's output is NaN or infinite", status=HTTPStatus.INTERNAL_SERVER_ERROR, code="numerical_failure"
        )


def logprob_entry(event: Token) -> dict[str, Any]:
    """Return a token with its log probability and alternatives, as OpenAI's logprobs have it."""
    entry = _token(event.token.text, event.token.data, event.info.logprob)
    return entry | {"top_logprobs": [_token(token.text, token.data, logprob) for token, logprob in event.top]}


def _token(text: str, data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(data)}
