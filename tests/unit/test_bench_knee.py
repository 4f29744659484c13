"""The search for the best setting, against endpoints whose answer is a formula."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from asyncbatch.bench.knee import Finding, Measured, Setting, find_knee, most_points
from asyncbatch.units import IntRange

ROWS, FLIGHT = IntRange(1, 8192), IntRange(1, 128)


@dataclass(frozen=True, kw_only=True)
class Formula:
    """rows/s = min(k, slots) * n / (call + row * n); a wait in line beyond the slots."""

    call: float = 0.02
    row: float = 1e-4
    slots: int = 8
    slo_s: float | None = None
    bend: int | None = None
    most_rows: int | None = None
    most_flight: int | None = None

    def __call__(self, setting: Setting, noise: Callable[[], float] = lambda: 1.0) -> Measured:
        if self.most_rows is not None and setting.rows > self.most_rows:
            return Measured(rows_per_s=0, p95_s=None, error_share=1.0, feasible=False, missed="errors 100%")
        seconds = self.call + self.row * setting.rows
        if self.bend is not None:
            seconds += 1e-6 * max(0, setting.rows - self.bend) ** 2
        errors = 0.0
        if self.most_flight is not None and setting.concurrency > self.most_flight:
            errors = 1 - self.most_flight / setting.concurrency
        p95 = 1.1 * seconds * max(1.0, setting.concurrency / self.slots) * noise()
        rate = min(setting.concurrency, self.slots) * setting.rows / seconds * (1 - errors) * noise()
        missed = "errors" if errors > 0.01 else "p95" if self.slo_s is not None and p95 >= self.slo_s else ""
        return Measured(rows_per_s=rate, p95_s=p95, error_share=errors, feasible=not missed, missed=missed)

    def best(self, rows: IntRange = ROWS, flight: IntRange = FLIGHT) -> float:
        sizes = sorted({min(rows.high, max(rows.low, round(1.02**step))) for step in range(500)})
        settings = (Setting(rows=n, concurrency=k) for n in sizes for k in range(flight.low, flight.high + 1))
        return max(found.rows_per_s for found in map(self, settings) if found.feasible)


def search(
    formula: Formula, *, seed: int, noise: float = 0.01, rows: IntRange = ROWS, flight: IntRange = FLIGHT
) -> tuple[Finding, list[Setting]]:
    rng, asked = random.Random(seed), []
    steps = find_knee(rows, flight)
    setting, _ = next(steps)
    while True:
        asked.append(setting)
        try:
            setting, _ = steps.send(formula(setting, lambda: 1 + rng.gauss(0, noise)))
        except StopIteration as ended:
            return ended.value, asked


CASES = {
    "one row costs little": Formula(),
    "an objective": Formula(slo_s=0.2),
    "many slots": Formula(slots=24, slo_s=0.3),
    "large requests cost more": Formula(bend=500),
    "short calls": Formula(call=0.005, row=1e-5, slots=3, slo_s=0.05),
    "refuses a crowd": Formula(most_flight=20),
    "memory ends": Formula(most_rows=3000),
}


@pytest.mark.parametrize("name", CASES)
def test_the_best_setting_is_found_within_5_percent(name: str) -> None:
    formula = CASES[name]
    truth = formula.best()
    shares = []
    for seed in range(20):
        finding, asked = search(formula, seed=seed)
        assert finding.best is not None
        shares.append(formula(finding.best).rows_per_s / truth)
        assert len(asked) < 75
    assert sum(share < 0.95 for share in shares) <= 1
    assert min(shares) > 0.9


def test_no_more_requests_are_in_flight_than_bring_something() -> None:
    for seed in range(10):
        finding, _ = search(Formula(), seed=seed)
        assert finding.best is not None
        assert 8 <= finding.best.concurrency <= 9
        finding, _ = search(Formula(slots=20), seed=seed, rows=IntRange(100, 100))
        assert finding.best is not None
        assert 19 <= finding.best.concurrency <= 21


def test_the_verdict_says_what_limits_it() -> None:
    knee, _ = search(Formula(slo_s=0.2), seed=1)
    assert (knee.verdict, knee.limited_by, knee.confirmed) == ("knee", "slo", True)
    flat, _ = search(Formula(bend=500), seed=1)
    assert flat.verdict in ("knee", "cliff")
    rising, _ = search(Formula(slots=500), seed=1, rows=IntRange(100, 100))
    assert (rising.verdict, rising.limited_by) == ("no knee in range", "range")
    assert rising.best is not None
    assert rising.best.concurrency > 110
    cliff, _ = search(Formula(most_rows=3000), seed=1)
    assert (cliff.verdict, cliff.limited_by) == ("cliff", "errors")
    assert "100 % of requests fail" in cliff.why
    saturated, _ = search(Formula(), seed=1, rows=IntRange(100, 100))
    assert (saturated.verdict, saturated.limited_by) == ("knee", "saturation")


def test_an_objective_that_nothing_meets_is_said() -> None:
    finding, asked = search(Formula(slo_s=0.001), seed=1)
    assert (finding.verdict, finding.best) == ("none feasible", None)
    assert "p95" in finding.why
    assert len(asked) < 10


def test_a_lucky_best_is_dropped_when_its_replicates_miss_the_objective() -> None:
    calls: dict[Setting, int] = {}

    def flaky(setting: Setting) -> Measured:
        calls[setting] = calls.get(setting, 0) + 1
        lucky = setting.concurrency == 16 and calls[setting] == 1
        rate = min(setting.concurrency, 8) * 1000.0 * (2 if lucky else 1)
        late = setting.concurrency > 8 and not lucky
        return Measured(rows_per_s=rate, p95_s=0.1, feasible=not late, missed="p95" if late else "")

    steps = find_knee(IntRange(1, 1), IntRange(1, 64))
    setting, _ = next(steps)
    try:
        while True:
            setting, _ = steps.send(flaky(setting))
    except StopIteration as ended:
        finding = ended.value
    assert finding.best == Setting(rows=1, concurrency=8)
    assert finding.confirmed


def test_replicates_that_differ_do_not_confirm() -> None:
    finding, _ = search(Formula(), seed=3, noise=0.15)
    assert not finding.confirmed


def test_a_search_announces_at_least_about_what_it_takes() -> None:
    for rows, flight in ((ROWS, FLIGHT), (IntRange(100, 100), FLIGHT), (ROWS, IntRange(4, 4))):
        most = most_points(rows, flight, replicates=3)
        for formula in CASES.values():
            _, asked = search(formula, seed=2, rows=rows, flight=flight)
            assert len(asked) <= 1.3 * most
