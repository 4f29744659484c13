"""`python -m asyncbatch`, and the `asyncbatch` command."""

import os
import sys
import threading


def main() -> int:
    """Run the command line with the arguments of this process; returns the exit code."""
    from asyncbatch.cli.main import main as command_line

    code = command_line(sys.argv[1:])
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # A model function that does not return cannot be stopped, and the interpreter would wait for its thread.
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
