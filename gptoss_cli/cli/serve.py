"""`gptoss serve`: OpenAI's API over a model on this machine, until Ctrl-C or SIGTERM."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from gptoss_cli.cache_files import KV_LIMIT_BYTES
from gptoss_cli.chat.request import ChatRequest, OpenedModel
from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.prompt_input import placement_request, server_of
from gptoss_cli.cli.serve_options import ServeOptions
from gptoss_cli.cli.server_options import ServerOptions
from gptoss_cli.errors import UsageError
from gptoss_cli.placement.reasons import gib
from gptoss_cli.server.access import Access, is_loopback
from gptoss_cli.server.app import ServerSettings, create_app
from gptoss_cli.server.listener import Listener, listen
from gptoss_cli.server.models import model_id
from gptoss_cli.server.worker import Worker

_KEY_VARIABLE: Final = "GPTOSS_API_KEY"
_LONGEST_KEY_BYTES: Final = 4096


def run_serve(options: ServeOptions, environment: Environment, given: Collection[str] = ()) -> None:
    """Serve a model until a signal. Raises UsageError before anything is loaded if nothing could be served.

    `given` are the names of the options on the command line itself.
    """
    access = Access(options.host, _api_key(options.api_key_file), frozenset(options.allow_origin or ()))
    if access.key is None and not is_loopback(options.host):
        raise UsageError(
            f"{options.host} can be reached from other machines, so clients must send a key. Set {_KEY_VARIABLE} or use"
            " --api-key-file"
        )
    listener = listen(options.host, options.port)
    port = listener.getsockname()[1]
    failures: list[BaseException] = []

    def fail(exc: BaseException) -> None:
        failures.append(exc)
        server.stop()

    def announce(opened: OpenedModel) -> None:
        url = f"http://{_url_host(options.host)}:{port}"
        _announce(opened, url, options.conversations, environment, needs_key=access.key is not None)

    request = _chat_request(options, given)
    worker = Worker(
        lambda: environment.open(request),
        queue_limit=options.queue,
        conversations=options.conversations,
        batch=options.batch,
        idle_seconds=options.idle_unload,
        loaded=announce,
        failed=fail,
    )
    settings = ServerSettings(access=access, effort=options.effort, reasoning=options.reasoning_field)
    server = Listener(create_app(worker, settings), worker)
    worker.start()
    try:
        server.run(listener)
    finally:
        listener.close()
    if failures:
        raise failures[0]


def _chat_request(options: ServeOptions, given: Collection[str]) -> ChatRequest:
    return ChatRequest(
        model=options.model,
        placement=placement_request(options, context_tokens=options.context, sequences=options.conversations + 1),
        effort=options.effort,
        kv_limit_bytes=KV_LIMIT_BYTES if options.kv_limit is None else options.kv_limit,
        server=server_of(
            ServerOptions(
                server=options.server,
                server_model=options.server_model,
                server_api=options.server_api,
                api_key_file=options.server_key_file,
            ),
            given,
        ),
    )


def _announce(opened: OpenedModel, url: str, conversations: int, environment: Environment, *, needs_key: bool) -> None:
    """Say where the server is, how clients find it, and the memory of the conversations that it keeps."""
    info = opened.info
    name = model_id(info.model)
    context = f"{opened.session.context_tokens:,} tokens of context"
    kept = "1 conversation" if opened.branching is None or conversations == 1 else f"{conversations} conversations"
    memory = f" It keeps {kept} in KV caches of up to {gib(info.cache_bytes)}." if info.cache_bytes else ""
    key = "and the server's key in OPENAI_API_KEY" if needs_key else "OPENAI_API_KEY=none"
    key_of_codex = ', env_key = "OPENAI_API_KEY"' if needs_key else ""
    for line in (
        f"Serving {name} on {url} ({info.execution} on {info.device}, {context}). Ctrl-C ends it.{memory}",
        f"Clients of OpenAI's API: OPENAI_BASE_URL={url}/v1 {key}",
        f'Codex, in config.toml: model = "{name}", and a model provider with base_url = "{url}/v1"{key_of_codex}',
    ):
        environment.console.notice(line)


def _api_key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(_KEY_VARIABLE) or None
    try:
        with file.open("rb") as opened:
            key = opened.read(_LONGEST_KEY_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as exc:
        raise UsageError(f"{file}: the key cannot be read ({exc})") from exc
    if not key:
        raise UsageError(f"{file} has no key")
    return key


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
