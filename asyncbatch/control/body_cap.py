"""The largest request body worth sending, learned from bodies answered and bodies refused for their size.

A refusal says only that the limit lies below that body. Trying a byte less each time would cost a refusal a
chunk for the rest of the run; so the next size tried halves, in logarithms, the interval between the largest
body answered and the smallest refused, until they are within a tenth.
"""

import math

_NEAR = 0.9
_RAISED_AFTER = 30
"""Bodies answered before a bound that was once exceeded is raised again."""


class BodyCap:
    """Pure. `max_bytes` is where the search starts, and never exceeded."""

    def __init__(self, *, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise ValueError(f"max_bytes must be positive, got {max_bytes}")
        self._ceiling = max_bytes
        self._answered = self._largest = 0
        self._refused: int | None = None
        self._contradicted = False
        self._since = 0

    @property
    def max_bytes(self) -> int:
        """The largest body to send now, at least 1."""
        if self._refused is None:
            return self._ceiling
        if self._answered >= _NEAR * self._refused:
            return max(1, min(self._ceiling, self._answered))
        between = math.isqrt(self._answered * self._refused) if self._answered else self._refused // 2
        return max(1, min(self._ceiling, between))

    def answered(self, body_bytes: int) -> None:
        """A body of this size was taken."""
        if body_bytes > self._answered:
            self._answered = body_bytes
            if body_bytes > self._largest:
                self._largest = body_bytes
        if self._contradicted and self._refused is not None:
            self._since += 1
            if self._since >= _RAISED_AFTER:
                self._since = 0
                self._refused = 2 * self._refused if 2 * self._refused < self._ceiling else None

    def was_taken(self, body_bytes: int) -> bool:
        """Whether a body as large as this was ever answered."""
        return body_bytes <= self._largest

    def refused(self, body_bytes: int) -> None:
        """A body of this size was too large.

        If a larger one was answered before, it is the refusal that counts: limits differ between the servers
        behind one address, and some count rows. But it may be a stray one, so the bound is raised again in time.
        """
        if body_bytes <= 1:
            return
        self._contradicted = body_bytes <= self._answered
        self._since = 0
        self._refused = body_bytes if self._refused is None else min(self._refused, body_bytes)
        if self._answered >= self._refused:  # it does not tell what is taken now
            self._answered = 0
