"""The commit protocol over a disk that loses whatever may be lost.

The real store and sink run over a model of a disk. It crashes before any of their calls to the operating
system; after that, of every file any prefix of what was not synced is left (or its length, filled with
zeros), and of every folder any subset of the names that were not synced. Then the same command runs again,
and crashes again, until it ends.
"""

import contextlib
import errno
import io
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.errors import AsyncBatchError, OutputError, StorageError
from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink.footer import PartFooter, footer_from_key_values
from asyncbatch.sink.layout import Format, SinkKind, SinkLocation, parse_part_name
from asyncbatch.sink.lease import Holder, Lease, acquire
from asyncbatch.sink.output import Output
from asyncbatch.sink.parts import PartsSink
from asyncbatch.sink.plan import Plan
from asyncbatch.store.base import Swap, Write
from asyncbatch.store.filesystem import Scanned
from asyncbatch.store.local import LocalStore

HOME = Path("/data")
STATE = HOME / "out.asyncbatch"
SCHEMA = pa.schema([("id", pa.int64()), ("prediction", pa.int64()), ("error", pa.string())])
ROWS = {0: 7, 1: 8}
BLOCK_ROWS = 4
FILES = (
    InputFile(number=0, path="a.csv", size_bytes=1, rows=None, fingerprint={}),
    InputFile(number=1, path="b.parquet", size_bytes=1, rows=8, fingerprint={}),
)


Change: TypeAlias = tuple[Path, int | Path | None, bool]


class Crash(BaseException):
    """The power goes."""


class ModelFile(io.BytesIO):
    def __init__(self, disk: "ModelDisk", inode: int) -> None:
        super().__init__()
        self._disk, self.inode = disk, inode

    def write(self, data: object) -> int:  # type: ignore[override]
        self._disk.step()
        content = bytes(cast(bytes, data))
        self._disk.content[self.inode] += content
        return len(content)


class ModelDisk:
    """A `FileSystem`: what is there now, what is there after a crash, and the names in between, by folder."""

    def __init__(self, seed: int, *, links: bool = True) -> None:
        self.rng = random.Random(seed)
        self.links = links
        self.content: dict[int, bytes] = {}
        self.synced: dict[int, bytes] = {}
        self.names: dict[Path, int | None] = {HOME: None, HOME.parent: None}  # None: a folder
        self.durable = dict(self.names)
        # Name, inode, added (else removed); or two folders that change places.
        self.pending: list[Change] = []
        self.steps = 0
        self.crash_at: int | None = None
        self.fail_at: int | None = None
        self.fail_with = 0
        self.dead = False
        self.locked = False
        self.exchanges = True
        self.hook: Callable[[], None] = lambda: None
        self._inodes = itertools.count()

    def step(self) -> None:
        if self.dead:
            raise Crash
        self.steps += 1
        if self.steps == self.crash_at:
            self.dead = True
            raise Crash
        if self.steps == self.fail_at:
            raise OSError(self.fail_with, os.strerror(self.fail_with))
        self.hook()

    def reboot(self) -> None:
        keep = self.rng.choice([0.0, 0.5, 0.5, 0.9, 1.0])
        names = dict(self.durable)
        for change in self.pending:
            if self.rng.random() < keep:
                self._apply(names, change)
        self.names = {path: inode for path, inode in names.items() if self._reachable(path, names)}
        for inode in {inode for inode in self.names.values() if inode is not None}:
            full, safe = self.content[inode], self.synced.get(inode, b"")
            if full != safe:
                kept = full[: self.rng.randint(len(safe), len(full))]
                zeros = bytes(len(full) - len(kept)) if self.rng.random() < 0.3 else b""
                self.content[inode] = kept + zeros
            self.synced[inode] = self.content[inode]
        self.durable = dict(self.names)
        self.pending = []
        self.crash_at, self.dead, self.locked, self.steps = None, False, False, 0
        self.hook = lambda: None

    @staticmethod
    def _reachable(path: Path, names: dict[Path, int | None]) -> bool:
        return all(parent in names for parent in path.parents)

    @staticmethod
    def _apply(names: dict[Path, int | None], change: Change) -> None:
        path, inode, added = change
        if isinstance(inode, Path):
            moved = {
                new / each.relative_to(old): names.pop(each)
                for old, new in ((path, inode), (inode, path))
                for each in list(names)
                if each.is_relative_to(old)
            }
            names.update(moved)
        elif added:
            names[path] = inode
        else:
            names.pop(path, None)

    def _change(self, path: Path, inode: int | None, *, added: bool) -> None:
        self._apply(self.names, (path, inode, added))
        self.pending.append((path, inode, added))

    def _inode(self, path: Path) -> int:
        inode = self.names.get(path)
        if inode is None:
            raise FileNotFoundError(2, "no such file", str(path))
        return inode

    def create(self, path: Path) -> BinaryIO:
        self.step()
        if path in self.names:
            raise FileExistsError(17, "exists")
        if path.parent not in self.names:
            raise FileNotFoundError(2, "no folder")
        inode = next(self._inodes)
        self.content[inode] = b""
        self._change(path, inode, added=True)
        return ModelFile(self, inode)

    def sync(self, file: BinaryIO) -> None:
        self.step()
        inode = cast(ModelFile, file).inode
        self.synced[inode] = self.content[inode]

    def exchange(self, one: Path, other: Path) -> None:
        self.step()
        if not self.exchanges:
            raise OSError(errno.ENOSYS, "not supported")
        assert not [each for each in self.pending if one in each[0].parents or other in each[0].parents]
        self._apply(self.names, (one, other, True))
        self.pending.append((one, other, True))

    def copy_attributes(self, source: Path, target: Path) -> None:
        self.step()

    def sync_folder(self, path: Path) -> None:
        self.step()
        if path not in self.names:
            raise FileNotFoundError(2, "no folder")
        for change in [each for each in self.pending if each[0].parent == path]:
            self._apply(self.durable, change)
            self.pending.remove(change)

    def link(self, source: Path, target: Path) -> None:
        self.step()
        if not self.links:
            raise OSError(95, "not supported")
        inode = self._inode(source)
        if target in self.names:
            raise FileExistsError(17, "exists")
        if target.parent not in self.names:
            raise FileNotFoundError(2, "no folder")
        self._change(target, inode, added=True)

    def link_count(self, path: Path) -> int:
        inode = self._inode(path)
        return sum(each == inode for each in self.names.values())

    def rename(self, source: Path, target: Path) -> None:
        self.step()
        inode = self._inode(source)
        self._change(target, inode, added=True)
        self._change(source, inode, added=False)

    def unlink(self, path: Path) -> None:
        self.step()
        self._change(path, self._inode(path), added=False)

    def make_folder(self, path: Path) -> None:
        self.step()
        if path in self.names:
            raise FileExistsError(17, "exists")
        if path.parent not in self.names:
            raise FileNotFoundError(2, "no folder")
        self._change(path, None, added=True)

    def remove_folder(self, path: Path) -> None:
        self.step()
        if any(each.parent == path for each in self.names):
            raise OSError(39, "not empty")
        self._change(path, None, added=False)

    def scan(self, path: Path) -> list[Scanned]:
        self.step()
        if path not in self.names:
            raise FileNotFoundError(2, "no folder")
        return [self.stat(each) for each in sorted(self.names) if each.parent == path and each != path]

    def stat(self, path: Path) -> Scanned:
        if path not in self.names:
            raise FileNotFoundError(2, "no such file")
        inode = self.names[path]
        size = 0 if inode is None else len(self.content[inode])
        return Scanned(path.name, inode is None, size, str(inode), time.time())

    def open(self, path: Path) -> BinaryIO:
        return io.BytesIO(self.content[self._inode(path)])

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        self.step()
        self.locked = True
        yield
        self.locked = False

    def free_bytes(self, path: Path) -> int:
        return 10**9

    def device(self, path: Path) -> int:
        return 1

    def writable(self, path: Path) -> bool:
        return True


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
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    """Part name to its content when its commit was reported."""
    answers: "itertools.count[int]" = field(default_factory=itertools.count)
    """A model that never answers twice alike: content that changes after it was acknowledged is noticed."""

    @property
    def location(self) -> SinkLocation:
        kind: SinkKind = "folder" if self.format is None else "file"
        target = HOME / ("out" if self.format is None else "out.x")
        return SinkLocation(
            spec="out", kind=kind, format=self.format or "parquet", target=target, state=STATE
        )

    def run(self) -> None:
        """The command."""
        output = self.open(shard="1-of-2", others_alive=False)
        if output.finished:
            return
        if output.plan is None:
            output.start(PLAN)
        blocks = [block for gap in output.missing() for block in blocks_of(gap.file, gap.start, gap.stop)]
        self.disk.rng.shuffle(blocks)
        for block in blocks:
            self.commit(output.sink, block)
        assert output.finish({}) is not None
        output.close()

    def open(self, *, shard: str, others_alive: bool) -> Output:
        owner = f"o{self.disk.rng.random()}"
        places = (STATE, self.location.parts, HOME)
        state, parts, target = (
            self.store_class(each, STATE, files=self.disk, owner=owner) for each in places
        )
        machine = ModelMachine(others_alive=others_alive)

        def take_lease() -> Lease:
            return acquire(state, owner=owner, shard=shard, machine=machine)

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
            file_size=self.file_size,
        )

    def commit(self, sink: PartsSink, block: Block) -> None:
        sink.write(
            block,
            answer(block, next(self.answers)),
            rejects=rejects_of(block),
            variants={"A": block.rows},
            end_offset=block.stop * 10,
            last=block.stop == ROWS[block.file],
        )
        name = f"part-{block.name}.parquet"
        if self.location.parts / name in self.disk.names:  # else a joined part has taken its place
            self.acknowledged.setdefault(name, self.content(self.location.parts / name))
        else:
            assert name in self.acknowledged

    def content(self, path: Path) -> bytes:
        return self.disk.open(path).read()

    def check(self) -> None:
        """What must hold at any moment, and right after any crash."""
        names = self.disk.names
        folder = self.location.parts
        parts = {path.name for path in names if path.parent == folder}
        rejects_kept = {str(path.relative_to(STATE)) for path in names if path.parent == STATE / "rejects"}
        for name in parts:
            block = parse_part_name(name)
            assert block is not None, f"{name} among the parts"
            self.check_part(self.content(folder / name), block, rejects_kept)
        done = STATE / "_SUCCESS" in names
        published = self.format is not None and done
        for name, content in self.acknowledged.items():
            if name not in parts and self.file_size is not None:
                name, content = self.check_joined(parts, name, content)
            assert published or name in parts, "what was acknowledged is gone"
            assert name not in parts or self.content(folder / name) == content, (
                "what was acknowledged changed"
            )
        if (STATE / "manifest.json" in names or done) and not published:
            found = [block for name in parts if (block := parse_part_name(name)) is not None]
            there = sorted(
                {block.name for each in found for block in blocks_of(each.file, each.start, each.stop)}
            )
            tiles = [block.name for each in ROWS for block in blocks_of(each, 0, None)]
            assert there == tiles, "a manifest over parts that do not tile the input"
        if done:
            self.check_result()

    def check_joined(self, parts: set[str], name: str, content: bytes) -> tuple[str, bytes]:
        """The joined part that holds the rows of the acknowledged part `name`, just as they were."""
        block = parse_part_name(name)
        assert block is not None
        for each in parts:
            wide = parse_part_name(each)
            if wide is not None and wide.file == block.file and wide.start <= block.start < wide.stop:
                joined = self.content(self.location.parts / each)
                rows = pq.read_table(io.BytesIO(joined)).slice(block.start - wide.start, block.rows)
                assert rows.equals(pq.read_table(io.BytesIO(content))), "what was acknowledged changed"
                return each, joined
        raise AssertionError("what was acknowledged is gone")

    def check_readers(self) -> None:
        """What any reader sees that lists the folder now: no row twice, and none that was there is missing."""
        folder = self.location.parts
        parts = [path.name for path in self.disk.names if path.parent == folder]
        blocks = sorted(block for name in parts if (block := parse_part_name(name)) is not None)
        for one, other in itertools.pairwise(blocks):
            assert one.file != other.file or one.stop <= other.start, "a reader sees rows twice"
        there = {block.name for each in blocks for block in blocks_of(each.file, each.start, each.stop)}
        for name in self.acknowledged:
            assert name.removeprefix("part-").removesuffix(".parquet") in there, "a reader misses rows"

    def check_part(self, content: bytes, block: Block, rejects_kept: set[str]) -> None:
        for footer in read_part(content, block).blocks:
            if bad := [reject.row for reject in rejects_of(footer.block)]:
                assert footer.rejects_file in rejects_kept, "the rejects of a visible part are gone"
                assert read_rows(self.content(STATE / footer.rejects_file)) == bad

    def check_result(self) -> None:
        ids = [n * 100 + row for n, count in ROWS.items() for row in range(count)]
        if self.format == "parquet":
            table = pq.read_table(io.BytesIO(self.content(self.location.target)))
            assert table.column("id").to_pylist() == ids
        elif self.format == "csv":
            lines = self.content(self.location.target).splitlines()
            assert [int(line.split(b",")[0]) for line in lines[1:]] == ids
        rejected = [row for count in ROWS.values() for row in range(count) if row % 3 == 2]
        assert read_rows(self.content(STATE / "errors.parquet")) == rejected


PLAN = Plan(files=FILES, block_rows=BLOCK_ROWS, schema=SCHEMA, reply={}, options={}, endpoint={}, source="in")


@cache
def read_rows(content: bytes) -> list[int]:
    return cast(list[int], pq.read_table(io.BytesIO(content)).column("row").to_pylist())


@cache
def read_part(content: bytes, block: Block) -> PartFooter:
    """Checks that it is whole and holds just its rows."""
    file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
    table = file.read()
    assert table.column("id").to_pylist() == [
        block.file * 100 + row for row in range(block.start, block.stop)
    ]
    errors = table.column("error").to_pylist()
    marked = [block.start + n for n, error in enumerate(errors) if error is not None]
    assert marked == [reject.row for reject in rejects_of(block)]
    footer = footer_from_key_values(file.metadata.metadata)
    assert footer is not None
    assert footer.block == block
    return footer


def blocks_of(file: int, start: int, stop: int | None) -> list[Block]:
    end = ROWS[file] if stop is None else stop
    return [
        Block(file=file, start=at, stop=min(at + BLOCK_ROWS, end)) for at in range(start, end, BLOCK_ROWS)
    ]


def rejects_of(block: Block) -> list[Reject]:
    rows = range(block.start, block.stop)
    return [Reject(row=row, code="rejected", message="no") for row in rows if row % 3 == 2]


def answer(block: Block, value: int) -> pa.Table:
    rows = range(block.start, block.stop)
    columns = {
        "id": [block.file * 100 + row for row in rows],
        "prediction": [value] * block.rows,
        "error": ["no" if row % 3 == 2 else None for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def torture(make: Callable[[int], World], *, crashes: int, last_first: bool = False) -> int:
    """Crash at every step of a run, in many orders, then at random ones; how many crashes were survived.

    `last_first`: the end of the run comes first, and is met even by few crashes.
    """
    survived = 0
    for seed in itertools.count():
        whole = make(seed)
        steps = run_to_the_end(whole, crash_at=None, again=0)[1]
        for first in range(steps, 0, -1) if last_first else range(1, steps + 1):
            survived += run_to_the_end(make(seed), crash_at=first, again=steps)[0]
            if survived >= crashes:
                return survived
    raise AssertionError("unreachable")


def run_to_the_end(world: World, *, crash_at: int | None, again: int) -> tuple[int, int]:
    """The command, repeated until it ends, with a crash at `crash_at` and some at random among `again` steps.

    How many crashes there were, and the steps of the last run.
    """
    crashes = 0
    disk = world.disk
    disk.crash_at = crash_at
    while True:
        try:
            world.run()
            break
        except StorageError as error:  # a zombie finds its unfinished files swept, and stops
            if "vanished" not in str(error):
                raise
            disk.hook = lambda: None
        except Crash:
            crashes += 1
            disk.reboot()
            world.check()
            if crashes < 5:
                disk.crash_at = disk.rng.randint(1, again)
    steps = disk.steps
    world.check()
    assert STATE / "_SUCCESS" in disk.names
    disk.reboot()  # the power may go right after the end as well
    world.check()
    assert STATE / "_SUCCESS" in disk.names
    return crashes, steps


@pytest.fixture
def crashes(request: pytest.FixtureRequest) -> int:
    return 4_000 if request.config.getoption("--slow", default=False) else 500


FORMATS: list[Format | None] = [None, "parquet", "csv"]


@pytest.mark.parametrize("output", FORMATS)
def test_no_crash_loses_or_tears_anything(output: Format | None, crashes: int) -> None:
    assert torture(lambda seed: World(ModelDisk(seed), output), crashes=crashes) >= crashes


def test_nor_without_hard_links(crashes: int) -> None:
    assert torture(lambda seed: World(ModelDisk(seed, links=False)), crashes=crashes // 2) >= crashes // 2


def with_second_writer(world: World, *, others_alive: bool = True) -> World:
    """Between any two steps of the first process a second one of the same job may commit a block of its own.

    It is another shard, or (`others_alive=False`) takes the first, a zombie now, for dead.
    """
    disk = world.disk
    rng = random.Random(disk.rng.random())

    def interfere() -> None:
        if disk.locked or rng.random() > 0.05:
            return
        hook, disk.hook = disk.hook, lambda: None
        try:
            output = world.open(shard="2-of-2", others_alive=others_alive)
            if output.plan is not None and not output.finished:
                world.commit(output.sink, rng.choice(blocks_of(rng.choice([0, 1]), 0, None)))
                world.check()
            output.close()
        finally:
            disk.hook = hook

    disk.hook = interfere
    return world


@pytest.mark.parametrize("others_alive", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_nor_with_two_writers_at_once(links: bool, others_alive: bool, crashes: int) -> None:
    def make(seed: int) -> World:
        return with_second_writer(World(ModelDisk(seed, links=links)), others_alive=others_alive)

    assert torture(make, crashes=crashes // 3) >= crashes // 3


def failure_of(run: Callable[[], None]) -> AsyncBatchError | None:
    try:
        run()
    except (StorageError, OutputError) as error:
        return error
    return None


@pytest.mark.parametrize("output", FORMATS)
def test_a_full_or_broken_disk_stops_it_at_any_step_and_the_next_run_ends_it(
    output: Format | None, crashes: int
) -> None:
    whole = World(ModelDisk(1), output)
    whole.run()
    steps = range(1, whole.disk.steps + 1)[:: 1 if crashes > 1000 else 5]
    stopped = 0
    for number, step in enumerate(steps):
        world = World(ModelDisk(1), output)
        disk = world.disk
        code, says = ((errno.ENOSPC, "no space left"), (errno.EIO, "input/output error"))[number % 2]
        disk.fail_at, disk.fail_with = step, code
        error = failure_of(world.run)
        if error is not None:
            stopped += 1
            assert says in error.message
            assert error.hint
            unfinished = [path for path in disk.names if path.parent == STATE / "tmp"]
            assert len(unfinished) <= 1, "unfinished files are removed, unless removing is what failed"
        world.check()
        disk.fail_at = None
        world.run()
        world.check()
        assert STATE / "_SUCCESS" in disk.names
    assert stopped > len(steps) * 0.7, "all but removing what is unfinished is reported"


def joining(seed: int, *, exchanges: bool = True, disk: type[ModelDisk] = ModelDisk) -> World:
    """A run with `--file-size`: the parts of each input file become one at the end."""
    world = World(disk(seed), file_size=100_000)
    world.disk.exchanges = exchanges
    if exchanges:
        world.disk.hook = world.check_readers
    return world


@pytest.mark.timeout(600)
@pytest.mark.parametrize("exchanges", [True, False])
def test_nor_while_parts_are_joined(exchanges: bool, crashes: int) -> None:
    def make(seed: int) -> World:
        return joining(seed, exchanges=exchanges)

    assert torture(make, crashes=crashes // 2, last_first=True) >= crashes // 2
    whole = make(0)
    whole.run()
    assert sorted(path.name for path in whole.disk.names if path.parent == HOME / "out") == [
        "part-00000000-000000000000-000000000007.parquet",
        "part-00000001-000000000000-000000000008.parquet",
    ]


@pytest.mark.parametrize("others_alive", [True, False])
@pytest.mark.timeout(600)
def test_nor_while_parts_are_joined_and_another_writes(others_alive: bool, crashes: int) -> None:
    def make(seed: int) -> World:
        return with_second_writer(joining(seed, exchanges=False), others_alive=others_alive)

    assert torture(make, crashes=crashes // 8, last_first=True) >= crashes // 8


class NoExchangeSync(ModelDisk):
    """The folders have changed places, but that is not made durable before the old files go."""

    def sync_folder(self, path: Path) -> None:
        if not any(isinstance(inode, Path) for _, inode, _ in self.pending):
            super().sync_folder(path)


@pytest.mark.parametrize("disk", [NoExchangeSync])
def test_it_notices_when_the_exchange_is_not_durable(disk: type[ModelDisk]) -> None:
    with pytest.raises(CAUGHT):
        torture(lambda seed: joining(seed, disk=disk), crashes=600, last_first=True)


def test_it_notices_when_members_go_before_the_joined_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(self: LocalStore, root: Path, fresh: Path, swaps: "Sequence[Swap]") -> None:
        for each in swaps:
            for name in each.removed:
                self._files.unlink(root / name)
            self._files.link(fresh / each.added, root / each.added)
            self._files.sync_folder(root)

    monkeypatch.setattr(LocalStore, "_one_by_one", backwards)
    with pytest.raises(CAUGHT):
        torture(lambda seed: joining(seed, exchanges=False), crashes=600, last_first=True)


class NoFileSync(ModelDisk):
    def sync(self, file: BinaryIO) -> None:
        self.step()


class NoFolderSync(ModelDisk):
    def sync_folder(self, path: Path) -> None:
        if path == HOME:
            super().sync_folder(path)


class NoPartsFolderSync(ModelDisk):
    def sync_folder(self, path: Path) -> None:
        if path != HOME / "out":
            super().sync_folder(path)


class NoRejectsFolderSync(ModelDisk):
    def sync_folder(self, path: Path) -> None:
        if path != STATE / "rejects":
            super().sync_folder(path)


class NoRejectsSync(ModelDisk):
    def sync(self, file: BinaryIO) -> None:
        if b"attempts" not in self.content[cast(ModelFile, file).inode]:
            super().sync(file)


class RenameForLink(ModelDisk):
    def link(self, source: Path, target: Path) -> None:
        self.rename(source, target)


DISKS: list[type[ModelDisk]] = [
    NoFileSync,
    NoFolderSync,
    NoPartsFolderSync,
    NoRejectsFolderSync,
    NoRejectsSync,
    RenameForLink,
]
CAUGHT = (AssertionError, AsyncBatchError, pa.ArrowException, OSError)


@pytest.mark.parametrize("disk", DISKS)
def test_it_notices_when_a_step_is_left_out(disk: type[ModelDisk]) -> None:
    with pytest.raises(CAUGHT):
        torture(lambda seed: with_second_writer(World(disk(seed))), crashes=600)


class SharedRejectsName(LocalStore):
    """Every attempt at a block writes the same rejects file."""

    def create_if_absent(self, name: str, write: Write) -> bool:
        if not name.startswith("rejects/"):
            return super().create_if_absent(name, write)
        self.replace(name, write)
        return True


def test_it_notices_when_attempts_share_a_rejects_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "asyncbatch.sink.parts.rejects_name", lambda block, attempt: f"rejects/{block.name}.parquet"
    )

    def make(seed: int) -> World:
        return with_second_writer(World(ModelDisk(seed), store_class=SharedRejectsName))

    with pytest.raises(CAUGHT):
        torture(make, crashes=600)


def test_it_notices_when_the_rejects_come_after_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    order = PartsSink._write_rejects
    late: list[Callable[[], object]] = []

    def later(sink: PartsSink, block: Block, rejects: list[Reject]) -> str:
        name = f"rejects/{block.name}-late.parquet"
        monkeypatch.setattr("asyncbatch.sink.parts.rejects_name", lambda block, attempt: name)
        late.append(lambda: order(sink, block, rejects))
        return name if rejects else ""

    commit = PartsSink._commit

    def first(sink: PartsSink, footer: object, table: pa.Table) -> None:
        commit(sink, footer, table)  # type: ignore[arg-type]
        late.pop()()

    monkeypatch.setattr(PartsSink, "_write_rejects", later)
    monkeypatch.setattr(PartsSink, "_commit", first)
    with pytest.raises(CAUGHT):
        torture(lambda seed: World(ModelDisk(seed)), crashes=600)
