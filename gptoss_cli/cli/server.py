"""The lines of `plan` and `doctor` about a server: who answers there, with which model and context."""

from collections.abc import Collection
from typing import Any

from gptoss_cli.cli.json_output import write_json
from gptoss_cli.cli.prompt_input import server_of
from gptoss_cli.cli.server_options import ServerOptions
from gptoss_cli.remote.connection import Connection
from gptoss_cli.remote.discover import Server, find_server
from gptoss_cli.remote.request import ServerRequest
from gptoss_cli.terminal.console import Console


def required_server(servers: ServerOptions, given: Collection[str]) -> ServerRequest:
    """Return the server that is meant. Raises UsageError if its address or its key is none."""
    request = server_of(servers, given)
    assert request is not None, "these options mean a server"
    return request


def found_server(request: ServerRequest) -> Server:
    """Return what answers. Raises NetworkError, or UsageError for a server that cannot be used."""
    return find_server(Connection(request))


def run_plan_of_server(servers: ServerOptions, given: Collection[str], console: Console, *, as_json: bool) -> None:
    """Run `gptoss plan --server`. Raises as `found_server`."""
    server = found_server(required_server(servers, given))
    if as_json:
        write_json(server_json(server), console)
        return
    lines = [
        f"{server.model}: computed by {server.summary}",
        "",
        f"Context: {server.context_tokens:,} tokens. The vocabulary is that of gpt-oss.",
        "Message headers, budgets, schemas and the saved conversation stay on this machine, which computes nothing.",
    ]
    if not (server.request.is_local or server.request.is_encrypted):
        lines.append(f"! The conversation goes to {server.request.address} without encryption.")
    console.out("\n".join(lines) + "\n")


def server_json(server: Server) -> dict[str, Any]:
    """Return what is known about a server as JSON values."""
    return {
        "model": server.model,
        "server": server.request.url,
        "api": server.api,
        "program": server.name,
        "program_version": server.version,
        "context_tokens": server.context_tokens,
    }
