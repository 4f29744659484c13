"""A Python function as a model."""

import importlib
import logging
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asyncbatch.errors import InputError
from asyncbatch.server.answers import ContainerError
from asyncbatch.server.rows import Predictions, Rows, to_matrix

_log = logging.getLogger("asyncbatch.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionModel:
    """Calls `function` with a 2-D NumPy array (objects where text is among the values)."""

    function: Callable[[Any], Any]
    spec: str

    @classmethod
    def load(cls, spec: str) -> "FunctionModel":
        """Import `python:package.module:function`; the current folder is searched too.

        Raises:
            InputError: not of this form, no such module or function, or the import fails.
        """
        module_name, colon, name = spec.removeprefix("python:").partition(":")
        if not (module_name and colon and name):
            raise InputError(f"{spec!r} names no function", hint="write python:package.module:function")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            found: Any = importlib.import_module(module_name)
            for part in name.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise InputError(
                f"{spec} cannot be loaded: {type(error).__name__}: {error}",
                hint="the module is searched in the current folder and on PYTHONPATH",
            ) from error
        if not callable(found):
            raise InputError(f"{spec} is no function", hint="name something that can be called")
        return cls(function=found, spec=spec)

    @property
    def light(self) -> bool:
        return False

    @property
    def features(self) -> int | None:
        return None

    def predict(self, rows: Rows) -> Predictions:
        try:
            answer = self.function(to_matrix(rows))
        except Exception as error:
            # Where, not what: messages of user code may quote the rows.
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.warning(
                "%s raised %s at %s:%s", self.spec, type(error).__name__, place.filename, place.lineno
            )
            raise ContainerError(500, f"{type(error).__name__}: {error}"[:2000]) from error
        return answer if isinstance(answer, list) else np.asarray(answer)
