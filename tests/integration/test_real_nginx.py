"""`asyncbatch run` through nginx: TLS, its limits, its closed connections, and an upstream that goes away."""

import dataclasses
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import EndpointError, StoppedError
from asyncbatch.observe.events import PartCommitted, RequestFailed
from asyncbatch.server.background import Background, background
from asyncbatch.server.config import ServeConfig, SimulationConfig

pytestmark = pytest.mark.real("nginx")

Command = Callable[..., "subprocess.CompletedProcess[str]"]
StartNginx = Callable[..., Any]

ROWS = 6_007


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Row n holds the number n and 100 bytes of padding; the endpoint answers n."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"n": range(ROWS), "padding": ["x" * 100] * ROWS}), path)
    return path


def address(server: Background) -> str:
    return f"{server.host}:{server.port}"


def check(out: Path) -> None:
    """Every row is there, in order, with its own answer."""
    table = pq.read_table(out)
    assert table["n"].to_pylist() == list(range(ROWS))
    assert table["prediction"].to_pylist() == list(range(ROWS))
    assert table["error"].null_count == ROWS


# -- TLS -----------------------------------------------------------------------------------------------------


def test_a_private_authority_is_trusted_when_named(
    start_nginx: StartNginx,
    authority: Any,
    echo: Background,
    rows: Path,
    tmp_path: Path,
    run_command: Command,
) -> None:
    nginx = start_nginx(upstream=address(echo), tls=authority)
    done = run_command(
        "run", str(rows), "out.parquet", "-e", nginx.invocations_url, "--ca-bundle", str(authority.ca), "-q"
    )
    assert (done.returncode, done.stderr) == (0, "")
    check(tmp_path / "out.parquet")


def test_a_private_authority_may_come_from_the_environment(
    start_nginx: StartNginx,
    authority: Any,
    echo: Background,
    rows: Path,
    tmp_path: Path,
    run_command: Command,
) -> None:
    nginx = start_nginx(upstream=address(echo), tls=authority)
    environment = {"AWS_CA_BUNDLE": str(authority.ca)}
    done = run_command("run", str(rows), "out.parquet", "-e", nginx.invocations_url, "-q", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    check(tmp_path / "out.parquet")


def test_an_unknown_authority_is_one_clear_error(
    start_nginx: StartNginx,
    authority: Any,
    echo: Background,
    rows: Path,
    tmp_path: Path,
    run_command: Command,
) -> None:
    nginx = start_nginx(upstream=address(echo), tls=authority)
    done = run_command("run", str(rows), "out", "-e", nginx.invocations_url, "-q")
    assert done.returncode == 1
    assert "is not trusted" in done.stderr
    assert "--ca-bundle" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
    assert not list(tmp_path.glob("out*"))
    assert nginx.requests() == []


def test_a_certificate_for_another_name_is_refused(
    start_nginx: StartNginx, authority: Any, echo: Background, rows: Path, tmp_path: Path
) -> None:
    nginx = start_nginx(upstream=address(echo), tls=authority)
    by_number = nginx.invocations_url.replace("localhost", "127.0.0.1")
    with pytest.raises(EndpointError, match=r"is not trusted.*127\.0\.0\.1"):
        asyncbatch.run(str(rows), str(tmp_path / "out"), endpoint=by_number, ca_bundle=str(authority.ca))
    assert nginx.requests() == []


def test_the_sagemaker_protocol_goes_through_tls_too(
    start_nginx: StartNginx, authority: Any, echo: Background, rows: Path, tmp_path: Path
) -> None:
    nginx = start_nginx(upstream=address(echo), tls=authority)
    asyncbatch.run(
        str(rows),
        str(tmp_path / "out.parquet"),
        endpoint=echo.name,
        endpoint_url=nginx.url,
        ca_bundle=str(authority.ca),
        region="us-east-1",
    )
    check(tmp_path / "out.parquet")


def test_plain_http_to_a_tls_port_is_explained(
    start_nginx: StartNginx, authority: Any, echo: Background, rows: Path, tmp_path: Path
) -> None:
    nginx = start_nginx(upstream=address(echo), tls=authority)
    plain = nginx.invocations_url.replace("https://localhost", "http://127.0.0.1")
    with pytest.raises(EndpointError, match="plain HTTP request was sent to HTTPS port"):
        asyncbatch.run(str(rows), str(tmp_path / "out"), endpoint=plain)


def test_https_to_a_plain_port_is_explained(
    start_nginx: StartNginx, echo: Background, rows: Path, tmp_path: Path
) -> None:
    nginx = start_nginx(upstream=address(echo))
    with pytest.raises(EndpointError, match="no TLS connection"):
        asyncbatch.run(
            str(rows), str(tmp_path / "out"), endpoint=nginx.invocations_url.replace("http://", "https://")
        )


# -- limits --------------------------------------------------------------------------------------------------


def test_a_body_limit_is_learned_and_split_around(
    start_nginx: StartNginx, echo: Background, tmp_path: Path
) -> None:
    count, limit = 40_000, 64 * 1024
    table = pa.table({"n": range(count), "padding": ["x" * (80 + n % 40) for n in range(count)]})
    pq.write_table(table, tmp_path / "in.parquet")
    nginx = start_nginx(upstream=address(echo), location=f"client_max_body_size {limit};")
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out"),
        endpoint=nginx.invocations_url,
        chunk_rows=3_000,
        block_rows=6_000,
        concurrency=2,
    )
    assert pq.read_table(tmp_path / "out")["prediction"].to_pylist() == list(range(count))
    outcomes = report.metrics.requests_by_outcome
    assert set(outcomes) == {"success", "too_large"}
    # Learned: not every chunk is refused before it is split, and pieces come close to the limit.
    assert outcomes["too_large"] <= 12
    assert outcomes["success"] < 1.5 * report.metrics.bytes_sent / limit
    for request in nginx.requests(at_least=report.metrics.requests):
        assert (int(request["body_bytes"]) > limit) == (request["status"] == 413)


def test_large_bodies_are_refused_while_they_are_still_being_sent(
    start_nginx: StartNginx, echo: Background, tmp_path: Path
) -> None:
    """nginx answers 413 by the Content-Length, long before the body is through; 1 MB is its default."""
    count = 600
    table = pa.table({"n": range(count), "padding": ["y" * 10_000] * count})
    pq.write_table(table, tmp_path / "in.parquet")
    nginx = start_nginx(upstream=address(echo))
    report = asyncbatch.run(
        str(tmp_path / "in.parquet"),
        str(tmp_path / "out.parquet"),
        endpoint=nginx.invocations_url,
        chunk_rows=600,
        block_rows=600,
        keep="n",
    )
    assert pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist() == list(range(count))
    assert set(report.metrics.requests_by_outcome) == {"success", "too_large"}


@pytest.mark.parametrize("status", [429, 503])
def test_a_rate_limit_is_obeyed(
    start_nginx: StartNginx, echo: Background, rows: Path, tmp_path: Path, status: int
) -> None:
    nginx = start_nginx(
        upstream=address(echo),
        http="limit_req_zone $server_port zone=all:64k rate=40r/s;",
        location=f"limit_req zone=all burst=4 nodelay; limit_req_status {status};",
    )
    report = asyncbatch.run(
        str(rows),
        str(tmp_path / "out.parquet"),
        endpoint=nginx.invocations_url,
        chunk_rows=150,
        concurrency=8,
    )
    check(tmp_path / "out.parquet")
    outcomes = report.metrics.requests_by_outcome
    assert set(outcomes) == {"success", {429: "throttled", 503: "unavailable"}[status]}
    # Slowed down: an impatient client would be refused many times for each answer.
    assert report.metrics.requests < 3 * outcomes["success"]
    statuses = Counter(request["status"] for request in nginx.requests(at_least=report.metrics.requests))
    assert statuses == {200: outcomes["success"], status: report.metrics.requests - outcomes["success"]}


def test_retry_after_is_obeyed(start_nginx: StartNginx, echo: Background, rows: Path, tmp_path: Path) -> None:
    """Without the header the first retries would come within a second."""
    nginx = start_nginx(
        upstream=address(echo),
        http="limit_req_zone $server_port zone=all:64k rate=20r/s;",
        server="error_page 429 @later; location @later { add_header Retry-After 2 always; return 429; }",
        location="limit_req zone=all burst=7 nodelay; limit_req_status 429;",
    )
    refused_s: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, RequestFailed):
            refused_s.append(time.monotonic())

    asyncbatch.run(
        str(rows),
        str(tmp_path / "out.parquet"),
        endpoint=nginx.invocations_url,
        chunk_rows=500,
        concurrency=16,
        hooks=[note],
    )
    ended_s = time.monotonic()
    check(tmp_path / "out.parquet")
    assert refused_s
    assert ended_s - refused_s[0] >= 2.0


# -- connections ---------------------------------------------------------------------------------------------


def test_connections_that_nginx_closes_after_a_few_requests_lose_nothing(
    start_nginx: StartNginx, echo: Background, rows: Path, tmp_path: Path
) -> None:
    nginx = start_nginx(upstream=address(echo), http="keepalive_requests 5;")
    report = asyncbatch.run(
        str(rows), str(tmp_path / "out.parquet"), endpoint=nginx.invocations_url, chunk_rows=40, concurrency=4
    )
    check(tmp_path / "out.parquet")
    assert set(report.metrics.requests_by_outcome) == {"success"}
    requests = nginx.requests(at_least=report.metrics.requests)
    on_each = Counter(request["connection"] for request in requests)
    assert max(on_each.values()) == 5
    assert len(on_each) >= len(requests) / 5


def test_idle_connections_closed_under_the_client_lose_nothing(
    start_nginx: StartNginx, echo: Background, rows: Path, tmp_path: Path
) -> None:
    """nginx closes what is idle for 55 ms; a request every 56 ms often meets a connection just closed."""
    nginx = start_nginx(upstream=address(echo), http="keepalive_timeout 55ms;")
    report = asyncbatch.run(
        str(rows),
        str(tmp_path / "out.parquet"),
        endpoint=nginx.invocations_url,
        chunk_rows=100,
        concurrency=1,
        rate=18,
    )
    check(tmp_path / "out.parquet")
    # Such a request was never seen: it is sent again at once, and is no failure.
    assert set(report.metrics.requests_by_outcome) == {"success"}
    assert {request["status"] for request in nginx.requests(at_least=60)} == {200}


def test_compressed_replies_are_read(
    start_nginx: StartNginx, echo: Background, rows: Path, tmp_path: Path
) -> None:
    nginx = start_nginx(
        upstream=address(echo), http="gzip on; gzip_proxied any; gzip_min_length 1; gzip_types text/csv;"
    )
    asyncbatch.run(str(rows), str(tmp_path / "out.parquet"), endpoint=nginx.invocations_url)
    check(tmp_path / "out.parquet")


# -- an upstream that goes away ------------------------------------------------------------------------------


class Away:
    """A hook: once the first part is committed its upstream stops, and starts again after a while."""

    def __init__(self, config: ServeConfig, *, away_s: float) -> None:
        self._config = config
        self._away_s = away_s
        self._due = threading.Event()
        self._up = threading.Event()
        self._back = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self.upstream = ""
        self.was_away = False

    def __call__(self, event: object) -> None:
        if isinstance(event, PartCommitted):
            self._due.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._due.set()
        self._back.set()
        self._thread.join(60)

    def come_back(self) -> None:
        """Start again now."""
        self._up.clear()
        self._back.set()
        assert self._up.wait(60)

    def _serve(self) -> None:
        with background(self._config) as server:
            self.upstream = address(server)
            self._up.set()
            self._due.wait()
        if not self._over.is_set():
            self._back.wait(self._away_s)
            self.was_away = True
            with background(dataclasses.replace(self._config, port=server.port)):
                self._up.set()
                self._over.wait()


SLOW = SimulationConfig(a=0.02, slots=4)


def test_an_upstream_that_is_restarted_costs_time_and_no_row(
    start_nginx: StartNginx, rows: Path, tmp_path: Path
) -> None:
    """While it is away nginx answers 502 at once, to every chunk again and again."""
    with Away(ServeConfig(model="simulated", simulation=SLOW), away_s=2.0) as away:
        nginx = start_nginx(upstream=away.upstream)
        report = asyncbatch.run(
            str(rows),
            str(tmp_path / "out"),
            endpoint=nginx.invocations_url,
            chunk_rows=40,
            block_rows=1_000,
            concurrency=4,
            hooks=[away],
        )
        assert away.was_away
    check(tmp_path / "out")
    assert (report.status, report.metrics.rows_rejected) == ("done", 0)
    assert report.metrics.requests_by_outcome["failed"] >= 4


def test_an_upstream_that_stays_away_stops_the_run_resumably(
    start_nginx: StartNginx, rows: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"chunk_rows": 40, "block_rows": 1_000, "concurrency": 4}
    with Away(ServeConfig(model="simulated", simulation=SLOW), away_s=60.0) as away:
        nginx = start_nginx(upstream=away.upstream)
        options["endpoint"] = nginx.invocations_url
        with pytest.raises(StoppedError, match="502") as caught:
            asyncbatch.run(str(rows), str(tmp_path / "out"), hooks=[away], max_outage=3, **options)
        assert caught.value.exit_code == 75
        away.come_back()
        report = asyncbatch.run(str(rows), str(tmp_path / "out"), **options)
    check(tmp_path / "out")
    assert report.metrics.rows_resumed >= 1_000
    assert report.metrics.rows_rejected == 0


@pytest.mark.parametrize("kind", ["hang", "reset", "truncated", "short", "500", "503"])
def test_what_nginx_makes_of_an_upstreams_faults_is_survived(
    start_nginx: StartNginx, rows: Path, tmp_path: Path, kind: str
) -> None:
    """`hang` becomes 504, `reset` 502; a truncated reply stays one."""
    # A request that hangs keeps its slot.
    simulation = SimulationConfig(errors={kind: 0.1}, seed=3, slots=1_000)
    with background(ServeConfig(model="simulated", simulation=simulation)) as server:
        nginx = start_nginx(upstream=address(server), location="proxy_read_timeout 300ms;")
        report = asyncbatch.run(
            str(rows), str(tmp_path / "out"), endpoint=nginx.invocations_url, chunk_rows=100, concurrency=8
        )
    check(tmp_path / "out")
    statuses = {request["status"] for request in nginx.requests(at_least=report.metrics.requests)}
    assert statuses == {200} | {"hang": {504}, "reset": {502}, "500": {500}, "503": {503}}.get(kind, set())
    assert report.metrics.requests > report.metrics.requests_by_outcome["success"]
