"""An output on a disk that crashes: the commands given for it, and what must hold at any moment.

The commands are what `run`, `run --overwrite` and `retry` do with the store and the sink, without an endpoint: answers
are numbers that no two commits share, so that content that changes after it was called done is noticed.
"""

import copy
import hashlib
import io
import itertools
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from crash_disk import HOME, ModelDisk

from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink.existing import Existing
from asyncbatch.sink.footer import PartFooter, footer_from_key_values
from asyncbatch.sink.layout import (
    RETRIED,
    Format,
    SinkKind,
    SinkLocation,
    parse_part_name,
    part_name,
    plan_name,
)
from asyncbatch.sink.lease import WHOLE, Holder, Lease, acquire, acquire_finish
from asyncbatch.sink.ours import wipe
from asyncbatch.sink.output import Output
from asyncbatch.sink.parts import PartsSink
from asyncbatch.sink.plan import Plan, load_plan, plan_from_json
from asyncbatch.sink.retrying import Retry
from asyncbatch.store.local import LocalStore

STATE = HOME / "out.asyncbatch"
SCHEMA = pa.schema([("id", pa.int64()), ("prediction", pa.int64()), ("error", pa.string())])
ROWS = {0: 7, 1: 8}
BLOCK_ROWS = 4
OTHER_BLOCK_ROWS = 3
"""Of a job that overwrites one of `BLOCK_ROWS`: none of their parts but the first has the same rows."""
FILES = (
    InputFile(number=0, path="a.csv", size_bytes=1, rows=None, fingerprint={}),
    InputFile(number=1, path="b.parquet", size_bytes=1, rows=8, fingerprint={}),
)
IDS = [number * 100 + row for number, count in ROWS.items() for row in range(count)]


class ModelMachine:
    """The machine that leases are judged on: every other process is alive, or every other one is dead."""

    def __init__(self, *, others_alive: bool) -> None:
        self._started = "1" if others_alive else None

    def myself(self, owner: str) -> Holder:
        return Holder(host="h", boot="b", pid=1, started="1", owner=owner, heartbeat=0.0)

    def process_started(self, pid: int) -> str | None:
        return self._started


@dataclass
class World:
    """The disk, and what the outside was told that cannot be taken back."""

    disk: ModelDisk
    format: Format | None = None
    """Of the single file; None: a folder."""
    store_class: type[LocalStore] = LocalStore
    file_size: int | None = None
    shards: bool = False
    """Two processes share the job; the command is that of the first."""
    block_rows: int = BLOCK_ROWS
    """Of the next plan."""
    told: dict[Block, list[pa.Table]] = field(default_factory=dict)
    """Of each block the rows that may stand: those called done first, and those of retries that may replace them."""
    finished: bool = False
    """A command has ended: the single file is there from now on."""
    overwriting: bool = False
    retried_by_two: bool = False
    """The one that was taken for dead may write the manifest of its own parts over the other's: `verify` says so then."""
    attempts: int = 0
    """At any block: the prediction of all of its rows."""

    @property
    def location(self) -> SinkLocation:
        kind: SinkKind = "folder" if self.format is None else "file"
        target = HOME / ("out" if self.format is None else "out.x")
        return SinkLocation(
            spec="out", kind=kind, format=self.format or "parquet", target=target, state=STATE
        )

    def again(self, seed: str) -> "World":
        """The same, with other luck."""
        other = copy.copy(self)
        other.disk = copy.copy(self.disk)
        for name in ("content", "synced", "names", "durable", "pending"):
            setattr(other.disk, name, copy.copy(getattr(self.disk, name)))
        other.disk.rng = random.Random(seed)
        other.disk.steps = 0
        other.told = {block: list(tables) for block, tables in self.told.items()}
        return other

    # -- the commands ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """`run`: begins, goes on, or finds that it is finished."""
        self._run(overwrite=False)

    def overwrite(self) -> None:
        """`run --overwrite`, of a job with other blocks."""
        self.block_rows = OTHER_BLOCK_ROWS
        self.told.clear()
        self.overwriting = True
        self._run(overwrite=True)
        self.overwriting = False

    def _run(self, *, overwrite: bool) -> None:
        output = self.open(number=1, others_alive=False, overwrite=overwrite)
        if not output.finished:
            if output.plan is None:
                output.start(self.new_plan())
            blocks = list(
                itertools.chain.from_iterable(
                    blocks_of(output.sink.plan, gap.file, gap.start, gap.stop) for gap in output.missing()
                )
            )
            self.disk.rng.shuffle(blocks)
            for block in blocks:
                self.commit(output.sink, block, mended=False)
            assert output.may_finish(), "another shard is finishing, which is dead"
            assert output.finish({}) is not None
        self.finished = True
        output.close()

    def retry(self, *, others_alive: bool = False) -> None:
        """`retry`: the endpoint answers most of the rows now that it refused before."""
        state, parts, target, owner = self._stores()
        state.prepare()
        lease = acquire(state, owner=owner, shard=WHOLE, machine=ModelMachine(others_alive=others_alive))
        plan = load_plan(state)
        assert plan is not None
        existing = Existing(location=self.location, plan=plan, state=state, parts=parts, target=target)
        retry = Retry(existing, lease, file_size=self.file_size)
        if retry.wanted:
            retry.begin()
            done = {
                (file, start, stop)
                for file, ranges in retry.done_by_file().items()
                for start, stop, _ in ranges
            }
            for block in [
                each
                for file in ROWS
                for each in blocks_of(plan, file)
                if (file, each.start, each.stop) not in done
            ]:
                self.commit(retry.sink, block, mended=True)
            self.hear(retried=True)  # what another process has just committed too
            retry.finish({})
            self.settle()
        retry.close()

    def new_plan(self) -> Plan:
        return Plan(
            files=FILES,
            block_rows=self.block_rows,
            schema=SCHEMA,
            reply={},
            options={},
            endpoint={},
            source="in",
        )

    def open(self, *, number: int, others_alive: bool, overwrite: bool = False) -> Output:
        """Of the process `number`, to which every other one is alive or dead."""
        state, parts, target, owner = self._stores()
        machine = ModelMachine(others_alive=others_alive)

        def take_lease() -> Lease:
            shard = f"{number}-of-2" if self.shards else WHOLE
            return acquire(state, owner=owner, shard=shard, machine=machine)

        def take_finish() -> Lease | Holder:
            return acquire_finish(state, owner=owner, machine=machine)

        lease = None
        if STATE in self.disk.names:
            state.prepare()
            lease = take_lease()
        return Output(
            location=self.location,
            state=state,
            parts=parts,
            target=target,
            lease=lease,
            take_lease=take_lease,
            wipe=(lambda: wipe(self.location, state=state, parts=parts, target=target))
            if overwrite
            else None,
            file_size=self.file_size,
            take_finish=take_finish if self.shards else None,
        )

    def _stores(self) -> tuple[LocalStore, LocalStore, LocalStore, str]:
        owner = f"o{self.disk.rng.random()}"
        places = (STATE, self.location.parts, HOME)
        state, parts, target = (
            self.store_class(each, STATE, files=self.disk, owner=owner) for each in places
        )
        return state, parts, target, owner

    def commit(self, sink: PartsSink, block: Block, *, mended: bool) -> None:
        self.attempts += 1
        attempt = self.attempts
        sink.write(
            block,
            answer(block, attempt=attempt, mended=mended),
            rejects=rejects_of(block, attempt=attempt, mended=mended),
            variants={"A": block.rows},
            end_offset=block.stop * 10,
            last=block.stop == ROWS[block.file],
        )
        self.hear(retried=mended)
        assert block in self.told, "what was called done cannot be seen"
        if not mended:
            seen = [each for path in self._parts() if (each := parse_part_name(path.name)) is not None]
            late = [each for each in seen if each not in widest(seen) and each == block]
            assert not late, "a late commit left its part beside the joined one"

    # -- what must hold --------------------------------------------------------------------------------------------

    def hear(self, *, retried: bool) -> None:
        """What can be seen now is what the outside goes by from now on.

        Called when a commit has returned, and after a crash: what is there then has become durable. `retried`: what a
        retry has scored may take the place of what stands.
        """
        for path in self._parts():
            block = parse_part_name(path.name)
            if block is None or block in self.told:
                continue
            table = read_table(self.content(path))
            for footer in read_part(self.content(path), block).blocks:
                inner = footer.block
                self.told.setdefault(inner, [table.slice(inner.start - block.start, inner.rows)])
        if retried:
            for path in self.disk.names:
                if path.is_relative_to(STATE / RETRIED.rstrip("/")) and (block := parse_part_name(path.name)):
                    table = read_table(self.content(path))
                    tables = self.told.setdefault(block, [])
                    if table not in tables:
                        self.told[block] = [*tables, table]

    def check(self) -> None:
        """What must hold at any moment, and right after any crash."""
        names = self.disk.names
        plan = self._plan()
        for path in self._parts():
            block = parse_part_name(path.name)
            assert block is not None, "a file among the parts is none"
            footer = self.check_part(self.content(path), block)
            assert plan is not None, "parts without a plan"
            assert footer.job_id == plan.job_id, "a part of another job"
            assert footer.config_hash == plan.config_hash, "a part of another configuration"
        seen = self._seen()
        done = STATE / "_SUCCESS" in names
        if self.format is None or not done:
            self.check_told(seen)
        if self.format is None and (done or STATE / "manifest.json" in names):
            assert sorted(seen) == IDS, "a manifest over parts that do not tile the input"
        if self.format is not None:
            self.check_target(done=done)
        # Of a single file manifest and errors are those of the retry before its rows are.
        if done and (self.format is None or not self.retrying()):
            self.check_result()

    def settle(self) -> None:
        """A retry has ended: what stands now is what was called done, and the endpoint was asked about all of it."""
        self.check()
        standing = self._standing()
        for block in self.told:
            ids = [block.file * 100 + row for row in range(block.start, block.stop)]
            rows = pa.concat_tables([standing[each] for each in ids])
            bad = [
                block.start + at for at, error in enumerate(rows["error"].to_pylist()) if error is not None
            ]
            assert bad == [each.row for each in rejects_of(block, attempt=0, mended=True)], "not retried"
            self.told[block] = [rows]

    def _standing(self) -> dict[int, pa.Table]:
        """The rows of the finished output, by id."""
        if self.format is not None:
            table = read_target(self.content(self.location.target), self.location.format)
            return {each: table.slice(at, 1) for at, each in enumerate(IDS)}
        return self._seen()

    def _seen(self) -> dict[int, pa.Table]:
        """The rows of the parts that can be seen, by id; of a joined part and a late member, the joined one's."""
        seen: dict[int, pa.Table] = {}
        for block in widest(parse_part_name(path.name) for path in self._parts()):
            rows = read_table(self.content(self.location.parts / part_name(block)))
            seen |= {block.file * 100 + block.start + at: rows.slice(at, 1) for at in range(block.rows)}
        return seen

    def check_told(self, seen: dict[int, pa.Table]) -> None:
        for block, tables in self.told.items():
            ids = [block.file * 100 + row for row in range(block.start, block.stop)]
            assert all(each in seen for each in ids), "what was called done is gone"
            found = pa.concat_tables([seen[each] for each in ids])
            assert any(found.equals(table) for table in tables), "what was called done changed"

    def check_part(self, content: bytes, block: Block) -> PartFooter:
        footer = read_part(content, block)
        rows = read_table(content)
        for inner in footer.blocks:
            errors = rows.slice(inner.block.start - block.start, inner.block.rows)["error"].to_pylist()
            bad = [inner.block.start + at for at, error in enumerate(errors) if error is not None]
            assert inner.rejects == len(bad)
            if bad:
                name = STATE / inner.rejects_file
                assert name in self.disk.names, "the rejects of a visible part are gone"
                assert rejected(self.content(name)) == bad
        return footer

    def check_target(self, *, done: bool) -> None:
        """A single file that can be seen is whole, holds what was called done, and stays once it was published."""
        target = self.location.target
        if target not in self.disk.names:
            assert not self.finished, "the single file is gone"
            return
        table = read_target(self.content(target), self.location.format)
        assert table["id"].to_pylist() == IDS
        if done or not self.overwriting:  # else it is the earlier job's
            self.check_told({each: table.slice(at, 1) for at, each in enumerate(IDS)})

    def check_readers(self) -> None:
        """What any reader sees that lists the folder now: no row twice, and none that was there is missing."""
        blocks = sorted(block for path in self._parts() if (block := parse_part_name(path.name)))
        for one, other in itertools.pairwise(blocks):
            assert one.file != other.file or one.stop <= other.start, "a reader sees rows twice"
        there = {(block.file, row) for block in blocks for row in range(block.start, block.stop)}
        for block in self.told:
            rows = {(block.file, row) for row in range(block.start, block.stop)}
            assert rows <= there, "a reader misses rows"

    def check_result(self) -> None:
        """Of a finished output: output, errors, manifest and `_SUCCESS` say the same."""
        success = json.loads(self.content(STATE / "_SUCCESS"))
        content = self.content(STATE / "manifest.json")
        manifest = json.loads(content)
        if self.format is None:
            kept = widest(parse_part_name(path.name) for path in self._parts())
            tables = [read_table(self.content(self.location.parts / part_name(each))) for each in kept]
            result = pa.concat_tables(tables)
            assert [each["name"] for each in manifest["parts"]] == [part_name(each) for each in kept]
            for each in manifest["parts"] if not self.retried_by_two else ():
                there = self.content(self.location.parts / each["name"])
                assert (each["bytes"], each["footer_sha256"]) == (len(there), digest_of(there)), (
                    "the manifest tells of another part"
                )
        else:
            there = self.content(self.location.target)
            assert success["target_bytes"] == len(there)
            result = read_target(there, self.location.format)
        assert result["id"].to_pylist() == IDS
        bad = [each % 100 for each, error in zip(IDS, result["error"].to_pylist(), strict=True) if error]
        if not self.retried_by_two:
            assert rejected(self.content(STATE / "errors.parquet")) == bad
            assert manifest["rejects"] == len(bad)
        assert manifest["rows_out"] == len(IDS)

    # -- looking at the disk ---------------------------------------------------------------------------------------

    def content(self, path: Path) -> bytes:
        return self.disk.open(path).read()

    def _parts(self) -> list[Path]:
        return [path for path in self.disk.names if path.parent == self.location.parts]

    def retrying(self) -> bool:
        return STATE / "retry.json" in self.disk.names

    def _plan(self) -> Plan | None:
        path = STATE / plan_name(1)
        return parse_plan(self.content(path)) if path in self.disk.names else None


def widest(blocks: "Iterable[Block | None]") -> list[Block]:
    """Without those whose rows are in a wider one."""
    found = sorted(
        (each for each in blocks if each is not None), key=lambda each: (each.file, each.start, -each.stop)
    )
    kept: list[Block] = []
    for each in found:
        if not kept or kept[-1].file != each.file or each.start >= kept[-1].stop:
            kept.append(each)
    return kept


def blocks_of(plan: Plan, file: int, start: int = 0, stop: int | None = None) -> list[Block]:
    end = ROWS[file] if stop is None else stop
    return [
        Block(file=file, start=at, stop=min(at + plan.block_rows, end))
        for at in range(start, end, plan.block_rows)
    ]


def refused(row: int, *, attempt: int, mended: bool) -> bool:
    """Not every block has rejects, and not every attempt at a block the same."""
    return row == 5 or (not mended and (row == 6 or (attempt % 2 == 1 and row == 1)))


def rejects_of(block: Block, *, attempt: int, mended: bool) -> list[Reject]:
    return [
        Reject(row=row, code="rejected", message="no")
        for row in range(block.start, block.stop)
        if refused(row, attempt=attempt, mended=mended)
    ]


def answer(block: Block, *, attempt: int, mended: bool) -> pa.Table:
    rows = range(block.start, block.stop)
    columns = {
        "id": [block.file * 100 + row for row in rows],
        "prediction": [attempt] * block.rows,
        "error": ["no" if refused(row, attempt=attempt, mended=mended) else None for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)


@cache
def parse_plan(content: bytes) -> Plan:
    return plan_from_json(content, where="the plan")


@cache
def rejected(content: bytes) -> list[int]:
    """The rows of a rejects file."""
    return cast(list[int], pq.read_table(io.BytesIO(content)).column("row").to_pylist())


@cache
def read_part(content: bytes, block: Block) -> PartFooter:
    """Checks that it is whole and holds just its rows."""
    table = read_table(content)
    assert table.column("id").to_pylist() == [
        block.file * 100 + row for row in range(block.start, block.stop)
    ]
    footer = footer_from_key_values(pq.read_metadata(io.BytesIO(content)).metadata)
    assert footer is not None
    assert footer.block == block
    return footer


@cache
def read_table(content: bytes) -> pa.Table:
    return (
        pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).read().replace_schema_metadata()
    )


@cache
def read_target(content: bytes, form: Format) -> pa.Table:
    if form == "parquet":
        return read_table(content)
    options = pyarrow.csv.ConvertOptions(
        column_types=SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    return pyarrow.csv.read_csv(io.BytesIO(content), convert_options=options)


@cache
def digest_of(content: bytes) -> str:
    """Of a Parquet file's footer, as the manifest gives it."""
    length = int.from_bytes(content[-8:-4], "little")
    return hashlib.sha256(content[-8 - length :]).hexdigest()
