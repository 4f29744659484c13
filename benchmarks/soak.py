"""A long run: does it cost more per row, or hold more memory, at its end than at its beginning?

    python benchmarks/soak.py [--rows 100000000]

npy bodies of 20 columns to the null endpoint of benchmarks/rivals, id and prediction written; the input is one file of a
million rows under as many names as needed. The endpoint has one core, the client another. CPU and memory are those of the
client's process, noted at each hundredth of the rows. Writes benchmarks/results/soak.json if it had 100 million rows.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "rivals"))

import data
from measuring import save, surroundings
from run import _endpoint, _environment, _pinned

FILE_ROWS = 1_000_000
FULL = 100_000_000
CHUNK = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=FULL)
    parser.add_argument("--client", nargs=2, metavar=("FOLDER", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        client(Path(given.client[0]), given.client[1], given.rows)
        return 0
    files = max(2, given.rows // FILE_ROWS)
    rows = files * FILE_ROWS
    found = surroundings("pyarrow", "httptools", "uvloop") | {"seed": data.SEED, "rows": rows}
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        stem = data.write("numbers", FILE_ROWS, folder, csv=False)
        (folder / "in").mkdir()
        for number in range(files):
            os.link(stem + ".parquet", folder / "in" / f"{number:05d}.parquet")
        with _endpoint(folder) as url:
            command = [sys.executable, __file__, "--rows", str(rows), "--client", str(folder), url]
            done = subprocess.run(
                _pinned(1, command), env=_environment(folder), check=True, capture_output=True, text=True
            )
    points = [json.loads(line) for line in done.stdout.splitlines()]
    found |= judged(points) | {"points": points}
    print(json.dumps({key: value for key, value in found.items() if key != "points"}, indent=1))
    if rows >= FULL:
        print(save("soak", found))
    return 0 if found["cpu_ns_a_row_last_over_first"] <= 1.05 else 1


def client(folder: Path, url: str, rows: int) -> None:
    """Run, and print a line for each hundredth."""
    import asyncbatch
    from asyncbatch.observe.events import PartCommitted

    done = printed = 0
    started_s = time.perf_counter()

    def note(event: object) -> None:
        nonlocal done, printed
        if isinstance(event, PartCommitted):
            done += event.rows_out
            if done * 100 // rows > printed:
                printed = done * 100 // rows
                status = Path("/proc/self/status").read_text()
                rss_mb, peak_mb = (
                    int(status.split(f"{key}:")[1].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")
                )
                print(json.dumps({
                    "rows": done, "wall_s": round(time.perf_counter() - started_s, 2), "cpu_s": round(time.process_time(), 2),
                    "rss_mb": round(rss_mb), "peak_mb": round(peak_mb),
                }), flush=True)  # fmt: skip

    report = asyncbatch.run(
        str(folder / "in"), str(folder / "out"), endpoint="churn", endpoint_url=url, region="us-east-1",
        no_send=list(data.NOT_SENT), keep="id", body="npy", chunk_rows=CHUNK, concurrency=8, hooks=[note],
    )  # fmt: skip
    assert report.metrics.rows_out == rows
    shutil.rmtree(folder / "out")


def judged(points: list[dict[str, Any]]) -> dict[str, Any]:
    """CPU a row in the first and the last tenth, and memory in each; the start-up is before the first point."""
    tenth = max(1, len(points) // 10)

    def cpu_ns(first: dict[str, Any], last: dict[str, Any]) -> float:
        return (last["cpu_s"] - first["cpu_s"]) / (last["rows"] - first["rows"]) * 1e9

    first, last = cpu_ns(points[0], points[tenth]), cpu_ns(points[-1 - tenth], points[-1])
    return {
        "rows_per_s": round(points[-1]["rows"] / points[-1]["wall_s"]),
        "rows_per_cpu_s": round(points[-1]["rows"] / points[-1]["cpu_s"]),
        "cpu_ns_a_row_first_tenth": round(first),
        "cpu_ns_a_row_last_tenth": round(last),
        "cpu_ns_a_row_last_over_first": round(last / first, 3),
        "peak_mb_after_a_tenth": points[tenth]["peak_mb"],
        "peak_mb": points[-1]["peak_mb"],
        "rss_mb_by_tenths": [point["rss_mb"] for point in points[tenth::tenth]],
    }


if __name__ == "__main__":
    raise SystemExit(main())
