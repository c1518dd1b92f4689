"""The command `gptoss convert`: its arguments, its help, and the import of what does the work."""

from typing import Annotated

import typer

from gptoss_cli.cli.environment import Environment
from gptoss_cli.cli.options import JsonOption


def convert(
    source: Annotated[
        str, typer.Argument(metavar="PATH|OWNER/NAME", help="Checkpoint to convert, here or in the Hugging Face cache.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the result, for -m.")],
    *,
    exact: Annotated[bool, typer.Option("--exact", help="Fail if a value would be rounded.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the sizes, and convert nothing.")] = False,
    as_json: JsonOption = False,
    environment: Environment,
) -> None:
    """Convert a fine-tuned model that was saved in bf16.

    Packs the experts to MXFP4, as in the published models. Experts that were not trained are packed without loss.
    Run it again to continue after an interruption. The source stays as it is.
    """
    from gptoss_cli.cli.convert import run_convert

    run_convert(source, name, environment.console, exact=exact, dry_run=dry_run, as_json=as_json)
