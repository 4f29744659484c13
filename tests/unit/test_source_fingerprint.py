"""What counts as a changed input."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.source import open_source
from asyncbatch.source.fingerprint import EDGE_BYTES


def taken(path: Path):
    return open_source(path, InputConfig(input_format="csv", send=("*",))).files[0].fingerprint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a\n" + b"1\n" * EDGE_BYTES * 2)
    return path


def rewrite(path: Path, data: bytes) -> None:
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def test_the_same_file_is_unchanged(path):
    assert taken(path) == taken(path)


def test_a_touched_file_counts_as_changed(path):
    old = taken(path)
    rewrite(path, path.read_bytes())
    assert taken(path)["mtime_ns"] != old["mtime_ns"]


def test_another_size_is_a_change(path):
    old = taken(path)
    rewrite(path, path.read_bytes() + b"1\n")
    assert taken(path) != old


@pytest.mark.parametrize("position", [2, -2])
def test_other_bytes_at_the_edges_are_a_change(path, position):
    old, data = taken(path), bytearray(path.read_bytes())
    data[position] = ord("2")
    times = path.stat()
    path.write_bytes(bytes(data))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p or rsync -t leave it
    assert taken(path)["mtime_ns"] == old["mtime_ns"]
    assert taken(path) != old


def test_another_table_is_a_change():
    def of(table: pa.Table):
        return open_source(table, InputConfig()).files[0].fingerprint

    table = pa.table({"a": range(5000)})
    assert of(table) == of(pa.concat_tables([table.slice(0, 7), table.slice(7)]))
    assert of(table) != of(table.slice(1))
    assert of(table) != of(pa.table({"a": [*range(4999), 0]}))
    assert of(table) != of(table.rename_columns(["b"]))
