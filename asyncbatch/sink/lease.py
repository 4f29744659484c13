"""Who works on a job: so that a second start by mistake stops at once, and names the first.

Advisory. Nothing of what is promised about the output rests on it: two processes that both believe to hold it
only score some rows twice. A holder on this machine is dead as soon as its process is gone; any other when it
has not renewed its lease for a minute.
"""

import json
import logging
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from asyncbatch.control.sharding import overlap
from asyncbatch.errors import BusyError, StorageError
from asyncbatch.sink.layout import LEASES
from asyncbatch.store.base import Store, read_bytes
from asyncbatch.units import Shard

_log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
DEAD_AFTER_S = 60.0
WHOLE = "all"
"""The shard name of a process that does the whole job."""
FINISH = "finish"
"""Held, beside its shard's lease, by the one of several shards that publishes the output."""
_SHARD = re.compile(r"(\d+)-of-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that works on a job, as its lease says."""

    host: str
    boot: str
    """Boot id of that machine and its process namespace; empty where unknown."""
    pid: int
    started: str
    """Start time of the process in the units of its system: tells it from a later one of the same number."""
    owner: str
    """Marks its unfinished files."""
    heartbeat: float
    """Seconds since 1970, by the holder's clock."""
    since: float = 0.0
    """When it took the lease, by the same clock."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Machine(Protocol):
    """What can be known of this machine and its processes."""

    def myself(self, owner: str) -> Holder: ...

    def process_started(self, pid: int) -> str | None:
        """None if there is no such process; empty if its start time cannot be known."""
        ...


class ThisMachine:
    """The real one."""

    def myself(self, owner: str) -> Holder:
        pid = os.getpid()
        return Holder(
            host=socket.gethostname(),
            boot=_boot(),
            pid=pid,
            started=self.process_started(pid) or "",
            owner=owner,
            heartbeat=time.time(),
        )

    def process_started(self, pid: int) -> str | None:
        if sys.platform == "linux":
            try:
                text = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                return None
            # proc(5): the name in parentheses may hold anything; after it, field 3 is the state and 22 the
            # start.
            rest = text.rpartition(")")[2].split()
            return None if rest[0] in ("Z", "X") else rest[19]
        # mypy takes what follows an `if` of another platform for dead, hence `elif`.
        elif sys.platform == "win32":  # noqa: RET505
            return ""  # os.kill would end the process there; its heartbeat decides
        else:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return None
            except OSError:
                pass  # it exists and is someone else's
            return ""


def is_alive(holder: Holder, *, here: Holder, machine: Machine, now: float) -> bool:
    """Whether `holder` may still be at work, seen from `here`."""
    if holder.host == here.host and holder.boot == here.boot and here.boot:
        started = machine.process_started(holder.pid)
        if started is None:
            return False
        if started and holder.started:
            return started == holder.started
    return now - holder.heartbeat < DEAD_AFTER_S


class Lease:
    """Held by this process until `release`; call `heartbeat` every `HEARTBEAT_S` seconds."""

    def __init__(
        self, store: Store, shard: str, holder: Holder, machine: Machine, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._shard = shard
        self._name = _name(shard)
        self._holder = holder
        self._machine = machine
        self._clock = clock
        self._taken_by: Holder | None = None

    @property
    def taken_by(self) -> Holder | None:
        """Who has it, after `heartbeat` returned False; None where that is not known."""
        return self._taken_by

    def heartbeat(self) -> bool:
        """Renew it; False if another process has taken it meanwhile, because this one looked dead.

        One that is merely gone is made again. A disk that fails now is no reason to stop: whatever must be
        written will say so.
        """
        try:
            there = _read(self._store, self._name)
            if there is None:
                there = self._blocker()
            if there is not None and there.owner != self._holder.owner:
                self._taken_by = there
                return False
            self._holder = replace(self._holder, heartbeat=self._clock())
            _store_holder(self._store, self._name, self._holder)
        except StorageError as error:
            _log.warning("the lease could not be renewed: %s", error.message)
        return True

    def _blocker(self) -> Holder | None:
        if self._shard == FINISH:
            return None
        return blocker(self._store, shard=self._shard, machine=self._machine, clock=self._clock)

    def release(self) -> None:
        """Give it back. Idempotent, and quiet when the disk fails: a lease ends with its process anyway."""
        try:
            if self._mine():
                self._store.delete(self._name)
        except StorageError as error:
            _log.warning("the lease could not be given back: %s", error.message)

    def _mine(self) -> bool:
        there = _read(self._store, self._name)
        return there is not None and there.owner == self._holder.owner


def acquire(
    store: Store,
    *,
    owner: str,
    shard: str = WHOLE,
    alone: bool = False,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.time,
) -> Lease:
    """Take the lease of a shard (`0-of-4`) or of the whole job, and sweep what dead holders left unfinished.

    The whole job excludes every other holder, and a shard those that could have a block in common with it.

    Args:
        store: the state folder.
        owner: marks this process's unfinished files.
        alone: no other shard may be at work either.

    Raises:
        BusyError: a live process holds it; the message names it.
    """
    machine = machine if machine is not None else ThisMachine()
    here = machine.myself(owner)
    here = replace(here, heartbeat=clock(), since=clock())
    alive: set[str] = set()
    dead: set[str] = set()
    for other, holder, lives in holders(store, machine=machine, clock=clock):
        if holder.owner == owner:
            continue
        (alive if lives else dead).add(holder.owner)
        if lives and (alone or _excludes(shard, other)):
            raise _held(store, holder)
        if not lives and other != shard and _excludes(shard, other):
            store.delete(_name(other))  # so that it learns, should it come back
    lease = _take(store, shard, here, machine, clock)
    if isinstance(lease, Holder):
        raise _held(store, lease)
    store.sweep(live=alive, dead=dead, before=clock() - DEAD_AFTER_S)
    return lease


def acquire_finish(
    store: Store,
    *,
    owner: str,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.time,
) -> Lease | Holder:
    """The lease of the one that publishes the output; or the live process that has it."""
    machine = machine if machine is not None else ThisMachine()
    here = replace(machine.myself(owner), heartbeat=clock(), since=clock())
    return _take(store, FINISH, here, machine, clock)


def blocker(
    store: Store,
    *,
    shard: str = WHOLE,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.time,
) -> Holder | None:
    """The live process because of which `acquire` would refuse; None if there is none."""
    for other, holder, lives in holders(store, machine=machine, clock=clock):
        if lives and _excludes(shard, other):
            return holder
    return None


def forget_dead(
    store: Store, *, machine: Machine | None = None, clock: Callable[[], float] = time.time
) -> None:
    """Remove what dead holders left, their leases too: once a job is finished nobody needs to know of them."""
    found = holders(store, machine=machine, clock=clock)
    dead = [(shard, holder.owner) for shard, holder, lives in found if not lives]
    if dead:
        alive = {holder.owner for _, holder, lives in found if lives}
        store.sweep(live=alive, dead={owner for _, owner in dead}, before=clock() - DEAD_AFTER_S)
        store.delete(*(_name(shard) for shard, _ in dead))


def holders(
    store: Store, *, machine: Machine | None = None, clock: Callable[[], float] = time.time
) -> list[tuple[str, Holder, bool]]:
    """Shard, holder and whether it may still be at work, of every lease that is there."""
    machine = machine if machine is not None else ThisMachine()
    here = machine.myself("")
    found = []
    for entry in store.list(LEASES):
        holder = _read(store, entry.name)
        if holder is not None:
            shard = entry.name.removeprefix(LEASES).removesuffix(".json")
            found.append((shard, holder, is_alive(holder, here=here, machine=machine, now=clock())))
    return found


def lease_name(shard: Shard | None) -> str:
    """The shard name of a process: `0-of-4`, or `WHOLE`."""
    return WHOLE if shard is None or shard.of == 1 else f"{shard.index}-of-{shard.of}"


def leased_shard(name: str) -> Shard | None:
    """The shard of a lease's name; None for `FINISH`, and for names that are none."""
    if name == WHOLE:
        return Shard(0, 1)
    match = _SHARD.fullmatch(name)
    return (
        Shard(int(match[1]), int(match[2])) if match is not None and int(match[1]) < int(match[2]) else None
    )


def new_owner() -> str:
    """A mark of this process, unlike any other."""
    return uuid.uuid4().hex[:12]


def _excludes(shard: str, other: str) -> bool:
    """Whether holders of the two cannot be at work at once."""
    if WHOLE in (shard, other):
        return True
    one, two = leased_shard(shard), leased_shard(other)
    return one is not None and two is not None and overlap(one, two)


def _take(
    store: Store, shard: str, here: Holder, machine: Machine, clock: Callable[[], float]
) -> Lease | Holder:
    """The lease, or who was faster."""
    content = _content(here)
    if not store.create_if_absent(_name(shard), lambda file: file.write(content)):
        there = _read(store, _name(shard))
        other = there is not None and there.owner != here.owner
        if there is not None and other and is_alive(there, here=here, machine=machine, now=clock()):
            return there
        _store_holder(store, _name(shard), here)  # of a dead holder
    taken = _read(store, _name(shard))
    if taken is not None and taken.owner != here.owner:
        return taken
    return Lease(store, shard, here, machine, clock)


def _name(shard: str) -> str:
    return f"{LEASES}{shard}.json"


def _held(store: Store, holder: Holder) -> BusyError:
    return BusyError(
        f"{holder} is at work on {store.root}",
        hint="--wait waits for its end, and --if-idle takes it for no failure; or stop it: the same command goes on",
    )


def _boot() -> str:
    """Empty where the system does not tell: then only heartbeats count."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers share the boot id but not their process numbers.
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown" if sys.platform == "darwin" else ""


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode() + b"\n"


def _store_holder(store: Store, name: str, holder: Holder) -> None:
    content = _content(holder)
    store.replace(name, lambda file: file.write(content))


def _read(store: Store, name: str) -> Holder | None:
    """None if it is gone or unreadable: then nobody holds it."""
    try:
        return Holder(**json.loads(read_bytes(store, name)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
