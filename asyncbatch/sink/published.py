"""What is made of parts that stay in the state: a table, or folders that columns make."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asyncbatch.sink.delta import DeltaTable
from asyncbatch.sink.iceberg import IcebergTable
from asyncbatch.sink.layout import SinkLocation
from asyncbatch.sink.partitions import PartitionFolders
from asyncbatch.sink.parts import PartInfo
from asyncbatch.sink.plan import Plan
from asyncbatch.store.access import Access
from asyncbatch.store.base import Store

if TYPE_CHECKING:
    import pyarrow as pa


class Publication(Protocol):
    """What readers see. Can be published again and again: what is there already is left as it is."""

    def check(self, schema: "pa.Schema") -> None:
        """Refuse what cannot be published, before anything is scored.

        Raises:
            OutputError: a column cannot be there, or what is there already is in the way.
        """
        ...

    def is_there(self) -> bool:
        """Whether what a finished job has published is still there."""
        ...

    def publish(self, plan: Plan, store: Store, parts: Sequence[PartInfo]) -> None:
        """Publish every generation up to the plan's; `parts` of `store` tile the input.

        Raises:
            OutputError: a part is damaged, or somebody else was faster.
            StorageError: the store failed; the same again goes on.
        """
        ...


def open_publication(
    location: SinkLocation, *, target: Store, state: Store, access: Access | None = None, mode: str = "fail"
) -> Publication | None:
    """What the parts of `location` become; None where they are the output themselves, or one file.

    Args:
        target: of partition folders, the one that they are in.

    Raises:
        MissingExtraError: the library of a table is not installed.
    """
    if location.published == "partitions":
        return PartitionFolders(target, state, location.columns)
    if location.published == "iceberg":
        return IcebergTable(location.target.name, mode=mode)
    if location.published == "delta":
        return _delta(location, access=access, mode=mode)
    return None


def _delta(location: SinkLocation, *, access: Access | None, mode: str) -> DeltaTable:
    if location.uri is None:
        return DeltaTable(str(Path(location.target).absolute()), mode=mode, options={})
    from asyncbatch.store.s3 import delta_options

    return DeltaTable(
        f"{location.uri.place}/{location.target.as_posix()}",
        mode=mode,
        options=delta_options(access or Access()),
    )
