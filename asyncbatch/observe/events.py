"""What a `RunHook` is told. Frozen values; none holds row contents, headers or credentials."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from asyncbatch.model import Block, Outcome
from asyncbatch.observe.metrics import Snapshot

if TYPE_CHECKING:
    from asyncbatch.observe.report import RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlanned:
    """The plan is written; the first block is about to be read."""

    job_id: str
    endpoint: str
    """`Endpoint.name`: never with secrets."""
    rows: int | None
    """Rows of the input, those done before included; None where only reading tells."""
    resumed_rows: int
    """Rows that earlier runs committed."""
    files: int
    blocks: int | None
    """None where `rows` is."""
    block_rows: int
    columns_sent: tuple[str, ...]
    shard: str = ""
    """`0/4`; empty for all of the job. Rows and blocks are the shard's."""
    shared: str = ""
    """Why others may well be using the endpoint, such as `autoscaling`; empty if nothing speaks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """Sent a few times a second while a run is under way, also when nothing moves."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCommitted:
    """A block is durable in the output."""

    block: Block
    rows_out: int
    rows_rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRejected:
    """Rows got an error instead of a prediction."""

    count: int
    code: str
    """`Reject.code`."""
    message: str = ""
    """The endpoint's or the reader's words about the first of them, without row contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed:
    """An invocation failed; what follows is decided elsewhere."""

    summary: str
    """Status and name of the failure; with the endpoint's words, without row contents, the first time an outcome comes."""
    outcome: Outcome
    rows: int
    attempt: int
    """1 for the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something a person should know; the run goes on."""

    message: str
    """One sentence, no full stop."""
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A decision and its reason, for `--explain`."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """No further block is admitted; the open ones are being finished."""

    reason: str
    """One clause: `SIGTERM received`, `the deadline of 2 h is reached`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Another process is at work on the output, and this one waits for its end; sent every second."""

    holder: str
    """`process 4711 on worker-3`."""
    waited_s: float
    rows_done: int | None
    """In the output so far; None where that is not known."""
    rows_total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDone:
    """All rows of this shard are in the output, and some of others are not yet."""

    shard: str
    """`0/4`."""
    missing_rows: int
    """In the whole output; whoever commits the last of them finishes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The last event, whatever the end."""

    report: "RunReport"


Event: TypeAlias = (
    RunPlanned
    | Progressed
    | PartCommitted
    | RowsRejected
    | RequestFailed
    | Warned
    | Explained
    | Stopping
    | Waiting
    | ShardDone
    | RunFinished
)
