"""How much of the input may be in memory at once.

A block reserves bytes once, before it is read, in row order, and gives them back when its part is committed or consumed.
The oldest unfinished block may overdraw and nothing waits for bytes after admission: memory is bounded, nothing can deadlock.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatistics:
    """A snapshot, for progress and reports."""

    capacity_bytes: int
    reserved_bytes: int
    """May exceed `capacity_bytes` by the oldest block's overdraft and by rows larger than estimated."""
    blocks_open: int
    peak_bytes: int


class ByteBudget:
    """Admits blocks in row order while their bytes fit. Knows no event loop: the caller waits and asks again."""

    def __init__(self, *, capacity_bytes: int) -> None:
        if capacity_bytes <= 0:
            raise ValueError(f"capacity_bytes must be positive, got {capacity_bytes}")
        self._capacity_bytes = capacity_bytes
        self._open: dict[int, int] = {}  # block number -> bytes; insertion order is row order
        self._reserved_bytes = 0
        self._peak_bytes = 0

    def admit(self, block: int, needed_bytes: int) -> bool:
        """Reserve `needed_bytes` for `block`; False if it must wait for others to finish.

        The first of the open blocks is always admitted, whatever its size.

        Raises:
            ValueError: blocks were asked for out of row order.
        """
        if self._open and block <= next(reversed(self._open)):
            raise ValueError(f"block {block} asked after block {next(reversed(self._open))}")
        if self._open and self._reserved_bytes + needed_bytes > self._capacity_bytes:
            return False
        self._open[block] = needed_bytes
        self._add(needed_bytes)
        return True

    def correct(self, block: int, actual_bytes: int) -> None:
        """`block` has been read and turned out to need `actual_bytes`; later admissions see the difference."""
        self._add(actual_bytes - self._open[block])
        self._open[block] = actual_bytes

    def release(self, block: int) -> None:
        """Give back what `block` reserved."""
        self._reserved_bytes -= self._open.pop(block)

    def statistics(self) -> BudgetStatistics:
        return BudgetStatistics(
            capacity_bytes=self._capacity_bytes,
            reserved_bytes=self._reserved_bytes,
            blocks_open=len(self._open),
            peak_bytes=self._peak_bytes,
        )

    def _add(self, difference_bytes: int) -> None:
        self._reserved_bytes += difference_bytes
        self._peak_bytes = max(self._peak_bytes, self._reserved_bytes)
