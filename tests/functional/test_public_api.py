"""The names people may use: that they are there, complete, cheap to import, and survive a process pool."""

import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import asyncbatch
import asyncbatch.errors
from asyncbatch.errors import AsyncBatchError, InvocationError, ReplyMismatchError
from asyncbatch.model import Failure

PACKAGE = Path(asyncbatch.__file__).parent


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_exported_name_is_there_and_nothing_else_is_public() -> None:
    assert sorted(asyncbatch.__all__) == asyncbatch.__all__
    for name in asyncbatch.__all__:
        assert getattr(asyncbatch, name) is not None
    assert dir(asyncbatch) == asyncbatch.__all__
    public = {
        name
        for name, value in vars(asyncbatch).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in ("Any", "TYPE_CHECKING")
    }
    assert public <= set(asyncbatch.__all__)


def test_exactly_the_names_said_to_type_checkers_are_found() -> None:
    homes = {name for names in asyncbatch._HOMES.values() for name in names}
    assert homes | {"__version__"} == set(asyncbatch.__all__)


def test_every_error_is_exported() -> None:
    errors = {
        name
        for name, value in vars(asyncbatch.errors).items()
        if inspect.isclass(value) and issubclass(value, AsyncBatchError)
    }
    # What the pipeline decides about, what a reply was, and who is at work, is told by its base.
    assert errors - {"ReplyMismatchError", "BusyError"} <= set(asyncbatch.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"asyncbatch.*'rnu'"):
        asyncbatch.rnu  # type: ignore[attr-defined]  # noqa: B018


def test_exported_functions_and_classes_are_documented_and_annotated() -> None:
    for name in asyncbatch.__all__:
        value = getattr(asyncbatch, name)
        if not inspect.isfunction(value) and not inspect.isclass(value):
            continue
        assert value.__doc__, name
        if inspect.isfunction(value):
            signature = inspect.signature(value)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(each.annotation is not each.empty for each in signature.parameters.values()), name


def every_error() -> list[type[AsyncBatchError]]:
    """All classes of the tree, those of other modules too."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "asyncbatch."):
        if module.name.split(".")[1] in (
            "sink",
            "pipeline",
            "endpoint",
            "source",
            "codec",
            "store",
            "errors",
        ):
            importlib.import_module(module.name)
    found: list[type[AsyncBatchError]] = []
    left = [AsyncBatchError]
    while left:
        found.append(left.pop())
        left.extend(found[-1].__subclasses__())
    return [error for error in found if error.__module__.startswith("asyncbatch.")]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_every_error_pickles_with_its_attributes(error: type[AsyncBatchError], protocol: int) -> None:
    if issubclass(error, InvocationError):
        made: AsyncBatchError = error(Failure(status=424, error_name="ModelError", retry_after_s=1.5))
    elif issubclass(error, ReplyMismatchError):
        made = error("the reply has 3 rows", hint="look", kind="rows")
    else:
        made = error("it failed", hint="do this")
    made.add_note("in file 3")
    again = pickle.loads(pickle.dumps(made, protocol))
    assert type(again) is error
    assert (str(again), again.args, vars(again)) == (str(made), made.args, vars(made))
    assert again.exit_code == made.exit_code


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"asyncbatch"}:
            raise ModuleNotFoundError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize("package", ["model", "errors", "units", "config", "protocols", "control"])
def test_values_and_decisions_need_the_standard_library_alone(package: str) -> None:
    names = [f"asyncbatch.{package}"]
    if (PACKAGE / package).is_dir():
        names += [
            each.name for each in pkgutil.walk_packages([str(PACKAGE / package)], f"asyncbatch.{package}.")
        ]
    python(BLOCKER + "".join(f"import {name}\n" for name in names))


def test_the_blocker_blocks() -> None:
    with pytest.raises(AssertionError, match="anyio is blocked"):
        python(BLOCKER + "import asyncbatch.pipeline.api")


def test_importing_the_package_imports_nothing_else() -> None:
    """So it costs next to nothing; the time itself depends on the machine."""
    code = (
        "import sys; before = set(sys.modules); import asyncbatch; print(*sorted(set(sys.modules) - before))"
    )
    imported = set(python(code).split())
    assert {name for name in imported if name.startswith("asyncbatch")} == {
        "asyncbatch",
        "asyncbatch._version",
    }
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names | {"asyncbatch"}
    assert not imported & {"asyncio", "dataclasses", "inspect", "importlib.metadata", "logging"}


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
