"""Reports into local files: JSON, or an HTML page by the name."""

import os
from pathlib import Path

from asyncbatch.errors import StorageError
from asyncbatch.observe.page import page_html, plotly_js
from asyncbatch.observe.report import RunReport


def is_page(path: str) -> bool:
    """Whether a report of this name is an HTML page."""
    return path.lower().endswith((".html", ".htm"))


def check_report_can_be_made(path: str) -> None:
    """Before hours of work that end in a report.

    Raises:
        ConfigError: it is an HTML page, and plotly is not installed.
    """
    if is_page(path):
        plotly_js()


def write_report(report: RunReport, path: str) -> None:
    """Write the report of a run to a local file, whole or not at all.

    Raises:
        ConfigError: it is an HTML page, and plotly is not installed.
        StorageError: the folder does not exist or cannot be written.
    """
    if is_page(path):
        from asyncbatch.observe.run_page import run_page

        write_whole(path, page_html(run_page(report)))
    else:
        write_whole(path, report.to_json())


def write_whole(path: str, content: str) -> None:
    """Replace a local file in one step.

    Raises:
        StorageError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write the report {path}: {error.strerror or error}",
            hint="give the report a path in a folder that exists",
        ) from error
