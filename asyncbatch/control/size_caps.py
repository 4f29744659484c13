"""The largest chunk the endpoint takes, in rows and in bytes, learned from what it refused and what it answered.

A size that has never been answered is tried with a single request first (`Prover`); so a cap costs one refusal, not one for each
request in flight.
"""

import math

from asyncbatch.model import Outcome

_NEAR = 0.9
_FRESH = 16
"""Answers after which the caps follow the mean size of rows."""


class SizeCaps:
    """Caps from 413, memory errors and timeouts.

    A 413 tells a limit of the payload or of the rows: above it everything fails, just below it everything works. A memory error
    is expensive (a container restarts): the cap keeps a margin from it, and is never searched from above.
    """

    def __init__(self, *, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._bytes_refused = math.inf
        self._bytes_known = math.inf  # by an earlier run
        self._overshot = False  # bodies are larger than asked for: whoever cuts chunks goes by rows alone
        self._rows_cap = float(max_rows)
        self._good_bytes = 0
        self.good_rows = 0
        """The largest chunk answered so far."""
        self._rows_refused = max_rows + 1
        self.memory_errors = 0
        self.suspect_rows = 0
        """The smallest chunk that failed as if for memory; 0 if none did."""
        self._suspect_s = 0.0
        self._shrunk = 0  # so often a size that worked began to fail
        self._confirmed = False  # it failed again when it was sent again
        self._bytes_mean = 0.0
        self._bytes_square = 0.0
        self._samples = 0
        self._fresh = 0  # answers until the caps are computed anew
        self._rows_now, self._bytes_now = max_rows, max_bytes

    def answered(self, rows: int, body_bytes: int) -> None:
        self._fresh -= 1
        if rows > self.good_rows:
            self.good_rows = rows
            self._fresh = 0
            if 0 < self.suspect_rows <= rows:  # it was not the size
                self.suspect_rows, self.memory_errors = 0, self._shrunk
                self._confirmed = False
                self._rows_cap = float(min(self._max_rows, self._rows_refused - 1))
        if body_bytes > self._good_bytes:
            self._good_bytes = body_bytes
            self._fresh = 0
        # Var(bytes of a chunk) = rows x Var(bytes of a row): the row variance is estimated by rows x (deviation of the mean)^2
        each = body_bytes / rows
        weight = 0.02
        if self._samples < 49:  # from then on old ones fade
            self._samples += 1
            weight = 1 / self._samples
        deviation = each - self._bytes_mean
        if weight < 1:
            self._bytes_square += weight * (deviation * deviation * rows - self._bytes_square)
        self._bytes_mean += weight * deviation

    def prove(self, rows: int) -> None:
        """Chunks of `rows` rows work, as far as the caps allow them."""
        self.good_rows = max(self.good_rows, min(rows, self.max_rows))
        self._fresh = 0

    def refused(self, rows: int, body_bytes: int, outcome: Outcome, *, now_s: float) -> bool:
        """A chunk was too large (or failed as if it were). True if that tells something new."""
        asked_for, self._fresh = self.max_bytes, 0
        if outcome is Outcome.TOO_LARGE:
            if rows == 1:
                return False  # this row fits into no request: that says nothing of others
            if body_bytes > asked_for:
                self._overshot = True
            if body_bytes > self._good_bytes > 0 and self._rows_vary:
                new = body_bytes < self._bytes_refused
                self._bytes_refused = min(self._bytes_refused, body_bytes)
                return new
            new = rows <= self._rows_cap
            self._rows_cap = min(self._rows_cap, rows - 1)
            self._rows_refused = min(self._rows_refused, rows)
            self.good_rows = min(self.good_rows, rows - 1)
            return new
        margin = 0.85 if outcome is Outcome.FAILED else 0.7
        if outcome is Outcome.FAILED and self.memory_errors and rows > self._rows_cap:
            self._confirmed = self._confirmed or rows == self.suspect_rows
            self.suspect_rows = min(rows, self.suspect_rows)  # sent before the cap was known: nothing new
            return False
        if outcome is Outcome.FAILED:
            self.memory_errors += 1
            self._suspect_s = now_s
            self.suspect_rows = min(rows, self.suspect_rows) if self.suspect_rows else rows
            if self.good_rows:
                # one more try in the middle, then never again: each may cost a restart
                new_cap = math.sqrt(self.good_rows * rows) if self.memory_errors < 2 else self.good_rows
                margin = min(margin, new_cap / rows)
        new = rows * margin < self._rows_cap
        self._rows_cap = max(1.0, min(self._rows_cap, rows * margin))
        self.good_rows = min(self.good_rows, int(self._rows_cap))
        return new

    def shrink(self, rows: int, now_s: float) -> None:
        """Chunks of `rows` used to work and now fail often: rows have become heavier, or memory scarcer."""
        self._fresh = 0
        self._shrunk += 1
        self.memory_errors = max(self.memory_errors + 1, self._shrunk)
        self.suspect_rows, self._suspect_s = rows, now_s
        self.good_rows = min(self.good_rows, int(0.7 * rows))
        self._rows_cap = max(1.0, min(self._rows_cap, 0.85 * rows))

    @property
    def doubtful_rows(self) -> int:
        """The size to try when the one that failed is doubted, 0 if none failed: it itself, or if it failed twice, the middle."""
        if not self.suspect_rows or not self._confirmed:
            return self.suspect_rows
        middle = int(math.sqrt(max(1, self.good_rows) * self.suspect_rows))
        return middle if middle > 1.15 * self.good_rows else 0

    def doubt(self, now_s: float) -> bool:
        """Give a size that failed, or nearly, another chance. True if it is given.

        The first after 20 s, each further one after four times as long as the one before.
        """
        rows = self.doubtful_rows
        if not rows or now_s < self._suspect_s + 20.0 * 4.0 ** (self.memory_errors - 1):
            return False
        self._suspect_s = now_s
        self._fresh = 0
        self._rows_cap = min(float(self._max_rows), self._rows_refused - 1, float(rows))
        return True

    def restore(self, *, rows: int | None, max_bytes: int | None, good_rows: int) -> None:
        """Begin with what an earlier run found."""
        if rows is not None:
            self._rows_cap = min(self._rows_cap, float(rows))
        if max_bytes is not None:
            self._bytes_known = float(max_bytes)
        self.good_rows = min(good_rows, int(self._rows_cap))
        self._fresh = 0

    @property
    def found_rows(self) -> int | None:
        """The most rows the endpoint takes, if it has shown a cap."""
        return max(1, self.good_rows) if self._rows_cap < self._max_rows else None

    @property
    def found_bytes(self) -> int | None:
        """The most bytes the endpoint takes, if it has shown a cap."""
        return self.max_bytes if self.max_bytes < self._max_bytes else None

    @property
    def bytes_per_row(self) -> float:
        """Mean bytes of a row on the wire, 0 while unknown."""
        return self._bytes_mean

    @property
    def max_bytes(self) -> int:
        """Of a body."""
        if self._fresh <= 0:
            self._compute()
        return self._bytes_now

    @property
    def max_rows(self) -> int:
        """The most rows a chunk should have."""
        if self._fresh <= 0:
            self._compute()
        return self._rows_now

    def _compute(self) -> None:
        self._fresh = _FRESH
        self._bytes_now = self._most_bytes()
        self._rows_now = self._most_rows(self._bytes_now)

    def _most_bytes(self) -> int:
        """Between what was answered and what was refused the interval is halved, in logarithms, until it is small."""
        refused, answered = self._bytes_refused, self._good_bytes
        if refused < math.inf:
            refused = answered if answered >= _NEAR * refused else math.sqrt(max(1, answered) * refused)
        return max(1, int(min(self._max_bytes, self._bytes_known, refused)))

    def _most_rows(self, max_bytes: int) -> int:
        """Where whoever cuts chunks does not mind their bytes, three standard deviations below the byte cap."""
        rows = self._rows_cap
        if self._rows_refused <= self._max_rows and not self.good_rows:
            rows = min(rows, self._rows_refused / 2)
        elif self._rows_refused <= self._max_rows:
            # between what works and what does not: halve the interval (in logarithms) until it is small
            near = self._rows_refused < 1.1 * self.good_rows
            rows = min(rows, self.good_rows if near else math.sqrt(self.good_rows * self._rows_refused))
        if self._bytes_mean > 0:
            fitting = max_bytes / self._bytes_mean
            if fitting < rows and not self._overshot:
                rows = fitting
            elif fitting < rows:
                sigma = math.sqrt(max(0.0, self._bytes_square)) / self._bytes_mean
                rows = min(rows, fitting / (1 + 3 * sigma / math.sqrt(max(1.0, fitting))))
        return max(1, int(rows))

    @property
    def _rows_vary(self) -> bool:
        return self._bytes_square > (0.02 * self._bytes_mean) ** 2


class Prover:
    """Lets one request try a size that was never answered, while the others stay with what works."""

    def __init__(self) -> None:
        self.trying = 0
        """Rows of the chunk that tries; 0: none does."""
        self._until_s = 0.0

    def rows(self, want: int, *, good: int, now_s: float, patience_s: float) -> int:
        """How many rows the next chunk may have, given that `want` are wanted and `good` are known to work."""
        if want <= good * 1.1 or good <= 0:
            return want
        if self.trying and now_s < self._until_s:
            return good
        self.trying = want
        self._until_s = now_s + patience_s
        return want

    def settled(self, rows: int, *, good: int, now_s: float) -> bool:
        """A chunk of `rows` ended, well or badly: was it the trial?

        It is the one larger than what works. If none came for long, a block's end made the trial smaller: that is the answer too.
        """
        if self.trying and (rows > 1.05 * good or now_s > self._until_s):
            self.trying = 0
            return True
        return False
