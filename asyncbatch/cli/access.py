"""The options by which `status` and `verify` reach an output in a bucket: lines of a run's table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asyncbatch.cli.job import given_options
from asyncbatch.cli.options import run_defaults, run_options
from asyncbatch.config import OPTIONS, RunConfig
from asyncbatch.option import Option

if TYPE_CHECKING:
    from asyncbatch.store.access import Access

_NAMES = ("region", "profile", "ca_bundle", "sink_profile", "requester_pays", "sink_bucket_owner")


def access_options() -> tuple[dict[str, Option], dict[str, object]]:
    """The lines and their defaults."""
    defaults = run_defaults()
    return {name: run_options()[name] for name in _NAMES}, {name: defaults[name] for name in _NAMES}


def given_access(options: Mapping[str, Any]) -> "Access":
    """From the command line and `ASYNCBATCH_*`.

    Raises:
        ConfigError: a bad value.
    """
    from asyncbatch.pipeline.storage import sink_access

    given = given_options(file=None, options=options)[0]
    return sink_access(RunConfig.from_options({name: given[name] for name in given if name in OPTIONS}))
