"""What encoding and decoding cost, in nanoseconds of CPU a row, on seeded data.

Caveats first: one thread, best of some repetitions, whatever else runs on the machine included; compare
lines of one run with each other, not with another machine's. Run it with `python benchmarks/codec.py
[--json FILE]`.
"""

import argparse
import io
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from asyncbatch.codec import infer_layout, make_decoder, make_encoder
from asyncbatch.config import ReplyConfig, RequestConfig
from asyncbatch.model import Reply

ROWS = 10_000
REPLY_ROWS = 1_000
SEED = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--repeat", type=int, default=9, help="repetitions, of which the best counts")
    arguments = parser.parse_args()
    results = {}
    for name, work, rows in [*encoders(), *cutting(), *decoders()]:
        results[name] = round(best_ns(work, rows, arguments.repeat), 1)
        print(f"{name:44} {results[name]:12,.1f} ns/row")
    if arguments.json:
        about = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "pyarrow": pa.__version__,
            "seed": SEED,
        }
        arguments.json.write_text(json.dumps({"about": about, "ns_per_row": results}, indent=2) + "\n")


def best_ns(work: Callable[[], object], rows: int, repeat: int) -> float:
    """CPU of this thread, the best of `repeat` runs after one to warm up."""
    work()
    best = float("inf")
    for _ in range(repeat):
        started = time.thread_time_ns()
        work()
        best = min(best, time.thread_time_ns() - started)
    return best / rows


def tables() -> dict[str, pa.Table]:
    random = np.random.default_rng(SEED)
    floats = {f"f{i}": random.normal(size=ROWS) for i in range(20)}
    mixed: dict[str, Any] = {f"f{i}": random.normal(size=ROWS) for i in range(8)}
    mixed |= {f"i{i}": random.integers(0, 10**6, ROWS) for i in range(6)}
    mixed |= {f"s{i}": [f"value {j % 97}" for j in range(ROWS)] for i in range(4)}
    mixed |= {
        "t": pa.array(random.integers(0, 2**50, ROWS), pa.timestamp("us")),
        "b": random.random(ROWS) < 0.5,
    }
    missing = {name: pa.array(values, mask=random.random(ROWS) < 0.1) for name, values in floats.items()}
    vectors = pa.array(
        list(random.normal(size=(ROWS // 10, 768)).astype(np.float32)), pa.list_(pa.float32(), 768)
    )
    return {
        "20 floats": pa.table(floats),
        "20 floats, 10 % null": pa.table(missing),
        "20 mixed columns": pa.table(mixed),
        "500 floats": pa.table({f"f{i}": random.normal(size=ROWS // 10) for i in range(500)}),
        "768 floats in a list": pa.table({"v": vectors}),
    }


def encoders() -> Iterator[tuple[str, Callable[[], object], int]]:
    found = tables()
    plans = {
        "20 floats": ["csv", "csv-header", "jsonl", "json", "npy", "arrow"],
        "20 floats, 10 % null": ["csv", "json", "npy"],
        "20 mixed columns": ["csv", "jsonl", "json", "arrow"],
        "500 floats": ["csv", "json", "npy"],
        "768 floats in a list": ["json", "npy", "arrow"],
    }
    for data, bodies in plans.items():
        table = found[data]
        for body in bodies:
            encoder = make_encoder(RequestConfig(body=body), table.schema)
            yield f"encode {data}: {body}", lambda e=encoder, t=table: e.encode(t), table.num_rows
    floats = found["20 floats"]
    for template in ("records", "v2", '{"rows": $rows, "n": $n}'):
        encoder = make_encoder(RequestConfig(body="json", template=template), floats.schema)
        yield f"encode 20 floats: template {template}", lambda e=encoder: e.encode(floats), ROWS
    options = pyarrow.csv.WriteOptions(include_header=False)
    for data in ("20 floats", "20 mixed columns"):
        yield (
            f"pyarrow.csv {data}",
            lambda t=found[data]: pyarrow.csv.write_csv(t, io.BytesIO(), options),
            ROWS,
        )


def cutting() -> Iterator[tuple[str, Callable[[], object], int]]:
    """Per request, not per row: the number of rows hardly matters."""
    table = tables()["20 floats"]
    for body, rows in [("csv", 100), ("csv", 5000), ("json", 100), ("npy", 100), ("arrow", 100)]:
        block = make_encoder(RequestConfig(body=body), table.schema).encode(table)
        yield (
            f"cut {rows} rows: {body} (ns a request)",
            lambda b=block, n=rows: (b.fit(77, n, 2**23), b.payload(77, 77 + n)),
            1,
        )


def decoders() -> Iterator[tuple[str, Callable[[], object], int]]:
    random = np.random.default_rng(SEED)
    scores = random.random(REPLY_ROWS).tolist()
    vectors = random.random((REPLY_ROWS, 768)).tolist()
    labelled = [{"label": "a", "score": score} for score in scores]
    out = io.BytesIO()
    np.save(out, np.array(scores))
    replies: dict[str, tuple[str, Callable[[int], bytes]]] = {
        "csv, a number a line": ("text/csv", lambda n: "\n".join(map(str, scores[:n])).encode()),
        "csv, one line": ("text/csv", lambda n: ",".join(map(str, scores[:n])).encode()),
        "csv, a nan on a line": ("text/csv", lambda n: "\n".join(["nan", *map(str, scores[1:n])]).encode()),
        "csv, 10 numbers a line": (
            "text/csv",
            lambda n: "\n".join(",".join(map(str, row[:10])) for row in vectors[:n]).encode(),
        ),
        "json list": ("application/json", lambda n: json.dumps(scores[:n]).encode()),
        "json predictions": ("application/json", lambda n: json.dumps({"predictions": scores[:n]}).encode()),
        "json label and score": ("application/json", lambda n: json.dumps(labelled[:n]).encode()),
        "json, 768 floats a row": ("application/json", lambda n: json.dumps(vectors[:n]).encode()),
        "json lines": ("application/jsonlines", lambda n: "\n".join(map(json.dumps, labelled[:n])).encode()),
        "npy": ("application/x-npy", lambda n: _npy(np.array(scores[:n]))),
    }
    for name, (media, make) in replies.items():
        probes = [(Reply(body=make(n), content_type=media), n) for n in (1, 2, 7, REPLY_ROWS)]
        decoder = make_decoder(infer_layout(probes, ReplyConfig()))
        reply = probes[-1][0]
        yield f"decode {name}", lambda d=decoder, r=reply: d.decode(r, REPLY_ROWS), REPLY_ROWS
    one = [(Reply(body=b"0.5"), 1), (Reply(body=b"0.5\n0.25"), 2)]
    single = make_decoder(infer_layout(one, ReplyConfig()))
    yield "decode one row (ns a request)", lambda: single.decode(one[0][0], 1), 1


def _npy(array: "np.ndarray[Any, Any]") -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


if __name__ == "__main__":
    main()
