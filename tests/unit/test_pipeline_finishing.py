"""Labels and rounding of predictions."""

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.pipeline.finishing import label_above, label_of_largest, rounded


def chunked(*parts: list[Any], type_: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(part, type_) for part in parts], type_)


VECTORS = pa.list_(pa.float64())


def test_the_largest_number_of_a_vector_is_its_label() -> None:
    vectors = chunked([[0.1, 0.7, 0.2], None], [[0.5, 0.5, 0.1]], type_=VECTORS)
    assert label_of_largest(vectors, ()).to_pylist() == [1, None, 0]
    assert label_of_largest(vectors, ("a", "b", "c")).to_pylist() == ["b", None, "a"]


@pytest.mark.parametrize("vector", [None, [], [0.1, None], [math.nan, 0.1], [0.0, 0.0, 0.0, 1.0]])
def test_a_vector_without_a_largest_number_among_the_labels_has_none(vector: list[float] | None) -> None:
    vectors = chunked([[0.1, 0.9], vector, [0.9, 0.1]], type_=VECTORS)
    assert label_of_largest(vectors, ("a", "b")).to_pylist() == ["b", None, "a"]


@given(
    st.lists(
        st.none() | st.lists(st.floats(-10, 10), min_size=1, max_size=4),
        max_size=20,
    ),
    st.integers(0, 5),
)
def test_labels_equal_the_naive_ones_for_any_slice(rows: list[list[float] | None], start: int) -> None:
    array = pa.array(rows, VECTORS).slice(start)
    naive = [None if row is None else row.index(max(row)) for row in rows[start:]]
    assert label_of_largest(pa.chunked_array([array], VECTORS), ()).to_pylist() == naive
    assert label_of_largest(pa.chunked_array([], VECTORS), ()).to_pylist() == []


def test_above_the_threshold_is_one_or_the_second_label() -> None:
    values = chunked([0.2, 0.5, None, 0.7], type_=pa.float64())
    assert label_above(values, 0.5, ()).to_pylist() == [0, 0, None, 1]
    assert label_above(values, 0.5, ()).type == pa.int8()
    assert label_above(values, 0.5, ("no", "yes")).to_pylist() == ["no", "no", None, "yes"]


@pytest.mark.parametrize(
    ("type_", "values", "expected"),
    [
        (pa.float64(), [0.123456, None, 2.0, -0.005], [0.12, None, 2.0, -0.0]),
        (pa.float32(), [0.1251, 7.0], [0.13, 7.0]),
        (pa.float16(), [0.1251, 7.0], [0.13, 7.0]),
        (VECTORS, [[0.126, 1.0], None, [], [None, 0.555]], [[0.13, 1.0], None, [], [None, 0.56]]),
        (pa.list_(VECTORS), [[[0.126]], None], [[[0.13]], None]),
        (
            pa.struct([("a", pa.float64()), ("b", pa.string())]),
            [{"a": 0.126, "b": "x"}, None],
            [{"a": 0.13, "b": "x"}, None],
        ),
        (pa.int64(), [123, None], [123, None]),
        (pa.string(), ["0.126"], ["0.126"]),
    ],
)
def test_floats_are_rounded_wherever_they_are(
    type_: pa.DataType, values: list[Any], expected: list[Any]
) -> None:
    found = rounded(chunked(values, type_=type_), 2)
    assert found.type == type_
    found.validate(full=True)
    assert found.to_pylist() == pa.array(expected, type_).to_pylist()
    assert (
        rounded(pa.array(values, type_).slice(1), 2).to_pylist() == pa.array(expected, type_)[1:].to_pylist()
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"argmax": True, "threshold": 0.5}, "--argmax and --threshold"),
        ({"threshold": 0.5, "labels": "a,b,c"}, "--labels names 3"),
        ({"rename": "a"}, "--rename 'a': expected OLD=NEW"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunConfig.from_options(options)
