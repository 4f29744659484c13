"""`python -m asyncbatch`, and the `asyncbatch` command."""

import sys


def main() -> int:
    """Run the command line with the arguments of this process; returns the exit code."""
    from asyncbatch.cli.main import main as command_line

    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
