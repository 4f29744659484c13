"""Throughput from and to a bucket, beside the plain client's: boto3's own managed transfers.

    python benchmarks/stores.py                          # writes results/stores.json
    python benchmarks/stores.py --quick                  # 2 M rows, one round; writes nothing

Writing: a table of so many rows goes as parts of 131,072 rows through the sink (Parquet made and committed by
conditional creation), and the same bytes go through boto3's `upload_fileobj`. Reading: a Parquet file of so many rows
is read by the source, all columns and one in four, and the same file is fetched by boto3's `download_fileobj` and
decoded from memory. The server is a stand-in in a process of its own that keeps objects in memory and answers after a
delay, since moto's 100 calls a second would measure moto.
"""

import argparse
import io
import itertools
import multiprocessing
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asyncbatch.config import InputConfig
from asyncbatch.model import Block, InputFile
from asyncbatch.sink.footer import PartFooter
from asyncbatch.sink.parts import PartsSink, write_part
from asyncbatch.sink.plan import Plan, create_plan
from asyncbatch.source import open_source
from asyncbatch.store.access import Access
from asyncbatch.store.connect import connect
from asyncbatch.store.object import ObjectStore
from asyncbatch.store.uri import parse_uri

BLOCK_ROWS = 131_072
COLUMNS = 22
WRITERS = 2
"""Threads that commit blocks, as in a run."""


def serve(port: Any, latency_s: float) -> None:
    """S3 as far as this benchmark needs it: objects in memory, ranges, conditions, uploads in parts."""
    objects: dict[str, bytes] = {}
    uploads: dict[str, dict[int, bytes]] = {}
    lock = threading.Lock()
    numbers = itertools.count()

    def kept(path: str, data: bytes) -> bytes:
        """What nobody will read is forgotten, or the rounds would fill the memory."""
        return data if path.endswith("in.parquet") or len(data) < 2**20 else b""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 20

        def log_message(self, *values: object) -> None:
            pass

        def handle_expect_100(self) -> bool:
            """At once: a client that is not told to go on waits for a second."""
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            return True

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            time.sleep(latency_s)
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.flush()
                self.connection.sendall(body)

        def body(self) -> bytearray:
            """Straight into its place: a server that costs much would be what is measured."""
            data = bytearray(int(self.headers.get("Content-Length", 0)))
            view = memoryview(data)
            at = self.rfile.readinto(view[: len(self.rfile.peek(1))]) if data else 0
            while at < len(data):
                at += self.connection.recv_into(view[at:], 0, socket.MSG_WAITALL)
            return data

        def do_PUT(self) -> None:
            body = self.body()
            path, _, query = self.path.partition("?")
            with lock:
                if "partNumber" in query:
                    parts = dict(each.partition("=")[::2] for each in query.split("&"))
                    uploads[parts["uploadId"]][int(parts["partNumber"])] = body
                elif self.headers.get("If-None-Match") == "*" and path in objects:
                    return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                else:
                    objects[path] = kept(path, body)
            return self.answer(200, ETag='"e"')

        def do_POST(self) -> None:
            self.body()
            path, _, query = self.path.partition("?")
            with lock:
                if query.startswith("uploads"):
                    number = str(next(numbers))
                    uploads[number] = {}
                    body = f"<R><UploadId>{number}</UploadId></R>".encode()
                elif "uploadId" in query:
                    parts = uploads.pop(query.partition("uploadId=")[2])
                    objects[path] = kept(path, b"".join(parts[number] for number in sorted(parts)))
                    body = b"<R><ETag>e</ETag></R>"
                else:
                    body = b"<R></R>"
            self.answer(200, body)

        def do_HEAD(self) -> None:
            data = objects.get(self.path)
            if data is None:
                return self.answer(404)
            return self.answer(200, ETag='"e"', Content_Length=str(len(data)))

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if "list-type" in query:
                return self.answer(
                    200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
                )
            data = objects.get(path)
            if data is None:
                return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            wanted = self.headers.get("Range")
            if wanted is None:
                return self.answer(200, data, ETag='"e"')
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            low = int(start) if start else max(0, len(data) - int(stop))
            high = min(len(data), int(stop) + 1) if start and stop else len(data)
            where = f"bytes {low}-{high - 1}/{len(data)}"
            return self.answer(206, memoryview(data)[low:high], ETag='"e"', Content_Range=where)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port.send(server.server_address[1])
    server.serve_forever()


def block(number: int) -> pa.Table:
    rng = np.random.default_rng(number)
    columns = {f"f{column}": rng.normal(size=BLOCK_ROWS) for column in range(COLUMNS - 2)}
    return pa.table(
        {**columns, "prediction": rng.random(BLOCK_ROWS), "error": pa.nulls(BLOCK_ROWS, pa.string())}
    )


def timed(run: Callable[[], int]) -> dict[str, float]:
    """Rows a second, and CPU seconds of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    rows = run()
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "rows_per_s": round(rows / seconds),
        "cpu_s": round(cpu, 2),
    }


def in_threads(work: Callable[[int], object], count: int, threads: int = WRITERS) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        for each in [pool.submit(work, number) for number in range(count)]:
            each.result()


def write_ours(base: str, blocks: int, tables: list[pa.Table]) -> int:
    uri = parse_uri(f"{base}/out/")
    assert uri is not None
    state = ObjectStore(connect(uri, Access()), "out.asyncbatch/", "out.asyncbatch/")
    file = InputFile(number=0, path="in", size_bytes=1, rows=blocks * BLOCK_ROWS, fingerprint={})
    plan = Plan(
        files=(file,),
        block_rows=BLOCK_ROWS,
        schema=tables[0].schema,
        reply={},
        options={},
        endpoint={},
        source="in",
    )
    sink = PartsSink(plan=create_plan(state, plan), parts=state.beside("out/"), state=state)

    def commit(number: int) -> None:
        sink.write(
            Block(file=0, start=number * BLOCK_ROWS, stop=(number + 1) * BLOCK_ROWS),
            tables[number % len(tables)],
            rejects=(),
            variants={},
            end_offset=None,
            last=False,
        )

    in_threads(commit, blocks)
    return blocks * BLOCK_ROWS


def write_plain(base: str, blocks: int, tables: list[pa.Table]) -> int:
    """The same Parquet, by boto3."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    bucket = base.removeprefix("s3://")

    def put(number: int) -> None:
        sink = io.BytesIO()
        footer = PartFooter(
            job_id="j", config_hash="c", block=Block(file=0, start=0, stop=BLOCK_ROWS), rows_out=BLOCK_ROWS,
            rejects=0, rejects_file="", variants={}, end_offset=None, last=False,
        )  # fmt: skip
        table = tables[number % len(tables)]
        write_part(sink, table, footer.key_values(), table.schema)
        sink.seek(0)
        client.upload_fileobj(sink, bucket, f"plain/{number}.parquet")

    in_threads(put, blocks)
    return blocks * BLOCK_ROWS


def read_ours(base: str, columns: list[str]) -> int:
    source = open_source(f"{base}/in.parquet", InputConfig(), Access())
    (file,) = source.files
    return sum(each.table.num_rows for each in source.blocks(file, columns=columns, block_rows=BLOCK_ROWS))


def read_plain(base: str, columns: list[str]) -> int:
    """boto3 fetches the file in parallel ranges; pyarrow decodes it."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    sink = io.BytesIO()
    client.download_fileobj(base.removeprefix("s3://"), "in.parquet", sink)
    reader = pq.ParquetFile(pa.BufferReader(sink.getbuffer()))
    return sum(
        each.num_rows
        for each in reader.iter_batches(columns=columns, batch_size=BLOCK_ROWS, use_threads=False)
    )


def peak_mb() -> float:
    """Of this process, since `clear_refs`."""
    for line in open("/proc/self/status"):  # noqa: PTH123, SIM115
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def alone(work: Callable[..., int], *values: Any) -> dict[str, float]:
    """In a process of its own, so that memory and imports are its own."""

    def child(pipe: Any) -> None:
        before = peak_mb()
        pipe.send({**timed(lambda: work(*values)), "peak_mb_beyond_start": round(peak_mb() - before, 1)})

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    result: dict[str, float] = ours.recv()
    process.join()
    return result


def main() -> None:
    from measuring import save, surroundings

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 M rows, one round; writes nothing")
    parser.add_argument(
        "--latency", type=float, default=0.02, help="seconds that the store takes for a request"
    )
    asked = parser.parse_args()
    if asked.quick:
        asked.rows, asked.rounds = 2_000_000, 1
    blocks = max(1, asked.rows // BLOCK_ROWS)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, asked.latency), daemon=True
    )
    server.start()
    os.environ.update(
        AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{ours.recv()}",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_REQUEST_CHECKSUM_CALCULATION="when_required",  # the stand-in knows no trailers
    )
    base = "s3://bucket"
    tables = [block(number) for number in range(4)]
    names = tables[0].column_names
    measured: dict[str, list[dict[str, float]]] = {}
    cases: list[tuple[str, Callable[..., int], tuple[Any, ...]]] = [
        ("write", write_ours, (blocks, tables)),
        ("write, plain client", write_plain, (blocks, tables)),
        ("read", read_ours, (names,)),
        ("read, plain client", read_plain, (names,)),
        ("read one column in four", read_ours, (names[::4],)),
        ("read one column in four, plain client", read_plain, (names[::4],)),
    ]
    _put_input(base, blocks, tables)
    for round_number in range(asked.rounds):
        for name, work, values in cases:
            where = (
                f"{base}{round_number}-{name.replace(',', '').replace(' ', '-')}" if "write" in name else base
            )
            measured.setdefault(name, []).append(alone(work, where, *values))
            print(name, measured[name][-1], flush=True)
    best = {name: max(rounds, key=lambda each: each["rows_per_s"]) for name, rounds in measured.items()}
    ratios = {
        name: round(best[name]["rows_per_s"] / best[f"{name}, plain client"]["rows_per_s"], 2)
        for name in best
        if f"{name}, plain client" in best
    }
    server.kill()
    print(ratios)
    if asked.quick:
        return
    result = {
        "what": "rows a second from and to a bucket, the best of the rounds, beside boto3's managed transfers",
        **surroundings("pyarrow", "boto3"),
        "rows": blocks * BLOCK_ROWS,
        "columns": COLUMNS,
        "latency_s": asked.latency,
        "rounds": asked.rounds,
        "best": best,
        "ratio_to_plain_client": ratios,
    }
    print(save("stores", result))
    sys.exit(0)


def _put_input(base: str, blocks: int, tables: list[pa.Table]) -> None:
    import boto3

    sink = io.BytesIO()
    with pq.ParquetWriter(sink, tables[0].schema) as writer:
        for number in range(blocks):
            writer.write_table(tables[number % len(tables)])
    sink.seek(0)
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    client.upload_fileobj(sink, base.removeprefix("s3://"), "in.parquet")


if __name__ == "__main__":
    main()
