"""The values that flow through a run. Frozen, and importable with the standard library alone.

Rows are numbered from 0 within one input file; a range is half open, `[start, stop)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Buffer: TypeAlias = bytes | bytearray | memoryview
Values: TypeAlias = "np.ndarray[Any, Any] | pa.Array[Any] | list[Any]"
"""The decoded values of one output field for one chunk: 1-D or 2-D array, an Arrow array, or a list; len == rows."""


class Outcome(Enum):
    """How an invocation ended, as the controller sees it (ARCHITECTURE: the failure table)."""

    __hash__ = object.__hash__  # members are single; Enum's own hash is a call into Python, four a request

    SUCCESS = "success"
    THROTTLED = "throttled"
    """Refused for load by name (429, `ThrottlingException`)."""
    UNAVAILABLE = "unavailable"
    """503, or the connection was refused."""
    NOT_READY = "not_ready"
    """The model is waking up. Neither failure nor congestion."""
    TOO_LARGE = "too_large"
    """The body or the reply is over a size limit."""
    FAILED = "failed"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    """The endpoint says that the rows themselves are wrong."""
    CANCELLED = "cancelled"


class Kind(Enum):
    """Why an invocation was sent. Only FIRST and RETRY steer the controller."""

    __hash__ = object.__hash__

    FIRST = "first"
    RETRY = "retry"
    BISECT = "bisect"
    PROBE = "probe"


SUCCESS, CANCELLED = Outcome.SUCCESS, Outcome.CANCELLED
FIRST, RETRY, PROBE = Kind.FIRST, Kind.RETRY, Kind.PROBE
"""For what is asked for each request: reading a member from its class is a call into Python until 3.12."""


class Transport(Enum):
    """A failure below HTTP."""

    CONNECT = "connect"
    """The connection was refused, or the host could not be reached or resolved."""
    RESET = "reset"
    """The connection ended before any reply byte."""
    TRUNCATED = "truncated"
    """The connection ended inside the reply."""
    TIMEOUT = "timeout"
    TLS = "tls"
    PROTOCOL = "protocol"
    """What came back is no HTTP."""
    REPLY_TOO_LARGE = "reply_too_large"
    """The reply is over the stated bound and was read no further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known of a failed invocation; the input of `asyncbatch.control.classify`."""

    transport: Transport | None = None
    """Set when there was no complete HTTP reply."""
    status: int | None = None
    error_name: str = ""
    """`ThrottlingException`, `ModelError` …: from `x-amzn-ErrorType` or the body; empty for plain HTTP."""
    message: str = ""
    original_status: int | None = None
    """The container's own status inside a 424 `ModelError`."""
    original_message: str = ""
    log_stream_arn: str = ""
    retry_after_s: float | None = None
    server_date: str = ""
    """The reply's `Date` header, for learning the clock offset."""
    exception: str = ""
    """Type name of an exception raised by a Python callable."""
    renewals: int = 0
    """How often the endpoint had renewed its credentials or corrected its clock when this request was signed."""
    reused_connection: bool = False
    """The request went out on a connection that had carried others: a reset before any reply byte may mean it was stale."""

    @property
    def words(self) -> str:
        """What the endpoint said; the container's words where they came through."""
        return self.original_message or self.message

    @property
    def head(self) -> str:
        """Status and name, without the words."""
        parts = []
        if self.transport is not None:
            parts.append(self.transport.value)
        if self.status is not None:
            parts.append(f"HTTP {self.status}")
        if self.error_name:
            parts.append(self.error_name)
        if self.original_status is not None:
            parts.append(f"(container: {self.original_status})")
        if self.exception:
            parts.append(self.exception)
        return " ".join(parts) or "failed"

    def summary(self) -> str:
        """One line: `head` and the first 300 characters of `words`. They may quote rows: it stays with the data."""
        text = " ".join(self.words.split())
        if len(text) > 300:
            text = text[:300] + "…"
        return f"{self.head}: {text}" if text else self.head


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantDescription:
    """One production variant, as the service describes it."""

    name: str
    images: tuple[str, ...] = ()
    """What runs, by digest: `….dkr.ecr.….amazonaws.com/model@sha256:…`."""
    instances: int | None = None
    """Instances wanted now; None for serverless ones."""
    weight: float | None = None
    """Share of the traffic, relative to the other variants'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What stands behind an endpoint's name."""

    config: str
    """Name of its configuration."""
    modified: str
    """When it was last modified, ISO 8601 in UTC; scaling modifies it too."""
    variants: tuple[VariantDescription, ...] = ()
    pending: str = ""
    """Name of the configuration that is being rolled out; empty if there is none."""
    scales: bool | None = None
    """Whether its instances are scaled by load; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undescribed:
    """Why nothing can be said of what stands behind an endpoint's name."""

    reason: str
    """One clause, such as `sagemaker:DescribeEndpoint is not allowed`."""
    lasting: bool = True
    """False: it may be said another time."""
    expected: bool = False
    """True: nothing that a person should look at, such as a stand-in on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file of the source, as frozen in the plan."""

    number: int
    """Position in natural file order, from 0."""
    path: str
    """Path or URI as it can be opened again; empty for in-memory sources."""
    size_bytes: int
    rows: int | None
    """None where only reading to the end tells (CSV, JSON Lines)."""
    fingerprint: Mapping[str, str | int]
    """What must not change before a resume, e.g. size and mtime_ns."""
    partitions: Mapping[str, str] = field(default_factory=dict)
    """Hive partition values of this file."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Block:
    """A fixed range of rows of one input file: the unit of reading, encoding, memory and commit."""

    file: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """`00000000-000000000000-000000065536`: sorts in row order."""
        return f"{self.file:08d}-{self.start:012d}-{self.stop:012d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that cannot be read, or that the endpoint cannot answer."""

    row: int
    """Row number in its input file."""
    code: str
    """`input`, or the `Outcome` value that ended it."""
    message: str
    line: int | None = None
    """Line in a text input, from 1, where known."""
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBlock:
    """A block as read: all its rows, bad ones included."""

    block: Block
    table: "pa.Table"
    """The requested columns in the requested order; `len == block.rows`; a row that could not be read is null."""
    rejects: Sequence[Reject] = ()
    """Rows of this block that must not be sent; ascending by row."""
    end_offset: int | None = None
    """Byte offset after the block's last row, for text inputs that can seek."""
    last: bool = False
    """True for the last block of its file; then `block.stop` is the file's row count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTarget:
    """What the controller wants of the next new chunk."""

    rows: int
    bytes: int
    """Largest body, in bytes."""


class BytesPayload(NamedTuple):
    """A request body as pieces to be written one after the other, without joining them."""

    pieces: tuple[Buffer, ...]
    content_type: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPayload:
    """Rows for a Python callable; no bytes."""

    batch: "pa.RecordBatch"
    nbytes: int


Payload: TypeAlias = BytesPayload | BatchPayload


class WireTimes(NamedTuple):
    """When the parts of one exchange happened, by `time.monotonic`, in seconds."""

    began_s: float
    """A connection was there, and the first byte was handed to the system."""
    written_s: float
    """The last byte of the request was."""
    replied_s: float
    """The head of the reply was there."""


class Reply(NamedTuple):
    """A successful reply, not yet decoded."""

    body: bytes = b""
    content_type: str = ""
    """As sent, parameters included; match it without them."""
    result: Any = None
    """What a Python callable returned; then `body` is empty."""
    variant: str = ""
    """`x-Amzn-Invoked-Production-Variant`, where sent."""
    headers: Mapping[str, str] = MappingProxyType({})
    """Reply headers, lower-case names; for `plan --show` and `--meta`."""
    times: WireTimes | None = None
    """Where the endpoint can tell."""


class ChunkResult(NamedTuple):
    """The answer to the rows of one request: positions `[start, stop)` among the *sendable* rows of a block."""

    start: int
    stop: int
    columns: tuple[Values, ...]
    """One per field of the reply layout, aligned to the rows."""
    variant: str = ""


class Sample(NamedTuple):
    """What the controller learns of one invocation. Times are of the clock it was given.

    One is made for each request, as are payloads, replies and `ChunkResult`: a tuple takes a third of the time of a
    frozen dataclass.
    """

    rows: int
    body_bytes: int
    started_s: float
    finished_s: float
    outcome: Outcome
    kind: Kind
