"""Every metric of a run: name, unit and formula in one place, and the collector that measures them.

`Snapshot` is what progress shows while a run is under way, `RunTotals` what its report keeps. The
documentation and the report's schema are generated from the fields below.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from asyncbatch.control.binding import Bound
from asyncbatch.model import PROBE, SUCCESS, Kind, Outcome, Sample
from asyncbatch.observe.histogram import LogHistogram
from asyncbatch.observe.metric import metric
from asyncbatch.observe.timeline import Timeline, TimelinePoint

WINDOW_S = 10.0
"""Length of the sliding window behind `rows_per_s_recent`."""
_SLOT_S = 0.5
_SLOTS = int(WINDOW_S / _SLOT_S) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one moment."""

    elapsed_s: float = metric("s", "since planning began")
    rows_total: int | None = metric(
        "rows", "rows of the input, those of earlier runs included; null when unknown"
    )
    rows_resumed: int = metric("rows", "rows that were committed before this run began")
    rows_done: int = metric("rows", "rows in committed parts, rows_resumed included; they survive any crash")
    rows_answered: int = metric(
        "rows", "rows answered or rejected so far, rows_resumed included; >= rows_done"
    )
    rows_rejected: int = metric("rows", "rows that got an error instead of a prediction")
    source_share: float | None = metric("1", "share of the input's bytes that was read; null when unknown")
    rows_per_s_recent: float = metric("rows/s", f"rows answered in the last {WINDOW_S:g} s, a second")
    requests: int = metric("requests", "invocations that ended, however they ended")
    in_flight: int = metric("requests", "invocations under way")
    limit: int = metric("requests", "invocations allowed in flight")
    chunk_rows: int = metric("rows", "rows wanted in the next request")
    retries: int = metric("requests", "invocations that repeated an earlier one")
    throttled: int = metric("requests", "invocations that ended as throttled or unavailable")
    bytes_sent: int = metric("bytes", "request bodies of the invocations that ended")
    latency_p95_s: float | None = metric("s", "95th percentile of the duration of successful invocations")
    blocks_open: int = metric("blocks", "blocks admitted and not yet committed")
    bound: str | None = metric("-", "what binds now, as in the timeline; null: not known", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """A run when it has ended."""

    elapsed_s: float = metric("s", "from the start of planning to the end of the run")
    rows_in: int = metric("rows", "rows of committed parts as read, rows_resumed left out")
    rows_out: int = metric("rows", "rows of committed parts as written, rows_resumed left out")
    rows_rejected: int = metric("rows", "rows that got an error instead of a prediction")
    rejected_by_code: Mapping[str, int] = metric("rows", "rows_rejected by the code of their error")
    rows_resumed: int = metric("rows", "rows that were committed before this run began")
    rows_per_s: float = metric("rows/s", "rows_in / elapsed_s")
    requests: int = metric("requests", "invocations that ended, probes included")
    requests_by_outcome: Mapping[str, int] = metric("requests", "requests by how they ended")
    requests_by_kind: Mapping[str, int] = metric("requests", "requests by why they were sent")
    retries: int = metric("requests", "invocations that repeated an earlier one")
    bytes_sent: int = metric("bytes", "request bodies of the invocations that ended")
    latency_mean_s: float | None = metric("s", "mean duration of successful invocations, probes left out")
    latency_p50_s: float | None = metric("s", "50th percentile of the same, within 2 %")
    latency_p95_s: float | None = metric("s", "95th percentile of the same, within 2 %")
    latency_p99_s: float | None = metric("s", "99th percentile of the same, within 2 %")
    latency_max_s: float | None = metric("s", "longest of the same")
    chunk_rows_mean: float | None = metric("rows", "mean rows of the same")
    chunk_rows_max: int | None = metric("rows", "most rows of the same")
    in_flight_mean: float = metric("requests", "sum of the durations of all invocations / elapsed_s")
    in_flight_max: int = metric("requests", "most invocations under way at once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Running sums since the start."""

    requests: int
    """Invocations that ended."""
    refused: int
    """Of them, throttled or unavailable."""
    answered: int
    """Of them, successful; probes left out."""
    answered_s: float
    """Their durations together."""
    bytes_sent: int


class MetricsCollector:
    """Counts what a run does. One object per run, used from one thread; each call is O(1)."""

    def __init__(
        self, *, clock: Callable[[], float], rows_total: int | None = None, rows_resumed: int = 0
    ) -> None:
        """`clock` is the one that `Sample` times are of, in seconds."""
        self._clock = clock
        self._started_s = clock()
        self._rows_total = rows_total
        self._rows_resumed = rows_resumed
        self._source_share: float | None = None
        self._in_flight = 0
        self._in_flight_max = 0
        self._busy_s = 0.0
        self._bytes_sent = 0
        self._outcomes = dict.fromkeys(Outcome, 0)  # a Counter takes twice as long
        self._kinds = dict.fromkeys(Kind, 0)
        self._latency = LogHistogram()
        self._chunk_rows = 0
        self._chunk_rows_max = 0
        self._rows_answered = 0
        self._rows_in = 0
        self._rows_out = 0
        self._rejected: Counter[str] = Counter()
        self._window = _Window(self._started_s)
        self._timeline = Timeline(origin_s=self._started_s)

    def planned(self, *, rows_total: int | None, rows_resumed: int) -> None:
        """What planning found out; may be called again when a total becomes known."""
        self._rows_total = rows_total
        self._rows_resumed = rows_resumed

    def read(self, *, source_share: float) -> None:
        """The share of the input's bytes that was read, 0 to 1: all that is known while rows are not."""
        self._source_share = source_share

    def started(self) -> None:
        """An invocation begins. Each call is followed by one of `finished`, also when it is cancelled."""
        self._in_flight += 1
        if self._in_flight > self._in_flight_max:
            self._in_flight_max = self._in_flight

    def finished(self, sample: Sample) -> None:
        """An invocation ended."""
        rows, body_bytes, started_s, finished_s, outcome, kind = sample
        self._in_flight -= 1
        self._outcomes[outcome] += 1
        self._kinds[kind] += 1
        self._bytes_sent += body_bytes
        duration_s = finished_s - started_s
        self._busy_s += duration_s
        self._timeline.finished(sample)
        if outcome is SUCCESS and kind is not PROBE:
            self._latency.add(duration_s)
            self._chunk_rows += rows
            if rows > self._chunk_rows_max:
                self._chunk_rows_max = rows
            self._rows_answered += rows
            self._window.add(finished_s, rows)

    def rejected(self, rows: int, *, code: str) -> None:
        """Rows that got an error instead of an answer; they count as answered."""
        self._rejected[code] += rows
        self._rows_answered += rows
        now_s = self._clock()
        self._window.add(now_s, rows)
        self._timeline.rejected(now_s, rows)

    def committed(self, *, rows_in: int, rows_out: int) -> None:
        """A part was committed: `rows_in` rows of the input became `rows_out` of the output."""
        self._rows_in += rows_in
        self._rows_out += rows_out

    def counts(self) -> Counts:
        """What happened so far, for rates between two moments."""
        return Counts(
            requests=sum(self._outcomes.values()),
            refused=self._outcomes[Outcome.THROTTLED] + self._outcomes[Outcome.UNAVAILABLE],
            answered=self._latency.count,
            answered_s=self._latency.total_s,
            bytes_sent=self._bytes_sent,
        )

    @property
    def latencies(self) -> LogHistogram:
        """Durations of the successful invocations, probes left out."""
        return self._latency

    def since_start(self, at_s: float) -> float:
        """A moment of the clock as seconds since planning began."""
        return at_s - self._started_s

    def timeline(self) -> tuple[TimelinePoint, ...]:
        """The course of the run so far."""
        return self._timeline.points(self._clock())

    def snapshot(
        self, *, limit: int, chunk_rows: int, blocks_open: int, bound: Bound | None = None
    ) -> Snapshot:
        """The run now. To be asked a few times a second: the timeline keeps what is told here."""
        now_s = self._clock()
        self._timeline.seen(now_s, in_flight=self._in_flight, limit=limit, chunk_rows=chunk_rows, bound=bound)
        done = self._rows_resumed + self._rows_in
        return Snapshot(
            elapsed_s=now_s - self._started_s,
            rows_total=self._rows_total,
            rows_resumed=self._rows_resumed,
            rows_done=done,
            # Answers that were sent twice, or thrown away, must not carry it past what there is.
            rows_answered=max(done, _at_most(self._rows_resumed + self._rows_answered, self._rows_total)),
            rows_rejected=self._rejected.total(),
            source_share=self._source_share,
            rows_per_s_recent=self._window.per_second(now_s),
            requests=sum(self._outcomes.values()),
            in_flight=self._in_flight,
            limit=limit,
            chunk_rows=chunk_rows,
            retries=self._kinds[Kind.RETRY],
            throttled=self._outcomes[Outcome.THROTTLED] + self._outcomes[Outcome.UNAVAILABLE],
            bytes_sent=self._bytes_sent,
            latency_p95_s=self._latency.percentile(95),
            blocks_open=blocks_open,
            bound=None if bound is None else bound.value,
        )

    def totals(self) -> RunTotals:
        """The run as a whole."""
        elapsed_s = self._clock() - self._started_s
        answered = self._latency.count
        return RunTotals(
            elapsed_s=elapsed_s,
            rows_in=self._rows_in,
            rows_out=self._rows_out,
            rows_rejected=self._rejected.total(),
            rejected_by_code=dict(sorted(self._rejected.items())),
            rows_resumed=self._rows_resumed,
            rows_per_s=_ratio(self._rows_in, elapsed_s),
            requests=sum(self._outcomes.values()),
            requests_by_outcome={
                each.value: self._outcomes[each] for each in Outcome if self._outcomes[each]
            },
            requests_by_kind={each.value: self._kinds[each] for each in Kind if self._kinds[each]},
            retries=self._kinds[Kind.RETRY],
            bytes_sent=self._bytes_sent,
            latency_mean_s=self._latency.mean(),
            latency_p50_s=self._latency.percentile(50),
            latency_p95_s=self._latency.percentile(95),
            latency_p99_s=self._latency.percentile(99),
            latency_max_s=self._latency.highest_s if answered else None,
            chunk_rows_mean=self._chunk_rows / answered if answered else None,
            chunk_rows_max=self._chunk_rows_max if answered else None,
            in_flight_mean=_ratio(self._busy_s, elapsed_s),
            in_flight_max=self._in_flight_max,
        )


class _Window:
    """Rows in the last `WINDOW_S` seconds, in slots of half a second."""

    __slots__ = ("_last", "_origin_s", "_rows")

    def __init__(self, origin_s: float) -> None:
        self._origin_s = origin_s
        self._rows = [0] * _SLOTS
        self._last = 0

    def add(self, at_s: float, rows: int) -> None:
        slot = int((at_s - self._origin_s) / _SLOT_S)
        if slot > self._last:
            self._move_to(slot)
        if slot > self._last - _SLOTS:
            self._rows[slot % _SLOTS] += rows

    def per_second(self, now_s: float) -> float:
        slot = int((now_s - self._origin_s) / _SLOT_S)
        if slot > self._last:
            self._move_to(slot)
        begin_s = max(0, self._last - _SLOTS + 1) * _SLOT_S
        return _ratio(sum(self._rows), now_s - self._origin_s - begin_s)

    def _move_to(self, slot: int) -> None:
        for passed in range(max(self._last + 1, slot - _SLOTS + 1), slot + 1):
            self._rows[passed % _SLOTS] = 0
        self._last = slot


def _ratio(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _at_most(value: int, limit: int | None) -> int:
    return value if limit is None else min(value, limit)
