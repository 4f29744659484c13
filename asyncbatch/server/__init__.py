"""The embedded endpoint: SageMaker Runtime and the container contract, served from this machine.

`serving(config)` runs it inside an event loop, `run_forever(config)` until a signal, and `background(config)`
of `asyncbatch.server.background` in a process of its own. `ServeConfig.model` names what is served.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncbatch.server.config import Credential, ServeConfig, SimulationConfig
    from asyncbatch.server.running import Server, run_forever, serving

__all__ = [
    "Credential",
    "ServeConfig",
    "Server",
    "SimulationConfig",
    "run_forever",
    "serving",
]

_HOME = {
    "Credential": "config",
    "ServeConfig": "config",
    "SimulationConfig": "config",
    "Server": "running",
    "run_forever": "running",
    "serving": "running",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
