"""How far a run is: one line that is redrawn on a terminal, a plain line every ten seconds elsewhere.

Rows are those of committed parts, which survive any crash. The time left is reckoned from answered rows,
which move more evenly.
"""

from dataclasses import dataclass

from asyncbatch.control.binding import Bound
from asyncbatch.observe import text
from asyncbatch.observe.events import Progressed, RunFinished, Stopping, Waiting
from asyncbatch.observe.metrics import Snapshot
from asyncbatch.observe.terminal import Terminal

FIRST_LINE_S = 2.0
LINE_EVERY_S = 10.0
WAITING_LINE_EVERY_S = 60.0
_REDRAW_EVERY_S = 0.1
_BAR_WIDTH = 20
_SEPARATOR = " · "


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of the progress line."""

    text: str
    keep: int
    """Where there is too little room, pieces with the lowest `keep` go first."""


def share_done(snapshot: Snapshot) -> float | None:
    """Share of the rows that is committed, 0 to 1; of the bytes read where rows are unknown; or None."""
    if snapshot.rows_total is not None:
        return min(1.0, snapshot.rows_done / snapshot.rows_total) if snapshot.rows_total else 1.0
    return snapshot.source_share


def seconds_left(snapshot: Snapshot) -> float | None:
    """Time left at the recent pace; None while it cannot be known."""
    answered = snapshot.rows_answered - snapshot.rows_resumed
    if snapshot.rows_total is None:
        if not snapshot.source_share or not answered:
            return None
        return snapshot.elapsed_s * (1 - snapshot.source_share) / snapshot.source_share
    pace = snapshot.rows_per_s_recent or (answered / snapshot.elapsed_s if snapshot.elapsed_s > 0 else 0)
    return max(0, snapshot.rows_total - snapshot.rows_answered) / pace if pace > 0 else None


def pieces(snapshot: Snapshot) -> list[Piece]:
    """What a progress line says, in the order of reading."""
    about = "~" if snapshot.rows_total is None else ""
    share, left = share_done(snapshot), seconds_left(snapshot)
    total = f"/{snapshot.rows_total:,}" if snapshot.rows_total is not None else ""
    found = [
        Piece(text="" if share is None else f"{about}{int(share * 100)}%", keep=9),
        Piece(text=f"{snapshot.rows_done:,}{total} rows", keep=10),
        Piece(text=f"{text.short(snapshot.rows_per_s_recent)} rows/s", keep=8),
        Piece(text="ETA ?" if left is None else f"ETA {about}{text.clock(left)}", keep=7),
        Piece(text=_count(snapshot.rows_rejected, "reject"), keep=6),
        Piece(text=f"in flight {snapshot.in_flight}/{snapshot.limit}", keep=5),
        Piece(text=f"chunk {snapshot.chunk_rows:,}", keep=4),
        Piece(text=_count(snapshot.retries, "retry"), keep=3),
        Piece(text=f"{snapshot.throttled:,} refused" if snapshot.throttled else "", keep=2),
        Piece(
            text="" if snapshot.latency_p95_s is None else f"p95 {text.latency(snapshot.latency_p95_s)}",
            keep=1,
        ),
        Piece(text="" if snapshot.bound is None else f"by {Bound(snapshot.bound).label}", keep=0),
    ]
    return [each for each in found if each.text]


def waiting_pieces(event: Waiting) -> list[str]:
    """What is said while another process is at work, in the order of reading; empty texts for what is not known."""
    total = f"/{event.rows_total:,}" if event.rows_total is not None else ""
    return [
        f"waiting for {event.holder}",
        text.clock(event.waited_s),
        f"{event.rows_done:,}{total} rows" if event.rows_done is not None else "",
    ]


def fitting(found: list[Piece], width: int) -> str:
    """The pieces joined to a line of at most `width` characters."""
    kept = list(found)
    while len(line := _SEPARATOR.join(each.text for each in kept)) > width and len(kept) > 1:
        kept.remove(min(kept, key=lambda each: each.keep))
    return line[: max(0, width)]


def bar(share: float) -> tuple[str, str]:
    """The done and the open part of a bar."""
    done = int(share * _BAR_WIDTH)
    return "━" * done, "─" * (_BAR_WIDTH - done)


def plain_line(snapshot: Snapshot) -> str:
    """The line for logs and pipes."""
    return f"{text.clock(snapshot.elapsed_s)} " + _SEPARATOR.join(each.text for each in pieces(snapshot))


class ProgressLine:
    """A `RunHook` that shows how far the run is."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._next_s = 0.0 if terminal.redraws else FIRST_LINE_S
        self._stopping = False
        self._next_waiting_s = WAITING_LINE_EVERY_S

    def __call__(self, event: object, /) -> None:
        if isinstance(event, Progressed):
            self._show(event.snapshot)
        elif isinstance(event, Waiting):
            self._show_waiting(event)
        elif isinstance(event, Stopping):
            self._stopping = True
        elif isinstance(event, RunFinished):
            self._terminal.clear()

    def _show(self, snapshot: Snapshot) -> None:
        if snapshot.elapsed_s < self._next_s:
            return
        if self._terminal.redraws:
            self._next_s = snapshot.elapsed_s + _REDRAW_EVERY_S
            self._redraw(snapshot)
        else:
            self._next_s = (snapshot.elapsed_s // LINE_EVERY_S + 1) * LINE_EVERY_S
            self._terminal.line(("stopping: " if self._stopping else "") + plain_line(snapshot))

    def _show_waiting(self, event: Waiting) -> None:
        line = _SEPARATOR.join(each for each in waiting_pieces(event) if each)
        if self._terminal.redraws:
            self._terminal.status(line[: max(1, self._terminal.width() - 1)])
        elif event.waited_s >= self._next_waiting_s:
            self._next_waiting_s = event.waited_s + WAITING_LINE_EVERY_S
            self._terminal.line(line)

    def _redraw(self, snapshot: Snapshot) -> None:
        room = self._terminal.width() - 1  # a full last column would wrap on some terminals
        head = "stopping: " if self._stopping else ""
        line = fitting(pieces(snapshot), max(1, room - len(head)))
        share = share_done(snapshot)
        if share is None or len(head) + len(line) + _BAR_WIDTH + 2 > room:
            self._terminal.status(f"{head}{line}"[:room])
            return
        done, rest = bar(share)
        self._terminal.status(
            f"{head}{done}{rest}  {line}",
            shown=f"{head}{self._terminal.paint(done, '36')}{self._terminal.paint(rest, '2')}  {line}",
        )


def _count(count: int, noun: str) -> str:
    return text.plural(count, noun) if count else ""
