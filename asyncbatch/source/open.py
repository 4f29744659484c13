"""From what a user names to an opened source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.model import InputFile
from asyncbatch.option import flag
from asyncbatch.source import opening
from asyncbatch.source.arrow import open_arrow
from asyncbatch.source.csv import open_csv
from asyncbatch.source.database import open_database
from asyncbatch.source.earlier import Earlier
from asyncbatch.source.formats import TITLES, Format, one_format
from asyncbatch.source.jsonlines import open_jsonlines
from asyncbatch.source.memory import open_arrow_data
from asyncbatch.source.opened import OpenedSource
from asyncbatch.source.parquet import open_parquet
from asyncbatch.source.paths import FoundFile, find_files
from asyncbatch.source.remote import find_remote
from asyncbatch.store.access import Access
from asyncbatch.store.database.uri import is_database
from asyncbatch.store.uri import scheme_of

_OPEN: dict[Format, Callable[[Sequence[FoundFile], InputConfig, opening.Files], OpenedSource]] = {
    "parquet": open_parquet,
    "csv": open_csv,
    "jsonl": open_jsonlines,
    "arrow": open_arrow,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a path, folder, glob or URI names."""

    where: opening.Files
    files: Sequence[FoundFile]
    folder: bool
    """A folder, or below a prefix or a glob of keys: files of several formats may lie there."""
    left_out: tuple[str, ...]
    """Those that `--settle` leaves for a later run."""


def list_files(spec: str, config: InputConfig, access: Access, earlier: Earlier | None) -> Listing:
    """Find the files that `spec` names, without looking into them."""
    where: opening.Files = opening.LOCAL
    if scheme_of(spec) in ("", "file"):
        files = find_files(spec, allow_empty=config.allow_empty)
        folder = Path(opening.local_path(spec)).is_dir()
        several = folder or not Path(opening.local_path(spec)).is_file()
    else:
        where, files, folder = find_remote(spec, access, allow_empty=config.allow_empty)
        several = folder
    young = (
        too_young(files, where, config.settle, earlier) if several and config.settle is not None else set()
    )
    if young and len(young) == len(files):
        raise InputError(
            f"every file of {spec} is younger than --settle",
            hint="the same command reads them when they are older",
        )
    return Listing(
        where=where,
        files=[each for each in files if each.path not in young],
        folder=folder,
        left_out=tuple(sorted(young)),
    )


def is_unchanged(
    spec: str, config: InputConfig, access: Access, earlier: Earlier, known: Sequence[InputFile]
) -> bool:
    """Whether an input has the `known` files and no others, by names and fingerprints; no format is looked at."""
    if is_database(spec) or scheme_of(spec) in ("http", "https"):
        return False
    found = list_files(spec, config, access, earlier)
    return not found.left_out and {each.path: found.where.fingerprint(each.path) for each in found.files} == {
        file.path: dict(file.fingerprint) for file in known
    }


def open_files(spec: str, config: InputConfig, access: Access, earlier: Earlier | None) -> OpenedSource:
    """Open a file, folder, glob or URI. See `asyncbatch.source.open_source`."""
    if is_database(spec):
        return open_database(spec, config)
    found = list_files(spec, config, access, earlier)
    opened = _opened(seen_first(found.files, earlier), found.where, found.folder, config)
    opened.left_out = found.left_out
    return opened


def too_young(
    files: Sequence[FoundFile], where: opening.Files, settle_s: float, earlier: Earlier | None
) -> set[str]:
    """The files that somebody may still be writing: changed less than `settle_s` ago. Those of the job stay."""
    listed = earlier.listed if earlier is not None else frozenset()
    found = set()
    for each in files:
        age_s = where.stat(each.path).age_s if each.path not in listed else None
        if age_s is not None and age_s < settle_s:
            found.add(each.path)
    return found


def seen_first(files: Sequence[FoundFile], earlier: Earlier | None) -> list[FoundFile]:
    """`files`, with those marked that have no say in types; none if no other is left."""
    if earlier is None or not any(each.path in earlier.first for each in files):
        return list(files)
    return [replace(each, later=each.path not in earlier.first) for each in files]


def _opened(
    files: Sequence[FoundFile], where: opening.Files, listed: bool, config: InputConfig
) -> OpenedSource:
    found = []
    for each in files:
        if where.stat(each.path).size_bytes:
            found.append(each)
        elif not config.allow_empty:
            raise InputError(f"{each.path} is empty (0 bytes)", hint="leave it out, or say --allow-empty")
    if not found:
        return open_arrow([], config)
    kind = one_format([each.path for each in found], config.input_format, listed=listed, files=where)
    _check_options(kind, found[0].path, config)
    return _OPEN[kind](found, config, where)


def _check_options(kind: Format, path: str, config: InputConfig) -> None:
    """Options that would do nothing are refused: whoever gave them expects them to."""
    if kind == "csv":
        return
    for name, default in (("delimiter", ","), ("quote", '"'), ("no_header", False)):
        if getattr(config, name) != default:
            raise InputError(
                f"{flag(name)} is for CSV, and {path} is {TITLES[kind]}",
                hint=f"leave it out, or say --input-format csv if {path} is CSV",
            )
    if config.types and kind != "jsonl":
        raise InputError(
            f"--types is for text, and {path} is {TITLES[kind]}, which has types of its own",
            hint="leave --types out",
        )


def open_memory(data: object, config: InputConfig) -> OpenedSource:
    """Open Arrow data of this process. See `asyncbatch.source.open_source`."""
    return open_arrow_data(data, config)
