"""The seams. Anything that satisfies one of these Protocols can take part; `asyncbatch.testing` can prove that it does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from asyncbatch.model import (
    Block,
    BytesPayload,
    ChunkTarget,
    Failure,
    InputFile,
    ModelDescription,
    Payload,
    Reject,
    Reply,
    Sample,
    SourceBlock,
    Undescribed,
    Values,
)

if TYPE_CHECKING:
    import pyarrow as pa


@runtime_checkable
class Source(Protocol):
    """An input, opened and planned: its files in natural order, its columns with frozen types."""

    @property
    def schema(self) -> "pa.Schema":
        """Every column of the input in file order, partition columns last."""
        ...

    @property
    def files(self) -> Sequence[InputFile]: ...

    @property
    def partition_columns(self) -> Sequence[str]:
        """Columns that come from folder names; never sent unless named."""
        ...

    @property
    def resumable(self) -> bool:
        """False for in-memory streams, which can be read once only."""
        ...

    def blocks(
        self,
        file: InputFile,
        *,
        columns: Sequence[str],
        block_rows: int,
        done: Sequence[tuple[int, int, int | None]] = (),
        max_rows: int | None = None,
    ) -> Iterator[SourceBlock]:
        """Read one file as blocks `[k·block_rows, (k+1)·block_rows)`, in row order, skipping the ranges in `done`.

        Blocking: runs in a thread. Holds at most about one block plus a read buffer in memory.

        Args:
            file: one of `files`.
            columns: what to read, in the order wanted; nothing else is decoded.
            block_rows: rows of a block; only the last of a file is shorter.
            done: committed `(start, stop, end_offset)` ranges, ascending; text inputs seek by the offset.
            max_rows: read no row of this file beyond this many.

        Raises:
            InputError: the file is missing, truncated or unreadable.
        """
        ...

    def sample(self, *, columns: Sequence[str], rows: int) -> "pa.Table":
        """At most `rows` readable rows from several places of the input, for probes. Cheap."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class FindsBlocks(Protocol):
    """A source that can tell where the blocks of a file end for less than reading it."""

    def block_ends(
        self, file: InputFile, *, block_rows: int, max_rows: int | None = None
    ) -> Iterator[tuple[int, int | None]]:
        """`(stop, end_offset)` of each block, as `blocks` would give them, ascending. Blocking: runs in a thread.

        Raises:
            InputError: the file is missing, truncated or unreadable.
        """
        ...


@runtime_checkable
class LeavesOut(Protocol):
    """A source that has passed over files which later runs will take."""

    @property
    def left_out(self) -> Sequence[str]:
        """Their paths: they were changed too shortly ago (`--settle`)."""
        ...


@runtime_checkable
class EncodedBlock(Protocol):
    """The sendable rows of one block, encoded once; bodies for any row range are cut from it."""

    @property
    def rows(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        ...

    @property
    def sliceable(self) -> bool:
        """False when `payload` does real work and must run off the event loop (Parquet bodies)."""
        ...

    def payload(self, start: int, stop: int) -> Payload:
        """The request for rows `[start, stop)`; any range, any number of times until released."""
        ...

    def fit(self, start: int, max_rows: int, max_bytes: int) -> int:
        """How many rows from `start` make a body of at most `max_rows` rows and `max_bytes` bytes; at least 1."""
        ...

    def release(self, start: int, stop: int) -> None:
        """Rows `[start, stop)` are answered: their bytes may be dropped."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Turns the sent columns of a block into bodies."""

    @property
    def content_type(self) -> str: ...

    def encode(self, table: "pa.Table") -> EncodedBlock:
        """Encode all rows. Blocking: runs in a thread."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """Reads every reply of a run by one fixed layout."""

    @property
    def fields(self) -> "Sequence[pa.Field[pa.DataType]]":
        """Output fields in order: one `prediction`, or the reply's fields."""
        ...

    def decode(self, reply: Reply, rows: int) -> tuple[Values, ...]:
        """The values of `rows` rows, one `Values` per field.

        Raises:
            ReplyError: not readable by the layout, or not `rows` rows. Never misaligned silently.
        """
        ...


@runtime_checkable
class TakesTime(Protocol):
    """A decoder that can say that it needs long for its replies' size."""

    @property
    def slow(self) -> bool:
        """True: even small replies are decoded off the event loop."""
        ...


@runtime_checkable
class Endpoint(Protocol):
    """What is invoked. `invoke` is safe to call concurrently, and leaves nothing behind when cancelled."""

    @property
    def name(self) -> str:
        """How messages call it: endpoint name, URL, or module:function. Never with secrets."""
        ...

    @property
    def identity(self) -> Mapping[str, str | None]:
        """What must not change on resume; None means unknown, which equals any."""
        ...

    @property
    def takes_batches(self) -> bool:
        """True: `BatchPayload`; False: `BytesPayload`."""
        ...

    @property
    def max_body_bytes(self) -> int:
        """Largest body known to be accepted at the start; the real cap is learned from 413."""
        ...

    async def open(self, *, concurrency: int) -> None:
        """Prepare for up to `concurrency` invocations at once. Checks region and credentials, sends nothing.

        Raises:
            EndpointError: no region, no credentials, bad URL, no such function.
        """
        ...

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        """Send one request, once: no retries here.

        Raises:
            InvocationError: anything but a complete 2xx reply; carries the `Failure`.
        """
        ...

    async def aclose(self) -> None:
        """Release every connection and thread. Idempotent."""
        ...


@runtime_checkable
class Advises(Protocol):
    """An endpoint with something to say before the run starts."""

    @property
    def advice(self) -> Sequence[str]:
        """Sentences for people, such as that rows go over plain http://; complete after `open`."""
        ...


@runtime_checkable
class Decides(Protocol):
    """An endpoint that found out how to do its work."""

    @property
    def decided(self) -> Sequence[str]:
        """Sentences for `--explain`, such as why requests go through the SDK; complete after `open`."""
        ...


@runtime_checkable
class ShowsRequests(Protocol):
    """An endpoint that can show what it sends besides the body."""

    def request_head(self, payload: BytesPayload) -> tuple[str, Sequence[tuple[str, str]]]:
        """The request line and the headers of a request with `payload`; secrets are replaced by `…`. Complete after `open`."""
        ...


@runtime_checkable
class RefreshesCredentials(Protocol):
    """An endpoint whose credentials may expire while it is used."""

    async def refresh_credentials(self, failure: Failure) -> str | None:
        """Get new credentials because `failure` said that the old ones are no longer taken. Concurrent calls share one refresh.

        Returns:
            What people should know, such as that the clock is wrong; None where there is nothing to tell, or another call
            has told it.

        Raises:
            StoppedError: there are none; the message names the login command.
        """
        ...


@runtime_checkable
class DescribesModel(Protocol):
    """An endpoint that can say which model stands behind its name."""

    async def describe_model(self) -> ModelDescription | Undescribed:
        """As it is now, or why that is not known. Asks the service once, for about two seconds at most; never raises."""
        ...


@runtime_checkable
class Controller(Protocol):
    """Decides chunk size, requests in flight and request rate. Pure: no I/O, no clock of its own."""

    def next_chunk(self) -> ChunkTarget:
        """Wanted for the next new chunk."""
        ...

    def concurrency(self) -> int:
        """Invocations allowed in flight now, >= 1."""
        ...

    def send_delay(self) -> float:
        """0.0: send now (a token is taken); else seconds to wait before asking again."""
        ...

    def record(self, sample: Sample) -> None: ...

    def note_remaining(self, rows: int) -> None:
        """Rows not yet sent, for shrinking chunks in the tail."""
        ...


@runtime_checkable
class BoundByMemory(Protocol):
    """A controller that takes account of how many bytes may be in flight."""

    def note_bytes_in_flight(self, most: int) -> None:
        """Bodies in flight may have `most` bytes together; told once, before the first chunk."""
        ...


@runtime_checkable
class TellsState(Protocol):
    """A controller that tells where it stands, so that what binds can be named."""

    @property
    def settled(self) -> bool:
        """A setting was found; False while it is searched."""
        ...

    @property
    def at_size_cap(self) -> bool:
        """Chunks would be larger if the largest body, or a size that the endpoint refused, allowed it."""
        ...


class Decided(Protocol):
    """One decision of a controller."""

    @property
    def time_s(self) -> float: ...
    @property
    def what(self) -> str: ...
    @property
    def why(self) -> str: ...


@runtime_checkable
class Explains(Protocol):
    """A controller that tells what it decided."""

    def explain(self) -> Sequence[Decided]:
        """Decisions so far, oldest first; the middle of a long run may be forgotten."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Where finished blocks go. Blocking: runs in a thread; blocks arrive in any order."""

    def write(
        self,
        block: Block,
        table: "pa.Table",
        *,
        rejects: Sequence[Reject],
        variants: Mapping[str, int],
        end_offset: int | None,
        last: bool,
    ) -> None:
        """Take one finished block; when this returns, it is durable.

        Raises:
            StorageError: the store failed; nothing half-written is visible.
            OutputError: the range was committed by another job.
        """
        ...


@runtime_checkable
class RunHook(Protocol):
    """Sees what happens in a run; adapters for progress, logs and metrics. Must not block and must not raise."""

    def __call__(self, event: object, /) -> None:
        """`event` is one of the frozen dataclasses of `asyncbatch.observe.events`."""
        ...
