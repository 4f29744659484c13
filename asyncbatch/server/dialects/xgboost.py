"""SageMaker's built-in XGBoost algorithm, real-time: CSV without a header line in, all predictions on one
line out.

The rules are those of aws/sagemaker-xgboost-container, `algorithm_mode/handler_service.py` and
`serve_utils.py`. Its own source calls the one line "invalid CSV", kept for backwards compatibility.
"""

import csv
import json
from dataclasses import dataclass

import numpy as np

from asyncbatch.server.answers import ContainerError
from asyncbatch.server.dialects.toolkit import plain_values
from asyncbatch.server.rows import Matrix, Predictions, Rows

_CSV, _JSON = "text/csv", "application/json"
_ACCEPTED = (_JSON, _CSV)


@dataclass(frozen=True, slots=True, kw_only=True)
class XgboostDialect:
    """Takes `text/csv` with or without parameters; a body without Content-Type is CSV. Libsvm and
    RecordIO-protobuf are not read here."""

    features: int | None = None

    def decode(self, body: bytes, content_type: str) -> Rows:
        """Empty cells are NaN. One feature too few is taken without a word (the last one is NaN then), any
        other number is 400; a cell that is no number, such as a header line's, is 415."""
        media = content_type.lower().partition(";")[0].strip() or _CSV
        if media != _CSV:
            raise ContainerError(
                415,
                f"Content-type {media} not supported. Supported content-type is text/csv, text/libsvm,"
                " application/x-recordio-protobuf",
            )
        if not body:
            raise ContainerError(204, "")
        try:
            matrix = _matrix(body.strip().decode("utf-8"))
        except (ValueError, csv.Error) as error:
            raise ContainerError(
                415,
                "Loading csv data failed with Exception, please ensure data is in csv format:\n"
                f" {type(error)}\n {error}",
            ) from error
        return matrix if self.features is None else _fitted(matrix, self.features)

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        """CSV, or `{"predictions": [{"score": 0.5}]}` where JSON is accepted."""
        media = accept.partition(";")[0].strip()
        media = _CSV if media in ("", "*/*") else media.lower()
        values = plain_values(predictions)
        if media == _CSV:
            return ",".join(map(str, values)).encode(), _CSV
        if media == _JSON:
            return json.dumps({"predictions": [{"score": value} for value in values]}).encode(), _JSON
        raise ContainerError(
            406,
            f"Accept type {accept} is not supported. Please use supported accept types: {list(_ACCEPTED)}.",
        )


def _matrix(text: str) -> Matrix:
    """The container sniffs the delimiter of the first line, and so do we."""
    lines = text.split("\n")
    sniffed = csv.Sniffer().sniff(lines[0][:512]).delimiter
    delimiter = "," if sniffed.isalnum() else sniffed
    cells = [["nan" if cell == "" else cell for cell in line.split(delimiter)] for line in lines]
    return np.array(cells).astype(float)


def _fitted(matrix: Matrix, features: int) -> Matrix:
    found = matrix.shape[1]
    if found not in (features, features - 1):
        raise ContainerError(
            400,
            f"Unable to evaluate payload provided: Feature size of text/csv inference data {found} is not"
            f" consistent with feature size of trained model {features}.",
        )
    if found == features:
        return matrix
    return np.column_stack([matrix, np.full(len(matrix), np.nan)])
