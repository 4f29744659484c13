"""Where the output of a run and its state lie, decided from the sink's name alone.

```
OUT/                        a folder sink: nothing but part files, so that every reader takes it as it is
OUT.asyncbatch/             the state, always beside the output
    job-000001.json         the plan, one file a generation
    files/ rejects/ tmp/ lease/
    retry.json retry/       of a retry, until it has ended
    again/                  of input files that changed, until their parts take the place of the old ones
    parts/                  of a single-file sink, until it is published; of what `published` names, for good
    partitions/             of folders that columns make: which files were made of which parts
    history.json            what became different while the job ran
    manifest.json errors.parquet report.json _SUCCESS
```
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from asyncbatch.errors import OutputError
from asyncbatch.model import Block
from asyncbatch.store.database.uri import (
    DatabaseUri,
    is_database,
    need_table,
    parse_database_uri,
)
from asyncbatch.store.uri import SCHEMES, ObjectUri, parse_uri

SinkKind = Literal["folder", "file", "stream"]
Format = Literal["parquet", "csv", "jsonl"]
Published = Literal["delta", "iceberg", "partitions"]

SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}

MANIFEST = "manifest.json"
ERRORS = "errors.parquet"
REPORT = "report.json"
HISTORY = "history.json"
"""Models seen behind the endpoint, and changes of the command that were accepted."""
SUCCESS = "_SUCCESS"
REPLACES = "replaces.json"
"""Which file of someone else's a published single file may replace; written with `--overwrite`."""
RETRY = "retry.json"
"""There from the beginning of a retry to its end; says which blocks are scored again."""
RETRIED = "retry/"
"""The blocks scored again, in a folder of each retry, until they take the place of the old ones."""
AGAIN = "again/"
"""Parts of files that changed, until they take the place of those that were made of the files as they were."""
JOINED = "joined.json"
"""There from when parts begin to be joined into larger ones, or to be replaced by those of a changed file."""
REJECTS = "rejects/"
FILES = "files/"
PARTITIONS = "partitions/"
"""Of `--partition-by` with columns: which files were made of which parts."""
LEASES = "lease/"

_PLAN = re.compile(r"job-(\d{6})\.json")
_TABLE = re.compile(r"[^.]+(\.[^.]+)+")
_NOT_A_STREAM = {"parquet": "Parquet", "delta": "a Delta Lake table", "iceberg": "an Iceberg table"}
_PART = re.compile(r"part-(\d{8})-(\d{12})-(\d{12})\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkLocation:
    """A sink's name, understood."""

    spec: str
    """As given; how messages call it."""
    kind: SinkKind
    format: Format
    target: PurePath
    """The folder, or the single file; meaningless for a stream. A `Path` on this machine, or a key in a bucket."""
    state: PurePath
    """Beside it."""
    uri: ObjectUri | None = None
    """Of the target, in an object store."""
    database: DatabaseUri | None = None
    """The table that takes the parts' rows; its folder and state are names only."""
    published: Published | None = None
    """What is made of parts that stay in the state; None where they are the output, or become a single file."""
    columns: tuple[str, ...] = ()
    """Of `partitions`: those whose values name the folders."""

    @property
    def parts(self) -> PurePath:
        """Where the parts are: in the folder itself, or in the state where something else is made of them."""
        return self.target if self.kind == "folder" and self.published is None else self.state / "parts"

    @property
    def is_table(self) -> bool:
        """The rows go into a table, which may hold others' too."""
        return self.database is not None or self.published in ("delta", "iceberg")


def locate(
    spec: str,
    *,
    format: str | None = None,  # noqa: A002 (the option's name)
    columns: Sequence[str] = (),
) -> SinkLocation:
    """Understand `out/`, `out.parquet`, `s3://bucket/out/`, `file:///…` and `-`; touches no disk and no store.

    `format` makes any name without a slash at its end a single file of that format, with one exception: a
    folder's parts are Parquet, so `parquet` leaves a name without a suffix a folder. `columns` name its partition folders.

    Raises:
        OutputError: an unknown scheme, no name, or a format that the sink cannot have.
    """
    if spec == "-":
        if format in _NOT_A_STREAM:
            raise OutputError(
                f"{_NOT_A_STREAM[format]} cannot be written to stdout",
                hint="give a file name, or --format jsonl or csv",
            )
        nowhere = Path()
        return SinkLocation(
            spec=spec, kind="stream", format=_format(format) or "jsonl", target=nowhere, state=nowhere
        )
    if is_database(spec):
        return _table(parse_database_uri(spec), format)
    uri = parse_uri(spec)
    text = uri.key if uri is not None else _path_text(spec)
    target = uri.path if uri is not None else _local_target(text)
    if not target.name:
        raise OutputError(f"{spec!r} cannot be an output", hint="name a folder or a file in it")
    slash = text.endswith("/")
    if format == "delta" and uri is not None and uri.scheme != "s3":
        raise OutputError(
            f"--format delta writes to folders and to s3://, not to {uri.place}",
            hint="choose another output, or leave --format out for a folder of Parquet files",
        )
    if format == "iceberg" and not _TABLE.fullmatch(target.name):
        raise OutputError(
            f"--format iceberg: the name of SINK is the table's, and {target.name} names no namespace",
            hint=f"such as {spec.rstrip('/')[: -len(target.name)]}ml.{target.name}: table {target.name} of namespace ml",
        )
    if format in ("delta", "iceberg"):
        return SinkLocation(
            spec=spec,
            kind="folder",
            format="parquet",
            target=target,
            state=target.with_name(target.name + ".asyncbatch"),
            uri=uri,
            published="delta" if format == "delta" else "iceberg",
        )
    asked = _format(format)
    by_name = None if slash else SUFFIXES.get(target.suffix.lower())
    if slash and asked not in (None, "parquet"):
        raise OutputError(
            f"--format {asked} makes one file, and {spec} is a folder",
            hint=f"name the file, such as {text.rstrip('/')}.{asked}",
        )
    single = by_name is not None or asked in ("csv", "jsonl")
    return SinkLocation(
        spec=spec,
        kind="file" if single else "folder",
        format=asked or by_name or "parquet",
        target=target,
        state=target.with_name(target.name + ".asyncbatch"),
        uri=uri,
        published="partitions" if columns and not single else None,
        columns=tuple(columns),
    )


def _table(database: DatabaseUri, asked: str | None) -> SinkLocation:
    need_table(database)
    if asked is not None:
        raise OutputError(f"--format is for files, and {database.shown} is a table", hint="leave it out")
    return SinkLocation(
        spec=database.shown,
        kind="folder",
        format="parquet",
        target=PurePath(database.table),
        state=PurePath(f"{database.table}.asyncbatch"),
        database=database,
    )


def part_name(block: Block) -> str:
    """`part-00000000-000000000000-000000065536.parquet`: file number and rows; sorts in row order."""
    return f"part-{block.name}.parquet"


def partition_folder(partitions: Mapping[str, str]) -> str:
    """`year=2024/month=1/`, as Hive and Spark write it; empty without partitions."""
    return "".join(f"{quote(key, safe=' ')}={quote(value, safe=' ')}/" for key, value in partitions.items())


def parse_part_name(name: str) -> Block | None:
    """The block of a part, whichever folder it is in; None for any other name."""
    match = _PART.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    return Block(file=int(match[1]), start=int(match[2]), stop=int(match[3]))


def plan_name(generation: int) -> str:
    return f"job-{generation:06d}.json"


def parse_plan_name(name: str) -> int | None:
    """The generation of a plan file; None for any other name."""
    match = _PLAN.fullmatch(name)
    return int(match[1]) if match is not None else None


def file_record_name(number: int) -> str:
    return f"{FILES}{number:08d}.json"


def rejects_name(block: Block, attempt: str) -> str:
    """One name an attempt: two writers of one block must never write to the same rejects file."""
    return f"{REJECTS}{block.name}-{attempt}.parquet"


def _format(asked: str | None) -> Format | None:
    if asked is None:
        return None
    for each in SUFFIXES.values():
        if asked == each:
            return each
    raise OutputError(f"unknown output format {asked!r}", hint=f"one of {', '.join(SUFFIXES.values())}")


def _local_target(text: str) -> PurePath:
    target = Path(text)
    return target.resolve() if not target.name or target.name == ".." else target


def _path_text(spec: str) -> str:
    if not spec.strip():
        raise OutputError("the output has no name", hint="give a folder, a file name, or - for stdout")
    parts = urlsplit(spec)
    if "://" not in spec:
        return spec
    if parts.scheme != "file":
        raise OutputError(
            f"outputs of scheme {parts.scheme}:// are not supported",
            hint=f"give a local path, or one of {', '.join(f'{each}://' for each in SCHEMES)}",
        )
    if parts.netloc not in ("", "localhost"):
        raise OutputError(f"{spec} names another machine", hint="file:///path has three slashes")
    return unquote(parts.path)
