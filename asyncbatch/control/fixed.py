"""Chunk size and concurrency as the caller fixed them: the degenerate case of the adaptive controller."""

from asyncbatch.model import ChunkTarget, Sample


class FixedController:
    """Always the same chunk and the same number in flight; learns nothing, never delays.

    Args:
        chunk_rows: rows of a chunk, at least 1.
        chunk_bytes: largest body, in bytes, at least 1.
        concurrency: invocations in flight, at least 1.

    Raises:
        ValueError: an argument is below 1.
    """

    def __init__(self, *, chunk_rows: int, chunk_bytes: int, concurrency: int) -> None:
        for name, value in (
            ("chunk_rows", chunk_rows),
            ("chunk_bytes", chunk_bytes),
            ("concurrency", concurrency),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._target = ChunkTarget(rows=chunk_rows, bytes=chunk_bytes)
        self._concurrency = concurrency

    def next_chunk(self) -> ChunkTarget:
        return self._target

    def concurrency(self) -> int:
        return self._concurrency

    def send_delay(self) -> float:
        return 0.0

    def record(self, sample: Sample) -> None:
        """Nothing is learned from `sample`."""

    def note_remaining(self, rows: int) -> None:
        """The tail is cut like the rest."""
