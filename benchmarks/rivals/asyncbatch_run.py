"""asyncbatch, by its command."""

import sys
import time

started_s = time.perf_counter()

from common import ENDPOINT, NOT_FEATURES, arguments, finished

from asyncbatch.__main__ import main

given = arguments()
suffix = ".csv" if given.keep in ("csv", "lines") else ".parquet"
command = ["run", given.data + suffix, given.out, "--overwrite", "--quiet"]
if given.url.endswith("/invocations"):
    command += ["--endpoint", given.url]
else:
    command += ["--endpoint", ENDPOINT, "--endpoint-url", given.url, "--region", "us-east-1"]
if given.keep != "lines":
    command += ["--no-send", ",".join(NOT_FEATURES)]
command += ["--keep", {"csv": "all", "lines": "none"}.get(given.keep, given.keep)]
command += ["--body", given.body, "--chunk-rows", str(given.chunk), "--concurrency", str(given.concurrency)]
if given.ca:
    command += ["--ca-bundle", given.ca]
sys.argv[1:] = command
code = main()
assert code == 0, f"exit code {code}"
finished(int(given.data.rpartition("-")[2]), started_s)
