"""The start of the program, as `gptoss` or as `python -m gptoss_cli`. Imports nothing before the path is safe."""

import os
import sys
import time

_CUT_SHORT = 7


def main() -> int:
    """Run the command line; return the exit status. Do not return if a time limit may have ended the command."""
    began = time.monotonic()
    try:
        from gptoss_cli.cli.main import run

        status = run(sys.argv[1:], began=began)
    except KeyboardInterrupt:  # Ctrl-C while the program's own modules are still being imported
        return 130
    if status == _CUT_SHORT:
        _end_at_once(status)
    return status


def _end_at_once(status: int) -> None:
    """End the process without unloading the engine, which takes up to a second. All output has been flushed."""
    os._exit(status)


if __name__ == "__main__":
    # With -m Python puts the current folder first on the path: a torch.py in it would be imported.
    if not sys.flags.safe_path:
        del sys.path[0]
    sys.exit(main())
