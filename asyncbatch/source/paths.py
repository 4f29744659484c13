"""From what a user names to a list of files in natural order, with their hive partitions."""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from asyncbatch.errors import InputError
from asyncbatch.source import opening

_MAGIC = re.compile(r"[*?\[]")
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""How Hive and Spark write a null partition value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file of the source, not yet opened."""

    path: str
    partitions: Mapping[str, str] = field(default_factory=dict)
    later: bool = False
    """It appeared after the job was planned, so types are not inferred from it."""


def find_files(spec: str, *, allow_empty: bool) -> list[FoundFile]:
    """The files that a path, folder, glob or `file://` URI names, in natural order.

    Natural order sorts path by path component, numbers by value: part-2 before part-10. Below a folder or a
    glob's fixed part, names that begin with `.` or `_` are skipped, as Spark does (`_a=1` is a partition, not
    hidden), unless the glob itself spells one. A path that exists is never a glob.

    Raises:
        InputError: nothing exists there, nothing matches (unless `allow_empty`), or partitions differ.
    """
    path = opening.local_path(spec)
    root = Path(path)
    if root.is_dir():
        found = _in_folder(root)
        what = f"the folder {path} holds no data file"
    elif path == "-" or (root.exists() and not root.is_file()):
        raise InputError(
            f"{path} is no regular file, and the input is read in several places",
            hint="write it to a file first",
        )
    elif root.exists():
        return [FoundFile(path=path)]
    elif _MAGIC.search(path):
        root, found = _in_glob(path)
        what = f"the glob {path} matches no file"
    else:
        if root.is_symlink():
            raise InputError(
                f"{path} is a link to {root.readlink()}, which does not exist",
                hint="correct the link or the path",
            )
        raise InputError(f"{path} does not exist", hint=_missing_hint(root))
    if not found and not allow_empty:
        raise InputError(what, hint="check the path, or say --allow-empty if that is fine")
    return _ordered({each: os.path.relpath(each, root) for each in found})


def in_order(paths: Sequence[str], root: str) -> list[FoundFile]:
    """The files below the prefix `root`, in natural order, with their partitions. Pure.

    Raises:
        InputError: partitions differ.
    """
    return _ordered({path: path.removeprefix(root) for path in paths})


def _ordered(relative: Mapping[str, str]) -> list[FoundFile]:
    """By path: where it is below the folder or prefix that was named."""
    files = [
        FoundFile(path=path, partitions=_partitions(below))
        for path, below in sorted(relative.items(), key=lambda item: natural_key(item[1]))
    ]
    _check_partitions(files)
    return files


def is_glob(text: str) -> bool:
    """Whether it holds `*`, `?` or `[`."""
    return _MAGIC.search(text) is not None


def matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a glob matches, name by name; `**` stands for any number of folders. Pure."""
    if not path or not pattern:
        return not path and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return matches(path, pattern[1:]) or matches(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and matches(path[1:], pattern[1:])


def natural_key(path: str) -> tuple[tuple[tuple[str, int, str], ...], ...]:
    """Sorts by path component, and within one by text and numbers in turn; equal numbers by spelling."""
    return tuple(
        tuple((text, int(digits or -1), digits) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", part))
        for part in path.replace(os.sep, "/").split("/")
    )


def is_hidden(name: str) -> bool:
    """Passed over in folders; a partition folder is not hidden."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _in_folder(root: Path) -> list[str]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [os.path.join(folder, name) for name in names if not is_hidden(name)]  # noqa: PTH118  # a Path drops "./"
    return found


def _in_glob(pattern: str) -> tuple[Path, list[str]]:
    parts = pattern.replace(os.sep, "/").split("/")
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    root = Path("/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else "."))
    spelled = any(is_hidden(part) for part in parts[fixed:])
    found = []
    for each in glob.iglob(pattern, recursive=True):  # noqa: PTH207  # keeps the path as it was spelled
        below = Path(os.path.relpath(each, root)).parts
        if not spelled and any(map(is_hidden, below)):
            continue
        if Path(each).is_dir():
            found += _in_folder(Path(each)) if "**" not in parts else []
        else:
            found.append(each)
    return root, list(dict.fromkeys(found))


def _partitions(relative: str) -> dict[str, str]:
    folders = relative.replace(os.sep, "/").split("/")[:-1]
    pairs = (folder.partition("=") for folder in folders)
    return {unquote(key): unquote(value) for key, equals, value in pairs if key and equals}


def _check_partitions(files: Sequence[FoundFile]) -> None:
    for each in files[1:]:
        if list(each.partitions) != list(files[0].partitions):
            raise InputError(
                f"{each.path} has the partitions {_named(each)}, but {files[0].path} has {_named(files[0])}",
                hint="name the folder above all partition folders, or a glob within one kind",
            )


def _named(file: FoundFile) -> str:
    return ", ".join(map(repr, file.partitions)) or "none"


def _missing_hint(path: Path) -> str:
    import difflib

    def siblings() -> Iterator[str]:
        try:
            yield from (each.name for each in path.parent.iterdir())
        except OSError:
            return

    near = difflib.get_close_matches(path.name, list(siblings()), n=1)
    return (
        f"did you mean {path.parent / near[0]}?"
        if near
        else "check the path; quote it if it holds * or spaces"
    )
