"""What a table that is there already has to be like, in any table format."""

from collections.abc import Callable, Mapping

from asyncbatch.errors import OutputError


def check_same_columns(
    wanted: Mapping[str, object],
    found: Mapping[str, object],
    place: str,
    *,
    named: Callable[[object], str] = str,
) -> None:
    """Refuse a table whose columns are not those of the output.

    Args:
        wanted, found: types by column.
        named: what messages call a type.

    Raises:
        OutputError: a column is missing on one side, or of another type.
    """
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        if wanted.get(name) != found.get(name):
            there, here = (
                "missing" if name not in columns else named(columns[name]) for columns in (found, wanted)
            )
            raise OutputError(
                f"column {name!r} is {here} in the output and {there} in {place}",
                hint="--keep, --rename and --prediction-type decide what is written",
            )


def table_exists(table: str) -> OutputError:
    """That `table` is there, and was not to be."""
    return OutputError(
        f"{table} exists",
        hint="--mode append adds rows to it, --mode replace puts new rows in the place of the old in one commit",
    )
