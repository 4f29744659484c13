"""What is written to an object: kept while it is small enough for one request, sent in pieces beyond that."""

import io
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from asyncbatch.store.client import Upload
from asyncbatch.store.patience import Patience

PIECE_BYTES = 16 * 2**20
WHOLE_BYTES = 64 * 2**20
"""Up to this size an object is written by one request. A part is far smaller: a block takes a sixteenth of the memory."""
_DOUBLED_AFTER = 2_500
"""Pieces of one size: with 10,000 pieces at most, a file has up to 600 GiB."""
_IN_FLIGHT = 3


class PieceWriter(io.RawIOBase):
    """A file for writing. Memory: `WHOLE_BYTES`, and beyond that four pieces.

    Args:
        begin: starts an upload, called when the content turns out to be large.
        doing: for messages.
    """

    def __init__(self, begin: Callable[[], Upload], *, patience: Patience, doing: str) -> None:
        super().__init__()
        self._begin = begin
        self._patience = patience
        self._doing = doing
        self._buffer = bytearray()
        self._written = 0
        self._number = 0
        self._upload: Upload | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[None]] = deque()
        self._completed = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._buffer += view
        self._written += len(view)
        if self._upload is None and len(self._buffer) > WHOLE_BYTES:
            self._upload = self._begin()
        while self._upload is not None and len(self._buffer) > self._piece_bytes():
            self._send(self._piece_bytes())
        return len(view)

    @property
    def in_pieces(self) -> bool:
        """Too large for one request."""
        return self._upload is not None

    def whole(self) -> bytes:
        """All that was written, if it is small."""
        return bytes(self._buffer)

    def complete(self) -> None:
        """Send the rest and commit. Repeatable while it raises UnavailableError."""
        assert self._upload is not None
        if self._buffer:
            self._send(len(self._buffer))
        while self._under_way:
            self._under_way[0].result()
            self._under_way.popleft()
        self._upload.complete()
        self._completed = True

    def close(self) -> None:
        """Give the upload up, unless it was completed."""
        if self.closed:
            return
        super().close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._upload is not None and not self._completed:
            self._upload.abort()

    def _piece_bytes(self) -> int:
        return PIECE_BYTES << (self._number // _DOUBLED_AFTER)

    def _send(self, size: int) -> None:
        assert self._upload is not None
        upload = self._upload
        self._number += 1
        number, data = self._number, bytes(self._buffer[:size])
        del self._buffer[:size]

        def add() -> None:
            self._patience.persist(lambda: upload.add(number, data), self._doing)

        if not upload.parallel:
            add()
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="asyncbatch-write")
        while len(self._under_way) >= _IN_FLIGHT:
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(add))
