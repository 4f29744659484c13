"""Partition folders made from columns, in a bucket."""

import os
from pathlib import Path

import emulators
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.config import RunConfig
from asyncbatch.pipeline.storage import sink_access
from asyncbatch.server.background import Background
from asyncbatch.sink import partitions
from asyncbatch.sink.verify import verify_output

KINDS = ["a b", "é/+", None]


def test_in_a_bucket(tmp_path: Path, echo: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = range(60)
    table = pa.table(
        {"id": list(rows), "kind": [KINDS[row % 3] for row in rows], "x": [row * 0.5 for row in rows]}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    monkeypatch.setattr(partitions, "_GROUP_BYTES", 1)
    with emulators.s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        bucket = s3.make(f"box-{os.urandom(4).hex()}")
        options = {"endpoint": echo.invocations_url, "send": "x", "block_rows": 30, "partition_by": "kind"}

        def run() -> int:
            report = asyncbatch.run(str(tmp_path / "in.parquet"), f"{bucket}/scores", **options)
            assert report.exit_code == 0
            return report.metrics.rows_in

        assert run() == 60
        files = pyarrow.fs.S3FileSystem(
            access_key="test", secret_key="test", region="us-east-1", scheme="http",
            endpoint_override=os.environ["AWS_ENDPOINT_URL_S3"].removeprefix("http://"),
        )  # fmt: skip
        place = f"{bucket.removeprefix('s3://')}/scores"

        def read() -> list[dict[str, object]]:
            found = ds.dataset(place, filesystem=files, partitioning="hive").to_table(
                ["id", "kind", "prediction"]
            )
            return found.sort_by("id").to_pylist()

        expected = [{"id": row, "kind": KINDS[row % 3], "prediction": row * 0.5} for row in rows]
        assert read() == expected
        names = [
            info.path
            for info in files.get_file_info(pyarrow.fs.FileSelector(place, recursive=True))
            if info.is_file
        ]
        assert len(names) == 6
        assert verify_output(f"{bucket}/scores", access=sink_access(RunConfig(), None)).sound
        files.delete_file(names[0])
        assert run() == 0
        assert read() == expected
