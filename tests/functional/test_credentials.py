"""Logins that run out, are renewed, or were never right, and clocks that are wrong, against verified signatures."""

import asyncio
import json
import stat
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import StoppedError
from asyncbatch.observe.events import Warned
from asyncbatch.observe.report import RunReport
from asyncbatch.server import Credential, ServeConfig, SimulationConfig, serving

ROWS = 2_000
OPTIONS: dict[str, Any] = {"no_send": "id", "chunk_rows": 20, "concurrency": 8, "block_rows": 100}


@pytest.fixture(autouse=True)
def servers_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncbatch.server.running.GRACE_S", 0.01)


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    found = pa.table({"x0": np.random.default_rng(3).normal(size=ROWS), "id": np.arange(ROWS)})
    pq.write_table(found, tmp_path / "in.parquet")
    return found


def score(folder: Path, config: ServeConfig, **options: Any) -> tuple[RunReport, dict[str, Any], list[str]]:
    """Run against a server of `config`; the report, the server's counts, and what was warned of."""
    warned: list[str] = []

    def watch(event: object) -> None:
        if isinstance(event, Warned):
            warned.append(event.message)

    async def main() -> tuple[RunReport, dict[str, Any]]:
        async with serving(config) as server:
            report = await asyncbatch.arun(
                str(folder / "in.parquet"), str(folder / "out"), endpoint=server.name, endpoint_url=server.url,
                hooks=[watch], **(OPTIONS | options),
            )  # fmt: skip
            return report, server.stats()

    report, stats = asyncio.run(main())
    return report, stats, warned


def check(folder: Path, table: pa.Table) -> None:
    scored = pq.read_table(folder / "out")
    assert scored["id"].to_pylist() == table["id"].to_pylist()
    assert scored["prediction"].to_pylist() == table["x0"].to_pylist()
    assert scored["error"].null_count == ROWS


KEYS = (Credential(access_key="test", secret_key="test"),)


@pytest.mark.parametrize("skew_s", [1_200.0, -7_200.0, 90_000.0])
@pytest.mark.parametrize("transport", ["direct", "aioboto3"])
def test_a_wrong_clock_is_corrected_by_the_services(
    skew_s: float, transport: str, tmp_path: Path, table: pa.Table
) -> None:
    config = ServeConfig(
        model="simulated", simulation=SimulationConfig(slots=100), credentials=KEYS, clock_skew_s=skew_s
    )
    report, stats, warned = score(tmp_path, config, transport=transport)
    assert report.exit_code == 0
    check(tmp_path, table)
    assert [each for each in warned if each.startswith("the clock of this machine is")] == warned
    assert len(warned) == 1
    assert stats["outcomes"]["InvalidSignatureException"] == 1, "the correction is shared, and holds"


def process_profile(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """The profile `made`, whose credentials a program writes; the file that counts how often it was asked."""
    asked = folder / "asked"
    program = folder / "credentials.py"
    program.write_text(f"import json, time\nopen({str(asked)!r}, 'a').write('x')\n{script}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / "config").write_text(
        f"[profile made]\nregion = us-east-1\ncredential_process = {sys.executable} {program}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return asked


def rotating(period_s: float, periods: int) -> tuple[Credential, ...]:
    """A key for each period from now on; each expires at its end."""
    start_s = time.time()
    return tuple(
        Credential(
            access_key=f"AKIA{number}",
            secret_key=f"secret{number}",
            session_token=f"token{number}",
            expires_at=start_s + (number + 1) * period_s,
        )
        for number in range(periods)
    )


def pick(keys: tuple[Credential, ...], *, expiration: bool) -> str:
    """A program that prints the key of now; after the last one, that one."""
    known = [(key.expires_at, key.access_key, key.secret_key, key.session_token) for key in keys]
    stamp = ", Expiration=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now[0] + 1))" if expiration else ""
    return (
        f"keys = json.loads({json.dumps(json.dumps(known))})\n"
        "now = next((key for key in keys if key[0] > time.time() + 0.05), keys[-1])\n"
        "print(json.dumps(dict(Version=1, AccessKeyId=now[1], SecretAccessKey=now[2], SessionToken=now[3]"
        f"{stamp})))\n"
    )


@pytest.mark.parametrize("transport", ["direct", "aioboto3"])
def test_keys_that_run_out_every_few_seconds_are_renewed_once_for_all(
    transport: str, tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program states no end, so it shows only when the service refuses; eight requests are under way each time."""
    keys = rotating(2.0, 60)
    asked = process_profile(tmp_path, monkeypatch, pick(keys, expiration=False))
    slow = SimulationConfig(a=0.4, slots=100)
    config = ServeConfig(model="simulated", simulation=slow, credentials=keys)
    report, stats, _ = score(tmp_path, config, profile="made", transport=transport)
    assert report.exit_code == 0
    check(tmp_path, table)
    expired = stats["outcomes"]["ExpiredTokenException"]
    assert expired >= 2, "nothing expired"
    lasted = report.metrics.elapsed_s
    assert len(asked.read_text()) <= lasted + 6, "each looked by itself"


def test_what_is_renewed_no_more_stops_the_run_with_the_login_command(
    tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = rotating(1.5, 1)
    process_profile(tmp_path, monkeypatch, pick(keys, expiration=False))
    slow = SimulationConfig(a=0.2, slots=100)
    config = ServeConfig(model="simulated", simulation=slow, credentials=keys)
    with pytest.raises(StoppedError, match="no longer taken: ExpiredTokenException") as caught:
        score(tmp_path, config, profile="made")
    assert caught.value.exit_code == 75
    assert "aws sso login --profile made" in str(caught.value.hint)
    assert not list((tmp_path / "out.asyncbatch" / "rejects").glob("*")), "a row was blamed for a login"


def test_keys_that_state_their_end_are_renewed_before_it(
    tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = rotating(2.0, 40)
    process_profile(tmp_path, monkeypatch, pick(keys, expiration=True))
    slow = SimulationConfig(a=0.2, slots=100)
    config = ServeConfig(model="simulated", simulation=slow, credentials=keys)
    report, _, _ = score(tmp_path, config, profile="made", chunk_rows=100, concurrency=2)
    assert report.exit_code == 0
    check(tmp_path, table)
