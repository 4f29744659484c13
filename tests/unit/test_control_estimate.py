"""The least time of a run by its limits: which of them binds, in numbers that can be checked by hand."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.control.estimate import Estimate, Limits, ServiceTime, estimate

SERVICE = ServiceTime(fixed_s=0.1, row_s=0.001)
"""A request of 400 rows takes half a second."""
LIMITS = Limits(chunk_rows=400, chunk_rows_given=True)


def of(limits: Limits, *, rows: int | None = 40_000, block_rows: int = 4_000, **more: Any) -> Estimate:
    options = {"body_row_bytes": 100.0, "memory_row_bytes": 1_000.0, **more}
    return estimate(SERVICE, limits, rows=rows, block_rows=block_rows, **options)


@pytest.mark.parametrize(
    ("limits", "binds", "rows_per_s", "at_once", "seconds"),
    [
        (replace(LIMITS, rate=2.0), "rate", 800, 1, 50),
        (replace(LIMITS, rate=8.0), "rate", 3_200, 4, 12.5),
        (replace(LIMITS, row_rate=1_000.0), "row_rate", 1_000, 1.25, 40),
        (replace(LIMITS, concurrency=4, concurrency_given=True), "concurrency", 3_200, 4, 12.5),
        (replace(LIMITS, memory_bytes=4_000_000), "memory", 8_000, 10, 5),
        (replace(LIMITS, rate=8.0, row_rate=1_000.0, concurrency=4), "row_rate", 1_000, 1.25, 40),
    ],
)
def test_the_lowest_limit_binds(
    limits: Limits, binds: str, rows_per_s: float, at_once: float, seconds: float
) -> None:
    found = of(limits)
    assert found.binds == binds
    assert found.bounds[0].name == binds
    assert found.bounds[0].rows_per_s == pytest.approx(rows_per_s)
    assert found.bounds[0].at_once == pytest.approx(at_once)
    assert found.seconds == pytest.approx(seconds)


def test_without_a_limit_of_the_users_it_is_the_endpoint() -> None:
    found = of(LIMITS)
    assert found.binds == "endpoint"
    assert found.seconds_by_in_flight[:3] == (
        (1, pytest.approx(50)),
        (4, pytest.approx(12.5)),
        (16, pytest.approx(3.125)),
    )


@pytest.mark.parametrize(
    ("limits", "more", "rows", "by"),
    [
        (LIMITS, {}, 400, "chunk_rows"),
        (replace(LIMITS, max_body_bytes=10_000), {}, 100, "max_payload"),
        (replace(LIMITS, row_rate=50.0), {}, 50, "row_rate"),
        (replace(LIMITS, request_timeout_s=0.4), {}, 100, "request_timeout"),
        (LIMITS, {"block_rows": 256}, 256, "block_rows"),
        (Limits(), {"block_rows": 10**6, "body_row_bytes": 1.0}, 34_900, "request_timeout"),
        (replace(LIMITS, max_body_bytes=1), {}, 1, "max_payload"),
    ],
)
def test_what_keeps_requests_small(limits: Limits, more: dict[str, Any], rows: int, by: str) -> None:
    found = of(limits, **more)
    assert (found.chunk_rows, found.chunk_rows_by) == (rows, by)


@pytest.mark.parametrize(
    ("rows", "requests"), [(0, 0), (1, 1), (400, 1), (4_000, 10), (4_001, 11), (9_999, 25), (None, None)]
)
def test_at_least_so_many_requests(rows: int | None, requests: int | None) -> None:
    assert of(LIMITS, rows=rows).requests == requests


def test_rows_that_are_not_known_have_no_time() -> None:
    found = of(LIMITS, rows=None)
    assert (found.seconds, found.seconds_by_in_flight) == (None, ())


@given(
    rows=st.integers(0, 10**9),
    block_rows=st.integers(1, 131_072),
    rate=st.none() | st.floats(0.01, 1e4),
    row_rate=st.none() | st.floats(0.01, 1e7),
    concurrency=st.integers(1, 256),
    row_bytes=st.floats(0.1, 1e6),
    fixed_s=st.floats(0, 30),
    row_s=st.floats(0, 1),
)
def test_it_is_total_and_more_at_once_is_never_slower(
    rows: int, block_rows: int, rate: float | None, row_rate: float | None, concurrency: int, row_bytes: float,
    fixed_s: float, row_s: float,
) -> None:  # fmt: skip
    limits = Limits(rate=rate, row_rate=row_rate, concurrency=concurrency, concurrency_given=True)
    found = estimate(
        ServiceTime(fixed_s=fixed_s, row_s=row_s), limits, rows=rows, block_rows=block_rows,
        body_row_bytes=row_bytes, memory_row_bytes=3 * row_bytes,
    )  # fmt: skip
    assert 1 <= found.chunk_rows <= max(block_rows, 1)
    assert [bound.rows_per_s for bound in found.bounds] == sorted(bound.rows_per_s for bound in found.bounds)
    times = [seconds for _, seconds in found.seconds_by_in_flight]
    assert times == sorted(times, reverse=True)
    assert found.seconds is not None
    assert all(seconds >= found.seconds * 0.999 for seconds in times)
