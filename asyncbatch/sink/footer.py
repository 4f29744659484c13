"""What a part says about itself: key-values in its Parquet footer."""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from asyncbatch.errors import OutputError
from asyncbatch.model import Block
from asyncbatch.store.base import Store

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "asyncbatch."
_TAIL_BYTES = 64 * 1024
_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFooter:
    """The key-values of one part."""

    job_id: str
    config_hash: str
    block: Block
    rows_out: int
    """Rows of the part; `block.rows` less the dropped ones."""
    rejects: int
    rejects_file: str
    """Name in the state folder; empty without rejects."""
    variants: Mapping[str, int]
    """Rows answered by each production variant, where known."""
    end_offset: int | None
    """Byte offset after the block's last row in a text input."""
    last: bool
    """The block is the last of its file."""
    members: "tuple[PartFooter, ...]" = ()
    """Of a joined part: the parts that it took the place of, in row order; it holds their rows and no others."""

    @property
    def blocks(self) -> "tuple[PartFooter, ...]":
        """One footer for each block: the members, or itself."""
        return self.members or (self,)

    def key_values(self) -> dict[str, str]:
        values = {
            "job_id": self.job_id,
            "config": self.config_hash,
            "range": self.block.name,
            "rows_in": str(self.block.rows),
            "rows_out": str(self.rows_out),
            "rejects": str(self.rejects),
            "rejects_file": self.rejects_file,
            "variants": json.dumps(dict(self.variants), sort_keys=True),
            "end_offset": "" if self.end_offset is None else str(self.end_offset),
            "last": "1" if self.last else "0",
        }
        if self.members:
            values["members"] = json.dumps([member_values(each) for each in self.members])
        return {PREFIX + name: value for name, value in values.items()}


def footer_from_key_values(values: Mapping[bytes, bytes] | None) -> PartFooter | None:
    """None if they are not those of a part of ours."""
    found = {name.decode(errors="replace"): value.decode() for name, value in (values or {}).items()}

    def get(name: str) -> str:
        return found[PREFIX + name]

    try:
        job_id, config_hash = get("job_id"), get("config")
        members = json.loads(found.get(PREFIX + "members", "[]"))
        return PartFooter(
            job_id=job_id,
            config_hash=config_hash,
            block=_parse_range(get("range")),
            rows_out=int(get("rows_out")),
            rejects=int(get("rejects")),
            rejects_file=get("rejects_file"),
            variants=json.loads(get("variants")),
            end_offset=int(get("end_offset")) if get("end_offset") else None,
            last=get("last") == "1",
            members=tuple(
                member_from_values(each, job_id=job_id, config_hash=config_hash) for each in members
            ),
        )
    except (KeyError, ValueError, TypeError):
        return None


def member_values(footer: PartFooter) -> dict[str, Any]:
    """What is kept of a part whose rows went into a larger file, as JSON values."""
    return {
        "range": footer.block.name,
        "rows_out": footer.rows_out,
        "rejects": footer.rejects,
        "rejects_file": footer.rejects_file,
        "variants": dict(sorted(footer.variants.items())),
        "end_offset": footer.end_offset,
        "last": footer.last,
    }


def member_from_values(values: Mapping[str, Any], *, job_id: str, config_hash: str) -> PartFooter:
    """The inverse of `member_values`; raises KeyError, ValueError or TypeError if `values` are none."""
    return PartFooter(
        job_id=job_id,
        config_hash=config_hash,
        block=_parse_range(values["range"]),
        rows_out=int(values["rows_out"]),
        rejects=int(values["rejects"]),
        rejects_file=str(values["rejects_file"]),
        variants=dict(values["variants"]),
        end_offset=values.get("end_offset"),
        last=bool(values.get("last", False)),
    )


def join_footers(members: Sequence[PartFooter]) -> PartFooter:
    """The footer of one part in place of `members`, which follow each other without a gap in one file."""
    blocks = tuple(block for member in members for block in member.blocks)
    first, final = blocks[0], blocks[-1]
    variants: dict[str, int] = {}
    for each in blocks:
        for name, rows in each.variants.items():
            variants[name] = variants.get(name, 0) + rows
    return PartFooter(
        job_id=first.job_id,
        config_hash=first.config_hash,
        block=Block(file=first.block.file, start=first.block.start, stop=final.block.stop),
        rows_out=sum(each.rows_out for each in blocks),
        rejects=sum(each.rejects for each in blocks),
        rejects_file="",
        variants=variants,
        end_offset=final.end_offset,
        last=final.last,
        members=blocks,
    )


def _parse_range(text: str) -> Block:
    file, start, stop = (int(each) for each in text.split("-"))
    return Block(file=file, start=start, stop=stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFooter:
    """A Parquet file's footer as it stands in the file."""

    key_values: Mapping[bytes, bytes] | None
    rows: int
    schema: "pa.Schema"
    digest: str
    """SHA-256 of the footer's bytes; they hold the place, size and statistics of every column chunk."""


def read_raw_footer(store: Store, name: str) -> RawFooter:
    """Read the end of a Parquet file, and nothing else of it.

    Raises:
        FileNotFoundError: there is no such file.
        OutputError: it is not a complete Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with store.open(name) as file:
        size = file.seek(0, 2)
        tail = _tail(file, size, min(size, _TAIL_BYTES))
        length = _footer_bytes(tail, size)
        if length is not None and length > len(tail):
            tail = _tail(file, size, length)
    if length is None:
        raise _damaged(store, name)
    try:
        # The reader finds the footer from the end and follows no offset in it: the tail is enough.
        metadata = pq.read_metadata(pa.BufferReader(tail))
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(store, name) from error
    return RawFooter(
        key_values=metadata.metadata,
        rows=metadata.num_rows,
        schema=schema,
        digest=hashlib.sha256(tail[-length:]).hexdigest(),
    )


def read_part_footer(store: Store, name: str) -> PartFooter:
    """The key-values of a part.

    Raises:
        FileNotFoundError: there is no such file.
        OutputError: it is damaged, or no part of ours.
    """
    raw = read_raw_footer(store, name)
    found = footer_from_key_values(raw.key_values)
    if found is None:
        raise OutputError(
            f"{store.root}/{name} was not written by asyncbatch",
            hint="choose another output, or move that file",
        )
    if found.rows_out != raw.rows:
        raise _damaged(store, name)
    return found


def _tail(file: BinaryIO, size: int, length: int) -> bytes:
    file.seek(size - length)
    return file.read(length)


def _footer_bytes(tail: bytes, size: int) -> int | None:
    """Length of footer, its length field and magic; None if this is not the end of a Parquet file."""
    if len(tail) < 12 or tail[-4:] != _MAGIC:
        return None
    length = int(struct.unpack("<I", tail[-8:-4])[0]) + 8
    return length if length + 4 <= size else None


def _damaged(store: Store, name: str) -> OutputError:
    return OutputError(
        f"{store.root}/{name} is damaged: its Parquet footer cannot be read",
        hint="remove that file and run the same command again: its rows are scored again",
    )
