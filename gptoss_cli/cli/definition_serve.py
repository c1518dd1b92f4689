"""The command `gptoss serve`: its arguments, its help, and the import of what does the work."""

import typer

from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.framework import given_options
from gptoss_cli.cli.model_opener import serve_errors
from gptoss_cli.cli.serve_options import ServeOptions


def serve(*, options: ServeOptions, invocation: typer.Context, environment: Environment) -> None:
    """Serve OpenAI's API from this machine.

    /v1/chat/completions, /v1/responses, /v1/completions, /v1/models, /health and /metrics, for Codex, Open WebUI and
    the SDKs. Other machines can connect only with --host and a key. Prompts are never logged.
    """
    with serve_errors():
        from gptoss_cli.cli.serve import run_serve

    run_serve(options, environment, given_options(invocation))
