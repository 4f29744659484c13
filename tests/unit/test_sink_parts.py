"""Committing blocks: what a part holds, lost races, strangers, damage."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.errors import OutputError
from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink import PartsSink, Plan
from asyncbatch.sink.footer import read_part_footer, read_raw_footer
from asyncbatch.store import LocalStore

SCHEMA = pa.schema(
    [("id", pa.int64()), ("text", pa.string()), ("prediction", pa.float64()), ("error", pa.string())]
)
TEXT = InputFile(number=0, path="a.csv", size_bytes=9, rows=None, fingerprint={})
KNOWN = InputFile(number=1, path="b.parquet", size_bytes=9, rows=25, fingerprint={})
PLAN = Plan(
    files=(TEXT, KNOWN),
    block_rows=10,
    schema=SCHEMA,
    reply={},
    options={},
    endpoint={},
    source="in",
    job_id="j" * 32,
)


class Place:
    """A sink on disk, opened as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.state = folder / "out.asyncbatch"
        self.parts_store = LocalStore(self.out, self.state)

    def open(self, plan: Plan = PLAN) -> PartsSink:
        return PartsSink(plan=plan, parts=self.parts_store, state=LocalStore(self.state, self.state))

    def rejects(self) -> list[str]:
        return sorted(each.name for each in (self.state / "rejects").glob("*"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def table(block: Block, *, value: float = 0.5) -> pa.Table:
    rows = range(block.start, block.stop)
    return pa.table(
        {
            "id": list(rows),
            "text": [f"t{row}" for row in rows],
            "prediction": [value] * block.rows,
            "error": pa.nulls(block.rows, pa.string()),
        },
        schema=SCHEMA,
    )


def write(
    sink: PartsSink, block: Block, *, rejects: Sequence[int] = (), last: bool = False, value: float = 0.5
) -> None:
    sink.write(
        block,
        table(block, value=value),
        rejects=[Reject(row=row, code="input", message="bad", line=row + 2, attempts=1) for row in rejects],
        variants={"A": block.rows - 1, "B": 1},
        end_offset=block.stop * 100 if block.file == 0 else None,
        last=last,
    )


def block(file: int, start: int, stop: int) -> Block:
    return Block(file=file, start=start, stop=stop)


def test_a_part_holds_its_rows_and_says_what_it_is(place: Place) -> None:
    write(place.open(), block(0, 10, 20), rejects=[17, 12])
    name = "part-00000000-000000000010-000000000020.parquet"
    file = pq.ParquetFile(place.out / name, page_checksum_verification=True)
    assert file.read().equals(table(block(0, 10, 20)))
    assert file.metadata.num_row_groups == 1
    column = file.metadata.row_group(0).column(0)
    assert column.statistics.min == 10
    footer = read_part_footer(place.parts_store, name)
    assert footer.job_id == "j" * 32
    assert footer.config_hash == PLAN.config_hash
    assert footer.block == block(0, 10, 20)
    assert (footer.rows_out, footer.rejects, footer.end_offset, footer.last) == (10, 2, 2000, False)
    assert footer.variants == {"A": 9, "B": 1}
    rejects = pq.read_table(place.state / footer.rejects_file).to_pylist()
    assert [(each["file"], each["row"], each["line"], each["attempts"]) for each in rejects] == [
        ("a.csv", 12, 14, 1),
        ("a.csv", 17, 19, 1),
    ]


def test_page_checksums_notice_a_changed_byte(place: Place) -> None:
    write(place.open(), block(0, 0, 10))
    (path,) = place.out.iterdir()
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(path, page_checksum_verification=True)


def test_committed_comes_in_row_order_from_the_names(place: Place) -> None:
    sink = place.open()
    for each in (block(1, 0, 10), block(0, 10, 20), block(0, 0, 10)):
        write(sink, each)
    assert [part.block for part in sink.committed()] == [block(0, 0, 10), block(0, 10, 20), block(1, 0, 10)]


def test_offsets_are_given_where_a_gap_follows(place: Place) -> None:
    for each in (block(0, 0, 10), block(0, 10, 20), block(0, 30, 40), block(1, 0, 10)):
        write(place.open(), each)
    assert place.open().done_by_file() == {
        0: [(0, 10, None), (10, 20, 2000), (30, 40, 4000)],
        1: [(0, 10, None)],
    }


def test_the_end_of_a_text_file_is_recorded_once(place: Place) -> None:
    assert place.open().file_rows() == {0: None, 1: 25}
    write(place.open(), block(0, 10, 13), last=True)
    assert place.open().file_rows() == {0: 13, 1: 25}
    place.open().end_file(0, rows=13, size_bytes=None)
    with pytest.raises(OutputError, match=r"a\.csv had 13 rows before and has 14 now"):
        place.open().end_file(0, rows=14, size_bytes=None)


def test_a_last_block_without_rows_ends_the_file_only(place: Place) -> None:
    sink = place.open()
    write(sink, block(0, 10, 10), last=True)
    assert sink.file_rows()[0] == 10
    assert sink.committed() == []


def test_the_loser_of_a_race_is_discarded_with_its_rejects(place: Place) -> None:
    one, other = place.open(), place.open()
    write(one, block(0, 0, 10), rejects=[3], value=1.0)
    kept = place.rejects()
    write(other, block(0, 0, 10), rejects=[3], value=2.0)
    assert pq.read_table(place.out).column("prediction").to_pylist() == [1.0] * 10
    assert place.rejects() == kept
    (part,) = other.committed()
    assert f"rejects/{kept[0]}" == other.footer(part).rejects_file


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"job_id": "k" * 32}, "belongs to another job"),
        ({"options": {"body": "json"}}, "written with other options"),
    ],
)
def test_a_race_lost_to_another_job_stops(place: Place, change: dict[str, object], says: str) -> None:
    write(place.open(), block(0, 0, 10), value=1.0)
    other = place.open(dataclasses.replace(PLAN, **change))  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=says):
        write(other, block(0, 0, 10), value=2.0)
    assert pq.read_table(place.out).column("prediction").to_pylist() == [1.0] * 10
    with pytest.raises(OutputError, match=says):
        other.footer(other.committed()[0])


@pytest.mark.parametrize("name", ["notes.txt", "data.parquet", "part-1.parquet", "sub/x.csv"])
def test_a_stranger_among_the_parts_is_refused(place: Place, name: str) -> None:
    write(place.open(), block(0, 0, 10))
    (place.out / name).parent.mkdir(exist_ok=True)
    (place.out / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name}, which asyncbatch did not write"):
        place.open().committed()


def test_what_no_reader_takes_for_data_is_passed_over(place: Place) -> None:
    write(place.open(), block(0, 0, 10))
    (place.out / ".DS_Store").write_text("x")
    assert len(place.open().committed()) == 1


def test_overlapping_parts_are_refused(place: Place) -> None:
    write(place.open(), block(0, 0, 10))
    write(place.open(dataclasses.replace(PLAN, block_rows=5)), block(0, 5, 10))
    with pytest.raises(OutputError, match="hold the same rows"):
        place.open().committed()


def test_a_renamed_part_is_found_out(place: Place) -> None:
    write(place.open(), block(0, 0, 10))
    (path,) = place.out.iterdir()
    path.rename(place.out / "part-00000000-000000000010-000000000020.parquet")
    sink = place.open()
    with pytest.raises(OutputError, match="holds rows of another range"):
        sink.footer(sink.committed()[0])


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_part_is_damaged(place: Place, keep: int) -> None:
    write(place.open(), block(0, 0, 10))
    (path,) = place.out.iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    sink = place.open()
    with pytest.raises(OutputError, match="is damaged: its Parquet footer cannot be read") as caught:
        sink.footer(sink.committed()[0])
    assert "remove that file" in (caught.value.hint or "")


def test_a_parquet_file_of_someone_else_under_a_parts_name(place: Place) -> None:
    place.out.mkdir()
    pq.write_table(table(block(0, 0, 10)), place.out / "part-00000000-000000000000-000000000010.parquet")
    sink = place.open()
    with pytest.raises(OutputError, match="was not written by asyncbatch"):
        sink.footer(sink.committed()[0])


def test_the_footer_of_a_wide_part_is_read_whole(place: Place) -> None:
    schema = pa.schema([(f"column_{number}", pa.float64()) for number in range(1500)])
    plan = dataclasses.replace(PLAN, schema=schema)
    wide = pa.table({name: [1.0] * 10 for name in schema.names}, schema=schema)
    place.open(plan).write(block(1, 0, 10), wide, rejects=[], variants={}, end_offset=None, last=False)
    (path,) = place.out.iterdir()
    raw = read_raw_footer(place.parts_store, path.name)
    assert raw.schema.names == schema.names
    assert place.open(plan).footer(place.open(plan).committed()[0]).rows_out == 10


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (block(2, 0, 10), "not in the plan"),
        (block(0, 5, 10), "not on the grid"),
        (block(0, 0, 11), "not on the grid"),
        (block(1, 20, 30), "beyond the 25 rows"),
    ],
)
def test_blocks_off_the_plan_are_a_mistake(place: Place, made: Block, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        write(place.open(), made)


def test_tables_off_the_plan_are_a_mistake(place: Place) -> None:
    def give(found: pa.Table) -> None:
        place.open().write(block(0, 0, 10), found, rejects=[], variants={}, end_offset=None, last=False)

    good = table(block(0, 0, 10))
    with pytest.raises(ValueError, match="has 9 rows instead of 10"):
        give(good.slice(1))
    with pytest.raises(ValueError, match="other names or types"):
        give(good.drop_columns(["text"]))
    with pytest.raises(ValueError, match="other names or types"):
        give(good.set_column(0, "id", good["id"].cast(pa.int32())))
    assert not place.out.exists()


def test_dropped_rejects_are_not_in_the_part(place: Place) -> None:
    plan = dataclasses.replace(PLAN, options={"on_error": "drop"})
    kept = table(block(0, 0, 10)).slice(1)
    rejects = [Reject(row=0, code="input", message="bad")]
    place.open(plan).write(block(0, 0, 10), kept, rejects=rejects, variants={}, end_offset=None, last=False)
    footer = place.open(plan).footer(place.open(plan).committed()[0])
    assert (footer.block.rows, footer.rows_out, footer.rejects) == (10, 9, 1)


def test_metadata_of_the_input_does_not_get_into_the_parts(place: Place) -> None:
    plan = dataclasses.replace(PLAN, schema=SCHEMA.with_metadata({"pandas": "{}"}))
    write(place.open(plan), block(0, 0, 10))
    (path,) = place.out.iterdir()
    assert b"pandas" not in (pq.read_schema(path).metadata or {})
