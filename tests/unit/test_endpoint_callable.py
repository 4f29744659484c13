"""Python functions as endpoints: how they are found, what they get, what becomes of what they raise."""

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asyncbatch.config import RunConfig
from asyncbatch.control.failures import classify
from asyncbatch.endpoint import make_endpoint
from asyncbatch.errors import ConfigError, InvocationError
from asyncbatch.model import BatchPayload, Failure, Outcome, Transport

MODELS = """
from __future__ import annotations
import asyncio, functools, os
from typing import Any
import numpy
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

NOT_A_FUNCTION = 3
flag = []

def kind(rows): return type(rows).__name__
def batch(rows: pa.RecordBatch): return kind(rows)
def table(rows: pa.Table): return kind(rows)
def array(rows: np.ndarray): return rows
def typed_array(rows: npt.NDArray[np.float64], *, scale: float = 2.0): return rows * scale
def quoted(rows: "numpy.ndarray[Any, Any]"): return kind(rows)
def frame(rows: pd.DataFrame): return kind(rows), list(rows.columns)
def anything(rows: Any): return kind(rows)
def unknown(rows: dict): return rows
def other_frame(rows: "pl.DataFrame"): return rows
def no_arguments(): return 1
def two(rows, more): return 1
async def awaited(rows: np.ndarray):
    await asyncio.sleep(0)
    return rows.sum(axis=1)
def returns_awaitable(rows): return awaited(np.ones((2, 2)))
def blocks(rows):
    import time; time.sleep(0.3)
async def hangs(rows): await asyncio.sleep(30)
def raises(rows): raise ValueError("row 3: " + "x" * 5000)
def leaves(rows): raise SystemExit(3)

class Model:
    def __init__(self, bias=0.0): self.bias = bias
    def __call__(self, rows: np.ndarray): return rows[:, 0] + self.bias
    @staticmethod
    def predict(rows: np.ndarray): return rows[:, 0]

model = Model(1.0)
class AsyncModel:
    async def __call__(self, rows: np.ndarray): return rows[:, 0]
async_model = AsyncModel()
partial = functools.partial(typed_array, scale=10.0)
def declared(rows): return kind(rows)
declared.asyncbatch_input = "pandas"
def declared_wrong(rows): return kind(rows)
declared_wrong.asyncbatch_input = "tensor"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules of functions."""
    (tmp_path / "scoring_models.py").write_text(MODELS)
    (tmp_path / "scoring_broken.py").write_text("raise RuntimeError('no weights')\n")
    (tmp_path / "scoring_needs.py").write_text("import a_module_that_is_missing\n")
    package = tmp_path / "scoring_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def predict(rows): return rows.num_rows\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("scoring_")]:
        del sys.modules[name]


BATCH = pa.RecordBatch.from_pydict({"a": [1, 2, 3], "b": [0.5, None, 2.5], "c": [True, False, True]})


def call(name: str, batch: pa.RecordBatch = BATCH, *, timeout_s: float = 5.0) -> Any:
    async def run() -> Any:
        endpoint = make_endpoint(RunConfig.from_options({"endpoint": f"python:{name}"}))
        await endpoint.open(concurrency=2)
        try:
            reply = await endpoint.invoke(BatchPayload(batch=batch, nbytes=batch.nbytes), timeout_s=timeout_s)
        finally:
            await endpoint.aclose()
        return reply.result

    return asyncio.run(run())


def failure_of(name: str, **more: Any) -> Failure:
    with pytest.raises(InvocationError) as caught:
        call(name, **more)
    return caught.value.failure


@pytest.mark.parametrize(
    ("function", "got"),
    [
        ("kind", "RecordBatch"), ("batch", "RecordBatch"), ("anything", "RecordBatch"), ("table", "Table"),
        ("quoted", "ndarray"), ("frame", ("DataFrame", ["a", "b", "c"])), ("declared", "DataFrame"),
    ],
)  # fmt: skip
def test_the_annotation_says_what_the_function_gets(function: str, got: object) -> None:
    assert call(f"scoring_models:{function}") == got


def test_arrays_are_rows_by_columns_with_nan_for_null() -> None:
    rows = call("scoring_models:array")
    assert rows.shape == (3, 3)
    assert rows.dtype == np.float64
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, [[1, 0.5, 1], [2, np.nan, 0], [3, 2.5, 1]])


@pytest.mark.parametrize(
    ("columns", "dtype"),
    [
        ({"a": pa.array([1, 2], pa.int32()), "b": pa.array([3, 4], pa.int64())}, np.int64),
        ({"a": pa.array([1, 2], pa.float32())}, np.float32),
        ({"a": pa.array([True, False])}, np.bool_),
        ({"a": pa.array([1, None], pa.int64())}, np.float64),
        ({"a": pa.array([1, 2]), "b": pa.array(["x", None])}, np.object_),
    ],
)
def test_arrays_have_the_columns_common_type(columns: dict[str, pa.Array], dtype: type) -> None:
    assert call("scoring_models:array", pa.RecordBatch.from_pydict(columns)).dtype == dtype


@pytest.mark.parametrize(
    "function", ["model", "async_model", "Model.predict", "partial", "awaited", "returns_awaitable"]
)
def test_callables_of_every_kind(function: str) -> None:
    numbers = pa.RecordBatch.from_pydict({"a": [1.0, 1.0], "b": [1.0, 1.0]})
    result = np.asarray(call(f"scoring_models:{function}", numbers))
    expected = {"model": 2.0, "partial": 10.0, "awaited": 2.0, "returns_awaitable": 2.0}.get(function, 1.0)
    assert (result == expected).all()


def test_packages_in_the_working_directory_are_found() -> None:
    assert call("scoring_package.inner:predict") == 3


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("scoring_model:batch", "no Python module scoring_model", "did you mean scoring_models"),
        ("scoring_package.iner:predict", "no Python module scoring_package.iner", "scoring_package.inner"),
        ("no_such_package.at_all:f", "no Python module no_such_package.at_all", "looked for in"),
        ("scoring_models:bach", "has no bach", "did you mean batch"),
        ("scoring_models:NOT_A_FUNCTION", "is a int, not a function", "function"),
        ("scoring_models:Model.train", "has no Model.train", ""),
        ("scoring_broken:f", "importing scoring_broken failed: RuntimeError: no weights", "python -c"),
        ("scoring_needs:f", "it needs a_module_that_is_missing", "pip install"),
        ("scoring_models:no_arguments", "cannot be called with one argument", "rows"),
        ("scoring_models:two", "cannot be called with one argument", "rows"),
        ("scoring_models:unknown", "no known form of rows", "pyarrow.RecordBatch"),
        ("scoring_models:other_frame", "pl.DataFrame", "pandas.DataFrame"),
        ("scoring_models:declared_wrong", "'tensor'", "pyarrow.RecordBatch"),
    ],
)
def test_functions_that_cannot_be_used(name: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(name)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert caught.value.exit_code == 2


def test_what_a_function_raises_is_a_refusal_of_its_rows() -> None:
    failure = failure_of("scoring_models:raises")
    assert failure.exception == "ValueError"
    assert failure.message.startswith("row 3: ")
    assert len(failure.message) == 2048
    assert classify(failure).outcome is Outcome.REJECTED


def test_a_function_that_exits_does_not_end_the_run() -> None:
    assert failure_of("scoring_models:leaves").exception == "SystemExit"


@pytest.mark.parametrize("function", ["blocks", "hangs"])
def test_timeouts(function: str) -> None:
    started = time.monotonic()
    failure = failure_of(f"scoring_models:{function}", timeout_s=0.1)
    assert failure.transport is Transport.TIMEOUT
    assert time.monotonic() - started < 15  # one of the functions takes 30 s


def test_a_slow_function_keeps_its_place_after_a_timeout() -> None:
    """Threads cannot be stopped, so a new call must wait for one, or more would run than were asked for."""
    running = most = 0
    lock = threading.Lock()

    def slow(rows: pa.RecordBatch) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.15)
        with lock:
            running -= 1
        return rows.num_rows

    import types

    module = types.ModuleType("scoring_slow")
    module.predict = slow  # type: ignore[attr-defined]
    sys.modules["scoring_slow"] = module

    async def run() -> None:
        endpoint = make_endpoint(RunConfig.from_options({"endpoint": "python:scoring_slow:predict"}))
        await endpoint.open(concurrency=2)
        payload = BatchPayload(batch=BATCH, nbytes=1)
        for _ in range(4):
            with pytest.raises(InvocationError):
                await endpoint.invoke(payload, timeout_s=0.03)
        await endpoint.invoke(payload, timeout_s=5)
        await endpoint.aclose()

    asyncio.run(run())
    assert most == 2
    assert running == 0


def test_context_variables_reach_the_thread() -> None:
    import types

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    module = types.ModuleType("scoring_context")
    module.predict = lambda rows: variable.get()  # type: ignore[attr-defined]
    sys.modules["scoring_context"] = module
    variable.set("here")
    assert call("scoring_context:predict") == "here"
