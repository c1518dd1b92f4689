"""The options about a server that answers instead of this machine."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gptoss_cli.paths import typed_path
from gptoss_cli.settings import ServerApi

KEY_FILE_VARIABLE: Final = "GPTOSS_SERVER_KEY_FILE"


def _setting(variable: str, *flags: str, **details: Any) -> Any:
    return typer.Option(*flags, envvar=variable, show_envvar=False, **details)


_URL_VARIABLE: Final = "GPTOSS_SERVER_URL"
ServerOption = Annotated[
    str | None,
    _setting(_URL_VARIABLE, "--server", metavar="URL", help="Let the vLLM, SGLang or llama-server at URL answer."),
]
ExaminedServerOption = Annotated[
    str | None,
    _setting(_URL_VARIABLE, "--server", metavar="URL", help="Examine the vLLM, SGLang or llama-server at URL."),
]
ServerModelOption = Annotated[
    str | None,
    _setting("GPTOSS_SERVER_MODEL", "--server-model", metavar="NAME", help="Model of a server that has several."),
]
ServerApiOption = Annotated[
    ServerApi | None, _setting("GPTOSS_SERVER_API", "--server-api", help="API of the server; by default found out.")
]
KeyFileOption = Annotated[
    Path | None,
    _setting(
        KEY_FILE_VARIABLE,
        "--api-key-file",
        metavar="FILE",
        parser=typed_path,
        help="File with the key for the server; else GPTOSS_SERVER_KEY.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ServerOptions:
    """The options of `plan`, `doctor` and `bench` about a server. `ask` and `chat` have the same ones."""

    server: ExaminedServerOption = None
    server_model: ServerModelOption = None
    server_api: ServerApiOption = None
    api_key_file: KeyFileOption = None

    def are_meant(self, given: Collection[str]) -> bool:
        """Return True if a server is meant, not a model that the command line, whose options are `given`, names."""
        return bool(self.server) and ("model" not in given or "server" in given)
