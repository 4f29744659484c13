"""An output from beginning to end: new, resumed, finished, foreign, overwritten."""

import contextlib
import dataclasses
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.errors import OutputError, StoppedError
from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink import Output, Plan, open_sink

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("error", pa.string())])
ROWS = {0: 25, 1: 10}
PLAN = Plan(
    files=(
        InputFile(number=0, path="a.csv", size_bytes=9, rows=None, fingerprint={}),
        InputFile(number=1, path="b.parquet", size_bytes=9, rows=10, fingerprint={}),
    ),
    block_rows=10,
    schema=SCHEMA,
    reply={},
    options={},
    endpoint={},
    source="in",
)
BLOCKS = [
    Block(file=f, start=s, stop=min(s + 10, rows)) for f, rows in ROWS.items() for s in range(0, rows, 10)
]
IDS = [file * 100 + row for file, rows in ROWS.items() for row in range(rows)]
FILES = ["out.parquet", "out.csv", "out.jsonl"]
SINKS = ["out/", *FILES]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(output: Output, blocks: list[Block]) -> None:
    for block in blocks:
        rows = range(block.start, block.stop)
        columns = {
            "id": [block.file * 100 + row for row in rows],
            "text": [f"t,{row}" for row in rows],
            "error": pa.nulls(block.rows, pa.string()),
        }
        output.sink.write(
            block,
            pa.table(columns, schema=SCHEMA),
            rejects=[Reject(row=block.start, code="input", message="bad")],
            variants={"A": block.rows},
            end_offset=None,
            last=block.stop == ROWS[block.file],
        )


def run(spec: str, blocks: list[Block] = BLOCKS, *, overwrite: bool = False, plan: Plan = PLAN) -> bool:
    with open_sink(spec, overwrite=overwrite) as output:
        if output.finished:
            return True
        if output.plan is None:
            output.start(plan)
        write(output, blocks)
        return output.finish({"rows": 35}) is not None


def read(spec: str) -> list[int]:
    path = Path(spec)
    if path.suffix == ".csv":
        return [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]
    if path.suffix == ".jsonl":
        return [json.loads(line)["id"] for line in path.read_text().splitlines()]
    return pq.read_table(path).column("id").to_pylist()


def everything() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


@pytest.mark.parametrize("spec", SINKS)
def test_from_beginning_to_end(spec: str) -> None:
    assert run(spec)
    assert read(spec) == IDS
    state = Path(spec.rstrip("/") + ".asyncbatch")
    kept = {path.relative_to(state).parts[0] for path in state.rglob("*") if path.is_file()}
    assert kept == {
        "job-000001.json",
        "files",
        "rejects",
        "manifest.json",
        "errors.parquet",
        "report.json",
        "_SUCCESS",
    }
    assert json.loads((state / "report.json").read_text()) == {"rows": 35}
    assert pq.read_table(state / "errors.parquet").num_rows == len(BLOCKS)


@pytest.mark.parametrize("spec", SINKS)
def test_it_goes_on_where_it_stopped(spec: str) -> None:
    assert not run(spec, BLOCKS[1:3])
    assert (not Path(spec).exists()) == (spec in FILES), "a single file is not there before it is whole"
    with open_sink(spec) as output:
        assert output.plan is not None
        assert [(gap.file, gap.start, gap.stop) for gap in output.missing()] == [(0, 0, 10), (1, 0, 10)]
        assert output.plan.job_id == PLAN.job_id
    assert run(spec, [BLOCKS[0], BLOCKS[3]])
    assert read(spec) == IDS


@pytest.mark.parametrize("spec", SINKS)
def test_a_finished_job_is_left_alone(spec: str) -> None:
    run(spec)
    before = {name: Path(name).stat().st_mtime_ns for name in everything()}
    assert run(spec, [])
    assert {name: Path(name).stat().st_mtime_ns for name in everything()} == before


def test_nothing_is_made_before_the_plan() -> None:
    for spec in SINKS:
        with open_sink(spec):
            pass
    assert list(Path().iterdir()) == []


def test_a_part_that_was_removed_is_written_again() -> None:
    run("out/")
    next(Path("out").glob("part-00000001*")).unlink()
    with open_sink("out/") as output:
        assert not output.finished
        assert not Path("out.asyncbatch/_SUCCESS").exists()
        write(output, [BLOCKS[3]])
        assert output.finish({}) is not None
    assert read("out/") == IDS


@pytest.mark.parametrize("spec", FILES)
@pytest.mark.parametrize("what", ["changed", "removed"])
def test_a_finished_file_that_was_changed_or_removed_is_said(spec: str, what: str) -> None:
    run(spec)
    if what == "changed":
        Path(spec).write_text("mine")
    else:
        Path(spec).unlink()
    with pytest.raises(OutputError, match=f"was finished before and then {what}"):
        open_sink(spec)
    assert run(spec, overwrite=True)
    assert read(spec) == IDS


@pytest.mark.parametrize("spec", FILES)
def test_a_file_of_someone_else_stays_unless_overwritten(spec: str) -> None:
    Path(spec).write_text("mine")
    with pytest.raises(OutputError, match="exists") as caught:
        open_sink(spec)
    assert "--overwrite" in (caught.value.hint or "")
    with open_sink(spec, overwrite=True):
        pass
    assert everything() == [spec], "nothing is made, or allowed, before the plan"
    assert not run(spec, BLOCKS[:2], overwrite=True)
    assert Path(spec).read_text() == "mine", "it stays until the new one is complete"
    assert run(spec, BLOCKS[2:])
    assert read(spec) == IDS


@pytest.mark.parametrize("spec", FILES)
def test_a_file_that_came_meanwhile_is_not_replaced(spec: str) -> None:
    with open_sink(spec) as output:
        output.start(PLAN)
        write(output, BLOCKS)
        Path(spec).write_text("mine")
        with pytest.raises(OutputError, match="exists and was not written by this job"):
            output.finish({})
    assert Path(spec).read_text() == "mine"
    Path(spec).unlink()
    assert run(spec, [])
    assert read(spec) == IDS


@pytest.mark.parametrize("spec", FILES)
def test_publishing_is_repeated_after_a_crash_before_its_record(spec: str) -> None:
    run(spec)
    Path(spec + ".asyncbatch/_SUCCESS").unlink()
    with open_sink(spec) as output:
        write(output, BLOCKS)  # the same rows: what a crash before the parts were removed has left
        assert output.finish({}) is not None
    assert read(spec) == IDS


def test_overwrite_starts_anew_and_touches_nothing_else() -> None:
    run("out/", BLOCKS[:2])
    Path("out.asyncbatch/mine.txt").write_text("mine")
    other = dataclasses.replace(PLAN, job_id="k" * 32)
    assert run("out/", overwrite=True, plan=other)
    assert read("out/") == IDS
    assert json.loads(Path("out.asyncbatch/job-000001.json").read_text())["job_id"] == "k" * 32
    assert Path("out.asyncbatch/mine.txt").read_text() == "mine"
    assert len(list(Path("out.asyncbatch/rejects").iterdir())) == len(BLOCKS)


def test_overwrite_does_not_touch_a_folder_with_something_else_in_it() -> None:
    run("out/")
    Path("out/notes.txt").write_text("mine")
    before = everything()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds notes\.txt, which asyncbatch did not write"):
            open_sink("out/", overwrite=overwrite)
    assert everything() == before


def test_a_folder_of_someone_else() -> None:
    Path("out").mkdir()
    pq.write_table(pa.table({"a": [1]}), "out/part-00000000-000000000000-000000000001.parquet")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="which asyncbatch did not write"):
            open_sink("out/", overwrite=overwrite)


def test_an_empty_folder_is_taken() -> None:
    Path("out").mkdir()
    assert run("out/")


def test_parts_without_their_state() -> None:
    run("out/", BLOCKS[:2])
    Path("out.asyncbatch").rename("elsewhere")
    with pytest.raises(OutputError, match=r"its state out\.asyncbatch is gone"):
        open_sink("out/")
    assert run("out/", overwrite=True)
    assert read("out/") == IDS


@pytest.mark.parametrize("spec", SINKS)
def test_no_rows_in_gives_an_output_with_columns_and_no_rows(spec: str) -> None:
    plan = dataclasses.replace(PLAN, files=(dataclasses.replace(PLAN.files[1], rows=0, number=0),))
    assert run(spec, [], plan=plan)
    assert read(spec) == []
    if spec in ("out/", "out.parquet"):
        assert pq.read_schema(next(Path("out").iterdir()) if spec == "out/" else spec).names == SCHEMA.names
    with open_sink(spec) as output:
        assert output.finished


def test_two_first_starts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, third = (open_sink("out/", shard=f"{index}-of-3") for index in range(3))
    measured_anew = dataclasses.replace(PLAN, job_id="k" * 32, block_rows=5)
    assert one.start(PLAN) == other.start(measured_anew) == PLAN
    with pytest.raises(
        OutputError, match=r"has just planned out/ differently \(options\.body: planned csv, now json\)"
    ):
        third.start(dataclasses.replace(PLAN, job_id="l" * 32, options={**PLAN.options, "body": "json"}))
    for each in (one, other, third):
        each.close()


def test_a_second_process_is_stopped() -> None:
    with open_sink("out/") as output:
        output.start(PLAN)
        with pytest.raises(StoppedError, match=f"process {os.getpid()} on .* is at work on"):
            open_sink("out/")
    with open_sink("out/") as output:
        assert output.plan is not None


@pytest.mark.parametrize(
    ("prepare", "spec", "says"),
    [
        ("", "no/such/out", r"the folder no/such for the output no/such/out does not exist"),
        ("file:out", "out", "is a file, and the output is a folder of parts"),
        ("file:a", "a/out", "a is a file, not a folder"),
        ("folder:out.csv", "out.csv", "is a folder, and the output is a single file"),
        ("file:out.asyncbatch", "out", "asyncbatch keeps its state in a folder of that name"),
    ],
)
def test_places_that_cannot_be(prepare: str, spec: str, says: str) -> None:
    kind, _, name = prepare.partition(":")
    if kind == "file":
        Path(name).write_text("mine")
    elif kind == "folder":
        Path(name).mkdir()
    before = everything()
    with pytest.raises(OutputError, match=says) as caught:
        open_sink(spec)
    assert caught.value.hint
    assert everything() == before


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_folder_that_is_not_writable(home: Path) -> None:
    home.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="is not writable"):
            open_sink("out/")
    finally:
        home.chmod(0o700)


def test_a_folder_that_is_said_not_to_be_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncbatch.sink.places.os.access", lambda path, mode: False)
    with pytest.raises(OutputError, match="is not writable"):
        open_sink("out/")


def test_a_column_that_parquet_cannot_hold() -> None:
    schema = pa.schema([("id", pa.int64()), ("odd", pa.dense_union([pa.field("a", pa.int64())]))])
    with (
        open_sink("out/") as output,
        pytest.raises(OutputError, match=r"column 'odd' of type .* cannot be written"),
    ):
        output.start(dataclasses.replace(PLAN, schema=schema))
    assert everything() == []


def test_a_published_parquet_file_has_large_groups_and_names_its_job() -> None:
    run("out.parquet")
    metadata = pq.read_metadata("out.parquet")
    assert metadata.num_row_groups == 1
    assert metadata.metadata[b"asyncbatch.job_id"] == PLAN.job_id.encode()
    assert pq.read_table("out.parquet", page_checksum_verification=True).schema.equals(SCHEMA)


def silently_changed(content: bytes) -> bytes:
    """One byte is another, and without checksums it reads as other values."""
    right = pq.read_table(io.BytesIO(content))
    for place in range(4, len(content)):
        changed = bytes([*content[:place], content[place] ^ 1, *content[place + 1 :]])
        with contextlib.suppress(OSError, pa.ArrowException):
            if not pq.read_table(io.BytesIO(changed)).equals(right):
                return changed
    raise AssertionError("every change is noticed anyway")


@pytest.mark.parametrize("spec", FILES)
def test_a_damaged_part_is_not_published(spec: str) -> None:
    with open_sink(spec) as output:
        output.start(PLAN)
        write(output, BLOCKS)
        part = next(Path(spec + ".asyncbatch/parts").iterdir())
        part.write_bytes(silently_changed(part.read_bytes()))
        with pytest.raises(OutputError, match=r"parquet is damaged"):
            output.finish({})
    assert not Path(spec).exists()
