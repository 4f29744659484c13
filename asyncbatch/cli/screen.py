"""What a command says on the error stream: log lines, progress, errors."""

import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from asyncbatch.config import OutputConfig
from asyncbatch.errors import AsyncBatchError
from asyncbatch.observe.logs import Level, LogLines, log_object
from asyncbatch.observe.progress import FIRST_LINE_S, LINE_EVERY_S, ProgressLine
from asyncbatch.observe.terminal import Terminal
from asyncbatch.protocols import RunHook

EXIT_INTERRUPTED = 130


class Screen:
    """The error stream as the output options want it."""

    def __init__(self, stream: TextIO, output: OutputConfig) -> None:
        self._terminal = Terminal(stream)
        self._output = output
        self._as_json = output.log_format == "json"
        self._next_line_s = FIRST_LINE_S

    def hooks(self) -> list[RunHook]:
        """Hooks for a run: log lines, and progress unless it is switched off."""
        level: Level = "error" if self._output.quiet else "debug" if self._output.verbose else "info"
        found: list[RunHook] = [
            LogLines(self._terminal, as_json=self._as_json, level=level, explain=self._output.explain)
        ]
        if not (self._output.quiet or self._output.no_progress or self._as_json):
            found.insert(0, ProgressLine(self._terminal))
        return found

    def line(self, text: str) -> None:
        """Write a line above the status line."""
        self._terminal.line(text)

    def status(self, text: str, elapsed_s: float) -> None:
        """Draw the status line; where nothing can be redrawn, a plain line every ten seconds."""
        if self._output.quiet or self._output.no_progress:
            return
        if self._terminal.redraws:
            self._terminal.status(text[: self._terminal.width() - 1])
        elif elapsed_s >= self._next_line_s:
            self._next_line_s = (elapsed_s // LINE_EVERY_S + 1) * LINE_EVERY_S
            self._terminal.line(text)

    def clear(self) -> None:
        """Remove the status line."""
        self._terminal.clear()

    def guard(self, command: Callable[[], int]) -> int:
        """Run `command`; what it raises becomes a message and an exit code."""
        try:
            return command()
        except KeyboardInterrupt:
            self._terminal.clear()
            return EXIT_INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last stop: a person gets a sentence, not a traceback
            return self.failed(error)

    def failed(self, error: Exception) -> int:
        """Say what went wrong, and what to do; returns the exit code."""
        self._terminal.clear()
        if isinstance(error, AsyncBatchError):
            if not error.exit_code:
                return 0  # the reader of stdout is gone: an end that needs no words
            self._say(error.message, error.hint, error.exit_code)
            return error.exit_code
        if self._output.verbose:
            self._terminal.line("".join(traceback.format_exception(error)).rstrip())
        hint = None if self._output.verbose else "the same command with -v shows where"
        self._say(f"unexpected {type(error).__name__}: this is a bug", hint, 1)
        return 1

    def warn(self, message: str, *, hint: str) -> None:
        """Say something a person should know."""
        self._terminal.line(f"warning: {message}\n  hint: {hint}")

    def refused(self, message: str, hint: str) -> None:
        """Say why a command line was not understood."""
        self._say(message, hint, 2)

    def _say(self, message: str, hint: str | None, exit_code: int) -> None:
        if self._as_json:
            fields = {"message": message, "hint": hint, "exit_code": exit_code}
            self._terminal.line(log_object(level="error", event="error", at=datetime.now(UTC), fields=fields))
            return
        text = self._terminal.paint("asyncbatch:", "1;31") + " " + message
        self._terminal.line(text + (f"\n\n{self._terminal.paint('hint:', '36')} {hint}" if hint else ""))


def print_out(text: str, stream: TextIO | None = None) -> None:
    """Write what a command produces to stdout; when its reader is gone, that is no failure."""
    out = stream or sys.stdout
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
