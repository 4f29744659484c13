"""What is missing, and the record of a finished job."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.errors import OutputError
from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink import MissingRange, PartInfo, PartsSink, Plan, tiling
from asyncbatch.sink.manifest import load_manifest, write_manifest
from asyncbatch.store import LocalStore

SCHEMA = pa.schema([("id", pa.int64()), ("error", pa.string())])


def plan_of(rows: list[int | None], *, block_rows: int = 10, limit: int | None = None) -> Plan:
    files = tuple(
        InputFile(number=number, path=f"{number}.csv", size_bytes=1, rows=count, fingerprint={})
        for number, count in enumerate(rows)
    )
    return Plan(
        files=files,
        block_rows=block_rows,
        schema=SCHEMA,
        reply={},
        options={"limit": limit},
        endpoint={},
        source="in",
    )


def part(file: int, start: int, stop: int) -> PartInfo:
    return PartInfo(name=f"{file}-{start}", block=Block(file=file, start=start, stop=stop), size_bytes=1)


def missing(plan: Plan, parts: list[PartInfo], **known: int) -> list[tuple[int, int, int | None]]:
    rows = {file.number: known.get(f"f{file.number}", file.rows) for file in plan.files}
    return [(each.file, each.start, each.stop) for each in tiling(plan, parts, rows)]


def test_gaps_in_front_between_and_behind() -> None:
    plan = plan_of([25, 0, 12])
    assert missing(plan, []) == [(0, 0, 25), (2, 0, 12)]
    assert missing(plan, [part(0, 10, 20)]) == [(0, 0, 10), (0, 20, 25), (2, 0, 12)]
    whole = [part(0, 0, 10), part(0, 10, 20), part(0, 20, 25), part(2, 0, 10), part(2, 10, 12)]
    assert missing(plan, whole) == []


def test_a_text_file_is_open_until_its_end_was_read() -> None:
    plan = plan_of([None])
    assert missing(plan, []) == [(0, 0, None)]
    assert missing(plan, [part(0, 0, 10)]) == [(0, 10, None)]
    assert missing(plan, [part(0, 0, 10)], f0=10) == []
    assert missing(plan, [part(0, 0, 10)], f0=12) == [(0, 10, 12)]
    assert missing(plan, [], f0=0) == []


def test_a_limit_counts_over_all_files() -> None:
    plan = plan_of([8, 30, 5], limit=20)
    assert missing(plan, []) == [(0, 0, 8), (1, 0, 12)]
    assert missing(plan, [part(0, 0, 8), part(1, 0, 10), part(1, 10, 12)]) == []


def test_a_limit_that_ends_in_a_text_file() -> None:
    plan = plan_of([None, None], limit=20)
    assert missing(plan, [part(0, 0, 10), part(0, 10, 20)]) == []
    assert missing(plan, [part(0, 0, 8)], f0=8) == [(1, 0, None)]
    assert missing(plan, [part(0, 0, 8), part(1, 0, 10), part(1, 10, 12)], f0=8, f1=12) == []


def test_more_rows_than_the_input_has() -> None:
    with pytest.raises(OutputError, match=r"hold 10 rows of 0\.csv, which has 8"):
        missing(plan_of([8]), [part(0, 0, 10)])
    with pytest.raises(OutputError, match="is of file 3, which the plan does not list"):
        missing(plan_of([8]), [part(3, 0, 10)])


def test_the_part_without_rows_of_an_empty_output_is_in_nobodys_way() -> None:
    assert missing(plan_of([0]), [part(0, 0, 0)]) == []
    assert missing(plan_of([]), [part(0, 0, 0)]) == []


@given(
    rows=st.lists(st.integers(0, 60), max_size=4),
    limit=st.none() | st.integers(1, 150),
    chosen=st.randoms(use_true_random=False),
)
def test_parts_and_what_is_missing_are_the_input(rows: list[int], limit: int | None, chosen: object) -> None:
    plan = plan_of(list(rows), limit=limit)
    wanted = [(file, row) for file, count in enumerate(rows) for row in range(count)][:limit]
    ends = {file: sum(each[0] == file for each in wanted) for file in range(len(rows))}
    blocks = [
        part(file, start, min(start + 10, end)) for file, end in ends.items() for start in range(0, end, 10)
    ]
    parts = [each for each in blocks if chosen.random() < 0.5]  # type: ignore[attr-defined]
    held = [(each.block.file, row) for each in parts for row in range(each.block.start, each.block.stop)]
    gaps: list[MissingRange] = tiling(plan, parts, dict(enumerate(rows)))
    lacking = [(gap.file, row) for gap in gaps for row in range(gap.start, gap.stop or 0)]
    assert sorted(held + lacking) == wanted


@pytest.fixture
def stores(tmp_path: Path) -> tuple[LocalStore, LocalStore]:
    return LocalStore(tmp_path / "out", tmp_path / "state"), LocalStore(
        tmp_path / "state", tmp_path / "state"
    )


def filled(plan: Plan, stores: tuple[LocalStore, LocalStore]) -> PartsSink:
    sink = PartsSink(plan=plan, parts=stores[0], state=stores[1])
    for start, stop in ((20, 25), (0, 10), (10, 20)):
        rows = range(start, stop)
        sink.write(
            Block(file=0, start=start, stop=stop),
            pa.table({"id": list(rows), "error": [None] * len(rows)}, schema=SCHEMA),
            rejects=[Reject(row=start + 1, code="input", message="bad")] if start != 10 else [],
            variants={"B": 2, "A": stop - start - 2},
            end_offset=None,
            last=stop == 25,
        )
    return sink


def test_a_manifest_counts_and_joins_what_the_parts_say(stores: tuple[LocalStore, LocalStore]) -> None:
    sink = filled(plan_of([25]), stores)
    manifest = write_manifest(sink, parts_store=stores[0], state=stores[1])
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects, manifest.parts) == (25, 25, 2, 3)
    assert dict(manifest.variants) == {"A": 19, "B": 6}
    assert load_manifest(stores[1]) == manifest
    values = json.loads((Path(stores[1].root) / "manifest.json").read_text())
    assert [each["rows_in"] for each in values["parts"]] == [10, 10, 5]
    errors = pq.read_table(Path(stores[1].root) / "errors.parquet")
    assert errors.column("row").to_pylist() == [1, 21]


def test_a_manifest_written_again_is_the_same(stores: tuple[LocalStore, LocalStore]) -> None:
    plan = plan_of([25])
    sink = filled(plan, stores)
    one = write_manifest(sink, parts_store=stores[0], state=stores[1])
    later = PartsSink(plan=plan, parts=stores[0], state=stores[1])
    assert write_manifest(later, parts_store=stores[0], state=stores[1]) == one


def test_no_manifest_over_a_part_of_another_job(stores: tuple[LocalStore, LocalStore]) -> None:
    plan = plan_of([25])
    filled(plan, stores)
    other = PartsSink(plan=dataclasses.replace(plan, job_id="k" * 32), parts=stores[0], state=stores[1])
    with pytest.raises(OutputError, match="belongs to another job"):
        write_manifest(other, parts_store=stores[0], state=stores[1])
    assert load_manifest(stores[1]) is None


def test_no_manifest_when_rejects_are_gone(stores: tuple[LocalStore, LocalStore]) -> None:
    sink = filled(plan_of([25]), stores)
    for entry in stores[1].list("rejects/"):
        stores[1].delete(entry.name)
    with pytest.raises(OutputError, match=r"the rejects file .* is gone"):
        write_manifest(sink, parts_store=stores[0], state=stores[1])


def test_a_damaged_manifest(stores: tuple[LocalStore, LocalStore]) -> None:
    stores[1].replace("manifest.json", lambda file: file.write(b"{"))
    with pytest.raises(OutputError, match=r"manifest\.json is damaged"):
        load_manifest(stores[1])
