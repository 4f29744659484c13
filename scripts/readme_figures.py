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


def rivals(result: dict[str, Any]) -> str:
    names = ["article", "boto3 threads", "aioboto3 gather", "Ray Data", "asyncbatch"]
    heads = ["the usual loop", *names[1:], "beside the loop", "MB"]
    lines = ["| rows per CPU-second | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for case in result["cases"]:
        clients = {each["client"]: each for each in case["clients"]}
        cells = [f"{clients[name]['rows_per_cpu_s']:,.0f}" if name in clients else "" for name in names]
        ratio, own = case["over_the_loop"], clients.get("asyncbatch")
        cells += [f"{ratio:.1f}x" if ratio else "", f"{own['peak_mb']:.0f}" if own else ""]
        lines.append(f"| {case['case']} | " + " | ".join(cells) + " |")
    notes = [
        f"Median of {result['runs']}, {result['machine']['cores']} cores ([rivals.json](benchmarks/results/rivals.json))."
    ]
    sent = [(case, {each["client"]: each for each in case["clients"]}) for case in result["cases"]]
    wrk = [
        f"{clients['wrk']['cpu_us_a_request']:.0f} at {case['case']}"
        for case, clients in sent
        if "wrk" in clients
    ]
    if wrk:
        notes.append(f"wrk, in C and unsigned, takes so many µs of CPU a request: {', '.join(wrk)}.")
    slots = read("slots")
    found, fixed = (min(each["busy"] for each in slots[name]) for name in ("adaptive", "64 in flight"))
    notes.append(
        f"With 20 ms a request and 64 slots they are busy {found:.1%} of the time, by the endpoint's own count "
        f"({fixed:.1%} with 64 in flight fixed; [slots.json](benchmarks/results/slots.json))."
    )
    if result.get("start_cpu_s"):
        start = sorted(result["start_cpu_s"])[len(result["start_cpu_s"]) // 2]
        notes.append(f"CPU before the first request: {start:.2f} s.")
    return "\n".join(lines) + "\n\n" + " ".join(notes)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


FIGURES = {"demo": demo, "flights": flights, "rivals": rivals}


def filled(text: str) -> str:
    for name, make in FIGURES.items():
        begin, end = f"<!-- figures: {name} -->", "<!-- end figures -->"
        if begin not in text:
            continue
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{make(read(name))}\n{end}{tail}"
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
