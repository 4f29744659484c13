"""`asyncbatch bench` as a person meets it, against a real server on this machine."""

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.bench.reading import read_result
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import Background

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "bench-schema.json").read_text())
SHORT = ("--duration", "1.5s", "--warmup", "0.3s", "--cooldown", "0.2s")
STATION = SimulationConfig(a=0.02, b=0.0001, slots=4)


@pytest.fixture(scope="module")
def station(serve: Callable[[ServeConfig], Background]) -> Background:
    return serve(ServeConfig(model="simulated", simulation=STATION))


@pytest.fixture
def rows(tmp_path: Path) -> str:
    pq.write_table(
        pa.table({f"f{column}": [row + 0.5 for row in range(900)] for column in range(3)}),
        tmp_path / "rows.parquet",
    )
    return "rows.parquet"


def test_a_sweep_measures_what_is_set_and_says_it_in_one_sentence(
    command: Callable[..., Any], station: Background, rows: str, tmp_path: Path
) -> None:
    done = command(
        "bench", rows, "-e", station.invocations_url, "--chunk-rows", "10,300", "--concurrency", "1,8", *SHORT,
        "--output", "r.json", "--output", "r.csv", "--output", "r.md", "--output", "r.parquet",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "4 points, about 8.0 s, at most 1,000,000 requests" in done.stderr
    table, _, said = done.stdout.partition("\n\n")
    assert "rows  in flight" in table
    assert [line.split()[0] for line in table.splitlines() if line.startswith("*")] == ["*"]
    assert said.startswith("best: 300 rows x 8 in flight, ")
    assert "; one billion rows would take " in said
    result = read_result("r.json")
    jsonschema.validate(result.to_dict(), SCHEMA)
    assert len(result.points) == 4
    for point in result.points:
        assert point.concurrency is not None
        truth = min(4, point.concurrency) * point.chunk_rows / (0.02 + 0.0001 * point.chunk_rows)
        assert point.rows_per_s < 1.1 * truth  # a busy machine answers late, never early
        assert point.latency.mean_s is not None
        little = (
            point.concurrency * point.chunk_rows / point.latency.mean_s
        )  # the law of this name, however busy it is
        assert 0.3 * little < point.rows_per_s < 3 * little
        assert point.split.server_s is not None
        assert point.split.send_s is not None
        assert 0 <= point.split.send_s < point.split.server_s
        assert point.client_cpu_share is not None
        assert point.client_cpu_share < 1.5
    assert result.round_trip.connect_s is not None
    assert 0.02 <= (result.round_trip.one_row_s or 0) < 0.5
    assert (result.endpoint.kind, result.endpoint.local) == ("http", True)
    assert (result.data.rows, result.data.rows_total) == (900, 900)
    lines = list(csv.DictReader(io.StringIO(Path("r.csv").read_text())))
    assert [float(line["rows_per_s"]) for line in lines] == [point.rows_per_s for point in result.points]
    assert "| rows | in flight | rows/s |" in Path("r.md").read_text()
    requests = pq.read_table("r.parquet")
    assert requests.num_rows == sum(point.sample.of for point in result.points)
    assert set(requests["outcome"].to_pylist()) == {"success"}
    assert min(requests["wire_replied_s"].to_pylist()) > 0
    assert not list(tmp_path.glob(".*"))


def test_a_price_an_assertion_and_a_report(
    command: Callable[..., Any], station: Background, rows: str
) -> None:
    words = [
        "bench",
        rows,
        "-e",
        station.invocations_url,
        "--chunk-rows",
        "100",
        "--concurrency",
        "1,4",
        *SHORT,
    ]
    done = command(
        *words,
        "--price-per-hour",
        "3.6",
        "--instances",
        "2",
        "--assert",
        "p50<5ms",
        "--report",
        "r.html",
        "--output",
        "r.json",
    )
    assert done.code == 4, done.stderr
    assert "about $0.01" in done.stderr
    assert "the assertion failed: p50 " in done.stderr
    result = read_result("r.json")
    assert result.best is not None
    best = result.points[result.best]
    assert best.dollars_per_million_rows == pytest.approx(2 * 0.001 * 1e6 / best.rows_per_s)
    assert " and cost about $" in done.stdout
    assert "a Batch Transform job: $" in done.stdout
    assert "autoscaling: SageMakerVariantInvocationsPerInstance = " in done.stdout
    assert read_result("r.html").to_dict() == result.to_dict()
    done = command(*words, "--assert", "p50<5s,errors<1%,rows_per_s>100")
    assert done.code == 0, done.stderr


def test_json_goes_to_stdout_alone_and_reads_back(
    command: Callable[..., Any], station: Background, rows: str
) -> None:
    done = command("bench", rows, "-e", station.invocations_url, "--rate", "20", "--json", *SHORT)
    assert done.code == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    (point,) = document["points"]
    assert isinstance(point["rows_per_s"], float)
    assert 5 < point["rows_per_s"] < 60  # without the rate: 200 with four in flight
    assert point["mode"] == "constant"
    assert point["late_p99_s"] is None or point["late_p99_s"] < 0.5
    Path("r.json").write_text(done.stdout)
    assert read_result("r.json").to_dict() == document


def test_a_search_finds_the_slots_in_real_time(
    command: Callable[..., Any], station: Background, rows: str
) -> None:
    done = command(
        "bench", rows, "-e", station.invocations_url, "--find-knee", "--chunk-rows", "100", "--concurrency", "1:16",
        "--duration", "0.8s", "--warmup", "0.2s", "--cooldown", "0.1s", "--replicates", "2", "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    document = json.loads(done.stdout)
    # Where the machine is busy just while many are in flight, it looks like a cliff.
    assert document["knee"]["verdict"] in ("knee", "no knee in range", "cliff")
    best = document["points"][document["best"]]
    assert 2 <= best["concurrency"] <= 16
    assert 0.3 < document["knee"]["rows_per_s"] / (4 * 100 / 0.03) < 1.1
    assert len(document["knee"]["replicates"]) == 2


def test_a_python_function_is_measured_without_a_word_about_the_client(
    command: Callable[..., Any], rows: str
) -> None:
    Path("model.py").write_text(
        "import time\ndef predict(batch):\n    time.sleep(0.005)\n    return [1.0] * batch.num_rows\n"
    )
    done = command(
        "bench",
        rows,
        "-e",
        "python:model:predict",
        "--chunk-rows",
        "10",
        "--concurrency",
        "2",
        "--json",
        *SHORT,
    )
    assert done.code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["endpoint"]["kind"] == "python"
    assert document["points"][0]["client_cpu_share"] is None
    assert not document["points"][0]["client_bound"]


def test_an_endpoint_beyond_this_machine_is_loaded_with_consent_only(
    refused: Callable[..., Any], rows: str
) -> None:
    said = refused("bench", rows, "-e", "https://models.example/invocations", "--duration", "1m")
    assert "https://models.example/invocations, which is not on this machine" in said.message
    assert "for about 9 min 27 s with at most 1,000,000 requests" in said.message
    assert "--yes" in said.hint


def test_a_person_is_asked_and_may_decline(
    command: Callable[..., Any], station: Background, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint is on this machine; that it is taken for another's is made up."""
    asked: list[str] = []

    def answer(text: str, **_: Any) -> bool:
        asked.append(text)
        return len(asked) > 1

    monkeypatch.setattr("asyncbatch.bench.place.is_loopback", lambda host: False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", answer)
    words = ["bench", rows, "-e", station.invocations_url, "--chunk-rows", "10", "--concurrency", "1", *SHORT]
    declined = command(*words)
    assert declined.code == 2
    assert "nothing was measured" in declined.stderr
    assert command(*words).code == 0
    assert command(*words, "--yes").code == 0
    assert asked == [f"Load {station.invocations_url}? Its users will wait meanwhile."] * 2


def test_what_could_not_be_written_is_refused_before_anything_is_sent(
    refused: Callable[..., Any], station: Background, rows: str
) -> None:
    sent = station.stats()
    for option, path in (
        ("--output", "r.txt"),
        ("--output", "no/r.json"),
        ("--report", "r.csv"),
        ("--output", "."),
    ):
        said = refused("bench", rows, "-e", station.invocations_url, option, path)
        assert path in said.message
    assert station.stats()["requests"] == sent["requests"]


def test_bad_input_is_told_in_one_sentence(
    refused: Callable[..., Any], station: Background, rows: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = refused("bench", rows, "-e", f"http://127.0.0.1:{port}/invocations", code=1)
    assert "connection refused" in said.message.lower() or "no connection" in said.message.lower()
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), tmp_path / "none.parquet")
    said = refused("bench", "none.parquet", "-e", station.invocations_url)
    assert "none.parquet has no rows" in said.message
    assert "no SOURCE" in refused("bench", "-e", station.invocations_url).message
    assert "no endpoint" in refused("bench", rows).message
    assert "--slo" in refused("bench", rows, "-e", station.invocations_url, "--slo", "p42<3s").message


def test_nothing_but_errors_is_exit_1_with_what_the_endpoint_said(
    command: Callable[..., Any], serve: Callable[[ServeConfig], Background], rows: str
) -> None:
    small = serve(ServeConfig(model="simulated", simulation=SimulationConfig(cap_rows=400)))
    done = command(
        "bench",
        rows,
        "-e",
        small.invocations_url,
        "--chunk-rows",
        "500",
        "--concurrency",
        "2",
        "--output",
        "r.json",
        *SHORT,
    )
    assert done.code == 1
    assert "no row was answered" in done.stderr
    assert "413" in done.stderr
    result = read_result("r.json")
    assert result.points[0].rows_per_s == 0
    assert result.points[0].stopped_by == "errors"
    assert result.best is None


def test_a_duration_too_short_for_a_percentile_says_what_would_do(
    command: Callable[..., Any], station: Background, rows: str
) -> None:
    done = command(
        "bench", rows, "-e", station.invocations_url, "--chunk-rows", "10", "--concurrency", "1", "--duration", "0.1s",
        "--warmup", "0", "--cooldown", "0",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "too few requests for any percentile: --duration " in done.stdout
    assert "p95 unknown" in done.stdout


def test_ctrl_c_reports_what_was_measured_and_says_partial(
    station: Background, rows: str, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCBATCH_")}
    process = subprocess.Popen(
        [
            sys.executable, "-m", "asyncbatch", "bench", rows, "-e", station.invocations_url, "--chunk-rows", "10",
            "--concurrency", "1,2,4,8,16,32", "--duration", "1s", "--warmup", "0.2s", "--cooldown", "0.1s",
            "--output", "r.json",
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if " rows/s ± " in line:  # the first point is done
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "partial: SIGINT received" in out
    result = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(result, SCHEMA)
    assert result["partial"]
    assert 1 <= len(result["points"]) < 6
    assert result["points"][0]["stopped_by"] == "duration"


def test_the_best_point_is_kept_for_the_next_run(
    command: Callable[..., Any], station: Background, rows: str
) -> None:
    done = command(
        "bench", rows, "-e", station.invocations_url, "--chunk-rows", "10,300", "--concurrency", "1,8", "--save-tuning",
        "--tuning", "tuning.json", *SHORT,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    (kept,) = json.loads(Path("tuning.json").read_text())["points"].values()
    assert (kept["point"]["chunk_rows"], kept["point"]["concurrency"]) == (300, 8)
    assert 0 <= kept["point"]["row_s"] < 0.001
    done = command(
        "run",
        rows,
        "out/",
        "-e",
        station.invocations_url,
        "--tuning",
        "tuning.json",
        "--explain",
        "--limit",
        "600",
    )
    assert done.code == 0, done.stderr
    assert "300" in done.stderr
