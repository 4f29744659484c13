"""What time the service thinks it is: one correction for a wrong local clock, shared by all requests of an endpoint.

AWS takes signatures whose time is within 5 minutes of its own. What it answers carries a `Date`, so a refusal
says by how much the local clock is off. Pure but for the clock it is given.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from asyncbatch.model import Failure

_TOLERANCE_S = 240.0
"""Below this a refused signature has another reason: AWS takes 5 minutes, and replies are under way for a while."""
_OF_THE_CLOCK = frozenset(("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"))
"""Names that mean the clock whatever its offset (the AWS SDKs' list of definite clock skew errors)."""


class ClockOffset:
    """The local clock and what must be added to it. Of one endpoint; every request is signed with its `now()`."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._offset_s = 0.0

    @property
    def seconds(self) -> float:
        """How far the service's clock is ahead of the local one, as learned; 0.0 until then."""
        return self._offset_s

    def now(self) -> float:
        """Unix seconds by the service's clock, as far as it is known: the time to sign with."""
        return self._clock() + self._offset_s

    def learn(self, failure: Failure) -> bool:
        """Look at the `Date` of a refused signature; True if the correction is another now, so sending again is worth it.

        False where the time that requests are signed with was right, or the reply has no date: then it is no
        matter of the clock.
        """
        server = _unix_seconds(failure.server_date)
        if server is None:
            return False
        error_s = server - self.now()
        least_s = 1.0 if failure.error_name in _OF_THE_CLOCK else _TOLERANCE_S
        if abs(error_s) <= least_s:
            return False
        self._offset_s += error_s
        return True

    def describe(self) -> str:
        """For people: `the clock of this machine is 20 minutes slow`."""
        minutes = abs(self._offset_s) / 60
        much = f"{minutes:.0f} minutes" if minutes >= 2 else f"{abs(self._offset_s):.0f} seconds"
        return f"the clock of this machine is {much} {'slow' if self._offset_s > 0 else 'fast'}"


def _unix_seconds(date: str) -> float | None:
    try:
        found = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def amz_date(now_s: float) -> str:
    """`X-Amz-Date` for Unix seconds: `20261122T084030Z`."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
