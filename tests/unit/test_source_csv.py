"""CSV: lossless text, frozen types, rejects with their lines, offsets."""

import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from asyncbatch.config import InputConfig
from asyncbatch.errors import ConfigError, InputError
from asyncbatch.model import InputFile, Reject
from asyncbatch.source import csv as csv_module
from asyncbatch.source import open_source, opening, text


def read(path: Path, config: InputConfig, *, columns: Sequence[str] | None = None, block_rows: int = 1000):
    source = open_source(path, config)
    names = source.schema.names if columns is None else columns
    blocks = [b for file in source.files for b in source.blocks(file, columns=names, block_rows=block_rows)]
    return source.schema, pa.concat_tables([b.table for b in blocks]), [r for b in blocks for r in b.rejects]


def rows_of(path: Path, data: str | bytes, **options):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    _, table, rejects = read(path, InputConfig(**options))
    return table.to_pydict(), rejects


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.csv"


def inferred(path: Path, values: Sequence[str], **options) -> pa.DataType:
    path.write_text("a,b\n" + "".join(f"{value},x\n" for value in values))
    return open_source(path, InputConfig(**options)).schema.field("a").type


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["1", "-2", "0", ""], pa.int64()),
        ([" 1", "2\t"], pa.int64()),
        (['"1"', '"2"'], pa.int64()),
        (["1", "2.5"], pa.float64()),
        (["1", "nan"], pa.float64()),
        (["1", "-Infinity"], pa.float64()),
        (["1e5", ".5", "5."], pa.float64()),
        (["NA", "1"], pa.int64()),
        (["1", "null", "\\N", "None", "#N/A", "N/A", "NULL"], pa.int64()),
        (["true", "False", "TRUE", ""], pa.bool_()),
        (["true", "1"], pa.string()),
        (["true", "1.5"], pa.string()),
        (["00123", "12345"], pa.string()),
        (["-01", "1"], pa.string()),
        (["00.5", "1"], pa.string()),
        (["+1", "1"], pa.string()),
        (["0x10", "1"], pa.string()),
        (["1_000", "1"], pa.string()),
        (["9223372036854775807", "-9223372036854775808"], pa.int64()),
        (["9223372036854775808", "1"], pa.string()),
        (["9223372036854775808", "1.5"], pa.float64()),
        (["2024-01-01"], pa.string()),
        (["", "NA"], pa.string()),
        ([], pa.string()),
    ],
)
def test_types_of_sent_columns_are_inferred(path, values, dtype):
    assert inferred(path, values) == dtype


def test_columns_that_are_only_kept_stay_text(path):
    assert inferred(path, ["1", "2"], send=("b",)) == pa.string()


@pytest.mark.parametrize("place", [0, 7_200, 28_800, 42_200, 49_800])
def test_types_are_widened_by_what_stands_deep_in_a_large_file(path, monkeypatch, place):
    monkeypatch.setattr(csv_module, "SPOT_BYTES", 4096)  # 1,000 rows of 50,000, at every seventh
    values = ["1"] * 50_000
    values[place : place + 200] = ["1.5"] * 200
    assert inferred(path, values) == pa.float64()
    assert inferred(path, ["1"] * 50_000) == pa.int64()


def test_types_are_inferred_over_all_files(tmp_path):
    for number in range(5):
        (tmp_path / f"x{number}.csv").write_text(f"a\n{'1.5' if number == 3 else '1'}\n")
    schema, table, _ = read(tmp_path, InputConfig())
    assert schema.field("a").type == pa.float64()
    assert table["a"].to_pylist() == [1.0, 1.0, 1.0, 1.5, 1.0]


def test_given_types_win(path):
    data = "a,b,c,d,e\n1,00123,2024-01-02,2024-01-02T03:04:05.5,1.50\n"
    path.write_text(data)
    types = (
        ("a", "float32"),
        ("b", "int64"),
        ("c", "date32"),
        ("d", "timestamp[us]"),
        ("e", "decimal128(9, 3)"),
    )
    schema, table, rejects = read(path, InputConfig(types=types))
    assert [str(each) for each in schema.types] == [
        "float",
        "int64",
        "date32[day]",
        "timestamp[us]",
        "decimal128(9, 3)",
    ]
    assert [str(each) for each in table.to_pylist()[0].values()] == [
        "1.0",
        "123",
        "2024-01-02",
        "2024-01-02 03:04:05.500000",
        "1.500",
    ]
    assert not rejects


@pytest.mark.parametrize(
    ("types", "sentence", "hint"),
    [
        ((("q", "int64"),), "column 'q' in --types is not in the input", "the columns are 'a', 'b'"),
        ((("a", "in64"),), "'in64' is not a type that text can be read as", "did you mean 'int64'"),
        ((("a", "list"),), "'list' is not a type", "int64"),
        ((("a", "binary"),), "'binary' is not a type", "int64"),
        ((("a", "int8"), ("a", "int16")), "given twice", "once"),
        ((("a", "decimal128(50, 3)"),), "no such decimal", "1 to 38"),
    ],
)
def test_wrong_types_are_refused(path, types, sentence, hint):
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError) as caught:
        open_source(path, InputConfig(types=types))
    assert sentence in caught.value.message
    assert hint in caught.value.hint


def test_kept_text_is_lossless(path):
    data = 'a,b,c\n 00123 ,"x ""y"",\n z", 1.50\n,"",NA\n'
    table, rejects = rows_of(path, data, send=("c",), types=(("c", "string"),))
    assert table == {"a": [" 00123 ", None], "b": ['x "y",\n z', ""], "c": [" 1.50", "NA"]}
    assert not rejects


def test_nulls_and_numbers_that_are_none(path):
    table, rejects = rows_of(
        path, "a,b,c\n1,1.5,true\n,,\nNA,null, \n2,nan,\n3,-inf,false\n", types=(("c", "bool"),)
    )
    assert table["a"] == [1, None, None, 2, 3]
    assert table["c"] == [True, None, None, None, False]
    assert [str(each) for each in table["b"]] == ["1.5", "None", "None", "nan", "-inf"]
    assert not rejects


def test_a_value_that_does_not_convert_is_a_reject_and_the_rest_of_its_row_stays(path):
    data = "id,x,y,note\n1,1,1.5,a\n2,secret,2.5, b \n3,3,oops,c\n4,bad,worse,d\n"
    options = {"send": ("x", "y"), "types": (("x", "int64"), ("y", "float64"))}
    table, rejects = rows_of(path, data, **options)
    assert table == {
        "id": ["1", "2", "3", "4"],
        "x": [1, None, 3, None],
        "y": [1.5, 2.5, None, None],
        "note": ["a", " b ", "c", "d"],
    }
    assert rejects == [
        Reject(row=1, code="input", message="column 'x' is not int64", line=3),
        Reject(row=2, code="input", message="column 'y' is not float64", line=4),
        Reject(row=3, code="input", message="column 'x' is not int64", line=5),
    ]


def test_rows_that_cannot_be_read_are_null_rejects_with_their_lines(path):
    data = b'a,b\r\n1,"x\r\ny"\r\n\r\n2\r\n3,z,9\r\n4,"\xff"\r\n5,"q"r\r\n6,ok\r\n7,"never closed\r\n8,fine'
    table, rejects = rows_of(path, data, send=("a",))
    assert table == {
        "a": [1, None, None, 4, None, 6, None, 8],
        "b": ["x\r\ny", None, None, None, None, "ok", None, "fine"],
    }
    assert [(each.row, each.line) for each in rejects] == [(1, 5), (2, 6), (3, 7), (4, 8), (6, 10)]
    assert [each.message for each in rejects] == [
        "1 field where 2 are expected",
        "3 fields where 2 are expected",
        "column 'b' is not UTF-8",
        "the quoting is wrong: a quote is not closed, or text follows a closing quote",
        "the quoting is wrong: a quote is not closed, or text follows a closing quote",
    ]


def test_bytes_in_columns_that_are_not_read_do_not_matter(path):
    path.write_bytes(b"a,b\n1,\xff\n2,x\n")
    _, table, rejects = read(path, InputConfig(send=("a",)), columns=["a"])
    assert (table["a"].to_pylist(), rejects) == ([1, 2], [])


def test_few_bad_rows_among_many_are_found_exactly(path):
    rows = [f"{number},{number / 4}" for number in range(20_000)]
    bad = {17: "1,2,3", 9_999: "x", 10_000: "1,y", 19_999: '"'}
    for number, row in bad.items():
        rows[number] = row
    _, rejects = rows_of(path, "a,b\n" + "\n".join(rows) + "\n", types=(("a", "int64"), ("b", "float64")))
    assert [(each.row, each.line) for each in rejects] == [(row, row + 2) for row in bad]


def test_spellings_of_null_and_clean_rows_agree_on_both_ways(path):
    values = [str(number) for number in range(5000)]
    clean, _ = rows_of(path, "a,b\n" + "".join(f"{value},x\n" for value in values))
    values[2500] = "NA"
    other, rejects = rows_of(path, "a,b\n" + "".join(f"{value},x\n" for value in values))
    assert not rejects
    assert other["a"] == [None if number == 2500 else each for number, each in enumerate(clean["a"])]


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("x.csv", b"a,b\n1,x\n2,y\n", {}),
        ("x.csv", b"a,b\n1,x\n2,y", {}),
        ("x.csv", b"a,b\r\n1,x\r\n2,y\r\n", {}),
        ("x.csv", b"\xef\xbb\xbfa,b\n1,x\n2,y\n", {}),
        ("x.csv", b"\xef\xbb\xbf\n\r\na,b\n\n1,x\n\n\n2,y\n\n", {}),
        ("x.csv", b'"a","b"\n"1","x"\n"2","y"\n', {}),
        ("x.csv", b"a;b\n1;x\n2;y\n", {"delimiter": ";"}),
        ("x.csv", b"a,b\n1,'x'\n2,'y'\n", {"quote": "'"}),
        ("x.tsv", b"a\tb\n1\tx\n2\ty\n", {}),
        ("x.txt", b"a|b\n1|x\n2|y\n", {"delimiter": "|"}),
        ("x.csv.gz", gzip.compress(b"a,b\n1,x\n2,y\n", mtime=0), {}),
        ("x.csv.gz", gzip.compress(b"a,b\n1,x\n", mtime=0) + gzip.compress(b"2,y\n", mtime=0), {}),
        ("x.csv", gzip.compress(b"a,b\n1,x\n2,y\n", mtime=0), {}),
        ("x.tsv.gz", gzip.compress(b"a\tb\n1\tx\n2\ty\n", mtime=0), {}),
    ],
)
def test_dialects_read_the_same(tmp_path, name, data, options):
    table, rejects = rows_of(tmp_path / name, data, **options)
    assert (table, rejects) == ({"a": [1, 2], "b": ["x", "y"]}, [])


def test_without_a_header_columns_are_numbered(path):
    table, _ = rows_of(path, b"\xef\xbb\xbf1,x\n2,y\n", no_header=True)
    assert table == {"c0": [1, 2], "c1": ["x", "y"]}


def test_an_unnamed_column_is_numbered(path):
    table, _ = rows_of(path, ",a\n0,x\n")
    assert table == {"c0": [0], "a": ["x"]}


def test_a_header_alone_has_columns_and_no_rows(path):
    path.write_text("a,b\n")
    source = open_source(path, InputConfig())
    assert source.schema.names == ["a", "b"]
    assert list(source.blocks(source.files[0], columns=["a"], block_rows=3)) == []
    assert source.sample(columns=["a"], rows=3).num_rows == 0


def test_files_of_a_folder_may_order_their_columns_differently(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "2.csv").write_text("b,a\ny,2\n")
    _, table, _ = read(tmp_path, InputConfig())
    assert table.to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"1.csv": b"a,b\n", "2.csv": b"a\n"}, "2.csv has no column 'b', but"),
        ({"1.csv": b"a\n", "2.csv": b"a,b\n"}, "2.csv has a column 'b', but"),
        ({"1.csv": b"a,a\n1,2\n"}, "1.csv has two columns named 'a'"),
        ({"1.csv": b"\xff\xfea\x00"}, "1.csv is UTF-16 text"),
        ({"1.csv": b"a,\xff\n1,2\n"}, "1.csv: the header is not UTF-8"),
        ({"1.csv": b'a,"b\n1,2\n'}, "1.csv: a quote in the first line is not closed"),
        ({"1.csv": b'a,"b"c\n1,2\n'}, "1.csv: the quoting of the first line is wrong"),
        ({"1.csv": b"a,b\r1,2\r"}, "1.csv: lines end in carriage returns alone"),
        ({"1.csv": b"\n\r\n\n"}, "1.csv has no line of text"),
        ({"1.csv": b"PAR1abc"}, "1.csv is a Parquet file, not text"),
        ({"1.csv": b"PK\x03\x04abc"}, "1.csv is a ZIP archive, not text"),
        (
            {"1.csv.gz": gzip.compress(b"a\n1\n" * 1000, mtime=0)[:-20]},
            "1.csv.gz is a damaged or truncated gzip file",
        ),
        (
            {"1.csv.gz": gzip.compress(b"a\n1\n" * 1000, mtime=0)[:12] + b"rubbish" * 9},
            "1.csv.gz is a damaged or trunc",
        ),
    ],
)
def test_files_that_are_no_such_csv_are_one_sentence(tmp_path, files, sentence):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(tmp_path, InputConfig())
    assert sentence in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("options", [{"delimiter": "é"}, {"quote": "\n"}, {"delimiter": '"'}])
def test_characters_that_cannot_divide_are_refused(path, options):
    path.write_text("a,b\n")
    with pytest.raises(ConfigError):
        open_source(path, InputConfig(**options))


def test_a_file_of_blank_lines_is_left_out_where_empty_is_allowed(tmp_path):
    (tmp_path / "1.csv").write_text("\n\n")
    (tmp_path / "2.csv").write_text("a\n1\n")
    source = open_source(tmp_path, InputConfig(allow_empty=True))
    assert [(file.number, Path(file.path).name) for file in source.files] == [(0, "2.csv")]


class _Counting:
    """Counts the bytes read from plain files."""

    def __init__(self, monkeypatch) -> None:
        self.bytes_read = 0
        self.lowest = 1 << 60
        real = opening.open_binary

        def open_counted(path, *, compressed=False, offset=0):
            stream = real(path, compressed=compressed, offset=offset)
            self.lowest = min(self.lowest, offset)
            counting = self

            class Stream(io.RawIOBase):
                def read(self, size=-1):
                    data = stream.read(size)
                    counting.bytes_read += len(data)
                    return data

                def close(self):
                    stream.close()
                    super().close()

            return Stream()

        monkeypatch.setattr(opening, "open_binary", open_counted)


def test_a_resumed_run_seeks_past_what_is_committed(path, monkeypatch):
    monkeypatch.setattr(text, "SLAB_BYTES", 1000)
    path.write_text("a,b\n" + "".join(f"{number},x\n" for number in range(10_000)))
    source = open_source(path, InputConfig())
    file: InputFile = source.files[0]
    blocks = list(source.blocks(file, columns=["a"], block_rows=100))
    done = [(b.block.start, b.block.stop, b.end_offset) for b in blocks[:-2]]
    counting = _Counting(monkeypatch)
    rest = list(source.blocks(file, columns=["a"], block_rows=100, done=done))
    assert [b.block for b in rest] == [b.block for b in blocks[-2:]]
    assert counting.bytes_read < 3000
    assert counting.lowest == done[-1][2]


def test_the_line_of_a_reject_after_a_seek_is_right(path):
    path.write_text('a,b\n1,"x\ny"\n\n2,z\n3,w,9\n', newline="")
    source = open_source(path, InputConfig())
    file = source.files[0]
    first, second = source.blocks(file, columns=["a", "b"], block_rows=2)
    (resumed,) = source.blocks(file, columns=["a", "b"], block_rows=2, done=[(0, 2, first.end_offset)])
    assert resumed == second
    assert [each.line for each in resumed.rejects] == [6]


def test_gzip_has_no_offsets_and_is_read_through(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"".join(b"%d\n" % number for number in range(1000))))
    source = open_source(path, InputConfig())
    blocks = list(source.blocks(source.files[0], columns=["a"], block_rows=100))
    assert {b.end_offset for b in blocks} == {None}
    done = [(b.block.start, b.block.stop, None) for b in blocks[1:9]]
    rest = list(source.blocks(source.files[0], columns=["a"], block_rows=100, done=done))
    assert [b.table["a"].to_pylist() for b in rest] == [[*range(100)], [*range(900, 1000)]]


def test_a_file_cut_short_since_the_plan_is_an_error(path):
    path.write_text("a\n1\n2\n")
    source = open_source(path, InputConfig())
    with pytest.raises(InputError, match=r"x\.csv ends at row 2, before rows that are committed"):
        list(source.blocks(source.files[0], columns=["a"], block_rows=5, done=[(5, 10, None)]))


def test_a_row_longer_than_a_slab_is_read(path, monkeypatch):
    monkeypatch.setattr(text, "SLAB_BYTES", 64)
    long = "x" * 1000 + "\n" + "y" * 1000
    path.write_text(f'a,b\n1,"{long}"\n2,z\n')
    _, table, _ = read(path, InputConfig())
    assert table["b"].to_pylist() == [long, "z"]


def test_an_unclosed_quote_costs_one_line_and_bounded_memory(path, monkeypatch):
    monkeypatch.setattr(text, "SLAB_BYTES", 64)
    monkeypatch.setattr(text, "MAX_ROW_BYTES", 512)
    rows = [f"{number},z" for number in range(1000)]
    rows[10] = '10,"z'
    path.write_text("a,b\n" + "\n".join(rows))
    _, table, rejects = read(path, InputConfig())
    assert [(each.row, each.line) for each in rejects] == [(10, 12)]
    assert table["a"].to_pylist() == [None if number == 10 else number for number in range(1000)]


def test_a_line_without_end_is_an_error_not_a_full_memory(path, monkeypatch):
    path.write_text("a,b\n1,2\n")
    source = open_source(path, InputConfig())
    path.write_text("a,b\n1," + "2" * 4000)
    monkeypatch.setattr(text, "SLAB_BYTES", 64)
    monkeypatch.setattr(text, "MAX_ROW_BYTES", 512)
    with pytest.raises(InputError, match=r"line 2 of .*x\.csv is longer than"):
        list(source.blocks(source.files[0], columns=["a"], block_rows=5))


def test_samples_come_from_the_whole_file_and_hold_no_rejects(path):
    rows = [f"{number},x" if number % 10 else "bad" for number in range(100_000)]
    path.write_text("a,b\n" + "\n".join(rows))
    sample = open_source(path, InputConfig(types=(("a", "int64"),))).sample(columns=["b", "a"], rows=50)
    values = sample["a"].to_pylist()
    assert sample.schema.names == ["b", "a"]
    assert len(values) == 50
    assert values == sorted(values)
    assert values[0] < 1000
    assert values[-1] > 99_000
    assert any(30_000 < value < 70_000 for value in values)
    assert None not in values


def test_values_never_reach_messages(path):
    _, rejects = rows_of(path, "a,b\n1,x\nhunter2,y\nhunter2,y,z\n", types=(("a", "int64"),))
    assert len(rejects) == 2
    assert all("hunter2" not in each.message for each in rejects)


def test_reading_ended_early_closes_the_file(path, monkeypatch):
    path.write_text("a\n1\n2\n")
    opened = []
    real = opening.open_binary
    monkeypatch.setattr(opening, "open_binary", lambda *a, **k: opened.append(real(*a, **k)) or opened[-1])
    source = open_source(path, InputConfig())
    opened.clear()
    blocks = source.blocks(source.files[0], columns=["a"], block_rows=1)
    next(blocks)
    blocks.close()
    assert [stream.closed for stream in opened] == [True]
