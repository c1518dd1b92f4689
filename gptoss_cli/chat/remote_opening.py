"""Opens a chat with a model on a server: first contact, and the beginning of the conversation. Imports no torch."""

import logging
from typing import Final

from gptoss_cli.chat.beginning import begin_session
from gptoss_cli.chat.request import ChatRequest, ModelInfo, Notify, OpenedModel, Say
from gptoss_cli.harmony import vocabulary
from gptoss_cli.remote.answer import BUSY_NOTICE
from gptoss_cli.remote.connection import Connection
from gptoss_cli.remote.dialects import Dialect, Llama, Sglang, Vllm
from gptoss_cli.remote.discover import Server, find_server
from gptoss_cli.remote.generator import RemoteGenerator
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.settings import ServerApi

# As in chat.opening.
_NO_LOG: Final = logging.NullHandler()


def open_remote(request: ChatRequest, *, progress: Say, notice: Notify) -> OpenedModel:
    """Find out what answers at the address of the request and begin a conversation. See OpenModel.

    Raises NetworkError if nothing answers, UsageError if what answers is no gpt-oss that takes token ids.
    """
    assert request.server is not None
    logging.getLogger("gptoss_cli").addHandler(_NO_LOG)
    progress(f"Connecting to {request.server.address}")
    server, generator = connect(request.server, request.placement.context_tokens, notice)
    info = ModelInfo(
        server.model, execution=f"remote {server.api}", device=request.server.address, server=request.server.url
    )
    return OpenedModel(begin_session(generator, request), info)


def connect(request: ServerRequest, context_tokens: int | None, notice: Notify) -> tuple[Server, RemoteGenerator]:
    """Return what answers and a generator for it, with at most `context_tokens` of its context. Raises as above."""
    connection = Connection(request, on_busy=lambda seconds: notice(BUSY_NOTICE))
    server = find_server(connection)
    if not (request.is_local or request.is_encrypted):
        what = "The conversation and the key go" if request.key else "The conversation goes"
        notice(f"{what} to {request.address} without encryption.")
    context = min(server.context_tokens, context_tokens or server.context_tokens)
    return server, RemoteGenerator(connection, _dialect(server), context_tokens=context, notice=notice)


def _dialect(server: Server) -> Dialect:
    match server.api:
        case ServerApi.VLLM:
            return Vllm(server.model_id)
        case ServerApi.SGLANG:
            return Sglang()
        case ServerApi.LLAMA:
            return Llama(vocabulary)
