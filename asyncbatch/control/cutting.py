"""How many rows the next chunk takes of a block, and how many rows a block has."""

from dataclasses import dataclass

MIN_BLOCK_ROWS = 256
MAX_BLOCK_ROWS = 131_072
_BLOCK_SECONDS = 30.0
_MEMORY_SHARE = 16


def equal_cut(left_rows: int, wanted_rows: int) -> int:
    """Rows of the next chunk so that what is left of a block falls into equal chunks of at most `wanted_rows`.

    A greedy cut leaves a tail of a few rows at each block's end: up to 1.4 times the calls.
    """
    if left_rows <= 0:
        raise ValueError(f"no rows left to cut: {left_rows}")
    chunks = -(-left_rows // (max(1, wanted_rows)))
    return -(-left_rows // chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFootprint:
    """Bytes that one row of an open block occupies, by what they are for; learned from the probe."""

    sent: float
    """Encoded in the request body."""
    kept: float
    """Arrow columns read and kept until the part is written."""
    answered: float
    """Raw reply and its decoded values."""

    @property
    def total(self) -> float:
        """Everything a row needs during the block's life; kept columns once more as the part's write buffer."""
        return self.sent + 2 * self.kept + self.answered


def block_rows(
    *, seconds_per_row: float, row: RowFootprint, max_memory_bytes: int, row_rate: float | None = None
) -> int:
    """Rows of a block: about 30 s of one slot's work, 256 to 131,072, and never more than 1/16 of the memory.

    Args:
        seconds_per_row: marginal seconds of one more row in one slot, from two probe sizes.
        row: bytes that a row occupies.
        max_memory_bytes: the run's memory budget.
        row_rate: rows per second that the user allows, if limited: a block should not take longer than 30 s of that.
    """
    if row_rate is not None:
        seconds_per_row = max(seconds_per_row, 1 / row_rate)
    by_time = _BLOCK_SECONDS / seconds_per_row if seconds_per_row > 0 else MAX_BLOCK_ROWS
    by_memory = max_memory_bytes / _MEMORY_SHARE / max(1.0, row.total)
    rows = min(max(by_time, MIN_BLOCK_ROWS), MAX_BLOCK_ROWS)
    return max(1, int(min(rows, by_memory)))
