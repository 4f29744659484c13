"""Nothing that a run writes may be, or become, a part of its own input."""

from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from asyncbatch.errors import ConfigError, OutputError
from asyncbatch.model import InputFile
from asyncbatch.observe.report_file import check_report_can_be_made
from asyncbatch.sink import SinkLocation
from asyncbatch.source.paths import matches
from asyncbatch.store.uri import parse_uri, scheme_of

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
        ConfigError: `--report` names an input file or the sink, or lies in a folder that does not exist,
            or is an HTML page that cannot be made.
    """
    inputs = {_absolute(file.path): file.path for file in files if file.path}
    if location is not None and location.kind != "stream":
        _check_sink(spec, inputs, location)
    if report is not None:
        check_report_can_be_made(report)
        _check_report(inputs, location, report)


def _check_sink(spec: str, inputs: dict[PurePath, str], location: SinkLocation) -> None:
    written = [_written(location, location.target), _written(location, location.state)]
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
    target = _written(location, location.target)
    if not scheme_of(spec) and Path(spec).is_dir():
        return _absolute(spec) in target.parents
    folder = _named(spec)
    parts = folder.parts
    first = next((number for number, part in enumerate(parts) if _GLOB & set(part)), None)
    if first is None:
        return parse_uri(spec) is not None and folder in target.parents
    root = type(folder)(*parts[:first])
    if isinstance(root, Path):
        root = root.resolve()
    written = target if location.kind == "file" else target / "part-0.parquet"
    return root in written.parents and matches(written.relative_to(root).parts, parts[first:])


def _named(spec: str) -> PurePath:
    """A path, or what stands for a URI among paths: equal where it names the same, and nowhere else."""
    uri = parse_uri(spec)
    if uri is not None:
        return PurePosixPath("/", uri.place, uri.key)
    if scheme_of(spec) == "file":
        return Path(unquote(urlsplit(spec).path))
    return PurePosixPath("/", spec) if scheme_of(spec) else Path(spec)


def _absolute(spec: str) -> PurePath:
    """With links resolved."""
    path = _named(spec)
    return path.resolve() if isinstance(path, Path) else path


def _written(location: SinkLocation, path: PurePath) -> PurePath:
    """The target or the state of a sink, to be compared with inputs."""
    if location.uri is not None:
        return PurePosixPath("/", location.uri.place, path)
    if location.database is not None:
        return PurePosixPath("/", location.spec, path)
    return Path(path).resolve()


def _check_report(inputs: dict[PurePath, str], location: SinkLocation | None, report: str) -> None:
    path = Path(report).resolve()
    if path in inputs:
        raise ConfigError(f"--report {report} is an input file", hint="give the report another name")
    if location is not None and location.kind != "stream":
        target = _written(location, location.target)
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
