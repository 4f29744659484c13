"""Whatever is answered, in whatever form, comes back as it was, and short cuts never change what is read."""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from asyncbatch.codec import assemble_values, infer_layout, make_decoder
from asyncbatch.codec.decoder import LayoutDecoder
from asyncbatch.codec.shortcuts import short_cut
from asyncbatch.config import ReplyConfig
from asyncbatch.errors import ReplyError, ReplyMismatchError
from asyncbatch.model import Reply

finite = st.floats(allow_nan=False, allow_infinity=False)
Form = Callable[[list[Any]], Reply]


def npy(values: list[Any]) -> Reply:
    out = io.BytesIO()
    np.save(out, np.array(values))
    return Reply(body=out.getvalue())


def as_json(value: Any) -> Reply:
    return Reply(body=json.dumps(value).encode(), content_type="application/json")


def as_csv(text: str) -> Reply:
    return Reply(body=text.encode(), content_type="text/csv")


SCALAR_FORMS: dict[str, Form] = {
    "lines": lambda v: as_csv("\n".join(map(repr, v)) + "\n"),
    "one line": lambda v: as_csv(",".join(map(repr, v))),
    "json": as_json,
    "envelope": lambda v: as_json({"predictions": v, "model": "m"}),
    "json lines": lambda v: Reply(
        body="\n".join(map(json.dumps, v)).encode(), content_type="application/x-ndjson"
    ),
    "v2": lambda v: as_json(
        {"outputs": [{"name": "p", "shape": [len(v), 1], "datatype": "FP64", "data": v}]}
    ),
    "npy": npy,
    "numpy": lambda v: Reply(result=np.array(v)),
    "list": lambda v: Reply(result=v),
}


def v2_matrix(values: list[Any]) -> Reply:
    shape, data = [len(values), len(values[0])], np.array(values).reshape(-1).tolist()
    return as_json({"outputs": [{"name": "p", "shape": shape, "datatype": "FP64", "data": data}]})


VECTOR_FORMS: dict[str, Form] = {
    "lines": lambda v: as_csv("\n".join(",".join(map(repr, row)) for row in v)),
    "one line": lambda v: as_csv(",".join(map(str, v))),
    "bracketed lines": lambda v: as_csv("\n".join(map(str, v))),
    "json": as_json,
    "npy": npy,
    "v2": v2_matrix,
    "numpy": lambda v: Reply(result=np.array(v)),
}


def hexes(values: Any) -> list[Any]:
    return [hexes(value) if isinstance(value, list) else value.hex() for value in values]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(finite, min_size=7, max_size=40),
    name=st.sampled_from(sorted(SCALAR_FORMS)),
    cut=st.integers(1, 39),
)
def test_scalars_come_back_bit_for_bit_from_chunks_of_any_size(
    values: list[float], name: str, cut: int
) -> None:
    form = SCALAR_FORMS[name]
    layout = infer_layout([(form(values[:n]), n) for n in (1, 2, 7)], ReplyConfig())
    decoder = make_decoder(layout)
    chunks = [values[start : start + cut] for start in range(0, len(values), cut)]
    parts = [decoder.decode(form(chunk), len(chunk))[0] for chunk in chunks]
    assert hexes(assemble_values(parts, decoder.fields[0]).to_pylist()) == hexes(values)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    width=st.integers(2, 5),
    rows=st.integers(2, 12),
    name=st.sampled_from(sorted(VECTOR_FORMS)),
)
def test_vectors_come_back_bit_for_bit(data: st.DataObject, width: int, rows: int, name: str) -> None:
    values = data.draw(
        st.lists(st.lists(finite, min_size=width, max_size=width), min_size=rows, max_size=rows)
    )
    form = VECTOR_FORMS[name]
    decoder = make_decoder(infer_layout([(form(values[:n]), n) for n in (1, 2, rows)], ReplyConfig()))
    for n in {1, 2, rows}:
        assert hexes(decoder.decode(form(values[:n]), n)[0].tolist()) == hexes(values[:n])  # type: ignore[union-attr]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=6), min_size=7, max_size=20)
)
def test_texts_come_back_from_json_and_lists(values: list[str | None]) -> None:
    assume(any(values[:7]))
    for form in (as_json, lambda v: Reply(result=v), lambda v: as_json({"out": {"labels": v}})):
        decoder = make_decoder(
            infer_layout([(form(values[:n]), n) for n in (2, 7)], ReplyConfig(prediction_type="string"))
        )
        assert decoder.decode(form(values), len(values))[0].tolist() == values  # type: ignore[union-attr]


token = st.sampled_from(
    ["1", "-2.5", "1e5", "nan", "inf", "-inf", "", "null", "true", "false", "x", '"1"', "0x1", "1_0", " 3",
     "+4", ".5", "5.", "007", "[1]", "1152921504606846977", "NaN", "Infinity", "\r", "{}", "é"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(st.lists(token, min_size=1, max_size=3), min_size=1, max_size=4),
    rows=st.integers(1, 6),
    end=st.sampled_from(["", "\n", "\n\n", "\r\n"]),
)
@example(lines=[["false"], ["1"]], rows=2, end="")
@example(lines=[["nan"], ["1152921504606846977"]], rows=2, end="\n")
@example(lines=[["0.5"], ["9007199254740993"]], rows=2, end="")
@example(lines=[["0.5"], ['"1.5"']], rows=2, end="")
def test_short_cuts_read_what_the_careful_way_reads(lines: list[list[str]], rows: int, end: str) -> None:
    body = "\n".join(map(",".join, lines)).encode() + end.encode()
    scalars, one_line = (
        infer_layout([(SCALAR_FORMS[name]([0.5, 1.5]), 2)], ReplyConfig()) for name in ("lines", "one line")
    )
    vectors = infer_layout([(VECTOR_FORMS["lines"]([[0.5, 1.5], [2.5, 3.5]]), 2)], ReplyConfig())
    for layout in (scalars, one_line, vectors):
        assert short_cut(layout) is not None
        quick, careful = make_decoder(layout), make_decoder(layout)
        careful._short_cut = None
        assert outcome(quick, body, rows) == outcome(careful, body, rows)


def outcome(decoder: LayoutDecoder, body: bytes, rows: int) -> str:
    """Values as text (NaN is not equal to itself), or the kind of refusal."""
    try:
        return str(decoder.decode(Reply(body=body), rows)[0].tolist())  # type: ignore[union-attr]
    except ReplyMismatchError as error:
        return error.kind


LAYOUTS = [
    *(infer_layout([(form([0.5, 1.5]), 2)], ReplyConfig()) for form in SCALAR_FORMS.values()),
    *(infer_layout([(form([[0.5, 1.5], [2.5, 3.5]]), 2)], ReplyConfig()) for form in VECTOR_FORMS.values()),
]
near_json = st.text('0123456789.,-[]{}":nul\n ab', max_size=30).map(str.encode)


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=40) | near_json, rows=st.integers(1, 4))
@example(body=b"PK\x03\x04", rows=1)  # a zip file's beginning, which numpy.load opens
def test_any_bytes_are_read_as_that_many_rows_or_refused(body: bytes, rows: int) -> None:
    for layout in LAYOUTS:
        decoder = make_decoder(layout)
        with suppress(ReplyMismatchError):
            column = decoder.decode(Reply(body=body), rows)[0]
            assert len(column) == rows
            assert getattr(column, "type", pa.float64()) == decoder.fields[0].type


@settings(max_examples=150, deadline=None)
@given(bodies=st.lists(st.tuples(near_json, st.integers(1, 3)), min_size=1, max_size=3))
def test_learning_ends_in_a_layout_that_reads_its_probes_or_in_an_error(
    bodies: list[tuple[bytes, int]],
) -> None:
    probes = [(Reply(body=body), rows) for body, rows in bodies]
    with suppress(ReplyError):
        layout = infer_layout(probes, ReplyConfig())
        for reply, rows in probes:
            assert all(len(column) == rows for column in make_decoder(layout).decode(reply, rows))


def test_arrays_are_of_exactly_the_fields_type() -> None:
    decoder = make_decoder(infer_layout([(as_json([[1, 2], [3, 4]]), 2)], ReplyConfig()))
    assert decoder.decode(as_json([[1, 2]]), 1)[0].type == pa.list_(pa.float64()) == decoder.fields[0].type  # type: ignore[union-attr]
