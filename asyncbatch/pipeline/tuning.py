"""What runs have learned of endpoints, kept between runs in a small JSON file: the next run starts where this one ended.

A point is kept by endpoint, body and columns sent, and by the user's bounds on speed: one that was found under
`--concurrency 1:4` says nothing about a run without. The file holds names of endpoints and numbers, no rows, headers,
column names or credentials. It is a cache: whatever is wrong with it is said once and the run goes on without. It is
replaced whole by a rename, so it is never half-written; of two runs that end in the same moment one may be forgotten.
"""

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from asyncbatch.config import RunConfig
from asyncbatch.control import LearnedPoint
from asyncbatch.protocols import Controller, Endpoint

VERSION = 1
MOST_POINTS = 500
"""Beyond, those saved longest ago are forgotten."""
_FORMAT = "asyncbatch tuning"
_MOST_BYTES = 1_000_000
_BOUNDS = ("concurrency", "chunk_rows", "rate", "row_rate", "max_payload", "target_latency", "max_memory")


@runtime_checkable
class Learns(Protocol):
    """A controller that can say what it has learned."""

    def learned(self) -> LearnedPoint | None:
        """The point to start the next run with; None until a setting was found."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What an earlier run has learned."""

    point: LearnedPoint
    saved_at: str
    """ISO 8601, UTC."""


class _UnusableError(Exception):
    """The file cannot be used; says why. Never leaves this module."""


@dataclass(slots=True, kw_only=True)
class Tuning:
    """The learned point of one endpoint in one file. Blocking: runs in a thread. Never raises."""

    path: Path
    key: str
    endpoint: str
    """Name without secrets, for people who read the file."""
    warn: Callable[[str], None]
    chosen: bool
    """The user named the file: what is no tuning file is left as it is."""
    _warned: bool = field(default=False, init=False)

    def recall(self) -> Recalled | None:
        """What the file holds of this endpoint; None where it holds nothing, or cannot be read (said once)."""
        try:
            entry = _read(self.path).get(self.key)
            if entry is None:
                return None
            return Recalled(
                point=LearnedPoint.from_dict(entry["point"]), saved_at=str(entry.get("saved_at", ""))[:20]
            )
        except _UnusableError as error:
            self._say(str(error))
        except (AttributeError, KeyError, TypeError, ValueError):
            self._say(f"{self.path} holds a point of {self.endpoint} that makes no sense")
        return None

    def remember(self, point: LearnedPoint) -> None:
        """Keep `point` for the next run; what cannot be written is said once."""
        try:
            points = _read(self.path)
        except _UnusableError as error:
            self._say(str(error))
            if self.chosen or isinstance(error, _NewerError):
                return
            points = {}  # a cache that cannot be read is begun anew
        points[self.key] = {
            "endpoint": self.endpoint,
            "saved_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "point": point.as_dict(),
        }
        try:
            _write(self.path, _latest(points))
        except OSError as error:
            self._say(f"what was learned cannot be kept in {self.path}: {error.strerror or error}")

    def _say(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            self.warn(message)


class _NewerError(_UnusableError):
    """A newer asyncbatch wrote the file."""


def tuning_for(
    config: RunConfig,
    endpoint: Endpoint,
    *,
    content_type: str,
    send: Sequence[str],
    warn: Callable[[str], None],
) -> Tuning | None:
    """Where the point of this run is kept; None with `--no-tuning`, and with `--background`, which measures anew.

    Args:
        endpoint: opened, so that its identity is complete.
        content_type: of the bodies.
        send: the columns sent, in wire order.
        warn: told one sentence at most.
    """
    speed = config.speed
    if speed.no_tuning or speed.background:
        return None
    path = Path(speed.tuning).expanduser() if speed.tuning is not None else tuning_file()
    if path is None:
        return None
    return Tuning(
        path=path,
        key=_key(config, endpoint.identity, content_type=content_type, send=send),
        endpoint=endpoint.name,
        warn=warn,
        chosen=speed.tuning is not None,
    )


def tuning_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path | None:
    """The file in the user's cache: `XDG_CACHE_HOME` where set, else what the system has for it; None without a home."""
    folder = environ.get("XDG_CACHE_HOME") or (environ.get("LOCALAPPDATA") if platform == "win32" else None)
    if folder is None:
        home = environ.get("USERPROFILE" if platform == "win32" else "HOME")
        if not home:
            return None
        inner = {"darwin": "Library/Caches", "win32": "AppData/Local"}.get(platform, ".cache")
        folder = str(Path(home) / inner)
    if not Path(folder).is_absolute():  # as the XDG base directory specification asks
        return None
    return Path(folder) / "asyncbatch" / "tuning.json"


def remember(tuning: Tuning | None, controller: Controller) -> None:
    """Keep what `controller` has learned, if it has; at the end of a run, however it ends. Blocking."""
    if tuning is None or not isinstance(controller, Learns):
        return
    point = controller.learned()
    if point is not None:
        tuning.remember(point)


def _key(
    config: RunConfig, identity: Mapping[str, str | None], *, content_type: str, send: Sequence[str]
) -> str:
    """A digest: it names no column and no URL."""
    effective = config.effective()
    described = {
        "identity": {name: value for name, value in sorted(identity.items()) if value is not None},
        "body": [config.request.body, config.request.template, config.request.row, content_type],
        "send": list(send),
        "bounds": {name: effective[name] for name in _BOUNDS if name in effective},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    """The points by key; empty where there is no file.

    Raises:
        _UnusableError: it cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _UnusableError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        found = json.loads(raw) if len(raw) <= _MOST_BYTES else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise _UnusableError(f"{path} is no tuning file, or damaged, and is ignored")
    if not isinstance(found.get("version"), int) or found["version"] > VERSION:
        raise _NewerError(f"{path} was written by a newer asyncbatch, and is ignored")
    points = found.get("points")
    if not isinstance(points, dict):
        raise _UnusableError(f"{path} is no tuning file, or damaged, and is ignored")
    return points


def _latest(points: Mapping[str, Any]) -> dict[str, Any]:
    def saved_at(key: str) -> str:
        entry = points[key]
        return str(entry.get("saved_at", "")) if isinstance(entry, dict) else ""

    return {key: points[key] for key in sorted(points, key=saved_at)[-MOST_POINTS:]}


def _write(path: Path, points: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    document = {"format": _FORMAT, "version": VERSION, "points": points}
    try:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
