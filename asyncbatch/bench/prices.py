"""What rows cost, by a stated price and the figures measured; and beside it what the usual alternatives would cost.

Prices are the user's: they differ by region and contract. Every assumption is in the result, in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from asyncbatch.bench.result import Autoscaling, Cost, Costs, Point
from asyncbatch.errors import ConfigError

BILLION = 1_000_000_000
LOOP_ROWS = 100
"""Rows of a request in the loop that people write: one request at a time, 100 rows each."""
JOB_START_S = 300.0
"""Assumed: instances of a Batch Transform job are billed while they start, about five minutes."""
SAFETY = 0.5
"""AWS's own advice for a first scaling target: half of what an instance was measured to take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """As stated: of an hour of an instance, or of a GB-second of a serverless endpoint."""

    per_hour: float | None = None
    instances: int = 1
    per_gb_second: float | None = None
    memory_gb: float = 2.0

    @property
    def basis(self) -> str:
        """`$1.2/h x 2 instances`."""
        if self.per_hour is not None:
            return f"${self.per_hour:g}/h x {self.instances} {'instance' if self.instances == 1 else 'instances'}"
        return f"${self.per_gb_second:g} a GB-second x {self.memory_gb:g} GB"

    def dollars(self, *, seconds: float, busy_request_s: float) -> float:
        """Of `seconds` of load in which requests were worked on for `busy_request_s` seconds in sum."""
        if self.per_hour is not None:
            return self.per_hour * self.instances * seconds / 3600
        return (self.per_gb_second or 0.0) * self.memory_gb * busy_request_s


def stated_price(
    *, per_hour: float | None, instances: int | None, per_gb_second: float | None, memory_gb: float | None
) -> Price | None:
    """The price that the options state; None without one.

    Raises:
        ConfigError: options of both kinds, or a number of things without their price.
    """
    if per_hour is not None and per_gb_second is not None:
        raise ConfigError(
            "--price-per-hour and --price-gb-second exclude each other",
            hint="instances are paid by the hour, serverless endpoints by the GB-second",
        )
    if memory_gb is not None and per_gb_second is None:
        raise ConfigError("--memory-gb needs a price", hint="add --price-gb-second")
    if per_hour is not None:
        return Price(per_hour=per_hour, instances=instances or 1)
    if per_gb_second is not None:
        return Price(per_gb_second=per_gb_second, memory_gb=memory_gb or 2.0)
    return None


def dollars_per_million_rows(price: Price, point: Point) -> float | None:
    """Of rows sent at this point's setting; None if none were answered."""
    return None if (found := _of(price, point, 1_000_000)) is None else found[1]


def costs(price: Price, best: Point | None, points: Sequence[Point]) -> Costs:
    """One billion rows at the best setting, by the usual loop, and by a Batch Transform job on the same instances."""
    found = []
    if best is not None and (ours := _of(price, best, BILLION)) is not None:
        what = f"{best.chunk_rows:,} rows x {best.concurrency or 'open loop'}"
        found.append(_cost("asyncbatch run", ours, f"at {what}, the endpoint billed while the run lasts"))
    found.append(_loop(price, points))
    found.append(_transform(price, best))
    return Costs(basis=price.basis, rows=BILLION, costs=tuple(found))


def autoscaling(best: Point | None, *, instances: int) -> Autoscaling | None:
    """A target for SageMaker's request-counting metric, from the best point; None without one."""
    if best is None or not best.requests_per_s:
        return None
    return Autoscaling(
        policy="SageMakerVariantInvocationsPerInstance",
        target=round(best.requests_per_s * 60 / instances * SAFETY, 1),
        instances=instances,
        chunk_rows=best.chunk_rows,
        note=(
            f"requests a minute of one instance, {SAFETY:.0%} of what was measured. The metric counts requests, not rows:"
            f" it holds for {best.chunk_rows:,} rows a request only, and larger requests bring fewer of them,"
            " so that a batch run may not scale out, or even in"
        ),
    )


def _of(price: Price, point: Point, rows: int) -> tuple[float, float] | None:
    """Seconds and dollars of `rows` rows at a point."""
    if not point.rows_per_s:
        return None
    seconds = rows / point.rows_per_s
    server_s = point.split.server_s if point.split.server_s is not None else point.latency_from_send.mean_s
    if price.per_hour is None and server_s is None:
        return None
    return seconds, price.dollars(seconds=seconds, busy_request_s=rows / point.chunk_rows * (server_s or 0.0))


def _loop(price: Price, points: Sequence[Point]) -> Cost:
    who = f"a loop of {LOOP_ROWS} rows a call"
    alone = {
        point.chunk_rows: point.latency_from_send.mean_s
        for point in points
        if point.concurrency == 1 and point.latency_from_send.mean_s
    }
    request_s = _line(alone, LOOP_ROWS)
    if request_s is None:
        return Cost(
            who=who,
            seconds=None,
            dollars=None,
            assumption=f"not known: it needs {LOOP_ROWS} rows x 1 measured, or two sizes around it with --concurrency 1",
        )
    seconds = BILLION / LOOP_ROWS * request_s
    dollars = price.dollars(seconds=seconds, busy_request_s=seconds)
    how = "as measured" if LOOP_ROWS in alone else "by the straight line through the sizes measured"
    return _cost(who, (seconds, dollars), f"one request in flight, {how}; the loop's own work not counted")


def _transform(price: Price, best: Point | None) -> Cost:
    who = "a Batch Transform job"
    if price.per_hour is None or best is None or not best.rows_per_s:
        why = "not known: its instances are paid by the hour" if price.per_hour is None else "not known"
        return Cost(who=who, seconds=None, dollars=None, assumption=why)
    seconds = BILLION / best.rows_per_s + JOB_START_S
    assumption = (
        f"the same instances at the rate of the best point, and {JOB_START_S / 60:g} minutes for them to start;"
        " the price of an hour taken to be the same"
    )
    return _cost(who, (seconds, price.dollars(seconds=seconds, busy_request_s=0.0)), assumption)


def _cost(who: str, found: tuple[float, float], assumption: str) -> Cost:
    return Cost(who=who, seconds=found[0], dollars=found[1], assumption=assumption)


def _line(measured: dict[int, float], rows: int) -> float | None:
    """Seconds of a request of `rows` rows: as measured, or between the nearest sizes on both sides."""
    if rows in measured:
        return measured[rows]
    below = max((each for each in measured if each < rows), default=None)
    above = min((each for each in measured if each > rows), default=None)
    if below is None or above is None:
        return None
    share = (rows - below) / (above - below)
    return measured[below] + share * (measured[above] - measured[below])
