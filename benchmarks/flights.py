"""The flights, scored by asyncbatch and by the loop that people write, on one embedded endpoint; runs alternate.

    python benchmarks/flights.py [--runs 5]

Writes benchmarks/results/flights.json.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
from measuring import save, surroundings

import asyncbatch
from asyncbatch.aws import fixed_session
from asyncbatch.cli.article import article_loop
from asyncbatch.server import ServeConfig
from asyncbatch.server.background import Background, background
from asyncbatch.server.flights import FEATURES, load_flights

LOOP_ROWS = 20_000
SETTINGS: dict[str, dict[str, Any]] = {
    "asyncbatch": {},
    "asyncbatch, 500 rows x 16 fixed": {"chunk_rows": 500, "concurrency": 16},
    "asyncbatch, 100 rows x 1 fixed": {"chunk_rows": 100, "concurrency": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found = surroundings("pyarrow", "aioboto3", "onnxruntime", "pandas")
    session = fixed_session(access_key="demo", secret_key="demo", region="us-east-1")
    flights = load_flights()
    rows_per_s: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, background(ServeConfig(model="flights")) as server:
        source = Path(folder) / "flights.parquet"
        pq.write_table(flights, source)
        frame = flights.select(list(FEATURES)).slice(0, LOOP_ROWS).to_pandas()
        client = session.client("sagemaker-runtime", endpoint_url=server.url)
        for _ in range(runs):
            started = time.perf_counter()
            article_loop(frame, client, server.name)
            rows_per_s.setdefault("the usual loop", []).append(LOOP_ROWS / (time.perf_counter() - started))
            for name, options in SETTINGS.items():
                rows_per_s.setdefault(name, []).append(_run(source, folder, server, session, options))
    loop = median(rows_per_s["the usual loop"])
    found["rows"] = flights.num_rows
    found["loop_rows"] = LOOP_ROWS
    found["clients"] = [
        {
            "client": name,
            "rows_per_s_median": round(median(values)),
            "rows_per_s": [round(value) for value in values],
            "ratio_to_loop": round(median(values) / loop, 2),
        }
        for name, values in rows_per_s.items()
    ]
    print(save("flights", found).read_text())


def _run(source: Path, folder: str, server: Background, session: object, options: dict[str, Any]) -> float:
    started = time.perf_counter()
    report = asyncbatch.run(
        str(source),
        str(Path(folder) / "scored"),
        endpoint=server.name,
        endpoint_url=server.url,
        region="us-east-1",
        session=session,
        send=list(FEATURES),
        overwrite=True,
        no_tuning=True,
        **options,
    )
    assert report.exit_code == 0
    return report.metrics.rows_out / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
