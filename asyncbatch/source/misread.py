"""Signs that a CSV file was read with the wrong options, from its column names alone. Pure."""

from collections.abc import Iterator, Sequence

_DELIMITERS = {";": "';'", "\t": r"'\t'", "|": "'|'"}


def misread_names(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What was probably misread, and the option that mends it, for column names taken from a header line."""
    for delimiter, shown in _DELIMITERS.items():
        if any(delimiter in name for name in names):
            yield f"column names of the input hold the delimiter {shown}", f"--delimiter {shown}"
    if len(names) > 1 and sum(map(_is_number, names)) * 2 > len(names):
        yield "the input's first line, which holds numbers, is taken for column names", "--no-header"


def missing_column_hint(names: Sequence[str], *, no_header: bool) -> str | None:
    """The likely reason why a column that is asked for is not among `names`; None if nothing looks wrong."""
    if no_header:
        return "with --no-header columns are called c0, c1, …; leave it out if the first line holds names"
    return next((f"{mistake}: {fix}" for mistake, fix in misread_names(names)), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
