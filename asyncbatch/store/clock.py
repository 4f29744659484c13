"""The clock of an object store, by the dates of its replies: how old an object is, whatever this machine's clock says."""

import time
from datetime import datetime
from email.utils import parsedate_to_datetime


class StoreClock:
    """This machine's clock until the store has told the time. Safe to use from several threads."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def heard(self, date: str | None) -> None:
        """A reply's `Date` header; none, and one that cannot be read, say nothing."""
        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        self._ahead_s = told.timestamp() - time.time()

    def age_s(self, written: datetime) -> float:
        """How long ago that was."""
        return time.time() + self._ahead_s - written.timestamp()
