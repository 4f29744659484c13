"""`python -m asyncbatch`, and the `asyncbatch` command."""

import gc
import os
import sys
import threading

_COLLECTED_AT = 50_000
"""Objects made since the last look for cycles. Importing makes half a million that stay; with Python's own 700, looking at
them again and again is a tenth of the CPU before the first request."""


def main() -> int:
    """Run the command line with the arguments of this process; returns the exit code."""
    gc.set_threshold(_COLLECTED_AT)
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
