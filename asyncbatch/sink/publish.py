"""From committed parts to one file, created whole: Parquet, CSV or JSON Lines.

The parts stay until the file is there and recorded, so that a crash at any moment is followed by the same
publication again. A file of someone else is never replaced, unless that was asked for (`--overwrite`), and
then only the very file that was there when it was asked.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Literal, cast

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import PREFIX, read_raw_footer
from asyncbatch.sink.join import Piece, join_parquet, read_pieces
from asyncbatch.sink.layout import REPLACES, Format
from asyncbatch.sink.manifest import Manifest
from asyncbatch.sink.parts import PartInfo
from asyncbatch.sink.plan import Plan
from asyncbatch.sink.text import write_csv, write_jsonl
from asyncbatch.store.base import Entry, Store, Write, read_bytes

_JOB_ID = PREFIX + "job_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A single file that is there."""

    entry: Entry
    offsets: tuple[int, ...]
    """Of a text file: where the rows of each part begin, and the end of the last; empty for Parquet."""


def publish(
    *,
    plan: Plan,
    manifest: Manifest,
    format: Format,  # noqa: A002 (the option's name)
    parts: Sequence[PartInfo],
    check: Callable[[PartInfo], bool],
    parts_store: Store,
    target: Store,
    name: str,
    state: Store,
) -> Published:
    """Make `name` in `target` from the parts, in their order; what stands there afterwards.

    Can be repeated after a crash. Memory is bounded by a row group, whatever the size of the output.

    Args:
        check: whether a part's checksums are compared although its bytes are only moved; else they travel
            with the pages, for readers to compare.

    Raises:
        OutputError: something else stands there, or a part is damaged.
        StorageError: the store failed; `name` is as it was before.
    """
    offsets: list[int] = []
    pieces = [Piece(store=parts_store, name=part.name, check=check(part)) for part in parts]
    write = _writer(plan, manifest, format, pieces, offsets)
    there = target.stat(name)
    if there is None and target.create_if_absent(name, write):
        there = target.stat(name)
    elif (there := target.stat(name)) is not None:
        standing = (
            "replaceable"
            if may_replace(state, there)
            else _standing(target, name, format, published_marks(plan, manifest), write)
        )
        if standing == "foreign":
            raise OutputError(
                f"{target.root}/{name} exists and was not written by this job",
                hint="move it away and run the same command again: every row is scored already",
            )
        if standing == "replaceable":
            target.replace(name, write)
            there = target.stat(name)
    if there is None:
        raise OutputError(f"{target.root}/{name} vanished", hint="run the same command again")
    return Published(entry=there, offsets=tuple(offsets))


def allow_replacing(state: Store, there: Entry) -> None:
    """Record that the file that stands at the target now may be replaced."""
    content = json.dumps({"size_bytes": there.size_bytes, "version": there.version}).encode() + b"\n"
    state.replace(REPLACES, lambda file: file.write(content))


def may_replace(state: Store, there: Entry) -> bool:
    """Whether `there` is the very file that `allow_replacing` was told of."""
    try:
        values = json.loads(read_bytes(state, REPLACES))
    except FileNotFoundError:
        return False
    except ValueError:
        return False
    return bool(values == {"size_bytes": there.size_bytes, "version": there.version})


def _writer(
    plan: Plan,
    manifest: Manifest,
    format_name: Format,
    pieces: Sequence[Piece],
    offsets: list[int],
) -> Write:
    if format_name == "parquet":
        return lambda file: join_parquet(
            file, pieces, schema=plan.schema, key_values=published_marks(plan, manifest)
        )

    def write(file: BinaryIO) -> None:
        counted = _Counted(file)
        if format_name == "csv":
            write_csv(plan.schema.empty_table(), cast(BinaryIO, counted), header=True)
        offsets[:] = [counted.size]
        for piece in pieces:
            _write_text(counted, [piece], format_name)
            offsets.append(counted.size)

    return write


def splice_text(
    file: BinaryIO | None,
    source: BinaryIO | None,
    offsets: Sequence[int],
    new: Sequence[Sequence[Piece] | None],
    format_name: Format,
) -> list[int]:
    """Write `source` to `file` with other rows in the place of some parts'; the `offsets` of what was written.

    Args:
        file: None: nothing is written, only counted.
        source: a text file that was published.
        offsets: `Published.offsets` of it.
        new: of each part the pieces that hold its new rows; None: the old ones stay.
    """
    counted = _Counted(file)

    def copy(start: int, stop: int) -> None:
        if source is None:
            counted.size += stop - start
            return
        source.seek(start)
        while start < stop and (chunk := source.read(min(2**20, stop - start))):
            counted.write(chunk)
            start += len(chunk)

    copy(0, offsets[0])
    found = [counted.size]
    for (start, stop), pieces in zip(pairwise(offsets), new, strict=True):
        if pieces is None:
            copy(start, stop)
        else:
            _write_text(counted, pieces, format_name)
        found.append(counted.size)
    return found


def _write_text(file: "_Counted", pieces: Sequence[Piece], format_name: Format) -> None:
    for batch in read_pieces(pieces):
        if format_name == "csv":
            write_csv(batch, cast(BinaryIO, file), header=False)
        else:
            write_jsonl(batch, cast(BinaryIO, file))


def published_marks(plan: Plan, manifest: Manifest) -> dict[str, str]:
    """What a single Parquet file says about itself in its footer."""
    return {
        _JOB_ID: plan.job_id,
        PREFIX + "generation": str(plan.generation),
        PREFIX + "manifest": manifest.digest,
    }


def _standing(
    target: Store, name: str, format_name: Format, marks: Mapping[str, str], write: Write
) -> Literal["same", "replaceable", "foreign"]:
    """What stands there: what this publication would write, an earlier one of the same job, or neither.

    A text file has no place for the job's id: only its whole content tells.
    """
    if format_name == "parquet":
        try:
            found = read_raw_footer(target, name).key_values or {}
        except OutputError:
            return "foreign"
        if all(found.get(key.encode()) == value.encode() for key, value in marks.items()):
            return "same"
        ours = found.get(_JOB_ID.encode()) == marks[_JOB_ID].encode()
        return "replaceable" if ours else "foreign"
    wanted = _Digest()
    write(cast(BinaryIO, wanted))
    there = hashlib.sha256()
    with target.open(name) as file:
        while chunk := file.read(2**20):
            there.update(chunk)
    return "same" if there.digest() == wanted.digest() else "foreign"


class _Counted:
    """A file, or none, that counts what is written to it."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self._file is not None:
            self._file.write(data)
        return len(data)


class _Digest:
    """A file that keeps nothing but the digest of what was written to it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return len(data)

    def digest(self) -> bytes:
        return self._hash.digest()
