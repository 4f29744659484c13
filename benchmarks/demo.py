"""`asyncbatch demo` as a newcomer sees it; the README shows the run of the median.

    python benchmarks/demo.py [--runs 5]

Writes benchmarks/results/demo.json.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time

from measuring import save, surroundings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found = surroundings("pyarrow", "onnxruntime")
    seen = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            ran = subprocess.run(
                [sys.executable, "-m", "asyncbatch", "demo"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - started
        rate = re.search(r"how fast: ([\d,]+) rows/s", ran.stdout)
        assert rate is not None, ran.stdout
        seen.append((int(rate[1].replace(",", "")), seconds, re.sub(r":\d{4,5}\b", ":8080", ran.stdout)))
    seen.sort()
    rows_per_s, _, output = seen[len(seen) // 2]
    found["wall_s"] = [round(seconds, 1) for _, seconds, _ in seen]
    found["rows_per_s"] = [rate for rate, _, _ in seen]
    found["rows_per_s_median"] = rows_per_s
    found["output_of_the_median"] = output.splitlines()
    print(save("demo", found).read_text())


if __name__ == "__main__":
    main()
