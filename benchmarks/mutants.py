"""Break one line at a time, and see that the test which guards it fails.

    python benchmarks/mutants.py                     # all of mutants.toml; writes results/mutants.json
    python benchmarks/mutants.py -n 1 --only breaker # those whose file or invariant says so; writes nothing

Each mutant is a replacement in a copy of the tree, never in place, and is tried with its guarding tests alone: they pass
without it, and have to fail with it. A mutant that survives is a gap to close with a test. Ends with 1 if one does.
"""

import argparse
import ast
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
COPIED = ("asyncbatch", "tests", "benchmarks", "scripts", "pyproject.toml", "README.md", "docs")
LONGEST_S = 180.0
CRASHES = 400
"""Of a modelled disk, before a mutant counts as survived; most are found by a handful."""
Outcome = Literal["killed", "survived", "broken"]
"""`broken`: the tests could not be run at all, so nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One line that is wrong."""

    invariant: str
    """What the line is for."""
    file: str
    old: str
    """Stands there exactly once."""
    new: str
    guard: tuple[str, ...]
    """Tests, as pytest names them."""

    def applied(self, text: str) -> str:
        """`text` with the line changed.

        Raises:
            ValueError: the line is not there exactly once.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} holds {text.count(self.old)} times: {self.old!r}")
        return text.replace(self.old, self.new)

    def missing_guards(self, root: Path) -> list[str]:
        """Guarding tests that are not there."""
        return [each for each in self.guard if not _is_there(root, each)]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a mutant."""

    invariant: str
    file: str
    line: int
    guard: tuple[str, ...]
    outcome: Outcome
    failed: str
    """The first test that failed."""
    seconds: float


def load() -> list[Mutant]:
    """The table."""
    found = tomllib.loads(TABLE.read_text())["mutant"]
    return [Mutant(**{**each, "guard": tuple(each["guard"])}) for each in found]


def _is_there(root: Path, test: str) -> bool:
    path, *names = test.partition("[")[0].split("::")
    body = ast.parse((root / path).read_text()).body
    for name in names:
        found = [
            each for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == name
        ]
        if not found:
            return False
        body = found[0].body
    return True


class Workspace:
    """A copy of the tree, in which the tests run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results")
                )
            else:
                shutil.copy2(source, folder / name)

    def run(self, tests: Sequence[str], *more: str, longest_s: float | None = None) -> tuple[int, str]:
        """pytest's exit code, and what it said."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            # A line changes faster than the clock of file times may tell: no compiled file may outlive its source.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--timeout={LONGEST_S / 2}", *more, *tests],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=longest_s,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def check(self) -> None:
        """The tests see this copy."""
        code = "import asyncbatch; print(asyncbatch.__file__)"
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert Path(said.stdout.strip()).is_relative_to(self.folder), said.stdout

    def try_out(self, mutant: Mutant) -> Tried:
        path = self.folder / mutant.file
        text = path.read_text()
        began = time.monotonic()
        path.write_text(mutant.applied(text))
        try:
            code, said = self.run(mutant.guard, f"--crashes={CRASHES}", longest_s=3 * LONGEST_S)
        except subprocess.TimeoutExpired:
            code, said = 1, "FAILED it hung"
        finally:
            path.write_text(text)
        failed = next((each for each in said.splitlines() if each.startswith(("FAILED", "ERROR"))), "")
        outcome: Outcome = {0: "survived", 1: "killed"}.get(code, "broken")  # type: ignore[assignment]
        return Tried(
            invariant=mutant.invariant,
            file=mutant.file,
            line=text[: text.index(mutant.old)].count("\n") + 1,
            guard=mutant.guard,
            outcome=outcome,
            failed=failed.removeprefix("FAILED ").partition(" - ")[0]
            if outcome == "killed"
            else said[-1500:],
            seconds=round(time.monotonic() - began, 1),
        )


def try_all(mutants: Sequence[Mutant], *, workers: int) -> list[Tried]:
    """In the order of the table; each worker has a copy of its own."""
    with tempfile.TemporaryDirectory() as folder:
        places: queue.Queue[Workspace] = queue.Queue()
        for number in range(workers):
            places.put(Workspace(Path(folder) / str(number)))
        first = places.queue[0]
        first.check()

        def one(mutant: Mutant) -> Tried:
            place = places.get()
            try:
                tried = place.try_out(mutant)
            finally:
                places.put(place)
            print(
                f"{tried.outcome:9} {tried.seconds:6.1f} s  {tried.file}:{tried.line}  {tried.invariant}",
                flush=True,
            )
            return tried

        with ThreadPoolExecutor(workers) as pool:
            without = pool.submit(
                passes_unchanged, places, sorted({each for one in mutants for each in one.guard})
            )
            tried = list(pool.map(one, mutants))
            if said := without.result():
                raise SystemExit(f"the tests fail without a mutant:\n{said}")
        return tried


def passes_unchanged(places: "queue.Queue[Workspace]", tests: Sequence[str]) -> str:
    """Empty, or what failed: a test that fails without a mutant proves nothing."""
    place = places.get()
    try:
        code, said = place.run(tests)
    finally:
        places.put(place)
    return "" if code == 0 else said[-3000:]


def main() -> int:
    from measuring import save, surroundings

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=2, help="how many at once")
    parser.add_argument(
        "--only", help="those whose file or invariant holds this text; no results are written"
    )
    asked = parser.parse_args()
    mutants = [each for each in load() if asked.only is None or asked.only in f"{each.file} {each.invariant}"]
    began = time.monotonic()
    tried = try_all(mutants, workers=asked.n)
    counts = Counter(each.outcome for each in tried)
    print(json.dumps(counts))
    for each in tried:
        if each.outcome != "killed":
            print(f"\n{each.outcome}: {each.file}:{each.line} {each.invariant}\n{each.failed}")
    if asked.only is None:
        result = {
            "what": "one line broken at a time; whether the tests that guard it fail",
            **surroundings("pytest"),
            "seconds": round(time.monotonic() - began, 1),
            "mutants": len(tried),
            "killed": counts["killed"],
            "survived": counts["survived"] + counts["broken"],
            "results": [asdict(each) for each in tried],
        }
        print(save("mutants", result))
    return 0 if counts["killed"] == len(tried) else 1


if __name__ == "__main__":
    sys.exit(main())
