"""Committing blocks as part files, and finding out which are committed.

Order of a commit: the rejects first, durably, under a name of this attempt; then the part, whose footer names
that rejects file. So a part that can be seen is complete and its rejects are there. Losing the race for a
part's name to another process of the same job is no error: both hold the same rows, and the later one is
discarded.
"""

import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from asyncbatch.errors import OutputError
from asyncbatch.model import Block, InputFile, Reject
from asyncbatch.sink.footer import PartFooter, read_part_footer
from asyncbatch.sink.layout import FILES, JOINED, file_record_name, parse_part_name, part_name, rejects_name
from asyncbatch.sink.plan import Plan, load_plan
from asyncbatch.sink.rejects import rejects_table, write_rejects
from asyncbatch.store.base import Store, read_bytes
from asyncbatch.store.database.parts import TableParts

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST_ROWS = 1_024
"""Rows that show whether a column's values repeat: 20 µs a column."""
COMPRESSION: Literal["snappy"] = "snappy"
"""65,536 rows of 23 columns, mostly floats: 15 ms and 9.7 MB; zstd level 1: 30 ms and 9.0 MB; none: 14 ms,
11.9 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartInfo:
    """A committed part, as its name tells."""

    name: str
    block: Block
    size_bytes: int
    modified_s: float | None = None
    """When it was written, where the store tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A text input that was read to its end."""

    rows: int
    size_bytes: int | None
    """Up to the end of the last row read, where known."""
    offsets: tuple[int, ...] | None = None
    """Where each block but the first begins, in bytes; None until it was looked for, and where nobody can seek."""


class PartsSink:
    """A `Sink` of part files. Safe to use from several threads, and beside other processes of the same job.

    Args:
        plan: the job's.
        parts: where the parts go; holds nothing else.
        state: the state folder.
        see: is told of each block's rows before they are committed, and raises OutputError to refuse them.
    """

    def __init__(
        self, *, plan: Plan, parts: Store, state: Store, see: "Callable[[pa.Table], None] | None" = None
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._state = state
        self._see = see
        self._schema = plan.schema.remove_metadata()
        self._files = {file.number: file for file in plan.current}
        self._lock = threading.Lock()
        self._footers: dict[str, PartFooter] = {}  # those read or written by this process
        self._written: set[str] = set()
        self._records: dict[int, FileRecord] = {}

    @property
    def plan(self) -> Plan:
        return self._plan

    def write(
        self,
        block: Block,
        table: "pa.Table",
        *,
        rejects: Sequence[Reject],
        variants: Mapping[str, int],
        end_offset: int | None,
        last: bool,
    ) -> None:
        """Commit one finished block; when this returns, it survives a crash.

        A block without rows that is the last of its file records only that the file has ended.

        Raises:
            StorageError: the store failed; nothing half-written is visible.
            OutputError: the range was committed by another job, or the input has changed.
            ValueError: the block is not on the plan's grid, or the table does not fit the plan.
        """
        self._check(block, table, rejects)
        if last and self._files[block.file].rows is None:
            self.end_file(block.file, rows=block.stop, size_bytes=end_offset)
        if block.rows == 0:
            return
        if self._see is not None:
            self._see(table)
        rejects_file = self._write_rejects(block, rejects)
        footer = PartFooter(
            job_id=self._plan.job_id,
            config_hash=self._plan.config_hash_of(block.file),
            block=block,
            rows_out=table.num_rows,
            rejects=len(rejects),
            rejects_file=rejects_file,
            variants=variants,
            end_offset=end_offset,
            last=last,
        )
        self._commit(footer, table)

    def end_file(
        self, number: int, *, rows: int, size_bytes: int | None, offsets: Sequence[int] | None = None
    ) -> None:
        """Record durably that text file `number` has `rows` rows; for the sink's own use, for files without
        rows, and with `offsets` for whoever has looked where each block but the first begins.

        Raises:
            OutputError: it was recorded with another number of rows: the input has changed.
        """
        record = FileRecord(
            rows=rows, size_bytes=size_bytes, offsets=None if offsets is None else tuple(offsets)
        )
        values = {"rows": rows, "bytes": size_bytes} | ({} if offsets is None else {"offsets": list(offsets)})
        content = json.dumps(values).encode() + b"\n"
        name = file_record_name(number)
        if not self._state.create_if_absent(name, lambda file: file.write(content)):
            there = _parse_record(read_bytes(self._state, name), where=f"{self._state.root}/{name}")
            if there.rows != rows:
                raise OutputError(
                    f"{self._files[number].path} had {there.rows:,} rows before and has {rows:,} now",
                    hint="the input changed: choose another output, or --overwrite to start anew",
                )
            if there.offsets is not None:
                record = there
            elif offsets is not None:
                self._state.replace(name, lambda file: file.write(content))
        with self._lock:
            self._records[number] = record

    def file_record(self, number: int) -> FileRecord | None:
        """What is recorded of a text file now; None if nothing is."""
        name = file_record_name(number)
        try:
            record = _parse_record(read_bytes(self._state, name), where=f"{self._state.root}/{name}")
        except FileNotFoundError:
            return None
        with self._lock:
            self._records[number] = record
        return record

    def write_empty(self) -> None:
        """A part without rows, so that an output without rows can be read and has its columns."""
        number = min(self._files, default=0)
        footer = PartFooter(
            job_id=self._plan.job_id,
            config_hash=self._plan.config_hash_of(number),
            block=Block(file=number, start=0, stop=0),
            rows_out=0,
            rejects=0,
            rejects_file="",
            variants={},
            end_offset=None,
            last=False,
        )
        self._commit(footer, self._schema.empty_table())

    def committed(self) -> list[PartInfo]:
        """The parts that are there, in row order, from a listing alone.

        Raises:
            OutputError: something else lies among them, or two of them hold the same rows.
        """
        return list_parts(self._parts)

    def footer(self, part: PartInfo) -> PartFooter:
        """What the part says about itself; read once.

        Raises:
            OutputError: it is damaged, or of another job or configuration.
        """
        known = self._footers.get(part.name)
        if known is not None:
            return known
        found = read_part_footer(self._parts, part.name)
        self._require_ours(part.name, found)
        if found.block != part.block:
            raise OutputError(
                f"{self._parts.root}/{part.name} holds rows of another range, {found.block.name}",
                hint="it was renamed: remove it and run the same command again",
            )
        with self._lock:
            self._footers[part.name] = found
        return found

    def read(self, part: PartInfo) -> "pa.Table":
        """All rows of a part, each page's checksum compared.

        Raises:
            OutputError: it is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self._parts.open(part.name) as file:
                return pq.read_table(file, page_checksum_verification=True).replace_schema_metadata(None)
        except pa.ArrowException as error:
            raise OutputError(
                f"{self._parts.root}/{part.name} is damaged",
                hint="remove it and run the same command again: its rows are scored again",
            ) from error

    def wrote(self, part: PartInfo) -> bool:
        """This object committed it, so it has not lain there while nobody was at work."""
        return part.name in self._written

    def done_by_file(self) -> dict[int, list[tuple[int, int, int | None]]]:
        """The committed `(start, stop, end_offset)` of each file, ascending: the `done` of `Source.blocks`.

        The offset is given for text inputs and the ends of gapless stretches only: elsewhere nobody seeks.
        """
        found: dict[int, list[tuple[int, int, int | None]]] = {number: [] for number in self._files}
        parts = [part for part in self.committed() if part.block.rows and part.block.file in found]
        for part, following in zip_longest(parts, parts[1:]):
            block = part.block
            after = following.block if following is not None else None
            gapless = after is not None and after.file == block.file and after.start == block.stop
            seeks = self._files[block.file].rows is None and not gapless
            offset = self.footer(part).end_offset if seeks else None
            found[block.file].append((block.start, block.stop, offset))
        return found

    def file_rows(self) -> dict[int, int | None]:
        """Rows of every input file; None for a text file that was not read to its end yet."""
        for entry in self._state.list(FILES):
            number = int(entry.name.removeprefix(FILES).removesuffix(".json"))
            if number not in self._records:
                content = read_bytes(self._state, entry.name)
                self._records[number] = _parse_record(content, where=f"{self._state.root}/{entry.name}")
        found: dict[int, int | None] = {}
        for number, file in self._files.items():
            record = self._records.get(number)
            found[number] = file.rows if file.rows is not None or record is None else record.rows
        return found

    def _check(self, block: Block, table: "pa.Table", rejects: Sequence[Reject]) -> None:
        file: InputFile | None = self._files.get(block.file)
        if file is None:
            raise ValueError(f"block {block.name} is of a file that is not in the plan")
        if block.start % self._plan.block_rows or not 0 <= block.rows <= self._plan.block_rows:
            raise ValueError(f"block {block.name} is not on the grid of {self._plan.block_rows} rows")
        if file.rows is not None and block.stop > file.rows:
            raise ValueError(f"block {block.name} is beyond the {file.rows} rows of its file")
        expected = block.rows - (len(rejects) if self._plan.drops_rejects else 0)
        if table.num_rows != expected:
            raise ValueError(f"block {block.name} has {table.num_rows} rows instead of {expected}")
        if not table.schema.equals(self._schema, check_metadata=False):
            raise ValueError(f"block {block.name} has columns {table.schema.names} of other names or types")

    def _write_rejects(self, block: Block, rejects: Sequence[Reject]) -> str:
        if not rejects:
            return ""
        name = rejects_name(block, uuid.uuid4().hex[:12])
        table = rejects_table(rejects, self._files[block.file])
        if not self._state.create_if_absent(name, lambda file: write_rejects(file, [table])):
            raise OutputError(f"{self._state.root}/{name} exists already", hint="run the same command again")
        return name

    def _commit(self, footer: PartFooter, table: "pa.Table") -> None:
        folder = self._plan.folder_of(self._files[footer.block.file]) if footer.block.rows else ""
        name = folder + part_name(footer.block)
        if self._is_joined(footer.block):
            self._discard(footer)
            return
        values = footer.key_values()
        if self._create(name, table, values):
            with self._lock:
                self._footers[name] = footer
                self._written.add(name)
            # Of a process that was taken for dead: others have finished and joined the parts meanwhile.
            if self._is_joined(footer.block):
                self._parts.delete(name)
                self._discard(footer)
            return
        try:
            there = read_part_footer(self._parts, name)
        except FileNotFoundError as error:
            if not self._is_joined(footer.block):  # else it went into a joined one after it was found
                raise OutputError(
                    f"{self._parts.root}/{name} vanished", hint="is something else removing files there?"
                ) from error
            self._discard(footer)
            return
        self._require_ours(name, there)
        self._discard(footer)
        with self._lock:
            self._footers[name] = there

    def _create(self, name: str, table: "pa.Table", values: Mapping[str, str]) -> bool:
        if isinstance(self._parts, TableParts):
            # Of a part the database keeps the footer: encoding the rows would take longer than it takes to send them.
            rows = null_rows(self._schema, table.num_rows)
            return self._parts.create_rows(
                name, table, partial(write_part, table=rows, key_values=values, schema=self._schema)
            )
        return self._parts.create_if_absent(name, lambda file: write_part(file, table, values, self._schema))

    def _is_joined(self, block: Block) -> bool:
        """Whether the rows of `block` are in a joined part, or its file was replaced meanwhile."""
        if isinstance(self._parts, TableParts) or self._state.stat(JOINED) is None:
            return False
        newest = load_plan(self._state)
        if newest is not None and newest.job_id == self._plan.job_id and block.file in newest.replaced:
            return True
        found = (parse_part_name(entry.name) for entry in self._parts.list("part-"))
        return any(
            part is not None
            and part != block
            and part.file == block.file
            and part.start <= block.start
            and block.stop <= part.stop
            for part in found
        )

    def _discard(self, footer: PartFooter) -> None:
        if footer.rejects_file:
            self._state.delete(footer.rejects_file)

    def _require_ours(self, name: str, footer: PartFooter) -> None:
        if footer.job_id != self._plan.job_id:
            raise OutputError(
                f"{self._parts.root}/{name} belongs to another job",
                hint="choose another output, or --overwrite",
            )
        if footer.config_hash != self._plan.config_hash_of(footer.block.file):
            raise OutputError(
                f"{self._parts.root}/{name} was written with other options",
                hint="choose another output, or --overwrite",
            )


def list_parts(store: Store) -> list[PartInfo]:
    """The parts in `store`, in row order, from a listing alone.

    Of a joined part and its members, should both be there, the joined one; only then is a footer read.

    Raises:
        OutputError: something else lies among them, or two of them hold the same rows.
    """
    found = []
    for entry in store.list():
        block = parse_part_name(entry.name)
        if block is not None:
            found.append(
                PartInfo(
                    name=entry.name, block=block, size_bytes=entry.size_bytes, modified_s=entry.modified_s
                )
            )
        elif not is_invisible(entry.name):
            raise OutputError(
                f"{store.root} holds {entry.name}, which asyncbatch did not write",
                hint="choose another output, or move that file",
            )
    found.sort(key=lambda part: (part.block.file, part.block.start, -part.block.stop))
    kept: list[PartInfo] = []
    for part in found:
        if kept and _overlaps(kept[-1].block, part.block):
            if not _took_the_place(store, kept[-1], part):
                raise OutputError(
                    f"{store.root}: {kept[-1].name} and {part.name} hold the same rows",
                    hint="remove the one that does not belong there and run the same command again",
                )
        else:
            kept.append(part)
    return kept


def _overlaps(one: Block, other: Block) -> bool:
    return one.file == other.file and other.start < one.stop


def _took_the_place(store: Store, joined: PartInfo, part: PartInfo) -> bool:
    """Whether `part` went into the wider one: then a crash, or a late commit, has left it there."""
    if not (joined.block.start <= part.block.start and part.block.stop <= joined.block.stop):
        return False
    try:
        members = read_part_footer(store, joined.name).members
    except FileNotFoundError:
        return False
    return part.block.start in {each.block.start for each in members} and part.block.stop in {
        each.block.stop for each in members
    }


def is_invisible(name: str) -> bool:
    """Files that no reader takes for data: `.DS_Store`, `_SUCCESS` of other tools."""
    base = name.rpartition("/")[2]
    return base.startswith((".", "_")) and not base.endswith(".parquet")


def null_rows(schema: "pa.Schema", rows: int) -> "pa.Table":
    """So many rows of nothing: where a part's footer is wanted, and not its rows."""
    import pyarrow as pa

    return pa.table([pa.nulls(rows, column.type) for column in schema], schema=schema)


def write_part(file: BinaryIO, table: "pa.Table", key_values: Mapping[str, str], schema: "pa.Schema") -> None:
    """One Parquet file of one row group, with page checksums and statistics."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(
        file,
        schema,
        compression=COMPRESSION,
        use_dictionary=dictionary_columns(schema, table),  # type: ignore[arg-type]  # the stubs know bool only
        write_statistics=True,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata(dict(key_values))


def dictionary_columns(schema: "pa.Schema", table: "pa.Table | None" = None) -> list[str]:
    """Columns worth a dictionary. Trying one for floats, only to drop it, takes four times as long as writing
    them; so does one for whole numbers that never repeat, as ids, where the first rows of `table` show that."""
    import pyarrow.types as types

    return [
        each.name
        for each in schema
        if types.is_string(each.type)
        or types.is_large_string(each.type)
        or types.is_string_view(each.type)
        or types.is_binary(each.type)
        or types.is_large_binary(each.type)
        or (
            types.is_integer(each.type) and not (table is not None and _never_repeat(table.column(each.name)))
        )
        or types.is_dictionary(each.type)
    ]


def _never_repeat(column: "pa.ChunkedArray[Any]") -> bool:
    """Whether the first values are all different, as far as so many can tell."""
    import pyarrow.compute as pc

    first = column.slice(0, _FIRST_ROWS)
    return len(first) == _FIRST_ROWS and int(pc.count_distinct(first, mode="all").as_py()) == _FIRST_ROWS


def _parse_record(content: bytes, *, where: str) -> FileRecord:
    try:
        values = json.loads(content)
        size, offsets = values["bytes"], values.get("offsets")
        return FileRecord(
            rows=int(values["rows"]),
            size_bytes=None if size is None else int(size),
            offsets=None if offsets is None else tuple(int(each) for each in offsets),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{where} is damaged",
            hint="remove it and run the same command again: the input is read to its end again",
        ) from error
