"""The whole comparison by one command: `python benchmarks/control/run.py --table`, in a minute with `--quick`.

Every controller runs on the same endpoints with the same seeds; the rows are the goals that the controller was built for.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Runs = list[dict[str, Any]]
Results = dict[str, dict[str, dict[str, Runs]]]
"""Set of endpoints -> controller -> endpoint -> its runs."""

SETS = {"kinds": 40, "moving": 40, "wild": 18}
QUICK = {"kinds": 3, "moving": 2}
RIVALS = ("best", "100x1", "500x16", "clipper", "beam", "gradient", "vegas", "aimd")
QUICK_RIVALS = ("best", "500x16")


def lines(
    results: Results, summary: Callable[[dict[str, Runs]], dict[str, float]]
) -> list[tuple[str, dict[str, str]]]:
    """Rows of the table: a label, and a cell for each controller."""
    found: list[tuple[str, dict[str, str]]] = []
    for name, controllers in results.items():
        cells = {}
        for each, runs in controllers.items():
            if each != "warm":
                made = summary(runs)
                cells[each] = f"{made['geomean']:.3f} / {made['worst']:.3f}"
        found.append((f"{name}: geomean / worst", cells))
    for label, key in (
        ("refused, mean %", "refused %"),
        ("413, memory, timeouts, errors, mean %", "oversize %"),
        ("median s to 90 % of the best rate", "median s to 90 %"),
    ):
        names = dict.fromkeys(
            name for controllers in results.values() for name in controllers if name != "warm"
        )
        cells = {}
        for each in names:
            merged = {
                f"{group} {endpoint}": runs
                for group, controllers in results.items()
                for endpoint, runs in controllers[each].items()
            }
            cells[each] = f"{summary(merged)[key]:.2f}"
        found.append((label, cells))
    warm = {
        endpoint: runs
        for controllers in results.values()
        for endpoint, runs in controllers.get("warm", {}).items()
    }
    if warm:
        found.append(("warm start: geomean", {"asyncbatch": f"{summary(warm)['geomean']:.3f}"}))
    return found


def show(rows: Sequence[tuple[str, dict[str, str]]]) -> str:
    """The rows as text."""
    names = list(dict.fromkeys(name for _, cells in rows for name in cells))
    head = f"{'':40s}" + "".join(f"{name:>16s}" for name in names)
    return "\n".join(
        [
            head,
            *(
                f"{label:40s}" + "".join(f"{cells.get(name, '-'):>16s}" for name in names)
                for label, cells in rows
            ),
        ]
    )


def commit() -> str:
    """Of the source that is measured; `unknown` outside a checkout."""
    made = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        check=False,
        capture_output=True,
        text=True,
    )
    return made.stdout.strip() or "unknown"


def write(path: Path, rows: Sequence[tuple[str, dict[str, str]]], results: Results, *, seeds: int) -> None:
    """Everything that is needed to doubt the table: command, commit, machine, seeds, and the score of each run."""
    scores = {
        group: {
            name: {endpoint: [round(run["score"], 4) for run in runs] for endpoint, runs in made.items()}
            for name, made in controllers.items()
        }
        for group, controllers in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "command": " ".join(["python benchmarks/control/run.py", *sys.argv[1:]]),
                "commit": commit(),
                "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
                "seeds": list(range(1, seeds + 1)),
                "table": dict(rows),
                "scores": scores,
            },
            indent=1,
        )
        + "\n"
    )
