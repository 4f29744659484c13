"""Bench results made by hand, for what reads them: reports and comparisons."""

from collections.abc import Callable
from typing import Any

import pytest

from asyncbatch.bench.result import (
    BenchResult,
    Budget,
    DataFacts,
    EndpointFacts,
    Latency,
    Percentile,
    Point,
    Requests,
    RoundTrip,
    Slice,
    Split,
)
from asyncbatch.observe.machine import Machine


def _latency(p95_s: float | None, spread: float) -> Latency:
    def percentile(percent: float, factor: float) -> Percentile:
        if p95_s is None or percent == 99.9:
            return Percentile(percent=percent, seconds=None, low_s=None, high_s=None)
        seconds = p95_s * factor
        return Percentile(
            percent=percent, seconds=seconds, low_s=seconds / (1 + spread), high_s=seconds * (1 + spread)
        )

    return Latency(
        count=500,
        effective_count=400.0,
        mean_s=p95_s and p95_s * 0.6,
        min_s=p95_s and p95_s * 0.3,
        max_s=p95_s and p95_s * 2,
        percentiles=tuple(
            percentile(*each) for each in ((50.0, 0.5), (90.0, 0.8), (95.0, 1.0), (99.0, 1.4), (99.9, 2.0))
        ),
        spectrum=()
        if p95_s is None
        else tuple((at, p95_s * (0.3 + at / 120)) for at in (0.0, 50.0, 90.0, 95.0, 99.0)),
        histogram=None,
    )


@pytest.fixture
def make_point() -> Callable[..., Point]:
    """A point: `number`, `chunk_rows`, `concurrency`, `rows_per_s`, and what differs from a quiet measurement."""

    def make(
        number: int = 0,
        *,
        chunk_rows: int = 100,
        concurrency: int | None = 4,
        rows_per_s: float = 1000.0,
        spread: float = 0.02,
        p95_s: float | None = 0.2,
        **more: Any,
    ) -> Point:
        rate = rows_per_s / chunk_rows
        values: dict[str, Any] = {
            "number": number,
            "mode": "closed" if concurrency is not None else "poisson",
            "chunk_rows": chunk_rows,
            "concurrency": concurrency,
            "rate": None if concurrency is not None else rate,
            "repeats": None,
            "rows_per_s": rows_per_s,
            "rows_per_s_low": rows_per_s / (1 + spread) if spread else None,
            "rows_per_s_high": rows_per_s * (1 + spread) if spread else None,
            "mb_per_s": rows_per_s / 5000,
            "mb_per_s_low": None,
            "mb_per_s_high": None,
            "requests_per_s": rate,
            "seconds": 30.0,
            "warmup_s": 5.0,
            "cooldown_s": 1.0,
            "requests": int(rate * 30),
            "rows": int(rows_per_s * 30),
            "errors": {},
            "error_share": 0.0,
            "throttled": 0,
            "unfinished": 0,
            "latency": _latency(p95_s, spread),
            "latency_from_send": _latency(None if p95_s is None else p95_s * 0.9, spread),
            "split": Split(waiting_s=0.001, send_s=0.0004, server_s=0.1, receive_s=0.0002, decode_s=0.0003),
            "late_p99_s": 0.002,
            "in_flight": float(concurrency or 3),
            "in_flight_max": concurrency or 9,
            "client_cpu_share": 0.12,
            "client_cpu_s_per_request": 0.0002,
            "client_bound": False,
            "drift": 0.01,
            "drifts": False,
            "saturated": False,
            "stopped_by": "duration",
            "slo_met": None,
            "slo_missed": "",
            "on_pareto_front": True,
            "dollars_per_million_rows": None,
            "slices": tuple(
                Slice(
                    start_s=5.0 + at,
                    stop_s=6.0 + at,
                    rows_per_s=rows_per_s + at,
                    requests=10,
                    errors=0,
                    p50_s=0.1,
                    p95_s=p95_s,
                    max_s=0.5,
                    in_flight=4.0,
                )
                for at in range(6)
            ),
            "sample": Requests(
                of=20,
                intended_s=(0.0, 0.1, 0.2),
                sent_s=(0.0, 0.11, 0.2),
                finished_s=(0.15, 0.2, 0.5),
                rows=(chunk_rows,) * 3,
                outcome=("success", "throttled", "success"),
                measured=(False, True, True),
            ),
        }
        return Point(**{**values, **more})

    return make


@pytest.fixture
def make_result() -> Callable[..., BenchResult]:
    """A result of the points given; the first with the most rows a second is the best."""

    def make(*points: Point, **more: Any) -> BenchResult:
        best = max(points, key=lambda point: point.rows_per_s, default=None)
        values: dict[str, Any] = {
            "command": "asyncbatch bench rows.parquet -e churn",
            "label": "churn",
            "started_at": "2026-01-02T03:04:05.000Z",
            "elapsed_s": 62.0,
            "versions": {"asyncbatch": "1", "python": "3.12"},
            "machine": Machine(platform="Linux", cores=2),
            "seed": 7,
            "confidence": 0.95,
            "options": {},
            "endpoint": EndpointFacts(name="churn", kind="sagemaker", local=False, variant="AllTraffic"),
            "data": DataFacts(
                source="rows.parquet",
                rows=1000,
                rows_total=50_000,
                bytes_per_row=203.0,
                reply_bytes_per_row=9.0,
                body="csv",
                columns=("a", "b"),
            ),
            "round_trip": RoundTrip(connect_s=0.001, one_row_s=0.02),
            "budget": Budget(requests=None, seconds=60.0, points=len(points), dollars=None),
            "slo": "",
            "points": points,
            "best": None if best is None else best.number,
            "knee": None,
            "answer": "best: 100 rows x 4 in flight",
            "partial": False,
            "partial_reason": "",
            "exit_code": 0,
            "warnings": (),
        }
        return BenchResult(**{**values, **more})

    return make
