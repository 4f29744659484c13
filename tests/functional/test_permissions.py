"""The AWS actions that are called are those that docs/security.md names, and files appear only where it says."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

import asyncbatch
from asyncbatch.observe.events import Warned
from asyncbatch.server import ServeConfig, serving
from asyncbatch.server.answers import Answer, ServiceError
from asyncbatch.server.app import EndpointApp
from asyncbatch.server.control_plane import ControlPlane, control_error

ROOT = Path(__file__).resolve().parents[2]
S3_ACTIONS = {
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "delete_objects": "s3:DeleteObject",
}
"""What each operation needs: "Actions, resources, and condition keys for Amazon S3" in the Service Authorization Reference."""


def documented() -> set[str]:
    """Every action in the policies of the page."""
    found: set[str] = set()
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL):
        for statement in json.loads(block).get("Statement", ()):
            assert statement["Effect"] == "Allow"
            actions = statement["Action"]
            found.update([actions] if isinstance(actions, str) else actions)
    return found


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"x0": [float(row) for row in range(500)]}), path)
    return path


def run(source: Path, **options: Any) -> list[object]:
    events: list[object] = []

    async def main() -> None:
        async with serving(ServeConfig(model="echo", names=("churn",))) as server:
            await asyncbatch.arun(
                str(source), str(source.with_name("out")), endpoint="churn", endpoint_url=server.url,
                hooks=[events.append], **options,
            )  # fmt: skip

    asyncio.run(main())
    return events


@pytest.mark.parametrize("transport", ["direct", "aioboto3"])
def test_a_run_calls_the_documented_sagemaker_actions_and_no_others(
    transport: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: set[str] = set()
    handle = EndpointApp.handle

    async def recorded(self: EndpointApp, request: web.BaseRequest) -> web.StreamResponse:
        if target := request.headers.get("X-Amz-Target"):
            service, _, operation = target.partition(".")
            called.add(
                {"SageMaker": "sagemaker", "AnyScaleFrontendService": "application-autoscaling"}[service]
                + f":{operation}"
            )
        elif re.fullmatch(r"/endpoints/churn/invocations", request.path):
            called.add("sagemaker:InvokeEndpoint")
        else:
            called.add(request.path)
        return await handle(self, request)

    monkeypatch.setattr(EndpointApp, "handle", recorded)
    run(table, transport=transport)
    assert called == {action for action in documented() if not action.startswith("s3:")}


def test_the_object_store_calls_the_documented_s3_actions_and_no_others() -> None:
    source = (ROOT / "asyncbatch" / "store" / "s3.py").read_text(encoding="utf-8")
    called = set(re.findall(r"_client\.([a-z]\w+)\(", source)) - {"get_paginator"}
    called |= set(re.findall(r"get_paginator\(\"(\w+)\"\)", source))
    import boto3

    client = boto3.client("s3")
    called = {name for name in called if name in client.meta.method_to_api_mapping}
    assert called == S3_ACTIONS.keys(), "an operation is new, or gone"
    assert set(S3_ACTIONS.values()) == {action for action in documented() if action.startswith("s3:")}


def test_without_the_optional_permissions_a_run_goes_on_and_says_so_once(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def denied(_self: ControlPlane, target: str, _body: bytes) -> Answer:
        asked.append(target)
        return control_error(ServiceError(400, "AccessDeniedException", "not authorized"))

    monkeypatch.setattr(ControlPlane, "answer", denied)
    monkeypatch.setattr(
        "asyncbatch.endpoint.sagemaker.is_loopback", lambda host: False
    )  # as if it were far away
    events: list[object] = []

    async def main() -> None:
        async with serving(ServeConfig(model="echo", names=("churn",))) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", server.url)
            report = await asyncbatch.arun(
                str(table), str(table.with_name("out")), endpoint="churn", endpoint_url=server.url,
                hooks=[events.append],
            )  # fmt: skip
            assert report.exit_code == 0

    asyncio.run(main())
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert warned == [
        "a change of the model during the run will not be noticed: sagemaker:DescribeEndpoint is not allowed"
    ]
    assert asked == ["SageMaker.DescribeEndpoint"], "asked again after it was refused"


def test_nothing_is_written_elsewhere(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, where in (("HOME", "home"), ("XDG_CACHE_HOME", "cache"), ("TMPDIR", "tmp")):
        (tmp_path / where).mkdir()
        monkeypatch.setenv(name, str(tmp_path / where))
    monkeypatch.chdir(tmp_path / "home")
    run(table, no_tuning=True)
    found = {str(path.relative_to(tmp_path)).split("/")[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"in.parquet", "out", "out.asyncbatch"}
