"""Starting and stopping: as a command, in the background, and when things are in the way."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from asyncbatch.errors import ConfigError, InputError, MissingExtraError
from asyncbatch.server import Credential, ServeConfig, serving
from asyncbatch.server.background import background
from asyncbatch.server.running import GRACE_S, announcement, base_url

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def start(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=20) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly(number: int) -> None:
    process = start("from asyncbatch.server import *; run_forever(ServeConfig(model='echo'))")
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.split(" at ")[1].split()[0]
    assert line.endswith(f"try: asyncbatch run FILE OUT -e {url}/invocations\n")
    assert alive(url)
    process.send_signal(number)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (0, "", "")
    assert not alive(url)


def test_a_second_signal_does_not_wait_for_a_stuck_model(tmp_path: Path) -> None:
    (tmp_path / "stuck_model.py").write_text("import time\ndef score(rows):\n    time.sleep(60)\n")
    code = "from asyncbatch.server import *; run_forever(ServeConfig(model='python:stuck_model:score'))"
    process = start(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}")
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
        with socket.create_connection(("127.0.0.1", port)) as stuck:
            head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 2"
            stuck.sendall(f"{head}\r\n\r\n1\n".encode())
            deadline = time.monotonic() + 30
            while not in_flight(port) and time.monotonic() < deadline:
                time.sleep(0.02)
            process.terminate()
            while alive(f"http://127.0.0.1:{port}") and time.monotonic() < deadline:
                time.sleep(0.02)  # the first signal was seen, and two at once would be one
            process.terminate()
            process.communicate(timeout=50)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM


def in_flight(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=20) as reply:
        return bool(json.loads(reply.read())["in_flight"])


def test_the_line_for_flights_names_the_columns_to_send() -> None:
    process = start("from asyncbatch.server import *; run_forever(ServeConfig(model='flights'))")
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=50)
    assert line.rstrip().endswith("--send month,sched_dep_time,sched_arr_time,distance,flight")


def test_the_line_for_a_server_that_checks_signatures_names_endpoint_and_region() -> None:
    async def scenario() -> None:
        key = Credential(access_key="A", secret_key="hidden", session_token=None)
        async with serving(ServeConfig(model="echo", credentials=(key,), region="eu-west-1")) as server:
            line = announcement(server)
            assert f"-e echo --endpoint-url {server.url} --region eu-west-1" in line
            assert "hidden" not in line

    asyncio.run(scenario())


def test_addresses_are_written_as_they_can_be_typed() -> None:
    assert base_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert base_url("::1", 80) == "http://[::1]:80"


def test_an_idle_connection_does_not_delay_the_end() -> None:
    with background(ServeConfig(model="echo")) as server:
        idle = socket.create_connection((server.host, server.port))
        idle.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
    assert time.monotonic() - started < GRACE_S
    idle.close()


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is already in use") as caught,
            background(ServeConfig(model="echo", port=port)),
        ):
            pass
    assert "--port" in (caught.value.hint or "")


def test_an_address_that_is_not_ours_is_named() -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot listen at port 0 on 192\.0\.2\.1"),
        background(ServeConfig(model="echo", host="192.0.2.1")),
    ):
        pass


def test_a_bad_model_is_told_from_the_other_process(tmp_path: Path) -> None:
    path = tmp_path / "churn.onnx"
    path.write_text("not a model")
    with (
        pytest.raises(InputError, match="is no ONNX model") as caught,
        background(ServeConfig(model=str(path))),
    ):
        pass
    assert caught.value.hint


def test_a_missing_extra_is_told_from_the_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError) as caught, background(ServeConfig(model="flights")):
        pass
    assert caught.value.hint == "pip install 'asyncbatch[onnx]'"


def test_it_ends_when_its_parent_is_killed() -> None:
    parent = start(
        "import time\n"
        "from asyncbatch.server import ServeConfig\n"
        "from asyncbatch.server.background import background\n"
        "with background(ServeConfig(model='echo')) as server:\n"
        "    print(server.url, flush=True)\n"
        "    time.sleep(60)\n"
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert alive(url)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while alive(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(url)


def test_an_exception_in_the_block_stops_it_too() -> None:
    with pytest.raises(KeyError), background(ServeConfig(model="echo")) as server:
        raise KeyError
    assert not alive(server.url)


def test_importing_the_server_imports_no_heavy_module() -> None:
    code = (
        "import sys, json, asyncbatch.server as s; s.ServeConfig;"
        "print(json.dumps(sorted({'numpy','pyarrow','aiohttp','botocore','onnxruntime'} & set(sys.modules))))"
    )
    found: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT, check=True
    )
    assert json.loads(found.stdout) == []
