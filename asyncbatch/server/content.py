"""Request bodies to rows and predictions to reply bodies, by media type.

Numbers keep every bit: floats are written in the shortest form that reads back as the same double. NaN is
`nan` in CSV and null in JSON. Nothing is unpickled, and array headers are checked against the bytes that came
with them.
"""

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from asyncbatch.server.answers import ContainerError
from asyncbatch.server.rows import Matrix, Predictions, Rows, matrix_of

CSV = "text/csv"
JSON = "application/json"
JSONL = "application/jsonlines"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"

_SHORTCUT_BYTES = 2**19

FAMILIES = {
    CSV: CSV,
    JSON: JSON,
    JSONL: JSONL,
    "application/x-jsonlines": JSONL,
    "application/jsonl": JSONL,
    "application/x-ndjson": JSONL,
    NPY: NPY,
    ARROW: ARROW,
    "application/x-apache-arrow-stream": ARROW,
    PARQUET: PARQUET,
    "application/x-parquet": PARQUET,
}
"""Media types understood, and the family each belongs to."""


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """`text/csv; header=present` -> `("text/csv", {"header": "present"})`; names in lower case."""
    kind, *rest = header.split(";")
    pairs = (part.partition("=") for part in rest)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def decode(body: bytes, content_type: str) -> Rows:
    """The rows of a request.

    Raises:
        ContainerError: 415 for a media type not in `FAMILIES`, 400 for a body that is not what its type says
            or has no row.
    """
    kind, parameters = media_type(content_type)
    family = FAMILIES.get(kind)
    if family is None:
        raise ContainerError(
            415, f"Content-Type {kind!r} is not supported; supported are {', '.join(FAMILIES)}"
        )
    try:
        rows = (
            decode_csv(body, header=parameters.get("header") == "present")
            if family == CSV
            else _DECODE[family](body)
        )
    except (ValueError, TypeError, KeyError, OverflowError, OSError, pa.ArrowException) as error:
        raise ContainerError(400, f"the body is no {kind} of rows: {error}") from error
    if not len(rows):
        raise ContainerError(400, "the body has no rows")
    return rows


def encode(predictions: Predictions, family: str) -> bytes:
    """The reply body.

    Raises:
        ContainerError: 406, the predictions cannot be written in this form.
    """
    try:
        return _ENCODE[family](predictions)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ContainerError(406, f"the predictions cannot be written as {family}: {error}") from error


def decode_csv(body: bytes, *, header: bool) -> Rows:
    """One row a line.

    Small bodies of plain numbers go through the JSON parser, which takes 2 µs for a row where pyarrow takes
    800; large ones do not, because it holds the interpreter lock until it is done.
    """
    if not header and len(body) <= _SHORTCUT_BYTES and b'"' not in body:
        matrix = _number_lines(body)
        if matrix is not None:
            return matrix
    return pyarrow.csv.read_csv(
        io.BytesIO(body),
        read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=not header, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
    )


def _number_lines(body: bytes) -> "np.ndarray[Any, Any] | None":
    text = body.removesuffix(b"\n")
    try:
        matrix = np.array(orjson.loads(b"[[%b]]" % text.replace(b"\n", b"],[")))
    except ValueError:
        return None
    plain = matrix.ndim == 2 and matrix.dtype.kind in "iuf" and len(matrix) == text.count(b"\n") + 1
    return matrix if plain and matrix.size else None


def _decode_json(body: bytes) -> Rows:
    value = orjson.loads(body)
    if isinstance(value, dict):
        if "dataframe_split" in value:
            split = value["dataframe_split"]
            return _named(split["columns"], matrix_of(split["data"]))
        for envelope in ("instances", "inputs", "dataframe_records"):
            if envelope in value:
                value = value[envelope]
                break
        else:
            raise ContainerError(
                400,
                "expected a list, or an object with instances, inputs, dataframe_split or dataframe_records",
            )
        if isinstance(value, dict):
            return pa.table(value)
    return _of_list(value)


def _of_list(value: Any) -> Rows:
    if not isinstance(value, list):
        raise ContainerError(400, "expected a list of rows")
    if value and isinstance(value[0], dict):
        return pa.Table.from_pylist(value)
    return matrix_of(value) if value else np.empty((0, 0))


def _named(names: list[str], matrix: "np.ndarray[Any, Any]") -> Rows:
    if len(names) != matrix.shape[1]:
        raise ContainerError(400, f"{len(names)} column names for {matrix.shape[1]} columns")
    return pa.table({name: pa.array(column.tolist()) for name, column in zip(names, matrix.T, strict=True)})


def _decode_jsonl(body: bytes) -> Rows:
    return _of_list([orjson.loads(line) for line in body.splitlines() if line.strip()])


def decode_npy(body: bytes) -> Matrix:
    """A 2-D array. Reads the header itself: NumPy would allocate whatever shape the header claims."""
    file = io.BytesIO(body)
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, by_column, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "iufbUS":
        raise ValueError(f"arrays of {dtype} are not accepted")
    data = memoryview(body)[file.tell() :]
    if len(shape) not in (1, 2) or int(np.prod(shape, dtype=object)) * dtype.itemsize != len(data):
        raise ValueError(f"shape {shape} of {dtype} does not fit {len(data)} bytes")
    if not len(data):
        return np.empty((0, 0))
    flat = np.frombuffer(data, dtype=dtype)
    matrix = flat.reshape(shape, order="F" if by_column else "C")
    return matrix.reshape(-1, 1) if matrix.ndim == 1 else matrix


def _decode_arrow(body: bytes) -> Rows:
    with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
        table = reader.read_all()
    table.validate(full=True)  # offsets come from outside, and a bad one would read beyond the buffer
    return table


def _decode_parquet(body: bytes) -> Rows:
    return pq.read_table(pa.BufferReader(body), use_threads=False)


def _encode_csv(predictions: Predictions) -> bytes:
    if isinstance(predictions, np.ndarray) and predictions.dtype.kind in "iufb":
        if predictions.dtype.kind != "f" or np.isfinite(predictions).all():
            return _lines(predictions)
        return b"".join(b"%b\n" % ",".join(map(repr, row)).encode() for row in _nested(predictions))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for each in _nested(predictions):
        if any(isinstance(value, (dict, list)) for value in each):
            raise ValueError("a prediction is a structure; use Accept: application/json")
        writer.writerow(["" if value is None else value for value in each])
    return out.getvalue().encode()


def _lines(numbers: "np.ndarray[Any, Any]") -> bytes:
    """Numbers a line, through the JSON writer: one row of a 2-D array, or one value."""
    text = _json(numbers)
    if not numbers.size:
        return b""
    if numbers.ndim == 1:
        return text[1:-1].replace(b",", b"\n") + b"\n"
    return text[2:-2].replace(b"],[", b"\n") + b"\n"


def _nested(predictions: Predictions) -> list[list[Any]]:
    values = predictions.tolist() if isinstance(predictions, np.ndarray) else predictions
    return [each if isinstance(each, list) else [each] for each in values]


def _json(value: Any) -> bytes:
    if isinstance(value, np.ndarray) and value.dtype.kind not in "iufb":
        value = value.tolist()
    elif isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value)
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode_json(predictions: Predictions) -> bytes:
    return b'{"predictions":%b}' % _json(predictions)


def _encode_jsonl(predictions: Predictions) -> bytes:
    values = predictions.tolist() if isinstance(predictions, np.ndarray) else predictions
    return b"".join(orjson.dumps(each) + b"\n" for each in values)


def _encode_npy(predictions: Predictions) -> bytes:
    array = np.asarray(predictions)
    if array.dtype.kind not in "iufb":
        raise ValueError("only numbers")
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _table(predictions: Predictions) -> "pa.Table":
    if isinstance(predictions, np.ndarray) and predictions.ndim == 2 and predictions.dtype.kind in "iuf":
        flat = pa.array(np.ascontiguousarray(predictions).reshape(-1))
        return pa.table({"prediction": pa.FixedSizeListArray.from_arrays(flat, predictions.shape[1])})
    return pa.table({"prediction": pa.array(predictions)})


def _encode_arrow(predictions: Predictions) -> bytes:
    table = _table(predictions)
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _encode_parquet(predictions: Predictions) -> bytes:
    out = io.BytesIO()
    pq.write_table(_table(predictions), out)
    return out.getvalue()


_DECODE: dict[str, Callable[[bytes], Rows]] = {
    JSON: _decode_json,
    JSONL: _decode_jsonl,
    NPY: decode_npy,
    ARROW: _decode_arrow,
    PARQUET: _decode_parquet,
}

_ENCODE: dict[str, Callable[[Predictions], bytes]] = {
    CSV: _encode_csv,
    JSON: _encode_json,
    JSONL: _encode_jsonl,
    NPY: _encode_npy,
    ARROW: _encode_arrow,
    PARQUET: _encode_parquet,
}
