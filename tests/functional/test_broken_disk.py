"""Whole commands on a disk that is full, or breaks: they stop with one sentence, and the same command ends them.

First with failures put in at chosen calls to the operating system, then on a small file system that is really full, and
under strace, where the kernel itself answers EIO.
"""

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncbatch.sink.layout import parse_part_name
from asyncbatch.store.filesystem import OsFileSystem

ROOT = Path(__file__).resolve().parents[2]
ROWS = 600
MODEL = """
import os, pathlib
import pyarrow.compute as pc

LEFT = pathlib.Path("left")

def score(batch):
    mended = pathlib.Path("mended").exists()
    if pathlib.Path("finished").exists():
        raise SystemError("it was asked again")
    if LEFT.exists():
        fill_up()
    if not mended and any(x in (13.0, 377.0) for x in batch["x"].to_pylist()):
        raise ValueError("refused")
    return pc.multiply(batch["x"], 3 if mended else 2)

def fill_up():
    # Not before the plan is there: a disk that is full then is refused.
    filler = pathlib.Path("disk/filler")
    states = list(pathlib.Path("disk").glob("*.asyncbatch/job-000001.json"))
    if states and not filler.exists():
        found = os.statvfs("disk")
        size = found.f_bavail * found.f_frsize - int(LEFT.read_text())
        with filler.open("wb") as file:
            file.write(bytes(max(0, size)))
"""
RUN = ("run", "in.parquet")
COMMON = ("-e", "python:disk_model:score", "--send", "x", "--no-progress", "--block-rows", "100")
COMMANDS = {
    "a folder": (*RUN, "out", *COMMON),
    "a Parquet file": (*RUN, "out.parquet", *COMMON),
    "a CSV file": (*RUN, "out.csv", *COMMON),
    "joined parts": (*RUN, "out", *COMMON, "--file-size", "1MB"),
    "retry of a folder": ("retry", "out", "-e", "python:disk_model:score", "--no-progress"),
    "retry of a CSV file": ("retry", "out.csv", "-e", "python:disk_model:score", "--no-progress"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    make_input(tmp_path, ROWS)
    (tmp_path / "disk_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("disk_model", None)


def make_input(folder: Path, rows: int) -> None:
    pq.write_table(
        pa.table({"x": [float(row) for row in range(rows)], "text": [f'"{row}"\n' for row in range(rows)]}),
        folder / "in.parquet",
    )


def output_of(name: str) -> Path:
    return Path(COMMANDS[name][2] if COMMANDS[name][0] == "run" else COMMANDS[name][1])


def read(out: Path) -> Any:
    """What a reader finds: None, the bytes of a text file, or rows."""
    if not out.exists():
        return None
    if out.suffix == ".csv":
        return out.read_bytes()
    return (
        pq.read_table(out, page_checksum_verification=True) if out.is_file() or any(out.iterdir()) else None
    )


def check_visible(out: Path, allowed: list[Any]) -> None:
    """Nothing half-written can be seen, and nothing unfinished is left."""
    if out.suffix:
        assert read(out) in allowed
    state = Path(f"{out}.asyncbatch")
    parts = out if not out.suffix else state / "parts"
    for path in parts.glob("*") if parts.is_dir() else ():
        block = parse_part_name(path.name)
        assert block is not None, path
        table = pq.read_table(path, page_checksum_verification=True)
        assert table["x"].to_pylist() == [float(row) for row in range(block.start, block.stop)]
    assert not list((state / "tmp").glob("*"))


# -- failures at chosen calls -------------------------------------------------------------------------------


@dataclass
class Breaking:
    """Which call fails, and how."""

    call: str
    code: int
    at: int | None = None
    lasting: bool = False
    """And all that follow, as on a disk that stays full."""
    calls: int = 0

    def step(self, call: str) -> None:
        if call != self.call:
            return
        self.calls += 1
        if self.at is not None and (self.calls == self.at or (self.lasting and self.calls > self.at)):
            raise OSError(self.code, os.strerror(self.code))


class BreakingFile(io.FileIO):
    """Fails at the calls that really write."""

    breaking: Breaking

    def write(self, data: Any) -> int:
        self.breaking.step("write")
        return super().write(data)


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Breaking], Breaking]:
    """The disk breaks as it says, from now on."""
    sync, copy = os.fsync, getattr(os, "copy_file_range", None)

    def start(found: Breaking) -> Breaking:
        def create(files: OsFileSystem, path: Path) -> BinaryIO:
            found.step("create")
            raw = BreakingFile(path, "xb")
            raw.breaking = found
            return cast(BinaryIO, io.BufferedWriter(raw))

        def fsync(descriptor: int) -> None:
            found.step("fsync")
            sync(descriptor)

        def copy_file_range(*given: Any, **more: Any) -> int:
            found.step("write")
            assert copy is not None
            return cast(int, copy(*given, **more))

        monkeypatch.setattr(OsFileSystem, "create", create)
        monkeypatch.setattr(os, "fsync", fsync)
        if copy is not None:
            monkeypatch.setattr(os, "copy_file_range", copy_file_range)
        return found

    return start


FAILURES = [
    ("write", errno.ENOSPC, True, "no space left"),
    ("create", errno.ENOSPC, True, "no space left"),
    ("write", errno.EIO, False, "input/output error"),
    ("fsync", errno.EIO, False, "input/output error"),
]


@pytest.mark.parametrize(
    ("call", "code", "lasting", "says"), FAILURES, ids=["full", "full of files", "EIO", "fsync"]
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_breaks_stops_the_command_and_the_same_one_ends_it(
    name: str,
    call: str,
    code: int,
    lasting: bool,
    says: str,
    command: Callable[..., Any],
    breaking: Callable[[Breaking], Breaking],
    request: pytest.FixtureRequest,
) -> None:
    out = output_of(name)
    if COMMANDS[name][0] == "retry":
        given = COMMANDS["a folder" if name == "retry of a folder" else "a CSV file"]
        assert command(*given).code == 3
        Path("mended").touch()
    keep_aside(out)
    before = read(out)
    counted = breaking(Breaking(call, code))
    done = command(*COMMANDS[name])
    assert done.code in (0, 3), done.stderr
    expected, total = read(out), counted.calls
    slow = request.config.getoption("--slow")
    steps = range(1, total + 1) if slow else sorted({1 + total // 4, 1 + 2 * total // 3, total})
    stopped = 0
    for at in steps:
        put_back(out)
        breaking(Breaking(call, code, at=at, lasting=lasting))
        done = command(*COMMANDS[name])
        breaking(Breaking(call, code))
        if done.code != 0 and done.code != 3:  # else it was about the lease or the report, which end no run
            stopped += 1
            said = done.stderr.strip().splitlines()
            assert done.code == 1, done.stderr
            assert said[-3].startswith("asyncbatch: ")
            assert says in said[-3]
            assert said[-1].startswith("hint: ")
            assert "Traceback" not in done.stderr
        check_visible(out, [before, expected])
        done = command(*COMMANDS[name])
        assert done.code in (0, 3), done.stderr
        assert read(out) == expected
        check_visible(out, [expected])
        assert command("verify", str(out)).code == 0
    assert stopped >= len(steps) / 2


def keep_aside(out: Path) -> None:
    """What is there before the command."""
    for path in (out, Path(f"{out}.asyncbatch")):
        aside = Path("before") / path.name
        if path.is_dir():
            shutil.copytree(path, aside)
        elif path.exists():
            aside.parent.mkdir(exist_ok=True)
            shutil.copy2(path, aside)


def put_back(out: Path) -> None:
    for path in (out, Path(f"{out}.asyncbatch")):
        aside = Path("before") / path.name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if aside.is_dir():
            shutil.copytree(aside, path)
        elif aside.exists():
            shutil.copy2(aside, path)


# -- a disk that is really full ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 30 MiB."""
    mounted = folder / "disk"
    mounted.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.getuid() != 0:
        pytest.skip("only root may mount a small file system")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(mounted)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"this machine mounts no tmpfs: {done.stderr.decode().strip()}")
    yield mounted
    subprocess.run(
        ["umount", "-l", str(mounted)], check=True
    )  # also while a file there is still being closed


def check_stopped(done: Any, says: str) -> None:
    said = done.stderr.strip().splitlines()
    assert done.code == 1, done.stderr
    assert says in said[-3]
    assert "the same command" in said[-1]
    assert "Traceback" not in done.stderr


MANY = 40_000
MANY_ROWS = ("--block-rows", "8000")
SMALL_DISK = {
    "publishing": ("disk/out.parquet", ()),
    "publishing text": ("disk/out.csv", ()),
    "joining": ("disk/out", ("--file-size", "100MB")),
}


@pytest.mark.parametrize("name", SMALL_DISK)
def test_a_disk_without_room_for_the_last_step(
    name: str, folder: Path, small_disk: Path, command: Callable[..., Any]
) -> None:
    """The parts fit, and what is made of them beside them does not."""
    make_input(folder, MANY)
    sink, more = SMALL_DISK[name]
    assert command(*RUN, "elsewhere", *COMMON[:-2], *MANY_ROWS).code == 3
    size = sum(path.stat().st_size for path in Path("elsewhere").iterdir())
    Path("left").write_text(str(size + size // 4 + 100_000))
    done = command(*RUN, sink, *COMMON[:-2], *MANY_ROWS, *more)
    check_stopped(done, "no space left while")
    if Path(sink).suffix:
        assert not Path(sink).exists()
    parts = Path(sink) if not Path(sink).suffix else Path(f"{sink}.asyncbatch/parts")
    assert pq.read_table(parts).num_rows == MANY, "every row is kept"
    assert not list(Path(f"{sink}.asyncbatch/tmp").iterdir())
    (small_disk / "filler").unlink()
    Path("left").unlink()
    Path("finished").touch()
    done = command(*RUN, sink, *COMMON[:-2], *MANY_ROWS, *more)
    assert done.code == 3, done.stderr
    assert command("verify", sink).code == 0
    if Path(sink).suffix != ".csv":
        assert pq.read_table(sink).equals(pq.read_table("elsewhere"))


def test_a_disk_without_room_for_a_retry(folder: Path, small_disk: Path, command: Callable[..., Any]) -> None:
    make_input(folder, MANY)
    assert command(*RUN, "disk/out", *COMMON[:-2], *MANY_ROWS).code == 3
    before = pq.read_table("disk/out")
    Path("mended").touch()
    Path("left").write_text("20000")
    retry = ("retry", "disk/out", "-e", "python:disk_model:score", "--no-progress")
    check_stopped(command(*retry), "no space left while")
    assert pq.read_table("disk/out").equals(before), "the output is as it was"
    (small_disk / "filler").unlink()
    Path("left").unlink()
    assert command(*retry).code == 0
    predictions = pq.read_table("disk/out")["prediction"].to_pylist()
    assert predictions == [row * (3.0 if row < 8000 else 2.0) for row in range(MANY)]
    assert command("verify", "disk/out").code == 0


# -- a kernel that says EIO -----------------------------------------------------------------------------------------


@pytest.fixture
def strace(folder: Path) -> tuple[str, ...]:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    under = (found, "-f", "-qq", "-o", os.devnull, "-e", "trace=fsync")
    if subprocess.run([*under, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody trace")
    return under


@pytest.mark.parametrize(("sink", "at"), [("out", 4), ("out.parquet", 12)])
def test_a_kernel_that_cannot_sync(
    sink: str, at: int, strace: tuple[str, ...], command: Callable[..., Any]
) -> None:
    """From the `at`-th time on, in every thread."""
    done = subprocess.run(
        [*strace, "-e", f"inject=fsync:error=EIO:when={at}+", sys.executable, "-m", "asyncbatch", *RUN, sink, *COMMON],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path.cwd()}"},
        check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "the disk failed while" in done.stderr.strip().splitlines()[-3]
    assert "Traceback" not in done.stderr
    check_visible(Path(sink), [None])
    assert command(*RUN, sink, *COMMON).code == 3
    assert pq.read_table(sink)["x"].to_pylist() == [float(row) for row in range(ROWS)]
    assert command("verify", sink).code == 0
