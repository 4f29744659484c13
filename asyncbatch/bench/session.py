"""One `bench`: the points one after the other, whatever ends it. What is decided is decided elsewhere; here it is awaited."""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import anyio
import anyio.to_thread

from asyncbatch.bench.concluding import Course, Setup, conclude, shown_command
from asyncbatch.bench.config import LoadConfig
from asyncbatch.bench.data import Cycle, load_rows
from asyncbatch.bench.knee import Measured, Setting, find_knee
from asyncbatch.bench.load import Allowance, Load, Loaded, Meter
from asyncbatch.bench.measuring import Applied, measured_point
from asyncbatch.bench.place import Place, place_of, round_trip
from asyncbatch.bench.records import Records
from asyncbatch.bench.result import BenchResult, Budget, EndpointFacts, Point
from asyncbatch.bench.schedule import Arrivals, Backlog, Stage, Window, arrivals, stage_windows
from asyncbatch.bench.slo import Condition, parse_conditions
from asyncbatch.bench.statistics import rate
from asyncbatch.bench.sweep import MOST_IN_FLIGHT, budget, knee_bounds, largest_rows, limits, sweep
from asyncbatch.config import RunConfig
from asyncbatch.errors import AsyncBatchError, ConfigError
from asyncbatch.observe.text import without_credentials
from asyncbatch.pipeline.groups import flattened
from asyncbatch.pipeline.invoking import Answer, Invoker, Refusal
from asyncbatch.pipeline.planning import Prepared
from asyncbatch.units import IntRange

_KNEE_SLO = "errors<1%"
_KNEE_PRECISION = 0.02
_LEAST_S = 0.05
_LEAST_PRECISE_SHARE, _LEAST_PRECISE_REQUESTS = 0.2, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is."""

    point: int
    """Number of the point being measured, from 0."""
    points: int
    """Of a search, at most."""
    applied: Applied
    elapsed_s: float
    left_s: float
    """About; of a search, at most."""
    requests: int
    """Ended at this point so far."""


class Listener(Protocol):
    """Is told what happens; adapters for screens."""

    def announced(self, planned: Budget, facts: EndpointFacts) -> None:
        """What the load will take, before it starts.

        Raises:
            AsyncBatchError: not to be started after all.
        """
        ...

    def progressed(self, progress: Progress) -> None:
        """A few times a second."""
        ...

    def measured(self, point: Point) -> None:
        """A point is done."""
        ...

    def warned(self, message: str) -> None:
        """Something to know before figures are read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a bench is given from outside, so that tests can give something else."""

    clock: Callable[[], float]
    meter: Meter | None
    """None: the client's CPU is not metered."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    most_in_flight: int = MOST_IN_FLIGHT
    """Of an open loop: beyond it requests have piled up."""
    keep: Callable[[Point, Loaded], None] | None = None
    """Is given every request of every point, in a thread."""


class Bench:
    """One bench of one endpoint. Not reusable."""

    def __init__(
        self,
        *,
        config: RunConfig,
        load: LoadConfig,
        source_spec: str,
        command: Sequence[str],
        listener: Listener,
        tools: Tools,
        dollars_per_s: float | None = None,
    ) -> None:
        """`command`: as given, for the result; what may be secret is left out."""
        self._config = config
        self._load = load
        self._source_spec = without_credentials(source_spec)
        self._command = shown_command(command)
        self._listener = listener
        self._tools = tools
        self._dollars_per_s = dollars_per_s
        self._conditions: tuple[Condition, ...] = load.slo or (
            parse_conditions(_KNEE_SLO) if load.find_knee else ()
        )
        self._rng = random.Random(load.seed)
        self._allowance = Allowance(left=load.max_requests)
        self._course = Course()
        self._current: Load | None = None
        self._stop_reason = ""
        self._began_s = -1.0
        self._planned = Budget(requests=None, seconds=0.0, points=0, dollars=None)

    @property
    def has_begun(self) -> bool:
        """Whether there may be something to report."""
        return self._began_s >= 0

    def stop(self, reason: str) -> None:
        """End at once, on the loop it runs on; what was measured is kept."""
        self._stop_reason = self._stop_reason or reason
        if self._current is not None:
            self._current.interrupt()

    async def run(self, prepared: Prepared) -> BenchResult:
        """Measure every point, or what can be until `stop`.

        Raises:
            InputError: no rows.
            AsyncBatchError: the listener refuses to start; or, before the first point was measured, a login ran out or a
                reply is of another type than the probes said. Afterwards such an end is in the result.
        """
        started_at = self._tools.now()
        place = place_of(self._config)
        rows = await anyio.to_thread.run_sync(
            lambda: load_rows(
                prepared, self._config, at_least=largest_rows(self._load), where=self._source_spec
            )
        )
        sender = _CyclingSender(
            cycle=Cycle(rows, min_rows=prepared.min_rows), invoker=self._invoker(prepared)
        )
        facts = EndpointFacts(
            name=prepared.endpoint.name,
            kind=place.kind,
            local=place.local,
            variant=prepared.probes.answers[0].reply.variant if prepared.probes.answers else "",
        )
        points = self._sendable(sweep(self._load, self._rng), sender.cycle, prepared)
        self._planned = self._budget(points, prepared)
        self._listener.announced(self._planned, facts)
        self._began_s = self._tools.clock()
        trip = await round_trip(place, sender, rows=prepared.min_rows, clock=self._tools.clock)
        try:
            with flattened():
                if self._load.find_knee:
                    await self._search(sender, place, prepared)
                elif self._load.stages:
                    await self._stages(sender, place)
                else:
                    await self._sweep(points, sender, place)
        except AsyncBatchError as error:
            if not self._course.points:
                raise
            self._course.reason, self._course.failed = error.message, True
        return conclude(
            self._course,
            Setup(
                config=self._config,
                load=self._load,
                conditions=self._conditions,
                command=self._command,
                source=self._source_spec,
                endpoint=facts,
                prepared=prepared,
                rows=rows,
                budget=self._planned,
                round_trip=trip,
                started_at=started_at,
                elapsed_s=self._tools.clock() - self._began_s,
            ),
        )

    # -- points ----------------------------------------------------------------------------------------------------

    async def _sweep(self, points: Sequence[Applied], sender: "_CyclingSender", place: Place) -> None:
        over: set[int] = set()
        for number, applied in enumerate(points):
            if applied.chunk_rows in over:
                self._course.unmeasured += 1
                continue
            point = await self._point(sender, place, applied, at=number, of=len(points))
            if point is None:
                return
            if point.saturated:
                over.add(applied.chunk_rows)  # rates ascend: the next would pile up sooner

    async def _search(self, sender: "_CyclingSender", place: Place, prepared: Prepared) -> None:
        search = find_knee(*self._bounds(sender.cycle, prepared), replicates=self._load.replicates)
        numbers: dict[Setting, int] = {}
        try:
            setting, again = next(search)
            while True:
                point = await self._point(
                    sender,
                    place,
                    Applied(mode="closed", chunk_rows=setting.rows, concurrency=setting.concurrency),
                    at=len(self._course.points),
                    of=self._planned.points,
                    repeats=numbers.get(setting) if again else None,
                )
                if point is None:
                    return
                numbers.setdefault(setting, point.number)
                setting, again = search.send(_told(point))
        except StopIteration as ended:
            self._course.finding = ended.value

    async def _stages(self, sender: "_CyclingSender", place: Place) -> None:
        stages = self._load.stages
        rows = self._load.chunk_rows.counts[0] if self._load.chunk_rows is not None else 1
        mode = "poisson" if self._load.arrivals == "poisson" else "constant"
        applied = Applied(mode=mode, chunk_rows=rows, rate=stages[0].rate)  # type: ignore[arg-type]  # one of two
        loaded = await self._apply(sender, applied, stages, at=0, of=len(stages))
        for stage, window in zip(stages, stage_windows(stages, warmup_s=self._load.warmup), strict=True):
            began = loaded.began_s + window.start_s
            stop_s = min(loaded.began_s + window.stop_s, loaded.window.stop_s)
            if stop_s <= began:
                self._course.unmeasured += 1
                continue
            await self._judge(
                loaded,
                replace(applied, rate=stage.rate),
                place,
                window=Window(start_s=began, stop_s=stop_s),
                warmup_s=stage.seconds - window.seconds,
            )
        self._note_end(loaded)

    async def _point(
        self,
        sender: "_CyclingSender",
        place: Place,
        applied: Applied,
        *,
        at: int,
        of: int,
        repeats: int | None = None,
    ) -> Point | None:
        """Measure one setting; None if everything is to end without it."""
        if self._stop_reason or self._allowance.left <= 0:
            self._note_end(None)
            return None
        stages = (Stage(seconds=_seconds(self._load), rate=applied.rate),) if applied.rate is not None else ()
        loaded = await self._apply(sender, applied, stages, at=at, of=of)
        self._note_end(loaded)
        if loaded.window.seconds < _LEAST_S:
            return None
        point = await self._judge(
            loaded, applied, place, warmup_s=loaded.window.start_s - loaded.began_s, repeats=repeats
        )
        return None if loaded.stopped_by in ("interrupted", "budget") else point

    async def _apply(
        self, sender: "_CyclingSender", applied: Applied, stages: Sequence[Stage], *, at: int, of: int
    ) -> Loaded:
        precision = self._load.precision or (_KNEE_PRECISION if self._load.find_knee else None)

        def on_tick(elapsed_s: float, requests: int) -> None:
            so_far_s = self._tools.clock() - self._began_s
            done = at * _seconds(self._load) if self._load.requests is None and not stages else so_far_s
            self._listener.progressed(
                Progress(
                    point=at,
                    points=of,
                    applied=applied,
                    elapsed_s=so_far_s,
                    left_s=max(0.0, self._planned.seconds - max(done + elapsed_s, 0.0)),
                    requests=requests,
                )
            )

        load = Load(
            send=sender,
            describe=sender.describe,
            rows=applied.chunk_rows,
            limits=limits(self._load),
            allowance=self._allowance,
            clock=self._tools.clock,
            meter=self._tools.meter,
            enough=_precise_enough(precision, self._load) if precision and not self._load.stages else None,
            backlog=Backlog(most=self._tools.most_in_flight) if stages else None,
            on_tick=on_tick,
        )
        self._current = load
        try:
            if stages:
                kind: Arrivals = "poisson" if applied.mode == "poisson" else "constant"
                return await load.open(arrivals(stages, kind, random.Random(self._rng.random())))
            return await load.closed(applied.concurrency or 1)
        finally:
            self._current = None

    async def _judge(
        self,
        loaded: Loaded,
        applied: Applied,
        place: Place,
        *,
        window: Window | None = None,
        warmup_s: float,
        repeats: int | None = None,
    ) -> Point:
        """In a thread: sorting a million latencies takes a while."""
        number = len(self._course.points)
        point = await anyio.to_thread.run_sync(
            lambda: measured_point(
                loaded,
                applied,
                number=number,
                confidence=self._load.confidence,
                conditions=self._conditions,
                window=window,
                warmup_s=warmup_s,
                metered=place.kind != "python",
                repeats=repeats,
            )
        )
        if self._tools.keep is not None:
            await anyio.to_thread.run_sync(self._tools.keep, point, loaded)
        self._course.points.append(point)
        self._course.words = self._course.words or loaded.words
        self._listener.measured(point)
        return point

    def _note_end(self, loaded: Loaded | None) -> None:
        """Keep why it is partial, if it is."""
        if self._stop_reason:
            self._course.reason, self._course.interrupted = self._stop_reason, True
        elif (loaded is None or loaded.stopped_by == "budget") and self._allowance.left <= 0:
            self._course.reason = f"--max-requests {self._load.max_requests:,} is reached"

    # -- before and after ------------------------------------------------------------------------------------------

    def _invoker(self, prepared: Prepared) -> Invoker:
        return Invoker(
            endpoint=prepared.endpoint,
            encoder=prepared.encoder,
            decoder=prepared.decoder,
            timeout_s=self._config.failure.request_timeout,
            clock=self._tools.clock,
            good_rows=prepared.good_rows,
            names=prepared.selection.send,
        )

    def _sendable(self, points: Sequence[Applied], cycle: Cycle, prepared: Prepared) -> tuple[Applied, ...]:
        """The points whose bodies are within `--max-payload`; the others are said."""
        most = self._most_rows(cycle, prepared)
        good = tuple(each for each in points if each.chunk_rows <= most)
        if len(good) < len(points) and not self._load.find_knee:
            self._listener.warned(
                f"requests of more than {most:,} rows are over --max-payload"
                f" {self._config.speed.max_payload:,} bytes and are left out"
            )
        if not good and not self._load.find_knee:
            raise ConfigError("every --chunk-rows is over --max-payload", hint="give smaller ones")
        return good

    def _bounds(self, cycle: Cycle, prepared: Prepared) -> tuple[IntRange, IntRange]:
        rows, flights = knee_bounds(self._load)
        most = min(rows.high, self._most_rows(cycle, prepared))
        return IntRange(min(rows.low, most), most), flights

    def _most_rows(self, cycle: Cycle, prepared: Prepared) -> int:
        most_bytes = min(self._config.speed.max_payload, prepared.endpoint.max_body_bytes)
        return cycle.fit(largest_rows(self._load), most_bytes)

    def _budget(self, points: Sequence[Applied], prepared: Prepared) -> Budget:
        fixed = min((each.seconds for each in prepared.probes.answers), default=0.01)
        times = [fixed + prepared.probes.seconds_per_row * each.chunk_rows for each in points]
        return budget(self._load, points, seconds_of=times, dollars_per_s=self._dollars_per_s)


class _CyclingSender:
    """A `Sender` of the data that is cycled."""

    def __init__(self, *, cycle: Cycle, invoker: Invoker) -> None:
        self.cycle = cycle
        self._invoker = invoker

    def __call__(self, rows: int) -> Awaitable[Answer | Refusal]:
        return self._invoker.invoke(self.cycle.take(rows))

    def describe(self, refusal: Refusal) -> str:
        """What messages may say of it."""
        return self._invoker.said(refusal, whole=False)


def _told(point: Point) -> Measured:
    return Measured(
        rows_per_s=point.rows_per_s,
        p95_s=point.latency.percentile(95.0).seconds,
        error_share=point.error_share,
        feasible=point.slo_met is not False and point.rows_per_s > 0,
        missed=point.slo_missed if point.slo_met is False else "",
        sure=point.slo_met is not None,
    )


def _seconds(load: LoadConfig) -> float:
    each = limits(load)
    return each.warmup_s + each.measure_s + each.cooldown_s


def _precise_enough(precision: float, load: LoadConfig) -> Callable[[Records, Window], bool]:
    """Whether rows/s are known to `precision`, after a fifth of the duration and a hundred requests."""

    def enough(records: Records, window: Window) -> bool:
        if window.seconds < _LEAST_PRECISE_SHARE * load.duration or len(records) < _LEAST_PRECISE_REQUESTS:
            return False
        answered = records.outcomes == 0
        finished = records.time("finished")[answered]
        found = rate(
            finished,
            records.rows[answered].astype("float64"),
            start_s=window.start_s,
            stop_s=window.stop_s,
            confidence=load.confidence,
        )
        half = found.relative_half
        return half is not None and half <= precision

    return enough
