"""Tells a dead endpoint from bad rows (a circuit breaker: Nygard, "Release It!", 2007).

Rows are never rejected on the word of an endpoint that answers nobody. Without it a dead model would turn a million good
rows into a million rejects, one bisection at a time.
"""

from collections import deque

from asyncbatch.model import SUCCESS, Outcome

_WINDOW = 20
_CHUNKS = 5
_SINGLES = 3
_AWAY = frozenset({Outcome.UNAVAILABLE, Outcome.NOT_READY, Outcome.FAILED, Outcome.TIMEOUT, Outcome.REJECTED})


class Breaker:
    """Opens when the last 20 finished invocations hold no success and 5 different chunks failed, 3 of them one row long.

    Also opens when all of the last 20 were refusals of the whole endpoint (unavailable, not ready): no row is at fault then.
    Throttling neither opens nor closes it: an endpoint that says "too many" is alive.
    Open, it lets one invocation through at a time, each after a longer pause; the first success closes it.
    """

    def __init__(self, *, max_outage_s: float, started_s: float) -> None:
        self._max_outage_s = max_outage_s
        self._last_alive_s = started_s
        self._recent: deque[tuple[Outcome, int, int]] = deque(maxlen=_WINDOW)
        self.is_open = False
        self._probes = 0
        self._next_probe_s = 0.0
        self._asked = False

    def record(self, outcome: Outcome, *, chunk: int, rows: int, now_s: float) -> None:
        """An invocation of `rows` rows that belongs to the originally cut `chunk` has finished."""
        if outcome is SUCCESS:
            self._recent.clear()
            self.is_open = False
            self._probes = 0
            self._last_alive_s = now_s
            return
        if outcome is Outcome.THROTTLED:
            self._last_alive_s = now_s
            return
        refused_alone = outcome is Outcome.TOO_LARGE and rows == 1  # there is nothing smaller to ask
        if outcome not in _AWAY and not refused_alone:
            return
        self._recent.append((outcome, chunk, rows))
        if self.is_open:
            if not self._asked:
                return  # it was under way when the breaker opened: no probe, and no reason to wait longer
            self._asked = False
            self._probes += 1
            self._next_probe_s = now_s + min(10.0, 0.5 * 2.0 ** min(self._probes, 10))
        elif self._looks_dead():
            self.is_open = True
            self._asked = False
            self._next_probe_s = now_s + (0.5 if self._all_away() else 0.0)

    def others_fail(self, chunk: int) -> bool:
        """Whether anything but `chunk` failed since the last success: then it may be no row's fault."""
        return any(other != chunk for _, other, _ in self._recent)

    def pause(self, *, now_s: float, in_flight: int) -> float | None:
        """Seconds until one invocation may be sent while open; 0.0 means now; None: wait for the one in flight."""
        if not self.is_open:
            return 0.0
        if in_flight:
            return None
        wait_s = max(0.0, self._next_probe_s - now_s)
        self._asked = wait_s == 0.0
        return wait_s

    def outage_s(self, now_s: float) -> float:
        """Seconds since the endpoint last answered anything."""
        return now_s - self._last_alive_s

    def gave_up(self, now_s: float) -> bool:
        """Whether the endpoint has failed for longer than `max_outage_s` without one answer."""
        return bool(self._recent) and self.outage_s(now_s) > self._max_outage_s

    def _looks_dead(self) -> bool:
        if len(self._recent) < _WINDOW:
            return False
        if self._all_away():
            return True
        chunks = {chunk for _, chunk, _ in self._recent}
        singles = {chunk for _, chunk, rows in self._recent if rows == 1}
        return len(chunks) >= _CHUNKS and len(singles) >= _SINGLES

    def _all_away(self) -> bool:
        """Nothing but refusals of the whole endpoint: a pause does it good, and no row is in question."""
        return all(outcome in (Outcome.UNAVAILABLE, Outcome.NOT_READY) for outcome, _, _ in self._recent)
