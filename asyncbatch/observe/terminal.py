"""The error stream as a place for lines, with one status line below them that is drawn again and again.

Log lines and progress share it, so that neither overwrites the other. Writing never raises: a closed stream
must not end a run.
"""

import os
from collections.abc import Mapping
from typing import TextIO

_PLAIN = str.maketrans(
    {"·": "|", "━": "#", "─": "-", "…": "...", "~": "~"} | dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True))
)
_CLEAR_LINE, _CLEAR_BELOW = "\r\x1b[2K", "\x1b[J"


class Terminal:
    """Writes to `stream`; a status line is drawn only where the stream is a terminal that can redraw."""

    def __init__(self, stream: TextIO, *, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self._status = ""
        self._open = True
        self.redraws = _is_terminal(stream) and environ.get("TERM") != "dumb"
        """Whether `status` shows anything."""
        self.colours = self.redraws and not environ.get("NO_COLOR")
        self._unicode = _encodes(stream, "·━─…▁█")

    def width(self) -> int:
        """Columns now; a terminal may be resized at any time. 80 where unknown."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def paint(self, text: str, code: str) -> str:
        """`text` in the style of the SGR code (`1` bold, `2` dim, `31` red …), unless colours are off."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours and text else text

    def line(self, text: str) -> None:
        """Write one or more whole lines above the status line."""
        status = self._status
        self._write(self._erase() + self._plain(text) + "\n" + self._draw(status))

    def status(self, text: str, *, shown: str = "") -> None:
        """Draw the status line again. `text` must fit the width; `shown` is the same with colours."""
        if self.redraws:
            self._write(self._erase() + self._draw(self._plain(text), self._plain(shown)))

    def clear(self) -> None:
        """Remove the status line."""
        if self._status:
            self._write(self._erase())

    def _draw(self, text: str, shown: str = "") -> str:
        self._status = text
        return shown or text

    def _erase(self) -> str:
        """What removes the status line, also when a narrower window has wrapped it over several rows."""
        if not self._status:
            return ""
        wrapped = (len(self._status) - 1) // self.width()
        self._status = ""
        return _CLEAR_LINE + (f"\x1b[{wrapped}A\r{_CLEAR_BELOW}" if wrapped else "")

    def _plain(self, text: str) -> str:
        return text if self._unicode else text.translate(_PLAIN)

    def _write(self, text: str) -> None:
        if not self._open or not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._open = False  # closed, or its reader is gone


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
