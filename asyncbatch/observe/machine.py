"""What the process used and where it ran: for reports. No host, user or path names."""

import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_PACKAGES = ("aioboto3", "aiohttp", "anyio", "botocore", "numpy", "orjson", "pyarrow", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run ran."""

    platform: str
    """System, release and processor type."""
    cores: int
    """Cores that this process may use."""


def machine() -> Machine:
    """This machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(platform=f"{platform.system()} {platform.release()} {platform.machine()}", cores=cores)


def versions() -> dict[str, str]:
    """Versions of Python, asyncbatch and the libraries that matter for speed, where installed."""
    from asyncbatch._version import __version__

    found = {"asyncbatch": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far; None where the system does not tell.

    VmHWM first: `ru_maxrss` of a child starts at its parent's peak.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or a /proc without it
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cpu_s() -> float:
    """CPU seconds of this process so far, user and system."""
    return time.process_time()
