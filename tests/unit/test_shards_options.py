"""`--shard`, `--processes`, `--if-idle` and `--wait`: how they are read, what they exclude, what is divided."""

import pytest

from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.pipeline.shards import own_share
from asyncbatch.units import IntRange, Shard, parse_shard


def test_a_shard_is_counted_from_zero() -> None:
    assert parse_shard("2/3") == parse_shard(Shard(2, 3)) == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"
    assert RunConfig.from_options({"shard": "2/3"}).effective() == {"shard": "2/3"}


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/3", "1/0", "1/2/3", 2])
def test_what_is_no_shard(text: object) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        RunConfig.from_options({"shard": text})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shard": "0/2", "background": True}, "--background and shards exclude each other"),
        ({"processes": 2, "background": True}, "--background and shards exclude each other"),
        ({"shard": "0/4", "concurrency": 3}, "--concurrency 3 is less than one request for each of 4 shards"),
        ({"processes": 4, "concurrency": "1:3"}, "less than one request for each of 4 shards"),
        ({"shard": "0/2", "processes": 2, "concurrency": 3}, "for each of 4 shards"),
        ({"shard": "1/2", "overwrite": True}, "--overwrite with --shard 1/2 could remove what other shards"),
        ({"if_idle": True, "wait": True}, "--if-idle and --wait exclude each other"),
        ({"processes": 0}, "--processes"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        RunConfig.from_options(options)
    assert caught.value.hint


def test_one_process_is_no_shard() -> None:
    for options in (
        {"shard": "0/1", "overwrite": True, "concurrency": 1},
        {"processes": 1, "background": True},
    ):
        config = RunConfig.from_options(options)
        assert own_share(config) is config


def test_rates_and_limit_are_divided() -> None:
    asked = {"rate": 10, "row_rate": 600, "concurrency": "4:10"}
    shares = [own_share(RunConfig.from_options({**asked, "shard": f"{index}/3"})) for index in range(3)]
    assert [each.speed.rate for each in shares] == [pytest.approx(10 / 3)] * 3
    assert [each.speed.row_rate for each in shares] == [200] * 3
    assert [each.speed.concurrency for each in shares] == [IntRange(1, 3), IntRange(1, 3), IntRange(2, 4)]
    assert [each.speed.max_memory for each in shares] == [RunConfig().speed.max_memory] * 3


def test_the_default_limit_is_divided_too() -> None:
    assert own_share(RunConfig.from_options({"shard": "0/4"})).speed.concurrency == IntRange(1, 64)
