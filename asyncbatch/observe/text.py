"""How figures are written for people: one way in progress, logs, summary and plan."""

import re

from asyncbatch.units import SECRET_NAMES


def number(value: float) -> str:
    """`1,234` from 100 up, fewer digits below: `27.4`, `3.21`."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def short(value: float) -> str:
    """Three digits and k, M or G: `950`, `27.4k`, `1.32M`."""
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    if not unit and value == int(value):
        return f"{value:.0f}"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{unit}"


def size(value: float) -> str:
    """`180 MB`, `1.2 GB`; powers of ten."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 9.95 or unit == "B" else f"{value:.1f} {unit}"


def latency(seconds: float | None) -> str:
    """`0.4 ms`, `21 ms`, `1.3 s`; `-` when unknown."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """`4.2 s`, `45 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, big_name, small, small_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big} {big_name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole} s"


def clock(seconds: float) -> str:
    """`0:07`, `12:05`, `3:20:00`: for a line that is drawn again and again."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plural(count: int, noun: str) -> str:
    """`1 row`, `2,345 rows`, `6 retries`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("ry") else f"{count:,} {noun}s"


def without_credentials(text: str) -> str:
    """`https://user:password@host/path?token=x` -> `https://host/path?token=…`."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(_without_value, re.sub(r"(?<=://)[^/@\s]+@", "", text))


_PARAMETER = re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]*")


def _without_value(parameter: re.Match[str]) -> str:
    return f"{parameter[1]}=…" if SECRET_NAMES.search(parameter[1]) else parameter[0]
