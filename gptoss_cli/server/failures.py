"""Failures in the shape that OpenAI's clients read: a status, a type, a code, and the parameter that is wrong."""

from http import HTTPStatus
from typing import Any

from gptoss_cli.errors import GptossError, Hint, NetworkError, UsageError


class ApiError(Exception):
    """A failure of a request. The message is one sentence for the person behind the client."""

    def __init__(
        self,
        message: str,
        *,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    @property
    def kind(self) -> str:
        """The `type` of the failure."""
        if self.status is HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        if self.status is HTTPStatus.UNAUTHORIZED:
            return "authentication_error"
        return "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def context_exceeded(prompt_tokens: int, context_tokens: int) -> ApiError:
    """Return the failure of a prompt that leaves no room for an answer. Codex compacts the conversation on its code."""
    return ApiError(
        f"This model's maximum context length is {context_tokens} tokens. However, your messages resulted in"
        f" {prompt_tokens} tokens. Please reduce the length of the messages.",
        code="context_length_exceeded",
        param="messages",
    )


def model_loading() -> ApiError:
    """Return the failure of a request that comes before the model is loaded."""
    return ApiError(
        "The model is being loaded",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        code="model_loading",
        retry_after_seconds=2,
    )


def queue_full(waiting: int) -> ApiError:
    """Return the failure of a request that finds the queue full."""
    return ApiError(
        f"{waiting} requests are waiting already. Please try again in 5s.",
        status=HTTPStatus.TOO_MANY_REQUESTS,
        code="rate_limit_exceeded",
        retry_after_seconds=5,
    )


def stopping() -> ApiError:
    """Return the failure of a request that the server will not begin, since it is ending."""
    return ApiError("The server is stopping", status=HTTPStatus.SERVICE_UNAVAILABLE, code="server_stopping")


def failure_of(exc: Exception) -> ApiError:
    """Return an exception of the engine as the failure of the request that met it."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, UsageError):
        return ApiError(str(exc))
    if isinstance(exc, RecursionError):
        return ApiError("The request is nested too deeply")
    if isinstance(exc, GptossError) and Hint.SHORTER_CONVERSATION in exc.hints:
        return ApiError(str(exc), code="context_length_exceeded", param="messages")
    if isinstance(exc, NetworkError):
        return ApiError(str(exc), status=HTTPStatus.BAD_GATEWAY, code="server_error")
    message = str(exc) if isinstance(exc, GptossError) else f"Unexpected error: {type(exc).__name__}"
    return ApiError(message, status=HTTPStatus.INTERNAL_SERVER_ERROR, code="server_error")
