"""Outputs in partition folders: what stands in a folder's name stands in no file below it."""

from dataclasses import replace

from asyncbatch.config import RunConfig
from asyncbatch.errors import ConfigError
from asyncbatch.protocols import Source
from asyncbatch.sink import SinkLocation
from asyncbatch.source import Selection


def without_folders(selection: Selection, source: Source, config: RunConfig) -> Selection:
    """With `--partition-by same` the partition columns are not kept: readers take them from the folders again.

    Raises:
        ConfigError: the source has no partition folders.
    """
    if config.output.partition_by is None:
        return selection
    folders = source.partition_columns
    if not folders and source.files:
        raise ConfigError(
            "--partition-by same: the source has no partition folders",
            hint="name the folder above those called key=value, or leave it out",
        )
    return replace(selection, keep=tuple(name for name in selection.keep if name not in folders))


def check_partitioned_sink(config: RunConfig, location: SinkLocation) -> None:
    """Raises ConfigError if the sink has no folders to write into."""
    if config.output.partition_by is not None and (
        location.kind != "folder" or location.database is not None or location.delta
    ):
        raise ConfigError(
            f"--partition-by makes folders, and {location.spec} is none", hint="name a folder as SINK"
        )
