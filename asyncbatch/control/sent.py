"""What a guest has under way."""

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One that was sent."""

    single: bool
    """One row, at a random time, as a live user's; else a chunk."""
    level: float
    """What the guest meant to have in flight."""


class Sent:
    """Requests under way, by the time they were sent. What never ends expires after `expire_s`."""

    def __init__(self, *, expire_s: float) -> None:
        self._expire_s = expire_s
        self._at_s: list[float] = []
        self._requests: list[Request] = []
        self.chunks = 0
        self.chunks_seen = 0
        """Most chunks in flight since this was last set to 0."""

    def __len__(self) -> int:
        return len(self._at_s)

    def add(self, now: float, *, single: bool, level: float) -> None:
        self._requests.append(Request(single=single, level=level))
        self._at_s.append(now)
        self.chunks += not single
        self.chunks_seen = max(self.chunks_seen, self.chunks)

    def pop(self, started_s: float) -> Request | None:
        """The one sent last at or before `started_s` has ended."""
        if not self._at_s:
            return None
        return self._remove(max(0, bisect_right(self._at_s, started_s) - 1))

    def expire(self, now: float) -> None:
        """Forget what was sent too long ago to be under way."""
        while self._at_s and self._at_s[0] < now - self._expire_s:
            self._remove(0)

    def _remove(self, at: int) -> Request:
        del self._at_s[at]
        request = self._requests.pop(at)
        self.chunks -= not request.single
        return request
