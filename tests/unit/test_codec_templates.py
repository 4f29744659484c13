"""Templates: what is a variable, what is text, and what is refused."""

import json
from typing import Any

import pyarrow as pa
import pytest

from asyncbatch.codec import make_encoder
from asyncbatch.codec.template import PRESETS, Variable, parse_template
from asyncbatch.config import RequestConfig
from asyncbatch.errors import ConfigError

TABLE = pa.table({"a": [1.5, 2.5], "b": ["x", None]})


def sent(
    template: str, *, body: str = "json", row: str = "array", table: pa.Table = TABLE, rows: int = 2
) -> bytes:
    encoder = make_encoder(RequestConfig(body=body, template=template, row=row), table.schema)
    payload: Any = encoder.encode(table).payload(0, rows)
    return b"".join(bytes(piece) for piece in payload.pieces)


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("instances", b'{"instances":[[1.5,"x"],[2.5,null]]}'),
        ("inputs", b'{"inputs":[[1.5,"x"],[2.5,null]]}'),
        ("split", b'{"dataframe_split":{"columns":["a","b"],"data":[[1.5,"x"],[2.5,null]]}}'),
        ("records", b'{"dataframe_records":[{"a":1.5,"b":"x"},{"a":2.5,"b":null}]}'),
        (
            "v2",
            (
                b'{"inputs":[{"name":"a","shape":[2],"datatype":"FP64","data":[1.5,2.5]},'
                b'{"name":"b","shape":[2],"datatype":"BYTES","data":["x",null]}]}'
            ),
        ),
    ],
)
def test_presets_are_what_their_containers_take(preset: str, wanted: bytes) -> None:
    assert sent(preset) == wanted
    assert (
        sent(PRESETS[preset].text, row=PRESETS[preset].row or "array") == wanted
    )  # a line of the table, no code


def test_json_alone_means_instances() -> None:
    encoder = make_encoder(RequestConfig(body="json"), TABLE.schema)
    assert encoder.encode(TABLE).payload(0, 1).pieces[0] == b'{"instances":['


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ('{"q": $rows}', b'{"q": [[1.5,"x"],[2.5,null]]}'),
        ('{"q": "$rows"}', b'{"q": [[1.5,"x"],[2.5,null]]}'),
        ('{"q": "all $rows", "r": $rows}', b'{"q": "all $rows", "r": [[1.5,"x"],[2.5,null]]}'),
        ('{"$n": $rows, "b\\"$rows": "$"}', b'{"$n": [[1.5,"x"],[2.5,null]], "b\\"$rows": "$"}'),
        ('{"q": $rows, "n": $n, "m": "$n"}', b'{"q": [[1.5,"x"],[2.5,null]], "n": 2, "m": 2}'),
        ("$rows", b'[[1.5,"x"],[2.5,null]]'),
        (
            '[$n, $columns, $rows, {"a": 1e5, "b": 1.00}]',
            b'[2, ["a","b"], [[1.5,"x"],[2.5,null]], {"a": 1e5, "b": 1.00}]',
        ),
        ('{"q":\n  $rows\n}', b'{"q": [[1.5,"x"],[2.5,null]] }'),
    ],
)
def test_variables_and_text_are_told_apart(template: str, wanted: bytes) -> None:
    assert sent(template) == wanted


def test_a_two_dimensional_v2_tensor_is_a_template() -> None:
    table = pa.table({"a": [1.5, 2.5], "b": [3, 4]})
    template = '{"inputs":[{"name":"x","shape":[$n,2],"datatype":"FP64","data":$rows}]}'
    assert json.loads(sent(template, table=table))["inputs"][0] == {
        "name": "x", "shape": [2, 2], "datatype": "FP64", "data": [[1.5, 3], [2.5, 4]],
    }  # fmt: skip


def test_row_is_one_row_a_request_and_with_jsonl_one_line() -> None:
    assert sent('{"features": $row}', rows=1) == b'{"features": [1.5,"x"]}'
    assert sent('{"f": $row, "n": $n, "c": $columns}', body="jsonl") == (
        b'{"f": [1.5,"x"], "n": 1, "c": ["a","b"]}\n{"f": [2.5,null], "n": 1, "c": ["a","b"]}'
    )
    assert sent("$row", body="jsonl", row="object") == b'{"a":1.5,"b":"x"}\n{"a":2.5,"b":null}'
    assert sent("[$row,$row]", body="jsonl") == b'[[1.5,"x"],[1.5,"x"]]\n[[2.5,null],[2.5,null]]'


@pytest.mark.parametrize(
    ("template", "message", "hint"),
    [
        ('{"q": $row s}', "no JSON", "such as"),
        ('{"q": $rwos}', "unknown variable $rwos", "$row"),
        ('{"q": $features}', "unknown variable $features", "$rows"),
        ('{"q": 1}', "holds no rows", "$rows, $row or $columnar"),
        ('{"q": $rows, "r": $row}', "mixes $row and $rows", "one of"),
        ('{"q": $rows', "no JSON at character", "such as"),
        ("{$rows: 1}", "no JSON", "such as"),
        ('{"q": $rows, "x": NaN}', "NaN is no JSON value", "such as"),
        ("instance", "neither a preset nor JSON", "instances"),
        ("mlflow", "neither a preset nor JSON", "presets: instances"),
    ],
)
def test_a_wrong_template_is_one_sentence_and_a_hint(template: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_template(template)
    assert message in caught.value.message
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_rows_in_a_jsonl_template_points_to_row() -> None:
    with pytest.raises(ConfigError, match="\\$rows cannot stand in a template with --body jsonl") as caught:
        make_encoder(RequestConfig(body="jsonl", template="instances"), TABLE.schema)
    assert caught.value.hint is not None
    assert "$row" in caught.value.hint


def test_raw_with_a_template_wants_row() -> None:
    with pytest.raises(ConfigError, match="needs \\$row"):
        make_encoder(RequestConfig(body="raw", template='{"q": $rows}'), pa.schema([("p", pa.string())]))


def test_every_variable_is_documented() -> None:
    from asyncbatch.codec import template

    for variable in Variable:
        assert f"`{variable.value}`" in (template.__doc__ or "")
