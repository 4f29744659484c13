"""Results of `bench` back from files."""

import json
from pathlib import Path

from asyncbatch.bench.result import BenchResult
from asyncbatch.errors import InputError
from asyncbatch.observe.page import read_document


def read_result(path: str) -> BenchResult:
    """Read what `bench` wrote as JSON or as an HTML report.

    Raises:
        InputError: no such file, no result, or one of another version.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(
            f"cannot read {path}: {reason}", hint="name results of asyncbatch bench: .json or .html"
        ) from error
    try:
        document = read_document(content) if content.lstrip().startswith("<") else json.loads(content)
    except ValueError as error:
        raise InputError(
            f"{path} is no result of asyncbatch bench",
            hint="asyncbatch bench … --output FILE.json writes one",
        ) from error
    if not isinstance(document, dict):
        document = {}
    return BenchResult.from_dict(document, where=path)
