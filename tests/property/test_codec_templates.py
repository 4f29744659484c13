"""Templates of a line and of a prompt: for any text the body is JSON equal to the naive construction."""

import json
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.codec import make_encoder
from asyncbatch.config import RequestConfig
from asyncbatch.model import BytesPayload

_text = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"', "\\", "$row", '{"a": 1}', "\n", "\u2028", "\x00\x1f", "é😀", ""]
)
_literal = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _text.filter(lambda text: not text.startswith("$")),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(_text.filter(lambda key: not key.startswith("$")), inner, max_size=2)
    ),
    max_leaves=5,
)


def bodies(request: RequestConfig, table: pa.Table, requests: list[tuple[int, int]]) -> list[bytes]:
    block = make_encoder(request, table.schema).encode(table)
    found = []
    for start, stop in requests:
        payload = block.payload(start, stop)
        assert isinstance(payload, BytesPayload)
        found.append(b"".join(bytes(piece) for piece in payload.pieces))
    return found


@settings(max_examples=120, deadline=None)
@given(prompts=st.lists(st.none() | _text, min_size=1, max_size=6), extra=_literal, quoted=st.booleans())
def test_a_prompt_in_a_template_is_the_prompt(prompts: list[str | None], extra: Any, quoted: bool) -> None:
    row = '"$row"' if quoted else "$row"
    template = f'{{"inputs": {row}, "parameters": {json.dumps(extra)}}}'
    request = RequestConfig(body="raw", template=template)
    table = pa.table({"prompt": pa.array(prompts, pa.string())})
    sent = bodies(request, table, [(row, row + 1) for row in range(len(prompts))])
    assert [json.loads(body) for body in sent] == [
        {"inputs": prompt, "parameters": extra} for prompt in prompts
    ]


@settings(max_examples=120, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.none() | _text, st.none() | st.integers(-(2**53), 2**53)), min_size=1, max_size=6
    ),
    extra=_literal,
    form=st.sampled_from(["array", "object"]),
    data=st.data(),
)
def test_each_line_is_the_template_with_its_row(
    rows: list[tuple[str | None, int | None]], extra: Any, form: str, data: st.DataObject
) -> None:
    template = f'{{"x": {json.dumps(extra)}, "row": $row, "again": [$row], "names": $columns, "n": $n}}'
    request = RequestConfig(body="jsonl", template=template, row=form)
    table = pa.table(
        {
            "a": pa.array([row[0] for row in rows], pa.string()),
            "b": pa.array([row[1] for row in rows], pa.int64()),
        }
    )
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    (body,) = bodies(request, table, [(start, stop)])
    naive = [list(row) if form == "array" else {"a": row[0], "b": row[1]} for row in rows[start:stop]]
    lines = body.split(b"\n")
    assert [json.loads(line) for line in lines] == [
        {"x": extra, "row": row, "again": [row], "names": ["a", "b"], "n": 1} for row in naive
    ]


@settings(max_examples=120, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.none() | _text, st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        min_size=1,
        max_size=6,
    ),
    preset=st.sampled_from(["instances", "inputs", "split", "records", "v2"]),
)
def test_every_preset_is_what_one_would_write_by_hand(
    rows: list[tuple[str | None, float | None]], preset: str
) -> None:
    table = pa.table(
        {
            "a": pa.array([row[0] for row in rows], pa.string()),
            "b": pa.array([row[1] for row in rows], pa.float64()),
        }
    )
    (body,) = bodies(RequestConfig(body="json", template=preset), table, [(0, len(rows))])
    lists, objects = [list(row) for row in rows], [{"a": row[0], "b": row[1]} for row in rows]
    tensors = [
        {"name": "a", "shape": [len(rows)], "datatype": "BYTES", "data": [row[0] for row in rows]},
        {"name": "b", "shape": [len(rows)], "datatype": "FP64", "data": [row[1] for row in rows]},
    ]
    by_hand = {
        "instances": {"instances": lists},
        "inputs": {"inputs": lists},
        "split": {"dataframe_split": {"columns": ["a", "b"], "data": lists}},
        "records": {"dataframe_records": objects},
        "v2": {"inputs": tensors},
    }
    assert json.loads(body) == by_hand[preset]
