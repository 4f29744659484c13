"""Keys that expire while a run goes on, for endpoint, source and sink apart; the long form is benchmarks/expiring_keys.py."""

from pathlib import Path

import expiring_keys
import pytest


@pytest.fixture(autouse=True)
def server_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncbatch.server.running.GRACE_S", 0.01)


def test_keys_of_three_identities_expire_again_and_again_and_no_row_is_lost(tmp_path: Path) -> None:
    """They do not say when they end: each is found out by a refusal, of reads, of writes and of the endpoint."""
    found = expiring_keys.scored(tmp_path, valid_s=2.0, expiries=2.5, stated=False, rows=1_000)
    assert (found["exit_code"], found["rows_rejected"]) == (0, 0)
    assert (found["rows_lost"], found["rows_twice"]) == (0, 0)
    refused = found["requests_refused_for_expired_keys"]
    assert all(refused[each] for each in ("endpoint", "reader", "writer")), refused
