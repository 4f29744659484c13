"""`--partition-by same`: the output has the partition folders of the input."""

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import ConfigError, OutputError
from asyncbatch.server.background import Background
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output

FOLDERS = ["year=2024/kind=a b", "year=2024/kind=%C3%A9", "year=2025/kind=__HIVE_DEFAULT_PARTITION__"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number, folder in enumerate(FOLDERS):
        home = tmp_path / "in" / folder
        home.mkdir(parents=True)
        rows = range(number * 100, number * 100 + 100)
        pq.write_table(pa.table({"id": list(rows), "x": [row * 0.5 for row in rows]}), home / "a.parquet")
    return tmp_path / "in"


def run(echo: Background, source: Path, sink: Path | str, **options: Any) -> Any:
    given = {"endpoint": echo.invocations_url, "send": "x", "block_rows": 40, "partition_by": "same"}
    return asyncbatch.run(str(source), str(sink), **{**given, **options})


def test_readers_find_rows_and_partitions(source: Path, echo: Background, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(echo, source, out).exit_code == 0
    made = sorted({path.parent.relative_to(out).as_posix() for path in out.rglob("*.parquet")})
    assert made == sorted(FOLDERS)
    assert len(list(out.rglob("*.parquet"))) == 9
    part = pq.ParquetFile(next(out.rglob("*.parquet")))
    assert part.schema_arrow.names == ["id", "x", "prediction", "error"]
    part.close()
    table = ds.dataset(out, partitioning="hive").to_table().sort_by("id")
    assert table["id"].to_pylist() == list(range(300))
    assert table["year"].to_pylist() == [2024] * 200 + [2025] * 100
    assert table["kind"].to_pylist() == ["a b"] * 100 + ["é"] * 100 + [None] * 100
    assert (
        pl.read_parquet(out, hive_partitioning=True).sort("id")["year"].to_list()
        == [2024] * 200 + [2025] * 100
    )
    found = duckdb.sql(
        f"select year, count(*) from '{out}/**/*.parquet' group by year order by year"
    ).fetchall()
    assert [(int(year), count) for year, count in found] == [(2024, 200), (2025, 100)]
    assert verify_output(str(out)).sound
    assert output_status(str(out)).finished


def test_a_part_that_is_gone_is_made_again_in_its_folder(
    source: Path, echo: Background, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(echo, source, out)
    gone = sorted(out.rglob("*.parquet"))[4]
    gone.unlink()
    assert not verify_output(str(out)).sound
    assert run(echo, source, out).exit_code == 0
    assert gone.exists()
    assert verify_output(str(out)).sound
    assert run(echo, source, out, overwrite=True).exit_code == 0
    assert len(list(out.rglob("*.parquet"))) == 9
    with pytest.raises(OutputError, match="partition_by"):
        run(echo, source, out, partition_by=None, keep="id,x")


def test_what_cannot_be_partitioned_is_refused(source: Path, echo: Background, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no partition folders"):
        run(echo, source / FOLDERS[0] / "a.parquet", tmp_path / "one")
    with pytest.raises(ConfigError, match=r"one\.parquet is none"):
        run(echo, source, tmp_path / "one.parquet")
    with pytest.raises(ConfigError, match="exclude each other"):
        run(echo, source, tmp_path / "one", file_size="1MB")
