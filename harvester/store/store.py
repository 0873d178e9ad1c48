"""
Readings in, readings out.

Writing is optimistic: blocks are read, merged and encoded outside any lock; a short transaction that no other writer
shares checks that nobody changed them meanwhile and writes. Small batches wait as pending rows, which readers merge
last and ``fold`` turns into blocks. A block says up to which pending row it has everything, so that folding may be
interrupted anywhere and nothing is applied twice or in the wrong order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, delete, func, select, update

from harvester.errors import DamagedBlock, StoreError, StoreVersion
from harvester.readings import DAY, Labels, Occurrences, Readings, Series, Shape, Window, to_datetime, to_milliseconds
from harvester.store import schema
from harvester.store.codec import (
    CodecError,
    Columns,
    NewerFormatError,
    columns_of,
    decode,
    decode_rows,
    differing,
    empty_columns,
    encode,
    encode_rows,
    has_log_buckets,
    merge,
    readings_of,
)
from harvester.store.engine import Database, is_damage
from harvester.store.frozen import AlteredError, freeze_content, thaw_content
from harvester.store.migrations import STEPS
from harvester.store.records import Collection, Damage, FrozenCopy, Lease, Written
from harvester.store.schema import DAY_BITS, DAY_MASK
from harvester.store.texts import (
    Identity,
    identity_of,
    labels_from,
    labels_text,
    metric_data,
    metric_from,
    spans_of,
    window_from,
)
from harvester.store.waiting import Waiting

if TYPE_CHECKING:
    from harvester.connector import Batch

logger = logging.getLogger(__name__)

_MOST_PENDING_READINGS = 64
"""A series' day with fewer new readings than this waits as pending, where it has a block already."""
_FOLD_AT_ROWS = 500
_FOLD_AT_BYTES = 4 << 20
"""Pending rows are folded at the latest when there are this many, or this many bytes: readers look at all of them."""
_MANY_DAYS = 64
_MOST_THREADS = 4
_CHUNK = 500
_MOST_RANGES = 8


def utc_now() -> datetime:
    """Return the time of day, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Held:
    """What the store has of one series' day; ``seen`` is the newest pending row that was looked at."""

    folded: int
    data: bytes | None
    waiting: list[Columns]
    seen: int

    @property
    def mark(self) -> tuple[int, bytes, int] | None:
        """What changes whenever the block is written: cheap to read again."""
        return None if self.data is None else (self.folded, self.data[:4], len(self.data))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of one series' day: a block, or a pending piece, or neither where nothing is new."""

    changed: int = 0
    block: bytes | None = None
    piece: Columns | None = None


class Store:
    """
    One open store; may be used from several threads.

    Every method that fails raises a ``StoreError`` whose text names no password and no stored value.
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        """Wrap a database whose schema is up to date; use ``open``."""
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._series: dict[int, tuple[str, Series]] = {}
        self._numbers: dict[Series, int] = {}
        self._by_identity: dict[Identity, int] = {}

    # -- opening ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, url: str, *, create: bool = True, now: Callable[[], datetime] = utc_now) -> Store:
        """
        Open a store by its URL (``sqlite:///PATH``, ``postgresql+psycopg://``) or a plain path.

        It is made where it is missing, and an older one is brought up to date after a copy was put beside it.

        Raises:
            StoreVersion: if a newer harvester wrote it; it is left as it is.
            StoreError: if it cannot be opened, is no store, or is missing and ``create`` is false.
        """
        database = Database(url, create=create)
        store = cls(database, now)
        try:
            with database.guard("open store"):
                store._migrate(create)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close every connection."""
        self._database.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def database(self) -> Database:
        """The connection, for those who look after the store."""
        return self._database

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._database.dialect

    def _migrate(self, create: bool) -> None:
        with self._database.read() as connection:
            version = self._version(connection)
        if version is None:
            if not create:
                target = self._database.target
                raise StoreError("open store", target, "holds no store yet", hint="harvest collect makes it")
            with self._database.write(full_sync=True) as connection:
                if self._version(connection) is None:  # else another process made it meanwhile
                    schema.metadata.create_all(connection)
                    if self.dialect == "postgresql":
                        for table, column in schema.BLOBS:
                            connection.execute(
                                sa.text(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")
                            )
                    self._set_meta(connection, "schema_version", str(schema.VERSION))
        elif version < schema.VERSION:
            self._copy_aside(version)
            with self._database.write(full_sync=True) as connection:
                for number in range(self._version(connection) or version, schema.VERSION):
                    STEPS[number](connection)
                self._set_meta(connection, "schema_version", str(schema.VERSION))

    def _version(self, connection: Connection) -> int | None:
        """Return the schema version, None where there is no schema; refuse what is not ours or newer."""
        target = self._database.target
        tables = set(sa.inspect(connection).get_table_names())
        found = self._meta(connection, "schema_version") if "meta" in tables else None
        if found is None:
            if tables:
                raise StoreError(
                    "open store", target, "is a database of something else",
                    hint="give harvester a file or database of its own in [store] url",
                )
            return None
        if int(found) > schema.VERSION:
            raise StoreVersion(
                "open store", target, f"has schema version {found}, this harvester knows up to {schema.VERSION}",
                hint="upgrade harvester; nothing was changed",
            )
        return int(found)

    def _copy_aside(self, version: int) -> None:
        path = self._database.path
        if path is None:
            return
        copy = path.with_name(f"{path.name}.v{version}.{to_milliseconds(self._now())}.backup")
        copy.touch(0o600)
        with self._database.outside() as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))

    def _meta(self, connection: Connection, key: str) -> str | None:
        return connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == key))

    def _set_meta(self, connection: Connection, key: str, value: str) -> None:
        self._database.upsert(connection, schema.meta, [{"key": key, "value": value}])

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._database.guard("read"), self._database.read() as connection:
            yield connection

    @contextmanager
    def _writing(self, *, full_sync: bool = False, alone: bool = True) -> Iterator[Connection]:
        with self._database.guard("write to"), self._database.write(full_sync=full_sync, alone=alone) as connection:
            yield connection

    # -- series -------------------------------------------------------------------------------------------------------

    def series(self, *, source: str | None = None, metric: str | None = None) -> list[Series]:
        """Return the stored series with their whole metrics, in the order they first appeared."""
        query = select(schema.series).order_by(schema.series.c.id)
        if source is not None:
            query = query.where(schema.series.c.source == source)
        if metric is not None:
            query = query.where(schema.series.c.metric == metric)
        with self._reading() as connection:
            return self._remember(connection.execute(query).all())

    def numbered(self) -> dict[int, Series]:
        """Return the stored series by their id: the upper bits of the ids of their blocks."""
        self.series()
        return {number: one for number, (_, one) in self._series.items()}

    def forget(self) -> None:
        """Forget what was read of the series, for the store was filled from outside."""
        with self._lock:
            self._series.clear()
            self._numbers.clear()
            self._by_identity.clear()

    def _remember(self, rows: Iterable[Any]) -> list[Series]:
        found = []
        with self._lock:
            for row in rows:
                held = self._series.get(row.id)
                if held is None or held[0] != row.specification:
                    metric = metric_from(json.loads(row.specification))
                    one = Series(row.source, metric, labels_from(json.loads(row.labels)))
                    held = (row.specification, one)
                    self._series[row.id] = held
                    self._numbers[one] = row.id
                    self._by_identity[identity_of(one)] = row.id
                found.append(held[1])
        return found

    def _number(self, one: Series) -> int | None:
        number = self._numbers.get(one)
        if number is None:  # it may be known with another word beside its definition: a direction, a family
            number = self._by_identity.get(identity_of(one))
            if number is not None:
                with self._lock:
                    self._numbers[one] = number
        return number

    def _numbers_of(self, wanted: Sequence[Series]) -> list[int | None]:
        numbers = [self._number(one) for one in wanted]
        if None in numbers:
            self.series()
            numbers = [self._number(one) for one in wanted]
        return numbers

    def _log_buckets(self, key: int) -> bool:
        """Tell whether a block's columns are log buckets."""
        return has_log_buckets(self._series[key >> DAY_BITS][1])

    def _register(self, wanted: Sequence[Series]) -> list[int]:
        """Return ids of series, giving new ones an id; what a metric says beside its definition is kept up to date."""
        numbers = [self._numbers.get(one, 0) for one in wanted]
        new = [one for one, number in zip(wanted, numbers, strict=True) if not number or self._series[number][1] != one]
        if not new:
            return numbers
        rows = [
            {
                "source": one.source,
                "metric": one.metric.name,
                "labels": labels_text(one.labels),
                "definition": one.metric.definition,
                "shape": str(one.metric.shape),
                "unit": one.metric.unit,
                "specification": json.dumps(metric_data(one.metric), sort_keys=True),
            }
            for one in dict.fromkeys(new)
        ]
        insert = self._database.insert(schema.series)
        statement = insert.on_conflict_do_update(
            index_elements=["source", "metric", "labels", "definition"],
            set_={"specification": insert.excluded.specification},
            where=schema.series.c.specification != insert.excluded.specification,
        )
        with self._database.write() as connection:
            connection.execute(statement, rows)
        self.series()
        return [self._by_identity[identity_of(one)] for one in wanted]

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, source: str, batch: Batch, *, full_sync: bool = False) -> Written:
        """
        Store readings, coverage, state and notes of a batch in one transaction.

        Readings merge by (series, instant), the last one wins; what is equal writes nothing, what is missing deletes
        nothing. Occurrences merge by their id, the higher revision wins.

        Raises:
            DamagedBlock: if a day that is to be changed cannot be read; nothing of the batch is stored.
            StoreError: if the store cannot be written; nothing of the batch is stored.
        """
        with self._database.guard(f"write readings of {source} to"):
            written = self._commit(source, batch, full_sync)
        try:
            with self._database.guard("fold"):
                self._fold_if_many()
        except StoreError as e:
            # The batch is stored; whoever commits next tries again, and readers look at what waits until then.
            logger.warning("readings wait for the next attempt: %s", e)
        return written

    def _commit(self, source: str, batch: Batch, full_sync: bool) -> Written:
        numbers = self._register([one.series for one in batch.readings])
        numbered = list(zip(numbers, batch.readings, strict=True))
        days = self._days(numbered)
        held: dict[int, _Held] = {}
        if days:
            with self._database.read() as connection:
                held = self._held(connection, sorted(days))
        plans = dict(zip(days, self._planned(days, held), strict=True))
        with self._database.write(full_sync=full_sync) as connection:
            writes = [key for key, plan in plans.items() if plan.block is not None]
            stale = self._stale(connection, writes, held)
            if stale:  # somebody wrote these days meanwhile: merge with what is there now
                held.update(self._held(connection, stale))
                plans.update((key, self._plan(key, held[key], days[key])) for key in stale)
            blocks = [
                {"id": key, "folded": held[key].seen, "data": plan.block}
                for key, plan in plans.items()
                if plan.block is not None
            ]
            self._database.upsert(connection, schema.block, blocks)
            pieces = [(key, plan.piece) for key, plan in plans.items() if plan.piece is not None]
            self._put_pending(connection, pieces)
            events = sum(
                self._put_occurrences(connection, number, one)
                for number, one in numbered
                if isinstance(one, Occurrences)
            )
            self._put_coverage(connection, source, batch)
            if batch.state is not None:
                row = {"source": source, "data": json.dumps(dict(batch.state), sort_keys=True)}
                self._database.upsert(connection, schema.state, [row])
            if batch.notes:
                at = to_milliseconds(self._now())
                connection.execute(
                    schema.note.insert(), [{"source": source, "at": at, "text": text} for text in batch.notes]
                )
        changed = sum(plan.changed for plan in plans.values())
        return Written(changed + events, len(blocks) + bool(pieces) + events)

    def _days(self, numbered: Iterable[tuple[int, Readings]]) -> dict[int, Columns]:
        """Return the columns of a batch by the id of the block they belong to."""
        parts: dict[int, list[Columns]] = defaultdict(list)
        for number, readings in numbered:
            if isinstance(readings, Occurrences) or not len(readings):
                continue
            columns = columns_of(readings)
            day = columns.at // DAY
            if day[0] < 0 or day[-1] > DAY_MASK:
                raise StoreError("write", str(readings.series), "has an instant before 1970 or after 4840")
            if day[0] == day[-1]:
                parts[number << DAY_BITS | int(day[0])].append(columns)
                continue
            edges = [0, *(np.flatnonzero(day[1:] != day[:-1]) + 1).tolist(), len(day)]
            for low, high in pairwise(edges):
                parts[number << DAY_BITS | int(day[low])].append(columns.part(low, high))
        return {
            key: merge(group, buckets=self._log_buckets(key)) for key, group in parts.items()
        }

    def _held(self, connection: Connection, keys: Sequence[int]) -> dict[int, _Held]:
        """Return what is stored for blocks, given by rising id, all of one moment."""
        table = schema.block
        blocks: dict[int, tuple[int, bytes]] = {}
        for low in range(0, len(keys), _CHUNK):
            query = select(table).where(table.c.id.in_(keys[low : low + _CHUNK]))
            blocks.update((row.id, (row.folded, row.data)) for row in connection.execute(query))
        waiting = self._waiting(connection, keys[0], keys[-1])
        seen = self._last_pending(connection)
        found = {}
        for key in keys:
            folded, data = blocks.get(key, (0, None))
            found[key] = _Held(folded, data, waiting.of(key, folded), seen)
        return found

    def _waiting(self, connection: Connection, low: int, high: int) -> Waiting:
        """Return the pending rows that have readings for block ids from ``low`` to ``high``."""
        table = schema.pending
        query = select(table.c.id, table.c.data).where(table.c.high >= low, table.c.low <= high).order_by(table.c.id)
        return Waiting((row.id, self._rows_of(row.id, row.data)) for row in connection.execute(query))

    def _last_pending(self, connection: Connection) -> int:
        last = connection.scalar(select(func.max(schema.pending.c.id))) or 0
        return max(last, int(self._meta(connection, "folded") or 0))

    def _planned(self, days: Mapping[int, Columns], held: Mapping[int, _Held]) -> list[_Plan]:
        """Return what becomes of each day; many days are shared among threads, since compressing lets others run."""
        work = [(key, held[key], columns) for key, columns in days.items()]
        if len(work) < _MANY_DAYS:
            return [self._plan(*one) for one in work]
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), "encode") as pool:
            parts = [work[low : low + _MANY_DAYS] for low in range(0, len(work), _MANY_DAYS)]
            return [plan for done in pool.map(lambda part: [self._plan(*one) for one in part], parts) for plan in done]

    def _plan(self, key: int, held: _Held, new: Columns) -> _Plan:
        buckets = self._log_buckets(key)
        old = [] if held.data is None else [self.decoded(key, held.data)]
        old += held.waiting
        if not old:
            return _Plan(len(new), encode(new))
        before = merge(old, buckets=buckets)
        other = differing(before, new, buckets=buckets)
        changed = int(other.sum())
        if not changed:
            return _Plan()
        if held.data is not None and changed < _MOST_PENDING_READINGS:
            return _Plan(changed, piece=Columns(new.at[other], new.values[:, other], new.first))
        return _Plan(changed, encode(merge([before, new], buckets=buckets)))

    def _stale(self, connection: Connection, keys: Sequence[int], held: Mapping[int, _Held]) -> list[int]:
        """Return which blocks are no longer what was read before."""
        table = schema.block
        head, size = func.substr(table.c.data, 1, 4), func.length(table.c.data)
        marks: dict[int, tuple[int, bytes, int]] = {}
        for low in range(0, len(keys), _CHUNK):
            query = select(table.c.id, table.c.folded, head, size).where(table.c.id.in_(keys[low : low + _CHUNK]))
            marks.update((key, (folded, bytes(first), n)) for key, folded, first, n in connection.execute(query))
        return sorted(key for key in keys if marks.get(key) != held[key].mark)

    def _put_pending(self, connection: Connection, pieces: Sequence[tuple[int, Columns]]) -> None:
        if not pieces:
            return
        keys = [key for key, _ in pieces]
        row = {
            "id": self._last_pending(connection) + 1,
            "low": min(keys),
            "high": max(keys),
            "first_day": min(key & DAY_MASK for key in keys),
            "last_day": max(key & DAY_MASK for key in keys),
            "data": encode_rows((key >> DAY_BITS, columns) for key, columns in pieces),
        }
        connection.execute(schema.pending.insert(), row)

    def _put_occurrences(self, connection: Connection, number: int, readings: Occurrences) -> int:
        table = schema.occurrence
        held: dict[str, tuple[int, int, int, str]] = {}
        for low in range(0, len(readings), _CHUNK):
            query = select(table).where(table.c.series == number, table.c.id.in_(readings.id[low : low + _CHUNK]))
            for row in connection.execute(query):
                held[row.id] = (row.revision, row.start, row.end, row.attributes)
        rows = []
        columns = (readings.id, readings.revision.tolist(), readings.start.tolist(), readings.end.tolist())
        for name, revision, start, end, attributes in zip(*columns, readings.attributes, strict=True):
            new = (revision, start, end, json.dumps(dict(attributes), sort_keys=True))
            old = held.get(name)
            if old is None or (old != new and revision >= old[0]):
                rows.append(
                    {
                        "series": number, "id": name, "revision": revision, "day": start // DAY,
                        "start": start, "end": end, "attributes": new[3],
                    }
                )
        self._database.upsert(connection, table, rows)
        return len(rows)

    def _put_coverage(self, connection: Connection, source: str, batch: Batch) -> None:
        new: dict[tuple[str, str, str], Window] = {}
        for one in batch.coverage:
            key = (one.metric, labels_text(one.labels), one.question)
            new[key] = new.get(key, Window()) | one.window
        new = {key: window for key, window in new.items() if window}
        if not new:
            return
        table = schema.coverage
        held: dict[tuple[str, str, str], set[tuple[int, int]]] = defaultdict(set)
        # Only spans that touch what is new can change.
        query = select(table).where(
            table.c.source == source,
            table.c.metric.in_({metric for metric, _, _ in new}),
            table.c.end >= min(window.start for window in new.values()),
            table.c.start <= max(window.end for window in new.values()),
        )
        for row in connection.execute(query):
            held[row.metric, row.labels, row.question].add((row.start, row.end))
        gone: list[dict[str, Any]] = []
        fresh: list[dict[str, Any]] = []
        for (metric, labels, question), window in new.items():
            old = held[metric, labels, question]
            spans = set((Window(tuple(old)) | window).spans)
            name = {"source": source, "metric": metric, "labels": labels, "question": question}
            starts = {start for start, _ in spans}
            gone += [{**name, "start": start} for start, _ in old if start not in starts]
            fresh += [{**name, "start": start, "end": end} for start, end in spans - old]
        if gone:
            columns = ("source", "metric", "labels", "question", "start")
            where = [table.c[name] == sa.bindparam(f"old_{name}") for name in columns]
            values = [{f"old_{name}": value for name, value in row.items()} for row in gone]
            connection.execute(delete(table).where(*where), values)
        self._database.upsert(connection, table, fresh)

    def _fold_if_many(self) -> None:
        table = schema.pending
        with self._database.read() as connection:
            query = select(func.count(), func.coalesce(func.sum(func.length(table.c.data)), 0)).select_from(table)
            rows, size = connection.execute(query).one()
        if rows > _FOLD_AT_ROWS or size > _FOLD_AT_BYTES:
            self.fold()

    def fold(self) -> int:
        """
        Fold the pending rows into their days' blocks and return how many there were.

        Readings for a damaged block stay pending, and ``check`` names it.
        """
        table = schema.pending
        with self._database.guard("fold"):
            with self._database.read() as connection:
                rows = connection.execute(select(table).order_by(table.c.id)).all()
            if not rows:
                return 0
            last = rows[-1].id
            waiting = Waiting((row.id, self._rows_of(row.id, row.data)) for row in rows)
            self.series()
            keys = [key for key in waiting.keys if key >> DAY_BITS in self._series]
            damaged: set[int] = set()
            for low in range(0, len(keys), _CHUNK):
                damaged |= self._fold_some(keys[low : low + _CHUNK], waiting, last)
            done = [row.id for row in rows if not any(row.low <= key <= row.high for key in damaged)]
            with self._database.write() as connection:
                for low in range(0, len(done), _CHUNK):
                    connection.execute(delete(table).where(table.c.id.in_(done[low : low + _CHUNK])))
                folded = max(last, int(self._meta(connection, "folded") or 0))
                self._set_meta(connection, "folded", str(folded))
        return len(done)

    def _fold_some(self, keys: Sequence[int], waiting: Waiting, last: int) -> set[int]:
        """Fold the readings waiting for some blocks, and return those that are damaged."""
        damaged: set[int] = set()

        def folded(connection: Connection, wanted: Sequence[int]) -> dict[int, tuple[_Held, bytes]]:
            query = select(schema.block).where(schema.block.c.id.in_(wanted))
            blocks = {row.id: (row.folded, row.data) for row in connection.execute(query)}
            result = {}
            for key in wanted:
                buckets = self._log_buckets(key)
                before, data = blocks.get(key, (0, None))
                held = _Held(before, data, waiting.of(key, before), max(before, last))
                if not held.waiting:
                    continue
                try:
                    old = [] if data is None else [self.decoded(key, data)]
                except DamagedBlock:
                    damaged.add(key)
                    continue
                result[key] = held, encode(merge([*old, *held.waiting], buckets=buckets))
            return result

        with self._database.read() as connection:
            plans = folded(connection, keys)
        with self._database.write() as connection:
            stale = self._stale(connection, list(plans), {key: held for key, (held, _) in plans.items()})
            for key in stale:
                del plans[key]
            plans.update(folded(connection, stale))
            rows = [{"id": key, "folded": held.seen, "data": data} for key, (held, data) in plans.items()]
            self._database.upsert(connection, schema.block, rows)
        return damaged

    # -- reading ------------------------------------------------------------------------------------------------------

    def state(self, source: str) -> dict[str, Any]:
        """Return what the source's connector asked to be told next time; empty at first."""
        with self._reading() as connection:
            text = connection.scalar(select(schema.state.c.data).where(schema.state.c.source == source))
        return dict(json.loads(text)) if text else {}

    def read(self, series: Sequence[Series], window: Window) -> list[Readings]:
        """
        Return the readings of each series inside the window, in the order asked for; empty ones where none are held.

        All of them are of one moment of the store: batches that are committed meanwhile are seen whole or not at all.

        Raises:
            DamagedBlock: naming series and day, if a block's checksum does not hold.
        """
        if not series or not window:
            return [_empty(one) for one in series]
        try:
            return self._read(series, window)
        except StoreError as e:
            if is_damage(e):
                self._name_damage(series, window)
            raise

    def _name_damage(self, series: Sequence[Series], window: Window) -> None:
        """Raise a DamagedBlock that names the first day whose pages cannot be read, if there is one."""
        for one in series:
            (covered,) = (found & window for found in self.coverages([one]))
            number = self._number(one)
            if number is None:
                continue
            for first, last in _day_ranges(covered):
                for key in range(number << DAY_BITS | first, (number << DAY_BITS | last) + 1):
                    try:
                        with self._reading() as connection:
                            connection.execute(select(schema.block).where(schema.block.c.id == key)).all()
                    except StoreError as e:
                        raise DamagedBlock(
                            "read", self._name_of(key), "cannot be read: the file is damaged",
                            hint="what lies elsewhere is readable; harvest db repair saves it",
                        ) from e

    def _read(self, series: Sequence[Series], window: Window) -> list[Readings]:
        with self._database.guard("read"):
            numbers = self._numbers_of(series)
            found = {number: one for one, number in zip(series, numbers, strict=True) if number is not None}
            single = sorted(number for number, one in found.items() if one.metric.shape is Shape.EVENT)
            columnar = sorted(found.keys() - set(single))
            ranges = _day_ranges(window)
            with self._database.read() as connection:
                events = self._events(connection, single, window)
                rows = self._blocks(connection, columnar, ranges)
                low, high = (columnar[0] << DAY_BITS, columnar[-1] << DAY_BITS | DAY_MASK) if columnar else (0, -1)
                waiting = self._waiting(connection, low, high) if columnar else Waiting(())
        columns = self._columns(rows, waiting, set(columnar), ranges)
        results: list[Readings] = []
        for one, number in zip(series, numbers, strict=True):
            if number is not None and events.get(number):
                results.append(_occurrences(one, events[number]))
            elif number is not None and number in columns:
                results.append(readings_of(one, _cut(columns[number], window, one)))
            else:
                results.append(_empty(one))
        return results

    def _columns(
        self, rows: Iterable[Any], waiting: Waiting, numbers: set[int], ranges: Sequence[tuple[int, int]]
    ) -> dict[int, Columns]:
        parts: dict[int, list[Columns]] = defaultdict(list)
        folded: dict[int, int] = {}
        for key, before, data in rows:
            folded[key] = before
            parts[key >> DAY_BITS].append(self.decoded(key, data))
        for key in waiting.keys:
            number, day = key >> DAY_BITS, key & DAY_MASK
            if number in numbers and any(first <= day <= last for first, last in ranges):
                parts[number] += waiting.of(key, folded.get(key, 0))
        return {
            number: merge(group, buckets=self._log_buckets(number << DAY_BITS))
            for number, group in parts.items()
            if group
        }

    def _blocks(
        self, connection: Connection, numbers: Sequence[int], ranges: Sequence[tuple[int, int]]
    ) -> list[Any]:
        """Return (id, folded, data) of the blocks of series on days, in order."""
        table = schema.block
        spans = [(one << DAY_BITS | first, one << DAY_BITS | last) for one in numbers for first, last in ranges]
        rows: list[Any] = []
        for low in range(0, len(spans), _CHUNK):
            wanted = sa.or_(*(table.c.id.between(first, last) for first, last in spans[low : low + _CHUNK]))
            rows += connection.execute(select(table).where(wanted).order_by(table.c.id)).all()
        return rows

    def _events(self, connection: Connection, numbers: Sequence[int], window: Window) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = defaultdict(list)
        table = schema.occurrence
        inside = table.c.start.between(window.start, window.end - 1)
        query = select(table).where(table.c.series.in_(numbers), inside).order_by(table.c.start, table.c.id)
        if numbers:
            for row in connection.execute(query):
                found[row.series].append(row)
        return {
            number: [row for row, kept in zip(rows, window.contains(_starts(rows)), strict=True) if kept]
            for number, rows in found.items()
        }

    def decoded(self, key: int, data: bytes) -> Columns:
        try:
            return decode(data)
        except NewerFormatError as e:
            raise self._newer(self._name_of(key), e) from e
        except Exception as e:  # bytes that pass for a block by accident may break the compressor in any way
            raise DamagedBlock(
                "read", self._name_of(key), f"its block is damaged ({e})",
                hint="its other days are readable; harvest db repair drops it, so that it is collected again",
            ) from e

    def _rows_of(self, number: int, data: bytes) -> list[Any]:
        try:
            return decode_rows(data)
        except NewerFormatError as e:
            raise self._newer(f"pending row {number}", e) from e
        except (CodecError, ValueError, struct.error) as e:
            raise DamagedBlock("read", f"pending row {number}", f"is damaged ({e})", hint="restore a backup") from e

    def _newer(self, target: str, error: NewerFormatError) -> StoreVersion:
        return StoreVersion("read", target, str(error), hint="upgrade harvester; nothing was changed")

    def _name_of(self, key: int) -> str:
        number, day = key >> DAY_BITS, to_datetime((key & DAY_MASK) * DAY).date()
        known = self._series.get(number)
        return f"{known[1] if known else f'series {number}'} on {day}"

    def coverage(self, source: str, metric: str, labels: Labels | None, question: str = "") -> Window:
        """Return the spans proven complete for a series: what was proven for it and for its whole metric, so asked."""
        (found,) = self._coverages([(source, metric, labels_text(labels), question)])
        return found

    def coverages(self, series: Sequence[Series]) -> list[Window]:
        """Return the spans proven complete for each series, in the order asked for."""
        return self._coverages(
            [(one.source, one.metric.name, labels_text(one.labels), one.metric.question) for one in series]
        )

    def _coverages(self, wanted: Sequence[tuple[str, str, str, str]]) -> list[Window]:
        table = schema.coverage
        spans: dict[tuple[str, str, str, str], list[tuple[int, int]]] = defaultdict(list)
        metrics = sorted({(source, metric) for source, metric, _, _ in wanted})
        with self._reading() as connection:
            for low in range(0, len(metrics), _CHUNK):
                named = sa.tuple_(table.c.source, table.c.metric).in_(metrics[low : low + _CHUNK])
                for row in connection.execute(select(table).where(named)):
                    spans[row.source, row.metric, row.labels, row.question].append((row.start, row.end))
        everybody = labels_text(None)
        return [
            Window((*spans[source, metric, labels, question], *spans[source, metric, everybody, question]))
            for source, metric, labels, question in wanted
        ]

    def extent(self, series: Sequence[Series]) -> list[tuple[int, int] | None]:
        """Return the days each series has readings on, as ``[start, end)`` in milliseconds; None where it has none."""
        if not series:
            return []
        with self._database.guard("read"):
            numbers = self._numbers_of(series)
            wanted = [number for number in numbers if number is not None]
            number = schema.series.c.id
            # A block's first day exists before anything of that day may wait, so that blocks alone tell the extent.
            mine = schema.block.c.id.between(number * (DAY_MASK + 1), number * (DAY_MASK + 1) + DAY_MASK)
            single = schema.occurrence.c.series == number
            sides = [
                select(side(column)).where(where).correlate(schema.series).scalar_subquery()
                for column, where in ((schema.block.c.id, mine), (schema.occurrence.c.day, single))
                for side in (func.min, func.max)
            ]
            found: dict[int, tuple[int, int]] = {}
            with self._database.read() as connection:
                for low in range(0, len(wanted), _CHUNK):
                    query = select(number, *sides).where(number.in_(wanted[low : low + _CHUNK]))
                    for one, first, last, early, late in connection.execute(query):
                        days = [key & DAY_MASK for key in (first, last) if key is not None]
                        days += [day for day in (early, late) if day is not None]
                        if days:
                            found[one] = (min(days) * DAY, (max(days) + 1) * DAY)
        return [None if number is None else found.get(number) for number in numbers]

    # -- collections --------------------------------------------------------------------------------------------------

    def record_collection(self, record: Collection) -> Collection:
        """Keep the record of a collection and return it with its digest, the SHA-256 of all it says."""
        data = asdict(replace(record, digest=""))
        data["window"], data["covered"] = spans_of(record.window), spans_of(record.covered)
        digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
        text = json.dumps({**data, "digest": digest}, sort_keys=True)
        with self._writing() as connection:
            connection.execute(schema.collection.insert(), {"source": record.source, "data": text})
        return replace(record, digest=digest)

    def collections(self, source: str | None = None, limit: int = 20) -> list[Collection]:
        """Return records of collections, the newest first."""
        query = select(schema.collection.c.data).order_by(schema.collection.c.id.desc()).limit(limit)
        if source is not None:
            query = query.where(schema.collection.c.source == source)
        with self._reading() as connection:
            found = [json.loads(text) for text in connection.scalars(query)]
        return [
            Collection(
                **{
                    **data,
                    "window": window_from(data["window"]),
                    "covered": window_from(data["covered"]),
                    "notes": tuple(data["notes"]),
                }
            )
            for data in found
        ]

    def notes(self, source: str, limit: int = 20) -> list[tuple[int, str]]:
        """Return (milliseconds UTC, sentence) that batches of a source left, the newest first."""
        table = schema.note
        query = select(table.c.at, table.c.text).where(table.c.source == source).order_by(table.c.id.desc())
        with self._reading() as connection:
            return [(row.at, row.text) for row in connection.execute(query.limit(limit))]

    # -- documents ----------------------------------------------------------------------------------------------------

    def put(self, kind: str, id: str, data: Mapping[str, Any], *, full_sync: bool = True) -> None:  # noqa: A002  its word
        """Keep a document; earlier revisions stay. It survives a power cut once this returns."""
        self._put_document(kind, id, json.dumps(data), full_sync)

    def delete(self, kind: str, id: str) -> None:  # noqa: A002  its word
        """Forget a document; its revisions stay."""
        self._put_document(kind, id, None, True)

    def _put_document(self, kind: str, name: str, data: str | None, full_sync: bool) -> None:
        row = {"kind": kind, "id": name, "at": to_milliseconds(self._now()), "data": data}
        with self._writing(full_sync=full_sync) as connection:
            connection.execute(schema.document.insert(), row)

    def get(self, kind: str, id: str) -> dict[str, Any] | None:  # noqa: A002  its word
        """Return the latest revision of a document, or None."""
        table = schema.document
        query = select(table.c.data).where(table.c.kind == kind, table.c.id == id).order_by(table.c.revision.desc())
        with self._reading() as connection:
            text = connection.scalar(query.limit(1))
        return None if text is None else dict(json.loads(text))

    def put_once(self, kind: str, id: str, data: Mapping[str, Any]) -> dict[str, Any]:  # noqa: A002  its word
        """Keep data under a name nobody used before, or leave what is there; return what is kept."""
        table = schema.once
        insert = self._database.insert(table).on_conflict_do_nothing(index_elements=["kind", "id"])
        with self._writing(full_sync=True) as connection:
            connection.execute(insert, {"kind": kind, "id": id, "data": json.dumps(data)})
            text = connection.scalar(select(table.c.data).where(table.c.kind == kind, table.c.id == id))
        return dict(json.loads(text or "{}"))

    # -- frozen copies ------------------------------------------------------------------------------------------------

    def freeze(
        self, readings: Sequence[Readings], coverage: Mapping[Series, Window], *, window: Window, note: str
    ) -> str:
        """
        Keep a copy of readings that never changes again, and return its address, the SHA-256 of what it says.

        Each copy is chained to the one before it; the same content is kept once, with its first note.
        """
        digest, content = freeze_content(readings, coverage, window)
        created = to_milliseconds(self._now())
        table = schema.frozen
        with self._writing(full_sync=True) as connection:
            if connection.scalar(select(table.c.number).where(table.c.digest == digest)) is None:
                last = self._meta(connection, "chain") or ""
                chain = _chain(last, digest, created, note)
                row = {"digest": digest, "previous": last, "chain": chain, "created": created, "note": note}
                connection.execute(table.insert(), {**row, "content": content})
                self._set_meta(connection, "chain", chain)
        return digest

    def frozen(self, digest: str) -> FrozenCopy:
        """
        Return a frozen copy.

        Raises:
            StoreError: if there is none, or it no longer says what its address says.
        """
        table = schema.frozen
        with self._reading() as connection:
            row = connection.execute(select(table).where(table.c.digest == digest)).one_or_none()
        if row is None:
            raise StoreError("read frozen copy", digest[:12], "is not in this store", hint="was the store replaced?")
        try:
            window, readings, coverage = thaw_content(digest, row.content)
        except AlteredError as e:
            raise StoreError("read frozen copy", digest[:12], str(e), hint="restore a backup") from e
        return FrozenCopy(digest, row.previous, row.created, row.note, window, tuple(readings), coverage)

    def verify_frozen(self) -> list[str]:
        """Return what is wrong with the frozen copies and their chain; nothing means all is well."""
        problems = []
        last = ""
        with self._reading() as connection:
            query = select(schema.frozen).order_by(schema.frozen.c.number).execution_options(yield_per=1)
            for row in connection.execute(query):
                try:
                    thaw_content(row.digest, row.content)
                except AlteredError as e:
                    problems.append(f"frozen copy {row.digest[:12]}: {e}")
                if row.previous != last or row.chain != _chain(last, row.digest, row.created, row.note):
                    problems.append(f"frozen copy {row.digest[:12]}: the chain is broken here")
                last = row.chain
            if last != (self._meta(connection, "chain") or ""):
                problems.append("frozen copies: the newest are missing")
        return problems

    # -- leases -------------------------------------------------------------------------------------------------------

    def due(self, name: str) -> int | None:
        """Return when something is due, milliseconds UTC, or None if that was never said."""
        with self._reading() as connection:
            return connection.scalar(select(schema.lease.c.due).where(schema.lease.c.name == name))

    def set_due(self, name: str, at: int) -> None:
        """Say when something is due."""
        insert = self._database.insert(schema.lease)
        statement = insert.on_conflict_do_update(index_elements=["name"], set_={"due": insert.excluded.due})
        with self._writing(alone=False) as connection:
            connection.execute(statement, {"name": name, "due": at, "owner": "", "lease_until": 0, "fence": 0})

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """
        Take the lease of that name for some seconds and return it, or None while another owner holds it.

        The same owner takes it over from itself: names of owners have to be as unique as their work.
        """
        table = schema.lease
        now = to_milliseconds(self._now())
        blank = {"name": name, "owner": "", "lease_until": 0, "fence": 0}
        insert = self._database.insert(table).on_conflict_do_nothing(index_elements=["name"])
        with self._writing(alone=False) as connection:
            connection.execute(insert, blank)
            query = select(table.c.owner, table.c.lease_until, table.c.fence).where(table.c.name == name)
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if row is None or (row.lease_until > now and row.owner != owner):
                return None
            values = {"owner": owner, "lease_until": now + round(seconds * 1000), "fence": row.fence + 1}
            connection.execute(update(table).where(table.c.name == name).values(values))
        return Lease(name, owner, row.fence + 1)

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Hold a lease for some more seconds; false if somebody else took it meanwhile."""
        return self._touch(lease, to_milliseconds(self._now()) + round(seconds * 1000))

    def release(self, lease: Lease) -> None:
        """Give a lease back; without effect if somebody else took it meanwhile."""
        self._touch(lease, 0)

    def _touch(self, lease: Lease, until: int) -> bool:
        table = schema.lease
        mine = (table.c.name == lease.name, table.c.fence == lease.fence, table.c.owner == lease.owner)
        with self._writing(alone=False) as connection:
            return bool(connection.execute(update(table).where(*mine).values(lease_until=until)).rowcount)

    def holder(self, name: str) -> str | None:
        """Return who holds the lease of that name now, or None."""
        table = schema.lease
        query = select(table.c.owner, table.c.lease_until).where(table.c.name == name)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return row.owner if row is not None and row.lease_until > to_milliseconds(self._now()) else None

    def holders(self) -> dict[str, str]:
        """Return who holds which lease now, by the lease's name."""
        table = schema.lease
        query = select(table.c.name, table.c.owner).where(table.c.lease_until > to_milliseconds(self._now()))
        with self._reading() as connection:
            return {row.name: row.owner for row in connection.execute(query)}

    # -- looking after it ---------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Return where the store is, its version, its size in bytes and what it holds, by number."""
        tables = {
            "series": schema.series, "blocks": schema.block, "pending": schema.pending,
            "occurrences": schema.occurrence, "frozen": schema.frozen,
        }
        with self._reading() as connection:
            count = {name: connection.scalar(select(func.count()).select_from(table)) for name, table in tables.items()}
            if self.dialect == "sqlite":
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0
                size = int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar() or 0)
            else:
                size = int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
        target = self._database.target
        return {"target": target, "dialect": self.dialect, "schema": schema.VERSION, "bytes": size, **count}

    def check(self) -> list[str]:
        """Return everything wrong with the store: damaged blocks by series and day, the engine's own findings."""
        problems: list[str] = []
        for look in (self._check_engine, self._check_readings, self.verify_frozen):
            try:
                problems += look()
            except StoreError as e:  # a file cut short fails in the middle of a look; the others may still tell more
                problems.append(str(e))
        return list(dict.fromkeys(problems))

    def _check_engine(self) -> list[str]:
        if self.dialect != "sqlite":
            return []
        with self._reading() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        return [str(text) for text in found if text != "ok"]

    def _check_readings(self) -> list[str]:
        return [one.text for one in self.damaged()]

    def damaged(self) -> list[Damage]:
        """
        Look at every block and every batch in waiting, and return those that fail their checksum.

        Raises:
            StoreVersion: at the first one that a newer harvester wrote.
        """
        found = []
        whose: tuple[Series, ...]
        self.series()
        with self._reading() as connection:
            blocks = select(schema.block.c.id, schema.block.c.data).order_by(schema.block.c.id)
            with connection.execute(blocks.execution_options(yield_per=_CHUNK)) as rows:
                for row in rows:
                    try:
                        self.decoded(row.id, row.data)
                    except DamagedBlock as e:
                        series, day = self._series.get(row.id >> DAY_BITS), (row.id & DAY_MASK) * DAY
                        whose = (series[1],) if series else ()
                        found.append(Damage(str(e), whose, Window.of(day, day + DAY), "block", row.id))
            for row in connection.execute(select(schema.pending).order_by(schema.pending.c.id)).all():
                try:
                    self._rows_of(row.id, row.data)
                except DamagedBlock as e:
                    numbers = range(row.low >> DAY_BITS, (row.high >> DAY_BITS) + 1)
                    whose = tuple(self._series[number][1] for number in numbers if number in self._series)
                    days = Window.of(row.first_day * DAY, (row.last_day + 1) * DAY)
                    found.append(Damage(str(e), whose, days, "pending", row.id))
        return found

    def repair(self) -> list[Damage]:
        """
        Drop what is damaged and the coverage it proved, so that nothing claims it and a collection may bring it again.

        Returns what was dropped: ``window`` of the sources of ``series`` is to be collected again. Coverage that was
        proven for all series of a metric stays proven for those that are not damaged.
        """
        dropped = []
        for one in self.damaged():
            table = schema.metadata.tables[one.table]
            with self._writing(full_sync=True) as connection:
                data = connection.scalar(select(table.c.data).where(table.c.id == one.id))
                if data is None or not self._still_damaged(one, data):
                    continue  # it was repaired, or written anew, since it was looked at
                connection.execute(delete(table).where(table.c.id == one.id))
                self._uncover(connection, one.series, one.window)
            dropped.append(one)
        return dropped

    def _still_damaged(self, one: Damage, data: bytes) -> bool:
        try:
            self.decoded(one.id, data) if one.table == "block" else self._rows_of(one.id, data)
        except DamagedBlock:
            return True
        return False

    def uncover(self, whose: Sequence[Series], window: Window) -> None:
        """Take back what was proven of some series; what was proven for all series stays so for the others."""
        with self._writing(full_sync=True) as connection:
            self._uncover(connection, whose, window)

    def _uncover(self, connection: Connection, whose: Sequence[Series], window: Window) -> None:
        table = schema.coverage
        damaged: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for one in whose:
            damaged[one.source, one.metric.name, one.metric.question].add(labels_text(one.labels))
        for (source, metric, question), labels in damaged.items():
            mine = (table.c.source == source, table.c.metric == metric, table.c.question == question)
            held: dict[str, Window] = defaultdict(Window)
            for row in connection.execute(select(table).where(*mine)):
                held[row.labels] |= Window.of(row.start, row.end)
            everybody = labels_text(None)
            lost = held[everybody] & window
            kept = {name: spans - window if name in labels else spans for name, spans in held.items()}
            kept[everybody] = held[everybody] - window
            others = select(schema.series.c.labels).where(
                schema.series.c.source == source, schema.series.c.metric == metric
            )
            for name in set(connection.scalars(others)) - labels:
                kept[name] = kept.get(name, Window()) | lost
            connection.execute(delete(table).where(*mine))
            rows = [
                {"source": source, "metric": metric, "labels": name, "question": question, "start": start, "end": end}
                for name, spans in kept.items()
                for start, end in spans.spans
            ]
            self._database.upsert(connection, table, rows)

    def sync(self, *, compact: bool = False) -> None:
        """
        Fold what is pending and, on SQLite, bring the write-ahead log into the file.

        With ``compact`` the file is written anew without the gaps that days between days leave (a fifth and more of
        it); others may read meanwhile, not write, and it needs as much space again for that long.
        """
        self.fold()
        if self.dialect == "sqlite":
            with self._database.outside() as connection:
                if compact:
                    connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # The last method, since its name hides the builtin from the annotations after it.
    def list(self, kind: str) -> list[dict[str, Any]]:
        """Return the latest revision of every document of a kind, in the order they first appeared."""
        table = schema.document
        latest = (
            select(func.max(table.c.revision).label("revision"), func.min(table.c.revision).label("first"))
            .where(table.c.kind == kind)
            .group_by(table.c.id)
            .subquery()
        )
        query = select(table.c.data).join(latest, table.c.revision == latest.c.revision).order_by(latest.c.first)
        with self._reading() as connection:
            return [dict(json.loads(text)) for text in connection.scalars(query) if text is not None]


# ---------------------------------------------------------------------------------------------------------------------
# Helpers
# ---------------------------------------------------------------------------------------------------------------------


def _day_ranges(window: Window) -> list[tuple[int, int]]:
    """Return the first and last days to look at; an open-ended window is clamped, so that ids stay within a series."""
    days = Window(tuple((max(start // DAY, 0), min((end - 1) // DAY, DAY_MASK) + 1) for start, end in window.spans))
    if len(days.spans) > _MOST_RANGES:
        days = Window.of(days.start, days.end)
    return [(first, end - 1) for first, end in days.spans]


def _cut(columns: Columns, window: Window, series: Series) -> Columns:
    """Return the readings inside the window, of intervals those that are wholly inside one span."""
    length = 0 if series.metric.shape is Shape.LEVEL else series.metric.step
    edges = [edge for start, end in window.spans for edge in (start, end - max(length, 1) + 1)]
    places = np.searchsorted(columns.at, np.array(edges, np.int64)).tolist()
    parts = [columns.part(low, high) for low, high in zip(places[::2], places[1::2], strict=True) if low < high]
    if not parts:
        return columns.part(0, 0)
    return parts[0] if len(parts) == 1 else merge(parts)


def _starts(rows: Sequence[Any]) -> Any:
    return np.array([row.start for row in rows], np.int64)


def _empty(series: Series) -> Readings:
    if series.metric.shape is Shape.EVENT:
        return _occurrences(series, ())
    columns = empty_columns(series)
    return readings_of(series, columns)


def _occurrences(series: Series, rows: Sequence[Any]) -> Occurrences:
    return Occurrences(
        series,
        tuple(row.id for row in rows),
        np.array([row.revision for row in rows], np.int64),
        _starts(rows),
        np.array([row.end for row in rows], np.int64),
        tuple(json.loads(row.attributes) for row in rows),
    )


def _chain(last: str, digest: str, created: int, note: str) -> str:
    return hashlib.sha256(f"{last}\n{digest}\n{created}\n{note}".encode()).hexdigest()
