"""An Iceberg table, published from committed parts in one commit a generation.

The catalog is the default one of pyiceberg's configuration, and the table's name in it is the sink's: `lake/ml.scores` is
table `scores` of namespace `ml`, wherever the catalog keeps it. The parts stay in the state folder, so that later files of
the input can be added; their row groups are moved into data files of the table, which one snapshot adds. Its summary
carries the job's id and the generation: whoever publishes the same again finds it there, and of two at once the catalog
takes one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from uuid import uuid4

from asyncbatch.errors import AsyncBatchError, MissingExtraError, OutputError, StorageError
from asyncbatch.sink.columns import check_same_columns, table_exists
from asyncbatch.sink.footer import PREFIX
from asyncbatch.sink.iceberg_types import iceberg_types
from asyncbatch.sink.join import Piece, join_parquet
from asyncbatch.sink.parts import PartInfo
from asyncbatch.sink.plan import Plan
from asyncbatch.store.base import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

_ATTEMPTS = 5
_FILE_BYTES = 256 * 2**20
"""Of the parts that become one data file."""
_JOB, _GENERATION = PREFIX + "job-id", PREFIX + "generation"
_AGAIN = "the same command goes on, and scores no row again"


class IcebergTable:
    """Table `name` (`namespace.table`) of the default catalog.

    Args:
        mode: as `--mode`.
    """

    def __init__(self, name: str, *, mode: str) -> None:
        try:
            import pyiceberg.catalog.sql  # noqa: F401  # is it there?
        except ImportError as error:
            raise MissingExtraError(
                "--format iceberg needs a library that is not installed",
                hint="pip install 'asyncbatch[iceberg]'",
            ) from error
        self._name = name
        self._mode = mode

    def check(self, schema: "pa.Schema") -> None:
        """Refuse what the table cannot take, before anything is scored.

        Raises:
            OutputError: there is no such namespace, a table under `fail`, one of other columns or in partitions, or
                Iceberg has no such type.
        """
        wanted = iceberg_types(schema)
        with self._catalog() as catalog:
            table = self._load(catalog)
            namespace = self._name.rpartition(".")[0]
            if table is None and not catalog.namespace_exists(namespace):
                raise OutputError(
                    f"the Iceberg catalog {catalog.name} has no namespace {namespace}",
                    hint=f"make it: pyiceberg --catalog {catalog.name} create namespace {namespace}",
                )
        if table is None:
            return
        if self._mode == "fail":
            raise table_exists(f"the Iceberg table {self._name}")
        if not table.spec().is_unpartitioned():
            raise OutputError(
                f"the Iceberg table {self._name} is partitioned, and only tables without partitions are written",
                hint="give another table, and insert from it into this one",
            )
        self._check_columns(wanted, table)

    def is_there(self) -> bool:
        """Whether there is a table.

        Raises:
            StorageError: the catalog cannot be used.
        """
        with self._catalog() as catalog:
            return self._load(catalog) is not None

    def publish(self, plan: Plan, store: Store, parts: Sequence[PartInfo]) -> None:
        """Commit the rows of each generation's own files, once, whoever tries it how often. Memory is bounded.

        Raises:
            OutputError: somebody else made the table meanwhile (`fail`), or a part is damaged.
            StorageError: catalog or store failed; the table is as it was before, or has all the rows.
        """
        with self._catalog() as catalog:
            for generation in range(1, plan.generation + 1):
                files = plan.files_of(generation)
                self._publish(
                    catalog, plan, generation, store, [part for part in parts if part.block.file in files]
                )

    def _publish(
        self, catalog: "Catalog", plan: Plan, generation: int, store: Store, parts: Sequence[PartInfo]
    ) -> None:
        from pyiceberg.exceptions import CommitFailedException

        written: list[str] | None = None
        for _ in range(_ATTEMPTS):
            table = self._load(catalog) or self._create(catalog, plan)
            if _holds(table, plan.job_id, generation):
                for path in written or ():
                    table.io.delete(path)
                return
            if self._mode == "fail" and generation == 1 and table.properties.get(_JOB) != plan.job_id:
                raise table_exists(f"the Iceberg table {self._name}")
            if written is None:
                written = self._write(table, plan, generation, store, parts)
            try:
                self._commit(table, plan.job_id, generation, written)
                return
            except CommitFailedException:
                continue  # another commit was faster: ours, or one that matters not
            except Exception:
                # An answer that was lost: only a look tells.
                if (now := self._load(catalog)) is not None and _holds(now, plan.job_id, generation):
                    return
                raise
        raise StorageError(
            f"the Iceberg table {self._name} is written by others all the time",
            hint="the same command tries again: every row is scored already",
        )

    def _commit(self, table: "Table", job_id: str, generation: int, paths: list[str]) -> None:
        from pyiceberg.expressions import AlwaysTrue

        # pyiceberg would try again by itself, and add rows that another process of this job has just added.
        once = {**table.metadata.properties, "commit.retry.num-retries": "0"}
        table.metadata = table.metadata.model_copy(update={"properties": once})
        marks = {_JOB: job_id, _GENERATION: str(generation)}
        transaction = table.transaction()
        if self._mode == "replace" and generation == 1 and table.current_snapshot() is not None:
            transaction.delete(AlwaysTrue())
        transaction.add_files(paths, snapshot_properties=marks, check_duplicate_files=False)
        transaction.commit_transaction()

    def _create(self, catalog: "Catalog", plan: Plan) -> "Table":
        """The table, still empty, with the job's id to tell it by."""
        from pyiceberg.exceptions import TableAlreadyExistsError

        try:
            return catalog.create_table(
                self._name, iceberg_types(plan.schema), properties={_JOB: plan.job_id}
            )
        except TableAlreadyExistsError:
            return catalog.load_table(self._name)

    def _write(
        self, table: "Table", plan: Plan, generation: int, store: Store, parts: Sequence[PartInfo]
    ) -> list[str]:
        """The data files, which no snapshot names yet; those of a process that is killed here stay nameless."""
        import pyarrow as pa

        wanted = iceberg_types(plan.schema)
        columns = {column.name: column for column in _columns(table, ids=True)}
        named = pa.schema([columns[name] for name in wanted.names])
        attempt = uuid4().hex[:12]
        paths: list[str] = []
        try:
            for number, group in enumerate(_groups(parts)):
                path = table.location_provider().new_data_location(
                    f"{plan.job_id}-{generation}-{attempt}-{number:05d}.parquet"
                )
                paths.append(path)
                with table.io.new_output(path).create() as stream:
                    join_parquet(
                        cast(BinaryIO, _Plain(stream)),
                        [Piece(store=store, name=part.name) for part in group],
                        schema=wanted,
                        named=named,
                        key_values={PREFIX + "job_id": plan.job_id, PREFIX + "generation": str(generation)},
                    )
        except BaseException as error:
            for path in paths:
                try:
                    table.io.delete(path)
                except OSError:
                    pass  # it was never made
            if isinstance(error, pa.ArrowInvalid):
                raise OutputError(
                    f"a value does not fit into its column of the Iceberg table {self._name}: {error}",
                    hint="times are kept in microseconds there: --keep without that column",
                ) from error
            raise
        return paths

    def _check_columns(self, schema: "pa.Schema", table: "Table") -> None:
        import pyarrow as pa
        from pyiceberg.catalog import Catalog
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        converted = schema_to_pyarrow(Catalog._convert_schema_if_needed(schema), include_field_ids=False)
        wanted = {each.name: _kind(each) for each in pa.schema(converted)}
        found = {each.name: _kind(each) for each in _columns(table, ids=False)}
        check_same_columns(wanted, found, f"the Iceberg table {self._name}")

    def _load(self, catalog: "Catalog") -> "Table | None":
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return catalog.load_table(self._name)
        except NoSuchTableError:
            return None

    @contextmanager
    def _catalog(self) -> "Iterator[Catalog]":
        """The default catalog; what it and the table's store fail with are errors of ours."""
        from pyiceberg.catalog import load_catalog

        try:
            catalog = load_catalog()
        except Exception as error:  # of the libraries of many kinds of catalog
            raise OutputError(
                f"pyiceberg has no catalog to use: {_said(error)}",
                hint="configure one in ~/.pyiceberg.yaml or by PYICEBERG_CATALOG__DEFAULT__URI and _WAREHOUSE",
            ) from error
        try:
            with catalog:
                yield catalog
        except AsyncBatchError:
            raise
        except Exception as error:
            raise StorageError(
                f"the Iceberg table {self._name} cannot be used: {_said(error)}",
                hint=f"check that it can be reached; {_AGAIN}",
            ) from error


class _Plain:
    """A stream that can be written and nothing else: what it writes to is no file of this machine."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        return len(data)


def _holds(table: "Table", job_id: str, generation: int) -> bool:
    """Whether a snapshot has the rows of that generation."""
    marks = (job_id, str(generation))
    return any(
        each.summary is not None and (each.summary.get(_JOB), each.summary.get(_GENERATION)) == marks
        for each in table.snapshots()
    )


def _groups(parts: Sequence[PartInfo]) -> list[list[PartInfo]]:
    """Which parts become one data file: neighbours, as many as fit. Pure."""
    groups: list[list[PartInfo]] = []
    size = 0
    for part in parts:
        if not groups or size + part.size_bytes > _FILE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.size_bytes
    return groups


def _columns(table: "Table", *, ids: bool) -> "pa.Schema":
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    return schema_to_pyarrow(table.schema(), include_field_ids=ids)


def _kind(column: "pa.Field[Any]") -> str:
    return str(column.type).removeprefix("large_") + ("" if column.nullable else " not null")


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
