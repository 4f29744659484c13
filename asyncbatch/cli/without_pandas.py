"""pandas stays out of a run that has no use for it: it costs a quarter of a second of CPU before the first request.

pyarrow imports pandas, where it is installed, with the first value it converts, and remembers whether that worked. Asked once
while pandas cannot be found, it goes on without. Whoever needs pandas later still gets it: `Table.to_pandas` asks again.
"""

import sys
from collections.abc import Sequence


class _NoPandas:
    """A finder that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for here", name=name)


def leave_pandas_out() -> None:
    """Keep pyarrow from importing pandas by itself, for this process; nothing where pandas is imported already."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.scalar(0)
    finally:
        sys.meta_path.remove(_NoPandas)
