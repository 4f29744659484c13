"""Bytes and texts as bodies of their own: one row a request, sent as they are."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch


@dataclass
class Digests:
    """A server that answers the SHA-256 of each body, and remembers the content types."""

    url: str = ""
    content_types: set[str] = field(default_factory=set)


@pytest.fixture
def digests() -> Iterator[Digests]:
    found = Digests()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.content_types.add(self.headers["Content-Type"])
            reply = b'{"sha256": "%b"}' % hashlib.sha256(body).hexdigest().encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}/invocations"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("values", "type_", "options", "sent_as"),
    [
        (
            [bytes(range(256)) * row for row in range(1, 40)],
            pa.binary(),
            {"content_type": "image/png"},
            "image/png",
        ),
        ([bytes([row]) for row in range(39)], pa.binary(), {}, "application/octet-stream"),
        ([f'"{row}",\n größer' for row in range(39)], pa.string(), {}, "text/plain"),
    ],
    ids=["images", "bytes", "texts"],
)
def test_each_rows_value_is_the_body(
    values: list[Any],
    type_: pa.DataType,
    options: dict[str, Any],
    sent_as: str,
    tmp_path: Path,
    digests: Digests,
) -> None:
    pq.write_table(pa.table({"id": range(39), "value": pa.array(values, type_)}), tmp_path / "in.parquet")
    asyncbatch.run(
        str(tmp_path / "in.parquet"), str(tmp_path / "out"), endpoint=digests.url, send="value", keep="id", body="raw",
        concurrency=4, **options,
    )  # fmt: skip
    scored = pq.read_table(tmp_path / "out")
    bodies = [value if isinstance(value, bytes) else value.encode() for value in values]
    assert scored["id"].to_pylist() == list(range(39))
    assert scored["sha256"].to_pylist() == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert digests.content_types == {sent_as}
