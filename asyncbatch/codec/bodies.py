"""Reply bodies to plain values, with no layout yet: what several readings share.

A *column* is a list of Python values, a numpy array (first axis: rows) or Arrow data.
"""

import csv
import io
import json
import re
from typing import Any, TypeAlias

import numpy as np
import orjson
import pyarrow as pa

from asyncbatch.model import Reply

Column: TypeAlias = Any
"""list, numpy.ndarray, pyarrow.Array or pyarrow.ChunkedArray."""

JSON_LINES = frozenset(
    {
        "application/jsonlines",
        "application/jsonl",
        "application/x-jsonlines",
        "application/x-ndjson",
        "application/ndjson",
    }
)
_PYTHON_NUMBERS = re.compile(rb"(?<![\w.])(-?)(nan|inf(?:inity)?)(?![\w.])", re.IGNORECASE)


class UnreadableError(Exception):
    """The body is not of the format it is read as; the message says why, without content."""


def media_type(reply: Reply) -> str:
    """Without parameters, lower case."""
    return reply.content_type.partition(";")[0].strip().lower()


def is_json_type(media: str) -> bool:
    return media == "application/json" or media.endswith("+json") or media == "text/json"


def is_npy(body: bytes) -> bool:
    return body.startswith(b"\x93NUMPY")


def is_arrow(body: bytes) -> bool:
    return body.startswith((b"ARROW1", b"\xff\xff\xff\xff"))


def load_json(body: bytes) -> Any:
    """JSON, and the NaN and Infinity that Python servers write.

    Raises:
        UnreadableError: neither.
    """
    try:
        return orjson.loads(body)
    except ValueError:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise UnreadableError("it is not JSON") from error


def load_items(text: bytes) -> list[Any]:
    """Comma-separated JSON values without brackets around them; also `nan` and `inf` as Python prints them.

    Raises:
        UnreadableError: not that.
    """
    try:
        items: list[Any] = orjson.loads(b"[" + text + b"]")
    except ValueError:
        if b'"' not in text:
            text = _PYTHON_NUMBERS.sub(_json_number, text)
        loaded = load_json(b"[" + text + b"]")
        assert isinstance(loaded, list)
        return loaded
    return items


def _json_number(match: re.Match[bytes]) -> bytes:
    return match[1] + (b"NaN" if match[2].lower() == b"nan" else b"Infinity")


def csv_rows(body: bytes) -> list[list[str]]:
    """Lines as lists of cells; blank lines at the end are left out, others are empty lists.

    Raises:
        UnreadableError: not UTF-8, or quoting that does not end.
    """
    try:
        text = body.decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError("it is not CSV in UTF-8") from error
    while rows and not rows[-1]:
        rows.pop()
    return rows


def aligned_rows(rows: list[list[str]], wanted: int) -> list[list[str]]:
    """With blank lines kept (they are nulls) if that gives `wanted` rows, else without them."""
    if len(rows) == wanted:
        return [row or [""] for row in rows]
    return [row for row in rows if row]


def json_lines(body: bytes) -> list[Any]:
    """One JSON value a line, blank lines left out.

    Raises:
        UnreadableError: not that.
    """
    text = body.strip()
    if not text:
        return []
    if b"\r" not in text and b"\n\n" not in text:
        try:
            items: list[Any] = orjson.loads(b"[" + text.replace(b"\n", b",") + b"]")
        except ValueError:
            pass  # perhaps NaN: read line by line
        else:
            return items
    return [load_json(line) for line in text.splitlines() if line.strip()]


def may_hold_booleans(body: bytes) -> bool:
    """Whether `true` or `false` may be in the text. Nearly free where text is rare; True where it is not."""
    for word in (b"true", b"false"):
        position = -1
        for _ in range(8):
            position = body.find(word[:1], position + 1)  # a byte is found 20 times faster than a word
            if position < 0:
                break
            if body.startswith(word, position):
                return True
        else:
            return True
    return False


def load_npy(body: bytes) -> "np.ndarray[Any, Any]":
    """An array, pickles refused.

    Raises:
        UnreadableError: not npy.
    """
    try:
        return np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise UnreadableError("it is not an npy array of numbers or text") from error


def load_arrow(body: bytes) -> pa.Table:
    """An Arrow IPC stream or file.

    Raises:
        UnreadableError: neither.
    """
    try:
        source = pa.BufferReader(body)
        reader = pa.ipc.open_file(source) if body.startswith(b"ARROW1") else pa.ipc.open_stream(source)
        table = reader.read_all()
        table.validate()
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError("it is not Arrow IPC data") from error
    return table


def tensor_rows(array: "np.ndarray[Any, Any]", rows: int) -> "np.ndarray[Any, Any]":
    """The array with its rows as first axis: a lone value is one row, and `(n, 1)` is n values."""
    if array.ndim == 0 and rows == 1:
        return array.reshape(1)
    if array.ndim == 2 and array.shape[1] == 1:
        return array.reshape(-1)
    return array


def v2_tensors(tree: Any) -> "dict[str, np.ndarray[Any, Any]] | None":
    """The outputs of a V2 inference reply by name, or None if it is none.

    Raises:
        UnreadableError: data and shape of a tensor do not go together.
    """
    outputs = tree.get("outputs") if isinstance(tree, dict) else None
    if not isinstance(outputs, list) or not outputs:
        return None
    tensors = {}
    for number, output in enumerate(outputs):
        if not isinstance(output, dict) or not isinstance(output.get("shape"), list) or "data" not in output:
            return None
        data = output["data"]
        if not isinstance(data, list):
            return None
        tensors[str(output.get("name", number))] = _shaped(data, output["shape"])
    return tensors


def _shaped(data: list[Any], shape: list[Any]) -> "np.ndarray[Any, Any]":
    types = set(map(type, data))
    try:
        if types == {list}:  # nested: allowed instead of flat
            return np.array(data).reshape(shape)
        # Only plain numbers: numpy would turn a mix with text or null into something else.
        uniform = len(types) == 1 and types <= {int, float, bool}
        array = np.array(data) if uniform else np.empty(len(data), object)
        if not uniform:
            array[:] = data
        return array.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableError("data and shape of a tensor do not agree") from error


def native_columns(result: Any, rows: int) -> Column | dict[str, Column]:
    """What a Python callable returned: one column, or several by name.

    Takes numpy arrays, lists, tuples, one bare value for one row, Arrow arrays and tables, pandas and polars
    objects, mappings of columns, and anything with `__array__`.

    Raises:
        UnreadableError: none of these.
    """
    if isinstance(result, (pa.Table, pa.RecordBatch)):
        return _table_columns(result)
    if isinstance(result, (pa.Array, pa.ChunkedArray)):
        return result
    if isinstance(result, np.ndarray):
        return tensor_rows(result, rows)
    if isinstance(result, (list, tuple)):
        return [_builtin(each) for each in result]
    if isinstance(result, dict):
        columns = {str(key): native_columns(value, rows) for key, value in result.items()}
        if any(isinstance(column, dict) for column in columns.values()):
            raise UnreadableError("a column of the mapping is itself a mapping")
        return columns
    if isinstance(result, (bool, int, float, str, np.generic)):
        if rows != 1:
            raise UnreadableError("it is a single value")
        return [_builtin(result)]
    if hasattr(result, "columns") and hasattr(result, "__arrow_c_stream__"):
        return _table_columns(pa.table(result))
    if hasattr(result, "to_numpy"):
        return tensor_rows(np.asarray(result.to_numpy()), rows)
    if hasattr(result, "__array__"):
        return tensor_rows(np.asarray(result), rows)
    raise UnreadableError(f"it is a {type(result).__name__}")


def _table_columns(table: "pa.Table | pa.RecordBatch") -> Column | dict[str, Column]:
    """A table of one column is that column: its name says nothing that `--prediction-name` does not."""
    if table.num_columns == 1:
        return table.column(0)
    return dict(zip(table.schema.names, table.columns, strict=True))


def table_columns(table: pa.Table) -> Column | dict[str, Column]:
    return _table_columns(table)


def _builtin(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
