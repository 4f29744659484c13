"""Pure decisions: how large a chunk, how many in flight, how fast, and what to do about failures.

Nothing here does I/O or knows an event loop; clock and random numbers are arguments. Importable with the
standard library alone; names are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncbatch.control.adaptive import AdaptiveController
    from asyncbatch.control.failures import Action, Verdict, classify
    from asyncbatch.control.fixed import FixedController
    from asyncbatch.control.guest import GuestController
    from asyncbatch.control.journal import Decision
    from asyncbatch.control.learned import LearnedPoint

_HOMES = {
    "Action": "failures",
    "AdaptiveController": "adaptive",
    "Decision": "journal",
    "FixedController": "fixed",
    "GuestController": "guest",
    "LearnedPoint": "learned",
    "Verdict": "failures",
    "classify": "failures",
}

__all__ = [
    "Action",
    "AdaptiveController",
    "Decision",
    "FixedController",
    "GuestController",
    "LearnedPoint",
    "Verdict",
    "classify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
