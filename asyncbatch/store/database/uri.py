"""Where a database URI points. Pure.

```
postgresql://user@host:5432/db?table=scored            libpq's own form; also schema.table, and any of its parameters
duckdb:///scores.duckdb?table=scored                   three slashes: relative to here; four: absolute
sqlite:////data/scores.sqlite?table=scored
postgresql://host/db?query=SELECT …&order_by=id        as a source; or table= and order_by=
```
"""

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from asyncbatch.errors import ConfigError

System = Literal["postgresql", "duckdb", "sqlite"]
_SCHEMES: Final[dict[str, System]] = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "duckdb": "duckdb",
    "sqlite": "sqlite",
}
_OURS: Final = ("table", "query", "order_by")
_SECRET: Final = re.compile(r"pass|secret|token|key", re.IGNORECASE)
_EXAMPLES: Final[dict[System, str]] = {
    "postgresql": "postgresql://user@host/database?table=scored",
    "duckdb": "duckdb:///scores.duckdb?table=scored",
    "sqlite": "sqlite:///scores.sqlite?table=scored",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUri:
    """A database, and what of it."""

    system: System
    dsn: str
    """What the driver is given: may hold a password. Never in messages."""
    shown: str
    """How messages call it: without password and parameters that may be secret."""
    table: str = ""
    namespace: str = ""
    """The table's schema; empty for the connection's own."""
    query: str = ""
    order_by: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        """The table as SQL writes it."""
        return qualified(self.namespace, self.table)

    def beside(self, name: str) -> str:
        """Another table of the same schema, as SQL writes it."""
        return qualified(self.namespace, name)


def is_database(spec: str) -> bool:
    """Whether `spec` is a URI of a database."""
    scheme, colon, _ = spec.partition("://")
    return bool(colon) and scheme.lower() in _SCHEMES


def parse_database_uri(spec: str) -> DatabaseUri:
    """Understand the URI; connects to nothing.

    Raises:
        ConfigError: it names no database, or both a table and a query.
    """
    parts = urlsplit(spec)
    system = _SCHEMES[parts.scheme.lower()]
    given = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in given if name in _OURS}
    rest = [(name, value) for name, value in given if name not in _OURS]
    if ours.get("table") and ours.get("query"):
        raise ConfigError("a database URI names both table= and query=", hint="leave one of them out")
    namespace, _, table = ours.get("table", "").rpartition(".")
    if system == "postgresql":
        dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(rest, quote_via=quote), ""))
        host = parts.netloc.rpartition("@")[2]
        user = unquote(parts.username) + "@" if parts.username else ""
        place = f"postgresql://{user}{host}{parts.path}"
    else:
        path = unquote(parts.path)[1:]
        if parts.netloc or not path:
            raise ConfigError(
                f"{system}://{parts.netloc}{parts.path} names no file", hint=f"such as {_EXAMPLES[system]}"
            )
        dsn, place = path, f"{system}:///{path}"
    order_by = tuple(name.strip() for name in ours.get("order_by", "").split(",") if name.strip())
    said: list[tuple[str, str]] = [(name, ours[name]) for name in _OURS if name in ours]
    said += [(name, value) for name, value in rest if not _SECRET.search(name)]
    return DatabaseUri(
        system=system,
        dsn=dsn,
        shown=place + ("?" + "&".join(f"{name}={value}" for name, value in said) if said else ""),
        table=table,
        namespace=namespace,
        query=ours.get("query", ""),
        order_by=order_by,
    )


def need_table(uri: DatabaseUri) -> None:
    """Raises ConfigError unless the URI names a table to write to."""
    if not uri.table:
        raise ConfigError(
            f"{uri.shown} names no table to write to", hint=f"add ?table=NAME: {_EXAMPLES[uri.system]}"
        )


def identifier(name: str) -> str:
    """A name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def qualified(namespace: str, name: str) -> str:
    """`"schema"."name"`."""
    return (identifier(namespace) + "." if namespace else "") + identifier(name)
