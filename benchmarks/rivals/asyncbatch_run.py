"""asyncbatch, as the command line runs it."""

import time

started_s = time.perf_counter()

from common import ENDPOINT, NOT_FEATURES, arguments, finished

import asyncbatch

given = arguments()
plain = given.url.endswith("/invocations")
options = (
    {"endpoint": given.url}
    if plain
    else {"endpoint": ENDPOINT, "endpoint_url": given.url, "region": "us-east-1"}
)
report = asyncbatch.run(
    given.data + (".csv" if given.keep == "csv" else ".parquet"),
    given.out,
    no_send=list(NOT_FEATURES),
    keep="all" if given.keep == "csv" else given.keep,
    body=given.body,
    chunk_rows=given.chunk,
    concurrency=given.concurrency,
    ca_bundle=given.ca,
    overwrite=True,
    **options,
)
assert report.exit_code == 0
finished(report.metrics.rows_out, started_s)
