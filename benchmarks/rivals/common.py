"""What every client shares: its arguments, and what it says when it has ended. Not part of what is measured."""

import argparse
import json
import os
import time
from pathlib import Path

ENDPOINT = "churn"
NOT_FEATURES = ("id", "label")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--data", required=True, help="without its suffix: .parquet and .csv are beside each other"
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--chunk", type=int, required=True)
    parser.add_argument("--body", default="csv")
    parser.add_argument("--keep", default="all")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--ca", default=None)
    return parser.parse_args()


def finished(rows: int, started_s: float) -> None:
    """Print the result: wall time of the work, CPU of this process and all that it started, peak memory."""
    cpu_s, peak_mb = usage(os.getpid())
    print(json.dumps({
        "rows": rows, "wall_s": round(time.perf_counter() - started_s, 3), "cpu_s": round(cpu_s, 3), "peak_mb": round(peak_mb),
    }))  # fmt: skip


def usage(session: int) -> tuple[float, float]:
    """CPU seconds and VmHWM in MB of every process of this session that is still there."""
    tick = os.sysconf("SC_CLK_TCK")
    cpu = peak = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[3]) != session and int(folder.name) != session:
                continue
            cpu += sum(int(each) for each in stat[11:15]) / tick
            status = (folder / "status").read_text()
            peak += int(status.split("VmHWM:")[1].split()[0]) / 1024
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return cpu, peak
