"""The commit protocol over a disk that loses whatever may be lost: the short form of benchmarks/crash_model.py.

Then the same with one step of the protocol broken, which has to be noticed.
"""

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pytest
from crash_disk import HOME, Crash, ModelDisk, ModelFile
from crash_model import SCENARIOS, Scenario, torture
from crash_world import STATE, World

from asyncbatch.errors import AsyncBatchError, OutputError, StorageError
from asyncbatch.model import Block, Reject
from asyncbatch.sink import ours, output, parts, publish, retry_folder, retrying
from asyncbatch.sink.layout import ERRORS, MANIFEST, REJECTS, RETRY, SUCCESS, SinkLocation
from asyncbatch.sink.output import Output
from asyncbatch.sink.parts import PartsSink
from asyncbatch.sink.retry_attempt import Attempt
from asyncbatch.store.base import Entry, Store, Swap, Write
from asyncbatch.store.local import LocalStore

NAMED = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture
def crashes(request: pytest.FixtureRequest) -> int:
    asked = request.config.getoption("--crashes")
    return asked or (1_000 if request.config.getoption("--slow") else 40)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMED)
def test_no_crash_loses_or_tears_or_doubles_anything(name: str, crashes: int) -> None:
    survived = torture(NAMED[name], crashes=crashes)
    assert survived.crashes >= crashes
    assert survived.by_operation["write"] > 0


def test_joined_parts_are_joined() -> None:
    world = NAMED["joined parts"].start("0")
    world.run()
    assert sorted(path.name for path in world.disk.names if path.parent == HOME / "out") == [
        "part-00000000-000000000000-000000000007.parquet",
        "part-00000001-000000000000-000000000008.parquet",
    ]


@pytest.mark.parametrize("links", [True, False])
def test_what_another_process_has_listed_survives_a_crash(links: bool) -> None:
    """It may act on what it saw before the writer has synced the folder: a manifest of these parts, say."""
    seen = 0
    for at in range(1, 40):
        disk = ModelDisk(f"{at}", links=links)
        stores = [LocalStore(HOME / "out", STATE, files=disk, owner=f"o{number}") for number in range(2)]
        stores[0].create_if_absent("a", lambda file: file.write(b"a"))
        disk.steps, disk.crash_at = 0, at
        with contextlib.suppress(Crash):
            stores[0].create_if_absent("b", lambda file: file.write(b"b"))
        disk.crash_at, disk.dead = None, False  # the writer alone has died
        names = {entry.name for entry in stores[1].list()}
        disk.reboot()
        assert {entry.name for entry in stores[1].list()} == names
        seen += names == {"a", "b"}
    assert seen > 0


def failure_of(run: Callable[[], None]) -> AsyncBatchError | None:
    try:
        run()
    except (StorageError, OutputError) as error:
        return error
    return None


@pytest.mark.parametrize(
    "name",
    [
        "a folder",
        "a Parquet file",
        "a CSV file",
        "joined parts",
        "joined parts without exchange",
        "retry of a folder",
        "retry of a CSV file",
        "overwriting a Parquet file",
    ],
)
def test_a_full_or_broken_disk_stops_it_at_any_step_and_the_next_run_ends_it(name: str, crashes: int) -> None:
    scenario = NAMED[name]
    whole = scenario.start("1")
    scenario.command(whole)
    steps = range(1, whole.disk.steps + 1)[:: 1 if crashes > 1000 else 9]
    stopped = 0
    for number, step in enumerate(steps):
        world = scenario.start("1")
        disk = world.disk
        code, says = ((errno.ENOSPC, "no space left"), (errno.EIO, "input/output error"))[number % 2]
        disk.fail_at, disk.fail_with = step, code
        error = failure_of(lambda world=world: scenario.command(world))  # type: ignore[misc]
        if error is not None:
            stopped += 1
            assert says in error.message
            assert error.hint
            unfinished = [path for path in disk.names if path.parent == STATE / "tmp"]
            assert len(unfinished) <= 1, "unfinished files are removed, unless removing is what failed"
        world.check()
        disk.fail_at = None
        scenario.command(world)
        world.check()
        assert STATE / "_SUCCESS" in disk.names
    assert stopped > len(steps) * 0.6, "all but removing what is unfinished is reported"


# -- one step of the protocol left out, or in the wrong place --------------------------------------------------------


class NoFileSync(ModelDisk):
    def sync(self, file: BinaryIO) -> None:
        self.step("sync")


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


class NoExchangeSync(ModelDisk):
    """The folders have changed places, but that is not made durable before the old files go."""

    def sync_folder(self, path: Path) -> None:
        if not any(isinstance(inode, Path) for _, inode, _ in self.pending):
            super().sync_folder(path)


ON_DISK: list[tuple[type[ModelDisk], str]] = [
    (NoFileSync, "a folder"),
    (NoFileSync, "retry of a Parquet file"),
    (NoFolderSync, "a folder"),
    (NoPartsFolderSync, "two shards into a folder"),
    (NoPartsFolderSync, "retry of a folder"),
    (NoRejectsFolderSync, "a folder"),
    (NoRejectsSync, "a folder"),
    (RenameForLink, "two shards into a folder"),
    (NoExchangeSync, "joined parts"),
]


def is_noticed(scenario: Scenario) -> None:
    with pytest.raises((AssertionError, AsyncBatchError, pa.ArrowException, OSError)):
        torture(scenario, crashes=600)


def changed(
    name: str, disk: type[ModelDisk] | None = None, store: type[LocalStore] | None = None
) -> Scenario:
    """The scenario, on another disk or through another store; before it begins, nothing is changed."""
    values = {each: getattr(NAMED[name], each) for each in Scenario.__dataclass_fields__}
    start = NAMED[name].start

    class Changed(Scenario):
        def start(self, seed: str) -> World:
            world = start(seed)
            if disk is not None:
                world.disk.__class__ = disk
            if store is not None:
                world.store_class = store
            return world

    return Changed(**values)


@pytest.mark.parametrize(("disk", "name"), ON_DISK)
def test_it_notices_when_a_step_is_left_out(disk: type[ModelDisk], name: str) -> None:
    is_noticed(changed(name, disk=disk))


class SharedRejectsName(LocalStore):
    """Every attempt at a block writes the same rejects file."""

    def create_if_absent(self, name: str, write: Write) -> bool:
        if not name.startswith(REJECTS):
            return super().create_if_absent(name, write)
        self.replace(name, write)
        return True


def test_it_notices_when_attempts_share_a_rejects_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "rejects_name", lambda block, attempt: f"rejects/{block.name}.parquet")
    is_noticed(changed("two shards into a folder", store=SharedRejectsName))


class ReplacedInTwoSteps(LocalStore):
    """The old file goes, then the new one comes."""

    def replace(self, name: str, write: Write, *, expected: Entry | None = None) -> None:
        if name.endswith((".parquet", ".x")):
            self.delete(name)
        super().replace(name, write)


@pytest.mark.parametrize(
    "name", ["retry of a folder", "retry of a Parquet file", "retry of a CSV file", "overwriting a CSV file"]
)
def test_it_notices_when_a_file_is_replaced_in_two_steps(name: str) -> None:
    is_noticed(changed(name, store=ReplacedInTwoSteps))


def test_it_notices_when_the_rejects_come_after_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    order = PartsSink._write_rejects
    late: list[Callable[[], object]] = []

    def later(sink: PartsSink, block: Block, rejects: list[Reject]) -> str:
        name = f"rejects/{block.name}-late.parquet"
        monkeypatch.setattr(parts, "rejects_name", lambda block, attempt: name)
        late.append(lambda: order(sink, block, rejects))
        return name if rejects else ""

    commit = PartsSink._commit

    def first(sink: PartsSink, footer: object, table: pa.Table) -> None:
        commit(sink, footer, table)  # type: ignore[arg-type]
        late.pop()()

    monkeypatch.setattr(PartsSink, "_write_rejects", later)
    monkeypatch.setattr(PartsSink, "_commit", first)
    is_noticed(NAMED["a folder"])


def members_first(self: LocalStore, root: Path, fresh: Path, swaps: list[Swap]) -> None:
    for each in swaps:
        for name in each.removed:
            self._files.unlink(root / name)
        self._files.link(fresh / each.added, root / each.added)
        self._files.sync_folder(root)


def test_it_notices_when_members_go_before_the_joined_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "_one_by_one", members_first)
    is_noticed(NAMED["joined parts without exchange"])


# A retry and a publication with their steps in another order.


def parts_go_before_the_record(patch: pytest.MonkeyPatch) -> None:
    published = output.publish

    def then_remove(**given: Any) -> publish.Published:
        found = published(**given)
        given["parts_store"].delete(*(part.name for part in given["parts"]))
        return found

    patch.setattr(output, "publish", then_remove)


def parts_go_before_the_file(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Output, "_finish", Output._remove_published_parts)


def success_stays_while_parts_are_replaced(patch: pytest.MonkeyPatch) -> None:
    delete = LocalStore.delete
    keep = (SUCCESS, MANIFEST)
    patch.setattr(
        LocalStore, "delete", lambda self, *names: delete(self, *(n for n in names if n not in keep))
    )


def record_goes_first(patch: pytest.MonkeyPatch) -> None:
    for name in ("finish_folder", "finish_file"):
        finish = getattr(retrying, name)

        def early(attempt: Attempt, *arguments: Any, finish: Any = finish, **options: Any) -> object:
            attempt.state.delete(RETRY)
            return finish(attempt, *arguments, **options)

        patch.setattr(retrying, name, early)


def old_rejects_go_first(patch: pytest.MonkeyPatch) -> None:
    finish = retrying.finish_folder

    def early(attempt: Attempt, *arguments: Any, **options: Any) -> object:
        attempt.state.delete(*(entry.name for entry in attempt.state.list(REJECTS)))
        return finish(attempt, *arguments, **options)

    patch.setattr(retrying, "finish_folder", early)


def new_parts_are_not_complete(patch: pytest.MonkeyPatch) -> None:
    def half(store: Store, name: str, file: BinaryIO) -> None:
        with store.open(name) as source:
            file.write(source.read(500))

    patch.setattr(retry_folder, "_copy", half)


RETRIES: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (parts_go_before_the_record, "a CSV file"),
    (parts_go_before_the_file, "a Parquet file"),
    (success_stays_while_parts_are_replaced, "retry of a folder"),
    (record_goes_first, "retry of a Parquet file"),
    (old_rejects_go_first, "retry of a folder"),
    (new_parts_are_not_complete, "retry of a folder"),
]


@pytest.mark.parametrize(("broken", "name"), RETRIES)
def test_it_notices_when_a_retry_or_a_publication_does_things_too_early(
    broken: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NAMED[name].start("0")
    broken(monkeypatch)
    is_noticed(NAMED[name])


# --overwrite in another order.


def plan_goes_first(location: SinkLocation, *, state: Store, parts: Store, target: Store) -> Any:
    state.delete(*(entry.name for entry in state.list("job-")))
    return ours.wipe(location, state=state, parts=parts, target=target)


def rejects_go_first(location: SinkLocation, *, state: Store, parts: Store, target: Store) -> Any:
    state.delete(*(entry.name for entry in state.list(REJECTS)))
    return ours.wipe(location, state=state, parts=parts, target=target)


def success_stays(location: SinkLocation, *, state: Store, parts: Store, target: Store) -> Any:
    parts.delete(*(entry.name for entry in parts.list()))
    return ours.wipe(location, state=state, parts=parts, target=target)


def parts_stay(location: SinkLocation, *, state: Store, parts: Store, target: Store) -> Any:
    found = state.list("job-")
    state.delete(SUCCESS, MANIFEST, ERRORS, *(entry.name for entry in found))


@pytest.mark.parametrize("wipe", [plan_goes_first, rejects_go_first, success_stays, parts_stay])
def test_it_notices_when_overwriting_wipes_in_the_wrong_order(
    wipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = NAMED["overwriting a folder"]
    scenario.start("0")
    monkeypatch.setattr("crash_world.wipe", wipe)
    is_noticed(scenario)
