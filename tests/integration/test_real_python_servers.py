"""`asyncbatch run` against the HTTP servers of Python and Werkzeug: HTTP/1.0, no keep-alive, chunks."""

import contextlib
import http.server
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import werkzeug.serving
from werkzeug.wrappers import Request, Response

import asyncbatch

ROWS = 2_003


def double(body: bytes) -> bytes:
    return b"".join(b"%d\n" % (2 * int(line.split(b",")[0])) for line in body.splitlines())


@Request.application
def application(request: Request) -> Response:
    return Response(double(request.get_data()), content_type="text/csv")


def streaming(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterator[bytes]:
    """No Content-Length: the reply ends in chunks, or with the connection."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "text/csv")])
    yield from double(body).splitlines(keepends=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """HTTP/1.0: every reply ends its connection, and nothing else says how long it is."""

    def do_POST(self) -> None:
        body = double(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/csv; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class QuietWerkzeug(werkzeug.serving.WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None: ...


class QuietWsgiref(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: object) -> None: ...


class ThreadedWsgiref(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


def http_server() -> Any:
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def werkzeug_server() -> Any:
    return werkzeug.serving.make_server(
        "127.0.0.1", 0, application, threaded=True, request_handler=QuietWerkzeug
    )


def werkzeug_in_chunks() -> Any:
    return werkzeug.serving.make_server(
        "127.0.0.1", 0, streaming, threaded=True, request_handler=QuietWerkzeug
    )


def wsgiref_server() -> Any:
    return wsgiref.simple_server.make_server(
        "127.0.0.1", 0, streaming, server_class=ThreadedWsgiref, handler_class=QuietWsgiref
    )


@contextlib.contextmanager
def running(server: Any) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/invocations"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.mark.parametrize("make", [http_server, werkzeug_server, werkzeug_in_chunks, wsgiref_server])
def test_every_row_is_answered(make: Callable[[], Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(ROWS)}), tmp_path / "in.parquet")
    with running(make()) as url:
        report = asyncbatch.run(
            str(tmp_path / "in.parquet"),
            str(tmp_path / "out.parquet"),
            endpoint=url,
            chunk_rows=100,
            concurrency=4,
        )
    assert set(report.metrics.requests_by_outcome) == {"success"}
    assert pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist() == [2 * n for n in range(ROWS)]
