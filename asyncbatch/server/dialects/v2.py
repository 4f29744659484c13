"""The V2 (KServe, Open Inference) protocol in JSON: tensors in, flat tensors out.

Source: kserve/open-inference-protocol `specification/protocol/inference_rest.md`. MLServer and Triton speak
it; Triton's binary extension is not here.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncbatch.server.answers import JSON, ContainerError
from asyncbatch.server.rows import Matrix, Predictions, Rows, matrix_of

_DATATYPES = {
    "f8": "FP64", "f4": "FP32", "f2": "FP16", "i8": "INT64", "i4": "INT32", "i2": "INT16", "i1": "INT8",
    "u8": "UINT64", "u4": "UINT32", "u2": "UINT16", "u1": "UINT8", "b1": "BOOL",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class V2Dialect:
    """Takes one tensor of shape [rows, columns], or a tensor a column of shape [rows] or [rows, 1]; data flat
    or nested. Answers one tensor `predict`, of shape [rows, 1] for one value a row, as MLServer does."""

    features: int | None = None

    def decode(self, body: bytes, content_type: str) -> Rows:
        if content_type.partition(";")[0].strip().lower() not in ("", JSON):
            raise _refused(415, f"unsupported content type {content_type!r}, expected {JSON}")
        try:
            tree = json.loads(body)
            if not isinstance(tree, dict) or not isinstance(tree.get("inputs"), list):
                raise _refused(400, "Unable to find 'inputs' in the request JSON buffer")
            if not all(isinstance(each, dict) for each in tree["inputs"]):
                raise _refused(400, "Unable to parse 'inputs': attempt to access JSON non-object")
            tensors = [_tensor(each) for each in tree["inputs"]]
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise _refused(
                400, f"failed to parse the request JSON buffer: {type(error).__name__}: {error}"
            ) from error
        rows = _rows(tensors)
        found = rows.shape[1]
        if self.features is not None and found != self.features:
            raise _refused(400, f"expected {self.features} columns, got {found}")
        if not len(rows):
            raise _refused(400, "the request has no rows")
        return rows

    def encode(self, predictions: Predictions, *, accept: str, content_type: str) -> tuple[bytes, str]:
        array = np.asarray(predictions)
        if array.dtype.kind in "OSU":
            array = np.array([str(each) for each in array.flat], object).reshape(array.shape)
        output = {
            "name": "predict",
            "shape": list(array.shape) if array.ndim > 1 else [len(array), 1],
            "datatype": _DATATYPES.get(array.dtype.str[1:], "BYTES"),
            "data": array.reshape(-1).tolist(),
        }
        reply = {"model_name": "model", "model_version": "1", "outputs": [output]}
        return json.dumps(reply, separators=(",", ":")).encode(), JSON


def _tensor(tensor: Any) -> tuple[str, Matrix]:
    """Name and data, its first axis the rows.

    Raises:
        ValueError: data and shape do not go together.
    """
    shape, data = [int(size) for size in tensor["shape"]], tensor["data"]
    while data and isinstance(data[0], list):
        data = [value for part in data for value in part]
    if int(np.prod(shape, dtype=object)) != len(data):
        raise ValueError(f"tensor {tensor['name']!r} of shape {shape} has {len(data)} elements")
    flat = matrix_of(data).reshape(-1) if data else np.empty(0)
    return tensor["name"], flat.reshape(shape)


def _rows(tensors: list[tuple[str, Matrix]]) -> Matrix:
    if not tensors:
        raise _refused(400, "inputs is empty")
    if len({len(data) for _, data in tensors}) > 1:
        raise _refused(400, "the tensors differ in their first axis")
    columns = [data.reshape(len(data), -1) for _, data in tensors]
    if len({column.dtype.kind == "O" for column in columns}) > 1:
        columns = [column.astype(object) for column in columns]
    return columns[0] if len(columns) == 1 else np.column_stack(columns)


def _refused(status: int, message: str) -> ContainerError:
    return ContainerError(status, json.dumps({"error": message}), content_type=JSON)
