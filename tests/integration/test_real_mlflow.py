"""`asyncbatch run` against MLflow's scoring server: every body it reads, and what it refuses."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import EndpointError, ReplyError

pytestmark = pytest.mark.real("mlflow")

SEVERAL_BLOCKS = {"block_rows": 1_200, "chunk_rows": 350}
PARQUET_TYPE = "application/vnd.apache.parquet"


def scored(model: Any, out: Path, **options: Any) -> pa.Table:
    """The output of a run that rejected nothing; its input columns are those of the input, in order."""
    report = asyncbatch.run(str(model.rows), str(out), endpoint=model.url, **SEVERAL_BLOCKS, **options)
    assert (report.status, report.metrics.rows_in) == ("done", len(model.expected))
    table = pq.read_table(out)
    rows = pq.read_table(model.rows)
    assert table.select(rows.column_names).equals(rows)
    assert table["error"].null_count == table.num_rows
    return table


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"body": "csv-header"}, id="csv-header"),
        pytest.param({"body": "json", "template": "split"}, id="dataframe_split"),
        pytest.param({"body": "json", "template": "records"}, id="dataframe_records"),
        pytest.param({"body": "json", "template": "instances", "row": "object"}, id="instances"),
        pytest.param({"body": "json", "template": "inputs", "row": "object"}, id="inputs"),
        pytest.param({"body": "parquet", "content_type": PARQUET_TYPE}, id="parquet"),
    ],
)
def test_rows_with_nulls_score_as_the_model_scores_them(
    mlflow_models: Mapping[str, Any], tmp_path: Path, options: dict[str, Any]
) -> None:
    model = mlflow_models["number"]
    assert sum(column.null_count for column in pq.read_table(model.rows).columns) > 1_000
    table = scored(model, tmp_path / "out", **options)
    assert table["prediction"].to_pylist() == model.expected
    assert len(list((tmp_path / "out").iterdir())) == 5


@pytest.mark.parametrize("template", ["instances", "inputs"])
def test_a_model_of_plain_arrays_takes_lists(
    mlflow_models: Mapping[str, Any], tmp_path: Path, template: str
) -> None:
    model = mlflow_models["matrix"]
    table = scored(model, tmp_path / "out.parquet", body="json", template=template)
    assert table["prediction"].to_pylist() == model.expected


@pytest.mark.parametrize("options", [{"body": "csv-header"}, {"body": "json", "template": "split"}])
def test_several_outputs_a_row_are_vectors(
    mlflow_models: Mapping[str, Any], tmp_path: Path, options: dict[str, Any]
) -> None:
    model = mlflow_models["vector"]
    table = scored(model, tmp_path / "out.parquet", **options)
    assert table.schema.field("prediction").type.value_type == pa.float64()
    # Not bit for bit: BLAS adds in another order for another number of rows.
    np.testing.assert_allclose(table["prediction"].to_pylist(), model.expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("options", [{"body": "csv-header"}, {"body": "json", "template": "records"}])
def test_labels_are_text(mlflow_models: Mapping[str, Any], tmp_path: Path, options: dict[str, Any]) -> None:
    model = mlflow_models["label"]
    assert set(model.expected) == {"low", "middling, so to say", "größer"}
    assert scored(model, tmp_path / "out.parquet", **options)["prediction"].to_pylist() == model.expected


def test_a_row_lost_to_the_header_is_noticed(mlflow_models: Mapping[str, Any], tmp_path: Path) -> None:
    """Sent without a header line, MLflow takes the first row for one and answers the others, status 200."""
    model = mlflow_models["matrix"]
    with pytest.raises(ReplyError) as caught:
        asyncbatch.run(str(model.rows), str(tmp_path / "out"), endpoint=model.url, body="csv")
    assert caught.value.message == "replies hold one prediction less than rows were sent"
    assert "--body csv-header" in (caught.value.hint or "")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_model_with_a_signature_refuses_rows_without_a_header(
    mlflow_models: Mapping[str, Any], tmp_path: Path
) -> None:
    model = mlflow_models["number"]
    with pytest.raises(EndpointError, match=r"none of the probes of 1, 2, 7, 300 rows .* HTTP 400"):
        asyncbatch.run(str(model.rows), str(tmp_path / "out"), endpoint=model.url, body="csv")
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_row_that_it_cannot_read_is_the_only_reject(
    mlflow_models: Mapping[str, Any], tmp_path: Path
) -> None:
    """The 400 is about the whole request; the row at fault is found by halving it."""
    model = mlflow_models["number"]
    rows = pq.read_table(model.rows)
    bad = 3_217
    length = pc.cast(rows["length"], pa.string()).to_pylist()
    length[bad] = "no number"
    pq.write_table(rows.set_column(0, "length", pa.array(length)), tmp_path / "in.parquet")
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out.parquet"),
        endpoint=model.url,
        body="csv-header",
        **SEVERAL_BLOCKS,
    )
    assert (report.status, report.exit_code, report.metrics.rows_rejected) == ("done_with_rejects", 3, 1)
    table = pq.read_table(tmp_path / "out.parquet")
    wanted = [*model.expected[:bad], None, *model.expected[bad + 1 :]]
    assert table["prediction"].to_pylist() == wanted
    assert [row for row, error in enumerate(table["error"].to_pylist()) if error is not None] == [bad]


def test_the_command_scores_csv_files(
    mlflow_models: Mapping[str, Any],
    tmp_path: Path,
    run_command: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    model = mlflow_models["number"]
    rows = pq.read_table(model.rows)
    folder = tmp_path / "in"
    folder.mkdir()
    for number, start in enumerate((0, 2_000, 4_000)):
        rows.slice(start, 2_000).to_pandas().to_csv(folder / f"{number}.csv", index=False)
    done = run_command(
        "run", "in/*.csv", "out.parquet", "-e", model.url, "--body", "json", "--template", "split", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["rows_out"] == len(model.expected)
    assert pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist() == model.expected


def test_a_body_that_it_does_not_read_is_an_error_that_names_the_option(
    mlflow_models: Mapping[str, Any],
    tmp_path: Path,
    run_command: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    model = mlflow_models["number"]
    done = run_command("run", str(model.rows), "out", "-e", model.url, "--body", "npy", "-q")
    assert done.returncode == 1
    assert "HTTP 415" in done.stderr
    assert "text/csv" in done.stderr
    assert "hint: the server takes no application/x-npy: --body csv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
