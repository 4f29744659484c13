"""Crash a model of a disk before every operation of the commit protocol, and check what is left.

    python benchmarks/crash_model.py                      # 20,000 crashes; writes results/crash_model.json
    python -m pytest tests/property/test_sink_crash_model.py

The real store and sink run over the disk of crash_disk.py; crash_world.py says what must hold. After a crash the same
command is given again, or another that a person may give then, and crashes again, until it ends. In every scenario the
first crash is before each operation once, each in another order of blocks; later ones are before random operations.
"""

import argparse
import contextlib
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from crash_disk import Crash, ModelDisk, nothing
from crash_world import ROWS, STATE, World, blocks_of

from asyncbatch.errors import AsyncBatchError, OutputError, StorageError
from asyncbatch.sink.layout import Format

Command = Callable[[World], None]
MOST_CRASHES_OF_A_RUN = 5
MOST_ERRORS_OF_A_RUN = 10
BESIDE_ANOTHER = ("vanished", "is gone", "were not scored again", "meanwhile", "while it was retried")
"""What a command may end with when another process takes it for dead and does its work."""
AS_ANOTHER = ("was interrupted", "was not written by this job", "is not finished")
"""What a command may end with when another one was interrupted."""


@dataclass(frozen=True)
class Scenario:
    """What is done on the disk, and what may go on beside it."""

    name: str
    world: Callable[[], World]
    command: Command = World.run
    before: Command | None = None
    """Given once, without a crash."""
    others: tuple[Command, ...] = ()
    """What may be given after a crash instead of the command; in the end it is the command again."""
    beside: Callable[[World], Command] | None = None
    """What another process does between any two steps, until the first crash."""
    readers: bool = False
    """Whoever lists the folder sees every row once, at every step."""

    def start(self, seed: str) -> World:
        """The world that the command finds."""
        world = _prepared(self).again(seed)
        if self.beside is not None:
            meddle = self.beside(world)
            rng = random.Random(world.disk.rng.random())

            def hook() -> None:
                crashes_now = world.disk.steps == world.disk.crash_at
                if not world.disk.locked and rng.random() < (0.5 if crashes_now else 0.05):
                    world.disk.hook, saved = nothing, world.disk.hook
                    try:
                        meddle(world)
                    finally:
                        world.disk.hook = saved

            world.disk.hook = hook
        elif self.readers:
            world.disk.hook = world.check_readers
        return world


@cache
def _prepared(scenario: Scenario) -> World:
    world = scenario.world()
    if scenario.before is not None:
        scenario.before(world)
        world.check()
        world.disk.reboot()
    return world


def another_shard(world: World, *, others_alive: bool = True) -> Command:
    """Another process of the same job: commits a block of its own, and finishes when it sees every row."""
    rng = random.Random(world.disk.rng.random())

    def meddle(world: World) -> None:
        output = world.open(number=2, others_alive=others_alive)
        if output.plan is not None and not output.finished:
            block = rng.choice(blocks_of(output.plan, rng.choice(list(ROWS))))
            world.commit(output.sink, block, mended=False)
            world.check()
            if rng.random() < 0.5 and output.may_finish() and output.finish({}) is not None:
                world.finished = True
                world.check()
        output.close()

    return meddle


def one_that_takes_us_for_dead(world: World) -> Command:
    return another_shard(world, others_alive=False)


def another_retry(world: World) -> Command:
    """Another process takes the first for dead, and does the same retry."""
    world.retried_by_two = True

    def meddle(world: World) -> None:
        if world.disk.rng.random() < 0.4:
            world.retry()
            world.check()

    return meddle


def joining(world: World) -> None:
    """The same job, with its parts joined at the end from now on."""
    world.file_size = 100_000
    world.run()


def into(
    form: Format | None = None, *, exchanges: bool = True, links: bool = True, **more: Any
) -> Callable[[], World]:
    """An output that is new: a folder, or a single file of a format."""

    def make() -> World:
        world = World(ModelDisk("0", links=links), form, **more)
        world.disk.exchanges = exchanges
        return world

    return make


def retry_joining(world: World) -> None:
    """`retry --file-size`."""
    world.file_size = 100_000
    world.retry()


def interrupted_retry(world: World) -> None:
    """A finished run, and a retry of it that a crash ended half-way."""
    world.run()
    world.disk.crash_at = world.disk.steps + 120
    with contextlib.suppress(Crash):
        world.retry()
    assert world.disk.dead
    world.disk.reboot()
    world.check()
    world.hear(retried=world.retrying())


RUN, RETRY, OVERWRITE = World.run, World.retry, World.overwrite
JOINED = {"file_size": 100_000}
SCENARIOS = (
    Scenario("a folder", into()),
    Scenario("a Parquet file", into("parquet")),
    Scenario("a CSV file", into("csv")),
    Scenario("a folder without hard links", into(links=False)),
    Scenario("two shards into a folder", into(shards=True), beside=another_shard),
    Scenario("two shards into a Parquet file", into("parquet", shards=True), beside=another_shard),
    Scenario("two shards without hard links", into(links=False, shards=True), beside=another_shard),
    Scenario("a folder beside one that takes us for dead", into(), beside=one_that_takes_us_for_dead),
    Scenario("a CSV file beside one that takes us for dead", into("csv"), beside=one_that_takes_us_for_dead),
    Scenario(
        "no hard links beside one that takes us for dead",
        into(links=False),
        beside=one_that_takes_us_for_dead,
    ),
    Scenario("joined parts", into(**JOINED), readers=True),
    Scenario("joined parts without exchange", into(exchanges=False, **JOINED)),
    Scenario(
        "joined parts of two shards", into(exchanges=False, shards=True, **JOINED), beside=another_shard
    ),
    Scenario(
        "joined parts beside one that takes us for dead",
        into(exchanges=False, **JOINED),
        beside=one_that_takes_us_for_dead,
    ),
    Scenario("retry of a folder", into(), RETRY, RUN, (RUN, joining)),
    Scenario("retry of a Parquet file", into("parquet"), RETRY, RUN, (RUN,)),
    Scenario("retry of a CSV file", into("csv"), RETRY, RUN, (RUN,)),
    Scenario("retry of joined parts", into(**JOINED), RETRY, RUN, (RUN,)),
    Scenario("retry that joins the parts", into(), retry_joining, RUN, (RUN, RETRY)),
    Scenario(
        "retry of a folder beside one that takes us for dead", into(), RETRY, RUN, (RUN,), another_retry
    ),
    Scenario(
        "retry of a Parquet file beside one that takes us for dead",
        into("parquet"),
        RETRY,
        RUN,
        (),
        another_retry,
    ),
    Scenario("overwriting a folder", into(), OVERWRITE, RUN, (RUN,)),
    Scenario("overwriting joined parts", into(exchanges=False, **JOINED), OVERWRITE, RUN, (RUN,)),
    Scenario("overwriting a Parquet file", into("parquet"), OVERWRITE, RUN, (RUN,)),
    Scenario("overwriting a CSV file", into("csv"), OVERWRITE, RUN, (RUN,)),
    Scenario("overwriting a retry that was interrupted", into(), OVERWRITE, interrupted_retry, (RUN,)),
)


@dataclass
class Survived:
    """Crashes after which everything held."""

    by_operation: Counter[str] = field(default_factory=Counter)
    """The operation that the crash was before."""
    runs: int = 0

    @property
    def crashes(self) -> int:
        return self.by_operation.total()


def torture(scenario: Scenario, *, crashes: int) -> Survived:
    """Crash at every step of the command, in many orders, and then at random ones, until there were so many.

    Raises:
        AssertionError: something did not hold.
    """
    survived = Survived()
    for seed in itertools.count():
        steps = to_the_end(scenario, f"{seed}", crash_at=None, again=0, survived=survived)
        # Not from the first on: of few crashes some are late ones too.
        for first in random.Random(seed).sample(range(1, steps + 1), steps):
            to_the_end(scenario, f"{seed}, {first}", crash_at=first, again=steps, survived=survived)
            if survived.crashes >= crashes:
                return survived
    raise AssertionError("unreachable")


def to_the_end(scenario: Scenario, seed: str, *, crash_at: int | None, again: int, survived: Survived) -> int:
    """The command, repeated until it ends: a crash at `crash_at`, and some at random among `again` steps.

    How many steps its last start took.
    """
    world = scenario.start(seed)
    disk = world.disk
    disk.crash_at = crash_at
    crashes = errors = 0
    command = scenario.command
    survived.runs += 1
    while True:
        try:
            command(world)
            if command is scenario.command:
                break
            world.check()
            command = scenario.command
        except (StorageError, OutputError) as error:
            expected = (
                *(BESIDE_ANOTHER if scenario.beside else ()),
                *(AS_ANOTHER if scenario.others else ()),
            )
            if errors == MOST_ERRORS_OF_A_RUN or not any(each in error.message for each in expected):
                raise
            errors += 1
            disk.hook = nothing
            command = _second(scenario, error)
        except Crash:
            crashes += 1
            survived.by_operation[disk.crashed_before] += 1
            disk.reboot()
            world.check()
            world.hear(retried=world.retrying())
            if crashes < MOST_CRASHES_OF_A_RUN:
                disk.crash_at = disk.rng.randint(1, again)
            others = scenario.others if disk.rng.random() < 0.3 else ()
            command = disk.rng.choice(others) if others else scenario.command
    steps = disk.steps
    for _ in range(2):  # the power may go right after the end as well
        world.check()
        assert STATE / "_SUCCESS" in disk.names
        disk.reboot()
    return steps


def _second(scenario: Scenario, error: AsyncBatchError) -> Command:
    """What a person gives after an error: a retry says so when the run has to be ended first."""
    if scenario.command in (RETRY, retry_joining) and "is not finished" in error.message:
        return RUN
    return scenario.command


def results(crashes: int) -> Iterator[tuple[Scenario, Survived]]:
    """Every scenario with its share."""
    for scenario in SCENARIOS:
        yield scenario, torture(scenario, crashes=-(-crashes // len(SCENARIOS)))


def main() -> None:
    from measuring import save, surroundings

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--crashes", type=int, default=20_000)
    asked = parser.parse_args()
    logging.disable()  # what a store says of a disk without hard links
    began = time.monotonic()
    operations: Counter[str] = Counter()
    by_scenario = {}
    for scenario, survived in results(asked.crashes):
        operations += survived.by_operation
        by_scenario[scenario.name] = survived.crashes
        print(f"{scenario.name}: {survived.crashes} crashes in {survived.runs} runs", flush=True)
    result = {
        "what": "crashes of a modelled disk, each followed by a check of all that must hold",
        **surroundings("pyarrow"),
        "seed": 0,
        "seconds": round(time.monotonic() - began, 1),
        "crashes": operations.total(),
        "violations": 0,
        "crashes_before": dict(sorted(operations.items())),
        "crashes_by_scenario": by_scenario,
    }
    print(save("crash_model", result))


if __name__ == "__main__":
    main()
