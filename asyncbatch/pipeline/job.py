"""What every kind of job shares: opened source and endpoint, metrics, events, stopping, the report."""

import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from asyncbatch.config import RunConfig
from asyncbatch.endpoint import make_endpoint
from asyncbatch.errors import AsyncBatchError, ConfigError, StoppedError
from asyncbatch.model import InputFile
from asyncbatch.observe import text
from asyncbatch.observe.events import Event, Explained, RunPlanned, Warned
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.observe.report import DecisionMade, RunReport, Status, done_status, make_report
from asyncbatch.pipeline.controllers import concurrency_ceiling
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.planning import Prepared, prepare
from asyncbatch.pipeline.probing import Watch
from asyncbatch.pipeline.resuming import total_blocks
from asyncbatch.pipeline.running import RunTools
from asyncbatch.pipeline.shards import own_share, shard_of
from asyncbatch.pipeline.signals import stop_on_signals
from asyncbatch.pipeline.storage import sink_access, source_access
from asyncbatch.protocols import Advises, Controller, Decides, Endpoint, Explains, LeavesOut, RunHook, Source
from asyncbatch.sink import Plan
from asyncbatch.source import Earlier, open_source, same_input
from asyncbatch.store.access import Access
from asyncbatch.store.uri import shown

T = TypeVar("T")


class Job:
    """What a run, a plan and the Python API share: opened source and endpoint, metrics, events, clock."""

    def __init__(
        self,
        config: RunConfig,
        source: object,
        *,
        sink: str | None,
        hooks: Sequence[RunHook] = (),
        session: object = None,
    ) -> None:
        source = os.fspath(source) if isinstance(source, os.PathLike) else source
        self.config = own_share(config)
        self._given = config
        self.source_spec = shown(source) if isinstance(source, str) else f"<{type(source).__name__}>"
        self.sink_spec = sink
        self.job_id = ""
        self.warnings: list[str] = []
        self.report_path: str | None = None
        """Where `--report` goes, once it is known to be no input."""
        self.on_stop: Callable[[str], None] | None = None
        self.owns_process = False
        """The event loop was made for this job, so signals to the process are for it."""
        self.started_at = datetime.now(UTC)
        self._raw_source = source
        self._hooks = tuple(hooks)
        self._session = session
        self._source_access = source_access(self.config, session)
        self._sink_access = sink_access(self.config, session)
        self._controller: Controller | None = None
        self.tools = RunTools(
            clock=time.monotonic,
            rng=random.Random(),
            metrics=MetricsCollector(clock=time.monotonic),
            emit=self.emit,
        )

    @property
    def sink_access(self) -> Access:
        """With which rights the sink is written."""
        return self._sink_access

    def emit(self, event: Event) -> None:
        """Tell every hook; keep warnings for the report. A hook that raises is told nothing more: the run is not its."""
        if isinstance(event, Warned):
            self.warnings.append(event.message)
        for hook in self._hooks:
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001  # what others wrote, and a night's work depends on none of it
                self._hooks = tuple(each for each in self._hooks if each is not hook)
                name = getattr(hook, "__qualname__", type(hook).__qualname__)
                self.emit(
                    Warned(message=f"hook {name} raised {type(error).__name__} and is told nothing more")
                )

    async def open(
        self, stack: AsyncExitStack, *, earlier: Earlier | None = None, unread: Source | None = None
    ) -> tuple[Source, Endpoint]:
        """Open source and endpoint; both are closed with `stack`, whatever happens.

        Args:
            earlier: what a job that is gone on with has settled about the source.
            unread: taken for the source, which then is not opened.
        """
        if not self.config.endpoint.endpoint:
            raise ConfigError(
                "no endpoint is named",
                hint="-e NAME, -e http://host/invocations or -e python:module:function",
            )
        # In a thread: it imports its client library, which takes up to 200 ms.
        endpoint = await anyio.to_thread.run_sync(lambda: make_endpoint(self.config, session=self._session))
        source = unread or await self.open_source(stack, earlier)
        if isinstance(source, LeavesOut) and source.left_out:
            files = text.plural(len(source.left_out), "file")
            self.emit(Warned(message=f"{files} left for a later run: younger than --settle"))
        stack.push_async_callback(_close, endpoint)
        await endpoint.open(concurrency=concurrency_ceiling(self.config))
        if isinstance(endpoint, Advises):
            for advice in endpoint.advice:
                self.emit(Warned(message=advice))
        if isinstance(endpoint, Decides):
            for message in endpoint.decided:
                self.emit(Explained(message=message))
        return source, endpoint

    async def open_source(self, stack: AsyncExitStack, earlier: Earlier | None = None) -> Source:
        """Open the source, closed with `stack`; `earlier` is what a job that is gone on with has settled about it."""
        source = await anyio.to_thread.run_sync(
            open_source, self._raw_source, self.config.input, self._source_access, earlier
        )
        stack.callback(source.close)
        return source

    def has_same_input(self, files: Sequence[InputFile], earlier: Earlier) -> bool:
        """Whether the source has `files` and no others; False where only reading tells. Blocking.

        Raises:
            InputError: it cannot be listed.
        """
        return same_input(self._raw_source, self.config.input, self._source_access, earlier, files)

    async def prepare(
        self,
        source: Source,
        endpoint: Endpoint,
        planned: Plan | None,
        *,
        watch: Watch | None = None,
        head: int = 0,
    ) -> Prepared:
        """See `planning.prepare`; probes are counted as requests of the run."""
        metrics = self.tools.metrics

        def record(sample: Any) -> None:
            metrics.started()
            metrics.finished(sample)

        return await prepare(
            self.config,
            source,
            endpoint,
            planned=planned,
            clock=self.tools.clock,
            rng=self.tools.rng,
            record=record,
            watch=watch,
            head=head,
            warn=lambda message: self.emit(Warned(message=message)),
        )

    def stop(self, reason: str) -> None:
        """End the job in order, on the loop it runs on: open blocks are finished; before the first there are none."""
        if self.on_stop is not None:
            self.on_stop(reason)

    async def attended(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run all of the job, so that `stop`, signals and cancellation of either kind reach it at any time, in order.

        In a task of its own: asyncio's own cancellation, unlike a scope's, breaks through shields and leaves threads at
        work whose results nobody takes, such as a lease just acquired; a task group turns the one into the other.
        """
        results: list[T] = []
        reasons: list[str] = []
        scope = anyio.CancelScope()

        def stop_early(reason: str) -> None:
            reasons.append(reason)
            scope.cancel()

        async def body() -> None:
            with scope:
                results.append(await function())

        self.on_stop = stop_early
        with flattened():
            async with AsyncExitStack() as stack:
                if self.owns_process:
                    await stack.enter_async_context(stop_on_signals(self.stop))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(body)
        if not results:
            raise StoppedError(
                f"stopped before the first block: {reasons[0]}", hint="the same command begins again"
            )
        return results[0]

    def announce(
        self,
        prepared: Prepared,
        *,
        rows: int | None,
        resumed: int,
        shared: str = "",
        shard_blocks: int | None = None,
    ) -> None:
        """Tell what is going to be done.

        Args:
            shared: why others may be using the endpoint; said unless the run is a guest already.
            shard_blocks: of the shard, where the job is done by several processes.
        """
        self._controller = prepared.controller
        self.tools.metrics.planned(rows_total=rows, rows_resumed=resumed)
        self.emit(
            RunPlanned(
                job_id=self.job_id,
                endpoint=prepared.endpoint.name,
                rows=rows,
                resumed_rows=resumed,
                files=len(prepared.source.files),
                blocks=shard_blocks
                if shard_blocks is not None
                else total_blocks(prepared.source, prepared.block_rows, self.config.input.limit),
                block_rows=prepared.block_rows,
                columns_sent=prepared.selection.send,
                shard=str(shard_of(self.config) or ""),
                shared="" if self.config.speed.background else shared,
            )
        )

        for message in prepared.explained():
            self.emit(Explained(message=message))

    def report(self, status: Status, exit_code: int, *, reason: str = "") -> RunReport:
        return make_report(
            config=self._given,
            totals=self.tools.metrics.totals(),
            status=status,
            exit_code=exit_code,
            reason=reason,
            job_id=self.job_id,
            endpoint=self.config.endpoint.endpoint,
            source=self.source_spec,
            sink=self.sink_spec,
            started_at=self.started_at,
            warnings=self.warnings,
            timeline=self.tools.metrics.timeline(),
            decisions=self._decisions(),
        )

    def _decisions(self) -> list[DecisionMade]:
        """What the controller decided so far."""
        controller: object = self._controller
        if not isinstance(controller, Explains):
            return []
        since = self.tools.metrics.since_start
        return [
            DecisionMade(at_s=round(since(each.time_s), 3), what=each.what, why=each.why)
            for each in controller.explain()
        ]

    def done(self, *, rejected_before: bool = False) -> RunReport:
        """The report of a run that reached its end; `rejected_before`: parts of earlier runs hold rejects."""
        status, exit_code = done_status(
            self.config, self.tools.metrics.totals(), rejected_before=rejected_before
        )
        return self.report(status, exit_code)

    def ended_by(self, error: BaseException) -> RunReport:
        """The report of a run that `error` ended."""
        if not isinstance(error, AsyncBatchError):  # cancelled, or a defect: the same command goes on
            return self.report("stopped", 75, reason=type(error).__name__)
        return self.report(
            "stopped" if error.exit_code == 75 else "failed", error.exit_code, reason=error.message
        )


async def _close(endpoint: Endpoint) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(10):
        await endpoint.aclose()
