"""Sources that are Arrow data of this process."""

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.source import open_source

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})


def rows(source) -> list[dict]:
    return [
        row
        for file in source.files
        for block in source.blocks(file, columns=source.schema.names, block_rows=2)
        for row in block.table.to_pylist()
    ]


@pytest.mark.parametrize(
    ("make", "again"),
    [
        (lambda: TABLE, True),
        (lambda: TABLE.to_batches()[0], True),
        (TABLE.to_pandas, True),
        (lambda: pl.from_arrow(TABLE), True),
        (lambda: TABLE.to_reader(max_chunksize=2), False),
        (lambda: TABLE.to_batches(max_chunksize=2), False),
        (lambda: iter(TABLE.to_batches(max_chunksize=2)), False),
        (lambda: duckdb.sql("select * from (values (1, 'x'), (2, null), (3, 'z')) t(a, b)"), False),
    ],
    ids=["table", "batch", "pandas", "polars", "reader", "list", "generator", "duckdb"],
)
def test_anything_that_speaks_arrow_is_a_source(make, again):
    source = open_source(make(), InputConfig())
    (file,) = source.files
    assert (file.number, file.path, file.rows) == (0, "", 3 if again else None)
    assert source.resumable is again
    assert source.sample(columns=["b"], rows=2)["b"].to_pylist() == ["x", "z"]
    assert rows(source) == TABLE.to_pylist()
    if again:
        assert rows(source) == TABLE.to_pylist()
    else:
        with pytest.raises(InputError, match="a stream that has been read already"):
            rows(source)
    source.close()


def test_pandas_categories_and_missing_values():
    frame = pd.DataFrame({"c": pd.Categorical(["x", None]), "f": [1.5, None]})
    assert rows(open_source(frame, InputConfig())) == [{"c": "x", "f": 1.5}, {"c": None, "f": None}]


def test_view_types_become_types_that_every_reader_knows():
    source = open_source(pa.table({"s": pa.array(["x"], pa.string_view())}), InputConfig())
    assert source.schema.field("s").type == pa.large_string()
    assert rows(source) == [{"s": "x"}]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (5, "type int is neither a path nor Arrow data"),
        (b"x.csv", "type bytes is neither"),
        (pl.Series([1]), "type Series is no table"),
        ([{"a": 1}], "the source yields dict, not record batches"),
        ([], "yields no record batch"),
        (pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]), "two columns named 'a'"),
    ],
)
def test_what_is_no_arrow_data_is_refused(data, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        open_source(data, InputConfig())
    assert caught.value.hint


def test_no_batches_are_no_files_where_that_is_allowed():
    assert not open_source([], InputConfig(allow_empty=True)).files


def test_batches_of_another_schema_are_refused_when_they_come():
    batches = [*TABLE.to_batches(), pa.RecordBatch.from_pydict({"a": ["x"], "b": ["y"]})]
    source = open_source(batches, InputConfig())
    with pytest.raises(InputError, match="record batches of different schemas"):
        rows(source)


def test_a_stream_is_read_no_further_than_needed():
    taken = []

    def batches():
        for number in range(100):
            taken.append(number)
            yield pa.RecordBatch.from_pydict({"a": list(range(number * 1000, number * 1000 + 1000))})

    source = open_source(batches(), InputConfig())
    assert taken == [0]
    assert source.sample(columns=["a"], rows=10).num_rows == 10
    assert len(taken) == 5
    found = source.blocks(source.files[0], columns=["a"], block_rows=1000)
    assert next(found).table["a"].to_pylist() == list(range(1000))
    assert len(taken) == 5
    found.close()


def test_closing_ends_a_generator():
    ended = []

    def batches():
        try:
            yield from TABLE.to_batches()
        finally:
            ended.append(True)

    source = open_source(batches(), InputConfig())
    source.close()
    source.close()
    assert ended == [True]
