"""A run whose keys expire again and again: the endpoint's, the source's and the sink's, each of its own identity.

    python benchmarks/expiring_keys.py                 # keys of 60 s, four minutes; writes results/expiring_keys.json
    python benchmarks/expiring_keys.py --quick         # keys of 3 s

The endpoint's keys come from a container credentials endpoint (AWS_CONTAINER_CREDENTIALS_FULL_URI), as on ECS and EKS;
those of source and sink are of two roles that are assumed with them (`--source-profile`, `--sink-profile`), from a
stand-in for STS. `asyncbatch serve` verifies every signature and refuses expired keys; before moto stands a proxy that
refuses them with ExpiredToken, and the wrong role with AccessDenied. Twice: the keys state when they end, and they do not.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import emulators
import pyarrow as pa
import pyarrow.parquet as pq

import asyncbatch
from asyncbatch.server import Credential, ServeConfig, SimulationConfig, serving
from asyncbatch.store.access import Access
from asyncbatch.store.connect import connect
from asyncbatch.store.uri import parse_uri

PROFILES = """
[profile reader]
role_arn = arn:aws:iam::111122223333:role/reader
credential_source = EcsContainer
region = us-east-1
[profile writer]
role_arn = arn:aws:iam::111122223333:role/writer
credential_source = EcsContainer
region = us-east-1
"""
PAD_BYTES = 12_000
FILES = 20


@dataclass(slots=True, kw_only=True)
class Issuer:
    """What gives out keys, and says of a key whether it is taken still."""

    valid_s: float
    stated: bool
    """Keys say when they end; else they say in an hour, and only a refusal tells."""
    began_s: float = field(default_factory=time.time)
    issued: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def endpoint_keys(self) -> tuple[Credential, ...]:
        """One for each period from now on."""
        return tuple(
            Credential(
                access_key=f"AKIAPERIOD{number}",
                secret_key="secret",
                session_token=f"period-{number}",
                expires_at=self.began_s + (number + 1) * self.valid_s,
            )
            for number in range(200)
        )

    def container(self) -> bytes:
        """The key of this period; near its end that of the next."""
        self.issued["endpoint"] += 1
        number = int((time.time() - self.began_s) / self.valid_s + 0.3)
        return json.dumps(
            {
                "AccessKeyId": f"AKIAPERIOD{number}",
                "SecretAccessKey": "secret",
                "Token": f"period-{number}",
                "Expiration": self._end(self.began_s + (number + 1) * self.valid_s),
            }
        ).encode()

    def assumed(self, role: str) -> bytes:
        """A key of a role, from now on."""
        self.issued[role] += 1
        now = time.time()
        return (
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
            f"<AccessKeyId>ASIA{role}{now:.3f}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
            f"<SessionToken>of-{role}</SessionToken><Expiration>{self._end(now + self.valid_s)}</Expiration>"
            "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
        ).encode()

    def verdict(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """What a request to the bucket is refused with."""
        key = re.search(r"Credential=ASIA([a-z]+)([0-9.]+)/", headers.get("authorization", ""))
        if key is None:
            return 403, "InvalidAccessKeyId"
        if key[1] != ("reader" if "/in/" in path or "prefix=in" in path else "writer"):
            return 403, "AccessDenied"
        if time.time() - float(key[2]) > self.valid_s:
            self.refused[key[1]] += 1
            return 400, "ExpiredToken"
        return None

    def _end(self, at_s: float) -> str:
        return datetime.fromtimestamp(at_s if self.stated else time.time() + 3_600, UTC).isoformat()


@contextlib.contextmanager
def _served(issuer: Issuer, upstream: int) -> Iterator[str]:
    """One server for it all: container credentials, STS, and the bucket."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *values: object) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/container":
                return self.reply(200, {"Content-Type": "application/json"}, issuer.container())
            if self.path == "/" and b"AssumeRole" in body:
                role = parse_qs(body.decode())["RoleArn"][0].rpartition("/")[2]
                return self.reply(200, {"Content-Type": "text/xml"}, issuer.assumed(role))
            refused = issuer.verdict(self.path, {name.lower(): text for name, text in self.headers.items()})
            if refused is not None:
                content = f"<Error><Code>{refused[1]}</Code><Message>no</Message></Error>".encode()
                return self.reply(refused[0], {"Content-Type": "application/xml"}, content)
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=30)
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                reply = connection.getresponse()
                return self.reply(reply.status, dict(reply.getheaders()), reply.read())

        def reply(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Only these of all AWS settings."""
    before = {name: text for name, text in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)


def scored(
    folder: Path, *, valid_s: float, expiries: float, stated: bool, rows: int = 1_200
) -> dict[str, Any]:
    """One run that is longer than `expiries` keys; what became of it, as JSON values."""
    # More than may be in memory, and in several files: so the source is read all the time.
    table = pa.table(
        {
            "id": range(rows),
            "x0": [float(each) for each in range(rows)],
            "pad": [os.urandom(PAD_BYTES // 2).hex() for _ in range(rows)],
        }
    )
    share = rows // FILES
    issuer = Issuer(valid_s=valid_s, stated=stated)
    with emulators.s3() as store, _served(issuer, store.port) as url:
        base = store.make(f"keys-{int(stated)}")
        uri = parse_uri(f"{base}/x")
        assert uri is not None
        with _environment(store.environment):
            client = connect(uri, Access())
            for number in range(FILES):
                sink = pa.BufferOutputStream()
                pq.write_table(table.slice(number * share, share), sink)
                data = sink.getvalue().to_pybytes()
                client.put(f"in/{number}.parquet", data, condition=None, attempt="")
        (folder / "config").write_text(PROFILES)
        settings = {
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/container",
            "AWS_ENDPOINT_URL_S3": url,
            "AWS_ENDPOINT_URL_STS": url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "us-east-1",
        }
        with _environment(settings):
            report, outcomes = asyncio.run(
                _run(issuer, base, row_rate=rows / (valid_s * expiries), chunk_rows=max(1, rows // 600))
            )
        found: list[int] = []
        for each in client.list("out/"):
            data = client.read(each.key, 0, each.size_bytes)
            found += pq.read_table(pa.BufferReader(data))["id"].to_pylist()
    return {
        "keys_state_their_end": stated,
        "valid_s": valid_s,
        "exit_code": report.exit_code,
        "seconds": round(report.metrics.elapsed_s, 1),
        "expiries": round(report.metrics.elapsed_s / valid_s, 1),
        "keys_issued": dict(sorted(issuer.issued.items())),
        "requests_refused_for_expired_keys": {
            "endpoint": outcomes.get("ExpiredTokenException", 0),
            **{role: issuer.refused[role] for role in ("reader", "writer")},
        },
        "rows": rows,
        "rows_lost": rows - len(set(found)),
        "rows_twice": len(found) - len(set(found)),
        "rows_rejected": report.metrics.rows_rejected,
    }


async def _run(
    issuer: Issuer, base: str, *, row_rate: float, chunk_rows: int
) -> tuple[Any, Mapping[str, int]]:
    config = ServeConfig(
        model="simulated", simulation=SimulationConfig(slots=100), credentials=issuer.endpoint_keys()
    )
    async with serving(config) as server:
        report = await asyncbatch.arun(
            f"{base}/in/", f"{base}/out/", endpoint=server.name, endpoint_url=server.url,
            source_profile="reader", sink_profile="writer", no_send="id,pad", row_rate=row_rate, chunk_rows=chunk_rows,
            block_rows=20, concurrency=4, max_memory="16MB", no_tuning=True,
        )  # fmt: skip
        return report, server.stats()["outcomes"]


def main() -> None:
    from measuring import save, surroundings

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--valid", type=float, default=60.0, help="seconds that a key is taken")
    parser.add_argument("--expiries", type=float, default=4.0, help="how many keys' time a run lasts")
    parser.add_argument("--quick", action="store_true", help="keys of 3 s; writes nothing")
    asked = parser.parse_args()
    valid_s = 3.0 if asked.quick else asked.valid
    runs = []
    for stated in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(scored(Path(folder), valid_s=valid_s, expiries=asked.expiries, stated=stated))
        print(json.dumps(runs[-1]), flush=True)
    failed = [each for each in runs if each["exit_code"] or each["rows_lost"] or each["rows_twice"]]
    if not asked.quick:
        result = {
            "what": "runs whose keys expire: endpoint, source and sink each of its own identity",
            **surroundings("boto3", "moto"),
            "runs": runs,
        }
        print(save("expiring_keys", result).name)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
