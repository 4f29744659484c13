"""Bodies to rows, predictions to bodies."""

import io
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.server import content
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.content import ARROW, CSV, JSON, JSONL, NPY, PARQUET
from asyncbatch.server.dialects import dialect
from asyncbatch.server.rows import to_columns, to_matrix

MATRIX = np.array([[1.5, 2.0], [-3.25, 1e300], [0.1, 7.0]])
PLAIN = dialect("plain")


def npy(array: "np.ndarray[Any, Any]") -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def arrow(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


TABLE = pa.table({"a": MATRIX[:, 0], "b": MATRIX[:, 1]})
ROWS = MATRIX.tolist()
RECORDS = TABLE.to_pylist()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (CSV, b"1.5,2.0\n-3.25,1e300\n0.1,7.0\n"),
        (CSV, b"1.5,2.0\n-3.25,1e300\n0.1,7.0"),
        (CSV, b"1.5,2.0\r\n-3.25,1e300\r\n0.1,7.0\r\n"),
        (CSV, b'"1.5",2.0\n-3.25,"1e300"\n0.1,7.0\n'),
        ("text/csv; charset=utf-8; Header=present", b"a,b\n1.5,2.0\n-3.25,1e300\n0.1,7.0\n"),
        (JSON, orjson.dumps(ROWS)),
        (JSON, orjson.dumps({"instances": ROWS})),
        (JSON, orjson.dumps({"inputs": ROWS, "parameters": {"top_k": 1}})),
        (JSON, orjson.dumps({"inputs": TABLE.to_pydict()})),
        (JSON, orjson.dumps({"instances": RECORDS})),
        (JSON, orjson.dumps({"dataframe_records": RECORDS})),
        (JSON, orjson.dumps({"dataframe_split": {"columns": ["a", "b"], "data": ROWS}})),
        (JSONL, b"\n".join(map(orjson.dumps, ROWS))),
        ("application/x-jsonlines", b"\n".join(map(orjson.dumps, RECORDS)) + b"\n"),
        (NPY, npy(MATRIX)),
        (NPY, npy(np.asfortranarray(MATRIX))),
        (ARROW, arrow(TABLE)),
        (PARQUET, parquet(TABLE)),
    ],
)
def test_every_form_gives_the_same_rows(content_type: str, body: bytes) -> None:
    assert np.array_equal(to_matrix(content.decode(body, content_type)), MATRIX)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("", b"1\n", 415),
        ("application/x-pickle", b"1\n", 415),
        (CSV, b"", 400),
        (CSV, b"1,2\n3\n", 400),
        (CSV, b"1,2\n3,4,5\n", 400),
        (JSON, b"", 400),
        (JSON, b"[]", 400),
        (JSON, b"[[1,2],[3]]", 400),
        (JSON, b"[[1,[2]],[3,4]]", 400),
        (JSON, b'{"rows": [[1]]}', 400),
        (JSON, b'"text"', 400),
        (JSON, b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', 400),
        (JSONL, b"[1]\nnope\n", 400),
        (NPY, b"nope", 400),
        (NPY, npy(MATRIX)[:-1], 400),
        (NPY, npy(np.zeros((2, 2, 2))), 400),
        (ARROW, b"nope", 400),
        (ARROW, arrow(TABLE)[:-40], 400),
        (PARQUET, b"nope", 400),
    ],
)
def test_what_is_no_rows_is_refused(content_type: str, body: bytes, status: int) -> None:
    with pytest.raises(ContainerError) as caught:
        content.decode(body, content_type)
    assert caught.value.status == status


def test_a_pickle_inside_npy_is_not_opened() -> None:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ContainerError, match="not accepted"):
        content.decode(out.getvalue(), NPY)


def test_a_header_that_claims_a_huge_array_allocates_nothing() -> None:
    honest = npy(np.zeros((1000000, 10)))[: 128 + 80]
    assert b"(1000000, 10)" in honest
    with pytest.raises(ContainerError, match="does not fit 80 bytes"):
        content.decode(honest, NPY)


def test_missing_values_are_nan() -> None:
    assert np.isnan(to_matrix(content.decode(b"1,\n,2\n", CSV))[0, 1])
    assert np.isnan(to_matrix(content.decode(b"[[1,null],[2,3]]", JSON))[0, 1])
    assert np.isnan(to_matrix(content.decode(b'[{"a":1},{"a":null}]', JSON))[1, 0])


def test_a_blank_line_is_a_row_with_a_missing_value() -> None:
    assert len(content.decode(b"1\n\n3\n", CSV)) == 3
    assert len(content.decode(b"1\n\n", CSV)) == 2


def test_text_stays_text_and_numbers_beside_it_stay_numbers() -> None:
    rows = content.decode(b'1,UA\n2,"A,B"\n', CSV)
    assert to_matrix(rows).tolist() == [[1, "UA"], [2, "A,B"]]
    assert [column.tolist() for column in to_columns(rows)] == [[1, 2], ["UA", "A,B"]]
    assert to_matrix(content.decode(b'[[1,"UA"],[2,"AA"]]', JSON)).tolist() == [[1, "UA"], [2, "AA"]]
    assert to_matrix(content.decode(b'{"inputs":["one","two"]}', JSON)).tolist() == [["one"], ["two"]]


def test_brackets_in_csv_do_not_become_structure() -> None:
    assert to_matrix(content.decode(b"1],[2\n3],[4\n", CSV)).tolist() == [["1]", "[2"], ["3]", "[4"]]
    with pytest.raises(ContainerError):
        content.decode(b"1],[2\n3\n", CSV)


@pytest.mark.parametrize(
    ("accept", "content_type", "expected"),
    [
        ("", CSV, CSV),
        ("*/*", JSON, JSON),
        ("", "text/csv; header=present", CSV),
        ("application/json", CSV, JSON),
        ("text/html, application/json;q=0.5", CSV, JSON),
        ("text/*", CSV, CSV),
        ("application/x-ndjson", CSV, JSONL),
        ("text/csv;q=0, application/json", CSV, JSON),
        ("", NPY, NPY),
        ("", ARROW, ARROW),
        ("", PARQUET, PARQUET),
    ],
)
def test_the_reply_is_in_the_accepted_form_or_the_requests_own(
    accept: str, content_type: str, expected: str
) -> None:
    _, found = PLAIN.encode(np.array([1.0]), accept=accept, content_type=content_type)
    assert found == expected


def test_an_unknown_accept_is_refused() -> None:
    with pytest.raises(ContainerError) as caught:
        PLAIN.encode(np.array([1.0]), accept="image/png", content_type=CSV)
    assert caught.value.status == 406


@pytest.mark.parametrize(
    ("predictions", "family", "expected"),
    [
        (np.array([1.5, 2.0]), CSV, b"1.5\n2.0\n"),
        (np.array([1, 2]), CSV, b"1\n2\n"),
        (np.array([[1.5, 2.0], [3.0, 4.0]]), CSV, b"1.5,2.0\n3.0,4.0\n"),
        (np.array([1.5, np.nan, np.inf]), CSV, b"1.5\nnan\ninf\n"),
        (["late", 'a"b', "x,y"], CSV, b'late\n"a""b"\n"x,y"\n'),
        (np.array([1.5, 2.0]), JSON, b'{"predictions":[1.5,2.0]}'),
        (np.array([[1.5], [np.nan]]), JSON, b'{"predictions":[[1.5],[null]]}'),
        ([{"label": "a", "score": 0.5}], JSON, b'{"predictions":[{"label":"a","score":0.5}]}'),
        (np.array([[1.5, 2.0]]), JSONL, b"[1.5,2.0]\n"),
        (np.array([1.5, 2.0]), JSONL, b"1.5\n2.0\n"),
        (["late"], JSONL, b'"late"\n'),
    ],
)
def test_replies_as_bytes(predictions: Any, family: str, expected: bytes) -> None:
    assert content.encode(predictions, family) == expected


@pytest.mark.parametrize(("predictions", "family"), [([{"a": 1}], CSV), (["text"], NPY)])
def test_what_cannot_be_written_so_is_not_acceptable(predictions: Any, family: str) -> None:
    with pytest.raises(ContainerError) as caught:
        content.encode(predictions, family)
    assert caught.value.status == 406


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=30))
def test_numbers_survive_every_reply_bit_for_bit(values: list[float]) -> None:
    array = np.array(values)
    assert [float(line) for line in content.encode(array, CSV).split()] == values
    assert [float(line) for line in content.encode(array[:, None], CSV).split()] == values
    assert np.load(io.BytesIO(content.encode(array, NPY))).tolist() == values
    table = pa.ipc.open_stream(content.encode(array, ARROW)).read_all()
    assert table["prediction"].to_pylist() == values
    assert pq.read_table(io.BytesIO(content.encode(array, PARQUET)))["prediction"].to_pylist() == values


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
        min_size=1,
        max_size=20,
    )
)
def test_csv_numbers_are_read_bit_for_bit(rows: list[list[float]]) -> None:
    body = "".join(",".join(map(repr, row)) + "\n" for row in rows).encode()
    assert to_matrix(content.decode(body, CSV)).tolist() == rows
