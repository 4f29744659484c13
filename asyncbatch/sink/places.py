"""From a sink's name to the stores that it lies in: on this machine, or in a bucket."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from asyncbatch.errors import OutputError, StorageError
from asyncbatch.sink.layout import SinkLocation
from asyncbatch.store.access import Access
from asyncbatch.store.base import Store
from asyncbatch.store.connect import connect
from asyncbatch.store.database.connections import Connections
from asyncbatch.store.database.parts import TableParts
from asyncbatch.store.database.state import DatabaseState
from asyncbatch.store.local import LocalStore
from asyncbatch.store.object import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where an output and its state are."""

    state: Store
    parts: Store
    target: Store
    """The folder of the single file; of partition folders, the one that they are in."""
    begun: Callable[[], bool]
    """Whether there is a state: something was begun there."""
    made: Sequence[Path] = ()
    """Folders of this machine that are not there yet: an output that never came to a plan leaves no trace of them."""
    remote: bool = False

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Before anything was begun, a bucket that cannot be reached is a wrong name: an `OutputError`."""
        try:
            yield
        except StorageError as error:
            if not self.remote:
                raise
            raise OutputError(error.message, hint=error.hint) from error


def open_places(
    location: SinkLocation, *, owner: str | None = None, access: Access | None = None, mode: str = "fail"
) -> Places:
    """The stores of `location`; nothing is made.

    Args:
        owner: marks the unfinished files of whoever is going to write there.
        access: to a bucket.
        mode: as `--mode`, of a table.

    Raises:
        ConfigError: there are no credentials for the bucket.
        MissingExtraError: the store's library is not installed.
    """
    if location.database is not None:
        connections = Connections(location.database)
        kept = DatabaseState(connections)
        rows = TableParts(connections, mode=mode)
        return Places(state=kept, parts=rows, target=rows, begun=lambda: bool(kept.list("job-")))
    if location.uri is not None:
        client = connect(location.uri, access or Access())
        prefix = _prefix(location.state.as_posix())
        state = ObjectStore(client, prefix, prefix, owner=owner)
        return Places(
            state=state,
            parts=state.beside(_prefix(location.parts.as_posix())),
            target=state.beside(_prefix(_published_in(location).as_posix())),
            begun=lambda: bool(state.list("job-")),
            remote=True,
        )
    home, target = Path(location.state), Path(location.target)
    local = LocalStore(home, home, owner=owner)
    folders = (target, home / "lease", home / "tmp", home)
    return Places(
        state=local,
        parts=local.beside(Path(location.parts)),
        target=local.beside(Path(_published_in(location))),
        begun=home.is_dir,
        made=[folder for folder in folders if not folder.exists()],
    )


def check_places(location: SinkLocation) -> None:
    """On this machine: the folder around it exists, and files and folders are where they should be.

    Raises:
        OutputError: otherwise.
    """
    if location.uri is not None or location.database is not None:
        return
    target, state = Path(location.target), Path(location.state)
    parent = target.parent
    if not parent.exists():
        raise OutputError(
            f"the folder {parent} for the output {location.spec} does not exist",
            hint=f"create it first: mkdir -p {parent}",
        )
    if not parent.is_dir():
        raise OutputError(f"{parent} is a file, not a folder", hint="choose another output")
    if not state.exists() and not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"the folder {parent} for the output {location.spec} is not writable",
            hint="choose another output, or make that folder writable",
        )
    if location.kind == "folder" and target.exists() and not target.is_dir():
        raise OutputError(
            f"{location.spec} is a file, and the output is a folder of parts",
            hint="choose another name; one that ends in .parquet, .csv or .jsonl makes a single file",
        )
    if location.kind == "file" and target.is_dir():
        raise OutputError(
            f"{location.spec} is a folder, and the output is a single file",
            hint="choose another name; a / at its end makes it a folder of parts",
        )
    if state.exists() and not state.is_dir():
        raise OutputError(
            f"{state} is a file, and asyncbatch keeps its state in a folder of that name",
            hint="choose another output, or move that file",
        )


def _published_in(location: SinkLocation) -> PurePath:
    return location.target if location.published == "partitions" else location.target.parent


def _prefix(path: str) -> str:
    return "" if path in ("", ".") else f"{path}/"
