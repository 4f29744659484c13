"""Lines sent as they stand: the same bytes, tables and rejects as parsing and writing anew, whatever the file holds."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.codec import make_encoder
from asyncbatch.codec.lines import CsvLines, csv_lines
from asyncbatch.config import InputConfig, RequestConfig
from asyncbatch.pipeline.passing import pass_lines
from asyncbatch.pipeline.reading import ReadPlan, read_blocks
from asyncbatch.protocols import Encoder
from asyncbatch.source import open_source

NUMBERS = (
    "0", "-0", "7", "-7", "007", "+7", " 7", "7 ", "12345678901234", "9007199254740993", "9223372036854775807",
    "9223372036854775808", "1e3", "0.0", "-0.0", "0.5", "-0.5", ".5", "5.", "1.50", "3.0", "3.25", "-3.25", "0.0001",
    "0.00012", "0.00001", "-0.00001234", "123456.789", "123456789012345.0", "0.1234567890123", "0.30000000000000004",
    "1e-7", "1E5", "nan", "NaN", "-nan", "inf", "-inf", "+inf", "Infinity", "NA", "", "1_0", "0x10", "1.2.3", "--1", "00.5",
    "100000000000000.5", "9999999999999.99", "4.35", "2.675",
)  # fmt: skip
TEXTS = ("", "a", "NA", "null", " lead", "trail ", "é", "日本", '"q"', '"a,b"', '"a""b"', '"two\nlines"', '""', 'x"y', "a\rb",
    "\0", "\t", "1.50", "a" * 40)  # fmt: skip
USUAL = {"int64": ("0", "5", "-31", "123"), "float64": ("0.5", "-1.25", "3.0"), "string": ("a", "bc")}


def plan_of(file: Path, types: Sequence[str], *, keep: tuple[str, ...], block_rows: int) -> ReadPlan:
    names = [f"c{number}" for number in range(len(types))]
    source = open_source(file, InputConfig(types=tuple(zip(names, types, strict=True)), allow_empty=True))
    return ReadPlan(
        source=source,
        files=tuple(source.files),
        send=tuple(names),
        keep=keep,
        read=tuple(names),
        block_rows=block_rows,
    )


def blocks_of(plan: ReadPlan, encoder: Encoder) -> list[object]:
    found: list[object] = []
    for each in read_blocks(plan, encoder, lambda file: None):
        encoded = each.encoded
        whole = b"".join(encoded.payload(0, encoded.rows).pieces) if encoded.rows else b""  # type: ignore[union-attr]
        ones = [b"".join(encoded.payload(row, row + 1).pieces) for row in range(encoded.rows)]  # type: ignore[union-attr]
        positions = None if each.positions is None else each.positions.tolist()
        source = each.source
        kept = source.table.to_pylist()
        found.append((source.block, whole, ones, positions, source.rejects, source.end_offset, repr(kept)))
    return found


def both_ways(plan: ReadPlan, body: str = "csv") -> int:
    """Assert that both agree; how many rows were sent."""
    request = RequestConfig(body=body)
    encoder = make_encoder(request, pa.schema([plan.source.schema.field(name) for name in plan.send]))
    passing, lines_encoder = pass_lines(plan, encoder, request)
    assert passing.send != plan.send
    ordinary = blocks_of(plan, encoder)
    assert blocks_of(passing, lines_encoder) == ordinary
    return len(ordinary)


@settings(deadline=None, max_examples=150)
@given(
    types=st.lists(st.sampled_from(sorted(USUAL)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 40),
    oddity=st.sampled_from([0.0, 0.02, 0.1, 0.4]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    body=st.sampled_from(["csv", "csv-header"]),
    keep=st.integers(0, 4),
    block_rows=st.integers(1, 50),
)
def test_bytes_tables_and_rejects_are_those_of_the_ordinary_way(
    tmp_path_factory: pytest.TempPathFactory,
    types: list[str], seed: int, rows: int, oddity: float, line_end: str, body: str, keep: int, block_rows: int,
) -> None:  # fmt: skip
    rng = random.Random(seed)
    lines = []
    for _ in range(rows):
        cells = []
        for kind in types:
            odd = TEXTS if kind == "string" else NUMBERS
            cells.append(rng.choice(odd if rng.random() < oddity else USUAL[kind]))
        if rng.random() < oddity / 4:
            cells = rng.choice([cells[:-1], [*cells, "x"], [""]])  # ragged, or a blank line
        lines.append(",".join(cells))
    header = ",".join(f"c{number}" for number in range(len(types)))
    text = line_end.join([header, *lines]) + rng.choice([line_end, ""])
    data = text.encode()
    if rng.random() < oddity / 2:
        data += b"\xff" + b"," * (len(types) - 1)
    file = tmp_path_factory.mktemp("lines") / "a.csv"
    file.write_bytes(data)
    names = tuple(f"c{number}" for number in range(len(types)))
    both_ways(plan_of(file, types, keep=names[:keep], block_rows=block_rows), body)


def proved(lines: CsvLines, text: str) -> bool:
    data = text.encode() + b"\n"
    return bool(lines.proved(memoryview(data), np.array([0, len(data)]))[0])


@settings(deadline=None, max_examples=700)
@given(
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,14})?\Z")
    | st.floats().map(repr)
    | st.decimals(-1000, 1000, places=6).map(str)
    | st.tuples(st.integers(10**12, 10**18).map(str), st.integers(1, 12)).map(
        lambda it: f"{it[0][: it[1]]}.{it[0][it[1] :]}"
    )
    | st.text("0123456789.-+einf ", max_size=18)
)
def test_a_proved_number_is_what_the_encoder_writes_of_it(text: str) -> None:
    for kind, read in ((pa.float64(), float), (pa.int64(), int)):
        lines = csv_lines(pa.schema([pa.field("x", kind), pa.field("y", pa.string())]))
        assert lines is not None
        if proved(lines, text + ",a"):
            value = read(text) if text else None
            columns = [pa.chunked_array([pa.array([value], kind)]), pa.chunked_array([["a"]])]
            assert lines.texts(columns).to_pylist() == [text + ",a\n"]


def test_decimals_of_fifteen_digits_are_proved() -> None:
    """Not only safe: what is common passes."""
    lines = csv_lines(
        pa.schema([pa.field("x", pa.float64()), pa.field("n", pa.int64()), pa.field("s", pa.string())])
    )
    assert lines is not None
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=2000) * 10.0 ** rng.integers(-2, 7, size=2000), 6).tolist()
    passed = [proved(lines, f"{value!r},{number},text {number}") for number, value in enumerate(values)]
    assert sum(passed) >= 0.98 * len(values)
    assert not any(
        proved(lines, f"{value},1,a") for value in ("3", "1.50", "1e5", "0.30000000000000004", "0.00001")
    )


def test_large_files_of_several_slabs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(60_000, 4)), 4).tolist()
    rows = [f"{number},{','.join(map(repr, row))}" for number, row in enumerate(values)]
    rows[7], rows[50_000], rows[50_001] = "7,1,2,3,4", "50000,1.5,x,3.5,4.5", "ragged"
    file = tmp_path / "a.csv"
    file.write_text("c0,c1,c2,c3,c4\n" + "\n".join(rows))
    plan = plan_of(file, ("int64", *["float64"] * 4), keep=("c0", "c2"), block_rows=7001)
    assert both_ways(plan) == 9


def test_other_runs_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("c0,c1\n1,2\n")
    plan = plan_of(file, ("int64", "string"), keep=(), block_rows=10)
    schema = plan.source.schema
    request = RequestConfig(body="csv")
    encoder = make_encoder(request, schema)
    for other in (
        replace(plan, send=("c1", "c0")),
        replace(plan, send=("c0",)),
        replace(plan, keep_sent=True),
    ):
        assert pass_lines(other, encoder, request) == (other, encoder)
    jsonl = RequestConfig(body="jsonl")
    assert pass_lines(plan, make_encoder(jsonl, schema), jsonl)[0] is plan
    tabs = tmp_path / "a.tsv"
    tabs.write_text("c0\tc1\n1\t2\n")
    plan = plan_of(tabs, ("int64", "string"), keep=(), block_rows=10)
    assert pass_lines(plan, encoder, request)[0] is plan
    assert csv_lines(pa.schema([pa.field("x", pa.float32())])) is None
