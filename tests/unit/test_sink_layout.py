"""Where an output and its state lie."""

from pathlib import Path

import pytest

from asyncbatch.errors import OutputError
from asyncbatch.model import Block
from asyncbatch.sink.layout import locate, parse_part_name, parse_plan_name, part_name, plan_name


@pytest.mark.parametrize(
    ("spec", "format", "kind", "made", "target", "state"),
    [
        ("out/", None, "folder", "parquet", "out", "out.asyncbatch"),
        ("out", None, "folder", "parquet", "out", "out.asyncbatch"),
        ("a/b/out//", None, "folder", "parquet", "a/b/out", "a/b/out.asyncbatch"),
        ("out.parquet", None, "file", "parquet", "out.parquet", "out.parquet.asyncbatch"),
        ("OUT.CSV", None, "file", "csv", "OUT.CSV", "OUT.CSV.asyncbatch"),
        ("d/out.jsonl", None, "file", "jsonl", "d/out.jsonl", "d/out.jsonl.asyncbatch"),
        ("out.parquet/", None, "folder", "parquet", "out.parquet", "out.parquet.asyncbatch"),
        ("out.txt", "csv", "file", "csv", "out.txt", "out.txt.asyncbatch"),
        ("out.csv", "parquet", "file", "parquet", "out.csv", "out.csv.asyncbatch"),
        ("out", "parquet", "folder", "parquet", "out", "out.asyncbatch"),
        ("out/", "parquet", "folder", "parquet", "out", "out.asyncbatch"),
        ("file:///data/my%20out/", None, "folder", "parquet", "/data/my out", "/data/my out.asyncbatch"),
        ("file:///data/out.csv", None, "file", "csv", "/data/out.csv", "/data/out.csv.asyncbatch"),
        ("v1.2", None, "folder", "parquet", "v1.2", "v1.2.asyncbatch"),
    ],
)
def test_sinks(spec: str, format: str | None, kind: str, made: str, target: str, state: str) -> None:  # noqa: A002
    found = locate(spec, format=format)
    assert (found.kind, found.format) == (kind, made)
    assert (found.target, found.state) == (Path(target), Path(state))


def test_here_is_a_folder_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert locate(".").state == tmp_path / "here.asyncbatch"


def test_stdout() -> None:
    assert (locate("-").kind, locate("-").format) == ("stream", "jsonl")
    assert locate("-", format="csv").format == "csv"


@pytest.mark.parametrize(
    ("spec", "format", "says"),
    [
        ("-", "parquet", "cannot be written to stdout"),
        ("", None, "no name"),
        ("/", None, "cannot be an output"),
        ("out/", "csv", "is a folder"),
        ("out", "xml", "unknown output format 'xml'"),
        ("ftp://host/key", None, "ftp:// are not supported"),
        ("file://host/x", None, "another machine"),
    ],
)
def test_refused(spec: str, format: str | None, says: str) -> None:  # noqa: A002
    with pytest.raises(OutputError, match=says) as caught:
        locate(spec, format=format)
    assert caught.value.hint


def test_part_names_sort_in_row_order_and_read_back() -> None:
    blocks = [Block(file=f, start=s, stop=s + 9) for f in (0, 1, 12) for s in (0, 9, 1000, 10**11)]
    names = [part_name(block) for block in blocks]
    assert names == sorted(names)
    assert [parse_part_name(name) for name in names] == blocks
    assert part_name(Block(file=0, start=0, stop=65536)) == "part-00000000-000000000000-000000065536.parquet"


@pytest.mark.parametrize(
    "name", ["part-0-0-1.parquet", "x.parquet", "part-00000000-000000000000-000000000001.csv"]
)
def test_other_names_are_no_parts(name: str) -> None:
    assert parse_part_name(name) is None


def test_plan_names() -> None:
    assert parse_plan_name(plan_name(7)) == 7
    assert parse_plan_name("job-1.json") is None
