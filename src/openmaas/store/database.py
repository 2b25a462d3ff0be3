"""The database: one engine, read and write transactions, and the errors of the drivers as ours.

    with database.write() as session: ...     one writer at a time; commits at the end, rolls back on an exception
    with database.read() as session: ...      a consistent view; nothing may be changed

SQLite by default, PostgreSQL by URL. Write transactions take their lock at the start, so that two of them can never wait for
each other; do not nest them.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused, StorageFull, Unavailable
from openmaas.core.settings import Settings
from openmaas.store.migrations import HEAD
from openmaas.store.tables import CounterRow

SQLITE_WITH_SAFE_WAL = (3, 51, 3)  # older ones can corrupt a WAL under several connections
_BUSY_MILLISECONDS = 10_000
_LOCK_SECONDS = 30.0
_POSTGRES_LOCK = 0x6F6D6161  # "omaa": one writer at a time there too
_DISK_FULL_SQLSTATE = "53100"


def journal_mode() -> str:
    """WAL where the linked SQLite is new enough to be trusted with it, else a rollback journal."""
    return "WAL" if sqlite3.sqlite_version_info >= SQLITE_WITH_SAFE_WAL else "DELETE"


class Database:
    """The one door to the tables. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading = (
            engine if engine.dialect.name == "sqlite" else engine.execution_options(isolation_level="REPEATABLE READ")
        )
        self._writing = engine.execution_options(openmaas_write=True)
        self._writer = threading.Lock()

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that reads. Raises Unavailable when the database does not answer."""
        with _foreign_errors(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: alone, from its start to its commit.

        Raises StorageFull when the disk is full and Unavailable when the database does not answer; nothing is changed then.
        """
        # SQLite's own waiting polls and is unfair; a lock in this process hands over at once.
        if not self._writer.acquire(timeout=_LOCK_SECONDS):
            raise Unavailable(f"The database has been busy for {_LOCK_SECONDS:g} s.", code="database_busy", retry_after=2)
        try:
            with _foreign_errors(), Session(self._writing, expire_on_commit=False) as session, session.begin():
                if self.dialect == "postgresql":
                    session.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
                yield session
        finally:
            self._writer.release()

    def migrate(self) -> bool:
        """Bring the tables to this program's version, in one transaction; True when something was done.

        Raises Refused when the database was made by a newer program.
        """
        if self._revision() == HEAD:
            return False
        with _foreign_errors(), self._writing.begin() as connection:
            if self.dialect == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
            _upgrade(connection)
        return True

    def _revision(self) -> str | None:
        with _foreign_errors(), self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return revision

    def close(self) -> None:
        self.engine.dispose()


def next_value(session: Session, name: str) -> int:
    """The next value of a counter that only grows, starting with 1. Within a write transaction."""
    row = session.get(CounterRow, name)
    if row is None:
        row = CounterRow(name=name, value=0)
        session.add(row)
    row.value += 1
    session.flush()
    return row.value


def open_database(settings: Settings) -> Database:
    """The database that the settings name, with its tables up to date. Makes the data folder for a new SQLite file.

    Raises InvalidInput for a URL that cannot be used, Unavailable when the database does not answer, and Refused when it was
    made by a newer program.
    """
    url = _url(settings)
    database = Database(_postgresql(url) if url.get_backend_name() == "postgresql" else _sqlite(url))
    try:
        database.migrate()
    except OpenMaaSError:
        database.close()
        raise
    return database


def _url(settings: Settings) -> URL:
    if not settings.database_url:
        settings.home_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(settings.home_path / "openmaas.db"))
    try:
        url = make_url(settings.database_url)
    except ArgumentError:
        raise _bad_url("is not a URL") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise _bad_url(f"names {url.drivername!r}")
    if url.drivername == "sqlite" and url.database in (None, "", ":memory:"):
        raise _bad_url("names no file: nothing would be kept")
    return url


def _bad_url(why: str) -> InvalidInput:
    return InvalidInput(
        f"OPENMAAS_DATABASE_URL {why}.",
        code="invalid_setting",
        next_step="Set it to postgresql+psycopg://user:password@host/database, or unset it for SQLite in the data folder.",
    )


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sqlite(url: URL) -> Engine:
    assert url.database is not None
    _make_file(Path(url.database))
    engine = create_engine(url, pool_size=8, max_overflow=56, connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_file(path: Path) -> None:
    """For this user alone, from the start."""
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"The database file {str(path)!r} cannot be made ({error.strerror}).",
            code="home_not_writable",
            next_step="Set OPENMAAS_HOME to a folder of your own.",
        ) from None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    cursor.execute(f"PRAGMA journal_mode = {journal_mode()}")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its lock at once: a reader that turned writer could find itself locked out for good."""
    write = connection.get_execution_options().get("openmaas_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _postgresql(url: URL) -> Engine:
    try:
        return create_engine(url, pool_size=8, max_overflow=24, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    except (ImportError, NoSuchModuleError):
        raise InvalidInput(
            "OPENMAAS_DATABASE_URL names PostgreSQL, and its driver is not installed.",
            code="missing_extra",
            next_step="pip install 'openmaas[postgres]'",
        ) from None


# ── migrations ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise Refused(
            f"The database was made by another version of OpenMaaS ({error}).",
            code="database_version",
            next_step="Start the version that made it, or a newer one.",
        ) from None


# ── the drivers' errors as ours ──────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _foreign_errors() -> Iterator[None]:
    try:
        yield
    except PoolTimeout:
        raise Unavailable("All database connections are in use.", code="database_busy", retry_after=2) from None
    except DBAPIError as error:
        ours = _translate(error)
        if ours is None:
            raise
        raise ours from error


def _translate(error: DBAPIError) -> OpenMaaSError | None:
    """Ours for a full disk and for a database that does not answer; None for a mistake of this program."""
    cause = str(error.orig).strip().partition("\n")[0]
    if "disk is full" in cause or getattr(error.orig, "sqlstate", None) == _DISK_FULL_SQLSTATE:
        return StorageFull(
            "The database's disk is full; nothing was changed.",
            next_step="Free some space (openmaas gc frees what no version needs) and try again.",
        )
    if cause.startswith("no such ") or not isinstance(error, OperationalError):
        return None
    return Unavailable(
        "The database does not answer; nothing was changed.",
        code="database_unavailable",
        next_step="See the log of control and openmaas doctor.",
        retry_after=2,
    )
