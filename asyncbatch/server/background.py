"""Runs the embedded endpoint in a process of its own, for tests, demo and benchmarks.

The child gets its configuration over its standard input and ends when that pipe closes: when the block ends,
and when the parent dies, however it dies.
"""

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncbatch import errors
from asyncbatch.server.config import ServeConfig

START_S = 60.0
STOP_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A server in another process."""

    url: str
    """`http://127.0.0.1:PORT`: what `--endpoint-url` takes; with `/invocations` it is the container's
    address."""
    host: str
    port: int
    name: str
    """The (first) endpoint name."""
    pid: int

    @property
    def invocations_url(self) -> str:
        """Address of the container contract."""
        return f"{self.url}/invocations"

    def stats(self) -> dict[str, Any]:
        """What `GET /stats` answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request("GET", "/stats")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found


@contextlib.contextmanager
def background(config: ServeConfig) -> Iterator[Background]:
    """Serve from another process while the block runs. Answers from the first moment inside.

    Raises:
        UsageError: as `asyncbatch.server.serving`.
        EndpointError: the process ended without a word, or did not start within a minute.
    """
    search = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncbatch.server.background"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search},
        start_new_session=True,  # Ctrl-C is for the parent, which then closes the pipe
    )
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(config.to_json()).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended at once; the missing answer says so
        line = process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise errors.EndpointError(
                f"the server process ended with code {process.wait()} before it served",
                hint="its stderr says why",
            )
        said = json.loads(line)
        if "error" in said:
            raise getattr(errors, said["error"])(said["message"], hint=said["hint"])
        yield Background(pid=process.pid, **said)
    finally:
        watchdog.cancel()
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


async def _serve_until_closed(config: ServeConfig) -> None:
    from asyncbatch.server.running import serving

    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(closed.set)

    async with serving(config) as server:
        threading.Thread(target=watch, daemon=True).start()
        _tell({"url": server.url, "host": config.host, "port": server.port, "name": server.name})
        await closed.wait()


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _child() -> None:
    from asyncbatch.server.running import loop_factory

    config = ServeConfig.from_json(json.loads(sys.stdin.buffer.readline()))
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve_until_closed(config))
    except errors.AsyncBatchError as error:
        _tell({"error": type(error).__name__, "message": error.message, "hint": error.hint})


if __name__ == "__main__":
    _child()
