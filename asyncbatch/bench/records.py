"""What a load generator notes of each request: 80 bytes, in half a microsecond.

Every request is kept until its point is judged: percentiles are then exact, and judging how much neighbours resemble each
other needs their order, which a histogram has lost. `--max-requests` bounds the memory.
"""

import struct
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

SUCCESS = "success"
_NAN = float("nan")
_UNKNOWN = (_NAN, _NAN, _NAN)
_FIELDS = (
    "intended", "sent", "began", "written", "replied", "received", "finished", "rows", "body_bytes", "outcome",
)  # fmt: skip
_pack = struct.Struct(f"{len(_FIELDS)}d").pack  # an array takes bytes in half the time of numbers


class Records:
    """Requests that ended, in the order of their end. Times are of the clock of the load, in seconds."""

    def __init__(self) -> None:
        self._kept = array("d")  # whole numbers are exact in it up to 2^53
        self._names: dict[str, int] = {SUCCESS: 0}

    def __len__(self) -> int:
        return len(self._kept) // len(_FIELDS)

    def add(
        self,
        *,
        intended_s: float,
        sent_s: float,
        finished_s: float,
        rows: int,
        body_bytes: int,
        outcome: str = SUCCESS,
        wire: Sequence[float] | None = None,
        received_s: float = _NAN,
    ) -> None:
        """Note one request.

        Args:
            sent_s: when it was begun; `intended_s` is when it should have been.
            finished_s: when its values were read, or it had failed.
            outcome: `success`, or what kind of failure.
            wire: when its first byte and its last were handed to the system, and when the reply's head was there;
                None: not known.
            received_s: when the reply was complete.
        """
        code = self._names.setdefault(outcome, len(self._names))
        began_s, written_s, replied_s = wire or _UNKNOWN
        times_s = (intended_s, sent_s, began_s, written_s, replied_s, received_s, finished_s)
        self._kept.frombytes(_pack(*times_s, rows, body_bytes, code))

    def time(self, name: str) -> "Array":
        """One of the times, of every request."""
        return self._column(name)

    @property
    def rows(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        return self._column("rows").astype(np.int64)

    @property
    def body_bytes(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        return self._column("body_bytes").astype(np.int64)

    @property
    def outcomes(self) -> "np.ndarray[Any, np.dtype[np.int32]]":
        """Positions in `outcome_names`; 0 is success."""
        return self._column("outcome").astype(np.int32)

    @property
    def outcome_names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def _column(self, name: str) -> "Array":
        # A copy: what numpy looks at cannot grow.
        return np.frombuffer(self._kept, np.float64)[_FIELDS.index(name) :: len(_FIELDS)].copy()
