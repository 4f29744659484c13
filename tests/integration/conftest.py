"""Servers and a browser that nobody here wrote: where they are, how they are started, what happens without them."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import emulators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme

import asyncbatch
from asyncbatch.observe.report import RunReport
from asyncbatch.server.background import Background

ROOT = Path(__file__).resolve().parents[2]
MLFLOW = ROOT / ".venv-mlflow"
EMBEDDINGS = ROOT / ".venv-embeddings"
_HERE = Path(__file__).parent
_NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_START_S = 60.0
_STOP_S = 10.0


def _missing(server: str) -> str | None:
    """Why a server cannot be started here; None if it can."""
    if server == "mlflow":
        if (MLFLOW / "ready").exists():
            return None
        return "MLflow is not installed; scripts/real-servers builds its environment, .venv-mlflow"
    if server == "nginx":
        if _NGINX is not None:
            return None
        return "nginx is not installed; scripts/real-servers says how, and does it where it may"
    if server == "embeddings":
        if (EMBEDDINGS / "ready").exists():
            return None
        return "the embedding model is not installed; scripts/real-servers builds its environment, .venv-embeddings"
    if server == "chromium":
        if _CHROMIUM is not None:
            return None
        return "Chromium is not installed; scripts/real-servers says how, and does it where it may"
    raise ValueError(f"no server {server!r} is known here")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out the tests whose server is missing, with the reason. In CI a missing MLflow is a failure."""
    for mark in item.iter_markers("real"):
        (server,) = mark.args
        reason = _missing(server)
        if reason is None:
            continue
        if server == "mlflow" and os.environ.get("REAL_SERVERS") == "required":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


# -- processes -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(command: list[str], *, log: Path, **more: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A child that ends when its standard input closes: with the block, and when this process dies."""
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            **more,
        )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield child
    finally:
        child.stdin.close()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


# -- MLflow --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MlflowModel:
    """One model behind MLflow's scoring server."""

    url: str
    rows: Path
    """The input, Parquet."""
    expected: list[Any]
    """What the model's own `predict` says to these rows, one entry a row."""


@pytest.fixture(scope="session")
def mlflow_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, MlflowModel]]:
    """`number` (rows with nulls), `vector`, `label` and `matrix`: see mlflow_server.py."""
    folder = tmp_path_factory.mktemp("mlflow")
    log = folder / "server.log"
    script = str(_HERE / "mlflow_server.py")
    environment = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    python = str(MLFLOW / "bin" / "python")
    with _process([python, script, str(folder)], log=log, cwd=folder, env=environment) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            pytest.fail(f"MLflow's server did not start:\n{log.read_text()[-3000:]}", pytrace=False)
        yield {
            name: MlflowModel(
                url=f"http://127.0.0.1:{port}/invocations",
                rows=folder / f"{name}.parquet",
                expected=json.loads((folder / f"{name}.expected.json").read_text()),
            )
            for name, port in json.loads(line).items()
        }


# -- a sentence-embedding model ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """A sentence-embedding model behind HTTP."""

    url: str
    rows: Path
    """The input: JSON Lines with `id` and `text`."""
    expected: list[list[float]]
    """What the model's own `encode` says to all texts at once."""


@pytest.fixture(scope="session")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embeddings]:
    """See embedding_server.py."""
    folder = tmp_path_factory.mktemp("embeddings")
    log = folder / "server.log"
    command = [str(EMBEDDINGS / "bin" / "python"), str(_HERE / "embedding_server.py"), str(folder)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], **offline}
    with _process(command, log=log, cwd=folder, env=environment) as child:
        assert child.stdout is not None
        port = child.stdout.readline().decode().strip()
        if not port:
            pytest.fail(f"the embedding server did not start:\n{log.read_text()[-3000:]}", pytrace=False)
        yield Embeddings(
            url=f"http://127.0.0.1:{port}/invocations",
            rows=folder / "texts.jsonl",
            expected=json.loads((folder / "expected.json").read_text()),
        )


# -- nginx ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority of our own, and a certificate of it for `localhost` alone."""

    ca: Path
    certificate: Path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return Authority(ca=folder / "ca.pem", certificate=folder / "server.pem")


@dataclass(frozen=True, kw_only=True)
class Nginx:
    """A running nginx."""

    url: str
    """`http://127.0.0.1:PORT`, or `https://localhost:PORT`."""
    access_log: Path

    @property
    def invocations_url(self) -> str:
        return f"{self.url}/invocations"

    def requests(self, *, at_least: int = 0) -> list[dict[str, Any]]:
        """Every request so far: `status`, `connection` (its number) and `body_bytes`, as text.

        nginx logs a request when it is done with it, which may be after the client has the answer: waits for
        `at_least`.
        """
        until_s = time.monotonic() + 10.0
        while True:
            lines = self.access_log.read_text().splitlines()
            if len(lines) >= at_least or time.monotonic() > until_s:
                return [json.loads(line) for line in lines]
            time.sleep(0.02)


StartNginx = Callable[..., Nginx]

_CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
worker_processes 1;
{user}
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    log_format json escape=json
        '{{"status":$status,"connection":$connection,"body_bytes":"$content_length"}}';
    access_log {folder}/access.log json;
    {http}
    upstream model {{ server {upstream}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port}{ssl};
        {server}
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            {location}
        }}
    }}
}}
"""
# The shell keeps the pipe: nginx itself would not notice that it closes.
_UNTIL_CLOSED = '"$@" </dev/null & child=$!; cat >/dev/null; kill "$child"; wait "$child"'


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[StartNginx]:
    """`start_nginx(upstream="host:port", http=…, server=…, location=…, tls=…)`: nginx before an upstream.

    `http`, `server` and `location` are directives for these blocks. Stopped when the test ends.
    """
    with contextlib.ExitStack() as stack:

        def start(
            *,
            upstream: str,
            http: str = "",
            server: str = "",
            location: str = "",
            tls: Authority | None = None,
        ) -> Nginx:
            folder = tmp_path / f"nginx-{time.monotonic_ns()}"
            folder.mkdir()
            port = emulators.free_port()
            if tls is not None:
                server += f"\nssl_certificate {tls.certificate}; ssl_certificate_key {tls.certificate};"
            config = folder / "nginx.conf"
            config.write_text(
                _CONFIG.format(
                    folder=folder,
                    # As root its workers would be another user, who may not look into the test's folder.
                    user="user root;" if os.geteuid() == 0 else "",
                    upstream=upstream,
                    port=port,
                    ssl=" ssl" if tls is not None else "",
                    http=http,
                    server=server,
                    location=location,
                )
            )
            assert _NGINX is not None
            log = folder / "error.log"
            command = [_NGINX, "-e", "stderr", "-p", str(folder), "-c", str(config)]
            stack.enter_context(_process(["sh", "-c", _UNTIL_CLOSED, "sh", *command], log=log))
            _wait_for_port(port, log)
            return Nginx(
                url=f"https://localhost:{port}" if tls is not None else f"http://127.0.0.1:{port}",
                access_log=folder / "access.log",
            )

        yield start


def _wait_for_port(port: int, log: Path) -> None:
    until_s = time.monotonic() + _START_S
    while "[emerg]" not in log.read_text() and time.monotonic() < until_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}", pytrace=False)


# -- moto ----------------------------------------------------------------------------------------------------


@pytest.fixture
def moto_url(tmp_path: Path) -> Iterator[str]:
    """A moto server of its own."""
    port = emulators.free_port()
    log = tmp_path / "moto.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _process(["sh", "-c", _UNTIL_CLOSED, "sh", *command], log=log):
        _wait_for_port(port, log)
        yield f"http://127.0.0.1:{port}"


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`run_command("run", …, env={…})`: `asyncbatch` as it is typed, in an empty folder."""

    def run(*arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ASYNCBATCH_", "AWS_", "SSL_CERT_"))
        }
        return subprocess.run(
            [sys.executable, "-m", "asyncbatch", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1", **(env or {})},
        )

    return run


# -- tables of a lake ----------------------------------------------------------------------------------------


class Scoring:
    """A folder of files of 500 rows each, and the command that scores them into `sink`."""

    def __init__(self, home: Path, endpoint: str, sink: str, **options: Any) -> None:
        self.sink = str(home / sink)
        self.endpoint = endpoint
        self.folder = home / "in"
        self.folder.mkdir()
        self._options = {"block_rows": 100, "send": "x", "keep": "id", **options}
        self.add("1", 0)

    def add(self, name: str, start: int) -> None:
        """One more file, with ids from `start`."""
        table = pa.table({"id": range(start, start + 500), "x": [float(each) for each in range(500)]})
        pq.write_table(table, self.folder / f"{name}.parquet")

    def run(self, sink: str | None = None, **options: Any) -> RunReport:
        given = {"endpoint": self.endpoint, **self._options, **options}
        return asyncbatch.run(str(self.folder), sink or self.sink, **given)


@pytest.fixture
def scoring_to(tmp_path: Path, echo: Background) -> Callable[..., Scoring]:
    """`scoring_to(sink, format=…)`: the input, and the command."""
    return lambda sink, **options: Scoring(tmp_path, echo.invocations_url, sink, **options)


# -- a browser -----------------------------------------------------------------------------------------------


@pytest.fixture
def rendered(tmp_path: Path) -> Callable[[Path], str]:
    """Opens a page in headless Chromium, runs its scripts, and gives what it then holds."""

    def render(page: Path) -> str:
        assert _CHROMIUM is not None
        found = subprocess.run(
            [
                _CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--virtual-time-budget=5000",
                f"--user-data-dir={tmp_path / 'browser'}",
                "--window-size=1100,900",
                "--enable-logging=stderr",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
        assert not said, said
        return found.stdout

    return render
