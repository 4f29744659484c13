"""What the points of a bench amount to: the result. Pure, apart from asking for machine and versions."""

import shlex
import statistics as stats
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from asyncbatch.bench.answer import answer, best_point, warnings
from asyncbatch.bench.config import LoadConfig
from asyncbatch.bench.data import Rows
from asyncbatch.bench.knee import Finding, Setting
from asyncbatch.bench.measuring import pareto_front
from asyncbatch.bench.prices import autoscaling, costs, dollars_per_million_rows
from asyncbatch.bench.result import BenchResult, Budget, DataFacts, EndpointFacts, Knee, Point, RoundTrip
from asyncbatch.bench.slo import Condition, judge
from asyncbatch.bench.statistics import t_quantile
from asyncbatch.config import RunConfig
from asyncbatch.observe.machine import machine, versions
from asyncbatch.observe.text import without_credentials
from asyncbatch.pipeline.planning import Prepared

EXIT_DONE, EXIT_FAILED, EXIT_ASSERTION, EXIT_INTERRUPTED = 0, 1, 4, 130
ASSERTION_FAILED = "the assertion failed"


@dataclass(slots=True)
class Course:
    """What has been measured."""

    points: list[Point] = field(default_factory=list)
    unmeasured: int = 0
    """Points left out because requests piled up at lower rates."""
    reason: str = ""
    """Why it is partial."""
    interrupted: bool = False
    failed: bool = False
    """An error ended it."""
    finding: Finding | None = None
    words: str = ""
    """What the endpoint said in its first refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """With what it was measured."""

    config: RunConfig
    load: LoadConfig
    conditions: Sequence[Condition]
    command: str
    source: str
    endpoint: EndpointFacts
    prepared: Prepared
    rows: Rows
    budget: Budget
    round_trip: RoundTrip
    started_at: datetime
    elapsed_s: float


def conclude(course: Course, setup: Setup) -> BenchResult:
    """The result of what was measured, however far it came."""
    price = setup.load.price
    points = pareto_front(course.points)
    if price is not None:
        points = [
            replace(each, dollars_per_million_rows=dollars_per_million_rows(price, each)) for each in points
        ]
    knee = _knee(course, points, setup.load.confidence)
    best = best_point(points, objective=bool(setup.conditions))
    if knee is not None:
        best = points[knee.point] if knee.point is not None else None
    slo = ",".join(map(str, setup.conditions))
    failed_assertion = _failed_assertion(setup.load.assert_, best)
    options = {**setup.config.effective(), **setup.load.effective()}
    return BenchResult(
        command=setup.command,
        label=setup.load.label or setup.endpoint.name,
        started_at=setup.started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        elapsed_s=setup.elapsed_s,
        versions=versions(),
        machine=machine(),
        seed=setup.load.seed,
        confidence=setup.load.confidence,
        options={
            name: without_credentials(value) if isinstance(value, str) else value
            for name, value in options.items()
        },
        endpoint=setup.endpoint,
        data=_data(setup),
        round_trip=setup.round_trip,
        budget=setup.budget,
        slo=slo,
        points=tuple(points),
        best=best.number if best is not None else None,
        knee=knee,
        price=costs(price, best, points) if price is not None else None,
        autoscaling=autoscaling(best, instances=setup.load.instances) if setup.load.instances else None,
        answer=answer(
            points,
            best,
            slo=slo,
            knee=knee,
            dollars_per_million_rows=best.dollars_per_million_rows if best is not None else None,
        ),
        partial=bool(course.reason),
        partial_reason=course.reason,
        exit_code=_exit_code(course, failed_assertion),
        warnings=(*([failed_assertion] if failed_assertion else []), *_warnings(course, points, setup)),
    )


def _exit_code(course: Course, failed_assertion: str) -> int:
    if course.interrupted:
        return EXIT_INTERRUPTED
    if course.failed or not any(each.rows_per_s > 0 for each in course.points):
        return EXIT_FAILED
    return EXIT_ASSERTION if failed_assertion else EXIT_DONE


def _failed_assertion(conditions: Sequence[Condition], best: Point | None) -> str:
    """Why `--assert` does not hold; empty if it does. What cannot be told does not hold."""
    if not conditions:
        return ""
    if best is None:
        return f"{ASSERTION_FAILED}: there is no best point"
    held, missed = judge(conditions, best)
    return "" if held else f"{ASSERTION_FAILED}: {missed}"


def _warnings(course: Course, points: Sequence[Point], setup: Setup) -> list[str]:
    shared = setup.endpoint.local and setup.endpoint.kind != "python"
    found = warnings(points, local=shared, one_row_s=setup.round_trip.one_row_s)
    if course.unmeasured:
        found.append(
            f"{course.unmeasured} higher rates were left out: requests piled up at lower ones already"
        )
    if course.words:
        found.append(f"the first refusal was: {course.words}")
    return found


def _knee(course: Course, points: Sequence[Point], confidence: float) -> Knee | None:
    finding = course.finding
    if finding is None:
        return None
    best = None
    if finding.best is not None:
        at_best = (each for each in points if each.repeats is None and _is_at(each, finding.best))
        best = next(at_best, None)
    again = [each for each in points if best is not None and each.repeats == best.number]
    again = again[len(again) - len(finding.replicates) :]  # those before were part of the search
    values = [each.rows_per_s for each in again] or ([best.rows_per_s] if best is not None else [])
    centre = stats.mean(values) if values else None
    half = None
    if len(values) > 1:
        quantile = t_quantile(0.5 + confidence / 2, len(values) - 1)
        half = quantile * stats.stdev(values) / len(values) ** 0.5
    return Knee(
        verdict=finding.verdict,
        limited_by=finding.limited_by,
        point=best.number if best is not None else None,
        replicates=tuple(each.number for each in again),
        confirmed=finding.confirmed,
        rows_per_s=centre,
        rows_per_s_low=None if half is None or centre is None else max(0.0, centre - half),
        rows_per_s_high=None if half is None or centre is None else centre + half,
        why=finding.why,
    )


def _data(setup: Setup) -> DataFacts:
    probes = setup.prepared.probes
    batches = setup.prepared.endpoint.takes_batches
    return DataFacts(
        source=setup.source,
        rows=setup.rows.distinct,
        rows_total=setup.rows.total,
        bytes_per_row=probes.body_bytes_per_row,
        reply_bytes_per_row=probes.reply_bytes_per_row,
        body="rows" if batches else setup.config.request.body,
        columns=setup.prepared.selection.send,
    )


def _is_at(point: Point, setting: Setting) -> bool:
    return (point.chunk_rows, point.concurrency) == (setting.rows, setting.concurrency)


def shown_command(words: Sequence[str]) -> str:
    """The command line with what may be secret left out."""
    shown, hidden = [], False
    for word in words:
        if hidden:
            name = word.partition(":")[0]
            word, hidden = f"{name}: …", False
        elif word in ("-H", "--header"):
            hidden = True
        elif word.startswith("--header="):
            word = f"--header={word.removeprefix('--header=').partition(':')[0]}: …"
        elif word.startswith("-H") and not word.startswith("--"):
            word = f"-H{word[2:].partition(':')[0]}: …"
        shown.append(without_credentials(word))
    return shlex.join(shown)
