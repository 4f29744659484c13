"""JSON Lines: the union of keys, types as JSON has them, bad lines as rejects."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.model import Reject
from asyncbatch.source import jsonlines as jsonlines_module
from asyncbatch.source import open_source
from asyncbatch.source.jsontypes import JsonColumn, build, fits, infer_column


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.jsonl"


def rows_of(path: Path, data: str | bytes, *, block_rows: int = 1000, **options):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    source = open_source(path, InputConfig(**options))
    blocks = list(source.blocks(source.files[0], columns=source.schema.names, block_rows=block_rows))
    table = pa.concat_tables([b.table for b in blocks])
    return source.schema, table.to_pydict(), [r for b in blocks for r in b.rejects]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, -2, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([True, None], pa.bool_()),
        (["a", None], pa.string()),
        ([None], pa.string()),
        ([1, "a"], pa.string()),
        ([True, 1], pa.string()),
        ([2**63], pa.string()),
        ([2**63, 1.5], pa.float64()),
        ([[1, 2], [], None], pa.list_(pa.int64())),
        ([[1, 2.5]], pa.list_(pa.float64())),
        ([[[1.5], [2]], []], pa.list_(pa.list_(pa.float64()))),
        ([[1, "a"]], pa.string()),
        ([[]], pa.list_(pa.string())),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([{"a": 1}, {"a": "x"}], pa.string()),
        ([{}], pa.string()),
        ([{"a": 1}, 5], pa.string()),
    ],
)
def test_types_are_as_json_has_them(values, dtype):
    assert infer_column(values, sent=True).dtype == dtype
    column = infer_column(values, sent=False)
    array, failed = build(list(values), column)
    assert (array.type, failed) == (dtype, [])


def test_mixed_columns_are_text_when_sent_and_json_when_only_kept():
    values = ["a", 5, 1.0, None, [1, "x"], {"k": True}]
    sent, _ = build(values, infer_column(values, sent=True))
    kept, _ = build(values, infer_column(values, sent=False))
    assert sent.to_pylist() == ["a", "5", "1.0", None, '[1,"x"]', '{"k":true}']
    assert [None if each is None else json.loads(each) for each in kept.to_pylist()] == values


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, pa.int8(), True),
        (128, pa.int8(), False),
        (-1, pa.uint8(), False),
        (1.0, pa.int64(), False),
        (True, pa.int64(), False),
        (1, pa.bool_(), False),
        (1, pa.float64(), True),
        ("1", pa.float64(), False),
        ([1, None], pa.list_(pa.int64()), True),
        ([1, "a"], pa.list_(pa.int64()), False),
        ({"a": 1}, pa.struct([("a", pa.int64())]), True),
        ({"a": 1, "b": 2}, pa.struct([("a", pa.int64())]), False),
        ("2024-01-01", pa.time32("s"), False),
    ],
)
def test_a_value_fits_a_type_without_loss_or_not_at_all(value, dtype, expected):
    assert fits(value, dtype) is expected


def test_given_types_read_text(path):
    data = '{"a": "2024-01-02", "b": "1.50", "c": 5, "d": 1}\n{"a": "soon", "b": 1, "c": "x", "d": 300}\n'
    types = (("a", "date32"), ("b", "decimal128(9, 2)"), ("c", "string"), ("d", "uint8"))
    schema, table, rejects = rows_of(path, data, types=types)
    assert [str(each) for each in schema.types] == ["date32[day]", "decimal128(9, 2)", "string", "uint8"]
    assert [str(each) for each in table["a"]] == ["2024-01-02", "None"]
    assert [str(each) for each in table["b"]] == ["1.50", "None"]
    assert (table["c"], table["d"]) == (["5", "x"], [1, None])
    assert [each.message for each in rejects] == ["column 'a' is not date32[day]"]


def test_columns_are_the_union_of_keys_in_order_of_appearance(path):
    schema, table, _ = rows_of(path, '{"b": 1}\n{"a": "x", "b": null}\n{"c": true}\n')
    assert schema == pa.schema([("b", pa.int64()), ("a", pa.string()), ("c", pa.bool_())])
    assert table == {"b": [1, None, None], "a": [None, "x", None], "c": [None, None, True]}


def test_keys_and_types_come_from_deep_in_a_large_file(path, monkeypatch):
    monkeypatch.setattr(jsonlines_module, "SPOT_BYTES", 4096)
    lines = ['{"a": 1}'] * 50_000
    lines[-50:] = ['{"a": 1.5, "late": 1}'] * 50
    path.write_text("\n".join(lines))
    assert open_source(path, InputConfig()).schema == pa.schema([("a", pa.float64()), ("late", pa.int64())])


BAD = (
    '{"a": 1, "b": "x"}\n\r\n{"a": 2\n[3]\n"x"\n{"a": 1.5}\n{"a": 5, "b": 6}\n{"a": NaN}\n{"a": 8}{"a": 9}\n'
    '{"a": 9, "b": "\\ud800"}\n{"a": 10}'
)


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_bad_lines_are_null_rejects(path, block_rows):
    types = (("a", "int64"), ("b", "string"))
    _, table, rejects = rows_of(path, BAD, types=types, block_rows=block_rows)
    assert table["a"] == [1, None, None, None, None, 5, None, None, None, 10]
    assert table["b"] == ["x", None, None, None, None, "6", None, None, None, None]
    assert [(each.row, each.line) for each in rejects] == [
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
        (6, 8),
        (7, 9),
        (8, 10),
    ]
    no_object, no_integer = "the line is not a JSON object", "column 'a' is not int64"
    assert [each.message for each in rejects] == [
        *[no_object] * 3,
        *[no_integer] * 2,
        *[no_object] * 2,
    ]


def test_bad_utf8_is_a_reject_wherever_it_stands(path):
    data = b'{"a": 1, "b": "x"}\n{"a": 2, "b": "\xff"}\n'
    path.write_bytes(data)
    source = open_source(path, InputConfig())
    for columns in (["a"], ["a", "b"]):
        (block,) = source.blocks(source.files[0], columns=columns, block_rows=9)
        assert block.rejects == (
            Reject(row=1, code="input", message="the line is not a JSON object", line=2),
        )


def test_nan_and_infinity_are_read_as_python_writes_them(path):
    schema, table, rejects = rows_of(path, '{"a": NaN}\n{"a": -Infinity}\n{"a": 1}\n')
    assert schema.field("a").type == pa.float64()
    assert [str(each) for each in table["a"]] == ["nan", "-inf", "1.0"]
    assert not rejects


def test_nested_objects_do_not_lose_keys_silently(path):
    lines = ['{"a": {"x": 1}}'] * 3
    path.write_text("\n".join(lines))
    source = open_source(path, InputConfig())
    path.write_text("\n".join([*lines, '{"a": {"x": 1, "y": 2}}']))
    (block,) = source.blocks(source.files[0], columns=["a"], block_rows=9)
    assert [each.row for each in block.rejects] == [3]


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n',
        b'{"a": 1}\r\n\r\n{"a": 2}',
        gzip.compress(b'{"a": 1}\n{"a": 2}\n', mtime=0),
        b'  {"a": 1}  \n\t{"a": 2}\n',
        b'{"b": {"a": 7}, "a": 1}\n{"a": 2, "b": {}}\n',
    ],
)
def test_dialects_read_the_same(path, data):
    _, table, rejects = rows_of(path, data)
    assert (table["a"], rejects) == ([1, 2], [])


@pytest.mark.parametrize("data", ["[\n1,\n2]\n", "hello\n", '{\n"a": 1\n}\n'])
def test_a_file_without_any_object_a_line_is_an_error(path, data):
    path.write_text(data)
    with pytest.raises(InputError, match="holds no JSON object a line") as caught:
        open_source(path, InputConfig())
    assert "jq" in caught.value.hint


def test_a_type_for_an_unknown_key_is_refused(path):
    path.write_text('{"age": 1}\n')
    with pytest.raises(InputError, match="column 'agee' in --types is not in the input") as caught:
        open_source(path, InputConfig(types=(("agee", "int64"),)))
    assert "'age'" in caught.value.hint


def test_a_column_of_objects_is_never_read_by_the_way_that_drops_keys():
    struct = JsonColumn(dtype=pa.struct([("x", pa.int64())]))
    assert not jsonlines_module.direct({"a": struct})
    assert not jsonlines_module.direct({"a": JsonColumn(dtype=pa.list_(struct.dtype))})
    assert jsonlines_module.direct({"a": JsonColumn(dtype=pa.list_(pa.float64()))})


@pytest.mark.parametrize("line", ['{"a": 8}{"a": 9}', '{"a": 8} {"a": 9}', "   ", '{"a": 8} x'])
def test_a_line_is_one_row_whatever_stands_on_it(path, line):
    path.write_text('{"a": 1}\n{"a": 2}\n')
    source = open_source(path, InputConfig())
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    (block,) = source.blocks(source.files[0], columns=["a"], block_rows=9)
    assert block.table["a"].to_pylist() == [1, None, 2]
    assert [each.row for each in block.rejects] == [1]
