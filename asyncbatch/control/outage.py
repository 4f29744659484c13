"""Telling an outage from limits: when nothing at all came back, what was learned meanwhile says nothing about the endpoint."""

import math

_MANY = 16
_LONG_S = 3.0


class Outage:
    """Watches for requests that are lost in a row: refused, failed or timed out.

    An outage is many of them (16, and twice what was in flight), or a few (5) and nothing else for some seconds: where requests
    are paced there are not many. Where only smaller chunks succeed afterwards, their size was to blame, and it was none.
    """

    def __init__(self) -> None:
        self.in_a_row = 0
        """Requests lost since the last answer."""
        self._least_rows = 0
        self._since_s = -math.inf
        self.setting = (1.0, 1.0)
        """Rows and requests in flight before the first of the lost ones."""

    def lost(self, rows: int, now_s: float, *, setting: tuple[float, float]) -> None:
        """A request of `rows` rows came to nothing under `setting`."""
        if not self.in_a_row:
            self.setting, self._least_rows, self._since_s = setting, rows, now_s
        self.in_a_row += 1
        self._least_rows = min(self._least_rows, rows)

    def answered(self, rows: int, now_s: float, *, latency_s: float) -> bool:
        """A request of `rows` rows was answered: True if that ends an outage."""
        lost, self.in_a_row = self.in_a_row, 0
        if not lost:
            return False
        many = lost >= max(_MANY, 2 * self.setting[1])
        long = lost >= 5 and now_s - self._since_s > _LONG_S + 2 * latency_s
        return (many or long) and rows >= 0.7 * self._least_rows
