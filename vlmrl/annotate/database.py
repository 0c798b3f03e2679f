"""Opens the ledger's database: SQLite in WAL mode for a path, anything else by URL."""

import sqlite3
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from vlmrl.errors import ConfigError, DataError, unknown
from vlmrl.runfolder import masked

T = TypeVar("T")

_BUSY_S = 60.0
"""How long a writer waits for another process's transaction."""
_DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg", "sqlite": ""}
_WRITER = 7635
"""The advisory lock that PostgreSQL's writers take, so that they come one after another as SQLite's do."""
_TROUBLE = {
    "database is locked": "another process holds it locked",
    "database or disk is full": "the disk is full",
    "disk i/o error": "the disk cannot be written: full, over a quota, or failing",
    "readonly database": "it may not be written: check who owns the file and its folder",
}


class UnavailableError(DataError):
    """The ledger cannot be used now; it may work again later."""


def open_engine(location: str | Path) -> Engine:
    """Open the database at a path (made where missing) or URL.

    Raises:
        ConfigError: if the URL is of no known kind or its driver is not installed.
    """
    url = _url(location)
    try:
        if url.get_backend_name() == "postgresql":
            return create_engine(url, pool_pre_ping=True)
        engine = create_engine(url, connect_args={"timeout": _BUSY_S})
    except ModuleNotFoundError as e:
        raise ConfigError(f"the ledger's URL needs the package {e.name!r}: pip install 'vlmrl[postgres]'") from e
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _url(location: str | Path) -> URL:
    if "://" not in str(location):
        path = Path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(path))
    try:
        url = make_url(str(location))
        kind = url.drivername.partition("+")[0]
        if kind not in _DRIVERS:
            raise unknown("kind of ledger URL", kind, ["postgresql", "sqlite"])
        if "+" not in url.drivername and _DRIVERS[kind]:
            url = url.set(drivername=f"postgresql+{_DRIVERS[kind]}")
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as e:
        raise ConfigError(f"not a database URL: {e}; wanted a path or postgresql://user@host/name") from e
    return url


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver's own transaction handling would start them late, as readers that cannot become writers.
    connection.isolation_level = None
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    # While another process makes the same switch, SQLite says so at once instead of waiting as it does elsewhere.
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def transaction(engine: Engine, *, writes: bool) -> Generator[Connection, None, None]:
    """Run a block in one transaction, committed at its end.

    Raises:
        UnavailableError: if the database is locked or cannot be reached, or its disk is full.
        DataError: if it is damaged.
    """
    try:
        with engine.connect().execution_options(writes=writes) as connection, connection.begin():
            if writes and connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _WRITER})
            yield connection
    except DBAPIError as e:
        kind = UnavailableError if isinstance(e, OperationalError) else DataError
        raise kind(f"the ledger {masked(engine.url.render_as_string())} cannot be used: {_explain(str(e.orig))}") from e


def _explain(message: str) -> str:
    known = [why for said, why in _TROUBLE.items() if said in message.lower()]
    return f"{known[0]} ({message})" if known else message


def clock_of(connection: Connection) -> float | None:
    """Return the database server's time, which all machines share; None for a file, whose users share ours."""
    if connection.dialect.name != "postgresql":
        return None
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def insert(connection: Connection, table: Table) -> Any:
    """Return an INSERT that can say what to do on conflict, which each database spells by itself."""
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def chunks(values: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """Cut into pieces: databases limit the parameters of one statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
