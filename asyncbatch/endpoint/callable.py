"""A Python function as the endpoint: `python:package.module:function`, called in this process.

What the function gets is said by the annotation of its first parameter: `pyarrow.RecordBatch` (also without
any annotation), `pyarrow.Table`, `numpy.ndarray` (2-D, rows x columns) or `pandas.DataFrame`. A function that
cannot be annotated may carry an attribute `asyncbatch_input`, one of `arrow`, `table`, `numpy`, `pandas`.

It returns one value or vector a row. Plain functions run in threads, as many at once as there are requests in
flight; `async` ones are awaited. A thread cannot be stopped: after a timeout or a cancellation a plain
function runs on to its end, still taking its place, and what it returns is dropped.
"""

import asyncio
import contextvars
import difflib
import importlib
import importlib.util
import inspect
import operator
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncbatch.config import RequestConfig, RunConfig
from asyncbatch.errors import ConfigError, InvocationError
from asyncbatch.model import BatchPayload, Failure, Payload, Reply, Transport
from asyncbatch.option import flag

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_SYNTAX = re.compile(
    r"python:(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
)
_MESSAGE_CHARACTERS = 2048
_CLOSE_S = 5.0
_NOT_FOR_FUNCTIONS = (
    "header", "template", "accept", "content_type", "target_model", "target_variant", "target_container_hostname",
    "body", "row", "inference_component_name", "custom_attributes", "enable_explanations", "inference_id", "session_id",
)  # fmt: skip


class CallableEndpoint:
    """A function of rows. Imported when opened, with the working directory on the import path."""

    takes_batches = True

    def __init__(self, config: RunConfig) -> None:
        """Check the form of the name; imports nothing.

        Raises:
            ConfigError: not `python:module:function`, or options that only mean something to a server.
        """
        found = _SYNTAX.fullmatch(config.endpoint.endpoint)
        if found is None:
            raise ConfigError(
                f"-e {config.endpoint.endpoint!r} names no function",
                hint="give python:package.module:function",
            )
        for option in _NOT_FOR_FUNCTIONS:
            if getattr(config.request, option) != getattr(RequestConfig(), option):
                raise ConfigError(f"{flag(option)} means nothing to a Python function", hint="leave it out")
        self._module, self._function_name = found["module"], found["function"]
        self._name = config.endpoint.endpoint
        self._max_body_bytes = config.speed.max_payload
        self._call: Callable[[Any], Any] | None = None
        self._convert: Callable[[pa.RecordBatch], Any] = _as_batch
        self._awaited = False
        self._threads: ThreadPoolExecutor | None = None
        self._calls: set[Future[tuple[Any, InvocationError | None]]] = set()

    @property
    def name(self) -> str:
        """`python:module:function`."""
        return self._name

    @property
    def identity(self) -> Mapping[str, str | None]:
        """The function is the endpoint; what is behind its name is not looked at."""
        return {"kind": "python", "name": self._name}

    @property
    def max_body_bytes(self) -> int:
        """`--max-payload`, counted as Arrow bytes."""
        return self._max_body_bytes

    @property
    def advice(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    async def open(self, *, concurrency: int) -> None:
        """Import the function, in a thread.

        Raises:
            ConfigError: no such module or function, an import that fails, or parameters that do not fit.
        """
        function = await asyncio.to_thread(_load, self._module, self._function_name)
        self._convert = _conversion(function, self._name)
        self._awaited = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # the method, to see whether it is async
        )
        self._call = function
        self._threads = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="asyncbatch-function")

    async def invoke(self, payload: Payload, *, timeout_s: float) -> Reply:
        """Call the function with the rows, once.

        Raises:
            InvocationError: it raised, or took longer than `timeout_s`.
        """
        assert self._call is not None, "open() comes first"
        assert isinstance(payload, BatchPayload), "a function takes rows, not bytes"
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                result = await self._result(self._call, payload.batch)
        except InvocationError:
            raise
        except Exception as error:
            if deadline.expired():
                message = f"the function did not return within {timeout_s:g} s"
                raise InvocationError(Failure(transport=Transport.TIMEOUT, message=message)) from error
            raise InvocationError(_raised(error)) from error
        return Reply(result=result)

    async def aclose(self) -> None:
        """Let the threads end. Waits up to 5 s for functions that still run. Idempotent."""
        threads, self._threads = self._threads, None
        self._call = None
        if threads is None:
            return
        threads.shutdown(wait=False, cancel_futures=True)
        # This thread must end by itself: the event loop waits for it before it closes, however long that takes.
        ended = await asyncio.to_thread(wait, tuple(self._calls), timeout=_CLOSE_S)
        if not ended.not_done:
            await asyncio.to_thread(threads.shutdown, wait=True)

    async def _result(self, call: Callable[[Any], Any], batch: "pa.RecordBatch") -> Any:
        if self._awaited:
            rows = batch if self._convert is _as_batch else await self._in_thread(self._convert, batch)
            result = await call(rows)
        else:
            result = await self._in_thread(lambda given: call(self._convert(given)), batch)
            if inspect.isawaitable(result):
                result = await result
        return result

    async def _in_thread(self, function: Callable[[Any], Any], argument: Any) -> Any:
        assert self._threads is not None
        call = self._threads.submit(contextvars.copy_context().run, _outcome, function, argument)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        value, error = await asyncio.wrap_future(call)
        if error is not None:
            raise error
        return value


def _outcome(function: Callable[[Any], Any], argument: Any) -> tuple[Any, InvocationError | None]:
    """The value, or the exception as a value: StopIteration and SystemExit do not pass through a future."""
    try:
        return function(argument), None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the function raises is its answer
        refusal = InvocationError(_raised(error))
        refusal.__cause__ = error
        return None, refusal


def _raised(error: BaseException) -> Failure:
    return Failure(exception=type(error).__name__, message=str(error)[:_MESSAGE_CHARACTERS])


def _load(module_name: str, function_name: str) -> Callable[[Any], Any]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            near = difflib.get_close_matches(module_name, _neighbours(module_name), n=3)
            raise ConfigError(
                f"there is no Python module {module_name}",
                hint=f"did you mean {' or '.join(near)}?"
                if near
                else f"modules are looked for in {here} first",
            ) from error
        raise ConfigError(
            f"importing {module_name} failed: it needs {error.name}", hint=f"pip install {error.name}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"importing {module_name} failed: {type(error).__name__}: {error}",
            hint=f"python -c 'import {module_name}' shows where",
        ) from error
    try:
        found = operator.attrgetter(function_name)(module)
    except AttributeError as error:
        callables = [
            name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
        ]
        near = difflib.get_close_matches(function_name, callables, n=3, cutoff=0.5)
        raise ConfigError(
            f"module {module_name} has no {function_name}",
            hint=f"did you mean {' or '.join(near)}?" if near else "give python:package.module:function",
        ) from error
    if not callable(found):
        raise ConfigError(
            f"{module_name}:{function_name} is a {type(found).__name__}, not a function",
            hint="give the name of a function of the rows",
        )
    return found  # type: ignore[no-any-return]  # looked up by name, and checked above


def _neighbours(module_name: str) -> list[str]:
    """Modules beside the one that is missing."""
    parent = module_name.rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(parent) if parent else None
    except (ImportError, ValueError):
        return []
    paths = None if not parent else list(spec.submodule_search_locations or []) if spec is not None else []
    prefix = f"{parent}." if parent else ""
    return [prefix + each.name for each in pkgutil.iter_modules(paths)]


def _conversion(function: Callable[[Any], Any], name: str) -> "Callable[[pa.RecordBatch], Any]":
    """How rows are handed to `function`."""
    declared = getattr(function, "asyncbatch_input", None)
    if declared is None:
        declared = _declared(function, name)
    if declared not in _CONVERSIONS:
        raise ConfigError(
            f"{name} asks for {declared!r}, which is no known form of rows",
            hint="pyarrow.RecordBatch, pyarrow.Table, numpy.ndarray or pandas.DataFrame",
        )
    return _CONVERSIONS[declared]


def _declared(function: Callable[[Any], Any], name: str) -> str:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "arrow"  # built in C, without a signature
    try:
        signature.bind(object())
    except TypeError as error:
        raise ConfigError(
            f"{name} cannot be called with one argument: {error}", hint="it takes the rows and nothing else"
        ) from error
    annotation = next(iter(signature.parameters.values())).annotation
    if annotation is inspect.Parameter.empty or annotation is Any:
        return "arrow"
    text = annotation if isinstance(annotation, str) else _type_name(annotation)
    # `pa.RecordBatch`, `"np.ndarray"`, `npt.NDArray[np.float64]`, `numpy.ndarray[…]`
    path = text.strip("'\" ").split("[", 1)[0].split(".")
    if path[0] in ("polars", "pl"):
        return text  # its DataFrame is not the one of pandas
    return _ANNOTATIONS.get(path[-1], text)


def _type_name(annotation: Any) -> str:
    origin = getattr(annotation, "__origin__", annotation)
    return f"{getattr(origin, '__module__', '')}.{getattr(origin, '__qualname__', str(origin))}"


def _as_batch(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    return batch


def _as_table(batch: "pa.RecordBatch") -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_batches([batch])


def _as_frame(batch: "pa.RecordBatch") -> Any:
    return batch.to_pandas()


def _as_array(batch: "pa.RecordBatch") -> "np.ndarray[Any, Any]":
    """Rows x columns, C order; of the columns' common type, a null is NaN; text makes it an object array."""
    import numpy as np

    columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    if not columns:
        return np.empty((batch.num_rows, 0))
    plain = all(column.dtype.kind in "biuf" for column in columns)
    dtype = np.result_type(*(column.dtype for column in columns)) if plain else np.dtype(object)
    found = np.empty((batch.num_rows, len(columns)), dtype=dtype)
    for position, column in enumerate(columns):
        found[:, position] = column
    return found


_CONVERSIONS: "dict[str, Callable[[pa.RecordBatch], Any]]" = {
    "arrow": _as_batch,
    "table": _as_table,
    "numpy": _as_array,
    "pandas": _as_frame,
}
_ANNOTATIONS = {
    "Any": "arrow",
    "RecordBatch": "arrow",
    "Table": "table",
    "ndarray": "numpy",
    "NDArray": "numpy",
    "ArrayLike": "numpy",
    "DataFrame": "pandas",
}
