"""MLflow's scoring server (`mlflow models serve`, and its SageMaker image).

The first line of a CSV body is its header: without one, the first row is lost. JSON comes back whatever
Accept says. Source: mlflow/mlflow `mlflow/pyfunc/scoring_server/__init__.py`.
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from asyncbatch.server import content
from asyncbatch.server.answers import JSON, ContainerError
from asyncbatch.server.dialects.toolkit import plain_values
from asyncbatch.server.rows import Predictions, Rows, matrix_of

_FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_REQUIRED = (
    "The input must be a JSON dictionary with exactly one of the input fields"
    " {'dataframe_split', 'dataframe_records', 'instances', 'inputs'}"
)
_NO_ROWS = (
    "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe"
    " is compatible with the model for inference."
)
_TYPES = [content.CSV, content.JSON, content.PARQUET]


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowDialect:
    """Takes text/csv with a header line, application/json with one of four envelopes, and Parquet. The only
    parameter it takes is `charset=utf-8`."""

    features: int | None = None

    def decode(self, body: bytes, content_type: str) -> Rows:
        media, parameters = content.media_type(content_type)
        if parameters.get("charset", "utf-8").lower() != "utf-8":
            raise ContainerError(415, "The scoring server only supports UTF-8", content_type="text/plain")
        if unknown := parameters.keys() - {"charset"}:
            raise ContainerError(
                415,
                f"Unrecognized content type parameters: {', '.join(sorted(unknown))}.",
                content_type="text/plain",
            )
        if media not in _TYPES:
            raise ContainerError(
                415,
                f"This predictor only supports the following content types: Types: {_TYPES}."
                f" Got '{content_type}'.",
                content_type="text/plain",
            )
        rows = self._read(body, media)
        width = rows.num_columns if isinstance(rows, pa.Table) else rows.shape[1]
        if self.features is not None and width != self.features:
            raise _refused(
                f"Failed to enforce schema of data with {width} columns. Error: the model takes"
                f" {self.features} inputs"
            )
        if not len(rows):
            raise _refused(_NO_ROWS)
        return rows

    @staticmethod
    def _read(body: bytes, media: str) -> Rows:
        try:
            if media == content.JSON:
                return _json_rows(json.loads(body))
            if media == content.CSV and b"\n" in body.strip():
                return content.decode_csv(body, header=True)
            if media == content.CSV:
                raise _refused(_NO_ROWS)
            return content.decode(body, media)
        except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
            what = "input is a valid JSON formatted string" if media == content.JSON else "input is valid"
            raise _refused(f"Invalid input. Ensure that {what}. Error: {error!r}") from error

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        """`{"predictions": [0.5, 0.25]}`."""
        return json.dumps({"predictions": plain_values(predictions)}).encode(), JSON


def _json_rows(tree: Any) -> Rows:
    if not isinstance(tree, dict):
        what = "a list" if isinstance(tree, list) else f"unexpected input type '{type(tree)}'"
        raise _refused(f"Invalid input. {_REQUIRED}. Received {what}.")
    given = [name for name in _FORMATS if name in tree]
    if len(given) != 1:
        raise _refused(f"{_REQUIRED}. Received dictionary with input fields: {list(tree)}.")
    data = tree[given[0]]
    if given[0] == "dataframe_split":
        return _named(data["columns"], data["data"])
    if isinstance(data, dict):
        return pa.table(data)
    if data and isinstance(data[0], dict):
        return pa.Table.from_pylist(data)
    return matrix_of(data)


def _named(names: list[str], rows: list[list[Any]]) -> Rows:
    if any(len(row) != len(names) for row in rows):
        raise ValueError(f"{len(names)} columns passed, passed data had another number of columns")
    return pa.table({name: pa.array([row[index] for row in rows]) for index, name in enumerate(names)})


def _refused(message: str) -> ContainerError:
    return ContainerError(
        400, json.dumps({"error_code": "BAD_REQUEST", "message": message}), content_type=JSON
    )
