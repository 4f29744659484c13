"""Reading an output from end to end: is it what the job wrote, all of it, and undamaged?

Every page of every part is read and its checksum compared; the rows are counted, and the error column is held
against the rejects; the parts must tile the input, and the manifest must describe what is there. One problem
does not hide the next.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncbatch.errors import AsyncBatchError, OutputError
from asyncbatch.sink.existing import Existing, open_existing, published_parts
from asyncbatch.sink.filesize import replaced_names
from asyncbatch.sink.footer import PREFIX, PartFooter, read_raw_footer
from asyncbatch.sink.layout import ERRORS, MANIFEST, RETRY, SUCCESS
from asyncbatch.sink.manifest import load_manifest_values, tiling
from asyncbatch.sink.partitions import PartitionFolders
from asyncbatch.sink.parts import PartInfo, PartsSink, list_parts
from asyncbatch.sink.rejects import read_rejects
from asyncbatch.sink.replaced import ReplacingParts
from asyncbatch.store.access import Access
from asyncbatch.store.base import Store, read_bytes
from asyncbatch.store.database.parts import TableParts

if TYPE_CHECKING:
    import pyarrow as pa

READ_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    file: str
    """Which file, as a path."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found."""

    sink: str
    finished: bool
    """The job says that it is."""
    files: int
    """Data files read."""
    rows: int
    rejects: int
    bytes: int
    problems: tuple[Problem, ...]

    @property
    def sound(self) -> bool:
        """Nothing is wrong, and nothing is missing."""
        return not self.problems


def verify_output(
    spec: str, *, on_file: Callable[[str], object] = lambda name: None, access: Access | None = None
) -> Verification:
    """Read everything. Memory is bounded, whatever the size of the output.

    Args:
        on_file: told of each data file before it is read.
        access: to an object store.

    Raises:
        OutputError: nothing was planned there, or the plan itself is damaged.
        StorageError: the disk fails.
    """
    existing = open_existing(spec, access=access)
    found = _Findings(existing)
    if isinstance(existing.parts, TableParts):
        found.table(existing.parts)
    elif existing.location.kind == "file" and existing.state.stat(SUCCESS) is not None:
        found.published(on_file)
    else:
        found.folder(on_file)
        if existing.location.published == "partitions" and not found.problems:
            found.partitions()
    return Verification(
        sink=existing.location.spec,
        finished=existing.state.stat(SUCCESS) is not None,
        files=found.files,
        rows=found.rows,
        rejects=found.rejects,
        bytes=found.bytes,
        problems=tuple(found.problems),
    )


class _Findings:
    """The walk through one output."""

    def __init__(self, existing: Existing) -> None:
        self.problems: list[Problem] = []
        self.files = self.rows = self.rejects = self.bytes = 0
        self._existing = existing
        self._state = existing.state

    def folder(self, on_file: Callable[[str], object]) -> None:
        """Parts, in the folder or waiting to become a single file."""
        store, plan = self._existing.parts, self._existing.plan
        try:
            parts = list_parts(store)
        except OutputError as error:
            self._say(store.root, error.message)
            return
        for name in replaced_names(store, {part.name for part in parts}):
            self._say(
                f"{store.root}/{name}", "holds rows that a joined part holds too: the next run removes it"
            )
        if isinstance(store, ReplacingParts) and self._state.stat(SUCCESS) is not None:
            for name in store.old():
                self._say(f"{store.root}/{name}", "is of a file that changed since: the next run removes it")
        sink = self._existing.parts_sink()
        footers: dict[str, PartFooter] = {}
        for part in parts:
            on_file(part.name)
            footer = self._part(sink, part)
            if footer is not None:
                footers[part.name] = footer
        self._tiles(sink, parts)
        if self._state.stat(SUCCESS) is None:
            return
        values = self._manifest()
        if values is None:
            return
        listed = {each["name"]: each for each in values["parts"]}
        for name in sorted(listed.keys() - {part.name for part in parts}):
            self._say(f"{store.root}/{name}", "is in the manifest and not there")
        for part in parts:
            if part.name not in listed:
                self._say(f"{store.root}/{part.name}", "is there and not in the manifest")
            elif part.name in footers:
                digest = read_raw_footer(store, part.name).digest
                if digest != listed[part.name]["footer_sha256"]:
                    self._say(f"{store.root}/{part.name}", "is not the file that the manifest describes")
        if plan.job_id != values["job_id"]:
            self._say(f"{self._state.root}/{MANIFEST}", "is of another job")
        self._errors(values)

    def partitions(self) -> None:
        """Files in partition folders, which were made of the parts."""
        existing = self._existing
        if existing.state.stat(SUCCESS) is None:
            return  # they are made when every row is there
        made = PartitionFolders(existing.target, existing.state, existing.location.columns)
        for name, message in made.problems(existing.plan, existing.parts, list_parts(existing.parts)):
            self._say(f"{existing.target.root}/{name}".rstrip("/"), message)

    def table(self, table: TableParts) -> None:
        """Rows of a table: how many there are, against the ledger; whose they are cannot be told from others'."""
        sink = self._existing.parts_sink()
        parts = sink.committed()
        footers = [sink.footer(part) for part in parts]
        self.files, self.bytes = len(parts), sum(part.size_bytes for part in parts)
        self.rejects = sum(footer.rejects for footer in footers)
        self._tiles(sink, parts)
        expected = sum(footer.rows_out for footer in footers)
        mode = self._existing.plan.options.get("mode", "fail")
        if mode == "replace" and self._state.stat(SUCCESS) is None:
            return  # the new table is not in its place yet
        self.rows = table.rows_there()
        if self.rows < expected or (self.rows > expected and mode != "append"):
            self._say(table.root, f"has {self.rows:,} rows instead of {expected:,}")

    def published(self, on_file: Callable[[str], object]) -> None:
        """A single file."""
        existing = self._existing
        name = existing.location.target.name
        where = f"{existing.target.root}/{name}"
        on_file(name)
        values = self._manifest()
        entry = existing.target.stat(name)
        if entry is None:
            self._say(where, "is gone")
        if entry is None or values is None:
            return
        self.files, self.bytes = 1, entry.size_bytes
        expected = self._success().get("target_bytes")
        if entry.size_bytes != expected:
            self._say(where, f"has {entry.size_bytes:,} bytes instead of {expected:,}")
        members = published_parts(existing)
        if existing.location.format == "parquet":
            digest = hashlib.sha256(read_bytes(self._state, MANIFEST)).hexdigest()
            try:
                marks = read_raw_footer(existing.target, name).key_values or {}
            except OutputError as error:
                self._say(where, error.message.removeprefix(f"{where} "))
                return
            if marks.get(f"{PREFIX}job_id".encode()) != existing.plan.job_id.encode():
                self._say(where, "was written by another job")
            elif marks.get(f"{PREFIX}manifest".encode()) != digest.encode():
                self._say(where, "is not the file that the manifest describes")
            self._contents(existing.target, name, members)
        else:
            self._text(where, int(values["rows_out"]))
        self._errors(values)

    # -- one file --------------------------------------------------------------------------------------------

    def _part(self, sink: PartsSink, part: PartInfo) -> PartFooter | None:
        where = f"{self._existing.parts.root}/{part.name}"
        self.files += 1
        self.bytes += part.size_bytes
        try:
            footer = sink.footer(part)
        except (AsyncBatchError, FileNotFoundError) as error:
            self._say(where, str(error).removeprefix(f"{where} "))
            return None
        self._contents(self._existing.parts, part.name, footer.blocks)
        return footer

    def _contents(self, store: Store, name: str, blocks: Sequence[PartFooter]) -> None:
        """Every page of a Parquet file, and its rows against what its blocks say."""
        import pyarrow as pa

        where = f"{store.root}/{name}"
        plan = self._existing.plan
        try:
            with store.open(name) as file:
                rows = 0
                marked: list[int] = []
                for batch in read_pages(file):
                    if rows == 0 and not batch.schema.equals(plan.schema, check_metadata=False):
                        self._say(where, "has other columns than the plan")
                        return
                    marked += _with_error(batch, plan.options.get("error_name", "error"), rows)
                    rows += batch.num_rows
        except FileNotFoundError:
            self._say(where, "vanished while it was read")
            return
        except (pa.ArrowException, OSError) as error:
            self._say(where, f"is damaged: {_first_line(error)}")
            return
        self.rows += rows
        expected = sum(block.rows_out for block in blocks)
        if rows != expected:
            self._say(where, f"has {rows:,} rows instead of {expected:,}")
            return
        at = 0
        for block in blocks:
            inside = [row - at for row in marked if at <= row < at + block.rows_out]
            at += block.rows_out
            self._rejects(where, block, inside)

    def _rejects(self, where: str, footer: PartFooter, marked: Sequence[int]) -> None:
        """The rejects of a block: in their file, in the footer, and (`marked`) in the error column."""
        self.rejects += footer.rejects
        rows: list[int] = []
        if footer.rejects_file:
            try:
                for table in read_rejects(self._state, [footer.rejects_file]):
                    rows += table.column("row").to_numpy().tolist()
            except OutputError as error:
                self._say(f"{self._state.root}/{footer.rejects_file}", error.message)
                return
        start, stop = footer.block.start, footer.block.stop
        if len(rows) != footer.rejects or any(not start <= row < stop for row in rows):
            self._say(where, f"has {footer.rejects:,} rejects of {footer.block.name}, its file {len(rows):,}")
        elif not self._existing.plan.drops_rejects and [row - start for row in rows] != list(marked):
            self._say(where, f"marks other rows of {footer.block.name} than its rejects file lists")

    def _text(self, where: str, expected: int) -> None:
        try:
            rows = _text_rows(self._existing)
        except OutputError as error:
            self._say(where, error.message)
            return
        self.rows = rows
        self.rejects = sum(block.rejects for block in published_parts(self._existing))
        if rows != expected:
            self._say(where, f"has {rows:,} rows instead of {expected:,}")

    # -- the whole -------------------------------------------------------------------------------------------

    def _tiles(self, sink: PartsSink, parts: Sequence[PartInfo]) -> None:
        try:
            missing = tiling(self._existing.plan, parts, sink.file_rows())
        except OutputError as error:
            self._say(self._existing.parts.root, error.message)
            return
        paths = {file.number: file.path for file in self._existing.plan.files}
        for gap in missing:
            stop = "its end" if gap.stop is None else f"{gap.stop:,}"
            self._say(
                self._existing.parts.root, f"rows {gap.start:,} to {stop} of {paths[gap.file]} are missing"
            )

    def _manifest(self) -> dict[str, Any] | None:
        where = f"{self._state.root}/{MANIFEST}"
        try:
            values = load_manifest_values(self._state)
        except OutputError as error:
            self._say(where, error.message.removeprefix(f"{where} "))
            return None
        if values is None:
            self._say(where, "is gone")
            return None
        digest = hashlib.sha256(read_bytes(self._state, MANIFEST)).hexdigest()
        if self._success().get("manifest") != digest:
            retrying = self._state.stat(RETRY) is not None
            self._say(where, "is newer than _SUCCESS: a retry did not end" if retrying else "was changed")
        return values

    def _success(self) -> dict[str, Any]:
        try:
            values = json.loads(read_bytes(self._state, SUCCESS))
        except (FileNotFoundError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _errors(self, values: dict[str, Any]) -> None:
        try:
            count = sum(table.num_rows for table in read_rejects(self._state, [ERRORS]))
        except OutputError as error:
            self._say(f"{self._state.root}/{ERRORS}", error.message)
            return
        if count != values["rejects"]:
            self._say(
                f"{self._state.root}/{ERRORS}",
                f"lists {count:,} rejects instead of {values['rejects']:,}",
            )

    def _say(self, file: str, message: str) -> None:
        self.problems.append(Problem(file=file, message=message))


def read_pages(file: Any) -> "Iterator[pa.RecordBatch]":
    """Every row of a Parquet file, every page checksum compared."""
    import pyarrow.parquet as pq

    reader = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
    yield from reader.iter_batches(batch_size=READ_ROWS, use_threads=False)


def _with_error(batch: "pa.RecordBatch", error_name: str, before: int) -> list[int]:
    """Positions in the file of the rows that carry an error; `before`: rows read before this batch."""
    import numpy as np

    valid = batch.column(error_name).is_valid().to_numpy(zero_copy_only=False)
    return [before + int(row) for row in np.flatnonzero(valid)]


def _text_rows(existing: Existing) -> int:
    """Rows of a CSV or JSON Lines file that the sink published."""
    import pyarrow as pa
    from pyarrow import csv

    if existing.location.format == "jsonl":
        with existing.target.open(existing.location.target.name) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))
    names = existing.plan.schema.names
    read = csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1)
    parse = csv.ParseOptions(newlines_in_values=True)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names[-1:])
    try:
        with (
            existing.target.open(existing.location.target.name) as file,
            csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as reader,
        ):
            return sum(batch.num_rows for batch in reader)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"cannot be read as CSV: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
