"""A run from a bucket to a bucket that is killed again and again ends with what an undisturbed run would have written."""

import os
import sys
from pathlib import Path

import pytest
import torture_stores

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


def test_a_killed_run_in_a_bucket_ends_with_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # set by `tortured`, and put back afterwards
    with torture_stores.tortured(tmp_path, seed=5) as store:
        killed = sum(store.run("in.csv", sink, kills=3).killed for sink in ("out", "out.parquet"))
    assert killed >= 1
