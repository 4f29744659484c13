"""What the records of a load say: one `Point`. Pure, apart from the histogram library."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from asyncbatch.bench.load import Loaded
from asyncbatch.bench.records import Records
from asyncbatch.bench.result import Latency, Mode, Percentile, Point, Requests, Slice, Split
from asyncbatch.bench.schedule import Window
from asyncbatch.bench.slo import Condition, judge
from asyncbatch.bench.statistics import (
    batch_rates,
    drift,
    effective_count,
    quantile,
    rate,
    spectrum,
)
from asyncbatch.model import Outcome

if TYPE_CHECKING:
    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)
CLIENT_BOUND = 0.85
"""Share of one core that the event loop's thread is busy, from which on it is the limit: what is left is waiting for its turn."""
_MOST_SAMPLES = 2_000
_SLICES, _LEAST_IN_SLICE = 24, 4
_DRIFT, _DRIFT_BATCHES = 0.05, 24
_HISTOGRAM_MOST_US = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The load of a point, as set."""

    mode: Mode
    chunk_rows: int
    concurrency: int | None = None
    rate: float | None = None


def measured_point(
    loaded: Loaded,
    applied: Applied,
    *,
    number: int,
    confidence: float,
    conditions: Sequence[Condition] = (),
    window: Window | None = None,
    warmup_s: float = 0.0,
    metered: bool = True,
    repeats: int | None = None,
) -> Point:
    """The figures of one load.

    Args:
        window: what is measured, by the clock; None: what the load says.
        warmup_s: load before the window.
        metered: the client's CPU says something about the client; False where the model runs in this process.
    """
    window = window or loaded.window
    view = _View(loaded.records, window)
    rates = {
        name: rate(
            view.answered_s, amounts, start_s=window.start_s, stop_s=window.stop_s, confidence=confidence
        )
        for name, amounts in (
            ("rows", view.answered_rows),
            ("bytes", view.answered_bytes / 1e6),
            ("requests", np.ones(len(view.answered_s))),
        )
    }
    rows, bytes_ = rates["rows"], rates["bytes"]
    answered, failed = int(view.good.sum()), int(view.bad.sum())
    errors = Counter(view.names[code] for code in view.codes[view.bad])
    share, cpu_each, bound = _client(loaded, window) if metered else (None, None, False)
    found_drift = _drift(view, applied, window, confidence)
    saturated = loaded.stopped_by == "saturation" or _piled_up(view, applied, window)
    point = Point(
        number=number,
        mode=applied.mode,
        chunk_rows=applied.chunk_rows,
        concurrency=applied.concurrency,
        rate=applied.rate,
        repeats=repeats,
        rows_per_s=rows.value,
        rows_per_s_low=rows.interval.low if rows.interval else None,
        rows_per_s_high=rows.interval.high if rows.interval else None,
        mb_per_s=bytes_.value,
        mb_per_s_low=bytes_.interval.low if bytes_.interval else None,
        mb_per_s_high=bytes_.interval.high if bytes_.interval else None,
        requests_per_s=rates["requests"].value,
        seconds=window.seconds,
        warmup_s=warmup_s,
        cooldown_s=max(0.0, view.last_start_s - window.stop_s),
        requests=answered + failed + loaded.unfinished,
        rows=int(view.rows[view.good].sum()),
        errors=dict(errors.most_common()),
        error_share=failed / (answered + failed) if answered + failed else 0.0,
        throttled=sum(count for name, count in errors.items() if _is(name, Outcome.THROTTLED)),
        unfinished=loaded.unfinished,
        latency=latency(view.finished[view.good] - view.intended[view.good], confidence),
        latency_from_send=latency(view.finished[view.good] - view.sent[view.good], confidence),
        split=_split(loaded.records, view),
        late_p99_s=_nearest(np.sort(view.sent[view.good] - view.intended[view.good]), 0.99),
        in_flight=_in_flight(view, window.start_s, window.stop_s),
        in_flight_max=loaded.most_in_flight,
        client_cpu_share=share,
        client_cpu_s_per_request=cpu_each,
        client_bound=bound,
        drift=found_drift[0],
        drifts=found_drift[1],
        saturated=saturated,
        stopped_by=loaded.stopped_by,
        slo_met=None,
        slo_missed="",
        on_pareto_front=False,
        dollars_per_million_rows=None,
        slices=_slices(view, window, loaded.began_s),
        sample=_sample(view, loaded.began_s, window),
    )
    met, missed = judge(conditions, point)
    return replace(point, slo_met=met, slo_missed=missed)


def latency(values: "Array", confidence: float) -> Latency:
    """The figures of latencies in order of their intended start, in seconds; to the microsecond."""
    values = np.round(values, 6)
    found = []
    for percent in PERCENTS:
        one = quantile(values, percent, confidence=confidence)
        found.append(
            Percentile(
                percent=percent,
                seconds=one.value,
                low_s=one.interval.low if one.interval else None,
                high_s=one.interval.high if one.interval else None,
            )
        )
    any_ = len(values) > 0
    median = np.median(values) if any_ else 0.0
    return Latency(
        count=len(values),
        effective_count=effective_count((values <= median).astype(np.float64)),
        mean_s=float(values.mean()) if any_ else None,
        min_s=float(values.min()) if any_ else None,
        max_s=float(values.max()) if any_ else None,
        percentiles=tuple(found),
        spectrum=spectrum(values),
        histogram=_histogram(values),
    )


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points with `on_pareto_front` set: no other one has at least its rows/s and a lower p95, or more and as low."""
    placed = [(each.rows_per_s, each.latency.percentile(95.0).seconds) for each in points]

    def beaten(rate_: float, p95: float) -> bool:
        return any(
            other is not None and more >= rate_ and other <= p95 and (more > rate_ or other < p95)
            for more, other in placed
        )

    return [
        replace(each, on_pareto_front=p95 is not None and rate_ > 0 and not beaten(rate_, p95))
        for each, (rate_, p95) in zip(points, placed, strict=True)
    ]


class _View:
    """Records in order of their intended start, and which of them a window holds."""

    def __init__(self, records: Records, window: Window) -> None:
        intended = records.time("intended")
        self.order = np.argsort(intended, kind="stable")
        self.intended = intended[self.order]
        self.sent = records.time("sent")[self.order]
        self.finished = records.time("finished")[self.order]
        self.rows = records.rows[self.order]
        self.codes = records.outcomes[self.order]
        self.names = records.outcome_names
        self.inside = (self.intended >= window.start_s) & (self.intended < window.stop_s)
        answered = self.codes == 0
        self.good = self.inside & answered
        self.bad = self.inside & ~answered
        by_end = np.argsort(self.finished, kind="stable")
        by_end = by_end[answered[by_end]]
        self.answered_s = self.finished[by_end]
        self.answered_rows = self.rows[by_end].astype(np.float64)
        self.answered_bytes = records.body_bytes[self.order][by_end].astype(np.float64)
        self.last_start_s = float(self.intended[-1]) if len(intended) else window.stop_s


def _is(name: str, outcome: Outcome) -> bool:
    return name.partition(":")[0] == outcome.value


def _client(loaded: Loaded, window: Window) -> tuple[float | None, float | None, bool]:
    """CPU seconds a second, and a request; whether the loop's thread had hardly a moment to wait."""
    if loaded.cpu is None:
        return None, None, False
    first, last = loaded.cpu
    seconds = last.at_s - first.at_s
    if seconds <= 0:
        return None, None, False
    finished = loaded.records.time("finished")
    ended = int(((finished >= first.at_s) & (finished < last.at_s)).sum())
    used_s = last.process_s - first.process_s
    bound = (last.loop_s - first.loop_s) / seconds > CLIENT_BOUND
    return used_s / seconds, used_s / ended if ended else None, bound


def _drift(view: _View, applied: Applied, window: Window, confidence: float) -> tuple[float | None, bool]:
    """In closed loop rows/s may change; in open loop they are given, and latency may."""
    count = min(_DRIFT_BATCHES, int(view.good.sum()) // _LEAST_IN_SLICE)
    if count < 9:
        return None, False
    if applied.mode == "closed":
        batches = batch_rates(
            view.answered_s, view.answered_rows, start_s=window.start_s, stop_s=window.stop_s, count=count
        )
    else:
        values = (view.finished - view.intended)[view.good]
        batches = np.array([float(np.median(each)) for each in np.array_split(values, count)])
    found = drift(batches, confidence=confidence)
    if found is None:
        return None, False
    return found.share, found.significant and abs(found.share) > _DRIFT


def _piled_up(view: _View, applied: Applied, window: Window) -> bool:
    """Open loop: fewer were answered than came, and what is in flight grew from third to third."""
    if applied.mode == "closed" or not view.inside.any():
        return False
    third = window.seconds / 3
    flights = [
        _in_flight(view, window.start_s + part * third, window.start_s + (part + 1) * third)
        for part in range(3)
    ]
    grown = flights[2] - flights[0]
    return flights[0] < flights[1] < flights[2] and grown > max(4.0, 0.05 * int(view.inside.sum()))


def _in_flight(view: _View, start_s: float, stop_s: float) -> float:
    """Mean over the time between: what each request spent in it, added up."""
    spent = np.minimum(view.finished, stop_s) - np.maximum(view.sent, start_s)
    return float(np.clip(spent, 0.0, None).sum()) / (stop_s - start_s) if stop_s > start_s else 0.0


def _split(records: Records, view: _View) -> Split:
    """Means over the requests answered; what the endpoint does not tell is counted to the server."""

    def mean(values: "Array") -> float | None:
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else None

    def time(name: str) -> "Array":
        values: Array = records.time(name)[view.order][view.good]
        return values

    received, finished, intended = time("received"), time("finished"), time("intended")
    began, written, replied = time("began"), time("written"), time("replied")
    if np.isnan(began).all():
        sent = time("sent")
        return Split(
            waiting_s=mean(sent - intended),
            send_s=None,
            server_s=mean(received - sent),
            receive_s=None,
            decode_s=mean(finished - received),
        )
    return Split(
        waiting_s=mean(began - intended),
        send_s=mean(written - began),
        server_s=mean(replied - written),
        receive_s=mean(received - replied),
        decode_s=mean(finished - received),
    )


def _slices(view: _View, window: Window, began_s: float) -> tuple[Slice, ...]:
    answered = view.codes == 0
    ended = (view.finished >= window.start_s) & (view.finished < window.stop_s)
    count = min(_SLICES, int((ended & answered).sum()) // _LEAST_IN_SLICE)
    if count < 1 or window.seconds <= 0:
        return ()
    edges = np.linspace(window.start_s, window.stop_s, count + 1)
    rates = batch_rates(
        view.answered_s, view.answered_rows, start_s=window.start_s, stop_s=window.stop_s, count=count
    )
    place = np.clip(np.searchsorted(edges, view.finished, "right") - 1, 0, count - 1)
    took = view.finished - view.intended
    found = []
    for number in range(count):
        here = ended & (place == number)
        values = np.sort(took[here & answered])
        start_s, stop_s = float(edges[number]), float(edges[number + 1])
        found.append(
            Slice(
                start_s=start_s - began_s,
                stop_s=stop_s - began_s,
                rows_per_s=float(rates[number]),
                requests=len(values),
                errors=int((here & ~answered).sum()),
                p50_s=_nearest(values, 0.5),
                p95_s=_nearest(values, 0.95),
                max_s=float(values[-1]) if len(values) else None,
                in_flight=_in_flight(view, start_s, stop_s),
            )
        )
    return tuple(found)


def _nearest(ordered: "Array", share: float) -> float | None:
    return float(ordered[math.ceil(share * len(ordered)) - 1]) if len(ordered) else None


def _sample(view: _View, began_s: float, window: Window) -> Requests:
    step = max(1, math.ceil(len(view.intended) / _MOST_SAMPLES))

    def times(values: "Array") -> tuple[float, ...]:
        return tuple(round(float(each) - began_s, 6) for each in values[::step])

    inside = (view.intended >= window.start_s) & (view.intended < window.stop_s)
    return Requests(
        of=len(view.intended),
        intended_s=times(view.intended),
        sent_s=times(view.sent),
        finished_s=times(view.finished),
        rows=tuple(int(each) for each in view.rows[::step]),
        outcome=tuple(view.names[code] for code in view.codes[::step]),
        measured=tuple(bool(each) for each in inside[::step]),
    )


def _histogram(values: "Array") -> str | None:
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        return None
    histogram = HdrHistogram(1, _HISTOGRAM_MOST_US, 3)
    microseconds = np.clip(np.rint(values * 1e6), 1, _HISTOGRAM_MOST_US).astype(np.int64)
    for value, count in zip(*np.unique(microseconds, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    encoded: bytes = histogram.encode()
    return encoded.decode("ascii")
