"""The start of the program, as `gptoss` or as `python -m gptoss_cli`. Imports nothing before the path is safe."""

import sys


def main() -> int:
    """Run the command line; return the exit status."""
    try:
        from gptoss_cli.cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # Ctrl-C while the program's own modules are still being imported
        return 130


if __name__ == "__main__":
    # With -m Python puts the current folder first on the path: a torch.py in it would be imported.
    if not sys.flags.safe_path:
        del sys.path[0]
    sys.exit(main())
