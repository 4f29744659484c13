"""Several shards of one job: whatever the input, their number and their order, every row is once in the output."""

import asyncio
import gzip
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError, InputError, OutputError, StoppedError, StorageError
from asyncbatch.observe.events import RunPlanned, ShardDone
from asyncbatch.pipeline import leasing, planning
from asyncbatch.pipeline.api import plan_job, retry_job
from asyncbatch.sink import open_sink, output
from asyncbatch.sink.lease import Holder, Lease
from asyncbatch.sink.output import Output
from asyncbatch.sink.parts import PartsSink
from asyncbatch.sink.verify import verify_output
from asyncbatch.source.text import TextCursor

ROWS = 1_000
MODEL = """
import time

calls = []
bad = set()
pause_s = 0.0

def score(batch):
    rows = [int(value) for value in batch.column(0).to_pylist()]
    calls.append(rows)
    time.sleep(pause_s)
    if any(row in bad for row in rows):
        raise ValueError("refused")
    return batch.column(0)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The endpoint: a function in this process that keeps what it was asked."""
    (tmp_path / "shard_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import shard_model  # type: ignore[import-not-found]

    yield shard_model
    sys.modules.pop("shard_model", None)


def make(kind: str, path: Path, first: int = 0, rows: int = ROWS) -> str:
    """An input of `kind` with ids from `first` on; text with newlines inside of values, and blank lines."""
    name = path / f"in-{first}.{kind}"
    table = pa.table(
        {
            "x": [float(row) for row in range(first, first + rows)],
            "text": [f'"{row}",\nmore' if row % 3 else "" for row in range(first, first + rows)],
        }
    )
    if kind == "parquet":
        pq.write_table(table, name, row_group_size=170)
    elif kind == "arrow":
        with pa.OSFile(str(name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=90)
    elif kind.startswith("jsonl"):
        text = "\n\n".join(json.dumps(row) for row in table.to_pylist()).encode()
        name.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    else:
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(table, sink)
        content = sink.getvalue().to_pybytes().replace(b"\n9", b"\r\n\n9")
        name.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    return str(name)


def run(source: str, sink: str, shard: str | None, **more: Any) -> Any:
    options = {"block_rows": 30, "chunk_rows": 7, "concurrency": 4, **more}
    return asyncbatch.run(source, sink, endpoint="python:shard_model:score", send="x", shard=shard, **options)


def scored(sink: str) -> list[float]:
    table = pq.read_table(sink)
    assert table["x"].to_pylist() == table["prediction"].to_pylist()
    return table["x"].to_pylist()


def sent(model: Any) -> Counter[int]:
    """How often each row was sent, those of the probes left out."""
    return Counter(row for rows in model.calls for row in rows)


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz", "arrow"])
def test_every_row_is_once_in_the_output_and_sent_by_one_shard(kind: str, tmp_path: Path, model: Any) -> None:
    source = make(kind, tmp_path)
    for shard in ("1/3", "0/3"):
        report = run(source, "out", shard)
        assert report.exit_code == 0
        assert not (tmp_path / "out.asyncbatch" / "_SUCCESS").exists()
    before = len(model.calls)
    report = run(source, "out", "2/3")
    assert (report.exit_code, report.metrics.rows_in) == (0, 310)
    assert (tmp_path / "out.asyncbatch" / "_SUCCESS").exists()
    assert scored("out") == [float(row) for row in range(ROWS)]
    assert verify_output("out").problems == ()
    asked = {row for rows in model.calls[before:] for row in rows}
    assert len([row for row in asked if row < 690]) <= 10, (
        "the last shard sent but its own rows and two probes"
    )
    before = len(model.calls)
    assert run(source, "out", "1/3").metrics.rows_resumed == ROWS, (
        "a finished job is finished for every shard"
    )
    assert len(model.calls) == before


@pytest.mark.parametrize("sink", ["out", "out.parquet", "out.csv"])
def test_shards_over_several_files_and_with_a_limit(sink: str, tmp_path: Path, model: Any) -> None:
    (tmp_path / "in").mkdir()
    for first, rows in ((0, 95), (1_000, 1), (2_000, 400), (3_000, 30)):
        make("csv", tmp_path / "in", first, rows)
    for shard in ("2/4", "3/4", "0/4", "1/4"):
        run("in", sink, shard, limit=480)
    expected = [*range(95), 1_000, *range(2_000, 2_384)]
    if sink == "out.csv":
        table = pyarrow.csv.read_csv(sink, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
        assert table["x"].to_pylist() == expected
    else:
        assert scored(sink) == expected
    assert verify_output(sink).problems == ()


def test_the_number_of_shards_may_change_from_run_to_run(tmp_path: Path, model: Any) -> None:
    source = make("csv", tmp_path)
    run(source, "out", "0/2", file_size="1MB")
    run(source, "out", "2/3", file_size="1MB")
    before = len(model.calls)
    left = run(source, "out", None, file_size="1MB")
    assert left.metrics.rows_in == 180, "what was between them"
    assert {row for rows in model.calls[before:] for row in rows} >= set(range(510, 690))
    assert scored("out") == [float(row) for row in range(ROWS)]
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_more_shards_than_blocks(tmp_path: Path, model: Any) -> None:
    source = make("parquet", tmp_path, rows=40)
    reports = [run(source, "out", f"{index}/5", concurrency=None) for index in range(5)]
    assert [each.metrics.rows_in for each in reports] == [30, 0, 10, 0, 0]
    assert scored("out") == [float(row) for row in range(40)]


def test_shards_that_start_at_once_go_by_one_plan(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each measures block rows of its own; whoever is first decides."""
    source = make("csv", tmp_path)
    measured = iter((90, 70, 50, 30))
    monkeypatch.setattr(planning, "block_rows", lambda **_: next(measured))

    async def main() -> list[Any]:
        options = {"endpoint": "python:shard_model:score", "send": "x", "chunk_rows": 7}
        return await asyncio.gather(
            *(asyncbatch.arun(source, "out", shard=f"{index}/4", **options) for index in range(4))
        )

    assert [each.exit_code for each in asyncio.run(main())] == [0] * 4
    assert (tmp_path / "out.asyncbatch" / "_SUCCESS").exists()
    assert scored("out") == [float(row) for row in range(ROWS)]
    assert list((tmp_path / "out.asyncbatch" / "lease").iterdir()) == []


def test_shards_that_ask_for_something_else_are_refused(tmp_path: Path, model: Any) -> None:
    source = make("parquet", tmp_path)
    run(source, "out", "0/2")
    with pytest.raises(OutputError, match=r"options\.keep: planned \['all'\], now \['none'\]"):
        run(source, "out", "1/2", keep="none")


def test_text_is_seeked_where_it_can_be(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make("jsonl", tmp_path)
    run(source, "out", "0/3")
    record = json.loads((tmp_path / "out.asyncbatch" / "files" / "00000000.json").read_text())
    assert record["rows"] == ROWS
    assert len(record["offsets"]) == -(-ROWS // 30) - 1
    begun: list[tuple[int, int | None]] = []
    init = TextCursor.__init__

    def noted(self: TextCursor, file: Any, *, find: Any, row: int = 0, offset: int | None = None) -> None:
        begun.append((row, offset))
        init(self, file, find=find, row=row, offset=offset)

    monkeypatch.setattr(TextCursor, "__init__", noted)
    run(source, "out", "2/3")
    assert begun == [(690, record["offsets"][690 // 30 - 1])], (
        "counted once, and read from its first block on"
    )


def test_a_file_that_was_read_to_its_end_by_one_process_is_counted_for_shards(
    tmp_path: Path, model: Any
) -> None:
    """Its record then has no offsets; another process adds them."""
    source = make("csv", tmp_path)
    run(source, "out", None)
    record = tmp_path / "out.asyncbatch" / "files" / "00000000.json"
    assert "offsets" not in json.loads(record.read_text())
    for part in sorted((tmp_path / "out").iterdir())[20:25]:
        part.unlink()
    assert run(source, "out", "1/2").metrics.rows_in == 150
    assert len(json.loads(record.read_text())["offsets"]) == -(-ROWS // 30) - 1
    assert scored("out") == [float(row) for row in range(ROWS)]


def test_a_text_file_that_is_longer_than_it_was_is_noticed(tmp_path: Path, model: Any) -> None:
    source = make("csv", tmp_path)
    run(source, "out", "0/2")
    record = tmp_path / "out.asyncbatch" / "files" / "00000000.json"
    record.write_text(json.dumps({"rows": ROWS - 1, "bytes": 5}))
    with pytest.raises(OutputError, match="had 999 rows before and has 1,000 now"):
        run(source, "out", "1/2")


def test_rejects_of_all_shards_are_reported(tmp_path: Path, model: Any) -> None:
    source = make("parquet", tmp_path)
    model.bad.update((5, 700))
    assert run(source, "out", "0/2").exit_code == 3
    model.bad.discard(700)
    model.bad.add(600)
    assert run(source, "out", "1/2").exit_code == 3
    assert pq.read_table("out.asyncbatch/errors.parquet")["row"].to_pylist() == [5, 600]
    model.bad.clear()
    assert retry_job("out", {}).exit_code == 0
    with pytest.raises(ConfigError, match="a retry is done by one process"):
        retry_job("out", {"shard": "0/2"})


def test_what_is_told(tmp_path: Path, model: Any) -> None:
    source = make("csv", tmp_path)
    told: list[object] = []
    run(source, "out", "0/2", progress=told.append)
    planned = next(each for each in told if isinstance(each, RunPlanned))
    assert (planned.shard, planned.rows, planned.blocks) == ("0/2", 510, 17)
    assert [each for each in told if isinstance(each, ShardDone)] == [
        ShardDone(shard="0/2", missing_rows=490)
    ]
    report = json.loads((tmp_path / "out.asyncbatch" / "report.json").read_text())
    assert (report["status"], report["options"]["shard"]) == ("done", "0/2")
    assert report["options"]["concurrency"] == "4", "as it was asked for, not this shard's share"


def test_where_shards_make_no_sense(tmp_path: Path, model: Any) -> None:
    source = make("parquet", tmp_path)
    table = pq.read_table(source)
    with pytest.raises(ConfigError, match="--shard 0/2: one process gives all rows in order"):
        run(source, "-", "0/2")
    for options in ({"shard": "0/2"}, {"processes": 2}):
        with pytest.raises(ConfigError, match="one process gives all rows in order"):
            asyncbatch.predict(table, endpoint="python:shard_model:score", **options)
    with pytest.raises(ConfigError, match="--processes 2 is for the command line"):
        run(source, "out", None, processes=2)
    with pytest.raises(InputError, match="a stream can be read by one process only"):
        asyncbatch.run(table.to_reader(), "out", endpoint="python:shard_model:score", send="x", shard="0/2")
    assert not (tmp_path / "out.asyncbatch").exists()


def test_a_table_in_memory_can_be_shared_by_shards(tmp_path: Path, model: Any) -> None:
    table = pq.read_table(make("parquet", tmp_path))
    for index in range(2):
        asyncbatch.run(
            table, "out", endpoint="python:shard_model:score", send="x", shard=f"{index}/2", block_rows=100
        )
    assert scored("out") == [float(row) for row in range(ROWS)]


# -- the end of a job --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", ["out", "out.parquet", "out.jsonl"])
def test_the_loser_of_the_race_to_finish_ends_well(
    sink: str, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have committed their last block before either looks; the slower one waits, and finds the output there."""
    source = make("csv", tmp_path)
    both = threading.Barrier(2, timeout=20)
    waited: list[Output] = []
    finished: list[str] = []
    missing, finish = Output.missing, Output._finish

    def meet(self: Output) -> Any:
        if self not in waited:
            waited.append(self)
            both.wait()
        return missing(self)

    def counted(self: Output) -> Any:
        finished.append(self.location.spec)
        return finish(self)

    monkeypatch.setattr(Output, "missing", meet)
    monkeypatch.setattr(Output, "_finish", counted)

    async def main() -> list[Any]:
        options: dict[str, Any] = {"endpoint": "python:shard_model:score", "send": "x", "block_rows": 100}
        if sink == "out":
            options["file_size"] = "1MB"
        return await asyncio.gather(
            *(asyncbatch.arun(source, sink, shard=f"{index}/2", **options) for index in range(2))
        )

    assert [each.exit_code for each in asyncio.run(main())] == [0, 0]
    assert finished == [sink], "one of them has finished it"
    assert verify_output(sink).problems == ()
    state = tmp_path / f"{sink}.asyncbatch"
    assert list((state / "lease").iterdir()) == []
    assert not (state / "parts").exists()


def test_who_finishes_may_die_and_the_other_takes_over(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("parquet", tmp_path)
    run(source, "out", "0/2")
    busy = Holder(host="x", boot="", pid=1, started="", owner="dead", heartbeat=0.0)
    answers: list[Lease | Holder] = [busy, busy]
    acquire = output.acquire_finish
    monkeypatch.setattr(
        output, "acquire_finish", lambda *given, **more: answers.pop() if answers else acquire(*given, **more)
    )
    assert run(source, "out", "1/2").exit_code == 0
    assert not answers
    assert scored("out") == [float(row) for row in range(ROWS)]


def test_a_shard_that_starts_while_another_publishes_scores_nothing(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts go between its first look and its list of them: that must not be taken for rows to score."""
    source = make("parquet", tmp_path)
    run(source, "out.parquet", "0/2")
    committed = PartsSink.committed

    def late(self: PartsSink) -> Any:
        monkeypatch.setattr(PartsSink, "committed", committed)
        assert run(source, "out.parquet", "1/2").exit_code == 0  # ends, publishes, and removes the parts
        return committed(self)

    before = len(model.calls)
    monkeypatch.setattr(PartsSink, "committed", late)
    report = run(source, "out.parquet", "0/2")
    assert (report.exit_code, report.metrics.rows_in) == (0, 0)
    again = {row for rows in model.calls[before:] for row in rows if row < 500}
    assert len(again) <= 10, "but two probes"
    assert scored("out.parquet") == [float(row) for row in range(ROWS)]
    assert not (tmp_path / "out.parquet.asyncbatch" / "parts").exists()


# -- two at work -------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_waits_or_leaves(tmp_path: Path, model: Any) -> None:
    source = make("parquet", tmp_path)
    run(source, "out", "0/2")
    calls = len(model.calls)
    with open_sink("out"):
        with pytest.raises(StoppedError, match="is at work on") as caught:
            run(source, "out", None)
        assert caught.value.exit_code == 75
        assert "--wait" in str(caught.value.hint)
        idle = run(source, "out", None, if_idle=True)
        assert (idle.status, idle.exit_code) == ("stopped", 0)
        assert "is at work on" in idle.reason
        assert idle.summary().startswith("nothing done: process ")
    assert len(model.calls) == calls


def test_starting_anew_beside_another_shard_is_refused(tmp_path: Path, model: Any) -> None:
    source = make("parquet", tmp_path)
    run(source, "out", "0/2")
    with open_sink("out", shard="1-of-2"), pytest.raises(StoppedError, match="is at work on"):
        run(source, "out", "0/2", overwrite=True)
    before = (tmp_path / "out.asyncbatch" / "job-000001.json").read_text()
    run(source, "out", "0/2", overwrite=True)
    assert (tmp_path / "out.asyncbatch" / "job-000001.json").read_text() != before
    assert len(list((tmp_path / "out").iterdir())) == 17


def test_waiting_goes_on_when_the_other_has_ended(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "LOOK_EVERY_S", 0.05)
    source = make("parquet", tmp_path)
    run(source, "out", "0/2")
    told: list[Any] = []
    other = open_sink("out")

    def hook(event: Any) -> None:
        if type(event).__name__ == "Waiting":
            told.append(event)
            if len(told) == 3:
                other.close()

    assert run(source, "out", None, wait=True, progress=hook).exit_code == 0
    assert len(told) == 3
    assert told[0].holder.startswith("process ")
    assert (told[0].rows_done, told[0].rows_total) == (510, ROWS)
    assert scored("out") == [float(row) for row in range(ROWS)]


def test_retry_waits_too(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "LOOK_EVERY_S", 0.05)
    source = make("parquet", tmp_path)
    model.bad.add(5)
    assert run(source, "out", None).exit_code == 3
    model.bad.clear()
    other = open_sink("out")
    threading.Timer(0.3, other.close).start()
    assert retry_job("out", {"wait": True}).exit_code == 0


def lose_the_lease(monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool]) -> None:
    """Heartbeats every 50 ms, and once `when` they find another holder."""
    other = Holder(host="elsewhere", boot="", pid=4711, started="", owner="other", heartbeat=0.0)
    monkeypatch.setattr(leasing, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(Lease, "heartbeat", lambda self: not when())
    monkeypatch.setattr(Lease, "taken_by", other)


def test_a_lost_lease_stops_the_run_resumably_and_names_the_other(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("parquet", tmp_path)
    model.pause_s = 0.02
    with monkeypatch.context() as patches:
        lose_the_lease(patches, lambda: any((tmp_path / "out").glob("*.parquet")))
        with pytest.raises(StoppedError, match="process 4711 on elsewhere took this one for dead") as caught:
            run(source, "out", None)
    assert caught.value.exit_code == 75
    committed = len(list((tmp_path / "out").iterdir()))
    assert committed < -(-ROWS // 30), "no further block was begun"
    report = json.loads((tmp_path / "out.asyncbatch" / "report.json").read_text())
    assert (report["status"], report["exit_code"]) == ("stopped", 75)
    assert run(source, "out", None).metrics.rows_resumed == committed * 30
    assert scored("out") == [float(row) for row in range(ROWS)]


def test_unfinished_files_that_the_other_removed_are_no_failure_of_the_disk(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes a process for dead sweeps its temporary files; that must not be told as an error of the store."""
    source = make("parquet", tmp_path)
    write = PartsSink.write
    with monkeypatch.context() as patches:
        lose_the_lease(patches, lambda: True)
        patches.setattr(leasing, "HEARTBEAT_S", 60.0)

        def swept(self: PartsSink, *given: Any, **more: Any) -> None:
            for each in (tmp_path / "out.asyncbatch" / "tmp").iterdir():
                each.unlink()
            raise StorageError("no such file while committing a part")

        patches.setattr(PartsSink, "write", swept)
        with pytest.raises(StoppedError, match="process 4711 on elsewhere took this one for dead"):
            run(source, "out", None)
    assert PartsSink.write is write
    assert run(source, "out", None).exit_code == 0


def test_the_plan_says_what_shards_do(tmp_path: Path, model: Any) -> None:
    options = {"endpoint": "python:shard_model:score", "send": "x", "block_rows": 30}
    for kind, says in (
        ("parquet", "shard 1/4: 240 rows in 8 blocks"),
        ("csv", "rows are counted first"),
        ("csv.gz", "each process reads through, and scores its own rows"),
    ):
        config = RunConfig.from_options({**options, "shard": "1/4"})
        assert says in plan_job(config, make(kind, tmp_path), "out").summary()
    config = RunConfig.from_options({**options, "processes": 3})
    assert (
        "all rows: 1,000 rows in 34 blocks, by 3 processes"
        in plan_job(config, make("parquet", tmp_path), "out").summary()
    )
