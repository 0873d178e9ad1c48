"""Connections to SQLite and PostgreSQL, their transactions, and their errors in a person's words."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from harvester.errors import StoreBusy, StoreError

_BUSY_MILLISECONDS = 10_000
_WRITERS = 0x68617276  # the advisory lock that makes writers on PostgreSQL take turns, as SQLite's file lock does


class Database:
    """
    One database and how to talk to it.

    Attributes:
        target: What messages call it: a path, or host and database; never user or password.
        path: The file, on SQLite.
        dialect: ``sqlite`` or ``postgresql``.
    """

    def __init__(self, url: str, *, create: bool) -> None:
        """
        Connect lazily; on SQLite make sure that there is a file to connect to.

        Raises:
            StoreError: if the address is none, its driver is missing, or the file may not be used.
        """
        parsed = _parsed(url)
        self.dialect = parsed.get_backend_name()
        self.path = Path(parsed.database).expanduser() if self.dialect == "sqlite" and parsed.database else None
        if self.path is not None:
            self.target = str(self.path)
            prepare_file(self.path, create)
            parsed = parsed.set(database=str(self.path))
        else:
            host = parsed.host or parsed.query.get("host") or "local socket"
            self.target = f"PostgreSQL database {parsed.database or 'of the user'} at {host}"
        try:
            self.engine = _engine(parsed)
        except (NoSuchModuleError, ImportError) as e:
            raise StoreError(
                "open store", self.target, "the driver for this database is not installed",
                hint="pip install 'harvester[postgres]'",
            ) from e

    @contextmanager
    def guard(self, operation: str) -> Iterator[None]:
        """Turn what the database raises inside into a StoreError; its text carries no statement and no value."""
        try:
            yield
        except DBAPIError as e:
            raise _store_error(operation, self.target, self.dialect, e) from e
        except SQLAlchemyError as e:
            raise StoreError(operation, self.target, type(e).__name__, hint="is the store reachable?") from e

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one moment of the store until the end, whatever others write."""
        options = {} if self.dialect == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, full_sync: bool = False, alone: bool = True) -> Iterator[Connection]:
        """
        Give a connection whose changes appear together at the end, or not at all.

        With ``alone`` no other writer is in its transaction meanwhile (on SQLite always), so that what was just read
        still holds when it is written. With ``full_sync`` the change survives a power cut once this returns; without,
        on SQLite, only the end of the process.
        """
        options = {"harvester_begin": True, "harvester_full": full_sync}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            if self.dialect == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_BUSY_MILLISECONDS}")
                if alone:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")
            yield connection

    @contextmanager
    def outside(self) -> Iterator[Any]:
        """Give SQLite's own connection outside any transaction."""
        connection = self.engine.raw_connection()
        try:
            yield connection.driver_connection
        except Exception as e:
            sqlite_error = self.engine.dialect.loaded_dbapi.Error
            if isinstance(e, sqlite_error):
                wrapped = DBAPIError("", None, e)
                raise _store_error("maintain", self.target, self.dialect, wrapped) from e
            raise
        finally:
            connection.close()

    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT that knows ON CONFLICT."""
        if self.dialect == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as postgresql_insert

            return postgresql_insert(table)
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table)

    def upsert(self, connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows or replace those of the same key; a row that is equal already is not written again."""
        if not rows:
            return
        insert = self.insert(table)
        keys = [column.name for column in table.primary_key]
        changed = {name: insert.excluded[name] for name in rows[0] if name not in keys}
        other = sa.or_(*(table.c[name] != value for name, value in changed.items()))
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed, where=other), list(rows))


def _parsed(url: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create("sqlite", database=url)
    wrong = StoreError(
        "open store", "[store] url", "is not an address of a store",
        hint="a path, sqlite:///PATH, or postgresql+psycopg://USER@HOST/DATABASE",
    )
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise wrong from None  # the original's text may hold a part of the password
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise wrong
    return parsed


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(
            url, pool_pre_ping=True, hide_parameters=True, connect_args={"connect_timeout": _BUSY_MILLISECONDS // 1000}
        )
    timeout = _BUSY_MILLISECONDS / 1000
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": timeout, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        # Small pages, because what does not fit one fills further ones to the last byte: the days of 200 real series
        # take 6 % more than their blocks (13 to 40 % with pages of 1 to 16 KB), and a day of collections every minute
        # writes 14 MB ahead instead of 240. Reading 14 days of them all costs 6 % more.
        _insist(lambda: connection.execute("PRAGMA page_size=512"))
        _insist(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchall())
        # The log is brought into the file every 8 MB and never stays larger than 64 MB after a long reader.
        for name, value in (("foreign_keys", "ON"), ("wal_autocheckpoint", 16384), ("journal_size_limit", 64 << 20)):
            connection.execute(f"PRAGMA {name}={value}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("harvester_begin"):
            level = "FULL" if options.get("harvester_full") else "NORMAL"
            connection.exec_driver_sql(f"PRAGMA synchronous={level}")
            # Asked for often instead of left to SQLite, which sleeps longer each time: who waits longest waits longer.
            connection.exec_driver_sql("PRAGMA busy_timeout=0")
            try:
                _insist(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _insist(begin: Callable[[], Any]) -> None:
    """Try until the store is free: SQLite does not wait its timeout out where it sees a possible deadlock."""
    deadline = time.monotonic() + _BUSY_MILLISECONDS / 1000
    while True:
        try:
            begin()
        except Exception as e:
            if time.monotonic() >= deadline or "locked" not in str(getattr(e, "orig", e)):
                raise
            time.sleep(0.004)
        else:
            return


def prepare_file(path: Path, create: bool) -> None:
    """
    Make sure that there is a file for the store, readable by its owner only.

    Raises:
        StoreError: if there is none and none may be made, or if it may not be written.
    """
    try:
        present = path.exists()
        if not present and not create:
            raise StoreError("open store", str(path), "is not there", hint="harvest collect makes it")
        if not present:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as e:
        blocked = isinstance(e, (FileExistsError, NotADirectoryError))
        cause = "a part of the path is a file" if blocked else e.strerror
        raise StoreError(
            "open store", str(path), f"cannot be created: {cause}",
            hint="set [store] url to a folder you may write to",
        ) from e
    if path.is_dir():
        raise StoreError("open store", str(path), "is a folder", hint="name a file in [store] url")
    # Its write-ahead log lies beside it, so that the folder has to be writable too.
    if not os.access(path, os.W_OK | os.R_OK) or not os.access(path.parent, os.W_OK):
        raise StoreError("open store", str(path), "may not be written", hint="is the file or its folder read-only?")


_BUSY = "another process holds the store"
_DAMAGED = "the file is damaged"
_FAILED = "the disk failed or the file was cut short"

_SQLITE_ERRORS = (
    ("is full", "the disk is full", "free some space; what was stored stays whole", True),
    ("readonly", "may not be written", "is the file or its folder read-only?", False),
    ("not a database", "is not a harvester store", "name another file in [store] url", False),
    ("malformed", _DAMAGED, "harvest db repair saves what can be read; or restore a backup", False),
    ("locked", _BUSY, "try again; does another harvest hang?", True),
    ("unable to open", "cannot be opened", "are the folder and its rights as they should be?", False),
    ("disk I/O error", _FAILED, "is the disk full or failing? harvest db check tells what is damaged", False),
    ("no such", "is a database of something else", "give harvester a file of its own in [store] url", False),
)

# What the server says may be in its administrator's language, so its SQLSTATE is looked at first; libpq gives none for
# a connection that never came to be.
_POSTGRESQL_ERRORS = (
    ("28P01", "password authentication failed", "the password was refused", "are user and password right?", False),
    ("", "no password supplied", "wants a password", "is it in the URL, PGPASSWORD or ~/.pgpass?", False),
    ("28000", "authentication failed", "the user was refused", "does pg_hba.conf let this user in?", False),
    ("42P01", "relation", "is a database of something else", "give harvester a database of its own", False),
    ("3D000", "does not exist", "the database or the user does not exist", "createdb makes it", False),
    ("42501", "permission denied", "the user may not do this", "give harvester a database that its user owns", False),
    ("55P03", "lock timeout", _BUSY, "try again; does another harvest hang?", True),
    ("53100", "No space left", "the server's disk is full", "free some space; what was stored stays whole", True),
    ("25006", "read-only transaction", "may not be written", "does [store] url name a standby?", False),
    ("XX001", "invalid page", "the database is damaged", "restore a backup", False),
)


def is_damage(error: StoreError) -> bool:
    """Tell whether an error says that bytes of the file are not what they were."""
    return error.cause in (_DAMAGED, _FAILED)


def _store_error(operation: str, target: str, dialect: str, error: DBAPIError) -> StoreError:
    text = str(error.orig)
    state = getattr(error.orig, "sqlstate", None)
    if getattr(error.orig, "sqlite_errorname", "") in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC"):
        hint = "free some space, or look at the disk; what was stored stays whole"
        return StoreError(operation, target, "the disk is full or failing", hint=hint, retry=True)
    table = [("", *row) for row in _SQLITE_ERRORS] if dialect == "sqlite" else _POSTGRESQL_ERRORS
    for code, sign, cause, hint, retry in table:
        if (code == state) if state else (sign in text):
            kind = StoreBusy if cause == _BUSY else StoreError
            return kind(operation, target, cause, hint=hint, retry=retry)
    name = type(error.orig).__name__
    if dialect == "postgresql" and (name == "OperationalError" or (state or "").startswith(("08", "57P"))):
        hint = "is it running and reachable?"
        return StoreError(operation, target, "the server does not answer", hint=hint, retry=True)
    # The driver's own text may quote values, so only its kind is told.
    return StoreError(operation, target, f"the database refused ({name})", hint="harvest db check looks for damage")
