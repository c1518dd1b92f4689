"""The options of `serve`. The command receives them as one value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gptoss_cli.cli.options import (
    ActivationsOption,
    ContextOption,
    DenseOption,
    DeviceOption,
    ExecutionOption,
    GpuMemoryOption,
    KvLimitOption,
    ThreadsOption,
)
from gptoss_cli.cli.server_options import KEY_FILE_VARIABLE, ServerApiOption, ServerModelOption, ServerOption
from gptoss_cli.paths import typed_path
from gptoss_cli.settings import Activations, Dense, Execution, ReasoningEffort, ReasoningField


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ServeOptions:
    """The options of `serve`: where it listens, who may connect, and how the model runs."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="GPTOSS_MODEL",
            show_envvar=False,
            metavar="20b|120b|demo|PATH",
            help="Model to serve.",
        ),
    ] = None
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; one of a network needs a key.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0 for any.")] = 8484
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=typed_path, help="File with the key of the clients; or GPTOSS_API_KEY."),
    ] = None
    effort: Annotated[
        ReasoningEffort, typer.Option("--effort", "-e", help="Reasoning effort of requests that name none.")
    ] = ReasoningEffort.MEDIUM
    queue: Annotated[
        int, typer.Option(metavar="N", min=0, max=10_000, help="Requests that may wait; further ones get status 429.")
    ] = 16
    conversations: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Conversations whose KV caches are kept (on the CPU).")
    ] = 4
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, max=16, help="Answers that are written at a time (on the CPU).")
    ] = 4
    idle_unload: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=1e6,
            help="Release the model after this time without a request; the next one loads it again.",
        ),
    ] = None
    kv_limit: KvLimitOption = None
    reasoning_field: Annotated[
        ReasoningField, typer.Option(help="Field of chat completions that holds the reasoning.")
    ] = ReasoningField.REASONING
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Web page that may use the server, such as https://a.example; repeatable."),
    ] = None
    server: ServerOption = None
    server_model: ServerModelOption = None
    server_api: ServerApiOption = None
    server_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar=KEY_FILE_VARIABLE,
            show_envvar=False,
            metavar="FILE",
            parser=typed_path,
            help="File with the key for --server; else GPTOSS_SERVER_KEY.",
        ),
    ] = None
    context: ContextOption = None
    execution: ExecutionOption = Execution.AUTO
    device: DeviceOption = "auto"
    gpu_memory: GpuMemoryOption = None
    dense: DenseOption = Dense.BF16
    activations: ActivationsOption = Activations.INT16
    threads: ThreadsOption = None
