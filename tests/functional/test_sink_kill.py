"""A writer that is killed, again and again: only whole parts are left, and the last run ends the job."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from asyncbatch.sink.footer import read_part_footer
from asyncbatch.sink.layout import parse_part_name
from asyncbatch.store import LocalStore

ROWS = 6000
BLOCK_ROWS = 100
KILLS = 20

WRITER = f"""
import random, sys
import pyarrow as pa
import pyarrow.csv, pyarrow.parquet
from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink import Plan, open_sink

schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("error", pa.string())])
files = (InputFile(number=0, path="a.csv", size_bytes=9, rows=None, fingerprint={{}}),)
print("ready", flush=True)
sys.stdin.readline()
with open_sink(sys.argv[1]) as output:
    if output.finished:
        sys.exit()
    if output.plan is None:
        output.start(Plan(files=files, block_rows={BLOCK_ROWS}, schema=schema, source="in",
                          reply={{}}, options={{}}, endpoint={{}}))
    blocks = [Block(file=0, start=at, stop=at + {BLOCK_ROWS}) for gap in output.missing()
              for at in range(gap.start, {ROWS} if gap.stop is None else gap.stop, {BLOCK_ROWS})]
    random.shuffle(blocks)
    for block in blocks:
        rows = range(block.start, block.stop)
        table = pa.table({{"id": list(rows), "text": [f"t{{row}}" for row in rows],
                          "error": [None if row % 50 else "no" for row in rows]}}, schema=schema)
        rejects = [Reject(row=row, code="rejected", message="no") for row in rows if row % 50 == 0]
        output.sink.write(block, table, rejects=rejects, variants={{}}, end_offset=None,
                          last=block.stop == {ROWS})
        print(block.name, flush=True)
    assert output.finish({{}}) is not None
"""


class Writer:
    """A process that is ready to go."""

    def __init__(self, home: Path, spec: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, spec],
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *, kill_after_blocks: int | None, more_s: float = 0.0) -> list[str]:
        """What it said was committed; killed a little after so many blocks, or at its end."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        said: list[str] = []
        if kill_after_blocks is not None:
            for line in process.stdout:
                said.append(line.strip())
                if len(said) > kill_after_blocks:
                    break
            try:
                process.wait(more_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        said += process.stdout.read().split()
        status = process.wait(60)
        assert status in (0, -signal.SIGKILL), f"the writer failed with status {status}"
        assert kill_after_blocks is not None or status == 0
        process.stdin.close()
        process.stdout.close()
        return said


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("spec", ["out/", "out.csv"])
def test_a_killed_writer_leaves_only_whole_parts(tmp_path: Path, spec: str) -> None:
    rng = random.Random(7)
    folder = tmp_path / ("out" if spec == "out/" else "out.csv.asyncbatch/parts")
    state = tmp_path / (spec.rstrip("/") + ".asyncbatch")
    store = LocalStore(folder, state)
    said: set[str] = set()
    following = Writer(tmp_path, spec)
    for _ in range(KILLS // 2):
        writer, following = following, Writer(tmp_path, spec)
        said |= set(writer.run(kill_after_blocks=rng.randint(0, 3), more_s=rng.random() * 0.02))
        names = {path.name for path in folder.iterdir()}
        for name in names:
            block = parse_part_name(name)
            assert block is not None
            table = pq.read_table(folder / name, page_checksum_verification=True)
            assert table.column("id").to_pylist() == list(range(block.start, block.stop))
            footer = read_part_footer(store, name)
            rejects = pq.read_table(state / footer.rejects_file)
            assert rejects.column("row").to_pylist() == [
                row for row in range(block.start, block.stop) if row % 50 == 0
            ]
        assert {f"part-{each}.parquet" for each in said if each[0] == "0"} <= names, (
            "an acknowledged part is gone"
        )
    following.run(kill_after_blocks=None)
    assert (state / "_SUCCESS").exists()
    assert pq.read_table(state / "errors.parquet").num_rows == ROWS // 50
    manifest = json.loads((state / "manifest.json").read_text())
    assert manifest["rows_out"] == ROWS
    if spec == "out/":
        assert pq.read_table(tmp_path / "out").column("id").to_pylist() == list(range(ROWS))
    else:
        lines = (tmp_path / "out.csv").read_text().splitlines()
        assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(ROWS))
        assert not folder.exists()
    assert list((state / "tmp").iterdir()) == [], "what the killed left unfinished was swept"
