"""Every error a caller can meet.

```
AsyncBatchError                 base: one sentence, a hint with the next step, an exit code
├── UsageError                  the command, option or input is wrong; nothing was started          exit 2
│   ├── ConfigError             an option's name, value or combination
│   ├── InputError              the source is missing, empty, unreadable, or has no such column
│   └── OutputError             the sink exists and is not ours, is not writable, or belongs to another job
├── EndpointError               the endpoint refuses for good: unknown, forbidden, TLS, fatal reply  exit 1
├── ReplyError                  replies cannot be read, or could be read in two ways                exit 1
│   └── ReplyMismatchError      one reply differs from the learned layout; `kind` says how
├── SourceError              the input failed while it was read; what is committed stays           exit 1
├── StorageError                the disk or store failed while writing; what is committed stays     exit 1
├── TooManyRejectsError         more rows rejected than `--max-errors`, or any under `--on-error fail`  exit 1
├── StoppedError                stopped on purpose and resumable: signal, outage, deadline, login    exit 75
│   └── BusyError               another process is at work on the output; nothing was started        exit 75
├── MissingExtraError           an optional dependency is not installed; the hint names the extra   exit 2
└── InvocationError             one invocation failed; carries the `Failure`; decided by the pipeline, never shown raw
```
All of them pickle, so that they survive a process pool.
"""

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from asyncbatch.model import Failure


def _rebuild(cls: "type[AsyncBatchError]", message: str, state: dict[str, Any]) -> "AsyncBatchError":
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class AsyncBatchError(Exception):
    """Base of everything asyncbatch raises on purpose.

    Attributes:
        message: one sentence without a full stop; names the file, row, option or status.
        hint: what to do next, or None.
        exit_code: what the command line exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)


class UsageError(AsyncBatchError):
    """The command, an option or the input is wrong; nothing was started."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """An option's name, value or combination is wrong."""


class InputError(UsageError):
    """The source is missing, empty, unreadable, or lacks a column."""


class OutputError(UsageError):
    """The sink exists and is not ours, is not writable, or belongs to another job."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""


class EndpointError(AsyncBatchError):
    """The endpoint refuses for good: unknown name, forbidden, TLS failure, or every probe refused."""


class ReplyError(AsyncBatchError):
    """A reply cannot be read as the layout says, or the probes allow two readings."""


class ReplyMismatchError(ReplyError):
    """One reply differs from the layout that the probe learned.

    Attributes:
        kind: `rows` (another number of rows than sent), `undecodable` (not of the layout's format), or `type` (well
            formed, but a value is of another type: no row's fault, it stops the run).
    """

    def __init__(self, message: str, *, kind: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class SourceError(AsyncBatchError):
    """The input turned out damaged, or went away, after the run had begun. Committed parts stay."""


class StorageError(AsyncBatchError):
    """The disk or store failed while writing. Committed parts stay; the same command resumes."""


class TooManyRejectsError(AsyncBatchError):
    """More rows were rejected than allowed. Committed parts stay."""


class StoppedError(AsyncBatchError):
    """The run stopped before its end and can be resumed by the same command."""

    exit_code: ClassVar[int] = 75


class BusyError(StoppedError):
    """Another process is at work on the output; nothing was started."""


class InvocationError(AsyncBatchError):
    """One invocation failed. Endpoints raise it; `asyncbatch.control.classify` decides what follows.

    Attributes:
        failure: what is known of it.
    """

    def __init__(self, failure: "Failure") -> None:
        super().__init__(failure.summary())
        self.failure = failure
