"""What a 429 is about: too many requests at once, or too many a second.

Endpoints do not say. The two are told apart by what happens after larger chunks have lowered the request rate: a limit of
requests in flight refuses again at the same number in flight, a limit of the rate at a quite different one.
"""

from enum import Enum


class Cause(Enum):
    UNKNOWN = "unknown"
    IN_FLIGHT = "requests at once"
    RATE = "requests a second"


class ThrottleCause:
    """Judges refusals one by one; each should be reacted to before the next is judged."""

    def __init__(self) -> None:
        self._refused_at: int | None = None
        self._alike = 0
        self._strikes = 0  # refused with no more in flight than were admitted: once may be a race
        self.cause = Cause.UNKNOWN

    def judge(self, in_flight: int, *, tested: float) -> Cause:
        """A request was refused with `in_flight` under way, itself included; `tested` were long answered without refusals."""
        before, self._refused_at = self._refused_at, in_flight
        if in_flight <= 1:  # none was beside it
            self.cause = Cause.RATE
        if self.cause is Cause.RATE:
            return self.cause
        fewer = before is not None and in_flight < before
        self._strikes = self._strikes + 1 if fewer else 0
        if self._strikes > 1:
            self.cause = Cause.RATE
            return self.cause
        if self.cause is Cause.IN_FLIGHT:
            if in_flight < 0.8 * tested or (
                before is not None and in_flight < 0.7 * before and in_flight <= tested
            ):
                self.cause = Cause.RATE
            return self.cause
        if before is None:
            if in_flight < 0.8 * tested:
                self.cause = Cause.RATE
        elif 0.8 * before <= in_flight <= 1.15 * before:
            self._alike += 1
            if self._alike > (
                0 if in_flight > 8 else 1 if in_flight > 3 else 2
            ):  # small numbers are alike by chance
                self.cause = Cause.IN_FLIGHT
        else:
            self.cause = Cause.RATE
        return self.cause

    def also(self, in_flight: int) -> None:
        """One more refusal of a burst that was judged: where the number at once is limited, the least refused counts."""
        if self.cause is Cause.IN_FLIGHT and self._refused_at is not None and in_flight < self._refused_at:
            self._refused_at = in_flight
