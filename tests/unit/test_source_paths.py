"""What a source's name finds: order, hidden files, partitions, formats, URIs."""

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.source import open_source
from asyncbatch.source.formats import format_by_content, format_by_name
from asyncbatch.source.opening import reading
from asyncbatch.source.paths import find_files, natural_key

CSV = InputConfig(send=("a",))


def touch(folder: Path, *names: str, text: str = "a\n1\n") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(spec: object, root: Path, *, allow_empty: bool = False) -> list[str]:
    return [os.path.relpath(each.path, root) for each in find_files(str(spec), allow_empty=allow_empty)]


def test_files_come_in_natural_order(tmp_path):
    touch(tmp_path, "part-10.csv", "part-2.csv", "b/part-1.csv", "a10/x.csv", "a9/x.csv", "part-02.csv")
    expected = ["a9/x.csv", "a10/x.csv", "b/part-1.csv", "part-02.csv", "part-2.csv", "part-10.csv"]
    assert found(tmp_path, tmp_path) == expected


def test_natural_order_is_total():
    names = ["a", "a1", "a01", "a1b", "1", "01", "", "b", "a-1", "a/1"]
    assert len({natural_key(name) for name in names}) == len(names)


def test_hidden_files_and_folders_are_skipped_and_partitions_are_not_hidden(tmp_path):
    touch(tmp_path, "_SUCCESS", "_temporary/0/y.csv", ".git/z.csv", "_a=1/w.csv", "_a=1/.w.csv.crc")
    assert found(tmp_path, tmp_path) == ["_a=1/w.csv"]
    assert found(tmp_path / "**" / "*", tmp_path) == ["_a=1/w.csv"]


def test_a_hidden_file_can_be_named(tmp_path):
    touch(tmp_path, "_x.csv")
    assert found(tmp_path / "_x.csv", tmp_path) == ["_x.csv"]
    assert found(tmp_path / "_*.csv", tmp_path) == ["_x.csv"]


def test_globs_match_in_one_folder_or_below(tmp_path):
    touch(tmp_path, "x.csv", "y.txt", "d/z.csv", "d/e/v.csv")
    assert found(tmp_path / "*.csv", tmp_path) == ["x.csv"]
    assert found(tmp_path / "**" / "*.csv", tmp_path) == ["d/e/v.csv", "d/z.csv", "x.csv"]
    assert found(tmp_path / "d*", tmp_path) == ["d/e/v.csv", "d/z.csv"]


def test_a_path_that_exists_is_no_glob(tmp_path):
    touch(tmp_path, "a[1].csv", "a1.csv")
    assert found(tmp_path / "a[1].csv", tmp_path) == ["a[1].csv"]


def test_a_file_uri_is_a_path(tmp_path):
    touch(tmp_path, "a b.csv")
    uri = (tmp_path / "a b.csv").as_uri()
    assert "%20" in uri
    assert found(uri, tmp_path) == ["a b.csv"]


@pytest.mark.parametrize(
    ("spec", "sentence", "hint"),
    [
        ("ftp://host/x.csv", "scheme ftp://", "file://"),
        ("nosuch://x", "scheme nosuch://", "file://"),
        ("file://host/x.csv", "names the host host", "file:///"),
    ],
)
def test_a_uri_that_cannot_be_read_says_which_can(spec, sentence, hint):
    with pytest.raises(InputError) as caught:
        open_source(spec, InputConfig())
    assert sentence in caught.value.message
    assert hint in caught.value.hint


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    touch(tmp_path, "flights.csv")
    with pytest.raises(InputError, match=r"flihgts\.csv does not exist") as caught:
        open_source(tmp_path / "flihgts.csv", InputConfig())
    assert "flights.csv" in caught.value.hint


@pytest.mark.parametrize("name", ["*.csv", "."])
def test_nothing_found_is_an_error_unless_allowed(tmp_path, name):
    with pytest.raises(InputError, match=r"matches no file|holds no data file") as caught:
        open_source(tmp_path / name, InputConfig())
    assert "--allow-empty" in caught.value.hint
    empty = open_source(tmp_path / name, InputConfig(allow_empty=True))
    assert (list(empty.files), empty.schema.names, empty.resumable) == ([], [], True)
    assert empty.sample(columns=[], rows=3).num_rows == 0


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.jsonl", "x.arrow"])
def test_a_file_of_zero_bytes_is_named_and_may_be_allowed(tmp_path, name):
    touch(tmp_path, name, text="")
    with pytest.raises(InputError, match=r"x\.\w+ is empty \(0 bytes\)"):
        open_source(tmp_path / name, InputConfig())
    assert not open_source(tmp_path / name, InputConfig(allow_empty=True)).files


def test_partitions_are_typed_and_come_last(tmp_path):
    for year, region in ((2024, "north%20west"), (2023, "__HIVE_DEFAULT_PARTITION__")):
        touch(tmp_path, f"year={year}/region={region}/x.csv")
    source = open_source(tmp_path, InputConfig())
    assert source.schema == pa.schema([("a", pa.int64()), ("year", pa.int64()), ("region", pa.string())])
    assert list(source.partition_columns) == ["year", "region"]
    rows = [
        row
        for file in source.files
        for block in source.blocks(file, columns=["region", "year", "a"], block_rows=9)
        for row in block.table.to_pylist()
    ]
    assert rows == [
        {"region": None, "year": 2023, "a": 1},
        {"region": "north west", "year": 2024, "a": 1},
    ]
    assert source.files[1].partitions == {"year": "2024", "region": "north west"}


def test_only_partition_columns_can_be_read(tmp_path):
    touch(tmp_path, "year=1/x.csv", text="a\n1\n2\n")
    source = open_source(tmp_path, InputConfig())
    (block,) = source.blocks(source.files[0], columns=["year"], block_rows=9)
    assert block.table.to_pydict() == {"year": [1, 1]}


def test_partitions_with_leading_zeros_are_text(tmp_path):
    touch(tmp_path, "month=01/x.csv", "month=12/x.csv")
    assert open_source(tmp_path, InputConfig()).schema.field("month").type == pa.string()


def test_a_folder_named_like_a_partition_above_the_source_is_none(tmp_path):
    touch(tmp_path, "year=1/x.csv")
    assert list(open_source(tmp_path / "year=1", InputConfig()).partition_columns) == []
    assert list(open_source(tmp_path / "*" / "x.csv", InputConfig()).partition_columns) == ["year"]


def test_partitions_that_differ_are_an_error(tmp_path):
    touch(tmp_path, "year=1/x.csv", "month=1/x.csv")
    with pytest.raises(InputError, match=r"has the partitions 'year', but .* has 'month'"):
        open_source(tmp_path, InputConfig())


def test_a_partition_that_is_a_column_too_is_an_error(tmp_path):
    touch(tmp_path, "a=1/x.csv")
    with pytest.raises(InputError, match="'a' is both a column"):
        open_source(tmp_path, InputConfig())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.parquet", "parquet"),
        ("x.PQ", "parquet"),
        ("d.csv/x.tsv", "csv"),
        ("x.csv.gz", "csv"),
        ("x.txt", "csv"),
        ("x.ndjson.gz", "jsonl"),
        ("x.feather", "arrow"),
        ("x.ipc", "arrow"),
        ("x", None),
        ("x.dat", None),
    ],
)
def test_the_format_is_read_off_the_name(name, expected):
    assert format_by_name(name) == expected


def test_the_format_is_read_off_the_first_bytes(tmp_path):
    table = pa.table({"a": [1]})
    pq.write_table(table, tmp_path / "p")
    with pa.ipc.new_file(tmp_path / "f", table.schema) as writer:
        writer.write(table)
    with pa.ipc.new_stream(tmp_path / "s", table.schema) as writer:
        writer.write(table)
    (tmp_path / "j").write_bytes(b'\xef\xbb\xbf \n{"a": 1}\n')
    (tmp_path / "z").write_bytes(gzip.compress(b'{"a": 1}\n'))
    (tmp_path / "c").write_text("a\n1\n")
    kinds = {name: format_by_content(str(tmp_path / name)) for name in "pfsjzc"}
    assert kinds == {"p": "parquet", "f": "arrow", "s": "arrow", "j": "jsonl", "z": "jsonl", "c": "csv"}
    for name in "pfsjzc":
        assert open_source(tmp_path / name, InputConfig()).schema == pa.schema([("a", pa.int64())])


def test_binary_rubbish_is_no_csv(tmp_path):
    (tmp_path / "x").write_bytes(b"\x00\x01\x02" * 100)
    with pytest.raises(InputError, match="none of Parquet, CSV, JSON Lines and Arrow"):
        open_source(tmp_path / "x", InputConfig())


def test_a_folder_of_several_formats_names_one_of_each(tmp_path):
    touch(tmp_path, "a.csv", "b.csv")
    touch(tmp_path, "c.jsonl", text='{"a": 1}\n')
    with pytest.raises(InputError) as caught:
        open_source(tmp_path, InputConfig())
    assert caught.value.message == (
        f"the source mixes formats: {tmp_path / 'a.csv'} is csv, {tmp_path / 'c.jsonl'} is jsonl"
    )


def test_the_format_can_be_given(tmp_path):
    touch(tmp_path, "x.csv", text='{"b": 1}\n')
    assert open_source(tmp_path / "x.csv", InputConfig(input_format="jsonl")).schema.names == ["b"]


def test_a_relative_path_stays_relative_and_loses_its_detours(tmp_path, monkeypatch):
    touch(tmp_path, "d/x.csv")
    monkeypatch.chdir(tmp_path)
    assert open_source("d", CSV).files[0].path == "d/x.csv"
    assert open_source("d/*.csv", CSV).files[0].path == "d/x.csv"
    assert open_source("./d//x.csv", CSV).files[0].path == "d/x.csv"


def test_a_file_without_permission_is_named():
    with pytest.raises(InputError, match=r"x\.csv cannot be read: Permission denied"), reading("x.csv"):
        raise PermissionError(13, "Permission denied")
