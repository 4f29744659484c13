"""Options of `bench`, its conditions, and the command it writes down."""

from typing import Any

import pytest

from asyncbatch.bench.concluding import shown_command
from asyncbatch.bench.config import LOAD_OPTIONS, SHARED, LoadConfig, parse_rates, parse_spread, parse_stages
from asyncbatch.bench.slo import METRICS, parse_conditions
from asyncbatch.bench.sweep import budget, ceiling, largest_rows, sweep
from asyncbatch.config import OPTIONS
from asyncbatch.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "values", "shown"),
    [
        ("16", (16,), "16"),
        ("1:64", (1, 2, 4, 8, 16, 32, 64), "1:64"),
        ("3:20", (3, 6, 12, 20), "3:20"),
        ("64, 1,8", (1, 8, 64), "1,8,64"),
        ([4, 2], (2, 4), "2,4"),
    ],
)
def test_a_spread_is_a_value_a_range_or_a_list(text: Any, values: tuple[int, ...], shown: str) -> None:
    found = parse_spread(text)
    assert found.counts == values
    assert str(found) == shown
    assert parse_spread(found) is found


@pytest.mark.parametrize("text", ["0", "a", "8:2", "1,-3", "", "1:2:3"])
def test_what_is_no_spread_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|must"):
        parse_spread(text)


def test_rates_and_stages_are_read() -> None:
    assert parse_rates("20,2.5").values == (2.5, 20.0)
    assert [(each.seconds, each.rate) for each in parse_stages("5m@50, 30s@0.5")] == [
        (300.0, 50.0),
        (30.0, 0.5),
    ]
    for text in ("5m", "5m@0", "x@5", "0.1s@5", ""):
        with pytest.raises(ValueError, match=r"expected|must|lasts"):
            parse_stages(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": "5", "stages": "5s@5"}, "--rate and --stages"),
        ({"rate": "5", "concurrency": "5"}, "--concurrency is for a closed loop"),
        ({"rate": "5", "find_knee": True}, "--find-knee searches in a closed loop"),
        ({"find_knee": True, "chunk_rows": "5", "concurrency": "5"}, "nothing to search"),
        ({"stages": "5s@5", "requests": "5"}, "--requests and --stages"),
        ({"stages": "5s@5", "chunk_rows": "5,6"}, "--stages takes one --chunk-rows"),
        ({"arrivals": "poisson"}, "--arrivals is for an open loop"),
        ({"slo": "p96<1s"}, "--slo"),
        ({"precision": "100%"}, "--precision"),
        ({"duration": "0"}, "--duration"),
        ({"concurrency": "8:2"}, "--concurrency"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        LoadConfig.from_options(options)
    assert raised.value.hint


def test_options_shared_with_run_are_options_of_run() -> None:
    assert set(SHARED) - set(OPTIONS) <= {"transport"}
    assert not set(SHARED) & set(LOAD_OPTIONS)


def test_what_differs_from_the_defaults_is_written_down() -> None:
    load = LoadConfig.from_options(
        {"chunk_rows": "1:8", "slo": "p95<800ms,errors<1%", "stages": None, "seed": 3}
    )
    assert load.effective() == {"chunk_rows": "1:8", "slo": ["p95<800ms", "errors<1%"], "seed": 3}


def test_conditions_are_read_and_written() -> None:
    written = "p95<800ms,errors<1%,rows_per_s>=41200,p99.9<=1.5s,throttled<0.5%"
    found = parse_conditions(written)
    assert [each.limit for each in found] == [0.8, 0.01, 41200.0, 1.5, 0.005]
    assert ",".join(map(str, parse_conditions(",".join(map(str, found))))) == ",".join(map(str, found))
    assert {each.metric for each in found} <= set(METRICS)
    for text in ("p95", "p95<", "p95=3s", "nothing<3", "p95<3 rows", "errors<many"):
        with pytest.raises(ValueError, match=r"expected|none of|must"):
            parse_conditions(text)


def test_the_plan_of_a_sweep() -> None:
    import random

    load = LoadConfig.from_options({"chunk_rows": "1,10", "concurrency": "2:8", "duration": "5s"})
    points = sweep(load, random.Random(0))
    assert {(each.chunk_rows, each.concurrency) for each in points} == {
        (rows, flight) for rows in (1, 10) for flight in (2, 4, 8)
    }
    assert (largest_rows(load), ceiling(load)) == (10, 8)
    planned = budget(load, points, dollars_per_s=0.01)
    assert (planned.points, planned.seconds, planned.requests) == (6, 48.0, 1_000_000)
    assert planned.dollars == pytest.approx(0.48)
    open_loop = LoadConfig.from_options({"rate": "5,50", "duration": "10s", "warmup": "0", "cooldown": "0"})
    planned = budget(open_loop, sweep(open_loop, random.Random(0)))
    assert (planned.requests, planned.seconds) == (550, 20.0)
    stages = LoadConfig.from_options({"stages": "10s@5,10s@50"})
    planned = budget(stages, sweep(stages, random.Random(0)))
    assert (planned.requests, planned.seconds, planned.points) == (550, 20.0, 2)
    counted = LoadConfig.from_options({"concurrency": "4", "chunk_rows": "1", "requests": "400"})
    planned = budget(counted, sweep(counted, random.Random(0)), seconds_of=[0.1])
    assert planned.seconds == pytest.approx(13.0)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["-H", "X-Key: abc", "x"], "-H 'X-Key: …' x"),
        (["--header", "X-Key: abc"], "--header 'X-Key: …'"),
        (["--header=X-Key: abc"], "'--header=X-Key: …'"),
        (["-HX-Key: abc"], "'-HX-Key: …'"),
        (["-e", "https://me:abc@host/x?token=abc&a=1"], "-e 'https://host/x?token=…&a=1'"),
    ],
)
def test_the_command_that_is_written_down_holds_no_secret(words: list[str], shown: str) -> None:
    assert shown_command(["asyncbatch", "bench", *words]) == f"asyncbatch bench {shown}"
