"""What a load generator notes of each request, in columns: 80 bytes a request, and a microsecond.

Every request is kept until its point is judged: percentiles are then exact, and judging how much neighbours resemble each
other needs their order, which a histogram has lost. `--max-requests` bounds the memory.
"""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

SUCCESS = "success"
_NAN = float("nan")
_TIMES = ("intended", "sent", "began", "written", "replied", "received", "finished")


class Records:
    """Requests that ended, in the order of their end. Times are of the clock of the load, in seconds."""

    def __init__(self) -> None:
        self._times = {name: array("d") for name in _TIMES}
        self._rows = array("q")
        self._bytes = array("q")
        self._outcomes = array("i")
        self._names: dict[str, int] = {SUCCESS: 0}

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        *,
        intended_s: float,
        sent_s: float,
        finished_s: float,
        rows: int,
        body_bytes: int,
        outcome: str = SUCCESS,
        wire: Sequence[float] = (_NAN, _NAN, _NAN),
        received_s: float = _NAN,
    ) -> None:
        """Note one request.

        Args:
            sent_s: when it was begun; `intended_s` is when it should have been.
            finished_s: when its values were read, or it had failed.
            outcome: `success`, or what kind of failure.
            wire: when its first byte and its last were handed to the system, and when the reply's head was there.
            received_s: when the reply was complete.
        """
        times = self._times
        times["intended"].append(intended_s)
        times["sent"].append(sent_s)
        times["finished"].append(finished_s)
        times["began"].append(wire[0])
        times["written"].append(wire[1])
        times["replied"].append(wire[2])
        times["received"].append(received_s)
        self._rows.append(rows)
        self._bytes.append(body_bytes)
        self._outcomes.append(self._names.setdefault(outcome, len(self._names)))

    def time(self, name: str) -> "Array":
        """One of the times, of every request."""
        return np.array(self._times[name], dtype=np.float64)

    @property
    def rows(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        return np.array(self._rows, dtype=np.int64)

    @property
    def body_bytes(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        return np.array(self._bytes, dtype=np.int64)

    @property
    def outcomes(self) -> "np.ndarray[Any, np.dtype[np.int32]]":
        """Positions in `outcome_names`; 0 is success."""
        return np.array(self._outcomes, dtype=np.int32)

    @property
    def outcome_names(self) -> tuple[str, ...]:
        return tuple(self._names)
