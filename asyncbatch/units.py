"""Sizes, durations, ranges and lists as people write them. Each parser also takes the value itself (from Python or TOML)."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SIZES = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_PAIRS_END = re.compile(r",(?![^(\[]*[)\]])")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


SECRET_NAMES = re.compile(r"key|token|secret|sig|code|auth|pass|pwd|cred", re.IGNORECASE)
"""Names of query parameters whose values are shown and stored nowhere."""


@dataclass(frozen=True, slots=True)
class IntRange:
    """Hard bounds `low:high`, both included; fixed when equal."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `of` parts of a job, counted from 0; `Shard(0, 1)` is all of it."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


@dataclass(frozen=True, slots=True)
class MaxErrors:
    """How many rows may be rejected: a count, or a share of the rows finished so far."""

    rows: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        return str(self.rows) if self.rows is not None else f"{(self.share or 0) * 100:g}%"

    def exceeded(self, rejected: int, finished: int) -> bool:
        """Whether `rejected` of `finished` rows is too many. A share is judged only from 1,000 rows on."""
        if self.rows is not None:
            return rejected > self.rows
        return finished >= 1000 and rejected > (self.share or 0) * finished


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """A header whose value may come from the environment or a file, read when the run starts; never printed."""

    name: str
    value: str

    def __repr__(self) -> str:
        return f"HeaderSource({self.name!r}, …)"

    def resolve(self) -> str:
        """The value to send.

        Raises:
            ValueError: the variable or file does not exist, or the value has a line break.
        """
        text = self.value
        if text.startswith("@env:"):
            variable = text.removeprefix("@env:")
            if variable not in os.environ:
                raise ValueError(f"environment variable {variable} is not set")
            text = os.environ[variable]
        elif text.startswith("@file:"):
            path = Path(text.removeprefix("@file:"))
            try:
                text = path.read_text().strip()
            except OSError as error:
                raise ValueError(f"cannot read {path}: {error.strerror}") from error
        if "\n" in text or "\r" in text:
            raise ValueError(f"header {self.name}: the value has a line break")
        return text


Headers = tuple[HeaderSource, ...]


def parse_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    if not value:
        raise ValueError("must not be empty")
    return value


def parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("expected true or false")


def parse_count(value: Any) -> int:
    """A whole number, 0 or more; `1_000` and `1,000` too."""
    try:
        if isinstance(value, bool):
            raise ValueError
        number = int(str(value).replace("_", "").replace(",", ""))
    except ValueError:
        raise ValueError("expected a whole number") from None
    if number < 0:
        raise ValueError("must be 0 or more")
    return number


def parse_number(value: Any) -> float:
    """A finite number."""
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("expected a number") from None
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def parse_positive(value: Any) -> int:
    """A whole number, 1 or more."""
    number = -1 if re.fullmatch(r"\s*-[0-9_,]+\s*", str(value)) else parse_count(value)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def parse_character(value: Any) -> str:
    """One character; `\\t` is a tab."""
    text = parse_text(value).replace("\\t", "\t")
    if len(text) != 1:
        raise ValueError("must be one character")
    return text


def parse_positive_number(value: Any) -> float:
    number = parse_number(value)
    if not number > 0:
        raise ValueError("must be above 0")
    return number


def parse_size(value: Any) -> int:
    """`6MiB`, `256MB`, or bytes as a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = float(value)
        factor = 1
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
        if match is None or match[2].upper() not in _SIZES:
            raise ValueError("expected a size such as 256MB or 6MiB")
        number, factor = float(match[1]), _SIZES[match[2].upper()]
    size = int(number * factor)
    if size < 1:
        raise ValueError("must be at least 1 byte")
    return size


def parse_duration(value: Any) -> float:
    """`500ms`, `70s`, `5m`, `1h`, or seconds as a number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)\s*", str(value))
        if match is None:
            raise ValueError("expected a duration such as 70s, 5m or 1h")
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not seconds > 0 or math.isinf(seconds):
        raise ValueError("must be above 0")
    return seconds


def parse_range(value: Any) -> IntRange:
    """`16` or `4:64`."""
    if isinstance(value, IntRange):
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = f"{value[0]}:{value[1]}"
    low, colon, high = str(value).partition(":")
    try:
        first = int(low)
        last = int(high) if colon else first
    except ValueError:
        raise ValueError("expected N or MIN:MAX") from None
    if first < 1 or last < first:
        raise ValueError("expected 1 <= MIN <= MAX")
    return IntRange(first, last)


def parse_shard(value: Any) -> Shard:
    """`0/4` … `3/4`."""
    if isinstance(value, Shard):
        return value
    match = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", str(value))
    if match is None:
        raise ValueError("expected I/N, such as 0/4")
    shard = Shard(int(match[1]), int(match[2]))
    if not shard.index < shard.of:
        raise ValueError(f"shards are counted from 0, so the last of {shard.of} is {max(0, shard.of - 1)}")
    return shard


def parse_names(value: Any) -> tuple[str, ...]:
    """`a,b,c` or a list. A name with a comma needs the list form (job.toml, Python)."""
    if isinstance(value, str):
        names = [name.strip() for name in value.split(",")]
    elif isinstance(value, Sequence):
        names = [parse_text(name) for name in value]
    else:
        raise TypeError("expected names")
    names = [name for name in names if name]
    if not names:
        raise ValueError("names nothing")
    return tuple(names)


def _parse_pairs(value: Any, *, form: str) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        return tuple((parse_text(key), parse_text(each)) for key, each in value.items())
    if isinstance(value, str):  # commas in `decimal128(12, 2)` divide nothing
        value = [item.strip() for item in _PAIRS_END.split(value) if item.strip()]
    pairs = []
    for item in parse_names(value):
        left, equals, right = item.rpartition("=")
        if not equals or not left or not right:
            raise ValueError(f"expected {form}")
        pairs.append((left, right))
    return tuple(pairs)


def parse_types(value: Any) -> tuple[tuple[str, str], ...]:
    """`a=int64,b=string`, or a mapping."""
    return _parse_pairs(value, form="COLUMN=TYPE")


def parse_renames(value: Any) -> tuple[tuple[str, str], ...]:
    """`old=new,old=new`, or a mapping."""
    return _parse_pairs(value, form="OLD=NEW")


def parse_headers(value: Any) -> Headers:
    """`Name: value` lines, or a mapping."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):
        return tuple(HeaderSource(parse_text(key), parse_text(each)) for key, each in value.items())
    found = []
    for item in value:
        if isinstance(item, HeaderSource):
            found.append(item)
            continue
        name, colon, text = str(item).partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name.strip()):
            raise ValueError("expected 'Name: value'")
        found.append(HeaderSource(name.strip(), text.strip()))
    return tuple(found)


def parse_share(value: Any) -> float:
    """`2%` or `0.02`, from 0 to below 1."""
    text = str(value).strip()
    share = parse_number(text[:-1]) / 100 if text.endswith("%") else parse_number(text)
    if not 0 <= share < 1:
        raise ValueError("expected 0% to below 100%")
    return share


def parse_max_errors(value: Any) -> MaxErrors:
    """`100` rows or `2%`."""
    if isinstance(value, MaxErrors):
        return value
    text = str(value).strip()
    if text.endswith("%"):
        share = parse_number(text[:-1]) / 100
        if not 0 <= share <= 1:
            raise ValueError("expected 0% to 100%")
        return MaxErrors(share=share)
    return MaxErrors(rows=parse_count(text))
