"""asyncbatch, as the command line runs it."""

import time

started_s = time.perf_counter()

from common import ENDPOINT, NOT_FEATURES, arguments, finished

import asyncbatch
from asyncbatch.cli.without_pandas import leave_pandas_out

given = arguments()
leave_pandas_out()  # as the command does
plain = given.url.endswith("/invocations")
options = (
    {"endpoint": given.url}
    if plain
    else {"endpoint": ENDPOINT, "endpoint_url": given.url, "region": "us-east-1"}
)
report = asyncbatch.run(
    given.data + (".csv" if given.keep in ("csv", "lines") else ".parquet"),
    given.out,
    no_send=None if given.keep == "lines" else list(NOT_FEATURES),
    keep={"csv": "all", "lines": "none"}.get(given.keep, given.keep),
    body=given.body,
    chunk_rows=given.chunk,
    concurrency=given.concurrency,
    ca_bundle=given.ca,
    overwrite=True,
    **options,
)
assert report.exit_code == 0
finished(report.metrics.rows_out, started_s)
