"""How fast an output grows, from when its parts were written. Pure."""

from collections.abc import Sequence

WINDOW_S = 60.0
LEAST_PARTS = 5
"""A window of fewer parts says little: it then reaches further back."""


def pace(written: Sequence[tuple[float, int]], *, since: float, now: float) -> float | None:
    """Rows a second that were committed lately; None before the first part.

    Of the last minute, or as far back as the last five parts reach where a part takes longer; never of what was
    written before `since`. It falls while nothing is written.

    Args:
        written: when each part was written, and its rows; seconds since 1970.
        since: when whoever is at work began.
    """
    recent = sorted((at, rows) for at, rows in written if at >= since)
    if not recent:
        return None
    now = max(now, recent[-1][0])  # the store's clock may be ahead of this one
    begin = max(since, now - WINDOW_S)
    if sum(at > begin for at, _ in recent) < LEAST_PARTS:
        begin = recent[-LEAST_PARTS - 1][0] if len(recent) > LEAST_PARTS else since
    seconds = now - begin
    return sum(rows for at, rows in recent if at > begin) / seconds if seconds > 0 else None
