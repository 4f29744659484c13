"""What each stage of a run costs: read, encode, cut, sign, send, decode, book-keeping, assemble, write.

    python benchmarks/stages.py [--rows 65536] [--flame FILE.svg]

Each stage alone, on one core, in CPU time; the least of five. `book-keeping` is a run's middle (queue, gate, controller, metrics,
breaker, results) around an endpoint and a decoder that do nothing. Writes benchmarks/results/stages.json.
`--flame` draws a whole run instead (pip install py-spy; apt-get install gcc), as in benchmarks/results/flame.svg.
"""

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "rivals"))

import anyio
import data
import pyarrow.parquet as pq
from measuring import ROOT, save, surroundings
from run import _endpoint, _environment

from asyncbatch.codec import infer_layout, make_decoder, make_encoder
from asyncbatch.config import ReplyConfig, RunConfig
from asyncbatch.control import AdaptiveController, FixedController
from asyncbatch.control.breaker import Breaker
from asyncbatch.endpoint import make_endpoint
from asyncbatch.endpoint.sigv4 import Keys, RequestSigner, payload_hash
from asyncbatch.model import Block, BytesPayload, Payload, Reply, SourceBlock
from asyncbatch.observe.metrics import MetricsCollector
from asyncbatch.pipeline.assembling import assemble, output_shape
from asyncbatch.pipeline.blocks import OpenBlock
from asyncbatch.pipeline.flow import Flow, FlowOptions
from asyncbatch.pipeline.gate import Gate
from asyncbatch.pipeline.invoking import Invoker
from asyncbatch.protocols import Controller
from asyncbatch.sink.parts import COMPRESSION, dictionary_columns
from asyncbatch.units import IntRange

SIZES = (1, 100, 1_000, 10_000)
REQUESTS = {1: 4_000, 100: 2_000, 1_000: 300, 10_000: 48}
TRIES = 5
LOOP = (
    asyncio.Runner(loop_factory=__import__("uvloop").new_event_loop)
    if sys.platform != "win32"
    else asyncio.Runner()
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--flame", default=None, metavar="FILE")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as name:
        if given.flame:
            flame(Path(name), given.flame)
            return
        found = surroundings("pyarrow", "orjson", "httptools", "uvloop") | {"rows": given.rows}
        found["per_block_ns_a_row"] = blocks(Path(name), given.rows)
        found["per_request_us"] = requests(Path(name), given.rows)
    print(f"{'per row, a block of ' + format(given.rows, ','):34}{'ns':>10}")
    for stage, ns in found["per_block_ns_a_row"].items():
        print(f"  {stage:32}{ns:10,.0f}")
    print(f"{'per request, µs':34}" + "".join(f"{f'{size:,} rows':>12}" for size in SIZES))
    for stage, values in found["per_request_us"].items():
        print(f"  {stage:32}" + "".join(f"{values[str(size)]:12,.1f}" for size in SIZES))
    print(save("stages", found))


def least_s(work: Callable[[], object], tries: int = TRIES) -> float:
    """CPU seconds of the process for one call, the least of some tries: what the machine adds is never negative."""
    taken = []
    for _ in range(tries):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return min(taken)


def blocks(folder: Path, rows: int) -> dict[str, float]:
    """ns a row of what is done once a block."""
    path = Path(data.write("numbers", rows, folder, csv=False) + ".parquet")
    table = pq.read_table(path)
    sent = table.drop_columns(list(data.NOT_SENT))
    found = {
        "read Parquet": least_s(lambda: pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False).read())
    }
    for body in ("csv", "jsonl", "npy"):
        encoder = make_encoder(RunConfig.from_options({"body": body}).request, sent.schema)
        found[f"encode {body}"] = least_s(lambda encoder=encoder: encoder.encode(sent))
    for size in SIZES:
        answered = _answered(table, sent, size)
        found[f"assemble, {size:,} rows a request"] = least_s(lambda made=answered: assemble(*made), 3)
    done, _ = assemble(*_answered(table, sent, 1_000))
    found["write Parquet, all columns"] = least_s(lambda: _write(done, folder))
    narrow = done.select(["id", "prediction", "error"])
    found["write Parquet, id + prediction"] = least_s(lambda: _write(narrow, folder))
    return {stage: round(seconds / rows * 1e9, 1) for stage, seconds in found.items()}


def _write(table: Any, folder: Path) -> None:
    """As a part is written, but for its footer."""
    pq.write_table(
        table,
        folder / "out.parquet",
        compression=COMPRESSION,
        use_dictionary=dictionary_columns(table.schema),
        write_page_checksum=True,
    )


def _answered(table: Any, sent: Any, size: int) -> Any:
    """A block whose answers are all there, with what `assemble` needs besides."""
    from asyncbatch.model import Kind
    from asyncbatch.pipeline.blocks import Work

    config = RunConfig.from_options({})
    decoder = make_decoder(_layout())
    rows = table.num_rows
    block = OpenBlock(
        number=0,
        source=SourceBlock(block=Block(file=0, start=0, stop=rows), table=table),
        encoded=make_encoder(config.request, sent.schema).encode(sent),
        positions=None,
    )
    for start in range(0, rows, size):
        work = Work(block=block, start=start, stop=min(rows, start + size), kind=Kind.FIRST, chunk=0)
        block.answer(work, decoder.decode(_reply(work.rows), work.rows), "")
    shape = output_shape(
        table.schema, decoder, named=False, reply=config.reply, request=config.request, on_error="null"
    )
    return block, decoder, shape


def requests(folder: Path, rows: int) -> dict[str, dict[str, float]]:
    """µs of what is done for each request."""
    sent = data.table("numbers", rows).drop_columns(list(data.NOT_SENT))
    encoded = make_encoder(RunConfig.from_options({}).request, sent.schema).encode(sent)
    found: dict[str, dict[str, float]] = {}
    for size in SIZES:
        for stage, seconds in _of_size(folder, encoded, rows, size).items():
            found.setdefault(stage, {})[str(size)] = round(seconds / REQUESTS[size] * 1e6, 2)
    return found


def _of_size(folder: Path, encoded: Any, rows: int, size: int) -> dict[str, float]:
    """CPU seconds of each stage for `REQUESTS[size]` requests."""
    starts = [random.Random(size).randrange(0, rows - size) for _ in range(REQUESTS[size])]
    payloads = [encoded.payload(start, start + size) for start in starts]
    reply, decoder = _reply(size), make_decoder(_layout())
    found = {
        "cut": least_s(lambda: [encoded.payload(start, start + size) for start in starts]),
        "sign": least_s(lambda: _sign(payloads)),
    }
    with _endpoint(folder) as url:
        named = {"endpoint": "churn", "endpoint_url": url, "region": "us-east-1"}
        found["send, http"] = _sending({"endpoint": f"{url}/invocations"}, payloads)
        found["sign and send, direct"] = _sending(named, payloads)
        found["sign and send, aioboto3"] = _sending(named | {"transport": "aioboto3"}, payloads)
    found["decode"] = least_s(lambda: [decoder.decode(reply, size) for _ in starts])
    for name, make in {"fixed": _fixed, "adaptive": _adaptive}.items():
        # Whatever their size, as many as it takes to be past the controller's start.
        least = min(_bookkeeping(make(size), size, REQUESTS[1]) for _ in range(TRIES))
        found[f"book-keeping, {name} controller"] = least / REQUESTS[1] * REQUESTS[size]
    return found


def _sign(payloads: list[BytesPayload]) -> None:
    signer = RequestSigner(
        keys=Keys(access_key="A", secret_key="s"), region="us-east-1", service="sagemaker", method="POST", host="h",
        path="/endpoints/churn/invocations", headers=[("Content-Type", "text/csv")],
    )  # fmt: skip
    for payload in payloads:
        signer.sign(payload_hash(payload.pieces), now_s=time.time())


def _sending(options: dict[str, Any], payloads: list[BytesPayload]) -> float:
    """CPU seconds for all payloads, 16 at a time."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    async def run() -> float:
        endpoint = make_endpoint(RunConfig.from_options(options))
        await endpoint.open(concurrency=16)
        taken = []
        try:
            for _ in range(TRIES):
                left = iter(payloads)

                async def send(left: Any = left) -> None:
                    for payload in left:
                        await endpoint.invoke(payload, timeout_s=70)

                before = time.process_time()
                await asyncio.gather(*(send() for _ in range(16)))
                taken.append(time.process_time() - before)
        finally:
            await endpoint.aclose()
        return min(taken)

    return LOOP.run(run())


class _Nothing:
    """An endpoint and a decoder that cost nothing."""

    name = "nothing"
    takes_batches = False
    max_body_bytes = 6 * 2**20
    slow = False
    fields = ()

    def __init__(self) -> None:
        self.identity = {"kind": "nothing", "name": "nothing"}
        self._reply = Reply()

    async def open(self, *, concurrency: int) -> None: ...

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        await asyncio.sleep(0)
        return self._reply

    async def aclose(self) -> None: ...

    def decode(self, reply: Reply, rows: int) -> tuple[Any, ...]:
        return ()


class _NoBytes:
    """An encoded block whose payloads cost nothing."""

    sliceable = True
    nbytes = 0

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._payload = BytesPayload(pieces=(b"",), content_type="text/csv", nbytes=1)

    def payload(self, start: int, stop: int) -> BytesPayload:
        return self._payload

    def fit(self, start: int, max_rows: int, max_bytes: int) -> int:
        return min(max_rows, self.rows - start)

    def release(self, start: int, stop: int) -> None: ...


def _fixed(size: int) -> Controller:
    return FixedController(chunk_rows=size, chunk_bytes=6 * 2**20, concurrency=16)


def _adaptive(size: int) -> Controller:
    return AdaptiveController(
        clock=time.monotonic,
        rng=random.Random(1),
        chunk_rows=IntRange(size, size),
        concurrency=IntRange(
            16, 16
        ),  # as in the other cases: with fewer, turns of the event loop would be counted
    )


def _bookkeeping(controller: Controller, size: int, count: int) -> float:
    """CPU seconds of `count` requests, without what a turn of the event loop costs in itself."""
    import pyarrow as pa

    async def turns() -> None:
        for _ in range(count // 16):
            await asyncio.sleep(0)

    async def idle() -> float:
        before = time.process_time()
        await asyncio.gather(*(turns() for _ in range(16)))
        return time.process_time() - before

    async def run() -> float:
        nothing: Any = _Nothing()
        encoded: Any = _NoBytes(size * count)
        breaker = Breaker(max_outage_s=300, started_s=time.monotonic())
        metrics = MetricsCollector(clock=time.monotonic)

        async def finish(_: OpenBlock) -> None: ...

        flow = Flow(
            invoker=Invoker(
                endpoint=nothing, encoder=nothing, decoder=nothing, timeout_s=70, clock=time.monotonic, good_rows=None
            ),
            controller=controller,
            gate=Gate(controller=controller, breaker=breaker, rate=None, row_rate=None),
            breaker=breaker,
            options=FlowOptions(max_payload_bytes=6 * 2**20, max_retries=6, max_outage_s=300),
            metrics=metrics,
            emit=lambda _: None,
            rejected=lambda *_: None,
            finish=finish,
            clock=time.monotonic,
            rng=random.Random(1),
        )  # fmt: skip
        block = SourceBlock(block=Block(file=0, start=0, stop=size * count), table=pa.table({}))
        send, receive = anyio.create_memory_object_stream[OpenBlock](1)
        send.send_nowait(OpenBlock(number=0, source=block, encoded=encoded, positions=None))
        send.close()
        before = time.process_time()
        await flow.run(receive)
        return time.process_time() - before

    without = min(LOOP.run(idle()) for _ in range(TRIES))
    return max(0.0, min(LOOP.run(run()) for _ in range(3)) - without)


def _reply(rows: int) -> Reply:
    return Reply(body=b"0.4837261950283746\n" * rows, content_type="text/csv; charset=utf-8")


def _layout() -> Any:
    return infer_layout([(_reply(rows), rows) for rows in (1, 2, 7)], ReplyConfig())


def flame(folder: Path, file: str) -> None:
    """A flame graph of a whole run at 100 rows a request, by py-spy."""
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if spy is None:
        sys.exit("py-spy is not installed: pip install py-spy")
    stem = data.write("numbers", 400_000, folder, csv=False)
    with _endpoint(folder) as url:
        command = [spy, "record", "--gil", "-r", "500", "-o", file, "--", sys.executable]
        command += [
            str(ROOT / "benchmarks" / "rivals" / "asyncbatch_run.py"),
            "--data",
            stem,
            "--out",
            str(folder / "out"),
        ]
        subprocess.run([*command, "--url", url, "--chunk", "100"], check=True, env=_environment(folder))


if __name__ == "__main__":
    main()
