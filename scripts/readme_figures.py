"""Fills the README's figures from benchmarks/results/*.json, so that none is typed by hand.

python scripts/readme_figures.py [--check]
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def demo(result: dict[str, Any]) -> str:
    lines = [line.rstrip() for line in result["output_of_the_median"]]
    cores = result["machine"]["cores"]
    note = (
        f"That run: {cores} cores, the median of {len(result['rows_per_s'])}"
        " ([demo.json](benchmarks/results/demo.json))."
    )
    return "```text\n" + "\n".join(lines).strip() + "\n```\n\n" + note


def flights(result: dict[str, Any]) -> str:
    lines = ["| client | rows/s, median | all runs | beside the loop |", "|---|---:|---|---:|"]
    for client in result["clients"]:
        runs = ", ".join(f"{rate:,}" for rate in client["rows_per_s"])
        lines.append(
            f"| {client['client']} | {client['rows_per_s_median']:,} | {runs} | {client['ratio_to_loop']:.1f}x |"
        )
    note = (
        f"{result['rows']:,} rows ({result['loop_rows']:,} for the loop), {result['machine']['cores']} cores"
        " ([flights.json](benchmarks/results/flights.json))."
    )
    return "\n".join(lines) + "\n\n" + note


FIGURES = {"demo": demo, "flights": flights}


def filled(text: str) -> str:
    for name, make in FIGURES.items():
        begin, end = f"<!-- figures: {name} -->", "<!-- end figures -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        text = f"{head}{begin}\n{make(result)}\n{end}{tail}"
    return text


def main() -> int:
    before = README.read_text()
    after = filled(before)
    if "--check" in sys.argv:
        if before != after:
            print("README.md: figures differ from benchmarks/results; run python scripts/readme_figures.py")
            return 1
        return 0
    README.write_text(after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
