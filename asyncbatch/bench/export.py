"""Results as files: JSON and Markdown whole, CSV a line a point, Parquet a row a request."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncbatch.bench.load import Loaded
from asyncbatch.bench.result import BenchResult, Point
from asyncbatch.bench.table import markdown
from asyncbatch.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

REQUESTS_SUFFIX = ".parquet"
SUFFIXES = (".json", ".csv", ".md", REQUESTS_SUFFIX)
_TIMES = {
    "intended": "intended_s", "sent": "sent_s", "began": "wire_began_s", "written": "wire_written_s",
    "replied": "wire_replied_s", "received": "received_s", "finished": "finished_s",
}  # fmt: skip
_PERCENTS = ((50.0, "p50_s"), (90.0, "p90_s"), (95.0, "p95_s"), (99.0, "p99_s"), (99.9, "p99_9_s"))
_COLUMNS = (
    "number", "mode", "chunk_rows", "concurrency", "rate", "repeats", "rows_per_s", "rows_per_s_low", "rows_per_s_high",
    "mb_per_s", "requests_per_s", "seconds", "requests", "rows", "error_share", "throttled", "unfinished", "in_flight",
    "in_flight_max", "client_cpu_share", "client_cpu_s_per_request", "client_bound", "drift", "saturated", "stopped_by",
    "slo_met", "on_pareto_front", "dollars_per_million_rows",
)  # fmt: skip


def check_output(path: str, *, suffixes: tuple[str, ...] = SUFFIXES, option: str = "--output") -> None:
    """Refuse what could not be written at the end, before anything is measured.

    Raises:
        ConfigError: an unknown suffix, a folder, or a folder that does not exist.
    """
    file = Path(path)
    if file.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{option} {path}: unknown suffix {file.suffix!r}", hint=f"one of {', '.join(suffixes)}"
        )
    if file.is_dir():
        raise ConfigError(f"{option} {path} is a folder", hint="name a file in it")
    if not file.parent.is_dir():
        raise ConfigError(
            f"{option} {path}: the folder {file.parent} does not exist",
            hint=f"create it first: mkdir -p {file.parent}",
        )


def write_result(result: BenchResult, path: str) -> None:
    """Write `result` as JSON, CSV or Markdown, as the suffix says.

    Raises:
        StorageError: it cannot be written.
    """
    made = _FORMATS[Path(path).suffix.lower()](result)
    try:
        Path(path).write_text(made, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def points_csv(result: BenchResult) -> str:
    """A line a point; an empty cell is unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    bounds = [f"{name}{end}" for _, name in _PERCENTS for end in ("", "_low", "_high")]
    writer.writerow([*_COLUMNS, *bounds])
    for point in result.points:
        cells = [getattr(point, name) for name in _COLUMNS]
        for percent, _ in _PERCENTS:
            found = point.latency.percentile(percent)
            cells += [found.seconds, found.low_s, found.high_s]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()


_FORMATS = {".json": BenchResult.to_json, ".csv": points_csv, ".md": markdown}


class RequestsFile:
    """Every request of every point, a row each, as Parquet; under its name once it is closed.

    Times are seconds from the start of the point's load.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.tmp")
        self._writer: pq.ParquetWriter | None = None

    def add(self, point: Point, loaded: Loaded) -> None:
        """Write the requests of `point`. Blocking: runs in a thread.

        Raises:
            StorageError: it cannot be written.
        """
        import pyarrow.parquet as pq

        table = _requests(point, loaded)
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
            self._writer.write_table(table)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """Give the file its name; without a point there is none."""
        if self._writer is None:
            return
        try:
            self._writer.close()
            self._temporary.replace(self._path)
        except OSError as error:
            raise _unwritable(self._path, error) from error


def _requests(point: Point, loaded: Loaded) -> "pa.Table":
    import pyarrow as pa

    records = loaded.records
    intended = records.time("intended")
    order = intended.argsort(kind="stable")
    names = pa.array(records.outcome_names, pa.string())
    count = len(intended)
    inside = (intended >= loaded.window.start_s) & (intended < loaded.window.stop_s)
    columns: dict[str, Any] = {
        "point": pa.repeat(pa.scalar(point.number, pa.int32()), count),
        "chunk_rows": pa.repeat(pa.scalar(point.chunk_rows, pa.int64()), count),
        "concurrency": pa.repeat(pa.scalar(point.concurrency, pa.int32()), count),
        "rate": pa.repeat(pa.scalar(point.rate, pa.float64()), count),
        "rows": pa.array(records.rows[order]),
        "body_bytes": pa.array(records.body_bytes[order]),
        "outcome": names.take(pa.array(records.outcomes[order], pa.int32())),
        "measured": pa.array(inside[order]),
    }
    for name, column in _TIMES.items():
        values = records.time(name)[order] - loaded.began_s
        columns[column] = pa.array(values, from_pandas=True)
    return pa.table(columns)


def _unwritable(path: Path | str, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be written: {error.strerror or error}", hint="choose another place")
