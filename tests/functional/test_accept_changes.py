"""`--accept-changes`: a job goes on with another command, where the rows of both make one table."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import ConfigError, OutputError
from asyncbatch.observe.report import RunReport
from asyncbatch.server import ServeConfig, serving

ROWS = 600
OPTIONS: dict[str, Any] = {"no_send": "id", "chunk_rows": 50, "concurrency": 2, "block_rows": 100}
SERVED = ServeConfig(model="echo", names=("churn",), variants=("blue", "green"))


@pytest.fixture(autouse=True)
def table(tmp_path: Path) -> pa.Table:
    found = pa.table({"x0": np.random.default_rng(3).normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(found, tmp_path / "in.parquet")
    return found


def run(folder: Path, **options: Any) -> RunReport:
    async def main() -> RunReport:
        async with serving(SERVED) as server:
            return await asyncbatch.arun(
                str(folder / "in.parquet"), str(folder / "out"), endpoint=server.name, endpoint_url=server.url,
                **(OPTIONS | options),
            )  # fmt: skip

    return asyncio.run(main())


def remove_parts(folder: Path, *numbers: int) -> None:
    """As many rows are left to do: what a stopped run leaves, at will."""
    for number in numbers:
        sorted((folder / "out").iterdir())[number].unlink()


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.asyncbatch" / "manifest.json").read_text())
    return found


def check(folder: Path, table: pa.Table) -> None:
    scored = pq.read_table(folder / "out")
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    assert scored["prediction"].to_pylist() == table["x0"].to_pylist()


def test_what_is_accepted_holds_from_then_on_and_is_in_the_manifest(tmp_path: Path, table: pa.Table) -> None:
    run(tmp_path, target_variant="blue")
    remove_parts(tmp_path, 4, 2)
    with pytest.raises(OutputError, match="target_variant: planned blue, now green") as caught:
        run(tmp_path, target_variant="green")
    assert "--accept-changes target-variant" in str(caught.value.hint)
    with pytest.raises(OutputError, match="target_variant"):  # another name accepts nothing of it
        run(tmp_path, target_variant="green", accept_changes="round")
    report = run(tmp_path, target_variant="green", accept_changes="target-variant")
    assert report.exit_code == 0
    assert report.metrics.rows_resumed == 400
    check(tmp_path, table)
    assert manifest(tmp_path)["variants"] == {"blue": 400, "green": 200}
    changes = manifest(tmp_path)["accepted_changes"]
    assert [(each["field"], each["planned"], each["now"]) for each in changes] == [
        ("options.target_variant", "blue", "green"),
        ("endpoint.variant", "blue", "green"),
    ]

    remove_parts(tmp_path, 1)
    assert run(tmp_path, target_variant="green").exit_code == 0, "accepted once"
    assert manifest(tmp_path)["variants"] == {"blue": 300, "green": 300}
    with pytest.raises(OutputError, match="target_variant: planned green, now blue"):
        run(tmp_path, target_variant="blue")
    check(tmp_path, table)


def test_the_body_may_change_where_replies_read_as_before(tmp_path: Path, table: pa.Table) -> None:
    run(tmp_path, body="json", accept="text/csv")
    remove_parts(tmp_path, 0)
    run(tmp_path, accept="text/csv", accept_changes="body")
    check(tmp_path, table)


def test_replies_that_read_otherwise_are_refused_before_a_row_is_sent(
    tmp_path: Path, table: pa.Table
) -> None:
    run(tmp_path)
    remove_parts(tmp_path, 0)
    with pytest.raises(
        OutputError, match="--accept-changes accept: replies can no longer be read as planned"
    ):
        run(tmp_path, accept="application/json", accept_changes="accept")
    assert len(list((tmp_path / "out").iterdir())) == 5
    run(tmp_path)
    check(tmp_path, table)
    assert manifest(tmp_path)["accepted_changes"] == [], "what was refused is not written down"


def test_other_output_columns_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    remove_parts(tmp_path, 0)
    with pytest.raises(OutputError, match=r"the output would have other columns \(predicted_label\)"):
        run(tmp_path, threshold=0.5, accept_changes="threshold")
    with pytest.raises(ConfigError, match="--accept-changes keep: it decides the output's columns"):
        run(tmp_path, keep="id", accept_changes="keep")


def test_another_threshold_is_accepted(tmp_path: Path, table: pa.Table) -> None:
    run(tmp_path, threshold=0.5)
    remove_parts(tmp_path, 0)
    run(tmp_path, threshold=-9, accept_changes="threshold")
    labels = pq.read_table(tmp_path / "out")["predicted_label"].to_numpy()
    assert labels[:100].tolist() == [1] * 100
    assert labels[100:].tolist() == (table["x0"].to_numpy()[100:] > 0.5).astype(int).tolist()


def test_a_changed_input_is_refused_whatever_is_accepted(tmp_path: Path, table: pa.Table) -> None:
    run(tmp_path)
    remove_parts(tmp_path, 0)
    pq.write_table(table.slice(1), tmp_path / "in.parquet")
    with pytest.raises(OutputError, match=r"in\.parquet"):
        run(tmp_path, accept_changes="endpoint,region,body,accept")


def test_a_retry_goes_by_what_was_accepted(tmp_path: Path) -> None:
    from asyncbatch.pipeline.retrying import make_retry_job

    run(tmp_path, target_variant="blue")
    remove_parts(tmp_path, 3)
    run(tmp_path, target_variant="green", accept_changes="target_variant")
    job = make_retry_job(str(tmp_path / "out"), {})
    assert job.config.request.target_variant == "green"
