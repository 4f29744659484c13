"""What a command line asks for: its options merged with the environment and a job file, source and sink."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncbatch.cli import toml
from asyncbatch.config import OPTIONS, RunConfig, environment_options
from asyncbatch.errors import ConfigError
from asyncbatch.observe.text import without_credentials
from asyncbatch.option import bad_value

_PATHS = ("source", "sink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A source, a sink, and every option, checked."""

    config: RunConfig
    source: str
    sink: str | None


def read_job(
    *,
    source: str | None,
    sink: str | None,
    file: str | None,
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
) -> Job:
    """Merge command line over `ASYNCBATCH_*` over job file over defaults; a list replaces, it does not add.

    Args:
        options: by option name; None or an empty list was not given.

    Raises:
        ConfigError: an unreadable file, an unknown name, a bad value or combination, no source, no endpoint.
    """
    merged, paths = given_options(file=file, options=options, environ=environ)
    config = RunConfig.from_options(merged)
    return _complete(config, source=source or paths["source"], sink=sink or paths["sink"])


def given_options(
    *, file: str | None, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The options that were given anywhere, by name; and the source and the sink of the job file.

    Raises:
        ConfigError: an unreadable file, an unknown name, or a bad value.
    """
    from_file = _read_file(file) if file is not None else {}
    paths = {name: from_file.pop(name, None) for name in _PATHS}
    for name, value in paths.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{file}: {name} is not text", hint=f'write {name} = "PATH"')
    from_environment = environment_options(environ)
    for name, value in from_environment.items():
        _check(name, value, where=f"environment variable ASYNCBATCH_{name.upper()}")
    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    return {**from_file, **from_environment, **given}, paths


def job_toml(job: Job) -> str:
    """The job as a file for `-f`: what differs from the defaults, without headers, which may be secret."""
    values: dict[str, Any] = {"source": job.source, "sink": job.sink, **job.config.effective()}
    for name in ("types", "rename"):
        if name in values:
            values[name] = dict(values[name])
    text = toml.dumps(
        {
            name: without_credentials(value) if isinstance(value, str) else value
            for name, value in values.items()
            if value is not None
        }
    )
    left_out = _secret_names(job.config)
    return text + "".join(f"# {name} was given too; secrets are not written down\n" for name in left_out)


def _read_file(file: str) -> dict[str, Any]:
    try:
        with Path(file).open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(
            f"cannot read the job file {file}: {error.strerror}", hint="give -f a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the job file {file} is not TOML: {error}", hint='a line is `key = value`, text in "quotes"'
        ) from error
    named = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in _PATHS:
            _check(name, value, where=file, written=key)
        named[name] = value
    return named


def _check(name: str, value: Any, *, where: str, written: str = "") -> None:
    """Refuse an unknown name or a bad value here, where it is known which file or variable it came from."""
    if name not in OPTIONS:
        RunConfig.from_options({written or name: None}, where=where)
    _, option = OPTIONS[name]
    try:
        option.parse(value)
    except (TypeError, ValueError) as error:
        raise bad_value(name, value, option, error, where=where) from error


def _complete(config: RunConfig, *, source: str | None, sink: str | None) -> Job:
    if not source:
        raise ConfigError(
            "no SOURCE is given",
            hint='asyncbatch run SOURCE SINK -e ENDPOINT; or source = "PATH" in a -f file',
        )
    if not config.endpoint.endpoint:
        raise ConfigError(
            "no endpoint is given",
            hint="add -e NAME (SageMaker), -e https://host/path or -e python:package.module:function",
        )
    return Job(config=config, source=source, sink=sink)


def _secret_names(config: RunConfig) -> list[str]:
    return [
        name
        for name, (part, option) in OPTIONS.items()
        if option.secret and getattr(getattr(config, part), name)
    ]
