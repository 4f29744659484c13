"""`asyncbatch bench` beside public load tools: same server, same body, same number in flight.

    python benchmarks/load_tools.py [--seconds 10] [--quick]

wrk and hey from the distribution's packages, locust from PyPI in an environment of its own (`--locust PATH`; FastHttpUser, its
fast client), and so AIPerf (`--aiperf PATH`; its raw endpoint, which sends JSON objects only: the same rows as `instances`,
and a tokenizer of one word, so that nothing is downloaded); what is not installed is left out, and named. Two servers, each
in its own process: one with a set latency and 4 slots, where every tool must find the same rate and latency; and one that
answers at once, where what a request costs the client shows. CPU is that of the tool's processes over the requests of a long
run less those of a short one, so that starting up does not count. Writes results/load_tools.json.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from measuring import save, surroundings

from asyncbatch.server import ServeConfig, SimulationConfig
from asyncbatch.server.background import background

ROWS, COLUMNS, FLIGHT = 10, 5, 8
SHORT_S = 3.0
LATENCY = SimulationConfig(a=0.02, slots=4)
_LOCUST = """
from locust import FastHttpUser, constant, task
BODY = open({body!r}).read()
class User(FastHttpUser):
    wait_time = constant(0)
    @task
    def post(self):
        self.client.post("/invocations", data=BODY, headers={{"Content-Type": "text/csv"}})
"""
_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "text/csv"
local file = io.open({body!r}); wrk.body = file:read("*a"); file:close()
"""
_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a tool says of its load."""

    requests: int
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_s: float


Tool = Callable[[str, float, Path], Seen]
"""URL of the server, seconds, a folder with `body.csv` and `rows.parquet`."""


def run(words: list[str], folder: Path) -> tuple[str, float]:
    """Standard output, and CPU seconds of the process and its children."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCBATCH_")}
    before = os.times()
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{words[0]}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return (
        done.stdout,
        after.children_user - before.children_user + after.children_system - before.children_system,
    )


def asyncbatch(url: str, seconds: float, folder: Path) -> Seen:
    """Chunks of `ROWS` rows, all in flight; warm-up and cool-down off, as the others have none."""
    words = [
        sys.executable, "-m", "asyncbatch", "bench", "rows.parquet", "-e", f"{url}/invocations", "--chunk-rows", str(ROWS),
        "--concurrency", str(FLIGHT), "--duration", f"{seconds}s", "--warmup", "0", "--cooldown", "0", "--json", "-q",
    ]  # fmt: skip
    out, cpu_s = run(words, folder)
    (point,) = json.loads(out)["points"]
    percentiles = {each["percent"]: each["seconds"] for each in point["latency"]["percentiles"]}
    return Seen(
        requests=point["requests"],
        requests_per_s=point["requests_per_s"],
        p50_ms=_ms(percentiles[50.0]),
        p99_ms=_ms(percentiles[99.0]),
        cpu_s=cpu_s,
    )


def wrk(url: str, seconds: float, folder: Path) -> Seen:
    """One thread."""
    (folder / "post.lua").write_text(_LUA.format(body=str(folder / "body.csv")))
    words = [
        "wrk",
        "-t1",
        f"-c{FLIGHT}",
        f"-d{seconds:.0f}s",
        "--latency",
        "-s",
        "post.lua",
        f"{url}/invocations",
    ]
    out, cpu_s = run(words, folder)
    return Seen(
        requests=int(_found(r"(\d+) requests in", out)),
        requests_per_s=float(_found(r"Requests/sec:\s+([\d.]+)", out)),
        p50_ms=_wrk_ms(_found(r"50%\s+(\S+)", out)),
        p99_ms=_wrk_ms(_found(r"99%\s+(\S+)", out)),
        cpu_s=cpu_s,
    )


def hey(url: str, seconds: float, folder: Path) -> Seen:
    """As it is."""
    words = [
        "hey",
        "-z",
        f"{seconds:.0f}s",
        "-c",
        str(FLIGHT),
        "-m",
        "POST",
        "-T",
        "text/csv",
        "-D",
        "body.csv",
    ]
    out, cpu_s = run([*words, f"{url}/invocations"], folder)
    return Seen(
        requests=int(_found(r"\[200\]\s+(\d+) responses", out)),
        requests_per_s=float(_found(r"Requests/sec:\s+([\d.]+)", out)),
        p50_ms=float(_found(r"50%+ in ([\d.]+) secs", out)) * 1000,
        p99_ms=float(_found(r"99%+ in ([\d.]+) secs", out)) * 1000,
        cpu_s=cpu_s,
    )


def locust(path: str) -> Tool:
    """Its fast client, one process."""

    def measured(url: str, seconds: float, folder: Path) -> Seen:
        (folder / "locustfile.py").write_text(_LOCUST.format(body=str(folder / "body.csv")))
        words = [
            path, "-f", "locustfile.py", "--headless", "-u", str(FLIGHT), "-r", str(FLIGHT), "-t", f"{seconds:.0f}s",
            "-H", url, "--csv", "locust", "--only-summary", "--loglevel", "ERROR",
        ]  # fmt: skip
        _, cpu_s = run(words, folder)
        with (folder / "locust_stats.csv").open() as file:
            row = next(each for each in csv.DictReader(file) if each["Name"] == "Aggregated")
        return Seen(
            requests=int(row["Request Count"]),
            requests_per_s=float(row["Requests/s"]),
            p50_ms=float(row["50%"]),
            p99_ms=float(row["99%"]),
            cpu_s=cpu_s,
        )

    return measured


def aiperf(path: str) -> Tool:
    """One worker process; the others that it starts process the records."""

    def measured(url: str, seconds: float, folder: Path) -> Seen:
        tokenizer = folder / "tokenizer"
        tokenizer.mkdir(exist_ok=True)
        (tokenizer / "tokenizer.json").write_text(json.dumps(_TOKENIZER))
        (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        (tokenizer / "config.json").write_text('{"model_type": "gpt2"}')
        lines = (folder / "body.csv").read_text().splitlines()
        rows = [[float(each) for each in line.split(",")] for line in lines]
        sessions = [{"session_id": "rows", "payloads": [{"instances": rows}]}]
        (folder / "inputs.json").write_text(json.dumps({"data": sessions}))
        words = [
            path, "profile", "-m", "model", "--endpoint-type", "raw", "-u", f"{url}/invocations", "--input-file", "inputs.json",
            "--custom-dataset-type", "inputs-json", "--extra-inputs", '{"response_field": "to_string(predictions)"}',
            "--tokenizer", str(tokenizer), "--concurrency", str(FLIGHT), "--benchmark-duration", str(seconds),
            "--workers-max", "1", "--no-gpu-telemetry", "--no-server-metrics", "--ui", "none", "--log-level", "ERROR",
            "--export-level", "summary", "--artifact-dir", "aiperf",
        ]  # fmt: skip
        _, cpu_s = run(words, folder)
        result = json.loads((folder / "aiperf" / "profile_export_aiperf.json").read_text())
        if result["error_summary"]:
            raise SystemExit(f"aiperf: {result['error_summary']}")
        return Seen(
            requests=int(result["request_count"]["avg"]),
            requests_per_s=result["request_throughput"]["avg"],
            p50_ms=result["request_latency"]["p50"],
            p99_ms=result["request_latency"]["p99"],
            cpu_s=cpu_s,
        )

    return measured


def measured(tool: Tool, url: str, seconds: float, folder: Path) -> dict[str, Any]:
    """A long run, and what a request of it costs beyond a short one."""
    short = tool(url, SHORT_S, folder)
    long = tool(url, seconds, folder)
    more = max(1, long.requests - short.requests)
    return {
        "requests_per_s": round(long.requests_per_s, 1),
        "p50_ms": _rounded(long.p50_ms),
        "p99_ms": _rounded(long.p99_ms),
        "client_cpu_us_per_request": round((long.cpu_s - short.cpu_s) / more * 1e6, 1),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"no {pattern!r} in\n{text}")
    return found[1]


def _wrk_ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--quick", action="store_true", help="6 s each, and write nothing")
    parser.add_argument("--locust", default=shutil.which("locust"), help="path of the locust command")
    parser.add_argument("--aiperf", default=shutil.which("aiperf"), help="path of the aiperf command")
    asked = parser.parse_args()
    seconds = 6.0 if asked.quick else asked.seconds
    tools: dict[str, Tool] = {"asyncbatch": asyncbatch}
    tools |= {name: tool for name, tool in (("wrk", wrk), ("hey", hey)) if shutil.which(name)}
    if asked.locust:
        tools["locust"] = locust(str(Path(asked.locust).resolve()))
    if asked.aiperf:
        tools["aiperf"] = aiperf(str(Path(asked.aiperf).resolve()))
    result: dict[str, Any] = surroundings("asyncbatch", "uvloop")
    known = ("wrk", "hey", "locust", "aiperf", "k6", "oha")
    result["left_out"] = [name for name in known if name not in tools]
    result["body"] = f"{ROWS} rows of {COLUMNS} numbers, CSV (AIPerf: JSON); {FLIGHT} in flight"
    servers = {
        "20 ms a request, 4 slots": ServeConfig(model="simulated", simulation=LATENCY),
        "answers at once": ServeConfig(model="echo"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = pa.table({f"f{each}": [row + each / 8 for row in range(1000)] for each in range(COLUMNS)})
        pq.write_table(table, folder / "rows.parquet")
        lines = [",".join(str(row + each / 8) for each in range(COLUMNS)) for row in range(ROWS)]
        (folder / "body.csv").write_text("\n".join(lines))
        for title, config in servers.items():
            result[title] = {}
            for name, tool in tools.items():
                with background(config) as server:
                    result[title][name] = measured(tool, server.url, seconds, folder)
                print(title, name, result[title][name], flush=True)
    if not asked.quick:
        print(save("load_tools", result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
