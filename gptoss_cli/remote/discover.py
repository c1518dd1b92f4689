"""The first contact with a server: its kind, its model, its context, and whether the vocabulary is that of gpt-oss."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from gptoss_cli.errors import Hint, NetworkError, UsageError
from gptoss_cli.remote.connection import Connection, Json, MissingError
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.settings import ServerApi

# What every turn begins with, and its ids in the vocabulary of gpt-oss.
_CHECKED_TEXT: Final = "<|start|>assistant<|channel|>analysis<|message|>"
_CHECKED_IDS: Final = [200006, 173781, 200005, 35644, 200008]
_APIS: Final = {
    "vllm": ServerApi.VLLM,
    "gptoss": ServerApi.VLLM,
    "sglang": ServerApi.SGLANG,
    "llamacpp": ServerApi.LLAMA,
}
_NAMES: Final = {
    "gptoss": "gptoss serve",
    ServerApi.VLLM: "vLLM",
    ServerApi.SGLANG: "SGLang",
    ServerApi.LLAMA: "llama-server",
}
# Servers that take text alone: the address that only this one has, and a key of its answer.
_TEXT_SERVERS: Final = {
    "ollama": ("/api/version", "version"),
    "LM Studio": ("/api/v0/models", "data"),
    "TGI": ("/info", "model_id"),
}
# llama-server with less would not even hold the system message.
_SMALLEST_CONTEXT: Final = 2


@dataclass(frozen=True, slots=True)
class Server:
    """A server that continues ids. `name` is that of its program, `version` is empty if it is unknown.

    `model_id` is the name that the server gives to its model.
    """

    request: ServerRequest
    api: ServerApi
    name: str
    model_id: str
    context_tokens: int
    version: str = ""

    @property
    def model(self) -> str:
        """The name of the model: of a path, only the file."""
        return _short(self.model_id)

    @property
    def summary(self) -> str:
        """The program and its address."""
        return f"{self.name}{self.version and f' {self.version}'} at {self.request.address}"


def find_server(connection: Connection) -> Server:
    """Find out what answers, in three requests. Raises NetworkError, or UsageError if it cannot serve as a model."""
    request = connection.request
    try:
        models = list(_models(connection.ask("/v1/models")))
    except MissingError:
        models = []
    model = _chosen(models, request, connection)
    owner = str(model.get("owned_by", "")).lower()
    api = request.api or _APIS.get(owner)
    if api is None:
        raise _unusable(connection)
    name = _NAMES.get(owner if request.api is None else api, _NAMES[api])
    model_id = str(model.get("id") or request.model or "gpt-oss")
    if owner != "gptoss":  # it has no other vocabulary
        _check_vocabulary(connection, api, model_id)
    details = _details(connection, api, owner)
    context = model.get("max_model_len") or _context(details)
    if not isinstance(context, int) or context < _SMALLEST_CONTEXT:
        raise NetworkError(f"{request.url} does not tell how many tokens its context holds", Hint.CHECK_SERVER)
    version = details.get("version") or details.get("build_info") or ""
    return Server(request, api, name, model_id, context, str(version)[:40])


def _models(answer: Json) -> Iterator[Json]:
    data = answer.get("data")
    yield from (each for each in data if isinstance(each, dict)) if isinstance(data, list) else ()


def _chosen(models: list[Json], request: ServerRequest, connection: Connection) -> Json:
    """Return the model that was asked for. Raises UsageError if there is none, or a choice that nobody made."""
    if request.model is not None:
        for model in models:
            if request.model in (model.get("id"), _short(str(model.get("id")))):
                return model
        if models:
            raise UsageError(f"{request.url} has no model {request.model}, but {_listed(models)}", Hint.SERVER_MODEL)
    if len(models) > 1:
        if str(models[0].get("owned_by", "")).lower() not in _APIS and request.api is None:
            raise _unusable(connection)
        raise UsageError(f"{request.url} has several models: {_listed(models)}", Hint.SERVER_MODEL)
    return models[0] if models else {}


def _listed(models: list[Json]) -> str:
    return ", ".join(str(model.get("id")) for model in models[:8])


def _short(model: str) -> str:
    """Return the name of a model that may be given as the path of its file."""
    return model.replace("\\", "/").rpartition("/")[2] if model.endswith(".gguf") else model


def _unusable(connection: Connection) -> UsageError:
    """Return the error about a server whose kind is not known, with its name if it is one that takes only text."""
    for name, (path, key) in _TEXT_SERVERS.items():
        with suppress(NetworkError):
            if key in connection.ask(path):
                return UsageError(f"{name} at {connection.request.url} cannot take token ids", Hint.TOKEN_SERVER)
    return UsageError(
        f"{connection.request.url} is no server that is known to take token ids", Hint.SERVER_API, Hint.TOKEN_SERVER
    )


def _check_vocabulary(connection: Connection, api: ServerApi, model: str) -> None:
    """Raise UsageError unless the server makes the ids of gpt-oss from a text."""
    body: dict[str, Any] = {
        ServerApi.VLLM: {"model": model, "prompt": _CHECKED_TEXT, "add_special_tokens": False},
        ServerApi.SGLANG: {"model": model, "prompt": _CHECKED_TEXT, "add_special_tokens": False},
        ServerApi.LLAMA: {"content": _CHECKED_TEXT, "parse_special": True},
    }[api]
    if connection.ask("/tokenize", body).get("tokens") != _CHECKED_IDS:
        raise UsageError(f"{connection.request.url} serves {_short(model)}, which is not a gpt-oss", Hint.CHECK_SERVER)


def _details(connection: Connection, api: ServerApi, owner: str) -> Json:
    """Return what else the server tells about itself; nothing if it does not."""
    if owner == "gptoss":
        return {}
    paths = {ServerApi.VLLM: "/version", ServerApi.SGLANG: "/get_model_info", ServerApi.LLAMA: "/props"}
    try:
        return connection.ask(paths[api])
    except MissingError:
        return {}


def _context(details: Json) -> object:
    """Return the tokens of a slot of llama-server, or of SGLang."""
    settings = details.get("default_generation_settings")
    if isinstance(settings, dict):
        return settings.get("n_ctx")
    return details.get("context_length") or details.get("max_total_num_tokens")
