"""Encoders: content types, refusals, slabs, memory."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.codec import cells, encoders, make_encoder
from asyncbatch.config import RequestConfig
from asyncbatch.errors import ConfigError
from asyncbatch.model import BatchPayload
from asyncbatch.protocols import EncodedBlock, Encoder
from asyncbatch.testing import check_codec

ROWS = 9_000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(7)
    numbers = random.normal(size=ROWS)
    return pa.table({
        "x": pa.array(numbers, mask=random.random(ROWS) < 0.1),
        "n": random.integers(-(2**40), 2**40, ROWS),
        "s": [None if i % 11 == 0 else 'a,"b"\n' if i % 7 == 0 else f"name {i}" for i in range(ROWS)],
        "y": np.where(numbers > 2, np.nan, numbers),
        "d": pa.array([f"k{i % 5}" for i in range(ROWS)]).dictionary_encode(),
        "v": pa.array(random.normal(size=(ROWS, 4)).tolist(), pa.list_(pa.float32(), 4)),
    })  # fmt: skip


def request_of(body: str, **options: Any) -> RequestConfig:
    return RequestConfig(body=body, **options)


def joined(encoder: Any, table: pa.Table, start: int, stop: int) -> bytes:
    return b"".join(bytes(piece) for piece in encoder.encode(table).payload(start, stop).pieces)


@pytest.mark.parametrize(
    ("request_config", "columns"),
    [
        (request_of("csv"), "xnsyd"),
        (request_of("csv-header"), "xnsyd"),
        (request_of("csv"), "xy"),
        (request_of("jsonl"), "xnsydv"),
        (request_of("jsonl", template='{"in": $row}', row="object"), "xsv"),
        (request_of("json"), "xnsydv"),
        (request_of("json", template="records"), "xnsydv"),
        (request_of("json", template="split"), "xn"),
        (request_of("json", template="v2"), "xnsydv"),
        (request_of("npy"), "xny"),
        (request_of("npy"), "v"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.body}-{value.template}",
)
def test_encoders_conform(
    table: pa.Table, request_config: RequestConfig, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "SLAB_BYTES", 40_000)
    monkeypatch.setattr(cells, "NUMBERS_AT_A_TIME", 300)
    sent = table.select(list(columns))
    check_codec(encoder=make_encoder(request_config, sent.schema), table=sent)


def same_rows(left: bytes, right: bytes) -> bool:
    """Arrow pads buffers with whatever is there."""
    tables = [pa.ipc.open_stream(body).read_all() for body in (left, right)]
    return str(tables[0].to_pydict()) == str(tables[1].to_pydict())


def test_arrow_parquet_and_callable_encoders_conform(table: pa.Table) -> None:
    small = table.slice(10, 40)
    check_codec(encoder=make_encoder(request_of("parquet"), small.schema), table=small)
    check_codec(
        encoder=make_encoder(request_of("arrow"), table.schema), table=table.slice(0, 900), same=same_rows
    )
    check_codec(encoder=make_encoder(request_of("csv"), small.schema, takes_batches=True), table=small)


def test_one_row_encoders_conform(table: pa.Table) -> None:
    text = table.select(["s"])
    for config in (
        request_of("raw"),
        request_of("raw", template='{"q": $row}'),
        request_of("json", template='{"q": $row}'),
    ):
        check_codec(encoder=make_encoder(config, text.schema), table=text, one_row=True)


def test_encoders_satisfy_the_protocols(table: pa.Table) -> None:
    for config in (request_of("json"), request_of("arrow")):
        encoder = make_encoder(config, table.schema)
        assert isinstance(encoder, Encoder)
        assert isinstance(encoder.encode(table.slice(0, 5)), EncodedBlock)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("csv", "text/csv"),
        ("csv-header", "text/csv"),
        ("jsonl", "application/jsonlines"),
        ("json", "application/json"),
        ("npy", "application/x-npy"),
        ("arrow", "application/vnd.apache.arrow.stream"),
        ("parquet", "application/x-parquet"),
    ],
)
def test_content_type_is_the_bodys_or_the_users_byte_for_byte(body: str, wanted: str) -> None:
    schema = pa.schema([("a", pa.float64())])
    table = pa.table({"a": [1.5]})
    for given in (None, "Text/CSV;  Charset=UTF-8"):
        encoder = make_encoder(request_of(body, content_type=given), schema)
        payload = encoder.encode(table).payload(0, 1)
        assert not isinstance(payload, BatchPayload)
        assert encoder.content_type == payload.content_type == (given or wanted)


def test_raw_bodies_are_text_or_octets_or_a_template() -> None:
    text, octets = pa.schema([("p", pa.string())]), pa.schema([("p", pa.binary())])
    assert make_encoder(request_of("raw"), text).content_type == "text/plain"
    assert make_encoder(request_of("raw"), octets).content_type == "application/octet-stream"
    prompts = pa.table({"p": ['say "hi"\n', None]})
    encoder = make_encoder(request_of("raw", template='{"inputs": "$row", "n": "$n tokens"}'), text)
    assert encoder.content_type == "application/json"
    assert joined(encoder, prompts, 0, 1) == b'{"inputs": "say \\"hi\\"\\n", "n": "$n tokens"}'
    images = pa.table({"p": pa.array([b"\x00\xff", None, b"x"])})
    encoder = make_encoder(request_of("raw"), octets)
    assert [joined(encoder, images, row, row + 1) for row in range(3)] == [b"\x00\xff", b"", b"x"]
    block = encoder.encode(images)
    assert block.fit(0, 3, 100) == 1
    with pytest.raises(ValueError, match="one row"):
        block.payload(0, 2)


@pytest.mark.parametrize(
    ("config", "type_", "sentence"),
    [
        (
            request_of("csv"),
            pa.list_(pa.int8()),
            "column 'bad' of type list<item: int8> cannot be written in a CSV body",
        ),
        (request_of("csv"), pa.duration("s"), "column 'bad' of type duration"),
        (request_of("json"), pa.map_(pa.string(), pa.int8()), "column 'bad' of type map"),
        (request_of("npy"), pa.string(), "column 'bad' of type string cannot be sent as npy"),
        (request_of("npy"), pa.timestamp("s"), "column 'bad' of type timestamp"),
        (request_of("json", row="value"), pa.int8(), "--row value sends one column, and 2"),
        (request_of("raw"), pa.string(), "--body raw sends one column, and 2"),
        (
            request_of("json", template="split", row="object"),
            pa.int8(),
            "--row object does not go with --template split",
        ),
        (
            request_of("json", template="v2"),
            pa.list_(pa.int8()),
            "column 'bad' holds lists of varying length",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_run(
    config: RequestConfig, type_: pa.DataType, sentence: str
) -> None:
    schema = pa.schema([("good", pa.float64()), ("bad", type_)])
    with pytest.raises(ConfigError) as caught:
        make_encoder(config, schema)
    assert sentence in caught.value.message
    assert caught.value.hint


def test_raw_refuses_numbers_and_no_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be a raw body"):
        make_encoder(request_of("raw"), pa.schema([("a", pa.int8())]))
    with pytest.raises(ConfigError, match="no columns are to be sent"):
        make_encoder(request_of("csv"), pa.schema([]))


def test_a_lone_null_is_no_blank_line() -> None:
    table = pa.table({"a": pa.array(["x", None, ""]), "b": [1.0, None, float("nan")]})
    one = table.select(["a"])
    assert joined(make_encoder(request_of("csv"), one.schema), one, 0, 3) == b'x\n""\n""'
    one = table.select(["b"])
    assert joined(make_encoder(request_of("csv"), one.schema), one, 0, 3) == b'1.0\n""\nnan'


def test_v2_tensors_carry_name_shape_and_type() -> None:
    table = pa.table(
        {"a": [1.5, 2.5], "v": pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), "s": ["x", "y"]}
    )
    sent = joined(make_encoder(request_of("json", template="v2"), table.schema), table, 0, 2)
    assert sent == (
        b'{"inputs":[{"name":"a","shape":[2],"datatype":"FP64","data":[1.5,2.5]},'
        b'{"name":"v","shape":[2,2],"datatype":"INT8","data":[[1,2],[3,4]]},'
        b'{"name":"s","shape":[2],"datatype":"BYTES","data":["x","y"]}]}'
    )


def test_npy_type_follows_the_schema_and_never_the_values() -> None:
    exact = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    table = pa.table({"a": pa.array([2**60 + 1, 5])}, schema=exact)
    found = np.load(io.BytesIO(joined(make_encoder(request_of("npy"), exact), table, 0, 2)))
    assert found.dtype == np.int64
    assert found.tolist() == [[2**60 + 1], [5]]
    nullable = pa.table({"a": pa.array([5, 6])})
    assert (
        np.load(io.BytesIO(joined(make_encoder(request_of("npy"), nullable.schema), nullable, 0, 2))).dtype
        == np.float64
    )
    with pytest.raises(ConfigError, match="column 'a' holds whole numbers beyond 2\\^53"):
        make_encoder(request_of("npy"), nullable.schema).encode(pa.table({"a": pa.array([2**60 + 1])}))


def test_npy_of_a_null_list_is_a_row_of_nan() -> None:
    table = pa.table({"v": pa.array([[9, 9], [1, None], None, [3, 4]], pa.list_(pa.float32(), 2))}).slice(1)
    found = np.load(io.BytesIO(joined(make_encoder(request_of("npy"), table.schema), table, 0, 3)))
    np.testing.assert_array_equal(found, np.array([[1, np.nan], [np.nan, np.nan], [3, 4]]))


def test_arrow_and_parquet_bodies_are_the_rows_with_dictionaries_decoded(table: pa.Table) -> None:
    plain = table.set_column(4, "d", table["d"].cast(pa.string())).drop(["y"])
    sent = table.drop(["y"])
    stream = joined(make_encoder(request_of("arrow"), sent.schema), sent, 5, 25)
    reader = pa.ipc.open_stream(stream)
    assert reader.read_all().equals(plain.slice(5, 20))
    file = joined(make_encoder(request_of("parquet"), sent.schema), sent, 5, 25)
    assert pq.read_table(io.BytesIO(file)).to_pydict() == plain.slice(5, 20).to_pydict()
    assert not make_encoder(request_of("parquet"), sent.schema).encode(sent.slice(0, 3)).sliceable


def test_arrow_bodies_stay_within_the_bytes_that_fit_promised(table: pa.Table) -> None:
    block = make_encoder(request_of("arrow"), table.schema).encode(table)
    for limit in (3_000, 10_000, 100_000):
        rows = block.fit(100, ROWS, limit)
        assert block.payload(100, 100 + rows).nbytes <= limit
        assert block.payload(100, 100 + 2 * rows + 60).nbytes > limit  # not far below it either


def test_bytes_are_freed_slab_by_slab(table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "SLAB_BYTES", 16_000)
    sent = table.select(["x", "n"])
    block = make_encoder(request_of("csv"), sent.schema).encode(sent)
    full = block.nbytes
    for start in range(0, 4_500, 100):
        block.release(start, start + 100)
    block.release(0, 100)  # a second answer for the same rows frees nothing more
    index_bytes = 8 * (ROWS + 1) + ROWS
    assert abs((block.nbytes - index_bytes) - (full - index_bytes) / 2) < 0.08 * full
    with pytest.raises(ValueError, match="released"):
        block.payload(0, 10)
    assert block.payload(4_600, ROWS).nbytes > 0
    block.release(4_500, ROWS)
    assert block.nbytes == index_bytes


def test_a_payload_holds_views_and_no_copy_of_rows(table: pa.Table) -> None:
    sent = table.select(["x", "n"])
    payload = make_encoder(request_of("json"), sent.schema).encode(sent).payload(3, 8_000)
    rows = [piece for piece in payload.pieces if isinstance(piece, memoryview)]
    assert sum(len(piece) for piece in rows) > payload.nbytes - 100


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (3, 1), (0, 6)])
def test_ranges_outside_the_block_are_refused(start: int, stop: int) -> None:
    table = pa.table({"a": [1.0] * 5})
    for config in (request_of("csv"), request_of("arrow")):
        with pytest.raises(ValueError, match="not within"):
            make_encoder(config, table.schema).encode(table).payload(start, stop)


def test_extension_view_and_chunked_dictionary_columns_are_sent_as_their_values() -> None:
    words = pa.chunked_array(
        [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None]).dictionary_encode()]
    )
    views = pa.array(["x", None, "z", "w,"]).cast(pa.string_view())
    numbers = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None, 1], pa.int8()))
    table = pa.table({"d": words, "v": views, "e": numbers})
    assert joined(make_encoder(request_of("csv"), table.schema), table, 0, 4) == b'a,x,1\nb,,0\nc,z,\n,"w,",1'
