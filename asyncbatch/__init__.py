"""Asynchronous, high-throughput batch inference for SageMaker and HTTP model endpoints.

```python
import asyncbatch

report = asyncbatch.run("in.parquet", "out/", endpoint="churn-prod")
```
"""

from typing import TYPE_CHECKING, Any

from asyncbatch._version import __version__

if TYPE_CHECKING:
    from asyncbatch.config import RunConfig
    from asyncbatch.errors import (
        AsyncBatchError,
        ConfigError,
        EndpointError,
        InputError,
        InvocationError,
        MissingExtraError,
        OutputError,
        ReplyError,
        SourceError,
        StoppedError,
        StorageError,
        TooManyRejectsError,
        UsageError,
    )
    from asyncbatch.observe.report import RunReport
    from asyncbatch.pipeline.api import arun, predict, run, stream

_HOMES = {
    "asyncbatch.config": ("RunConfig",),
    "asyncbatch.errors": (
        "AsyncBatchError",
        "ConfigError",
        "EndpointError",
        "InputError",
        "InvocationError",
        "MissingExtraError",
        "OutputError",
        "ReplyError",
        "SourceError",
        "StoppedError",
        "StorageError",
        "TooManyRejectsError",
        "UsageError",
    ),
    "asyncbatch.observe.report": ("RunReport",),
    "asyncbatch.pipeline.api": ("arun", "predict", "run", "stream"),
}

__all__ = [
    "AsyncBatchError",
    "ConfigError",
    "EndpointError",
    "InputError",
    "InvocationError",
    "MissingExtraError",
    "OutputError",
    "ReplyError",
    "RunConfig",
    "RunReport",
    "SourceError",
    "StoppedError",
    "StorageError",
    "TooManyRejectsError",
    "UsageError",
    "__version__",
    "arun",
    "predict",
    "run",
    "stream",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): `import asyncbatch` costs next to nothing."""
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'asyncbatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
