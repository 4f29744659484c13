"""Another model behind the same name: noticed, stopped for or written down, by the embedded server and by moto's."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import StoppedError
from asyncbatch.observe.events import Explained, PartCommitted, RunPlanned, Warned
from asyncbatch.observe.report import RunReport
from asyncbatch.server import Credential, ServeConfig, Server, SimulationConfig, serving
from asyncbatch.server.background import Background, background

ROWS = 2_000
OPTIONS: dict[str, Any] = {"no_send": "id", "chunk_rows": 20, "concurrency": 4, "block_rows": 100}
Act = Callable[[], Any]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is a tenth of a second here."""
    monkeypatch.setattr("asyncbatch.pipeline.watching.EVERY_S", 0.1)
    monkeypatch.setattr("asyncbatch.server.running.GRACE_S", 0.01)


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    found = pa.table({"x0": np.random.default_rng(3).normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(found, tmp_path / "in.parquet")
    return found


@pytest.fixture
def green(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that answers each row's first value and 1,000."""
    (tmp_path / "green_model.py").write_text("def predict(rows):\n    return rows[:, 0] + 1000.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "python:green_model:predict"


def served(green: str, **more: Any) -> ServeConfig:
    options = {
        "names": ("churn",), "config_name": "blue", "deployments": {"green": green},
        "simulation": SimulationConfig(a=0.03, slots=100), **more,
    }  # fmt: skip
    return ServeConfig(model="simulated", **options)


def run(
    folder: Path,
    endpoint: ServeConfig | Background,
    *,
    sink: str = "out",
    when_parts: int = 10**9,
    act: Callable[[Server | Background], Any] = lambda server: None,
    **options: Any,
) -> tuple[RunReport, list[object]]:
    """Run against a server, or one made for it; `act` is called once so many parts are committed.

    A server of this process answers `act` in the loop of the run, so `act` is in a thread; else the run waits for it.
    """
    events: list[object] = []

    async def main() -> RunReport:
        async with contextlib.AsyncExitStack() as stack:
            server: Server | Background
            if isinstance(endpoint, ServeConfig):
                server = await stack.enter_async_context(serving(endpoint))
            else:
                server = endpoint

            def watch(event: object) -> None:
                events.append(event)
                if sum(isinstance(each, PartCommitted) for each in events) == when_parts and isinstance(
                    event, PartCommitted
                ):
                    if isinstance(server, Background):
                        act(server)
                        return
                    threads.append(threading.Thread(target=act, args=(server,)))
                    threads[-1].start()

            threads: list[threading.Thread] = []
            try:
                return await asyncbatch.arun(
                    str(folder / "in.parquet"), str(folder / sink), endpoint=server.name, endpoint_url=server.url,
                    hooks=[watch], **(OPTIONS | options),
                )  # fmt: skip
            finally:
                for thread in threads:
                    await asyncio.to_thread(thread.join)

    return asyncio.run(main()), events


def swap(server: Server | Background) -> None:
    """As an operator would: update-endpoint."""
    client = boto3.client("sagemaker", endpoint_url=server.url, region_name="us-east-1")
    client.update_endpoint(EndpointName=server.name, EndpointConfigName="green")


def manifest(folder: Path, sink: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{sink}.asyncbatch" / "manifest.json").read_text())
    return found


def warnings(events: list[object]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_a_blue_green_swap_at_half_time_stops_the_run_and_is_allowed_by_name(
    sink: str, tmp_path: Path, table: pa.Table, green: str
) -> None:
    with background(served(green)) as server:
        with pytest.raises(StoppedError) as caught:
            run(tmp_path, server, sink=sink, when_parts=10, act=swap)
        with pytest.raises(StoppedError, match="blue, now green"):  # still another one: at the resume too
            run(tmp_path, server, sink=sink)
        report, events = run(tmp_path, server, sink=sink, allow_change="model")
        again, _ = run(tmp_path, server, sink=sink)
    assert caught.value.exit_code == 75
    assert "endpoint configuration: blue, now green" in caught.value.message
    assert "image of AllTraffic: sha256:" in caught.value.message
    assert "--allow-change model" in str(caught.value.hint)
    assert (report.exit_code, again.exit_code) == (0, 0)
    assert any("--allow-change model goes on" in each for each in warnings(events))

    scored = pq.read_table(tmp_path / sink)
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    shift = np.round(scored["prediction"].to_numpy() - table["x0"].to_numpy())
    assert set(shift.tolist()) == {0.0, 1_000.0}, "both models answered"
    models = manifest(tmp_path, sink)["models"]
    assert [each["description"]["config"] for each in models] == ["blue", "green"]
    assert [each["accepted"] for each in models] == [True, True]
    assert models[0]["description"]["variants"]["AllTraffic"]["images"][0].startswith("123456789012.dkr.ecr.")
    assert models[0]["last_seen"] <= models[1]["first_seen"]


def test_a_change_that_is_allowed_from_the_start_does_not_stop_the_run(
    tmp_path: Path, table: pa.Table, green: str
) -> None:
    report, events = run(tmp_path, served(green), when_parts=5, act=swap, allow_change="model")
    assert report.exit_code == 0
    assert [each["description"]["config"] for each in manifest(tmp_path)["models"]] == ["blue", "green"]
    assert len([each for each in warnings(events) if "has changed" in each]) == 1


def test_a_swap_in_the_last_moment_is_seen_at_the_end(
    tmp_path: Path, table: pa.Table, green: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncbatch.pipeline.watching.EVERY_S", 60.0)
    with pytest.raises(StoppedError, match="blue, now green"):
        run(tmp_path, served(green), when_parts=15, act=swap)
    assert not (tmp_path / "out.asyncbatch" / "_SUCCESS").exists()


def test_putting_the_old_model_back_lets_the_same_command_go_on(
    tmp_path: Path, table: pa.Table, green: str
) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, served(green), when_parts=10, act=swap)
    report, _ = run(tmp_path, served(green))
    assert report.exit_code == 0
    models = manifest(tmp_path)["models"]
    assert [(each["description"]["config"], each["accepted"]) for each in models] == [
        ("blue", True),
        ("green", False),
    ]


def test_an_undisturbed_run_names_its_model(tmp_path: Path, table: pa.Table, green: str) -> None:
    _, events = run(tmp_path, served(green))
    (model,) = manifest(tmp_path)["models"]
    assert model["description"]["config"] == "blue"
    assert not warnings(events)
    assert any(
        isinstance(event, Explained) and event.message.startswith("the model is blue") for event in events
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [({"variants": ("blue", "green")}, "2 variants"), ({"autoscaled": True}, "autoscaling"), ({}, "")],
)
def test_the_start_line_names_background_where_others_may_be_using_the_endpoint(
    more: dict[str, Any], said: str, tmp_path: Path, table: pa.Table, green: str
) -> None:
    from asyncbatch.observe.logs import text_line

    _, events = run(tmp_path, served(green, **more), limit=200)
    (planned,) = [event for event in events if isinstance(event, RunPlanned)]
    assert planned.shared == said
    assert ("--background" in text_line(planned)) is bool(said)
    _, events = run(tmp_path, served(green, **more), sink="guest", limit=200, background=True)
    (planned,) = [event for event in events if isinstance(event, RunPlanned)]
    assert planned.shared == "", "it is a guest already"


def test_without_a_control_plane_the_run_goes_on_without_a_word(
    tmp_path: Path, table: pa.Table, green: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncbatch.server.app._CONTROL_PATH", "/nowhere")
    report, events = run(tmp_path, served(green), limit=400)
    assert report.exit_code == 0
    assert not warnings(events)
    assert [
        event for event in events if isinstance(event, Explained) and "will not be noticed" in event.message
    ]
    assert manifest(tmp_path)["models"] == []


def test_an_unreachable_control_plane_is_said_once_and_costs_two_seconds_at_most(
    tmp_path: Path, table: pa.Table, green: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        report, events = run(tmp_path, served(green), limit=400)
        assert time.monotonic() - began < 10
    assert report.exit_code == 0
    assert (
        len([each for each in events if isinstance(each, Explained) and "cannot be reached" in each.message])
        == 1
    )


def test_the_description_is_asked_for_with_the_credentials_of_the_run(
    tmp_path: Path, table: pa.Table, green: str
) -> None:
    keys = (Credential(access_key="test", secret_key="test"),)
    run(tmp_path, served(green, credentials=keys, autoscaled=True), limit=400)
    (model,) = manifest(tmp_path)["models"]
    assert model["description"]["scales"] is True


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """moto's server in this process: a control plane that nobody here wrote."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def test_motos_control_plane_serves_as_well(
    tmp_path: Path, table: pa.Table, green: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invocations go to one address, descriptions to another: `AWS_ENDPOINT_URL_SAGEMAKER`."""
    with moto() as url:
        client = boto3.client("sagemaker", endpoint_url=url, region_name="us-east-1")
        client.create_model(
            ModelName="m", ExecutionRoleArn="arn:aws:iam::123456789012:role/r",
            PrimaryContainer={"Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/m:1"},
        )  # fmt: skip
        variant = {"VariantName": "AllTraffic", "ModelName": "m", "InitialInstanceCount": 1,
                   "InstanceType": "ml.m5.large", "InitialVariantWeight": 1.0}  # fmt: skip
        for name in ("blue", "green"):
            client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        client.create_endpoint(EndpointName="churn", EndpointConfigName="blue")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", url)

        def update(_server: Server | Background) -> None:  # moto knows no update-endpoint
            client.delete_endpoint(EndpointName="churn")
            client.create_endpoint(EndpointName="churn", EndpointConfigName="green")

        slow = SimulationConfig(a=0.05, slots=100)
        with pytest.raises(StoppedError, match="endpoint configuration: blue, now green"):
            run(tmp_path, served(green, simulation=slow), when_parts=5, act=update)
        report, _ = run(tmp_path, served(green), allow_change="model")
        assert report.exit_code == 0
        assert [each["description"]["config"] for each in manifest(tmp_path)["models"]] == ["blue", "green"]
