"""Who is alive, who is dead, and who may start."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from asyncbatch.errors import BusyError, StoppedError, StorageError
from asyncbatch.sink.lease import (
    DEAD_AFTER_S,
    Holder,
    Lease,
    ThisMachine,
    acquire,
    acquire_finish,
    blocker,
    forget_dead,
    is_alive,
    lease_name,
    leased_shard,
)
from asyncbatch.store import LocalStore
from asyncbatch.units import Shard

HERE = Holder(host="here", boot="b1", pid=10, started="100", owner="me", heartbeat=1000.0)


class Machine:
    """Processes by number, and what time it is."""

    def __init__(self, processes: dict[int, str], me: Holder = HERE) -> None:
        self.processes, self.me, self.now = processes, me, 1000.0

    def myself(self, owner: str) -> Holder:
        return dataclasses.replace(self.me, owner=owner)

    def process_started(self, pid: int) -> str | None:
        return self.processes.get(pid)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("change", "age_s", "alive"),
    [
        ({}, 0.0, True),
        ({}, 10_000.0, True),
        ({"started": "99"}, 0.0, False),
        ({"pid": 11}, 0.0, False),
        ({"pid": 11, "host": "there"}, 59.0, True),
        ({"pid": 11, "host": "there"}, 61.0, False),
        ({"boot": "b2"}, 59.0, True),
        ({"boot": "b2"}, 61.0, False),
        ({"boot": ""}, 61.0, False),
    ],
    ids=[
        "this process",
        "an old heartbeat of a living process",
        "another process of its number",
        "a process that is gone",
        "another machine, fresh",
        "another machine, silent",
        "another container or a reboot, fresh",
        "another container or a reboot, silent",
        "unknown boot, silent",
    ],
)
def test_who_is_alive(change: dict[str, object], age_s: float, alive: bool) -> None:
    holder = dataclasses.replace(HERE, **change)  # type: ignore[arg-type]
    assert is_alive(holder, here=HERE, machine=Machine({10: "100"}), now=1000.0 + age_s) is alive


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path, tmp_path)


def test_a_second_start_is_stopped_and_told_by_whom(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    acquire(store, owner="one", machine=machine, clock=machine.clock)
    with pytest.raises(StoppedError, match="process 10 on here is at work on") as caught:
        acquire(store, owner="two", machine=machine, clock=machine.clock)
    assert caught.value.exit_code == 75


def test_a_dead_holder_is_followed_at_once_on_the_same_machine(store: LocalStore) -> None:
    acquire(store, owner="one", machine=Machine({10: "100"}))
    lease = acquire(
        store, owner="two", machine=Machine({10: "555"}, dataclasses.replace(HERE, started="555"))
    )
    assert lease.heartbeat()


def test_a_silent_holder_elsewhere_is_followed_after_a_minute(store: LocalStore) -> None:
    there = Machine({10: "100"}, dataclasses.replace(HERE, host="there"))
    one = acquire(store, owner="one", machine=there, clock=there.clock)
    here = Machine({10: "100"})
    here.now = there.now + DEAD_AFTER_S - 1
    with pytest.raises(StoppedError, match="on there"):
        acquire(store, owner="two", machine=here, clock=here.clock)
    there.now = here.now
    assert one.heartbeat()
    here.now += DEAD_AFTER_S - 1
    with pytest.raises(StoppedError):
        acquire(store, owner="two", machine=here, clock=here.clock)
    here.now += 2
    two = acquire(store, owner="two", machine=here, clock=here.clock)
    assert not one.heartbeat(), "it notices that it was taken for dead"
    one.release()
    assert two.heartbeat(), "and does not release what is not its own"


def test_a_disk_that_fails_does_not_end_the_run_for_its_lease(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lease = acquire(store, owner="one", machine=Machine({10: "100"}))

    def fail(*args: object) -> None:
        raise StorageError("no space left while writing lease/all.json")

    monkeypatch.setattr(store, "replace", fail)
    monkeypatch.setattr(store, "delete", fail)
    assert lease.heartbeat()
    lease.release()
    assert sum("no space left" in record.getMessage() for record in caplog.records) == 2


def test_released_is_free(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    lease = acquire(store, owner="one", machine=machine, clock=machine.clock)
    lease.release()
    lease.release()
    acquire(store, owner="two", machine=machine, clock=machine.clock)


def test_shards_exclude_themselves_and_the_whole(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    acquire(store, owner="one", shard="0-of-2", machine=machine, clock=machine.clock)
    acquire(store, owner="two", shard="1-of-2", machine=machine, clock=machine.clock)
    for shard in ("0-of-2", "1-of-2", "all"):
        with pytest.raises(StoppedError):
            acquire(store, owner="three", shard=shard, machine=machine, clock=machine.clock)


def test_the_whole_excludes_shards(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    acquire(store, owner="one", machine=machine, clock=machine.clock)
    with pytest.raises(StoppedError):
        acquire(store, owner="two", shard="0-of-2", machine=machine, clock=machine.clock)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_an_unreadable_lease_holds_nobody_up(store: LocalStore, content: bytes) -> None:
    store.replace("lease/all.json", lambda file: file.write(content))
    assert acquire(store, owner="two", machine=Machine({10: "100"})).heartbeat()


def test_what_the_dead_left_unfinished_is_swept(store: LocalStore) -> None:
    acquire(store, owner="one", machine=Machine({10: "100"}))
    temp = Path(store.root) / "tmp"
    (temp / "one-unfinished").touch()
    (temp / "unknown-young").touch()
    acquire(store, owner="two", machine=Machine({}))
    assert [each.name for each in temp.iterdir()] == ["unknown-young"]


def test_a_lease_says_where_and_who(store: LocalStore) -> None:
    acquire(store, owner="one")
    values = json.loads((Path(store.root) / "lease" / "all.json").read_text())
    assert values["pid"] == os.getpid()
    assert values["heartbeat"] > 1.7e9


@pytest.mark.skipif(sys.platform != "linux", reason="process start times are read from /proc")
def test_this_machine_knows_the_living_the_dead_and_the_unburied() -> None:
    machine = ThisMachine()
    me = machine.myself("x")
    assert me.started
    assert me.boot
    assert machine.process_started(os.getpid()) == me.started
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert machine.process_started(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for
        assert machine.process_started(child.pid) is None
    finally:
        child.kill()
        child.wait()
    assert machine.process_started(child.pid) is None


def test_shards_of_another_number_exclude_those_that_they_overlap(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    acquire(store, owner="one", shard="0-of-2", machine=machine, clock=machine.clock)
    for shard in ("0-of-3", "1-of-3", "1-of-4"):
        with pytest.raises(BusyError):
            acquire(store, owner="two", shard=shard, machine=machine, clock=machine.clock)
    for shard in ("2-of-3", "2-of-4"):
        acquire(store, owner=shard, shard=shard, machine=machine, clock=machine.clock).release()


def test_one_of_several_shards_finishes(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    for shard in ("0-of-2", "1-of-2"):
        acquire(store, owner=shard, shard=shard, machine=machine, clock=machine.clock)
    one = acquire_finish(store, owner="0-of-2", machine=machine, clock=machine.clock)
    assert isinstance(one, Lease)
    held = acquire_finish(store, owner="1-of-2", machine=machine, clock=machine.clock)
    assert isinstance(held, Holder)
    assert held.owner == "0-of-2"
    one.release()
    assert isinstance(acquire_finish(store, owner="1-of-2", machine=machine, clock=machine.clock), Lease)


def test_who_died_while_finishing_is_followed_at_once(store: LocalStore) -> None:
    acquire_finish(store, owner="dead", machine=Machine({10: "100"}))
    assert isinstance(acquire_finish(store, owner="next", machine=Machine({})), Lease)


@pytest.mark.parametrize(("held", "taken"), [("0-of-2", "all"), ("all", "0-of-2"), ("0-of-2", "0-of-3")])
def test_who_was_taken_for_dead_learns_of_a_holder_of_another_name(
    held: str, taken: str, store: LocalStore
) -> None:
    there = Machine({10: "100"}, dataclasses.replace(HERE, host="there"))
    one = acquire(store, owner="one", shard=held, machine=there, clock=there.clock)
    here = Machine({10: "100"})
    here.now = there.now = there.now + DEAD_AFTER_S + 1
    two = acquire(store, owner="two", shard=taken, machine=here, clock=here.clock)
    assert not one.heartbeat()
    assert str(one.taken_by) == "process 10 on here"
    assert two.heartbeat()


def test_a_lease_that_is_merely_gone_is_made_again(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    lease = acquire(store, owner="one", machine=machine, clock=machine.clock)
    store.delete("lease/all.json")
    assert lease.heartbeat()
    with pytest.raises(BusyError):
        acquire(store, owner="two", machine=machine, clock=machine.clock)


def test_of_two_that_start_at_once_one_gets_it(store: LocalStore) -> None:
    """Both have looked before either has written."""
    machine = Machine({10: "100"})
    create = store.create_if_absent

    def late(name: str, write: Callable[[BinaryIO], object]) -> bool:
        store.create_if_absent = create  # type: ignore[method-assign]
        acquire(store, owner="two", machine=machine, clock=machine.clock)
        return create(name, write)

    store.create_if_absent = late  # type: ignore[method-assign]
    with pytest.raises(BusyError):
        acquire(store, owner="one", machine=machine, clock=machine.clock)


def test_who_is_in_the_way_and_who_is_forgotten(store: LocalStore) -> None:
    machine = Machine({10: "100"})
    acquire(store, owner="one", shard="0-of-2", machine=machine, clock=machine.clock)
    assert blocker(store, shard="1-of-2", machine=machine, clock=machine.clock) is None
    assert str(blocker(store, machine=machine, clock=machine.clock)) == "process 10 on here"
    forget_dead(store, machine=machine, clock=machine.clock)
    assert [entry.name for entry in store.list("lease/")] == ["lease/0-of-2.json"]
    forget_dead(store, machine=Machine({}))
    assert store.list("lease/") == []


@pytest.mark.parametrize(
    ("name", "shard"),
    [("all", Shard(0, 1)), ("1-of-4", Shard(1, 4)), ("4-of-4", None), ("finish", None), ("x", None)],
)
def test_names_of_leases(name: str, shard: Shard | None) -> None:
    assert leased_shard(name) == shard
    if shard is not None:
        assert lease_name(shard) == name
    assert lease_name(None) == "all"
