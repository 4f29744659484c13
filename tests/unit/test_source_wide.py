"""Parquet with so many columns that they are read in turns: the same rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.source import open_source, parquet
from asyncbatch.source.parquet import buffer_bytes
from asyncbatch.source.wide import Turns, read_in_turns, turns_of


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 rows in row groups of 300: numbers, texts with nulls, lists and structs."""
    file = tmp_path_factory.mktemp("wide") / "mixed.parquet"
    numbers = np.random.default_rng(0).normal(size=1000)
    texts = [None if number % 7 == 0 else f"text {number % 50}" for number in range(1000)]
    lists = pa.array([list(range(number % 4)) for number in range(1000)])
    structs = pa.array([{"a": number, "b": str(number)} for number in range(1000)])
    pq.write_table(
        pa.table({"x": numbers, "t": texts, "l": lists, "s": structs, "y": -numbers}),
        file,
        row_group_size=300,
    )
    return file


@pytest.mark.parametrize("window_rows", [1, 7, 100, 299, 300, 1000])
@pytest.mark.parametrize("batch_rows", [3, 100, 5000])
def test_turns_give_the_same_rows(mixed: Path, window_rows: int, batch_rows: int) -> None:
    with pq.ParquetFile(mixed) as file:
        turns = Turns(columns=[["s", "x"], ["y"], ["t", "l"]], window_rows=window_rows)
        batches = list(read_in_turns(file, 1, turns, batch_rows))
        assert max(batch.num_rows for batch in batches) <= batch_rows
        whole = file.read_row_group(1).select(["s", "x", "y", "t", "l"])
        assert pa.Table.from_batches(batches).equals(whole)


def test_a_source_reads_the_same_blocks_in_turns(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tables() -> list[object]:
        source = open_source(mixed, InputConfig())
        blocks = source.blocks(
            source.files[0], columns=["y", "t", "x"], block_rows=130, done=[(260, 390, None)]
        )
        return [(each.block, each.table.to_pydict()) for each in blocks] + [
            source.sample(columns=["t", "y"], rows=40).to_pydict()
        ]

    plain = tables()
    seen = []

    def some(
        metadata: pq.FileMetaData, group: int, names: list[str], *, first_rows: int | None = None
    ) -> Turns | None:
        seen.append(group)
        return Turns(columns=[[name] for name in names], window_rows=first_rows or 64) if group != 2 else None

    monkeypatch.setattr(parquet, "turns_of", some)
    assert tables() == plain
    assert set(seen) == {0, 1, 2, 3}


def test_only_what_would_fill_the_memory_is_read_in_turns(mixed: Path, tmp_path: Path) -> None:
    assert turns_of(pq.read_metadata(mixed), 0, ["x", "y", "t"]) is None
    names = [f"x{number}" for number in range(300)]
    numbers = np.random.default_rng(0).normal(size=50_000)
    for dictionary in (True, False):
        pq.write_table(
            pa.table(dict.fromkeys(names, numbers)), tmp_path / "wide.parquet", use_dictionary=dictionary
        )
        metadata = pq.read_metadata(tmp_path / "wide.parquet")
        turns = turns_of(metadata, 0, names)
        assert turns is not None
        assert [name for turn in turns.columns for name in turn] == names
        assert 4 <= len(turns.columns) <= 10
        assert 15_000 <= turns.window_rows <= 21_000
        assert turns_of(metadata, 0, names[:50]) is None


def test_buffers_of_all_columns_are_bounded() -> None:
    assert buffer_bytes(1) == buffer_bytes(32) == 1 << 20
    assert buffer_bytes(512) == 1 << 16
    assert buffer_bytes(10_000) == 1 << 14
