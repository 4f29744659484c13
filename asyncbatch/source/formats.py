"""Which format a file has: by option, by its name, else by its first bytes."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from asyncbatch.errors import InputError
from asyncbatch.source import opening

Format: TypeAlias = Literal["parquet", "csv", "jsonl", "arrow"]

_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
}
TITLES: dict[Format, str] = {
    "parquet": "Parquet",
    "csv": "CSV",
    "jsonl": "JSON Lines",
    "arrow": "Arrow",
}
"""What people call them."""
_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),  # the stream format: a continuation marker
)
_HEAD_BYTES = 4096


def format_by_name(path: str) -> Format | None:
    """By the suffix; a `.gz` after it is looked through. Case does not matter."""
    name = path.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".gz")
    dot = name.rfind(".")
    return _SUFFIXES.get(name[dot:]) if dot >= 0 else None


def format_by_content(path: str, files: opening.Files = opening.LOCAL) -> Format:
    """By the first bytes: Parquet, Arrow, a JSON object a line, else text.

    Raises:
        InputError: the bytes are none of these.
    """
    head = files.read_range(path, 0, _HEAD_BYTES)
    if head[:2] == b"\x1f\x8b":
        with files.open_binary(path, compressed=True) as stream:
            head = opening.read_block(path, stream, _HEAD_BYTES)
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{path} is none of Parquet, CSV, JSON Lines and Arrow",
            hint="name its format with --input-format",
        )
    return "jsonl" if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else "csv"


def one_format(
    paths: Sequence[str], given: str | None, *, listed: bool = False, files: opening.Files = opening.LOCAL
) -> Format:
    """The format that all of `paths` share.

    Args:
        paths: at least one.
        given: `--input-format`.
        listed: nobody named these files, a folder holds them: then text is taken for CSV only if its name has no
            suffix or a known one, so that a `README.md` is not scored.

    Raises:
        InputError: they are of several formats, or one is of none; the message names the files.
    """
    if given is not None:
        return given  # type: ignore[return-value]  # one of the option's choices
    firsts: dict[Format, str] = {}
    for path in paths:
        firsts.setdefault(format_by_name(path) or _guessed(path, listed=listed, files=files), path)
    if len(firsts) > 1:
        (one, first), (other, second) = list(firsts.items())[:2]
        raise InputError(
            f"the source mixes formats: {first} is {one}, {second} is {other}",
            hint=f"give a glob such as '*.{one}', or run each format by itself",
        )
    return next(iter(firsts))


def _guessed(path: str, *, listed: bool, files: opening.Files) -> Format:
    found = format_by_content(path, files)
    name = path.replace("\\", "/").rpartition("/")[2]
    if listed and found == "csv" and "." in name.lower().removesuffix(".gz"):
        raise InputError(
            f"{path} has the name of no known format, and its folder is the source",
            hint="give a glob such as 'in/*.parquet', move the file, or say --input-format",
        )
    return found
