"""Requests a second, once the endpoint has refused some for their rate.

An endpoint with a token bucket admits a burst and then its rate; what it refuses is lost work. The remedy is larger chunks: the
same rows in fewer requests. Until those are in place, and where they cannot grow, requests are spaced: multiplicative decrease,
slow exponential recovery (AIMD: Chiu and Jain, Computer Networks and ISDN Systems 17, 1989; as adaptive retry modes of cloud
SDKs do on the client's side).
"""

import math
from collections import deque


class RequestPacer:
    """A token bucket that exists only after a refusal.

    The first refusal comes when the endpoint's burst is used up, so the rate admitted before it is too high an estimate; the
    rate admitted between two refusals is a good one. After a cut the rate returns quickly to just below the rate that was
    refused and from there creeps on (the shape of CUBIC: Ha, Rhee and Xu, SIGOPS Operating Systems Review 42, 2008).
    Whatever the rate, `hold` keeps every request back for a moment.
    """

    _WINDOW_S = 4.0
    _PLATEAU_S = 30.0
    """So long a rate just below the refused one is kept; twice as long once a like rate was refused again."""

    def __init__(self) -> None:
        self._hold_until_s = -math.inf
        self.forget()

    def forget(self) -> None:
        """No rate was refused."""
        self._admitted: deque[float] = deque()
        self._since_cut = 0
        self._tokens = 0.0
        self._touched_s = 0.0
        self._cut_s = -math.inf
        self._refused_rate = math.inf
        self._plateau_s = self._PLATEAU_S
        self.rate = math.inf
        """Requests a second allowed now."""

    def delay(self, now_s: float) -> float:
        """0.0: send (a token is taken); else seconds until a token is there."""
        if now_s < self._hold_until_s - 1e-9:
            return self._hold_until_s - now_s
        if self.rate < math.inf:
            elapsed = now_s - self._touched_s
            self._touched_s = now_s
            if self.rate < 0.9 * self._refused_rate:
                growth = 0.07
            else:
                growth = 0.07 / self._plateau_s if now_s < self._cut_s + self._plateau_s else 0.01
            self.rate = min(self.rate * math.exp(min(1.0, growth * elapsed)), 1e6)
            self._tokens = min(max(1.0, 0.1 * self.rate), self._tokens + elapsed * self.rate)
            if self._tokens < 1:
                return (1 - self._tokens) / self.rate + 1e-6
            self._tokens -= 1
        admitted, since_s = self._admitted, now_s - self._WINDOW_S
        while admitted and admitted[0] < since_s:
            admitted.popleft()
        admitted.append(now_s)
        self._since_cut += 1
        return 0.0

    def hold(self, until_s: float) -> None:
        """Send nothing until then."""
        self._hold_until_s = max(self._hold_until_s, until_s)

    def cut(self, now_s: float) -> float:
        """Refused for the request rate: slow down. The rate now allowed."""
        first = self.rate == math.inf
        elapsed = now_s - self._cut_s
        if not first and elapsed < 1.5:
            admitted = 0.85 * self.rate
        elif first:
            span = max(0.25, min(self._WINDOW_S, now_s - self._admitted[0] if self._admitted else 0.25))
            admitted = max(1, len(self._admitted) - 1) / span
        else:
            recent = len(self._admitted) / self._WINDOW_S if elapsed > self._WINDOW_S else 0.0
            admitted = max(recent, max(1, self._since_cut - 1) / elapsed)
        admitted = min(admitted, self.rate)
        alike = not first and abs(math.log(admitted / self._refused_rate)) < 0.15
        self._plateau_s = 2 * self._PLATEAU_S if alike else self._PLATEAU_S
        self.rate = max(0.1, admitted * (0.5 if first else 0.85))
        self._refused_rate = admitted
        self._tokens = 0.0
        self._since_cut = 0
        self._touched_s = self._cut_s = now_s
        return self.rate

    @property
    def admitted_rate(self) -> float:
        """Requests a second that the endpoint is known to admit; infinity if it never refused any.

        Where larger chunks have made the pace needless, `rate` grows without being tried.
        """
        return min(self.rate, self._refused_rate)

    def restore(self, rate: float, now_s: float) -> None:
        """An earlier run found `rate` requests a second to be admitted."""
        self.rate = self._refused_rate = max(0.1, rate)
        self._touched_s = self._cut_s = now_s
