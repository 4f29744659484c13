"""A Delta Lake table, published from committed parts in one commit a generation.

The parts stay in the state folder, so that later files of the input can be added. A commit carries the job's id and the
generation as an application transaction (https://github.com/delta-io/delta/blob/master/PROTOCOL.md#transaction-identifiers):
whoever publishes the same again finds it there, and of two at once the table's log takes one.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from asyncbatch.errors import MissingExtraError, OutputError, StorageError
from asyncbatch.sink.columns import check_same_columns, table_exists
from asyncbatch.sink.join import Piece, read_pieces
from asyncbatch.sink.parts import PartInfo
from asyncbatch.sink.plan import Plan
from asyncbatch.store.base import Store

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPTS = 5
_FILE_BYTES = 64 * 2**20
"""Of one data file of the table; so much is held in memory, encoded."""


class DeltaTable:
    """The table at `uri`, a path or `s3://`.

    Args:
        mode: as `--mode`.
        options: how the table's store is reached, by the names of delta-rs.
    """

    def __init__(self, uri: str, *, mode: str, options: dict[str, str]) -> None:
        try:
            import deltalake  # noqa: F401  # is it there?
        except ImportError as error:
            raise MissingExtraError(
                "--format delta needs a library that is not installed", hint="pip install 'asyncbatch[delta]'"
            ) from error
        self._uri = uri
        self._mode = mode
        self._options = options

    def check(self, schema: "pa.Schema") -> None:
        """Refuse what the table cannot take, before anything is scored.

        Raises:
            OutputError: there is one under `fail`, it has other columns under `append`, or Delta Lake has no such type.
        """
        import pyarrow as pa
        from deltalake import Schema

        for column in schema:
            try:
                Schema.from_arrow(pa.schema([column]))
            except Exception as error:  # of the library's own kinds, which are no public names
                raise OutputError(
                    f"column {column.name!r} of type {column.type} cannot be in a Delta Lake table",
                    hint=f"leave it out: --keep with the other columns, without {column.name}",
                ) from error
            if pa.types.is_uint64(column.type):
                raise OutputError(
                    f"column {column.name!r} of type uint64 cannot be in a Delta Lake table, whose integers have a sign",
                    hint=f"leave it out: --keep with the other columns, without {column.name}",
                )
        there = self._open()
        if there is None or self._mode == "replace":
            return
        if self._mode == "fail":
            raise table_exists(f"the Delta Lake table {self._uri}")
        wanted = {each.name: each.type for each in Schema.from_arrow(schema).fields}
        found = {each.name: each.type for each in there.schema().fields}
        check_same_columns(wanted, found, self._uri, named=_named)

    def is_there(self) -> bool:
        """Whether there is a table.

        Raises:
            StorageError: its store cannot be reached.
        """
        return self._open() is not None

    def publish(self, plan: Plan, store: Store, parts: Sequence[PartInfo]) -> None:
        """Commit the rows of the generation's own files, once, whoever tries it how often. Memory is bounded.

        Raises:
            OutputError: somebody else made the table meanwhile (`fail`), or a part is damaged.
            StorageError: the store failed; the table is as it was before, or has all the rows.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        for generation in range(1, plan.generation + 1):
            pieces = [
                Piece(store=store, name=part.name)
                for part in parts
                if part.block.file in plan.files_of(generation)
            ]
            unreadable: list[OutputError] = []
            for attempt in range(_ATTEMPTS):
                there = self._open()
                if _holds(there, plan.job_id, generation):
                    break
                mode: Any = "error" if there is None else self._write_mode(generation)
                try:
                    write_deltalake(
                        self._uri
                        if there is None
                        else there,  # as it was looked at: a commit that came since is a conflict
                        _reader(plan.schema.remove_metadata(), pieces, unreadable),
                        mode=mode,
                        schema_mode="overwrite" if mode == "overwrite" else None,
                        target_file_size=_FILE_BYTES,
                        storage_options=self._options or None,
                        commit_properties=CommitProperties(
                            custom_metadata={
                                "asyncbatch.job-id": plan.job_id,
                                "asyncbatch.generation": str(generation),
                            },
                            app_transactions=[Transaction(_app_id(plan.job_id), generation)],
                        ),
                    )
                    break
                except CommitFailedError as error:  # another commit was faster: ours, or one that matters not
                    if attempt == _ATTEMPTS - 1:
                        raise StorageError(
                            f"the Delta Lake table {self._uri} is written by others all the time",
                            hint="the same command tries again: every row is scored already",
                        ) from error
                except (DeltaError, OSError) as error:
                    if unreadable:
                        raise unreadable[0] from error
                    now = self._open()
                    if _holds(now, plan.job_id, generation):
                        break
                    made_since = there is None and now is not None and self._mode != "fail"
                    if not made_since or attempt == _ATTEMPTS - 1:
                        raise self._failed(error) from error

    def _write_mode(self, generation: int) -> Any:
        if generation > 1 or self._mode == "append":
            return "append"
        return "overwrite" if self._mode == "replace" else "error"

    def _open(self) -> Any:
        """The table as it is now; None if there is none."""
        import deltalake
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return deltalake.DeltaTable(self._uri, storage_options=self._options or None)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> StorageError:
        said = str(error).strip().splitlines()
        return StorageError(
            f"the Delta Lake table {self._uri} cannot be used: {said[0] if said else type(error).__name__}",
            hint="check that it can be reached; the same command goes on, and scores no row again",
        )


def _holds(table: Any, job_id: str, generation: int) -> bool:
    """Whether `table`, as it was opened, has the rows of the generation."""
    version = table.transaction_version(_app_id(job_id)) if table is not None else None
    return version is not None and version >= generation


def _app_id(job_id: str) -> str:
    return f"asyncbatch-{job_id}"


def _named(kind: object) -> str:
    return str(getattr(kind, "type", kind))


def _reader(
    schema: "pa.Schema", pieces: Sequence[Piece], unreadable: list[OutputError]
) -> "pa.RecordBatchReader":
    """The rows of `pieces`; what is wrong with them goes into `unreadable`, because the library passes on its text only."""
    import pyarrow as pa

    def batches() -> "Iterator[pa.RecordBatch]":
        try:
            for batch in read_pieces(pieces):
                yield batch.cast(schema) if batch.schema != schema else batch
        except OutputError as error:
            unreadable.append(error)
            raise

    return pa.RecordBatchReader.from_batches(schema, batches())
