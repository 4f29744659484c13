"""How busy the client keeps an endpoint: 20 ms a request and 64 slots, by the endpoint's own count.

    python benchmarks/slots.py [--seconds 25] [--runs 3]

Counted from the first moment that all slots were busy to the arrival of the last request, so the ramp and the drain are left
out and nothing else. Once with 64 requests in flight, where a slot waits for the client between two requests, and once
with the number that the controller finds. Where a core is shared with other work, its time slices are what is measured.
Writes benchmarks/results/slots.json.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "rivals"))

import data
from measuring import ROOT, save, surroundings
from run import LATENCY_S, SLOTS, _endpoint, _environment, _pinned

CHUNK_ROWS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="how long the slots have work")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    found = surroundings("pyarrow", "httptools", "uvloop")
    found |= {"latency_s": LATENCY_S, "slots": SLOTS, "rows_a_request": CHUNK_ROWS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = int(given.seconds * SLOTS / LATENCY_S) * CHUNK_ROWS
        stem = data.write("numbers", rows, folder, csv=False)
        for case, options in {"64 in flight": ["--concurrency", str(SLOTS)], "adaptive": []}.items():
            found[case] = [_busy(folder, stem, options) for _ in range(given.runs)]
            print(case, json.dumps(found[case]), flush=True)
    print(save("slots", found))


def _busy(folder: Path, stem: str, options: list[str]) -> dict[str, Any]:
    """One run: share of the slots' time that they were busy, and what the endpoint counted."""
    with _endpoint(folder, LATENCY_S, SLOTS) as url:
        command = [sys.executable, "-m", "asyncbatch", "run", f"{stem}.parquet", str(folder / "out"), "-q"]
        command += ["-e", f"{url}/invocations", "--no-send", ",".join(data.NOT_SENT), "--keep", "id"]
        command += ["--chunk-rows", str(CHUNK_ROWS), *options]
        subprocess.run(_pinned(1, command), check=True, env=_environment(folder), cwd=ROOT)
        with urllib.request.urlopen(url + "/stats") as reply:
            stats: dict[str, Any] = json.load(reply)
    for each in folder.glob("out*"):
        shutil.rmtree(each)
    return {**stats, "busy": round(stats["full_busy_s"] / (stats["full_wall_s"] * stats["slots"]), 4)}


if __name__ == "__main__":
    main()
