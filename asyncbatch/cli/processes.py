"""`run --processes N`: a process for each shard, seen and stopped as one.

The first shard begins alone: it plans, counts the rows of text files, and says what is wrong with the command, so that this is
done and said once. Then the others begin. Signals are passed on; the processes have a process group of their own, so that a
terminal's Ctrl-C reaches them from here only.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import IO, Any

from asyncbatch.config import RunConfig
from asyncbatch.control.sharding import WHOLE, split
from asyncbatch.errors import AsyncBatchError, TooManyRejectsError
from asyncbatch.observe.events import (
    Explained,
    Progressed,
    RowsRejected,
    RunFinished,
    RunPlanned,
    ShardDone,
    Stopping,
    Waiting,
    Warned,
)
from asyncbatch.observe.joined import (
    Measured,
    joined_plan,
    joined_snapshot,
    joined_timeline,
    joined_totals,
    worst,
)
from asyncbatch.observe.metrics import Snapshot
from asyncbatch.observe.report import RunReport, Status, make_report
from asyncbatch.observe.report_file import write_report
from asyncbatch.protocols import RunHook
from asyncbatch.units import Shard

_SHOW_EVERY_S = 0.1
_LEAVE_S = 5.0
"""How long processes may take to leave after a second signal."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the parent asks for."""

    config: RunConfig
    source: str
    sink: str
    began: float
    """When the parent began, seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last word of a process."""

    exit_code: int
    report: RunReport | None
    """None where an error ended it before it began."""
    measured: Measured | None
    error: AsyncBatchError | None = None
    defect: str = ""
    """Of an error that is a bug: its name, and with `--verbose` where it was."""


@dataclass(eq=False, slots=True)
class _Child:
    """One shard's process, and what it has told."""

    shard: Shard
    process: "subprocess.Popen[bytes]"
    planned: RunPlanned | None = None
    snapshot: Snapshot | None = None
    ended: Ended | None = None
    gone: bool = False
    exit_code: int = 0


def run_processes(config: RunConfig, source: str, sink: str, *, hooks: Sequence[RunHook] = ()) -> RunReport:
    """Run the job in `--processes` processes; the report is of all of them.

    Raises:
        ConfigError: the output is a stream.
        AsyncBatchError: the worst of what ended the processes.
    """
    from asyncbatch.pipeline.shards import refuse_shards
    from asyncbatch.sink import locate

    location = locate(sink, format=config.output.format)
    if location.kind == "stream":
        refuse_shards(config, "standard output is one stream", hint="give a folder or a file as SINK")
    group = _Group(config, source, sink, hooks)
    with group.attended():
        return group.run()


@dataclass(slots=True)
class _Told:
    """What was said once already."""

    warnings: list[str] = field(default_factory=list)
    stopping: bool = False
    planned: bool = False
    shown_s: float = 0.0


class _Group:
    """The processes of one command."""

    def __init__(self, config: RunConfig, source: str, sink: str, hooks: Sequence[RunHook]) -> None:
        self._config = config
        self._source = source
        self._sink = sink
        self._hooks = tuple(hooks)
        self._shards = split(config.speed.shard or WHOLE, config.speed.processes or 1)
        self._children: list[_Child] = []
        self._events: queue.SimpleQueue[tuple[_Child, object]] = queue.SimpleQueue()
        self._told = _Told()
        self._began = time.time()
        self._began_s = time.monotonic()
        self._rejected = 0
        self._signals: list[int] = []
        self._passed_on = 0
        self._failure: AsyncBatchError | None = None
        """Why this process has stopped the others."""

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Signals are noted while the block runs; no process outlives it."""
        handles = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in _SIGNALS} if handles else {}
        for number in before:
            signal.signal(number, lambda which, _: self._signals.append(which))
        try:
            yield
        finally:
            for child in self._children:
                if child.process.poll() is None:
                    child.process.kill()
                child.process.wait()
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    def run(self) -> RunReport:
        """Until every process has ended."""
        self._start(self._shards[0])
        self._follow(lambda: self._children[0].planned is not None)
        if self._children[0].planned is not None and not self._children[0].gone and not self._stopped:
            for shard in self._shards[1:]:
                self._start(shard)
        self._follow(lambda: False)
        return self._end()

    # -- while they run --------------------------------------------------------------------------------------------

    @property
    def _stopped(self) -> bool:
        return bool(self._signals) or self._failure is not None

    def _start(self, shard: Shard) -> None:
        config = replace(
            self._config,
            speed=replace(self._config.speed, shard=shard, processes=None),
            failure=replace(
                self._config.failure, overwrite=self._config.failure.overwrite and not self._children
            ),
            output=replace(self._config.output, report=None),
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "asyncbatch.cli.shard_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0 if os.name == "posix" else None,
        )
        child = _Child(shard=shard, process=process)
        self._children.append(child)
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # gone already: its exit code tells
            pickle.dump(
                Task(config=config, source=self._source, sink=self._sink, began=self._began), process.stdin
            )
            process.stdin.flush()
        threading.Thread(target=self._listen, args=(child, process.stdout), daemon=True).start()

    def _listen(self, child: _Child, stream: IO[bytes]) -> None:
        try:
            while True:
                self._events.put((child, pickle.load(stream)))  # noqa: S301  # from a process of ours
        except (EOFError, pickle.UnpicklingError):
            pass  # its end, perhaps in the middle of a word
        finally:
            self._events.put((child, None))

    def _follow(self, enough: Any) -> None:
        """Take what the processes tell until all that were started have ended, or `enough()`."""
        while not enough() and not all(child.gone for child in self._children):
            self._pass_on()
            try:
                child, event = self._events.get(timeout=0.1)
            except queue.Empty:
                continue
            if event is None:
                self._buried(child)
            else:
                self._take(child, event)

    def _pass_on(self) -> None:
        for number in self._signals[self._passed_on :]:
            self._passed_on += 1
            for child in self._children:
                if child.process.poll() is None:
                    child.process.send_signal(number)
            if self._passed_on > 1:
                deadline_s = time.monotonic() + _LEAVE_S
                for child in self._children:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.process.wait(max(0.0, deadline_s - time.monotonic()))
                raise KeyboardInterrupt

    def _buried(self, child: _Child) -> None:
        child.exit_code = child.process.wait()
        child.gone = True
        # One that was killed has failed alone; what failed for a reason fails the job.
        if child.exit_code in (1, 2) and not self._stopped:
            self._stop_others(self._error(child))

    def _stop_others(self, failure: AsyncBatchError | None) -> None:
        """The job cannot end any more: let the others finish their open blocks."""
        self._failure = failure
        for child in self._children:
            if child.process.poll() is None:
                child.process.terminate()

    def _take(self, child: _Child, event: object) -> None:
        """Keep what is about one shard, and tell the hooks what is about all."""
        match event:
            case Ended():
                child.ended = event
            case RunPlanned():
                child.planned = event
                self._tell_plan()
            case Progressed(snapshot=snapshot):
                child.snapshot = snapshot
                self._tell_progress()
            case RunFinished() | ShardDone():
                pass
            case Warned(message=message):
                if message not in self._told.warnings:
                    self._told.warnings.append(message)
                    self._emit(event)
            case Stopping():
                if not self._told.stopping:
                    self._told.stopping = True
                    self._emit(event)
            case Waiting():
                if child is self._children[0]:
                    self._emit(event)
            case Explained(message=message):
                self._emit(Explained(message=f"shard {child.shard}: {message}"))
            case RowsRejected(count=count):
                self._emit(event)
                self._count_rejects(count)
            case _:
                self._emit(event)

    def _count_rejects(self, count: int) -> None:
        """`--max-errors` counts the rejects of all processes."""
        self._rejected += count
        limit = self._config.failure.max_errors
        if limit is None or limit.rows is None or self._stopped or self._rejected <= limit.rows:
            return
        self._stop_others(
            TooManyRejectsError(
                f"{self._rejected:,} rows were rejected, more than --max-errors {limit}",
                hint="what is committed stays; raise --max-errors to go on from here",
            )
        )

    def _tell_plan(self) -> None:
        planned = [child.planned for child in self._children if child.planned is not None]
        if len(planned) == len(self._shards) and not self._told.planned:
            self._told.planned = True
            self._emit(joined_plan(planned))

    def _tell_progress(self) -> None:
        now_s = time.monotonic() - self._began_s
        found = [child.snapshot for child in self._children if child.snapshot is not None]
        if now_s - self._told.shown_s >= _SHOW_EVERY_S and len(found) == len(self._shards):
            self._told.shown_s = now_s
            self._emit(Progressed(snapshot=joined_snapshot(found, elapsed_s=now_s)))

    def _emit(self, event: object) -> None:
        for hook in self._hooks:
            hook(event)

    # -- when they have ended --------------------------------------------------------------------------------------

    def _code(self, child: _Child) -> int:
        """Its exit code; of one that had not begun when it was stopped, that of a run that goes on later."""
        if child.exit_code < 0 and child.planned is None and self._stopped:
            return 75
        return worst([child.exit_code])

    def _error(self, child: _Child) -> AsyncBatchError | None:
        """What ended it; None if it is done, or was stopped by us before it began."""
        if child.ended is not None:
            if child.ended.defect:
                return AsyncBatchError(
                    f"shard {child.shard}: {child.ended.defect}: this is a bug",
                    hint=None if self._config.output.verbose else "the same command with -v shows where",
                )
            return child.ended.error
        if self._code(child) == 75:
            return None
        how = f"by {signal.Signals(-child.exit_code).name}" if child.exit_code < 0 else "without a word"
        return AsyncBatchError(
            f"the process of shard {child.shard} was ended {how}",
            hint="if memory was short: --max-memory is for each process; the same command goes on",
        )

    def _end(self) -> RunReport:
        """The report of all; raises what ended them, the worst first."""
        code = worst([*(self._code(child) for child in self._children), *((1,) if self._failure else ())])
        worst_first = sorted(self._children, key=lambda child: self._code(child) != code)
        errors = [error for child in worst_first if (error := self._error(child)) is not None]
        error = self._failure or (errors[0] if errors else None)
        report = self._report(code, error)
        if self._config.output.report is not None:
            write_report(report, self._config.output.report)
        if any(child.planned is not None for child in self._children):
            _keep(report, self._config, self._sink)
        self._emit(RunFinished(report=report))
        if error is not None:
            raise error
        return report

    def _report(self, code: int, error: AsyncBatchError | None) -> RunReport:
        ended = [child.ended for child in self._children if child.ended is not None]
        measured = [each.measured for each in ended if each.measured is not None]
        reports = [each.report for each in ended if each.report is not None]
        own = make_report(
            config=self._config,
            totals=joined_totals(measured, elapsed_s=time.monotonic() - self._began_s),
            status=_status(code, reports),
            exit_code=code,
            reason=error.message
            if error is not None
            else next((each.reason for each in reports if each.reason), ""),
            job_id=next((each.job_id for each in reports if each.job_id), ""),
            endpoint=self._config.endpoint.endpoint,
            source=self._source,
            sink=self._sink,
            started_at=datetime.fromtimestamp(self._began, UTC),
            warnings=self._told.warnings,
            timeline=joined_timeline(measured),
        )
        memory = [own.peak_memory_bytes, *(each.peak_memory_bytes for each in reports)]
        return replace(
            own,
            cpu_s=own.cpu_s + sum(each.cpu_s for each in reports),
            peak_memory_bytes=None if None in memory else sum(each for each in memory if each is not None),
        )


def _keep(report: RunReport, config: RunConfig, sink: str) -> None:
    """Put the joined report in the place of the last shard's."""
    from asyncbatch.pipeline.storage import sink_access
    from asyncbatch.sink.existing import open_existing
    from asyncbatch.sink.layout import REPORT

    content = report.to_json().encode()
    with contextlib.suppress(
        AsyncBatchError
    ):  # what kept it from being written has ended the run, and is told
        open_existing(sink, access=sink_access(config)).state.replace(
            REPORT, lambda file: file.write(content)
        )


def _status(code: int, reports: Sequence[RunReport]) -> Status:
    if code in (1, 2):
        return "failed"
    if code in (75, 130) or any(each.status == "stopped" for each in reports):
        return "stopped"
    return "done_with_rejects" if any(each.status == "done_with_rejects" for each in reports) else "done"
