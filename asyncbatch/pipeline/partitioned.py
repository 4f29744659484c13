"""Outputs in partition folders: what stands in a folder's name stands in no file below it."""

from dataclasses import replace
from typing import TYPE_CHECKING

from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.protocols import Source
from asyncbatch.sink import SinkLocation
from asyncbatch.sink.partitioning import names_folders
from asyncbatch.source import Selection

if TYPE_CHECKING:
    import pyarrow as pa


def without_folders(selection: Selection, source: Source, config: RunConfig) -> Selection:
    """With `--partition-by same` the partition columns are not kept: readers take them from the folders again.

    Raises:
        ConfigError: the source has no partition folders.
    """
    if not config.output.mirrors_folders:
        return selection
    folders = source.partition_columns
    if not folders and source.files:
        raise ConfigError(
            "--partition-by same: the source has no partition folders",
            hint="name the folder above those called key=value, or name columns of the output",
        )
    return replace(selection, keep=tuple(name for name in selection.keep if name not in folders))


def check_partition_columns(config: RunConfig, source: Source, output: "pa.Schema") -> None:
    """Refuse columns that cannot name folders.

    Raises:
        ConfigError: the output has no such column, or one whose values are no names, or no other column.
    """
    columns = config.output.partition_columns
    for name in columns:
        if name not in output.names:
            kept = name in source.schema.names
            raise ConfigError(
                f"--partition-by {name}: the output has no column {name!r}",
                hint="it is a column of the input that --keep leaves out"
                if kept
                else f"it has {', '.join(output.names)}",
            )
        dtype = output.field(name).type
        if not names_folders(dtype):
            raise ConfigError(
                f"--partition-by {name}: values of type {dtype} cannot be names of folders",
                hint="name columns of text, whole numbers, booleans or dates",
            )
    if columns and len(columns) == len(output):
        raise ConfigError("--partition-by leaves no column for the files", hint="name fewer columns")


def check_partitioned_sink(config: RunConfig, location: SinkLocation) -> None:
    """Raises ConfigError if the sink has no folders to write into."""
    if config.output.partition_by is not None and (location.kind != "folder" or location.is_table):
        raise ConfigError(
            f"--partition-by makes folders, and {location.spec} is none", hint="name a folder as SINK"
        )
