"""From committed parts to one file, created whole: Parquet, CSV or JSON Lines.

The parts stay until the file is there and recorded, so that a crash at any moment is followed by the same
publication again. A file of someone else is never replaced, unless that was asked for (`--overwrite`), and
then only the very file that was there when it was asked.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from asyncbatch.errors import OutputError
from asyncbatch.sink.footer import PREFIX, read_raw_footer
from asyncbatch.sink.layout import REPLACES, Format
from asyncbatch.sink.manifest import Manifest
from asyncbatch.sink.parts import COMPRESSION, PartInfo, dictionary_columns
from asyncbatch.sink.plan import Plan
from asyncbatch.sink.text import write_csv, write_jsonl
from asyncbatch.store.base import Entry, Store, Write, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_JOB_ID = PREFIX + "job_id"
READ_ROWS = 16_384
GROUP_ROWS = 131_072
GROUP_BYTES = 32 * 2**20
"""A row group of the published Parquet file is closed at this many rows or bytes of Arrow data."""


def publish(
    *,
    plan: Plan,
    manifest: Manifest,
    format: Format,  # noqa: A002 (the option's name)
    parts: Sequence[PartInfo],
    parts_store: Store,
    target: Store,
    name: str,
    state: Store,
) -> Entry:
    """Make `name` in `target` from the parts, in their order; what stands there afterwards.

    Can be repeated after a crash. Memory is bounded by a row group, whatever the size of the output.

    Raises:
        OutputError: something else stands there, or a part is damaged.
        StorageError: the store failed; `name` is as it was before.
    """
    write = _writer(plan, manifest, format, parts, parts_store)
    there = target.stat(name)
    if there is None and target.create_if_absent(name, write):
        there = target.stat(name)
    elif (there := target.stat(name)) is not None:
        standing = (
            "replaceable"
            if may_replace(state, there)
            else _standing(target, name, format, _marks(plan, manifest), write)
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
    return there


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
    parts: Sequence[PartInfo],
    store: Store,
) -> Write:
    if format_name == "parquet":
        return lambda file: join_parquet(file, plan=plan, manifest=manifest, parts=parts, store=store)

    def write(file: BinaryIO) -> None:
        if format_name == "csv":
            write_csv(plan.schema.empty_table(), file, header=True)
        for batch in _batches(store, parts):
            if format_name == "csv":
                write_csv(batch, file, header=False)
            else:
                write_jsonl(batch, file)

    return write


def join_parquet(
    file: BinaryIO, *, plan: Plan, manifest: Manifest, parts: Sequence[PartInfo], store: Store
) -> None:
    """All parts as one Parquet file, by decoding and encoding again; small row groups become large ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = plan.schema.remove_metadata()
    with pq.ParquetWriter(
        file,
        schema,
        compression=COMPRESSION,
        use_dictionary=dictionary_columns(schema),  # type: ignore[arg-type]  # the stubs know bool only
        write_page_checksum=True,
    ) as writer:
        group: list[pa.RecordBatch] = []
        rows = size = 0
        for batch in _batches(store, parts):
            group.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group, schema), row_group_size=rows)
                group, rows, size = [], 0, 0
        if rows:
            writer.write_table(pa.Table.from_batches(group, schema), row_group_size=rows)
        writer.add_key_value_metadata(_marks(plan, manifest))


def _batches(store: Store, parts: Sequence[PartInfo]) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in parts:
        try:
            with store.open(part.name) as file:
                reader = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
                batches = reader.iter_batches(batch_size=READ_ROWS, use_threads=False)
                while (batch := next(batches, None)) is not None:
                    yield batch
        except (pa.ArrowException, OSError) as error:
            gone = isinstance(error, FileNotFoundError)
            raise OutputError(
                f"{store.root}/{part.name} is {'gone' if gone else 'damaged'}",
                hint="remove that file and run the same command again: its rows are scored again",
            ) from error


def _marks(plan: Plan, manifest: Manifest) -> dict[str, str]:
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


class _Digest:
    """A file that keeps nothing but the digest of what was written to it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return len(data)

    def digest(self) -> bytes:
        return self._hash.digest()
