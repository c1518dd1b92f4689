"""The names of the model that is served, and the object that describes it."""

from http import HTTPStatus
from typing import Any, Final

from gptoss_cli.server.exchange import now
from gptoss_cli.server.failures import ApiError
from gptoss_cli.settings import TRAINED_EFFORTS

_OWNER: Final = "gptoss"
_EFFORTS: Final = {
    "low": "Short reasoning, fast answers",
    "medium": "Balanced reasoning",
    "high": "Long reasoning for hard questions",
}


def model_id(name: str) -> str:
    """Return the name under which a model is served: `gpt-oss-20b` for `20b`, the last folder of a path."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name
    return f"gpt-oss-{last}" if last in ("20b", "120b") else last


def check_model(requested: str | None, served: str) -> None:
    """Raise ApiError if a request names another model. `gpt-oss:20b` and `openai/gpt-oss-20b` are names of one."""
    if requested is None or model_id(requested).replace(":", "-") == served:
        return
    raise ApiError(
        f"The model {requested!r} does not exist here. This server has {served!r}.",
        status=HTTPStatus.NOT_FOUND,
        code="model_not_found",
        param="model",
    )


def models_object(served: str, context_tokens: int, created: int | None = None) -> dict[str, Any]:
    """Return the list of models with two keys: `data` for OpenAI's clients, `models` for Codex."""
    data = {
        "id": served,
        "object": "model",
        "created": now() if created is None else created,
        "owned_by": _OWNER,
        "max_model_len": context_tokens,
        "context_length": context_tokens,
    }
    return {"object": "list", "data": [data], "models": [_for_codex(served, context_tokens)]}


def _for_codex(served: str, context_tokens: int) -> dict[str, Any]:
    return {
        "slug": served,
        "display_name": served,
        "description": "An open-weight model on this machine",
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": [
            {"effort": str(effort), "description": _EFFORTS[str(effort)]} for effort in TRAINED_EFFORTS
        ],
        "shell_type": "default",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 0,
        "upgrade": None,
        "base_instructions": "",
        "supports_reasoning_summaries": False,
        "support_verbosity": False,
        "default_verbosity": None,
        "apply_patch_tool_type": "function",
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
        "supports_parallel_tool_calls": False,
        "context_window": context_tokens,
        "experimental_supported_tools": [],
        "input_modalities": ["text"],
    }
