"""The plan: written once, read back the same, compared field by field."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest

from asyncbatch.errors import OutputError
from asyncbatch.model import InputFile
from asyncbatch.sink.plan import (
    Plan,
    create_plan,
    load_plan,
    plan_differences,
    plan_from_json,
    plan_to_json,
)
from asyncbatch.store import LocalStore

FILES = (
    InputFile(number=0, path="a.csv", size_bytes=10, rows=None, fingerprint={"size": 10, "mtime_ns": 5}),
    InputFile(
        number=1, path="d=1/b.parquet", size_bytes=20, rows=7, fingerprint={"size": 20}, partitions={"d": "1"}
    ),
)
PLAN = Plan(
    files=FILES,
    block_rows=100,
    schema=pa.schema([("id", pa.int64()), ("prediction", pa.list_(pa.float32())), ("error", pa.string())]),
    reply={"kind": "csv", "fields": ["prediction"]},
    options={"body": "csv", "limit": None, "send": ["a", "b"]},
    endpoint={"kind": "sagemaker", "name": "churn", "region": "eu-west-1", "account": None},
    source="data/*.csv",
    min_rows=2,
)


def test_reads_back_the_same() -> None:
    found = plan_from_json(plan_to_json(PLAN), where="x")
    assert found == PLAN
    assert found.config_hash == PLAN.config_hash


def test_people_can_read_it() -> None:
    values = json.loads(plan_to_json(PLAN))
    assert values["columns"] == ["id: int64", "prediction: list<item: float>", "error: string"]
    assert values["format_version"] == 1


def test_schema_metadata_is_left_out_of_the_identity() -> None:
    other = dataclasses.replace(PLAN, schema=PLAN.schema.with_metadata({"pandas": "{}"}))
    assert other.config_hash == PLAN.config_hash


@pytest.mark.parametrize(
    "change",
    [
        {"block_rows": 50},
        {"schema": pa.schema([("id", pa.int32())])},
        {"reply": {}},
        {"options": {"body": "json"}},
        {"files": FILES[:1]},
    ],
)
def test_whatever_decides_a_part_changes_the_hash(change: dict[str, object]) -> None:
    assert dataclasses.replace(PLAN, **change).config_hash != PLAN.config_hash  # type: ignore[arg-type]


def test_the_first_of_two_plans_holds(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, tmp_path)
    assert load_plan(store) is None
    assert create_plan(store, PLAN) == PLAN
    other = dataclasses.replace(PLAN, job_id="f" * 32, block_rows=7)
    assert create_plan(store, other) == PLAN
    assert load_plan(store) == PLAN


def test_the_newest_generation_is_loaded(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, tmp_path)
    create_plan(store, PLAN)
    later = dataclasses.replace(PLAN, generation=2)
    assert create_plan(store, later) == later


def test_a_later_format_is_refused_with_the_version_that_wrote_it() -> None:
    values = json.loads(plan_to_json(PLAN)) | {"format_version": 99, "asyncbatch_version": "9.1"}
    with pytest.raises(OutputError, match=r"written by asyncbatch 9\.1") as caught:
        plan_from_json(json.dumps(values).encode(), where="out/job-000001.json")
    assert "install" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"format_version": 1}',
        plan_to_json(PLAN).replace(b'"schema": "', b'"schema": "AAAA'),
    ],
)
def test_a_damaged_plan_is_said_to_be_damaged(content: bytes) -> None:
    with pytest.raises(OutputError, match=r"out/job-000001\.json is damaged"):
        plan_from_json(content, where="out/job-000001.json")


def test_no_difference() -> None:
    assert (
        plan_differences(PLAN, dataclasses.replace(PLAN, job_id="other", created="later", source="./data"))
        == []
    )


def test_each_difference_is_named() -> None:
    changed = dataclasses.replace(FILES[0], fingerprint={"size": 11, "mtime_ns": 5})
    new = dataclasses.replace(
        PLAN,
        files=(changed,),
        options={"body": "json", "limit": None, "send": ["a", "b"]},
        endpoint=dict(PLAN.endpoint) | {"region": "us-east-1"},
        block_rows=50,
        schema=pa.schema(
            [("id", pa.int32()), ("prediction", pa.list_(pa.float32())), ("error", pa.string())]
        ),
    )
    found = {each.field: each for each in plan_differences(PLAN, new)}
    assert set(found) == {
        "input a.csv",
        "input d=1/b.parquet",
        "options.body",
        "endpoint.region",
        "block_rows",
        "output column id",
    }
    assert str(found["options.body"]) == "options.body: planned csv, now json"
    assert found["input d=1/b.parquet"].now == "missing"


def test_an_unknown_part_of_the_endpoint_equals_any() -> None:
    known = dataclasses.replace(PLAN, endpoint=dict(PLAN.endpoint) | {"account": "123"})
    other = dataclasses.replace(PLAN, endpoint=dict(PLAN.endpoint) | {"account": "456"})
    assert plan_differences(PLAN, known) == []
    assert plan_differences(known, PLAN) == []
    assert [each.field for each in plan_differences(known, other)] == ["endpoint.account"]


def test_files_that_came_later_wait() -> None:
    later = InputFile(number=2, path="c.csv", size_bytes=1, rows=None, fingerprint={})
    assert plan_differences(PLAN, dataclasses.replace(PLAN, files=(*FILES, later))) == []


def test_an_option_that_an_old_plan_does_not_know_stands_at_its_default() -> None:
    default = dataclasses.replace(PLAN, options=dict(PLAN.options) | {"on_error": "null"})
    other = dataclasses.replace(PLAN, options=dict(PLAN.options) | {"on_error": "drop"})
    assert plan_differences(PLAN, default) == []
    assert [each.field for each in plan_differences(PLAN, other)] == ["options.on_error"]
