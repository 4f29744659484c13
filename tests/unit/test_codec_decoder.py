"""Decoding: what does not match the layout is refused with its kind, and never with its content."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asyncbatch.codec import ReplyLayout, assemble_values, infer_layout, make_decoder, null_values
from asyncbatch.codec.paths import compile_path
from asyncbatch.config import ReplyConfig
from asyncbatch.errors import ReplyMismatchError
from asyncbatch.model import Reply
from asyncbatch.protocols import Decoder


def layout_of(*bodies: tuple[bytes, int], config: ReplyConfig | None = None, media: str = "") -> ReplyLayout:
    return infer_layout(
        [(Reply(body=body, content_type=media), rows) for body, rows in bodies], config or ReplyConfig()
    )


LINES = layout_of((b"0.5", 1), (b"0.5\n0.25", 2))
CSV_VECTORS = layout_of((b"1,2,3\n4,5,6", 2))
ONE_LINE = layout_of((b"0.5", 1), (b"0.5,0.25", 2))
JSON = layout_of((b'{"p":[0.5]}', 1), (b'{"p":[0.5,1]}', 2))
VECTORS = layout_of((b"[[1,2,3]]", 1), (b"[[1,2,3],[4,5,6]]", 2))
FIELDS = layout_of((b'[{"a":1,"b":"x"}]', 1), (b'[{"a":1,"b":"x"},{"a":2,"b":null}]', 2))
TEXTS = layout_of((b'["a"]', 1), (b'["a","b"]', 2))
PYTHON = infer_layout([(Reply(result=np.array([0.5, 1.0])), 2)], ReplyConfig())


def refused(layout: ReplyLayout, reply: Reply | bytes, rows: int) -> ReplyMismatchError:
    if isinstance(reply, bytes):
        reply = Reply(body=reply)
    with pytest.raises(ReplyMismatchError) as caught:
        make_decoder(layout).decode(reply, rows)
    assert "SECRET" not in caught.value.message + (caught.value.hint or "")
    assert "." not in caught.value.message[-1:]
    return caught.value


@pytest.mark.parametrize(
    ("layout", "body", "rows", "kind"),
    [
        (LINES, b"0.5\n0.25", 3, "rows"),
        (LINES, b"0.5,0.25", 2, "rows"),
        (LINES, b"0.5\n0.1,0.2", 2, "type"),
        (LINES, b"", 1, "rows"),
        (LINES, b"SECRET\n0.5", 2, "type"),
        (LINES, b"0.5\ntrue", 2, "type"),
        (LINES, b"0.5\nfalse", 2, "type"),
        (LINES, b"1\n1_000", 2, "type"),
        (LINES, b"1\n1152921504606846977", 2, "type"),
        (LINES, b"nan\n1152921504606846977", 2, "type"),
        (LINES, b"[1]\n2", 2, "type"),
        (CSV_VECTORS, b"1,2,3\n1,2,true", 2, "type"),
        (CSV_VECTORS, b"1,2,3\n1,2", 2, "type"),
        (CSV_VECTORS, b"1,2,3,1\n1,2", 2, "type"),
        (CSV_VECTORS, b"1,2,3", 2, "rows"),
        (LINES, b"\xff\xfe\n0.5", 2, "undecodable"),
        (ONE_LINE, b"0.5\n0.25", 2, "undecodable"),
        (ONE_LINE, b"0.5,0.25,1", 2, "rows"),
        (ONE_LINE, b"0.5,true", 2, "type"),
        (ONE_LINE, b"[0.5,1],[2,3]", 2, "type"),
        (ONE_LINE, b"", 1, "undecodable"),
        (JSON, b'{"p":[0.5]}', 2, "rows"),
        (JSON, b'{"p":[0.5,1', 2, "undecodable"),
        (JSON, b'{"error":"SECRET"}', 2, "undecodable"),
        (JSON, b'{"p":[0.5,"SECRET"]}', 2, "type"),
        (JSON, b'{"p":[0.5,true]}', 2, "type"),
        (JSON, b'{"p":[0.5,[1]]}', 2, "type"),
        (JSON, b'{"p":[0.5,{"a":1}]}', 2, "type"),
        (JSON, b'{"p":[0.5,1152921504606846977]}', 2, "type"),
        (VECTORS, b"[[1,2,3],[1,2]]", 2, "type"),
        (VECTORS, b"[1,2]", 2, "type"),
        (VECTORS, b'[[1,2,3],"SECRET"]', 2, "type"),
        (VECTORS, b'[[1,2,3],[1,2,"3"]]', 2, "type"),
        (VECTORS, b"[[1,2,3],[1,2,true]]", 2, "type"),
        (FIELDS, b'[{"a":1,"b":"x"},{"c":2}]', 2, "type"),
        (FIELDS, b'[{"a":"1","b":"x"}]', 1, "type"),
        (FIELDS, b"[1,2]", 2, "type"),
        (TEXTS, b'["a",1]', 2, "type"),
        (TEXTS, b'["a",["SECRET"]]', 2, "type"),
    ],
)
def test_mismatches_are_refused_by_kind(layout: ReplyLayout, body: bytes, rows: int, kind: str) -> None:
    assert refused(layout, body, rows).kind == kind


def test_a_type_mismatch_names_both_shapes_and_the_row() -> None:
    assert (
        refused(JSON, b'{"p":[0.5,"SECRET"]}', 2).message
        == "expected a number for 'prediction', found text in row 2 of 2"
    )
    assert (
        "expected a list of 3 for 'prediction', found a list of 2 in row 2 of 2"
        in refused(VECTORS, b"[[1,2,3],[1,2]]", 2).message
    )
    assert refused(LINES, b"1\n2\n3", 2).message == "expected 2 predictions as CSV, one line a row, found 3"


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (np.array([0.5, 1.0, 2.0]), "rows"),
        (np.array([[0.5, 1.0], [2.0, 3.0]]), "type"),
        (np.array(["a", "b"]), "type"),
        (np.array([True, False]), "type"),
        ([0.5, "SECRET"], "type"),
        (object(), "undecodable"),
        (None, "undecodable"),
        (0.5, "undecodable"),
        ({"a": [1, 2], "b": [1, 2]}, "undecodable"),
    ],
)
def test_what_callables_return_is_checked_alike(result: Any, kind: str) -> None:
    assert refused(PYTHON, Reply(result=result), 2).kind == kind


def test_numpy_integers_are_float64_as_every_number() -> None:
    assert (
        make_decoder(PYTHON)
        .decode(Reply(result=np.array([3, 4], np.int32)), 2)[0]
        .equals(pa.array([3.0, 4.0]))
    )  # type: ignore[union-attr]
    assert refused(PYTHON, Reply(result=np.array([2**60 + 1, 4])), 2).kind == "type"


def test_pickled_npy_is_never_loaded() -> None:
    import io

    layout = layout_of((_npy(np.array([0.5, 1.0])), 2))
    out = io.BytesIO()
    np.save(out, np.array([{"x": 1}, None], object), allow_pickle=True)
    assert refused(layout, out.getvalue(), 2).kind == "undecodable"
    assert refused(layout, _npy(np.array([0.5, 1.0]))[:-3], 2).kind == "undecodable"


def _npy(array: Any) -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_a_missing_or_null_key_is_null_and_a_new_key_is_left_out() -> None:
    a, b = make_decoder(FIELDS).decode(Reply(body=b'[{"a":1},{"b":"y","c":2},null,{"a":null,"b":"z"}]'), 4)
    assert (a.to_pylist(), b.to_pylist()) == ([1.0, None, None, None], [None, "y", None, "z"])  # type: ignore[union-attr]


def test_one_row_may_come_without_its_list() -> None:
    assert make_decoder(JSON).decode(Reply(body=b'{"p":0.5}'), 1)[0].tolist() == [0.5]  # type: ignore[union-attr]
    assert refused(JSON, b'{"p":0.5}', 2).kind == "undecodable"


def test_blank_lines_are_nulls_where_they_make_the_rows_and_nothing_elsewhere() -> None:
    decode = make_decoder(LINES).decode
    assert decode(Reply(body=b"1\n\n3\n"), 3)[0].tolist() == [1.0, None, 3.0]  # type: ignore[union-attr]
    assert decode(Reply(body=b"1\n\n3\n\n\n"), 2)[0].tolist() == [1.0, 3.0]  # type: ignore[union-attr]
    assert refused(LINES, b"1\n2\n\n", 3).kind == "rows"  # a blank end is no row


def test_decoders_satisfy_the_protocol_and_say_when_they_are_slow() -> None:
    decoder = make_decoder(JSON)
    assert isinstance(decoder, Decoder)
    assert not decoder.slow
    assert make_decoder(layout_of((b'{"p":[1,2]}', 2), config=ReplyConfig(reply="p[?@ > `0`]"))).slow


def test_a_mismatch_survives_a_process_pool() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(refused(LINES, b"1", 2)))
    assert (error.kind, error.message) == ("rows", "expected 2 predictions as CSV, one line a row, found 1")


@pytest.mark.parametrize(
    ("expression", "tree", "wanted", "plain"),
    [
        ("", [1], [1], True),
        ("@", [1], [1], True),
        ("a.b", {"a": {"b": 1}}, 1, True),
        ('a."b c"', {"a": {"b c": 1}}, 1, True),
        ("a[-1]", {"a": [1, 2]}, 2, True),
        ("a[5]", {"a": [1, 2]}, None, True),
        ("a[*].b", {"a": [{"b": 1}, {}, {"b": 2}]}, [1, None, 2], True),
        ("[*][1]", [[1, 2], [3, 4]], [2, 4], True),
        ("a[*].b.c[0]", {"a": [{"b": {"c": [7]}}]}, [7], True),
        ("a.b", {"a": [1]}, None, True),
        ("a[*]", {"a": 1}, None, True),
        ("a[?b > `1`].b", {"a": [{"b": 1}, {"b": 2}]}, [2], False),
        ("a || b", {"b": 3}, 3, False),
        ("a[0:1]", {"a": [1, 2]}, [1], False),
    ],
)
def test_paths(expression: str, tree: Any, wanted: Any, plain: bool) -> None:
    path = compile_path(expression)
    assert path.find(tree) == wanted
    assert path.plain is plain


def test_assembled_values_keep_order_nan_and_null() -> None:
    field = pa.field("p", pa.float64())
    parts = [
        np.array([1.0, np.nan]),
        pa.array([None, 2.0]),
        [3, None],
        pa.array([4.0])[0:0],
        null_values(1, field),
    ]
    joined = assemble_values(parts, field)
    assert str(joined.to_pylist()) == "[1.0, nan, None, 2.0, 3.0, None, None]"
    assert joined.type == field.type
    assert len(assemble_values([], field)) == 0


def test_assembled_vectors_may_be_arrays_lists_and_nulls() -> None:
    field = pa.field("p", pa.list_(pa.float64()))
    joined = assemble_values([np.array([[1.0, 2.0]]), [[3.0], None], null_values(2, field)], field)
    assert joined.to_pylist() == [[1.0, 2.0], [3.0], None, None, None]


def test_a_part_of_another_type_is_refused() -> None:
    with pytest.raises(ReplyMismatchError) as caught:
        assemble_values([["x"]], pa.field("p", pa.float64()))
    assert caught.value.kind == "type"


def test_layouts_of_arrow_types_survive_json() -> None:
    table = pa.table(
        {"t": pa.array([1, 2], pa.timestamp("us", "UTC")), "d": pa.array([None, None], pa.decimal128(5, 2))}
    )
    layout = infer_layout([(Reply(result=table), 2)], ReplyConfig())
    assert ReplyLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert [
        each.equals(column.combine_chunks())
        for each, column in zip(
            make_decoder(layout).decode(Reply(result=table), 2), table.columns, strict=True
        )
    ] == [True, True]  # type: ignore[union-attr]
