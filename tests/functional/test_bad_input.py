"""What bad input gets: one sentence, a hint, the right exit code, and nothing changed on disk."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MODEL = """
import pyarrow.compute as pc

def double(batch):
    return pc.multiply(batch["x"], 2)
"""
ENDPOINT = ("-e", "python:its_model:double")
HTTP = ("-e", "http://127.0.0.1:9/invocations")
ROWS = 50

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "its_model.py").write_text(MODEL)
    (tmp_path / "in.csv").write_text("id,x,label\n1,2,a\n3,4,b\n")
    pq.write_table(
        pa.table({"id": range(ROWS), "x": [float(n) for n in range(ROWS)], "label": ["a"] * ROWS}),
        tmp_path / "in.parquet",
    )
    return tmp_path


# -- the source ----------------------------------------------------------------------------------------------------


def test_a_missing_file(refused: Command) -> None:
    said = refused("run", "in.parqet", "out", *ENDPOINT)
    assert (said.message, said.hint) == ("in.parqet does not exist", "did you mean in.parquet?")


def test_a_link_to_nothing(refused: Command, folder: Path) -> None:
    (folder / "link.parquet").symlink_to("gone.parquet")
    said = refused("run", "link.parquet", "out", *ENDPOINT)
    assert said.message == "link.parquet is a link to gone.parquet, which does not exist"


@pytest.mark.parametrize(
    "name", ["e.parquet", "e.csv", "e.tsv", "e.jsonl", "e.arrow", "e.feather", "e.csv.gz", "e"]
)
def test_an_empty_file(refused: Command, folder: Path, name: str) -> None:
    (folder / name).touch()
    said = refused("run", name, "out", *ENDPOINT)
    assert (said.message, said.hint) == (f"{name} is empty (0 bytes)", "leave it out, or say --allow-empty")


def test_an_empty_text_in_gzip(refused: Command, folder: Path) -> None:
    (folder / "e.csv.gz").write_bytes(gzip.compress(b""))
    assert refused("run", "e.csv.gz", "out", *ENDPOINT).message == "e.csv.gz has no line of text"


def test_a_folder_without_files(refused: Command, folder: Path) -> None:
    (folder / "empty").mkdir()
    said = refused("run", "empty", "out", *ENDPOINT)
    assert said.message == "the folder empty holds no data file"
    assert "--allow-empty" in said.hint


def test_a_folder_without_data(refused: Command, folder: Path) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("# Nothing to score\n")
    said = refused("run", "docs", "out", *ENDPOINT)
    assert said.message == "docs/README.md has the name of no known format, and its folder is the source"
    assert "--input-format" in said.hint


def test_a_glob_without_match(refused: Command) -> None:
    said = refused("run", "in/*.csv", "out", *ENDPOINT)
    assert said.message == "the glob in/*.csv matches no file"
    assert "--allow-empty" in said.hint


def test_a_folder_where_a_file_is_named(refused: Command, folder: Path) -> None:
    (folder / "d.parquet").mkdir()
    assert refused("run", "d.parquet", "out", *ENDPOINT).message == "the folder d.parquet holds no data file"


def test_formats_mixed_in_a_folder(refused: Command, folder: Path) -> None:
    (folder / "both").mkdir()
    shutil.copy(folder / "in.csv", folder / "both" / "a.csv")
    shutil.copy(folder / "in.parquet", folder / "both" / "b.parquet")
    assert refused("run", "both", "out", *ENDPOINT).message == (
        "the source mixes formats: both/a.csv is csv, both/b.parquet is parquet"
    )


@pytest.mark.parametrize("kept", [-8, 200, 4])
def test_a_truncated_parquet_file(refused: Command, folder: Path, kept: int) -> None:
    (folder / "short.parquet").write_bytes((folder / "in.parquet").read_bytes()[:kept])
    said = refused("run", "short.parquet", "out", *ENDPOINT)
    assert said.message == "short.parquet is no Parquet file, or a truncated or damaged one"


def test_text_that_is_called_parquet(refused: Command, folder: Path) -> None:
    shutil.copy(folder / "in.csv", folder / "text.parquet")
    said = refused("run", "text.parquet", "out", *ENDPOINT)
    assert said.message == "text.parquet is no Parquet file, or a truncated or damaged one"
    assert "--input-format" in said.hint


@pytest.mark.parametrize(("head", "what"), [(b"PAR1", "Parquet file"), (b"PK\3\4", "ZIP archive")])
def test_something_else_that_is_called_csv(refused: Command, folder: Path, head: bytes, what: str) -> None:
    (folder / "other.csv").write_bytes(head + b"\0" * 100)
    assert refused("run", "other.csv", "out", *ENDPOINT).message == f"other.csv is a {what}, not text"


def test_a_truncated_gzip_file(refused: Command, folder: Path) -> None:
    packed = gzip.compress(b"x,y\n" + os.urandom(50_000).hex().encode() + b",1\n")
    (folder / "short.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert refused("run", "short.csv.gz", "out", *ENDPOINT).message == (
        "short.csv.gz is a damaged or truncated gzip file"
    )


def test_a_json_array_that_is_no_json_lines(refused: Command, folder: Path) -> None:
    (folder / "list.jsonl").write_text('[{"x": 1}, {"x": 2}]')
    said = refused("run", "list.jsonl", "out", *ENDPOINT)
    assert said.message == "list.jsonl holds no JSON object a line"
    assert "jq" in said.hint


@pytest.mark.parametrize("scheme", ["ftp", "hdfs"])
def test_a_source_that_is_not_local(refused: Command, scheme: str) -> None:
    said = refused("run", f"{scheme}://user:hidden@host/in.parquet", "out", *ENDPOINT)
    assert said.message == f"the source has the scheme {scheme}://, which cannot be read"


def test_a_file_that_cannot_be_read_while_it_is_opened(refused: Command, folder: Path) -> None:
    (folder / "loop.csv").symlink_to("loop.csv")
    assert refused("run", "loop.csv", "out", *ENDPOINT).message.startswith("loop.csv ")


@pytest.mark.parametrize("name", ["-", "/dev/null", "pipe.csv"])
def test_what_cannot_be_read_twice(refused: Command, folder: Path, name: str) -> None:
    os.mkfifo(folder / "pipe.csv")
    said = refused("run", name, "out", *ENDPOINT)
    assert said.message == f"{name} is no regular file, and the input is read in several places"


def test_options_for_text_on_a_file_that_has_types(refused: Command) -> None:
    said = refused("run", "in.parquet", "out", *ENDPOINT, "--types", "x=int64")
    assert said.message == "--types is for text, and in.parquet is Parquet, which has types of its own"
    said = refused("run", "in.parquet", "out", *ENDPOINT, "--no-header")
    assert said.message == "--no-header is for CSV, and in.parquet is Parquet"


def test_an_input_of_which_no_row_can_be_read(refused: Command, folder: Path) -> None:
    (folder / "bad.csv").write_text("x,label\n" + "1,some text\n" * 20)
    said = refused("run", "bad.csv", "out", *ENDPOINT, "--types", "label=int64")
    assert said.message == "none of the first 20 rows of bad.csv can be read: column 'label' is not int64"
    assert "--types" in said.hint


# -- damage that shows while running -------------------------------------------------------------------------------


def test_a_damaged_page_ends_the_run_and_what_is_committed_stays(command: Command, folder: Path) -> None:
    rows, group = 6000, 1000
    table = pa.table({"x": [float(n) for n in range(rows)]})
    pq.write_table(
        table, folder / "page.parquet", row_group_size=group, compression="none", use_dictionary=False,
        write_page_checksum=True,
    )  # fmt: skip
    at = pq.ParquetFile(folder / "page.parquet").metadata.row_group(4).column(0).data_page_offset
    data = bytearray((folder / "page.parquet").read_bytes())
    data[at + 4000] ^= 0xFF
    (folder / "page.parquet").write_bytes(data)
    done = command("run", "page.parquet", "out", *ENDPOINT, "--block-rows", "1000", "--no-progress")
    assert done.code == 1
    assert done.stderr.splitlines()[-3] == "asyncbatch: page.parquet is truncated or damaged"
    assert done.stderr.splitlines()[-1].endswith("what is committed stays")
    parts = pq.read_table(folder / "out")
    assert parts.num_rows == 3000  # the fourth block ends where the damage begins
    assert parts["prediction"].to_pylist() == [2.0 * n for n in range(3000)]


# -- columns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--send", "--no-send", "--keep"])
def test_a_column_that_does_not_exist(refused: Command, option: str) -> None:
    said = refused("run", "in.parquet", "out", *ENDPOINT, option, "x,lable")
    assert said.message == f"column 'lable' in {option} is not in the input"
    assert "'label'" in said.hint


def test_a_column_that_does_not_exist_in_types(refused: Command) -> None:
    said = refused("run", "in.csv", "out", *ENDPOINT, "--types", "lable=int64")
    assert said.message == "column 'lable' in --types is not in the input"
    assert "'label'" in said.hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--send", "zz*"], "'zz*' in --send matches no column"),
        (["--no-send", "id,x,label"], "no column is left to send"),
        (["--send", "x,x"], "'x' is given twice in --send"),
        (["--threshold", "0.5", "--predicted-label-name", "id"], "two output columns would be called 'id'"),
        (["--prediction-name", "label"], "two output columns would be called 'label'"),
        (["--error-name", "x"], "two output columns would be called 'x'"),
        (["--prediction-name", "error"], "--prediction-name and --error-name are both 'error'"),
    ],
)
def test_columns_that_cannot_be(refused: Command, arguments: list[str], message: str) -> None:
    assert refused("run", "in.parquet", "out", *ENDPOINT, *arguments).message == message


@pytest.mark.parametrize(
    ("name", "arguments", "hint"),
    [
        ("prediction", [], "give --prediction-name another name, or leave the input column out with --keep"),
        ("error", [], "give --error-name another name, or leave the input column out with --keep"),
        ("_row", ["--on-error", "drop"], "leave the input column out with --keep"),
        ("variant", ["--meta", "variant"], "leave the input column out with --keep"),
    ],
)
def test_a_name_that_the_output_has_too(
    refused: Command, folder: Path, name: str, arguments: list[str], hint: str
) -> None:
    pq.write_table(pa.table({"x": [1.0], name: ["a"]}), folder / "taken.parquet")
    said = refused("run", "taken.parquet", "out", *ENDPOINT, *arguments)
    assert (said.message, said.hint) == (f"two output columns would be called {name!r}", hint)


def test_two_columns_of_one_name(refused: Command, folder: Path) -> None:
    (folder / "two.csv").write_text("x,x\n1,2\n")
    assert refused("run", "two.csv", "out", *ENDPOINT).message == "two.csv has two columns named 'x'"
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, folder / "two.parquet")
    assert refused("run", "two.parquet", "out", *ENDPOINT).message == "two.parquet has two columns named 'x'"


@pytest.mark.parametrize(
    ("body", "column", "message"),
    [
        (
            "csv",
            pa.array([[1, 2]]),
            "column 'n' of type list<element: int64> cannot be written in a CSV body",
        ),
        ("npy", pa.array(["a"]), "column 'n' of type string cannot be sent as npy, which holds numbers only"),
        ("raw", pa.array(["a"]), "--body raw sends one column, and 2 are to be sent"),
    ],
)
def test_a_column_that_the_body_cannot_hold(
    refused: Command, folder: Path, body: str, column: "pa.Array[Any]", message: str
) -> None:
    pq.write_table(pa.table({"x": [1.0], "n": column}), folder / "odd.parquet")
    assert refused("run", "odd.parquet", "out", *HTTP, "--body", body).message == message


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--body", "cvs"], "--body 'cvs': expected one of csv, csv-header,", "did you mean 'csv'?"),
        (["--on-error", "nul"], "--on-error 'nul': expected one of null, drop, fail", "did you mean 'null'?"),
        (["--format", "parqet"], "--format 'parqet': expected one of parquet,", "did you mean 'parquet'?"),
        (["--chunk-row", "5"], "asyncbatch run has no option --chunk-row", "did you mean --chunk-rows?"),
        (["--meta", "varient"], "--meta 'varient': expected one of variant, ", "--meta "),
        (["--max-memory", "64Mb4"], "--max-memory '64Mb4': expected a size such as 256MB", "--max-memory SIZE: "),
        (["--max-memory", "1MB"], "--max-memory is below 16MB", "give at least 16MB"),
        (["--max-payload", "0"], "--max-payload '0': must be at least 1 byte", "--max-payload SIZE: "),
        (["--request-timeout", "5 minutes"], "--request-timeout '5 minutes': expected a duration", "--request"),
        (["--concurrency", "8:4"], "--concurrency '8:4': expected 1 <= MIN <= MAX", "--concurrency N|MIN:MAX: "),
        (["--rate", "0"], "--rate '0': must be above 0", "--rate X: "),
        (["--limit", "-5"], "--limit '-5': must be 1 or more", "--limit N: "),
        (["--max-errors", "200%"], "--max-errors '200%': expected 0% to 100%", "--max-errors N|P%: "),
        (["--threshold", "nan"], "--threshold 'nan': expected a finite number", "--threshold X: "),
        (["--delimiter", ";;"], "--delimiter ';;': must be one character", "--delimiter C: "),
        (["--types", "x"], "--types 'x': expected COLUMN=TYPE", "--types "),
        (["-H", "X: @env:NOT_SET"], "-H X: environment variable NOT_SET is not set", "the value is text,"),
        (["-H", "X: @file:none"], "-H X: cannot read none: No such file or directory", "the value is text,"),
        (["--template", "{"], "--template needs --body json, jsonl or raw, not csv", "add --body json"),
        (["--body", "json", "--template", "{x"], "--template is no JSON at character 2: ", "write it such as"),
        (["--body", "json", "--template", "instance"], "--template 'instance' is neither a preset nor JSON",
         "did you mean 'instances'?"),
        (["--body", "json", "--template", '{"a": $rowz}'], "--template has an unknown variable $rowz",
         "did you mean $row?"),
        (["--body", "json", "--template", '{"a": 1}'], "--template holds no rows", "use one of $rows,"),
        (["--reply", "a[["], "--reply 'a[[' is not JMESPath", "such as predictions"),
        (["--prediction-type", "float31"], "--prediction-type 'float31' is no Arrow type", "such as float32"),
        (["--verbose", "--quiet"], "--quiet and --verbose exclude each other", "give one of them"),
        (["-f", "none.toml"], "cannot read the job file none.toml: ", "give -f a TOML file"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(refused: Command, arguments: list[str], message: str, hint: str) -> None:
    said = refused("run", "in.parquet", "out", *HTTP, *arguments)
    assert said.message.startswith(message)
    assert said.hint.startswith(hint)


@pytest.mark.parametrize("option", [("-H", "X: y"), ("--row", "object"), ("--body", "json")])
def test_options_that_mean_nothing_to_a_function(refused: Command, option: tuple[str, str]) -> None:
    said = refused("run", "in.parquet", "out", *ENDPOINT, *option)
    assert said.message.endswith(" means nothing to a Python function")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ASYNCBATCH_CHUNK_ROW", "4", "environment variable ASYNCBATCH_CHUNK_ROW names no option"),
        (
            "ASYNCBATCH_CHUNK_ROWS",
            "x",
            "environment variable ASYNCBATCH_CHUNK_ROWS: chunk_rows 'x': expected N",
        ),
    ],
)
def test_the_environment_is_named(refused: Command, variable: str, value: str, message: str) -> None:
    assert refused("run", "in.parquet", "out", *HTTP, env={variable: value}).message.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chunk_rowz = 3", "unknown option 'chunk_rowz' in job.toml"),
        ("chunk_rows = 'x'", "job.toml: chunk_rows 'x': expected N or MIN:MAX"),
        ("chunk_rows = ", "the job file job.toml is not TOML: Invalid value"),
        ("header = 'SECRET'", "job.toml: header: expected 'Name: value'"),
    ],
)
def test_the_job_file_is_named(refused: Command, folder: Path, text: str, message: str) -> None:
    (folder / "job.toml").write_text(text + "\n")
    assert refused("run", "in.parquet", "out", *HTTP, "-f", "job.toml").message.startswith(message)


# -- the sink ------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_file_of_others(refused: Command, folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("keep me")
    for arguments in ([], ["--overwrite"]):
        said = refused("run", "in.parquet", "mine", *ENDPOINT, *arguments)
        assert said.message == "mine holds notes.txt, which asyncbatch did not write"


@pytest.mark.parametrize("name", ["mine.parquet", "mine.csv", "mine.jsonl"])
def test_a_file_of_others(refused: Command, folder: Path, name: str) -> None:
    (folder / name).write_text("keep me")
    said = refused("run", "in.parquet", name, *ENDPOINT)
    assert said.message == f"{name} exists"
    assert "--overwrite" in said.hint


def test_a_file_where_a_folder_is_wanted_and_a_folder_where_a_file_is(refused: Command, folder: Path) -> None:
    (folder / "plain").write_text("keep me")
    (folder / "deep.csv").mkdir()
    assert refused("run", "in.parquet", "plain", *ENDPOINT).message.startswith(
        "plain is a file, and the output"
    )
    assert refused("run", "in.parquet", "deep.csv", *ENDPOINT).message.startswith("deep.csv is a folder, and")
    assert refused("run", "in.parquet", "plain/out", *ENDPOINT).message == "plain is a file, not a folder"


@pytest.mark.parametrize("sink", ["a/b/out", "a/b/out.parquet"])
def test_a_missing_folder(refused: Command, sink: str) -> None:
    said = refused("run", "in.parquet", sink, *ENDPOINT)
    assert (said.message, said.hint) == (
        f"the folder a/b for the output {sink} does not exist", "create it first: mkdir -p a/b"
    )  # fmt: skip


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has a /proc, where nobody can write")
@pytest.mark.parametrize("sink", ["/proc/out", "/proc/out.parquet"])
def test_a_folder_that_cannot_be_written(refused: Command, sink: str) -> None:
    assert refused("run", "in.parquet", sink, *ENDPOINT).message.startswith(f"{sink}.asyncbatch ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(refused: Command, folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    said = refused("run", "in.parquet", "locked/out", *ENDPOINT)
    assert said.message == "locked/out.asyncbatch is not writable"


def test_a_sink_elsewhere(refused: Command) -> None:
    assert refused("run", "in.parquet", "ftp://bucket/out", *ENDPOINT).message == (
        "outputs of scheme ftp:// are not supported"
    )


def test_parquet_to_stdout(refused: Command) -> None:
    said = refused("run", "in.parquet", "-", *ENDPOINT, "--format", "parquet")
    assert said.message == "Parquet cannot be written to stdout"


def test_report_and_data_both_to_stdout(refused: Command) -> None:
    assert refused("run", "in.parquet", "-", *ENDPOINT, "--json").message == (
        "--json and SINK - both write to stdout"
    )


# -- the input is never changed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", ["in.parquet", "./in.parquet", "link.parquet"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_the_input_as_output(refused: Command, folder: Path, sink: str, more: list[str]) -> None:
    (folder / "link.parquet").symlink_to("in.parquet")
    said = refused("run", "in.parquet", sink, *ENDPOINT, *more)
    assert said.message == f"{sink} is the input itself"


@pytest.mark.parametrize(
    ("source", "sink", "refused_as"),
    [
        ("data", "data", "data holds the input data/a.parquet"),
        ("data/a.parquet", "data", "data holds the input data/a.parquet"),
        ("data", "data/out", "data/out lies in data, so the next run would read it as input"),
        ("data", "data/out.parquet", "data/out.parquet lies in data, so the next run would read it as input"),
        ("data/*.parquet", "data/b.parquet", "data/b.parquet lies in data/*.parquet, so the next run"),
        ("data/**/*.parquet", "data/x", "data/x lies in data/**/*.parquet, so the next run"),
        ("data/*/*.parquet", "data/x", "data/x lies in data/*/*.parquet, so the next run"),
    ],
)
def test_an_output_among_the_input(
    refused: Command, folder: Path, source: str, sink: str, refused_as: str
) -> None:
    (folder / "data" / "deep").mkdir(parents=True)
    for name in ("a.parquet", "deep/a.parquet"):
        shutil.copy(folder / "in.parquet", folder / "data" / name)
    for more in ([], ["--overwrite"]):
        assert refused("run", source, sink, *ENDPOINT, *more).message.startswith(refused_as)
    assert refused("plan", source, sink, *ENDPOINT).message.startswith(refused_as)


@pytest.mark.parametrize(
    ("source", "sink"), [("data/*.parquet", "data/b.csv"), ("data/*.parquet", "data/x"), ("data", "data2")]
)
def test_an_output_beside_the_input(command: Command, folder: Path, source: str, sink: str) -> None:
    (folder / "data").mkdir()
    shutil.copy(folder / "in.parquet", folder / "data" / "a.parquet")
    for _ in range(2):
        assert command("run", source, sink, *ENDPOINT).code == 0


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("in.parquet", "--report in.parquet is an input file"),
        ("out/report.json", "--report out/report.json lies in the output, which holds nothing but data"),
        ("none/report.json", "--report none/report.json: the folder none does not exist"),
        (".", "--report . is a folder"),
    ],
)
def test_a_report_where_none_may_be(refused: Command, report: str, message: str) -> None:
    assert refused("run", "in.parquet", "out", *ENDPOINT, "--report", report).message == message


def test_a_failed_run_writes_no_report_over_its_input(refused: Command, folder: Path) -> None:
    (folder / "two.csv").write_text("x,x\n1,2\n")
    refused("run", "two.csv", "out", *ENDPOINT, "--report", "two.csv")
