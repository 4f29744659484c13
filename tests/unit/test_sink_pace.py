"""Rows a second from when parts were written."""

import pytest

from asyncbatch.sink.pace import pace


@pytest.mark.parametrize(
    ("written", "since", "now", "expected"),
    [
        ([], 0.0, 100.0, None),
        ([(50.0, 10)], 60.0, 100.0, None),
        ([(110.0, 50)], 100.0, 120.0, 2.5),
        ([(float(at), 10) for at in range(200)], 0.0, 199.0, 10.0),
        ([(float(at), 10) for at in range(200)], 0.0, 229.0, 5.0),
        ([(600.0 * at, 3_000) for at in range(1, 10)], 0.0, 5_400.0, 5.0),
        ([(600.0 * at, 3_000) for at in range(1, 10)], 0.0, 8_400.0, 2.5),
        ([(10.0, 999), (101.0, 40), (102.0, 40)], 100.0, 104.0, 20.0),
        ([(130.0, 30)], 100.0, 99.0, 1.0),
        ([(100.0, 30)], 100.0, 100.0, None),
    ],
    ids=[
        "nothing", "nothing since", "one part", "the last minute", "it falls while nothing comes",
        "parts of ten minutes", "and falls", "not what was there before", "a clock behind", "at once",
    ],
)  # fmt: skip
def test_pace(written: list[tuple[float, int]], since: float, now: float, expected: float | None) -> None:
    assert pace(written, since=since, now=now) == (None if expected is None else pytest.approx(expected))
