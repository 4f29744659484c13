"""The local store: one winner, whole files, clear failures."""

import errno
import logging
import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from asyncbatch.errors import OutputError, StorageError
from asyncbatch.store import LocalStore
from asyncbatch.store.base import Write, read_bytes
from asyncbatch.store.filesystem import OsFileSystem


def store_in(folder: Path, files: OsFileSystem | None = None, owner: str | None = None) -> LocalStore:
    return LocalStore(folder / "out", folder / "state", files=files, owner=owner)


def writer(content: bytes) -> Write:
    return lambda file: file.write(content)


def leftovers(folder: Path) -> list[str]:
    return [each.name for each in (folder / "state" / "tmp").iterdir()]


def test_the_first_writer_creates_and_the_second_is_told(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.create_if_absent("a/part", writer(b"one"))
    assert not store.create_if_absent("a/part", writer(b"two"))
    assert read_bytes(store, "a/part") == b"one"
    assert leftovers(tmp_path) == []


def test_replace_and_delete(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.replace("x", writer(b"one"))
    first = store.stat("x")
    store.replace("x", writer(b"three"))
    second = store.stat("x")
    assert first is not None
    assert second is not None
    assert (first.size_bytes, second.size_bytes) == (3, 5)
    assert first.version != second.version
    store.replace("a/y", writer(b"y"))
    store.delete("x", "a/y")
    store.delete("x", "a/y")
    assert store.list() == []
    assert store.stat("x") is None
    with pytest.raises(FileNotFoundError):
        store.open("x")


def test_lists_by_prefix_in_order(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.list() == []
    for name in ("b", "a/2", "a/1", "ab"):
        store.create_if_absent(name, writer(name.encode()))
    assert [entry.name for entry in store.list()] == ["a/1", "a/2", "ab", "b"]
    assert [entry.name for entry in store.list("a/")] == ["a/1", "a/2"]
    assert [entry.name for entry in store.list("a")] == ["a/1", "a/2", "ab"]
    assert store.stat("a") is None, "a folder is no file"


def test_of_many_writers_exactly_one_wins(tmp_path: Path) -> None:
    wins: list[int] = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        store = store_in(tmp_path)
        barrier.wait()
        content = writer(str(number).encode())
        wins.extend(each for each in range(20) if store.create_if_absent(f"part-{each}", content))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(20))


class NoLinks(OsFileSystem):
    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "operation not permitted")


def test_without_hard_links_one_wins_too_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_in(tmp_path, NoLinks())
    with caplog.at_level(logging.WARNING):
        assert store.create_if_absent("x", writer(b"one"))
        assert not store.create_if_absent("x", writer(b"two"))
        assert not store.beside(tmp_path / "out").create_if_absent("x", writer(b"three"))
    assert read_bytes(store, "x") == b"one"
    assert leftovers(tmp_path) == []
    assert sum("has no hard links" in record.message for record in caplog.records) == 1


def test_of_many_writers_without_hard_links_exactly_one_wins(tmp_path: Path) -> None:
    wins: list[int] = []
    store_in(tmp_path).create_if_absent("warm", writer(b""))

    def race(number: int) -> None:
        store = store_in(tmp_path, NoLinks())
        content = writer(str(number).encode())
        wins.extend(each for each in range(20) if store.create_if_absent(f"part-{each}", content))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(20))


class NoLocksEither(NoLinks):
    def lock(self, path: Path) -> AbstractContextManager[None]:
        raise OSError(errno.ENOLCK, "no locks available")


def test_with_neither_links_nor_locks_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="neither hard links nor locks"):
        store_in(tmp_path, NoLocksEither()).create_if_absent("x", writer(b"one"))
    assert leftovers(tmp_path) == []


class LostAnswer(OsFileSystem):
    """A network disk on which the link is made and the answer is lost."""

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        raise OSError(errno.EEXIST, "file exists")


def test_a_link_whose_answer_was_lost_counts_as_made(tmp_path: Path) -> None:
    assert store_in(tmp_path, LostAnswer()).create_if_absent("x", writer(b"one"))


class Failing(OsFileSystem):
    def __init__(self, where: str, code: int) -> None:
        self._where, self._code = where, code
        self.syncs = 0

    def sync(self, file: BinaryIO) -> None:
        self.syncs += 1
        if self._where == "sync":
            raise OSError(self._code, os.strerror(self._code))
        super().sync(file)

    def sync_folder(self, path: Path) -> None:
        if self._where == "sync_folder" and path.name == "out":
            raise OSError(self._code, os.strerror(self._code))
        super().sync_folder(path)

    def link(self, source: Path, target: Path) -> None:
        if self._where == "link":
            raise OSError(self._code, os.strerror(self._code))
        super().link(source, target)


@pytest.mark.parametrize(
    ("where", "code", "says"),
    [
        ("sync", errno.EIO, "the disk failed while writing .*part"),
        ("sync", errno.ENOSPC, "no space left while writing .*part"),
        ("sync_folder", errno.EIO, "the disk failed while committing .*part"),
        ("link", errno.EDQUOT, "no space left while committing .*part"),
        ("link", errno.EACCES, "permission denied while committing .*part"),
    ],
)
def test_a_failing_disk_stops_it_with_one_sentence_and_is_not_tried_again(
    tmp_path: Path, where: str, code: int, says: str
) -> None:
    files = Failing(where, code)
    with pytest.raises(StorageError, match=says) as caught:
        store_in(tmp_path, files).create_if_absent("part", writer(b"one"))
    assert caught.value.hint is not None
    assert not caught.value.message.endswith(".")
    assert files.syncs == 1
    assert leftovers(tmp_path) == []
    assert (tmp_path / "out" / "part").exists() == (where == "sync_folder")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_of_the_writer_itself_leaves_nothing(tmp_path: Path, code: int) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(StorageError):
        store_in(tmp_path).create_if_absent("part", write)
    assert list((tmp_path / "out").iterdir()) == []
    assert leftovers(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_in(tmp_path).replace("part", write)
    assert leftovers(tmp_path) == []


def test_a_real_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")

    class OnFull(OsFileSystem):
        def create(self, path: Path) -> BinaryIO:
            path.touch()
            return full.open("wb", buffering=0)

    with pytest.raises(StorageError, match="no space left"):
        store_in(tmp_path, OnFull()).create_if_absent("part", writer(b"one"))


def test_sweeping_spares_the_living_and_the_young(tmp_path: Path) -> None:
    store = store_in(tmp_path, owner="me")
    store.prepare()
    temp = tmp_path / "state" / "tmp"
    for name in ("me-1", "live-1", "dead-1", "unknown-young", "stranger-old"):
        (temp / name).touch()
    for name in ("me-1", "live-1", "dead-1", "stranger-old"):
        os.utime(temp / name, (100, 100))
    store.sweep(live={"live"}, dead={"dead"}, before=1000.0)
    assert sorted(leftovers(tmp_path)) == ["live-1", "me-1", "unknown-young"]


class Odd(OsFileSystem):
    def __init__(
        self, *, free: int = 10**12, devices: tuple[int, int] = (1, 1), writable: bool = True
    ) -> None:
        self._free, self._devices, self._writable = free, devices, writable

    def free_bytes(self, path: Path) -> int:
        return self._free

    def device(self, path: Path) -> int:
        return self._devices[path.name == "tmp"]

    def writable(self, path: Path) -> bool:
        return self._writable


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (Odd(free=10**6), "has 1 MB free, and about 17 MB are needed"),
        (Odd(free=10**9), "has 1,000 MB free, and about 2,000 MB are needed"),
        (Odd(devices=(1, 2)), "are on different file systems"),
        (Odd(writable=False), "is not writable"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_before_the_start(
    tmp_path: Path, files: Odd, says: str
) -> None:
    with pytest.raises(OutputError, match=says) as caught:
        store_in(tmp_path, files).prepare(expected_bytes=2 * 10**9 if "2,000" in says else 0)
    assert caught.value.hint


def test_preparing_leaves_no_file_among_the_data(tmp_path: Path) -> None:
    store_in(tmp_path).prepare()
    assert list((tmp_path / "out").iterdir()) == []
    assert leftovers(tmp_path) == []


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="a file is where"):
        store_in(tmp_path).prepare()
    assert (tmp_path / "out").read_text() == "mine"
