"""Whatever goes wrong between client and model, every row comes out once, in order, with its own answer.

Rejected are the rows that the model refuses, and no others. The simulated endpoint and the run share one process here:
a case costs about a second.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.observe.report import RunReport
from asyncbatch.server import ServeConfig, SimulationConfig, serving
from asyncbatch.server.config import ERROR_KINDS
from asyncbatch.server.simulation import poison_mask

ROWS = 2_000
HARMLESS_KINDS = ("nan", "mistyped")
"""Replies that are no failures: see the tests of their own."""
FAULTS = tuple(kind for kind in ERROR_KINDS if kind != "nan")


def slow(*values: Any) -> list[Any]:
    """Parameters for the long form only."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


@pytest.fixture(autouse=True)
def servers_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that hang are not waited for."""
    monkeypatch.setattr("asyncbatch.server.running.GRACE_S", 0.05)


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    rng = np.random.default_rng(7)
    found = pa.table({"x0": rng.normal(size=ROWS), "x1": rng.normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(found, tmp_path / "in.parquet")
    return found


def score(
    folder: Path, simulation: SimulationConfig, *, kind: str = "sagemaker", **options: Any
) -> tuple[RunReport, pa.Table, dict[str, Any]]:
    """Run `in.parquet` against the simulated endpoint; the report, what was written, and the server's counts."""

    async def main() -> tuple[RunReport, dict[str, Any]]:
        config = replace(simulation, slots=1_000)  # requests that hang hold theirs
        async with serving(ServeConfig(model="simulated", simulation=config)) as server:
            where = (
                {"endpoint": server.name, "endpoint_url": server.url}
                if kind == "sagemaker"
                else {"endpoint": f"{server.url}/invocations"}
            )
            report = await asyncbatch.arun(
                str(folder / "in.parquet"),
                str(folder / "out"),
                **{
                    "no_send": "id",
                    "chunk_rows": 50,
                    "concurrency": 8,
                    "request_timeout": "500ms",
                    "block_rows": 1_000,
                }
                | where
                | options,
            )
            return report, server.stats()

    report, stats = asyncio.run(main())
    return report, pq.read_table(folder / "out"), stats


def check(scored: pa.Table, table: pa.Table, poison: "np.ndarray[Any, Any] | None" = None) -> None:
    """Every row once and in order, each good row with its own answer, each poison row with none and an error."""
    if poison is None:
        poison = np.zeros(ROWS, dtype=bool)
    assert scored["id"].to_pylist() == list(range(ROWS))
    rejected = scored["error"].is_valid().to_numpy()
    wrong = np.flatnonzero(rejected & ~poison)
    assert not len(wrong), dict(zip(wrong.tolist(), scored["error"].take(wrong).to_pylist(), strict=True))
    assert np.flatnonzero(rejected).tolist() == np.flatnonzero(poison).tolist()
    expected = np.where(poison, None, table["x0"].to_numpy())
    assert scored["prediction"].to_pylist() == expected.tolist()


def poison_of(table: pa.Table, simulation: SimulationConfig) -> "np.ndarray[Any, Any]":
    return poison_mask(table["x0"].to_numpy(), share=simulation.poison_share, seed=simulation.seed)


@pytest.mark.parametrize("kind", FAULTS)
def test_one_request_in_ten_that_fails_costs_no_row(kind: str, tmp_path: Path, table: pa.Table) -> None:
    report, scored, _ = score(tmp_path, SimulationConfig(errors={kind: 0.1}, seed=3))
    check(scored, table)
    assert report.exit_code == 0
    struck = report.metrics.requests > report.metrics.requests_by_outcome["success"]
    assert struck or kind in HARMLESS_KINDS, "the fault never struck"


@pytest.mark.parametrize("kind", ["502", "424-400", "413", *slow("500", "424", "503", "capacity")])
def test_a_plain_http_server_may_fail_as_well(kind: str, tmp_path: Path, table: pa.Table) -> None:
    report, scored, _ = score(tmp_path, SimulationConfig(errors={kind: 0.1}, seed=4), kind="http")
    check(scored, table)
    assert report.exit_code == 0


@pytest.mark.parametrize("share", [0.0, 0.005], ids=["no poison", "poison"])
def test_all_kinds_of_faults_together_cost_no_row(share: float, tmp_path: Path, table: pa.Table) -> None:
    simulation = SimulationConfig(errors=dict.fromkeys(FAULTS, 0.02), poison_share=share, seed=5)
    report, scored, stats = score(tmp_path, simulation, chunk_rows=100)
    check(scored, table, poison_of(table, simulation))
    assert report.exit_code == (3 if share else 0)
    assert len(stats["outcomes"]) > 5


def test_all_kinds_with_answers_that_are_no_numbers(tmp_path: Path, table: pa.Table) -> None:
    """NaN is among them here: it is an answer, and takes the place of a number only where the model gave it."""
    simulation = SimulationConfig(errors=dict.fromkeys(ERROR_KINDS, 0.02) | {"nan": 0.2}, seed=8)
    report, scored, stats = score(tmp_path, simulation, chunk_rows=100)
    silent = np.isnan(scored["prediction"].to_numpy())
    assert silent.sum() <= stats["outcomes"].get("nan", 0) * 100
    answers = pa.array(np.where(silent, table["x0"].to_numpy(), scored["prediction"].to_numpy()))
    check(scored.set_column(scored.column_names.index("prediction"), "prediction", answers), table)
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("share", "faults"),
    [
        (0.001, {}),
        (0.01, {}),
        (0.05, {}),
        (0.01, {"500": 0.1}),
        (0.001, {"400": 0.2, "short": 0.05}),
        *slow((0.001, {"500": 0.1}), (0.05, {"500": 0.1}), (0.01, {"424-400": 0.1})),
        *slow((0.01, {"400": 0.2, "short": 0.05}), (0.05, {"400": 0.2, "short": 0.05})),
    ],
)
def test_rejected_are_the_poison_rows_and_no_others(
    share: float, faults: dict[str, float], tmp_path: Path, table: pa.Table
) -> None:
    simulation = SimulationConfig(poison_share=share, errors=faults, seed=11)
    poison = poison_of(table, simulation)
    assert poison.any()
    report, scored, _ = score(tmp_path, simulation)
    check(scored, table, poison)
    assert report.exit_code == 3


def test_bisecting_costs_a_few_requests_for_each_poison_row(tmp_path: Path, table: pa.Table) -> None:
    """At most 2 log2(n) + 1 for each, and what settles a lone row, beyond the requests of a run without poison."""
    simulation = SimulationConfig(poison_share=0.001, seed=11)
    poison = int(poison_of(table, simulation).sum())
    _, _, stats = score(tmp_path, simulation)
    plain = ROWS / 50 + 4
    assert stats["requests"] <= plain + poison * (2 * np.log2(50) + 1 + 4)


def test_an_endpoint_that_cannot_answer_one_row_rejects_the_poison_rows_only(
    tmp_path: Path, table: pa.Table
) -> None:
    simulation = SimulationConfig(min_rows=2, poison_share=0.005, errors={"500": 0.05}, seed=2)
    _, scored, _ = score(tmp_path, simulation, chunk_rows=7)
    check(scored, table, poison_of(table, simulation))


def test_nan_is_an_answer_and_no_failure(tmp_path: Path, table: pa.Table) -> None:
    """What the model said is written as it is: not null, no error, not sent again."""
    report, scored, stats = score(tmp_path, SimulationConfig(errors={"nan": 0.1}, seed=3))
    predictions = scored["prediction"].to_numpy()
    silent = np.isnan(predictions)
    assert scored["prediction"].null_count == 0
    assert scored["error"].null_count == ROWS
    assert predictions[~silent].tolist() == table["x0"].to_numpy()[~silent].tolist()
    assert report.exit_code == 0
    assert set(stats["outcomes"]) == {"200", "nan"}
    assert stats["requests"] <= ROWS / 50 + 4
    assert 0 < silent.sum() <= stats["outcomes"]["nan"] * 50


def test_a_readable_body_is_taken_whatever_its_content_type(tmp_path: Path, table: pa.Table) -> None:
    """The layout was settled by the probes; servers are known to say text/html of anything."""
    report, scored, stats = score(tmp_path, SimulationConfig(errors={"mistyped": 0.3}, seed=3))
    check(scored, table)
    assert stats["requests"] <= ROWS / 50 + 4
    assert report.exit_code == 0
