"""What the controller did and why, for `--explain`, reports and tests."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the explanation."""

    time_s: float
    """On the controller's clock."""
    what: str
    """What was set or tried, such as `chunk 512 -> 2,048 rows`."""
    why: str


class Journal:
    """The first and the last decisions of a run, in order; the middle of a long run is forgotten.

    Args:
        head: how many of the first decisions are kept: they tell how the setting was found.
        tail: how many of the last are kept.
    """

    def __init__(self, *, head: int = 100, tail: int = 100) -> None:
        self._head: list[Decision] = []
        self._room = head
        self._tail: deque[Decision] = deque(maxlen=tail)

    def note(self, time_s: float, what: str, why: str) -> None:
        decision = Decision(time_s, what, why)
        if len(self._head) < self._room:
            self._head.append(decision)
        else:
            self._tail.append(decision)

    def decisions(self) -> list[Decision]:
        return [*self._head, *self._tail]
