"""Starts and stops the embedded endpoint."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from asyncbatch.errors import ConfigError
from asyncbatch.server.app import EndpointApp
from asyncbatch.server.config import ServeConfig, SimulationConfig
from asyncbatch.server.control_plane import Deployed
from asyncbatch.server.dialects import dialect
from asyncbatch.server.models import load_model

_OPTIONS = {
    "huggingface": " --send TEXT --body json --template inputs --row value",
    "v2": " --body json --template v2",
    "mlflow": " --body csv-header",
    "tgi": " --send TEXT --body raw --template '{\"inputs\": $row}'",
}
"""What a run has to be told for a dialect that does not take CSV without a header line."""

GRACE_S = 5.0
"""How long open requests may still take when the server stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running endpoint."""

    config: ServeConfig
    """As served: names and port filled in."""
    app: EndpointApp

    @property
    def port(self) -> int:
        return self.config.port

    @property
    def url(self) -> str:
        """`http://127.0.0.1:8080`: what `--endpoint-url` takes; with `/invocations` it is the container's
        address."""
        return base_url(self.config.host, self.config.port)

    @property
    def name(self) -> str:
        """The (first) endpoint name."""
        return self.config.endpoint_names[0]

    def stats(self) -> dict[str, Any]:
        """Counts since the start."""
        return self.app.statistics()


@contextlib.asynccontextmanager
async def serving(config: ServeConfig) -> AsyncIterator[Server]:
    """Serve while the block runs. Answers from the first moment inside; the port is free again afterwards.

    At its end open requests may take `GRACE_S` more; a model that runs longer is left to its thread.

    Raises:
        InputError: the model does not exist or is no ONNX model.
        MissingExtraError: onnxruntime is not installed.
        ConfigError: the address cannot be bound.
    """
    if config.model == "simulated" and config.simulation is None:
        config = replace(config, simulation=SimulationConfig())
    simulation = config.simulation or SimulationConfig()
    deployed = [
        Deployed(
            config=name,
            model=await asyncio.to_thread(
                load_model, spec, outputs=simulation.outputs, labels=simulation.labels
            ),
            spec=spec,
            variants=config.variants,
        )
        for name, spec in {config.config_name: config.model, **config.deployments}.items()
    ]
    spoken = dialect(config.dialect, features=config.features or deployed[0].model.features)
    threads = config.threads or os.cpu_count() or 1
    executor = ThreadPoolExecutor(threads, thread_name_prefix="asyncbatch-model")
    app = EndpointApp(config, deployed=deployed, dialect=spoken, executor=executor)
    server = web.Server(app.handle, access_log=None, logger=_http_log)
    runner = web.ServerRunner(server, shutdown_timeout=GRACE_S)
    try:
        await runner.setup()
        await _listen(runner, config)
        served = replace(config, names=config.endpoint_names, port=runner.addresses[0][1])
        yield Server(config=served, app=app)
    finally:
        await runner.cleanup()
        executor.shutdown(wait=False, cancel_futures=True)  # a model that still runs may not hold up the loop


def run_forever(config: ServeConfig, *, say: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then return. On uvloop if that is installed.

    Args:
        config: what to serve.
        say: gets one line when the server answers; by default it is printed to stdout.

    Raises:
        UsageError: as `serving`.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_until_signal(config, say or _print))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def base_url(host: str, port: int) -> str:
    """The address to type; a server bound to every interface is reached over loopback."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def announcement(server: Server) -> str:
    """One line: what is served where, and a command to try."""
    send = ""
    if server.config.model == "flights":
        from asyncbatch.server.flights import FEATURES

        send = f" --send {','.join(FEATURES)}"
    config = server.config
    endpoint = (
        f"-e {server.name} --endpoint-url {server.url} --region {config.region}"
        if config.credentials
        else f"-e {server.url}/invocations"  # needs no AWS credentials, not even made-up ones
    )
    speaking = _OPTIONS.get(config.dialect, "")
    return f"serving {server.name} at {server.url} · try: asyncbatch run FILE OUT {endpoint}{send}{speaking}"


async def _until_signal(config: ServeConfig, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with serving(config) as server:
        say(announcement(server))
        await stop.wait()
        for number in (signal.SIGINT, signal.SIGTERM):  # a second signal ends it at once
            try:
                loop.remove_signal_handler(number)
            except NotImplementedError:  # Windows
                signal.signal(number, signal.SIG_DFL)


def _reason(error: OSError) -> str:
    """In the system's words: asyncio wraps them, address and all."""
    return (
        os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error.strerror or error)
    )


async def _listen(runner: web.ServerRunner, config: ServeConfig) -> None:
    try:
        await web.TCPSite(runner, config.host, config.port, backlog=1024).start()
    except OSError as error:
        where = f"port {config.port} on {config.host}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{where} is already in use", hint="give another with --port; 0 takes a free one"
            ) from error
        raise ConfigError(
            f"cannot listen at {where}: {_reason(error)}", hint="check --host and --port"
        ) from error


def _without_content(record: logging.LogRecord) -> bool:
    """Keep what aiohttp logs without the pieces of requests that it quotes; drop what is no HTTP at all."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        return False
    if error is not None:
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
        record.exc_info = record.exc_text = None
    return True


_http_log = logging.getLogger("asyncbatch.server.http")
_http_log.addFilter(_without_content)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
