"""What the sink needs of a place to keep files. Small, so that a disk and an object store can both give
it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from asyncbatch.errors import StorageError

Write: TypeAlias = Callable[[BinaryIO], object]
"""Writes the whole content to the file it is given; may be called once only, must not close it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One stored file."""

    name: str
    """Relative to the store's root, with `/`."""
    size_bytes: int
    version: str
    """Differs when the content was replaced: modification time on disk, ETag or generation in object
    stores."""
    modified_s: float | None = field(default=None, compare=False)
    """When it was written, seconds since 1970 by this machine's clock; of objects only listings tell, None elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """One file that takes the place of others."""

    added: str
    write: Write
    removed: tuple[str, ...]


class Store(Protocol):
    """Named files below one root. Safe to use from several threads and by several processes at once.

    A name is seen whole or not at all: whatever is listed or read was written to its end, and no crash, lost
    connection or second writer changes that. When a method returns, what it did survives a crash of the
    machine. Every method raises StorageError when the disk or the service fails. A failed sync of a disk is never
    tried again; a request to an object store is, and what it came to is found out by looking.
    """

    @property
    def root(self) -> str:
        """How messages call the place."""
        ...

    def prepare(self, *, expected_bytes: int = 0) -> None:
        """Make the root where needed, and prove that it can be written.

        Raises:
            OutputError: it cannot be written, has no room for `expected_bytes`, or cannot promise what this
            class does.
        """
        ...

    def list(self, prefix: str = "") -> list[Entry]:
        """Every file whose name starts with `prefix`, by name. What is listed survives a crash."""
        ...

    def stat(self, name: str) -> Entry | None:
        """None if there is no such file."""
        ...

    def open(self, name: str) -> BinaryIO:
        """For reading, seekable. The caller closes it.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def local_path(self, name: str) -> Path | None:
        """Where the file lies on this machine, if it does."""
        ...

    def create_if_absent(self, name: str, write: Write) -> bool:
        """Create `name` with what `write` writes, unless it is there already; of several writers exactly one
        gets True.

        False means that a complete file of that name is there, and survives a crash.
        """
        ...

    def replace(self, name: str, write: Write, *, expected: Entry | None = None) -> None:
        """Create or replace `name`: readers see the old content or the new, never both or neither.

        Args:
            expected: what is to be replaced.

        Raises:
            StorageError: something else than `expected` is there.
        """
        ...

    def swap(self, swaps: "Sequence[Swap]") -> bool:
        """Have files in the place of others, all below the root itself.

        True: whoever lists the root sees the old files or the new ones. False: the place cannot do that; for
        a moment a file and those that it took the place of were both there, never neither, and a crash in that
        moment leaves both.
        """
        ...

    def delete(self, *names: str) -> None:
        """Remove each of `names`; it is no error if one is not there."""
        ...

    def sweep(self, *, live: set[str], dead: set[str], before: float) -> None:
        """Remove what writers left unfinished: those of `dead`, and of unknown ones what was last written
        `before` (seconds since 1970); never what belongs to `live` or to this process."""
        ...

    def below(self, folder: str) -> "Store":
        """The store of the names that begin with `folder/`, with the same state folder and owner."""
        ...

    def remove_empty_folders(self) -> None:
        """Remove the root and the folders in it as far as they hold no file; nothing where there are no
        folders."""
        ...


def replaced_meanwhile(where: str) -> StorageError:
    """Another process put something else there."""
    return StorageError(
        f"{where} was changed by another process meanwhile",
        hint="is a second one at work on this output? the same command goes on",
    )


def read_bytes(store: Store, name: str) -> bytes:
    """The whole content of `name`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with store.open(name) as file:
        return file.read()
