"""The search for the most rows/s that an endpoint gives within an objective. Pure: it asks for settings, and is told figures.

First rows of a request are raised with few requests in flight, then the requests in flight; then both are moved by ever
smaller steps around the best, also against each other. The best of many noisy figures is the luckiest of them, so it is
measured again, and the verdict is about those replicates.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Literal, TypeAlias

from asyncbatch.bench.result import KneeVerdict
from asyncbatch.bench.schedule import geometric
from asyncbatch.units import IntRange

TOLERANCE = 0.02
"""More requests in flight that bring less than this are not worth their wait."""
_ROW_STEP, _FLIGHT_STEP = 4.0, 2.0
_FINE_STEPS = (2**0.5, 2**0.25, 2**0.125)
_FALLS = 2
"""Steps without a gain after which more load is not tried."""
_COLLAPSE, _COLLAPSE_ERRORS, _COLLAPSE_STEP = 0.7, 0.1, 2.05
"""A cliff: within twice the load, less than this share of the best rows/s, or more than this share of errors."""
_AGREE = 0.05
_CANDIDATES, _MOVES, _RUNNERS = 4, 6, 4
_DOUBT_STEP = 1.3
_EDGE = 1.15
"""So near to the end of the range the best is at it: the last step is a matter of luck."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Setting:
    """What is tried: rows of a request, requests in flight."""

    rows: int
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a setting gave."""

    rows_per_s: float
    p95_s: float | None
    error_share: float = 0.0
    feasible: bool = True
    """Within the objective."""
    missed: str = ""
    """The condition that did not hold, in words."""
    sure: bool = True
    """The sample was large enough to tell whether it is feasible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the search found."""

    verdict: KneeVerdict
    limited_by: Literal["saturation", "slo", "errors", "range", "nothing"]
    best: Setting | None
    replicates: tuple[Measured, ...]
    confirmed: bool
    why: str


Search: TypeAlias = Generator["tuple[Setting, bool]", Measured, Finding]
"""Yields a setting and whether it is measured again on purpose; is sent what it gave."""


def most_points(rows: IntRange, concurrency: IntRange, *, replicates: int) -> int:
    """About as many settings as a search measures at most, for the announcement."""
    climbs = _climb_length(rows, _ROW_STEP) + _climb_length(concurrency, _FLIGHT_STEP)
    free = (rows.low < rows.high) + (concurrency.low < concurrency.high)
    return climbs + 5 * free * (free + 1) + replicates


def find_knee(rows: IntRange, concurrency: IntRange, *, replicates: int = 3) -> Search:
    """Search `rows` x `concurrency`."""
    seen: dict[Setting, Measured] = {}
    best = yield from _climb(seen, _row_ladder(rows, concurrency.low))
    if best is not None:
        best = yield from _climb(seen, _flight_ladder(best.rows, concurrency))
    if best is not None:
        yield from _refine(seen, rows, concurrency)
        yield from _race(seen)
        yield from _narrow(seen, concurrency)
    return (yield from _conclude(seen, rows, concurrency, replicates))


def _row_ladder(rows: IntRange, concurrency: int) -> tuple[Setting, ...]:
    return tuple(
        Setting(rows=each, concurrency=concurrency)
        for each in geometric(rows.low, rows.high, factor=_ROW_STEP)
    )


def _flight_ladder(rows: int, concurrency: IntRange) -> tuple[Setting, ...]:
    steps = geometric(concurrency.low, concurrency.high, factor=_FLIGHT_STEP)
    return tuple(Setting(rows=rows, concurrency=each) for each in steps)


def _climb_length(bounds: IntRange, factor: float) -> int:
    return len(geometric(bounds.low, bounds.high, factor=factor))


def _ask(
    seen: dict[Setting, Measured], setting: Setting
) -> Generator[tuple[Setting, bool], Measured, Measured]:
    if setting not in seen:
        seen[setting] = yield setting, False
    return seen[setting]


def _climb(
    seen: dict[Setting, Measured], ladder: tuple[Setting, ...]
) -> Generator[tuple[Setting, bool], Measured, Setting | None]:
    """Step by step up the ladder until the objective is missed or steps bring nothing; the best so far."""
    falls, most = 0, 0.0
    for setting in ladder:
        found = yield from _ask(seen, setting)
        if not found.feasible and most > 0:
            break
        falls = 0 if found.rows_per_s > most * (1 + TOLERANCE) else falls + 1
        most = max(most, found.rows_per_s if found.feasible else 0.0)
        if falls > _FALLS:
            break
    return _best(seen)


def _refine(
    seen: dict[Setting, Measured], rows: IntRange, concurrency: IntRange
) -> Generator[tuple[Setting, bool], Measured, None]:
    """Move to a better neighbour as long as there is one; then the same with smaller steps."""
    for step in _FINE_STEPS:
        doubted: set[Setting] = set()
        for _ in range(_MOVES):
            best = _best(seen)
            assert best is not None
            for near in _neighbours(best, step, rows, concurrency):
                yield from _ask(seen, near)
            if _best(seen) != best:
                continue
            close = [
                near
                for near in _neighbours(best, step, rows, concurrency)
                if near.rows > best.rows and near not in doubted and _is_close(seen[near], seen[best])
            ]
            if not close or step < _DOUBT_STEP:
                break
            for setting in (best, *close):  # a gain of a few percent may have been hidden by bad luck
                doubted.add(setting)
                seen[setting] = _both(seen[setting], (yield setting, True))


def _is_close(found: Measured, best: Measured) -> bool:
    return found.feasible and found.rows_per_s >= best.rows_per_s * (1 - 2 * TOLERANCE)


def _both(first: Measured, second: Measured) -> Measured:
    """Two measurements of one setting."""
    known = [each.p95_s for each in (first, second) if each.p95_s is not None]
    return Measured(
        rows_per_s=(first.rows_per_s + second.rows_per_s) / 2,
        p95_s=mean(known) if known else None,
        error_share=max(first.error_share, second.error_share),
        feasible=first.feasible and second.feasible,
        missed=first.missed or second.missed,
        sure=first.sure and second.sure,
    )


def _neighbours(setting: Setting, step: float, rows: IntRange, concurrency: IntRange) -> Iterator[Setting]:
    """A step along each axis and two across; more load before less of it."""
    for along, across in ((step, 1.0), (1.0, step), (1 / step, step), (step, 1 / step), (1 / step, 1.0)):
        near = Setting(
            rows=_within(rows, setting.rows, along),
            concurrency=_within(concurrency, setting.concurrency, across),
        )
        if near != setting:
            yield near


def _within(bounds: IntRange, value: int, factor: float) -> int:
    """`value` times `factor`, at least one away if it is to change, inside the bounds."""
    moved = value if factor == 1 else round(value * factor)
    if factor > 1:
        moved = max(moved, value + 1)
    elif factor < 1:
        moved = min(moved, value - 1)
    return min(max(moved, bounds.low), bounds.high)


def _narrow(
    seen: dict[Setting, Measured], concurrency: IntRange
) -> Generator[tuple[Setting, bool], Measured, None]:
    """The fewest requests in flight that are as good as the best, to 4 %: more only wait."""
    best = _best(seen)
    if best is None:
        return
    most = _level(found for setting, found in seen.items() if setting.rows == best.rows and found.feasible)
    fewer = [
        each.concurrency for each in seen if each.rows == best.rows and each.concurrency < best.concurrency
    ]
    low, high = max([concurrency.low - 1, *fewer]), best.concurrency
    while high - low > max(1, high // 25):
        middle = (low + high) // 2
        found = yield from _ask(seen, Setting(rows=best.rows, concurrency=middle))
        good = found.feasible and found.rows_per_s >= most * (1 - TOLERANCE)
        low, high = (low, middle) if good else (middle, high)


def _best(seen: dict[Setting, Measured]) -> Setting | None:
    """The setting with the most rows/s, with as few requests in flight as give them."""
    fewest = _fewest(seen)
    return max(fewest, key=lambda each: fewest[each].rows_per_s, default=None)


def _fewest(seen: dict[Setting, Measured]) -> dict[Setting, Measured]:
    """For each size of request that is feasible, the fewest in flight that are as good as any."""
    feasible = {setting: found for setting, found in seen.items() if found.feasible and found.rows_per_s > 0}
    fewest = {}
    for rows in {setting.rows for setting in feasible}:
        alike = [setting for setting in feasible if setting.rows == rows]
        most = _level(feasible[setting] for setting in alike)
        enough = (setting for setting in alike if feasible[setting].rows_per_s >= most * (1 - TOLERANCE))
        least = min(enough, key=lambda each: each.concurrency)
        fewest[least] = feasible[least]
    return fewest


def _race(seen: dict[Setting, Measured]) -> Generator[tuple[Setting, bool], Measured, None]:
    """Measure the few best again: the first of them may only have been the luckiest."""
    fewest = _fewest(seen)
    ordered = sorted(fewest, key=lambda each: -fewest[each].rows_per_s)[:_RUNNERS]
    close = [each for each in ordered if _is_close(fewest[each], fewest[ordered[0]])]
    for setting in close if len(close) > 1 else ():
        seen[setting] = _both(seen[setting], (yield setting, True))


def _level(alike: Iterable[Measured]) -> float:
    """The rows/s of those that are about the best: their mean, since the highest of them is only the luckiest."""
    rates = [each.rows_per_s for each in alike]
    return mean(rate for rate in rates if rate >= max(rates) * (1 - 2 * TOLERANCE))


def _conclude(
    seen: dict[Setting, Measured], rows: IntRange, concurrency: IntRange, replicates: int
) -> Search:
    """Measure the best again; if it does not hold, the next best."""
    tried = dict(seen)
    for _ in range(_CANDIDATES):
        best = _best(tried)
        if best is None:
            break
        again: list[Measured] = []
        for _ in range(replicates):
            again.append((yield best, True))  # noqa: PERF401  # a comprehension cannot yield
        held = sum(each.feasible for each in again)
        if replicates and held * 2 < replicates:
            del tried[best]  # it was luck
            continue
        verdict, limited_by, why = _verdict(seen, best, rows, concurrency)
        return Finding(
            verdict=verdict,
            limited_by=limited_by,
            best=best,
            replicates=tuple(again),
            confirmed=held == replicates and all(each.sure for each in again) and _agree(again),
            why=why,
        )
    missed = next((found.missed for found in seen.values() if found.missed), "")
    return Finding(
        verdict="none feasible",
        limited_by="nothing",
        best=None,
        replicates=(),
        confirmed=False,
        why="no setting met the objective" + (f": {missed} with the least load" if missed else ""),
    )


def _agree(again: list[Measured]) -> bool:
    centre = mean(each.rows_per_s for each in again) if again else 0.0
    return all(abs(each.rows_per_s - centre) <= _AGREE * centre for each in again)


def _verdict(
    seen: dict[Setting, Measured], best: Setting, rows: IntRange, concurrency: IntRange
) -> tuple[KneeVerdict, Literal["saturation", "slo", "errors", "range"], str]:
    most = seen[best].rows_per_s
    beyond = [(each, found) for each, found in seen.items() if _is_beyond(each, best)]
    for setting, found in beyond:
        fell = found.rows_per_s < _COLLAPSE * most
        if _is_near(setting, best) and (fell or found.error_share > _COLLAPSE_ERRORS):
            what = (
                f"{found.error_share * 100:.0f} % of requests fail"
                if found.error_share > _COLLAPSE_ERRORS
                else f"rows/s fall by {(1 - found.rows_per_s / most) * 100:.0f} %"
            )
            where = f"{setting.rows:,} rows x {setting.concurrency}"
            return (
                "cliff",
                "errors" if found.error_share > _COLLAPSE_ERRORS else "saturation",
                f"at {where} {what}",
            )
    edges = [
        name
        for name, value, bounds, rises in _edges(seen, best, rows, concurrency)
        if value * _EDGE >= bounds.high and rises
    ]
    if edges:
        return (
            "no knee in range",
            "range",
            f"{' and '.join(edges)} ended at the top of the range while rows/s still rose",
        )
    missing = [found for _, found in beyond if not found.feasible]
    if missing and all(found.rows_per_s > most * (1 - TOLERANCE) or found.missed for found in missing):
        reason = missing[0].missed or "the objective is missed"
        limited: Literal["slo", "errors"] = "errors" if reason.startswith("errors") else "slo"
        return "knee", limited, f"with more load: {reason}"
    return "knee", "saturation", "more load brings no more rows/s, only longer waits"


def _is_beyond(setting: Setting, best: Setting) -> bool:
    return setting != best and setting.rows >= best.rows and setting.concurrency >= best.concurrency


def _is_near(setting: Setting, best: Setting) -> bool:
    return (
        setting.rows <= best.rows * _COLLAPSE_STEP
        and setting.concurrency <= best.concurrency * _COLLAPSE_STEP
    )


def _edges(
    seen: dict[Setting, Measured], best: Setting, rows: IntRange, concurrency: IntRange
) -> Iterator[tuple[str, int, IntRange, bool]]:
    """Each free axis: its name, the best's place on it, its range, and whether rows/s rose up to there."""
    most = seen[best].rows_per_s
    if rows.low < rows.high:
        below = [
            f.rows_per_s
            for s, f in seen.items()
            if s.concurrency == best.concurrency and s.rows < best.rows / 1.3
        ]
        yield "rows of a request", best.rows, rows, not below or max(below) < most * (1 - _AGREE)
    if concurrency.low < concurrency.high:
        below = [
            f.rows_per_s
            for s, f in seen.items()
            if s.rows == best.rows and s.concurrency < best.concurrency / 1.3
        ]
        yield (
            "requests in flight",
            best.concurrency,
            concurrency,
            not below or max(below) < most * (1 - _AGREE),
        )
