"""The plan of a job: what was decided once, and what every later process of the job goes by.

It is written once, by exclusive creation, and never changed. When the same command is given again, what it
says now is compared with it field by field. Files that appeared when the job was finished are a further generation of
the plan: a file of its own, which lists the old files and the new. A file that changed is listed once more, under a new number,
and stands in the place of the old one from then on (`--reprocess`).
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from asyncbatch._version import __version__
from asyncbatch.config import RunConfig
from asyncbatch.errors import OutputError
from asyncbatch.model import InputFile
from asyncbatch.sink.layout import parse_plan_name, partition_folder, plan_name
from asyncbatch.store.base import Store, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 2
"""2: with `replaced`. Plans without it are still written as 1, which every version reads."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One generation of a job."""

    files: tuple[InputFile, ...]
    block_rows: int
    schema: "pa.Schema"
    """Of every part; without schema-level metadata."""
    reply: Mapping[str, Any]
    """The reply layout, as JSON values; opaque here."""
    options: Mapping[str, Any]
    """The semantic options, as JSON values."""
    endpoint: Mapping[str, str | None]
    """The endpoint's identity; None means unknown, which equals any."""
    source: str
    """As given on the command line."""
    min_rows: int = 1
    """Rows of the smallest request that the endpoint can answer."""
    input_schema: "pa.Schema | None" = None
    """Of the input, partition columns included; None in plans of the first releases."""
    listed: tuple[int, ...] = ()
    """How many files the first, second … generation had; empty for a first one."""
    replaced: Mapping[int, int] = field(default_factory=dict)
    """Numbers of files that changed, to the number under which a later generation lists the file as it is then."""
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    generation: int = 1
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    asyncbatch_version: str = __version__

    @cached_property
    def config_hash(self) -> str:
        """16 hexadecimal digits over all that decides what the parts hold."""
        return self._hash(len(self.files))

    def config_hash_of(self, file: int) -> str:
        """What is in the footers of the parts of file number `file`: the hash of the generation that listed it first.

        So parts stay ours when a later generation lists further files.
        """
        return self._hash(next((count for count in self.listed if file < count), len(self.files)))

    @cached_property
    def _hashes(self) -> dict[int, str]:
        return {}

    def _hash(self, files: int) -> str:
        if files not in self._hashes:
            decisive = {
                "block_rows": self.block_rows,
                "schema": _schema_text(self.schema),
                "reply": self.reply,
                "options": self.options,
                "files": [[file.path, dict(file.fingerprint)] for file in self.files[:files]],
            }
            self._hashes[files] = hashlib.sha256(_canonical(decisive)).hexdigest()[:16]
        return self._hashes[files]

    @cached_property
    def current(self) -> tuple[InputFile, ...]:
        """The files whose rows make the output: all but those that were replaced."""
        return tuple(file for file in self.files if file.number not in self.replaced)

    def files_of(self, generation: int) -> range:
        """The numbers of the files that `generation`, from 1, was the first to list."""
        ends = (0, *(self.listed or (len(self.files),)))
        return range(ends[generation - 1], ends[generation])

    def grown(self, files: Sequence[InputFile]) -> "Plan":
        """The next generation: `files` follow under the next numbers; all else is as it is.

        One that is listed already has changed, and replaces what is listed.
        """
        count = len(self.files)
        added = [replace(file, number=count + index) for index, file in enumerate(files)]
        known = {file.path: file.number for file in self.current}
        changed = {known[file.path]: file.number for file in added if file.path in known}
        return replace(
            self,
            files=(*self.files, *added),
            listed=(*(self.listed or (count,)), count + len(added)),
            replaced={**self.replaced, **changed},
            generation=self.generation + 1,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            asyncbatch_version=__version__,
        )

    @property
    def limit(self) -> int | None:
        """`--limit`: rows of the input that are looked at, over all files in order."""
        value = self.options.get("limit")
        return int(value) if value is not None else None

    def folder_of(self, file: InputFile) -> str:
        """Where the parts of an input file are below the output: its partition folders, with `--partition-by same`."""
        return partition_folder(file.partitions) if self.options.get("partition_by") == ["same"] else ""

    @property
    def partition_columns(self) -> tuple[str, ...]:
        """Columns whose values name the output's folders."""
        asked = tuple(self.options.get("partition_by") or ())
        return () if asked == ("same",) else asked

    @property
    def drops_rejects(self) -> bool:
        """Whether rejected rows are left out of the parts."""
        return self.options.get("on_error") == "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that the plan and the command say differently."""

    field: str
    """`options.body`, `endpoint.region`, `input data/a.csv` …"""
    planned: str
    now: str

    def __str__(self) -> str:
        return f"{self.field}: planned {self.planned}, now {self.now}"


def create_plan(store: Store, plan: Plan) -> Plan:
    """Write `plan` unless there is one of its generation already; the one that is there, in either case.

    The caller compares: of two first runs at once, both go by the plan of the first.

    In a bucket it is created twice: the second time must be refused. A store that ignores the condition would let two
    runs overwrite each other's parts; this way it writes the same plan again.

    Raises:
        OutputError: the plan that is there cannot be read, or the store creates what is there already.
    """
    content = plan_to_json(plan)
    name = plan_name(plan.generation)

    def create() -> bool:
        return store.create_if_absent(name, lambda file: file.write(content))

    if create() and store.local_path(name) is None and create():
        raise OutputError(
            f"{store.root} creates files that are there already, so nothing can be committed there safely",
            hint="write to a local disk and copy the result",
        )
    winner = load_plan(store)
    if winner is None:
        raise OutputError(
            f"the plan in {store.root} vanished", hint="is something else removing files there?"
        )
    return winner


def load_plan(store: Store) -> Plan | None:
    """The newest generation; None if nothing was planned there.

    Raises:
        OutputError: it is damaged, or of a later version of asyncbatch.
    """
    generations = [
        generation for entry in store.list("job-") if (generation := parse_plan_name(entry.name)) is not None
    ]
    if not generations:
        return None
    name = plan_name(max(generations))
    return plan_from_json(read_bytes(store, name), where=f"{store.root}/{name}")


def plan_to_json(plan: Plan) -> bytes:
    """What is stored: JSON, indented for people."""
    values = {
        "format_version": FORMAT_VERSION if plan.replaced else 1,
        "asyncbatch_version": plan.asyncbatch_version,
        "job_id": plan.job_id,
        "generation": plan.generation,
        "created": plan.created,
        "source": plan.source,
        "files": [_file_to_json(file) for file in plan.files],
        "block_rows": plan.block_rows,
        "min_rows": plan.min_rows,
        "columns": [f"{each.name}: {each.type}" for each in plan.schema],
        "schema": _schema_text(plan.schema),
        "input_schema": None if plan.input_schema is None else _schema_text(plan.input_schema),
        "listed": list(plan.listed),
        **({"replaced": {str(old): new for old, new in plan.replaced.items()}} if plan.replaced else {}),
        "reply": plan.reply,
        "options": plan.options,
        "endpoint": plan.endpoint,
        "config_hash": plan.config_hash,
    }
    return json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"


def plan_from_json(content: bytes, *, where: str) -> Plan:
    """Raises OutputError if `content` is no plan, or one of a later format; `where` is for the message."""
    import pyarrow as pa

    try:
        values = json.loads(content)
        version = int(values["format_version"])
        if version > FORMAT_VERSION:
            raise OutputError(
                f"{where} was written by asyncbatch {values.get('asyncbatch_version', '?')}, which is newer"
                f" than this one ({__version__})",
                hint="install that version or a later one, or choose another output",
            )
        return Plan(
            files=tuple(_file_from_json(each) for each in values["files"]),
            block_rows=int(values["block_rows"]),
            min_rows=int(values["min_rows"]),
            schema=_schema(values["schema"]),
            input_schema=_schema(values["input_schema"]) if values.get("input_schema") else None,
            listed=tuple(int(count) for count in values.get("listed", ())),
            replaced={int(old): int(new) for old, new in values.get("replaced", {}).items()},
            reply=values["reply"],
            options=values["options"],
            endpoint=values["endpoint"],
            source=values["source"],
            job_id=str(values["job_id"]),
            generation=int(values["generation"]),
            created=str(values["created"]),
            asyncbatch_version=str(values["asyncbatch_version"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException, OSError) as error:
        raise OutputError(
            f"{where} is damaged ({type(error).__name__})",
            hint="--overwrite starts anew; or choose another output",
        ) from error


def plan_differences(old: Plan, new: Plan) -> list[Difference]:
    """What may not differ between a job and a command that wants to resume it, field by field.

    Files of `new` that `old` does not list are no difference: they wait for the next generation. An option
    that only one of the two knows was added by a later version and stands at its default in the other.
    """
    found = _file_differences(old.current, new.current)
    if old.block_rows != new.block_rows:
        found.append(_difference("block_rows", old.block_rows, new.block_rows))
    if old.min_rows != new.min_rows:
        found.append(_difference("min_rows", old.min_rows, new.min_rows))
    found += _schema_differences(old.schema, new.schema)
    found += _mapping_differences("reply", old.reply, new.reply, {})
    found += _mapping_differences("options", old.options, new.options, RunConfig().semantic())
    found += [
        _difference(f"endpoint.{name}", old.endpoint[name], new.endpoint[name])
        for name in sorted(old.endpoint.keys() & new.endpoint.keys())
        if None not in (old.endpoint[name], new.endpoint[name]) and old.endpoint[name] != new.endpoint[name]
    ]
    return found


def _file_differences(old: Sequence[InputFile], new: Sequence[InputFile]) -> list[Difference]:
    now = {file.path: file for file in new}
    found = []
    for file in old:
        other = now.get(file.path)
        if other is None:
            found.append(Difference(field=f"input {file.path}", planned="listed", now="missing"))
        elif dict(file.fingerprint) != dict(other.fingerprint):
            found.append(
                _difference(f"input {file.path}", _state(file.fingerprint), _state(other.fingerprint))
            )
    return found


def _state(fingerprint: Mapping[str, str | int]) -> str:
    """For people: size and time; where both are equal, the contents differ."""
    parts = []
    if "size" in fingerprint:
        parts.append(f"{fingerprint['size']:,} bytes")
    if "mtime_ns" in fingerprint:
        modified = datetime.fromtimestamp(int(fingerprint["mtime_ns"]) / 1e9, UTC)
        parts.append(f"modified {modified.isoformat(sep=' ', timespec='milliseconds')}")
    if "etag" in fingerprint:
        parts.append(f"ETag {fingerprint['etag']}")
    return ", ".join(parts) or "other contents"


def _schema_differences(old: "pa.Schema", new: "pa.Schema") -> list[Difference]:
    if old.names != new.names:
        return [_difference("output columns", old.names, new.names)]
    return [
        _difference(f"output column {name}", old.field(name).type, new.field(name).type)
        for name in old.names
        if old.field(name).type != new.field(name).type
    ]


def _mapping_differences(
    prefix: str, old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[Difference]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, defaults.get(name)), new.get(name, defaults.get(name))
        if _canonical(before) != _canonical(after):
            found.append(_difference(f"{prefix}.{name}", before, after))
    return found


def _difference(name: str, planned: object, now: object) -> Difference:
    return Difference(field=name, planned=_short(planned), now=_short(now))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=list).encode()


def _schema_text(schema: "pa.Schema") -> str:
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def _schema(text: str) -> "pa.Schema":
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _file_to_json(file: InputFile) -> dict[str, Any]:
    values = {each.name: getattr(file, each.name) for each in fields(file)}
    return {**values, "fingerprint": dict(file.fingerprint), "partitions": dict(file.partitions)}


def _file_from_json(values: Mapping[str, Any]) -> InputFile:
    return InputFile(**values)
