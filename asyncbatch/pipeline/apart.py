"""Nothing that a run writes may be, or become, a part of its own input."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from asyncbatch.errors import ConfigError, OutputError
from asyncbatch.model import InputFile
from asyncbatch.sink import SinkLocation

_GLOB = frozenset("*?[")


def check_apart(
    spec: str, files: Sequence[InputFile], location: SinkLocation | None, report: str | None
) -> None:
    """Compare the input with the sink, its state and `--report`, links resolved.

    Refused too is an output inside a folder that is the input, or that a glob would match: the next run would read
    what this one wrote.

    Args:
        spec: the source as given; a glob or a folder matters, anything else does not.
        location: None where there is no sink.
        report: the path of `--report`.

    Raises:
        OutputError: the sink or its state is or holds an input file, or lies where the input is looked for.
        ConfigError: `--report` names an input file or the sink, or lies in a folder that does not exist.
    """
    inputs = {Path(file.path).resolve(): file.path for file in files if file.path}
    if location is not None and location.kind != "stream":
        _check_sink(spec, inputs, location)
    if report is not None:
        _check_report(inputs, location, report)


def _check_sink(spec: str, inputs: dict[Path, str], location: SinkLocation) -> None:
    written = [location.target.resolve(), location.state.resolve()]
    for path, name in inputs.items():
        if path == written[0]:
            raise OutputError(
                f"{location.spec} is the input itself",
                hint="choose another output; the input is never changed",
            )
        if any(each in path.parents for each in written):
            raise OutputError(f"{location.spec} holds the input {name}", hint="choose another output")
    if _is_looked_for(spec, location):
        raise OutputError(
            f"{location.spec} lies in {spec}, so the next run would read it as input",
            hint="choose an output beside the input, not in it",
        )


def _is_looked_for(spec: str, location: SinkLocation) -> bool:
    """Whether the source, listed once more, would find what is written."""
    folder = Path(spec)
    target = location.target.resolve()
    if folder.is_dir():
        return folder.resolve() in target.parents
    parts = folder.parts
    first = next((number for number, part in enumerate(parts) if _GLOB & set(part)), None)
    if first is None:
        return False
    root = Path(*parts[:first]).resolve()
    written = target if location.kind == "file" else target / "part-0.parquet"
    return root in written.parents and _matches(written.relative_to(root).parts, parts[first:])


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    if not path or not pattern:
        return not path and not pattern
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _check_report(inputs: dict[Path, str], location: SinkLocation | None, report: str) -> None:
    path = Path(report).resolve()
    if path in inputs:
        raise ConfigError(f"--report {report} is an input file", hint="give the report another name")
    if location is not None and location.kind != "stream":
        target = location.target.resolve()
        if path == target or (location.kind == "folder" and target in path.parents):
            raise ConfigError(
                f"--report {report} lies in the output, which holds nothing but data",
                hint="give it a name elsewhere; OUT.asyncbatch/report.json is written anyway",
            )
    if path.is_dir():
        raise ConfigError(f"--report {report} is a folder", hint="name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(
            f"--report {report}: the folder {Path(report).parent} does not exist",
            hint=f"create it first: mkdir -p {Path(report).parent}",
        )
