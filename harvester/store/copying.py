"""Whole stores: backed up, brought back, moved between SQLite and PostgreSQL, and saved from a damaged file."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, delete, func, select

from harvester.errors import StoreBusy, StoreError
from harvester.readings import DAY, Window, to_datetime, to_milliseconds
from harvester.store import schema
from harvester.store.schema import DAY_BITS, DAY_MASK
from harvester.store.store import Store, utc_now

_ROWS = 500
_NO_FILE = "is no SQLite file any more"


def backup(store: Store, path: Path) -> None:
    """
    Write a copy of the store as of now into a file, itself a store on SQLite whatever this one is on.

    It appears whole or not at all, readable by its owner only.

    Raises:
        StoreError: if the file is there already or cannot be written.
    """
    if path.exists():
        raise StoreError("back up to", str(path), "is there already", hint="name another file; none is overwritten")
    with _aside(path, "back up to") as aside:
        if store.dialect == "sqlite":
            with store.database.outside() as connection:
                connection.execute("VACUUM INTO ?", (str(aside),))
        else:
            aside.unlink()
            with Store.open(str(aside)) as copy:
                _copy(store, copy)
                copy.sync()
        aside.replace(path)


def restore(path: Path, store: Store) -> None:
    """
    Replace all that a store holds by what a backup holds, in one transaction.

    Raises:
        StoreBusy: if somebody holds a lease of the store: a daemon or a collection.
        StoreError: if the backup cannot be read or is damaged; the store is as it was.
    """
    with Store.open(str(path), create=False) as kept:
        problems = kept.check()
        if problems:
            raise StoreError("restore from", str(path), f"is damaged: {problems[0]}", hint="try an older backup")
        _copy(kept, store, replace=True)


def move(source: Store, target: Store) -> None:
    """
    Copy everything into a store that holds nothing yet, from SQLite to PostgreSQL or back; the source stays as it is.

    Raises:
        StoreBusy: if somebody holds a lease of either.
        StoreError: if the target holds something already, or does not hold all in the end; it then holds nothing.
    """
    if source.holders():
        raise _busy(source)
    _copy(source, target)


def _busy(store: Store) -> StoreBusy:
    who = ", ".join(sorted(set(store.holders().values())))
    hint = "stop harvest run first"
    return StoreBusy("copy", store.database.target, f"{who} is at work on it", hint=hint, retry=True)


def _copy(source: Store, target: Store, *, replace: bool = False) -> None:
    if target.holders():
        raise _busy(target)
    tables = schema.metadata.sorted_tables
    operation, name = "copy into", target.database.target
    with (
        source.database.guard("read"), source.database.read() as old,
        target.database.guard("write to"), target.database.write(full_sync=True) as new,
    ):
        for table in reversed(tables):
            if replace:
                new.execute(delete(table))
            elif table is not schema.meta and new.scalar(select(func.count()).select_from(table)):
                raise StoreError(operation, name, "holds something already", hint="name an empty store")
        new.execute(delete(schema.meta))
        for table in tables:
            count = 0
            for rows in old.execute(select(table).execution_options(yield_per=_ROWS)).mappings().partitions(_ROWS):
                values = [dict(row) for row in rows]
                if table is schema.lease:  # what is due goes with the store, who is at it does not
                    values = [{**row, "owner": "", "lease_until": 0} for row in values]
                new.execute(table.insert(), values)
                count += len(values)
            if new.scalar(select(func.count()).select_from(table)) != count:
                raise StoreError(operation, name, f"lacks rows of {table.name}", hint="nothing was changed; try again")
        if target.dialect == "postgresql":
            _advance_sequences(new)
    target.forget()


def _advance_sequences(connection: Connection) -> None:
    for table in schema.metadata.sorted_tables:
        (key, *more) = table.primary_key.columns
        if not more and key.autoincrement is True:
            last = connection.scalar(select(func.max(key)))
            name = connection.scalar(select(func.pg_get_serial_sequence(table.name, key.name)))
            if last is not None:
                connection.execute(select(func.setval(name, last)))


@contextmanager
def _aside(path: Path, operation: str) -> Iterator[Path]:
    """Give a new file beside ``path`` to write to; it is gone afterwards unless it was renamed."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as e:
        raise StoreError(operation, str(path), f"cannot be written: {e.strerror}", hint="name a folder you own") from e
    try:
        yield aside
    finally:
        for leftover in path.parent.glob(f"{aside.name}*"):
            leftover.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# A damaged file
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Salvage:
    """
    What became of a damaged SQLite file.

    Attributes:
        kept: Where the damaged file is now.
        rows: How many rows were saved.
        lost: What could not be read, or fails its checksum: by series and day where that can be told.
    """

    kept: Path
    rows: int
    lost: tuple[str, ...]


def salvage(path: Path) -> Salvage:
    """
    Put a new store of all that can still be read of a damaged or cut SQLite file in its place; keep the old one beside.

    Days that were proven and cannot be read are proven no more, so that a collection may bring them again. No other
    process may have the store open.

    Raises:
        StoreError: if nothing can be read, or the new file cannot be written.
    """
    kept = path.with_name(f"{path.name}.damaged.{to_milliseconds(utc_now())}")
    with _aside(path, "salvage") as padded, _aside(path.with_name(f"{path.name}.new"), "salvage") as fresh:
        shutil.copyfile(path, padded)
        log = path.with_name(f"{path.name}-wal")
        if log.exists():
            shutil.copyfile(log, padded.with_name(f"{padded.name}-wal"))
        _pad(path, padded)
        fresh.unlink()
        with Store.open(str(fresh)) as new:
            try:
                saved = _save(padded, new)
            except sqlite3.DatabaseError as e:
                raise StoreError("salvage", str(path), _NO_FILE, hint="restore a backup") from e
            if not saved.rows:
                raise StoreError("salvage", str(path), "nothing in it can be read", hint="restore a backup")
            new.forget()
            lost = [*saved.lost, *_without_lost_days(new, saved.blocks), *(one.text for one in new.repair())]
            new.sync(compact=True)
        path.rename(kept)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        fresh.replace(path)
    return Salvage(kept, saved.rows, tuple(lost))


def _without_lost_days(store: Store, keys: Sequence[int]) -> list[str]:
    """Take back what was proven of days that cannot be read, and name them."""
    numbered = store.numbered()
    lost = []
    for key in keys:
        series, day = numbered.get(key >> DAY_BITS), (key & DAY_MASK) * DAY
        window = Window.of(day, day + DAY)
        if series and store.coverages([series])[0] & window:
            store.uncover((series,), window)
            lost.append(f"{series} on {to_datetime(day).date()}: cannot be read")
    return lost


def _pad(path: Path, aside: Path) -> None:
    """Give a file that was cut short the length it says it has: SQLite refuses it otherwise, whole pages and all."""
    with aside.open("r+b") as file:
        head = file.read(100)
        if not head.startswith(b"SQLite format 3\0"):
            raise StoreError("salvage", str(path), _NO_FILE, hint="restore a backup")
        size = int.from_bytes(head[16:18], "big")
        pages = int.from_bytes(head[28:32], "big")
        length = (65536 if size == 1 else size) * pages
        if length > aside.stat().st_size:
            file.truncate(length)


@dataclass(slots=True)
class _Saved:
    rows: int = 0
    lost: list[str] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)  # ids that may have been there and cannot be read


def _save(path: Path, new: Store) -> _Saved:
    saved = _Saved()
    ordered = sorted(schema.metadata.sorted_tables, key=lambda table: table not in (schema.series, schema.coverage))
    connection = sqlite3.connect(path)
    try:
        with new.database.guard("write to"), new.database.write(full_sync=True) as writing:
            writing.execute(delete(schema.meta))
            for table in ordered:
                _save_table(connection, table, writing, new, saved)
            version = {"key": "schema_version", "value": str(schema.VERSION)}
            writing.execute(new.database.insert(schema.meta).on_conflict_do_nothing(), version)
    finally:
        connection.close()
    return saved


def _save_table(
    connection: sqlite3.Connection, table: sa.Table, writing: Connection, new: Store, saved: _Saved
) -> None:
    names = [column.name for column in table.columns]
    wanted = ", ".join(f'"{name}"' for name in names)
    insert = new.database.insert(table).on_conflict_do_nothing()
    reader = _Reader(connection, f"SELECT rowid, {wanted} FROM {table.name}")  # noqa: S608  our own names
    for rows in reader.ends():
        saved.rows += len(rows)
        writing.execute(insert, [dict(zip(names, row[1:], strict=True)) for row in rows])
    if reader.low > reader.high:
        return
    of_days = table in (schema.block, schema.summary)
    candidates = _days_between(writing, reader.low, reader.high) if of_days else range(reader.low, reader.high + 1)
    missing = []
    for key in candidates:
        row = reader.one(key)
        if row is None:
            missing.append(key)
        elif row:
            saved.rows += 1
            writing.execute(insert, [dict(zip(names, row[1:], strict=True))])
    if table is schema.block:
        saved.blocks = missing
    elif missing or not of_days:
        saved.lost.append(f"{table.name}: a part of it cannot be read")


def _days_between(writing: Connection, low: int, high: int) -> Iterator[int]:
    """Yield the ids that blocks can have: of every series, on the days that anything is known of."""
    coverage, block = schema.coverage.c, schema.block.c
    spans = writing.execute(select(func.min(coverage.start), func.max(coverage.end))).one()
    first, last = ((spans[0] // DAY, (spans[1] - 1) // DAY) if spans[0] is not None else (DAY_MASK, 0))
    seen = [key & DAY_MASK for key in writing.scalars(select(block.id))]
    first, last = min([first, *seen]), max([last, *seen])
    for number in writing.scalars(select(schema.series.c.id).order_by(schema.series.c.id)).all():
        yield from range(max(number << DAY_BITS | first, low), min(number << DAY_BITS | last, high) + 1)


class _Reader:
    """
    Reads a table from both its ends as far as it is whole.

    Attributes:
        low, high: What lies between, both included, has to be asked for row by row; nothing if ``low > high``.
    """

    def __init__(self, connection: sqlite3.Connection, query: str) -> None:
        self._connection, self._query = connection, query
        self.low, self.high = -(2**63), 2**63 - 1

    def ends(self) -> Iterator[list[tuple[Any, ...]]]:
        try:
            for rows in self._some("ORDER BY rowid"):
                yield rows
                self.low = rows[-1][0] + 1
        except sqlite3.DatabaseError:
            pass
        else:
            self.high = self.low - 1
            return
        try:
            for rows in self._some("ORDER BY rowid DESC"):
                yield rows
                self.high = rows[-1][0] - 1
        except sqlite3.DatabaseError:
            return

    def _some(self, order: str) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self._connection.execute(f"{self._query} WHERE rowid BETWEEN ? AND ? {order}", (self.low, self.high))
        while True:
            rows: list[tuple[Any, ...]] = []
            try:
                for row in cursor:
                    rows.append(row)
                    if len(rows) == _ROWS:
                        break
            except sqlite3.DatabaseError:
                if rows:
                    yield rows
                raise
            if not rows:
                return
            yield rows

    def one(self, key: int) -> tuple[Any, ...] | None:
        """Return a row, an empty tuple where there is none, None where that cannot be told."""
        try:
            row = self._connection.execute(f"{self._query} WHERE rowid = ?", (key,)).fetchone()
        except sqlite3.DatabaseError:
            return None
        return row or ()
