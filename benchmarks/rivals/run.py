"""Clients beside their rivals, on an endpoint so cheap that the client is the bottleneck.

    scripts/rivals                                   once: the rivals' environment; apt-get install wrk gcc nginx-light
    python benchmarks/rivals/run.py [--quick] [--runs 5] [--cases NAME,NAME] [--clients NAME,NAME]

The endpoint has one core, the client another; each client is a process of its own, runs alternate, the median counts.
CPU is that of the whole process from start to end, imports included. Writes benchmarks/results/rivals.json.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import data
from measuring import ROOT, save, surroundings

RIVALS = ROOT / ".venv-rivals" / "bin" / "python"
WRK_S = 2
CONTENT_TYPES = {"csv": "text/csv", "jsonl": "application/jsonlines", "npy": "application/x-npy"}
LATENCY_S, SLOTS = 0.020, 64


@dataclass(frozen=True)
class Case:
    """What is sent, by whom, and how many rows each client is given: enough that its start does not count for much."""

    name: str
    chunk: int
    rows: dict[str, int]
    kind: str = "numbers"
    body: str = "csv"
    keep: str = "all"
    tls: bool = False
    wrk: bool = False


_A, _B, _C, _R, _US = "article", "boto3 threads", "aioboto3 gather", "Ray Data", "asyncbatch"
CASES = (
    Case("1 row", 1, {_A: 1_500, _B: 1_500, _C: 1_500, _US: 60_000}, wrk=True),
    Case("100 rows", 100, {_A: 60_000, _B: 60_000, _C: 60_000, _R: 20_000, _US: 800_000}, wrk=True),
    Case("1k rows", 1_000, {_A: 80_000, _B: 150_000, _C: 200_000, _R: 100_000, _US: 1_000_000}, wrk=True),
    Case("10k rows", 10_000, {_A: 80_000, _B: 150_000, _C: 200_000, _US: 1_000_000}, wrk=True),
    Case("1k rows, JSON Lines", 1_000, {_C: 200_000, _US: 1_000_000}, body="jsonl", wrk=True),
    Case("1k rows, npy", 1_000, {_C: 400_000, _US: 1_000_000}, body="npy", wrk=True),
    Case("10k rows, npy, id + prediction", 10_000, {_C: 1_000_000, _US: 4_000_000}, body="npy", keep="id"),
    Case("1k rows, CSV file to CSV", 1_000, {_A: 80_000, _US: 1_000_000}, keep="csv"),
    Case("1k rows as CSV lines as they stand", 1_000, {_US: 4_000_000}, kind="rounded", keep="lines"),
    Case("100 rows, 500 columns", 100, {_A: 4_000, _C: 8_000, _US: 40_000}, kind="wide"),
    Case("1k rows, strings", 1_000, {_A: 80_000, _C: 200_000, _US: 600_000}, kind="strings"),
    Case("100 rows, TLS", 100, {_A: 60_000, _C: 60_000, _US: 600_000}, tls=True),
)
SCRIPTS = {
    "article": "article.py", "boto3 threads": "boto3_threads.py", "aioboto3 gather": "aioboto3_gather.py",
    "Ray Data": "ray_map_batches.py", "asyncbatch": "asyncbatch_run.py",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one run each, a fifth of the rows; nothing is written"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cases", default="", help="comma-separated beginnings of names")
    parser.add_argument("--clients", default="", help="comma-separated names")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    runs, share = (1, 0.2) if given.quick else (given.runs, 1.0)
    wanted = [each for each in given.cases.split(",") if each]
    cases = [case for case in CASES if not wanted or any(case.name == each for each in wanted)]
    clients = [each for each in given.clients.split(",") if each] or list(SCRIPTS)
    found = surroundings("aioboto3", "httptools", "pyarrow", "uvloop", "orjson")
    found |= {"seed": data.SEED, "runs": runs, "rivals": _versions(), "missing": _missing()}
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rivals-") as name:
        folder = Path(name)
        samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
        with _endpoint(folder) as url:
            for turn in range(runs):
                for case in cases:
                    for client, sample in _turn(case, clients, share, folder, url):
                        samples.setdefault((case.name, client), []).append(sample)
                        print(
                            f"{turn + 1}/{runs}  {case.name:32} {client:16} {json.dumps(sample)}", flush=True
                        )
        if not wanted or "latency" in wanted:
            found["latency"] = [_latency(folder, share) for _ in range(min(3, runs))]
            print(json.dumps(found["latency"]), flush=True)
        if not wanted or "start" in wanted:
            found["start_cpu_s"] = [_start_cpu_s(folder) for _ in range(runs)]
            print("CPU before the first request:", found["start_cpu_s"], flush=True)
    found["took_s"] = round(time.perf_counter() - began_s)
    found["cases"] = [_summary(case, samples) for case in cases]
    print(*_table(found["cases"]), sep="\n")
    if not given.quick and not wanted:
        print(save("rivals", found))


def _turn(
    case: Case, clients: list[str], share: float, folder: Path, url: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for client, rows in case.rows.items():
        if client not in clients or (client != "asyncbatch" and not RIVALS.exists()):
            continue
        rows = max(case.chunk, int(rows * share) // case.chunk * case.chunk)
        stem = data.write(case.kind, rows, folder, csv=client == "article" or case.keep in ("csv", "lines"))
        with _tls(folder, url) if case.tls else _plain(url) as (address, authority):
            yield client, _client(client, case, stem, folder, address, authority)
    if case.wrk and shutil.which("wrk"):
        yield "wrk", _wrk(case, folder, url)


def _client(
    client: str, case: Case, stem: str, folder: Path, url: str, authority: str | None
) -> dict[str, Any]:
    out = folder / "out"
    python = sys.executable if client == "asyncbatch" else str(RIVALS)
    command = [python, str(HERE / SCRIPTS[client]), "--data", stem, "--out", str(out), "--url", url]
    command += ["--chunk", str(case.chunk), "--body", case.body, "--keep", case.keep]
    command += ["--ca", authority] if authority else []
    sample = json.loads(_on_core(1, command, folder).splitlines()[-1])
    for each in folder.glob("out*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    sample["rows_per_cpu_s"] = round(sample["rows"] / sample["cpu_s"])
    sample["cpu_us_a_request"] = round(sample["cpu_s"] / (sample["rows"] / case.chunk) * 1e6, 1)
    return sample


def _wrk(case: Case, folder: Path, url: str) -> dict[str, Any]:
    body = folder / "body"
    body.write_bytes(data.body(case.kind, case.chunk, case.body))
    os.environ |= {"BODY": str(body), "CONTENT_TYPE": CONTENT_TYPES[case.body]}
    before = os.times()
    text = _on_core(1, ["wrk", "-t1", "-c16", f"-d{WRK_S}s", "-s", str(HERE / "post.lua"), url], folder)
    after = os.times()
    requests = int(text.split(" requests in ")[0].split()[-1])
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    rows = requests * case.chunk
    return {
        "rows": rows, "wall_s": WRK_S, "cpu_s": round(cpu_s, 3), "rows_per_cpu_s": round(rows / cpu_s),
        "cpu_us_a_request": round(cpu_s / requests * 1e6, 1),
    }  # fmt: skip


def _latency(folder: Path, share: float) -> dict[str, Any]:
    """20 ms a request, 64 slots: how long the slots were busy once all were, by the endpoint's own count."""
    with _endpoint(folder, LATENCY_S, SLOTS) as url:
        stem = data.write("numbers", int(400_000 * share), folder, csv=False)
        command = [
            sys.executable,
            str(HERE / SCRIPTS["asyncbatch"]),
            "--data",
            stem,
            "--out",
            str(folder / "out"),
            "--url",
            url,
        ]
        command += ["--chunk", "20", "--concurrency", str(SLOTS)]
        _on_core(1, command, folder)
        with urllib.request.urlopen(url + "/stats") as reply:
            stats = json.load(reply)
    for each in folder.glob("out*"):
        shutil.rmtree(each)
    return {**stats, "busy": round(stats["full_busy_s"] / (stats["full_wall_s"] * stats["slots"]), 4)}


def _start_cpu_s(folder: Path) -> float:
    """CPU seconds of `asyncbatch run` until its first request arrives, by a server that notes when."""
    import threading

    stem = data.write("numbers", 1_000, folder, csv=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [
            sys.executable,
            "-m",
            "asyncbatch",
            "run",
            stem + ".parquet",
            str(folder / "started"),
            "-e",
            f"{address}/invocations",
            "-q",
        ]
        sagemaker = ["-e", "churn", "--endpoint-url", address, "--region", "us-east-1"]
        command[command.index("-e") : command.index("-e") + 2] = sagemaker
        process = subprocess.Popen(_pinned(1, command), env=_environment(folder))
        seen: list[float] = []

        def serve(connection: socket.socket) -> None:
            with connection:
                head = connection.recv(65_536)
                if b"/invocations" in head and not seen:
                    stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                    seen.append((int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"))
                connection.sendall(
                    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

        while not seen:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()
            time.sleep(0.01)
        process.kill()
        process.wait()
    shutil.rmtree(folder / "started", ignore_errors=True)
    shutil.rmtree(folder / "started.asyncbatch", ignore_errors=True)
    return seen[0]


# -- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def _endpoint(folder: Path, latency_s: float = 0.0, slots: int = 1) -> Iterator[str]:
    program = folder / "null_endpoint"
    if not program.exists():
        subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / "null_endpoint.c")], check=True)
    port = _free_port()
    process = subprocess.Popen(_pinned(0, [str(program), str(port), str(int(latency_s * 1e6)), str(slots)]))
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def _plain(url: str) -> Iterator[tuple[str, str | None]]:
    yield url, None


@contextmanager
def _tls(folder: Path, url: str) -> Iterator[tuple[str, str | None]]:
    """nginx with TLS before the endpoint, on the endpoint's core."""
    import trustme

    port, home = _free_port(), folder / "nginx"
    home.mkdir(exist_ok=True)
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(home / "server.pem"))
    temporary = " ".join(f"{kind}_temp_path {home}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 64m; client_body_buffer_size 1m; keepalive_requests 1000000;
  client_body_temp_path {home}/body; {temporary}
  upstream null {{ server {url.removeprefix("http://")}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {home}/server.pem; ssl_certificate_key {home}/server.pem;
    location / {{
      proxy_pass http://null; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
    }}
  }}
}}
""")
    process = subprocess.Popen(
        _pinned(0, ["nginx", "-p", str(home), "-c", str(home / "nginx.conf")]), stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        yield f"https://localhost:{port}", str(home / "ca.pem")
    finally:
        process.terminate()
        process.wait()


def _on_core(core: int, command: list[str], folder: Path) -> str:
    done = subprocess.run(
        _pinned(core, command),
        capture_output=True,
        text=True,
        check=False,
        env=_environment(folder),
        start_new_session=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def _pinned(core: int, command: list[str]) -> list[str]:
    if (os.cpu_count() or 1) < 2 or shutil.which("taskset") is None:
        return command
    return ["taskset", "-c", str(core), *command]


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "PYTHONDONTWRITE", "ASYNCBATCH_"))
    }
    return kept | {
        "AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"), "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
    }  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit("the endpoint does not start")


# -- results ---------------------------------------------------------------------------------------------------------


def _summary(case: Case, samples: dict[tuple[str, str], list[dict[str, Any]]]) -> dict[str, Any]:
    clients = []
    rates = {}
    for client in [*case.rows, "wrk"]:
        taken = samples.get((case.name, client))
        if not taken:
            continue
        rates[client] = median(each["rows_per_cpu_s"] for each in taken)
        clients.append({
            "client": client,
            "rows_per_cpu_s": rates[client],
            "rows_per_s": round(median(each["rows"] / each["wall_s"] for each in taken)),
            "cpu_us_a_request": median(each["cpu_us_a_request"] for each in taken),
            "peak_mb": median(each["peak_mb"] for each in taken) if "peak_mb" in taken[0] else None,
            "samples": taken,
        })  # fmt: skip
    ratio = (
        round(rates["asyncbatch"] / rates["article"], 2) if {"asyncbatch", "article"} <= set(rates) else None
    )
    return {"case": case.name, "rows_a_request": case.chunk, "over_the_loop": ratio, "clients": clients}


def _table(cases: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'rows per CPU-second':34}"
        + "".join(f"{each:>17}" for each in (*SCRIPTS, "wrk"))
        + f"{'over the loop':>15}"
    ]
    for case in cases:
        rates = {each["client"]: f"{each['rows_per_cpu_s']:,.0f}" for each in case["clients"]}
        ratio = f"{case['over_the_loop']:.1f}x" if case["over_the_loop"] else ""
        lines.append(
            f"{case['case']:34}"
            + "".join(f"{rates.get(each, ''):>17}" for each in (*SCRIPTS, "wrk"))
            + f"{ratio:>15}"
        )
    return lines


def _versions() -> dict[str, str]:
    if not RIVALS.exists():
        return {}
    names = ("boto3", "aioboto3", "pandas", "pyarrow", "ray")
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    done = subprocess.run([str(RIVALS), "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _missing() -> list[str]:
    found = [name for name in ("wrk", "gcc", "nginx", "taskset") if shutil.which(name) is None]
    return found if RIVALS.exists() else [*found, ".venv-rivals"]


if __name__ == "__main__":
    main()
