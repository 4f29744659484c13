"""`--partition-by a,b`: folders made from columns, read back as Hive folders by pyarrow, DuckDB and polars."""

import datetime as dt
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import ConfigError, OutputError, StorageError
from asyncbatch.model import Block
from asyncbatch.pipeline.api import retry_job
from asyncbatch.server.background import Background
from asyncbatch.sink import partitioning, partitions
from asyncbatch.sink.parts import PartInfo
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output

ROWS = 400
KINDS = ["a b", "é/+", None, 'q="%\\', "", "."]


def content(start: int = 0, rows: int = ROWS) -> pa.Table:
    numbers = range(start, start + rows)
    return pa.table(
        {
            "id": list(numbers),
            "kind": [KINDS[row % len(KINDS)] for row in numbers],
            "day": [dt.date(2024, 1, 1 + row % 2) for row in numbers],
            "x": [row * 0.5 for row in numbers],
            "nested": [[row] for row in numbers],
        }
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    home = tmp_path / "in"
    home.mkdir()
    pq.write_table(content(), home / "a.parquet")
    return home


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for each block and folder."""
    monkeypatch.setattr(partitions, "_GROUP_BYTES", 1)


def run(echo: Background | str, source: Path, sink: Path | str, **options: Any) -> Any:
    endpoint = echo if isinstance(echo, str) else echo.invocations_url
    given = {"endpoint": endpoint, "send": "x", "block_rows": 50, "partition_by": "day,kind"}
    return asyncbatch.run(str(source), str(sink), **{**given, **options})


def expected(rows: int = ROWS) -> list[tuple[int, str | None, str, float]]:
    """What readers see: nobody can tell an empty text from null."""
    return [
        (row, KINDS[row % len(KINDS)] or None, f"2024-01-0{1 + row % 2}", row * 0.5) for row in range(rows)
    ]


def read(out: Path) -> list[tuple[Any, ...]]:
    table = ds.dataset(out, partitioning="hive").to_table().sort_by("id")
    return [
        (row["id"], row["kind"], str(row["day"]), row["prediction"]) for row in table.to_pylist()
    ]  # fmt: skip


def files(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.parquet"))


@pytest.mark.usefixtures("small_groups")
def test_readers_find_rows_and_partitions(source: Path, echo: Background, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(echo, source, out).exit_code == 0
    assert read(out) == expected()
    frame = pl.read_parquet(out, hive_partitioning=True).sort("id")
    assert [(id_, kind, str(day), value) for id_, kind, day, value in
            frame.select("id", "kind", "day", "prediction").rows()] == expected()  # fmt: skip
    rows = duckdb.sql(
        f"select id, kind, day::text, prediction from read_parquet('{out}/**/*.parquet', hive_partitioning=true)"
        " order by id"
    ).fetchall()
    assert rows == expected()
    folders = {name.rpartition("/")[0] for name in files(out)}
    assert folders == {
        f"day=2024-01-0{day}/kind={kind}"
        for day, kinds in {
            1: ("a b", "__HIVE_DEFAULT_PARTITION__"), 2: ("é%2F+", "q%3D%22%25%5C", ".")
        }.items()
        for kind in kinds
    }  # fmt: skip
    for name in files(out):
        part = pq.ParquetFile(out / name)
        assert part.schema_arrow.names == ["id", "x", "nested", "prediction", "error"]
        ids = part.read()["id"].to_pylist()
        assert ids == sorted(ids)
        part.close()
    # Names sort in row order within a folder.
    for folder in folders:
        inside = [
            row
            for name in files(out)
            if name.startswith(f"{folder}/")
            for row in pq.ParquetFile(out / name).read()["id"].to_pylist()
        ]
        assert inside == sorted(inside)


def test_small_parts_become_one_file_a_folder(source: Path, echo: Background, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(echo, source, out)
    assert len(files(out)) == 5
    assert read(out) == expected()
    for name in files(out):
        ids = pq.ParquetFile(out / name).read()["id"].to_pylist()
        assert ids == sorted(ids)
    status = output_status(str(out))
    assert (status.finished, status.rows_done) == (True, ROWS)
    found = verify_output(str(out))
    assert (found.sound, found.rows) == (True, ROWS)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert run(echo, source, out).metrics.rows_in == 0
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before


def test_groups_stay_where_they_began(
    source: Path, echo: Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that were scored again may be larger, and a later version may group otherwise."""
    out = tmp_path / "out"
    run(echo, source, out)
    names = files(out)
    monkeypatch.setattr(partitions, "_GROUP_BYTES", 1)
    (out / names[0]).unlink()
    run(echo, source, out)
    assert files(out) == names


def test_groups_are_neighbours_that_fit() -> None:
    def part(start: int, size: int) -> PartInfo:
        return PartInfo(name="", block=Block(file=0, start=start, stop=start + 10), size_bytes=size)

    sizes = [5, 5, 1, 30, 2, 9]
    parts = [part(at * 10, size) for at, size in enumerate(sizes)]
    assert partitions.group_starts(parts, 10) == [(0, 0), (0, 20), (0, 30), (0, 40), (0, 50)]
    assert partitions.group_starts(parts, 1000) == [(0, 0)]
    assert partitions.group_starts([], 10) == []


@pytest.mark.usefixtures("small_groups")
def test_later_files_are_added_and_what_is_there_stays(
    source: Path, echo: Background, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(echo, source, out)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    pq.write_table(content(ROWS), source / "0.parquet")
    assert run(echo, source, out).metrics.rows_in == ROWS
    assert read(out) == expected(2 * ROWS)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert verify_output(str(out)).sound


def test_a_file_that_is_gone_or_damaged_is_noticed(source: Path, echo: Background, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(echo, source, out)
    gone = out / files(out)[1]
    gone.unlink()
    assert [problem.file for problem in verify_output(str(out)).problems] == [str(gone)]
    assert run(echo, source, out).metrics.rows_in == 0
    assert read(out) == expected()
    damaged = bytearray(gone.read_bytes())
    damaged[60] ^= 0xFF
    gone.write_bytes(damaged)
    assert "damaged" in verify_output(str(out)).problems[0].message
    gone.unlink()
    (out / "more.txt").write_text("x")
    with pytest.raises(OutputError, match=r"holds more\.txt, which asyncbatch did not write"):
        run(echo, source, out)
    assert verify_output(str(out)).problems[-1].message == "is there and belongs to no part"


@pytest.mark.usefixtures("small_groups")
def test_overwrite_removes_what_is_ours(source: Path, echo: Background, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(echo, source, out)
    with pytest.raises(OutputError, match="partition_by"):
        run(echo, source, out, partition_by="day")
    assert run(echo, source, out, partition_by="day", overwrite=True).exit_code == 0
    assert {name.partition("/")[0] for name in files(out)} == {"day=2024-01-01", "day=2024-01-02"}
    assert sorted(row[0] for row in duckdb.sql(f"select id from '{out}/**/*.parquet'").fetchall()) == list(
        range(ROWS)
    )
    state = tmp_path / "out.asyncbatch"
    state.rename(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="its state"):
        run(echo, source, out, partition_by="day")
    (tmp_path / "elsewhere").rename(state)
    pq.write_table(pa.table({"id": [1]}), out / "day=2024-01-01" / "part-0.parquet")
    with pytest.raises(OutputError, match="did not write"):
        run(echo, source, out, partition_by="day", overwrite=True)


KILLED = """
import os, signal, sys
from asyncbatch.sink import partitions
from asyncbatch.__main__ import main

partitions._GROUP_BYTES = 1
left = int(sys.argv.pop(1))
real = partitions.PartitionFolders._write_file

def killed(*values):
    global left
    size = real(*values)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return size

partitions.PartitionFolders._write_file = killed
sys.argv[0] = "asyncbatch"
main()
"""


def test_killed_in_the_middle_of_publishing(source: Path, echo: Background, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["run", str(source), str(out), "-e", echo.invocations_url, "--send", "x", "--block-rows", "50",
               "--partition-by", "day,kind"]  # fmt: skip
    for done in (3, 11, 14):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(done), *command], check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert not output_status(str(out)).finished
        seen = [row[0] for row in read(out)]  # what is there is right, and nothing is there twice
        assert len(seen) == len(set(seen))
        assert all(row == expected()[row[0]] for row in read(out))
    half = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert len(half) >= 14
    last = subprocess.run(
        [sys.executable, "-c", KILLED, "-1", *command, "--json"], check=True, timeout=60, capture_output=True
    )
    assert json.loads(last.stdout)["metrics"]["rows_in"] == 0
    assert read(out) == expected()
    assert {name: (out / name).stat().st_mtime_ns for name in half} == half
    assert verify_output(str(out)).sound


def test_a_retry_renews_only_its_files(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a label, so that rows move to another folder."""
    monkeypatch.setattr(partitions, "_GROUP_BYTES", 1)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "failing.py").write_text(
        "import os\n"
        "def labels(rows):\n"
        "    if os.environ.get('FAIL') and 77.0 in rows['x'].to_pylist():\n"
        "        raise ValueError('no')\n"
        "    return ['even' if row % 2 == 0 else 'odd' for row in rows['id'].to_pylist()]\n"
    )
    monkeypatch.setenv("FAIL", "1")
    out = tmp_path / "out"
    options: dict[str, Any] = {"send": "id,x", "partition_by": "prediction"}
    report = run("python:failing:labels", source, out, **options)
    assert report.exit_code == 3
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert [name for name in before if "HIVE" in name] == [
        "prediction=__HIVE_DEFAULT_PARTITION__/part-00000000-000000000150.parquet"
    ]
    monkeypatch.delenv("FAIL")
    real = partitions.PartitionFolders._remove_others
    with monkeypatch.context() as patch:
        patch.setattr(
            partitions.PartitionFolders,
            "_remove_others",
            lambda *_: (_ for _ in ()).throw(StorageError("no")),
        )
        with pytest.raises(StorageError):
            retry_job(str(out), {})
    assert partitions.PartitionFolders._remove_others is real
    assert retry_job(str(out), {}).exit_code == 0
    table = ds.dataset(out, partitioning="hive").to_table().sort_by("id")
    assert table["id"].to_pylist() == list(range(ROWS))
    assert table["prediction"].to_pylist() == ["even", "odd"] * (ROWS // 2)
    after = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    changed = {name for name in before if after.get(name) != before[name]}
    assert {name.rpartition("-")[2] for name in changed} == {"000000000150.parquet"}
    assert verify_output(str(out)).sound


def test_an_input_without_rows_makes_no_folders(source: Path, echo: Background, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pq.write_table(content(rows=0), source / "a.parquet")
    run(echo, source, out, allow_empty=True)
    assert files(out) == []
    assert verify_output(str(out)).sound
    assert run(echo, source, out, allow_empty=True).exit_code == 0


def test_too_many_folders_are_refused_at_the_first_block(
    source: Path, echo: Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitioning, "MOST_FOLDERS", 60)
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="--partition-by id makes more than 60 folders"):
        run(echo, source, out, partition_by="id")
    assert output_status(str(out)).rows_done <= 100
    assert files(out) == []
    # Counted over all blocks when they are published, those of an earlier process too.
    monkeypatch.setattr(partitioning.FolderCount, "see", lambda *_: None)
    with pytest.raises(OutputError, match="more than 60 folders"):
        run(echo, source, out, partition_by="id")
    pq.write_table(pa.table({"x": [1.0], "name": ["n" * 300]}), source / "a.parquet")
    with pytest.raises(OutputError, match="value of column 'name' is too long"):
        run(echo, source, tmp_path / "long", partition_by="name")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("size", "the output has no column 'size'"),
        ("x", "values of type double cannot be names of folders"),
        ("prediction", "values of type double"),
        ("day,nested", r"values of type list<.*int64> cannot"),
        ("day,day", "names a column twice"),
    ],
)
def test_columns_that_name_no_folders_are_refused(
    source: Path, echo: Background, tmp_path: Path, asked: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(echo, source, tmp_path / "out", partition_by=asked)
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_other_sinks_and_columns_left_out_are_refused(source: Path, echo: Background, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'day'") as error:
        run(echo, source, tmp_path / "out", keep="id")
    assert "--keep" in (error.value.hint or "")
    for sink in ("out.parquet", "sqlite:///d.sqlite?table=t"):
        with pytest.raises(ConfigError, match="makes folders"):
            run(echo, source, tmp_path / sink if sink.startswith("out") else sink)
    with pytest.raises(ConfigError, match="exclude each other"):
        run(echo, source, tmp_path / "out", file_size="1MB")


def test_values_of_every_kind_that_names_folders() -> None:
    table = pa.table(
        {
            "truth": [True, False, None],
            "small": pa.array([1, -2, 1], pa.int8()),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "view": pa.array(["a:b", "\x01", "é"], pa.string_view()),
            "none": pa.nulls(3),
            "row": [0, 1, 2],
        }
    )
    rows, found = partitioning.split(table, ["none", "truth", "small", "kind", "view"])
    assert rows.column_names == ["row"]
    assert {folder: rows.take(numbers)["row"].to_pylist() for folder, numbers in found} == {
        "none=__HIVE_DEFAULT_PARTITION__/truth=true/small=1/kind=x/view=a%3Ab/": [0],
        "none=__HIVE_DEFAULT_PARTITION__/truth=false/small=-2/kind=y/view=%01/": [1],
        "none=__HIVE_DEFAULT_PARTITION__/truth=__HIVE_DEFAULT_PARTITION__/small=1/kind=x/view=é/": [2],
    }
    assert partitioning.split(table.slice(0, 0), ["small"])[1] == []
