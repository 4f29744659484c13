"""Seeded data: 20 columns of floats, 500 of them, and strings; each with an id and a label that are not sent.

`rounded`: 20 columns of floats of six digits after the point, and nothing else.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

SEED = 7
NOT_SENT = ("id", "label")
_WORDS = [
    "north",
    "south, by east",
    'the "old" town',
    "",
    "a rather long street name of some forty letters",
    "zürich",
]


def write(kind: str, rows: int, folder: Path, *, csv: bool) -> str:
    """Make `folder/kind-rows.parquet` (and `.csv`) unless it is there; the name without its suffix."""
    stem = folder / f"{kind}-{rows}"
    if not stem.with_suffix(".parquet").exists():
        pq.write_table(table(kind, rows), stem.with_suffix(".parquet"), row_group_size=65_536)
    if csv and not stem.with_suffix(".csv").exists():
        pyarrow.csv.write_csv(table(kind, rows), stem.with_suffix(".csv"))
    return str(stem)


def table(kind: str, rows: int) -> pa.Table:
    rng = np.random.default_rng(SEED)
    if kind == "rounded":
        return pa.table({f"f{index}": rng.normal(size=rows).round(6) for index in range(20)})
    columns = {"id": np.arange(rows)}
    if kind == "strings":
        for index in range(10):
            words = pa.array(_WORDS)
            columns[f"s{index}"] = words.take(pa.array(rng.integers(0, len(_WORDS), rows)))
            columns[f"f{index}"] = rng.normal(size=rows)
    else:
        for index in range(500 if kind == "wide" else 20):
            columns[f"f{index}"] = rng.normal(size=rows)
    columns["label"] = rng.integers(0, 2, rows)
    return pa.table(columns)


def body(kind: str, rows: int, form: str) -> bytes:
    """A request body of `rows` rows, as asyncbatch sends it."""
    from asyncbatch.codec import make_encoder
    from asyncbatch.config import RequestConfig

    sent = table(kind, rows).drop_columns(list(NOT_SENT))
    encoded = make_encoder(RequestConfig(body=form), sent.schema).encode(sent)
    return b"".join(encoded.payload(0, rows).pieces)
