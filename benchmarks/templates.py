"""What a template costs: CPU of the client with one, over CPU without, on seeded data.

Caveats first: a shared machine; the two sides take turns and the least of each side counts, so a ratio is steadier
than either figure. `encode` is encoding blocks of 10,000 rows and cutting requests of 500 from them; `run` is the
whole of `asyncbatch.run` against a simulated endpoint in another process. Run it with
`python benchmarks/templates.py [--pairs N] [--save]`; results go to benchmarks/results/templates.json.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import asyncbatch
from asyncbatch.codec import make_encoder
from asyncbatch.config import RequestConfig
from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import background

SEED = 20
ROWS, BLOCK, CHUNK = 100_000, 10_000, 500
ENVELOPE = '{"inputs": $rows, "parameters": {"top_k": 1}, "count": $n}'
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an envelope a request": ({"body": "json", "template": "$rows"}, {"body": "json", "template": ENVELOPE}),
    "an envelope a line": ({"body": "jsonl"}, {"body": "jsonl", "template": '{"features": $row}'}),
}
"""Name to the options without and with a template."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="turns of each side, of which the best counts")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/templates.json")
    arguments = parser.parse_args()
    random = np.random.default_rng(SEED)
    table = pa.table({f"f{index}": random.normal(size=ROWS) for index in range(20)})
    found: dict[str, Any] = {}
    for name, (without, with_template) in PAIRS.items():
        found[f"encode: {name}"] = compared(
            lambda options=without: encode(table, options),
            lambda options=with_template: encode(table, options),
            arguments.pairs,
        )
    config = ServeConfig(model="simulated", simulation=SimulationConfig(slots=8))
    with background(config) as server, tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, f"{folder}/in.parquet")
        name, (without, with_template) = next(iter(PAIRS.items()))  # the endpoint has no such line
        found[f"run: {name}"] = compared(
            lambda: run(folder, server.invocations_url, without),
            lambda: run(folder, server.invocations_url, with_template),
            arguments.pairs,
        )
    for name, result in found.items():
        print(
            f"{name:32} {result['ratio']:.3f} ({result['without_us']:.2f} → {result['with_us']:.2f} µs a row)"
        )
    if arguments.save:
        about = measuring.surroundings("pyarrow", "numpy", "orjson")
        print(measuring.save("templates", {**about, "seed": SEED, "rows": ROWS, "cpu": found}))


def compared(without: Callable[[], None], with_template: Callable[[], None], pairs: int) -> dict[str, Any]:
    """CPU of this process a row, the best of `pairs` turns each, and their ratio."""
    best = {"without": float("inf"), "with": float("inf")}
    for turn in range(pairs + 1):
        for side, work in (("without", without), ("with", with_template)):
            gc.collect()
            started_s = time.process_time()
            work()
            if turn:  # the first warms up
                best[side] = min(best[side], time.process_time() - started_s)
    return {
        "without_us": round(best["without"] / ROWS * 1e6, 3),
        "with_us": round(best["with"] / ROWS * 1e6, 3),
        "ratio": round(best["with"] / best["without"], 3),
    }


def encode(table: pa.Table, options: dict[str, Any]) -> None:
    encoder = make_encoder(RequestConfig(**options), table.schema)
    for start in range(0, ROWS, BLOCK):
        block = encoder.encode(table.slice(start, BLOCK))
        for row in range(0, BLOCK, CHUNK):
            b"".join(block.payload(row, row + CHUNK).pieces)


def run(folder: str, url: str, options: dict[str, Any]) -> None:
    asyncbatch.run(
        f"{folder}/in.parquet",
        f"{folder}/out",
        endpoint=url,
        keep="none",
        chunk_rows=CHUNK,
        concurrency=4,
        block_rows=BLOCK,
        overwrite=Path(folder, "out").exists(),
        **options,
    )


if __name__ == "__main__":
    main()
