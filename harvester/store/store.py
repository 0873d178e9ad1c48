"""
Readings in, readings out.

Writing is optimistic: blocks are read, merged and encoded outside any lock; a short ``BEGIN IMMEDIATE`` checks that
nobody changed them meanwhile and writes. Small batches wait as pending rows, which readers merge last and ``fold``
turns into blocks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, delete, event, func, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from harvester.connector import Batch
from harvester.errors import DamagedBlock, StoreError, StoreVersion
from harvester.readings import (
    DAY,
    Better,
    Labels,
    Metric,
    Occurrences,
    Readings,
    Series,
    Shape,
    Silence,
    Window,
    labels_of,
    to_datetime,
    to_milliseconds,
)
from harvester.store import schema
from harvester.store.migrations import STEPS
from harvester.store.records import Collection, FrozenCopy, Lease, Written

if TYPE_CHECKING:
    from harvester.store.codec import Columns

_DAY_BITS = 20
_DAY_MASK = (1 << _DAY_BITS) - 1
_MOST_PENDING_READINGS = 64
"""A series' day with fewer new readings than this waits as a pending row."""
_FOLD_AT = 20_000
"""Pending rows are folded at the latest when there are this many."""
_ANY = "*"
_CHUNK = 500


def utc_now() -> datetime:
    """Return the time of day, aware."""
    return datetime.now(UTC)


class Store:
    """
    One open store; may be used from several threads.

    Every method that fails raises a ``StoreError`` whose text names no password.
    """

    def __init__(self, engine: Engine, target: str, now: Callable[[], datetime]) -> None:
        """Wrap an engine whose schema is up to date; use ``open``."""
        self._engine = engine
        self._target = target
        self._now = now
        self._series: dict[int, Series] = {}
        self._ids: dict[Series, int] = {}
        self._lock = threading.RLock()

    # -- opening ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, url: str, *, create: bool = True, now: Callable[[], datetime] = utc_now) -> Store:
        """
        Open a store by its SQLAlchemy URL or a plain path, creating or migrating it where needed.

        Raises:
            StoreVersion: if a newer harvester wrote it.
            StoreError: if it cannot be opened, is no store, or is missing and ``create`` is false.
        """
        if "://" not in url:
            url = f"sqlite:///{url}"
        try:
            parsed = make_url(url)
        except ArgumentError as e:
            raise StoreError("open store", "[store] url", "is not a database URL", hint="sqlite:///PATH") from e
        target = parsed.database or "memory" if parsed.get_backend_name() == "sqlite" else parsed.render_as_string()
        path = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
        if path is not None:
            _prepare_file(path, create)
        try:
            engine = _engine(parsed)
        except (NoSuchModuleError, ImportError) as e:
            raise StoreError(
                "open store", target, "the driver for this database is not installed",
                hint="pip install 'harvester[postgres]' and use postgresql+psycopg://",
            ) from e
        store = cls(engine, target, now)
        try:
            with store._guard("open store"):
                store._migrate(path)
                if path is not None:
                    path.chmod(0o600)
        except BaseException:
            engine.dispose()
            raise
        return store

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    def _migrate(self, path: Path | None) -> None:
        with self._read() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            found = (
                connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == "schema_version"))
                if "meta" in tables
                else None
            )
        if found is None:
            if tables:
                raise StoreError(
                    "open store", self._target, "is a database of something else",
                    hint="give harvester a file or database of its own in [store] url",
                )
            with self._write(full_sync=True) as connection:
                schema.metadata.create_all(connection)
                if self.dialect == "postgresql":
                    for table, column in (("block", "data"), ("pending", "data"), ("frozen", "content")):
                        connection.execute(sa.text(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL"))
                self._upsert(connection, schema.meta, [{"key": "schema_version", "value": str(schema.VERSION)}])
            return
        version = int(found)
        if version > schema.VERSION:
            raise StoreVersion(
                "open store", self._target,
                f"has schema version {version}, this harvester knows up to {schema.VERSION}",
                hint="upgrade harvester; nothing was changed",
            )
        if version < schema.VERSION:
            if path is not None:
                shutil.copy2(path, path.with_suffix(f".v{version}.backup"))
            with self._write(full_sync=True) as connection:
                for number in range(version, schema.VERSION):
                    STEPS[number](connection)
                self._upsert(connection, schema.meta, [{"key": "schema_version", "value": str(schema.VERSION)}])

    # -- connections --------------------------------------------------------------------------------------------------

    @contextmanager
    def _guard(self, operation: str) -> Iterator[None]:
        try:
            yield
        except DBAPIError as e:
            raise _store_error(operation, self._target, e) from e
        except SQLAlchemyError as e:
            raise StoreError(operation, self._target, type(e).__name__, hint="is the store reachable?") from e

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _write(self, *, full_sync: bool = False) -> Iterator[Connection]:
        options = {"harvester_begin": "IMMEDIATE", "harvester_full": full_sync}
        with self._engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def _upsert(self, connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        insert = _insert_of(self.dialect)(table)
        keys = [column.name for column in table.primary_key]
        changed = {name: insert.excluded[name] for name in rows[0] if name not in keys}
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))

    # -- series -------------------------------------------------------------------------------------------------------

    def series(self, *, source: str | None = None, metric: str | None = None) -> list[Series]:
        """Return the stored series, in the order they first appeared."""
        query = select(schema.series).order_by(schema.series.c.id)
        if source is not None:
            query = query.where(schema.series.c.source == source)
        if metric is not None:
            query = query.where(schema.series.c.metric == metric)
        with self._guard("read"), self._read() as connection:
            return [self._remember(row) for row in connection.execute(query)]

    def _remember(self, row: Any) -> Series:
        known = self._series.get(row.id)
        if known is None:
            known = Series(row.source, _metric_from(row.specification), _labels_from(row.labels))
            with self._lock:
                self._series[row.id] = known
                self._ids[known] = row.id
        return known

    def _id_of(self, wanted: Sequence[Series]) -> list[int | None]:
        if any(one not in self._ids for one in wanted):
            self.series()
        return [self._ids.get(one, self._ids_by_definition().get(_identity(one))) for one in wanted]

    def _ids_by_definition(self) -> dict[tuple[str, str, Labels, str], int]:
        with self._lock:
            return {_identity(one): number for one, number in self._ids.items()}

    def _register(self, wanted: Iterable[Series]) -> dict[Series, int]:
        """Return ids of series, giving new ones an id; what a metric says beside its definition is kept up to date."""
        wanted = list(dict.fromkeys(wanted))
        missing = [one for one in wanted if one not in self._ids]
        if missing:
            rows = [
                {
                    "source": one.source,
                    "metric": one.metric.name,
                    "labels": _labels_text(one.labels),
                    "definition": one.metric.definition,
                    "shape": str(one.metric.shape),
                    "unit": one.metric.unit,
                    "specification": _metric_text(one.metric),
                }
                for one in missing
            ]
            insert = _insert_of(self.dialect)(schema.series)
            statement = insert.on_conflict_do_update(
                index_elements=["source", "metric", "labels", "definition"],
                set_={"specification": insert.excluded.specification},
            )
            with self._write() as connection:
                connection.execute(statement, rows)
            with self._lock:
                self._series.clear()
                self._ids.clear()
            self.series()
        known = self._ids_by_definition()
        return {one: known[_identity(one)] for one in wanted}

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, source: str, batch: Batch, *, full_sync: bool = False) -> Written:
        """
        Store readings, coverage and state of a batch in one transaction.

        Readings merge by (series, instant), the last one wins; what is equal writes nothing, what is missing deletes
        nothing. Occurrences merge by their id, the higher revision wins.
        """
        with self._guard(f"write readings of {source} to"):
            return self._commit(source, batch, full_sync)

    def _commit(self, source: str, batch: Batch, full_sync: bool) -> Written:
        import numpy as np

        from harvester.store.codec import columns_of, encode

        ids = self._register(one.series for one in batch.readings)
        parts: dict[int, list[Columns]] = defaultdict(list)
        steps: dict[int, int] = {}
        buckets: set[int] = set()
        occurrences: list[Occurrences] = []
        for readings in batch.readings:
            if isinstance(readings, Occurrences):
                occurrences.append(readings)
                continue
            if not len(readings):
                continue
            metric, number = readings.series.metric, ids[readings.series]
            columns = columns_of(readings)
            days = columns.at // DAY
            cuts = np.flatnonzero(np.diff(days)) + 1
            for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(days)], strict=True):
                key = number << _DAY_BITS | int(days[low])
                parts[key].append(columns.part(low, high))
                steps[key] = metric.step
                if metric.shape is Shape.DISTRIBUTION and not metric.bounds:
                    buckets.add(key)
        small = {
            key for key, group in parts.items() if sum(len(one) for one in group) < _MOST_PENDING_READINGS
        } if parts else set()
        held, waiting = self._held(parts)
        merged: dict[int, tuple[bytes | None, bytes]] = {}
        pend: list[tuple[int, bytes]] = []
        changed = 0
        for key, group in parts.items():
            old = [_decoded(self, key, one) for one in (held.get(key), *waiting.get(key, ())) if one is not None]
            fresh, count = _merged(old, group, key in buckets)
            if not count:
                continue
            changed += count
            if key in small and held.get(key) is not None:
                new, _ = _merged([], group, key in buckets)
                pend.append((key, encode(new, steps[key])))
            else:
                merged[key] = (held.get(key), encode(fresh, steps[key]))
        with self._write(full_sync=full_sync) as connection:
            blocks = self._put_blocks(connection, merged, parts, steps, buckets)
            if pend:
                connection.execute(schema.pending.insert(), [{"block": key, "data": data} for key, data in pend])
            for one in occurrences:
                count = self._put_occurrences(connection, ids[one.series], one)
                changed += count
                blocks += count
            self._put_coverage(connection, source, batch)
            if batch.state is not None:
                self._upsert(connection, schema.state, [{"source": source, "data": json.dumps(dict(batch.state))}])
        if pend and self._pending_count() > _FOLD_AT:
            self.fold()
        return Written(changed, blocks + len(pend))

    def _held(self, keys: Iterable[int]) -> tuple[dict[int, bytes], dict[int, list[bytes]]]:
        """Return the blocks and the pending rows of the given keys."""
        held: dict[int, bytes] = {}
        waiting: dict[int, list[bytes]] = defaultdict(list)
        wanted = sorted(keys)
        with self._read() as connection:
            for low in range(0, len(wanted), _CHUNK):
                chunk = wanted[low : low + _CHUNK]
                rows = connection.execute(select(schema.block).where(schema.block.c.id.in_(chunk)))
                held.update((row.id, row.data) for row in rows)
                query = select(schema.pending.c.block, schema.pending.c.data).order_by(schema.pending.c.id)
                for row in connection.execute(query.where(schema.pending.c.block.in_(chunk))):
                    waiting[row.block].append(row.data)
        return held, waiting

    def _put_blocks(
        self,
        connection: Connection,
        merged: Mapping[int, tuple[bytes | None, bytes]],
        parts: Mapping[int, list[Columns]],
        steps: Mapping[int, int],
        buckets: set[int],
    ) -> int:
        from harvester.store.codec import encode

        wanted = list(merged)
        current: dict[int, bytes] = {}
        head = func.substr(schema.block.c.data, 1, 4)
        for low in range(0, len(wanted), _CHUNK):
            rows = connection.execute(
                select(schema.block.c.id, head.label("head"), func.length(schema.block.c.data).label("size")).where(
                    schema.block.c.id.in_(wanted[low : low + _CHUNK])
                )
            )
            current.update((row.id, bytes(row.head) + struct.pack("<Q", row.size)) for row in rows)
        rows = []
        for key, (old, new) in merged.items():
            seen = None if old is None else bytes(old[:4]) + struct.pack("<Q", len(old))
            data = new
            if current.get(key) != seen:  # somebody wrote this day meanwhile: merge with what is there now
                now_held = connection.scalar(select(schema.block.c.data).where(schema.block.c.id == key))
                base = [] if now_held is None else [_decoded(self, key, now_held)]
                fresh, _ = _merged(base, parts[key], key in buckets)
                data = encode(fresh, steps[key])
            rows.append({"id": key, "data": data})
        self._upsert(connection, schema.block, rows)
        return len(rows)

    def _put_occurrences(self, connection: Connection, number: int, readings: Occurrences) -> int:
        table = schema.occurrence
        held: dict[str, tuple[int, int, int, str]] = {}
        for low in range(0, len(readings), _CHUNK):
            query = select(table).where(table.c.series == number, table.c.id.in_(readings.id[low : low + _CHUNK]))
            held.update((row.id, (row.revision, row.start, row.end, row.attributes)) for row in connection.execute(query))
        rows = []
        for index, name in enumerate(readings.id):
            attributes = json.dumps(dict(readings.attributes[index]), sort_keys=True)
            new = (int(readings.revision[index]), int(readings.start[index]), int(readings.end[index]), attributes)
            old = held.get(name)
            if old is None or (old != new and new[0] >= old[0]):
                rows.append(
                    {
                        "series": number, "id": name, "revision": new[0], "start": new[1], "end": new[2],
                        "attributes": attributes,
                    }
                )
        self._upsert(connection, table, rows)
        return len(rows)

    def _put_coverage(self, connection: Connection, source: str, batch: Batch) -> None:
        if not batch.coverage:
            return
        table = schema.coverage
        new: dict[tuple[str, str], Window] = {}
        for one in batch.coverage:
            key = (one.metric, _ANY if one.labels is None else _labels_text(one.labels))
            new[key] = new.get(key, Window()) | one.window
        held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        rows = connection.execute(
            select(table).where(table.c.source == source, table.c.metric.in_({metric for metric, _ in new}))
        )
        for row in rows:
            held[row.metric, row.labels].append((row.start, row.end))
        gone: list[dict[str, Any]] = []
        fresh: list[dict[str, Any]] = []
        for (metric, labels), window in new.items():
            old = set(held[metric, labels])
            spans = set((Window(tuple(old)) | window).spans)
            name = {"source": source, "metric": metric, "labels": labels}
            gone += [{**name, "start": start} for start, end in old - spans]
            fresh += [{**name, "start": start, "end": end} for start, end in spans - old]
        if gone:
            where = [table.c[name] == sa.bindparam(f"b_{name}") for name in ("source", "metric", "labels", "start")]
            connection.execute(delete(table).where(*where), [{f"b_{k}": v for k, v in row.items()} for row in gone])
        self._upsert(connection, table, fresh)

    def _pending_count(self) -> int:
        with self._read() as connection:
            return int(connection.scalar(select(func.count()).select_from(schema.pending)) or 0)

    def fold(self) -> int:
        """Fold every pending row into its day's block and return how many there were."""
        from harvester.store.codec import encode

        with self._guard("fold"):
            with self._read() as connection:
                rows = connection.execute(select(schema.pending).order_by(schema.pending.c.id)).all()
            by_block: dict[int, list[Any]] = defaultdict(list)
            for row in rows:
                by_block[row.block].append(row)
            keys = sorted(by_block)
            self.series()
            for low in range(0, len(keys), _CHUNK):
                chunk = keys[low : low + _CHUNK]
                held, _ = self._held(chunk)
                merged: dict[int, tuple[bytes | None, bytes]] = {}
                parts: dict[int, list[Columns]] = {}
                steps: dict[int, int] = {}
                buckets: set[int] = set()
                for key in chunk:
                    metric = self._series[key >> _DAY_BITS].metric
                    if metric.shape is Shape.DISTRIBUTION and not metric.bounds:
                        buckets.add(key)
                    steps[key] = metric.step
                    parts[key] = [_decoded(self, key, row.data) for row in by_block[key]]
                    old = [] if key not in held else [_decoded(self, key, held[key])]
                    fresh, _ = _merged(old, parts[key], key in buckets)
                    merged[key] = (held.get(key), encode(fresh, metric.step))
                with self._write() as connection:
                    self._put_blocks(connection, merged, parts, steps, buckets)
                    done = [row.id for key in chunk for row in by_block[key]]
                    for start in range(0, len(done), _CHUNK):
                        connection.execute(
                            delete(schema.pending).where(schema.pending.c.id.in_(done[start : start + _CHUNK]))
                        )
            return len(rows)

    # -- reading ------------------------------------------------------------------------------------------------------

    def state(self, source: str) -> dict[str, Any]:
        """Return what the source's connector asked to be told next time; empty at first."""
        with self._guard("read"), self._read() as connection:
            text = connection.scalar(select(schema.state.c.data).where(schema.state.c.source == source))
        return dict(json.loads(text)) if text else {}

    def read(self, series: Sequence[Series], window: Window) -> list[Readings]:
        """
        Return the readings of each series inside the window, in the order asked for; empty ones where none are held.

        Raises:
            DamagedBlock: naming series and day, if a block's checksum does not hold.
        """
        if not series or not window:
            return [_empty(one) for one in series]
        with self._guard("read"):
            numbers = self._id_of(series)
            found = {number for number in numbers if number is not None}
            columns = self._columns(found, window)
            events = self._events({n for n in found if self._series[n].metric.shape is Shape.EVENT}, window)
        from harvester.store.codec import readings_of

        results: list[Readings] = []
        for one, number in zip(series, numbers, strict=True):
            if number is not None and number in events:
                results.append(_occurrences(one, events[number]))
            elif number is not None and number in columns:
                results.append(readings_of(one, columns[number]).within(window))
            else:
                results.append(_empty(one))
        return results

    def _columns(self, numbers: set[int], window: Window) -> dict[int, Columns]:
        from harvester.store.codec import merge, trimmed

        if not numbers:
            return {}
        # Clamped, so that the days of an open-ended window stay inside their bits of the id.
        first, last = max(window.start // DAY, 0), min((window.end - 1) // DAY, _DAY_MASK)
        if first > last:
            return {}
        rows = self._rows(schema.block.c.id, schema.block.c.data, numbers, first, last)
        extra = self._rows(schema.pending.c.block, schema.pending.c.data, numbers, first, last, schema.pending.c.id)
        parts: dict[int, list[Columns]] = defaultdict(list)
        for key, data in [*sorted(rows, key=lambda row: row[0]), *extra]:
            parts[key >> _DAY_BITS].append(_decoded(self, key, data))
        result = {}
        for number, group in parts.items():
            metric = self._series[number].metric
            buckets = metric.shape is Shape.DISTRIBUTION and not metric.bounds
            whole = merge(group, buckets=buckets)
            result[number] = trimmed(whole) if buckets else whole
        return result

    def _rows(
        self, key: Any, data: Any, numbers: set[int], first: int, last: int, order: Any = None
    ) -> list[tuple[int, bytes]]:
        """Return (key, data) rows of series within days: one range of ids for each run of consecutive series."""
        ordered = sorted(numbers)
        rows: list[tuple[int, bytes]] = []
        with self._read() as connection:
            for low in range(0, len(ordered), 200):
                chunk = ordered[low : low + 200]
                ranges = [key.between(one << _DAY_BITS | first, one << _DAY_BITS | last) for one in chunk]
                query = select(key, data).where(sa.or_(*ranges))
                if order is not None:
                    query = query.order_by(order)
                rows += [(row[0], row[1]) for row in connection.execute(query)]
        return rows

    def _events(self, numbers: set[int], window: Window) -> dict[int, list[Any]]:
        if not numbers:
            return {}
        table = schema.occurrence
        spans = sa.or_(*(sa.and_(table.c.start >= start, table.c.start < end) for start, end in window.spans))
        query = select(table).where(table.c.series.in_(numbers), spans).order_by(table.c.start, table.c.id)
        found: dict[int, list[Any]] = {number: [] for number in numbers}
        with self._read() as connection:
            for row in connection.execute(query):
                found[row.series].append(row)
        return found

    def coverage(self, source: str, metric: str, labels: Labels | None) -> Window:
        """Return the spans proven complete for a series: what was proven for it and for its whole metric."""
        table = schema.coverage
        names = {_ANY} if labels is None else {_ANY, _labels_text(labels)}
        query = select(table.c.start, table.c.end).where(
            table.c.source == source, table.c.metric == metric, table.c.labels.in_(names)
        )
        with self._guard("read"), self._read() as connection:
            return Window(tuple((row.start, row.end) for row in connection.execute(query)))

    def extent(self, series: Sequence[Series]) -> list[tuple[int, int] | None]:
        """Return the days each series has readings on, as ``[start, end)`` in milliseconds, or None where it has none."""
        with self._guard("read"):
            numbers = self._id_of(series)
            found: dict[int, tuple[int, int]] = {}
            number_of = schema.block.c.id.op(">>")(_DAY_BITS)
            with self._read() as connection:
                query = select(number_of.label("number"), func.min(schema.block.c.id), func.max(schema.block.c.id))
                for number, low, high in connection.execute(query.group_by(number_of)):
                    found[number] = ((low & _DAY_MASK) * DAY, ((high & _DAY_MASK) + 1) * DAY)
                table = schema.occurrence
                query = select(table.c.series, func.min(table.c.start), func.max(table.c.start)).group_by(table.c.series)
                for number, low, high in connection.execute(query):
                    found[number] = (low // DAY * DAY, (high // DAY + 1) * DAY)
        return [None if number is None else found.get(number) for number in numbers]

    # -- collections --------------------------------------------------------------------------------------------------

    def record_collection(self, record: Collection) -> Collection:
        """Keep the record of a collection and return it with its digest."""
        data = asdict(replace(record, digest=""))
        data["window"], data["covered"] = record.window.spans, record.covered.spans
        text = json.dumps(data, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        data["digest"] = digest
        with self._guard("write"), self._write() as connection:
            connection.execute(schema.collection.insert(), {"source": record.source, "data": json.dumps(data)})
        return replace(record, digest=digest)

    def collections(self, source: str | None = None, limit: int = 20) -> list[Collection]:
        """Return records of collections, the newest first."""
        query = select(schema.collection.c.data).order_by(schema.collection.c.id.desc()).limit(limit)
        if source is not None:
            query = query.where(schema.collection.c.source == source)
        with self._guard("read"), self._read() as connection:
            found = [json.loads(text) for text in connection.scalars(query)]
        return [
            Collection(
                **{
                    **data,
                    "window": _window(data["window"]),
                    "covered": _window(data["covered"]),
                    "notes": tuple(data["notes"]),
                }
            )
            for data in found
        ]

    # -- documents ----------------------------------------------------------------------------------------------------

    def put(self, kind: str, id: str, data: Mapping[str, Any], *, full_sync: bool = True) -> None:  # noqa: A002
        """Keep a document; earlier revisions stay. Durable when it returns."""
        self._put_document(kind, id, json.dumps(data), full_sync)

    def delete(self, kind: str, id: str) -> None:  # noqa: A002
        """Forget a document; its revisions stay."""
        self._put_document(kind, id, None, True)

    def _put_document(self, kind: str, name: str, data: str | None, full_sync: bool) -> None:
        row = {"kind": kind, "id": name, "at": to_milliseconds(self._now()), "data": data}
        with self._guard("write"), self._write(full_sync=full_sync) as connection:
            connection.execute(schema.document.insert(), row)

    def get(self, kind: str, id: str) -> dict[str, Any] | None:  # noqa: A002
        """Return the latest revision of a document, or None."""
        table = schema.document
        query = select(table.c.data).where(table.c.kind == kind, table.c.id == id).order_by(table.c.revision.desc())
        with self._guard("read"), self._read() as connection:
            text = connection.scalar(query.limit(1))
        return None if text is None else dict(json.loads(text))

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
        with self._guard("read"), self._read() as connection:
            return [dict(json.loads(text)) for text in connection.scalars(query) if text is not None]

    def put_once(self, kind: str, id: str, data: Mapping[str, Any]) -> dict[str, Any]:  # noqa: A002
        """Keep data under a name nobody used before, or leave what is there; return what is kept."""
        table = schema.once
        insert = _insert_of(self.dialect)(table).on_conflict_do_nothing(index_elements=["kind", "id"])
        with self._guard("write"), self._write(full_sync=True) as connection:
            connection.execute(insert, {"kind": kind, "id": id, "data": json.dumps(data)})
            text = connection.scalar(select(table.c.data).where(table.c.kind == kind, table.c.id == id))
        return dict(json.loads(text or "{}"))

    # -- frozen copies ------------------------------------------------------------------------------------------------

    def freeze(
        self, readings: Sequence[Readings], coverage: Mapping[Series, Window], *, window: Window, note: str
    ) -> str:
        """
        Keep a copy of readings that never changes again, and return its address, the SHA-256 of its content.

        Each copy is chained to the one before it; the same content is kept once.
        """
        content = _freeze_content(readings, coverage, window)
        digest = hashlib.sha256(content).hexdigest()
        created = to_milliseconds(self._now())
        table = schema.frozen
        with self._guard("freeze in"), self._write(full_sync=True) as connection:
            if connection.scalar(select(table.c.digest).where(table.c.digest == digest)) is None:
                last = connection.scalar(select(table.c.chain).order_by(table.c.number.desc()).limit(1)) or ""
                row = {"digest": digest, "previous": last, "created": created, "note": note, "content": content}
                connection.execute(table.insert(), {**row, "chain": _chain(last, digest, created, note)})
        return digest

    def frozen(self, digest: str) -> FrozenCopy:
        """
        Return a frozen copy.

        Raises:
            StoreError: if there is none, or its content no longer matches its address.
        """
        table = schema.frozen
        with self._guard("read"), self._read() as connection:
            row = connection.execute(select(table).where(table.c.digest == digest)).one_or_none()
        if row is None:
            raise StoreError("read frozen copy", digest[:12], "is not in this store", hint="was the store replaced?")
        if hashlib.sha256(row.content).hexdigest() != digest:
            raise StoreError("read frozen copy", digest[:12], "its content was altered", hint="restore a backup")
        window, readings, coverage = _thaw_content(row.content)
        return FrozenCopy(digest, row.previous, row.created, row.note, window, tuple(readings), coverage)

    def verify_frozen(self) -> list[str]:
        """Return what is wrong with the frozen copies and their chain; nothing means all is well."""
        problems = []
        last = ""
        with self._guard("read"), self._read() as connection:
            for row in connection.execute(select(schema.frozen).order_by(schema.frozen.c.number)):
                if hashlib.sha256(row.content).hexdigest() != row.digest:
                    problems.append(f"frozen copy {row.digest[:12]} was altered")
                if row.previous != last or row.chain != _chain(last, row.digest, row.created, row.note):
                    problems.append(f"the chain is broken at frozen copy {row.digest[:12]}")
                last = row.chain
        return problems

    # -- leases -------------------------------------------------------------------------------------------------------

    def due(self, name: str) -> int | None:
        """Return when something is due, milliseconds UTC, or None if that was never said."""
        with self._guard("read"), self._read() as connection:
            return connection.scalar(select(schema.lease.c.due).where(schema.lease.c.name == name))

    def set_due(self, name: str, at: int) -> None:
        """Say when something is due."""
        table = schema.lease
        insert = _insert_of(self.dialect)(table)
        statement = insert.on_conflict_do_update(index_elements=["name"], set_={"due": insert.excluded.due})
        with self._guard("write"), self._write() as connection:
            connection.execute(statement, {"name": name, "due": at, "owner": "", "lease_until": 0, "fence": 0})

    def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        """Take the lease of that name for some seconds and return it, or None while another holds it."""
        table = schema.lease
        now = to_milliseconds(self._now())
        blank = {"name": name, "owner": "", "lease_until": 0, "fence": 0}
        insert = _insert_of(self.dialect)(table).on_conflict_do_nothing(index_elements=["name"])
        with self._guard("lease in"), self._write() as connection:
            connection.execute(insert, blank)
            query = select(table.c.owner, table.c.lease_until, table.c.fence).where(table.c.name == name)
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if row is None or (row.lease_until > now and row.owner != owner):
                return None
            fence = row.fence + 1
            until = now + round(seconds * 1000)
            connection.execute(
                update(table).where(table.c.name == name).values(owner=owner, lease_until=until, fence=fence)
            )
        return Lease(name, owner, fence)

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Hold a lease for some more seconds; false if somebody else took it meanwhile."""
        return self._touch(lease, to_milliseconds(self._now()) + round(seconds * 1000))

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        self._touch(lease, 0)

    def _touch(self, lease: Lease, until: int) -> bool:
        table = schema.lease
        mine = (table.c.name == lease.name, table.c.fence == lease.fence, table.c.owner == lease.owner)
        with self._guard("lease in"), self._write() as connection:
            return bool(connection.execute(update(table).where(*mine).values(lease_until=until)).rowcount)

    def holder(self, name: str) -> str | None:
        """Return who holds the lease of that name now, or None."""
        table = schema.lease
        query = select(table.c.owner, table.c.lease_until).where(table.c.name == name)
        with self._guard("read"), self._read() as connection:
            row = connection.execute(query).one_or_none()
        return row.owner if row is not None and row.lease_until > to_milliseconds(self._now()) else None

    # -- looking after it ---------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Return where the store is, its version and its size."""
        with self._guard("read"), self._read() as connection:
            count = {
                name: connection.scalar(select(func.count()).select_from(table))
                for name, table in (("series", schema.series), ("blocks", schema.block), ("pending", schema.pending))
            }
            if self.dialect == "sqlite":
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0
                size = int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar() or 0)
            else:
                size = int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
        return {"target": self._target, "dialect": self.dialect, "schema": schema.VERSION, "bytes": size, **count}

    def check(self) -> list[str]:
        """Return everything wrong with the store: damaged blocks by series and day, the engine's own findings."""
        problems = []
        with self._guard("check"):
            self.series()
            with self._read() as connection:
                if self.dialect == "sqlite":
                    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
                    problems += [str(text) for text in found if text != "ok"]
                for row in connection.execute(select(schema.block.c.id, schema.block.c.data).order_by(schema.block.c.id)):
                    try:
                        _decoded(self, row.id, row.data)
                    except DamagedBlock as e:
                        problems.append(str(e))
        return problems + self.verify_frozen()

    def sync(self) -> None:
        """Fold what is pending and, on SQLite, bring the write-ahead log into the file."""
        self.fold()
        if self.dialect == "sqlite":
            with self._guard("sync"), self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


# ---------------------------------------------------------------------------------------------------------------------
# Helpers
# ---------------------------------------------------------------------------------------------------------------------


def _decoded(store: Store, key: int, data: bytes) -> Columns:
    from harvester.store.codec import CodecError, NewerFormatError, decode

    try:
        return decode(data)
    except (CodecError, ValueError, struct.error, RuntimeError) as e:
        series = store._series.get(key >> _DAY_BITS)  # noqa: SLF001  a function of this class
        day = to_datetime((key & _DAY_MASK) * DAY).date()
        target = f"{series or f'series {key >> _DAY_BITS}'} on {day}"
        if isinstance(e, NewerFormatError):
            raise StoreVersion("read", target, str(e), hint="upgrade harvester") from e
        raise DamagedBlock(
            "read", target, f"its block is damaged ({e})", hint="the other days are readable; restore a backup"
        ) from e


def _merged(old: list[Columns], new: list[Columns], buckets: bool) -> tuple[Columns, int]:
    """Return old and new readings joined, and how many of the result are new or different."""
    import numpy as np

    from harvester.store.codec import merge, trimmed

    fresh = merge([*old, *new], buckets=buckets)
    if buckets:
        fresh = trimmed(fresh)
    if not old:
        return fresh, len(fresh)
    before = merge(old, buckets=buckets)
    if buckets:
        before = trimmed(before)
    if before.values.shape[0] != fresh.values.shape[0] or before.first != fresh.first:
        return fresh, sum(len(one) for one in new)
    place = np.searchsorted(before.at, fresh.at)
    known = np.zeros(len(fresh), bool)
    inside = place < len(before)
    known[inside] = before.at[place[inside]] == fresh.at[inside]
    same = np.zeros(len(fresh), bool)
    left = np.ascontiguousarray(fresh.values[:, known]).view(np.int64)
    right = np.ascontiguousarray(before.values[:, place[known]]).view(np.int64)
    same[known] = (left == right).all(axis=0)
    return fresh, int((~same).sum())


def _empty(series: Series) -> Readings:
    import numpy as np

    from harvester.store.codec import empty_columns, readings_of

    if series.metric.shape is Shape.EVENT:
        none = np.empty(0, np.int64)
        return Occurrences(series, (), none, none, none, ())
    columns = empty_columns(series)
    if series.metric.shape is Shape.DISTRIBUTION and not series.metric.bounds:
        columns = replace(columns, values=np.empty((3, 0)))
    return readings_of(series, columns)


def _occurrences(series: Series, rows: Sequence[Any]) -> Occurrences:
    import numpy as np

    return Occurrences(
        series,
        tuple(row.id for row in rows),
        np.array([row.revision for row in rows], np.int64),
        np.array([row.start for row in rows], np.int64),
        np.array([row.end for row in rows], np.int64),
        tuple(json.loads(row.attributes) for row in rows),
    )


def _identity(series: Series) -> tuple[str, str, Labels, str]:
    return series.source, series.metric.name, series.labels, series.metric.definition


def _labels_text(labels: Labels) -> str:
    return json.dumps(labels, separators=(",", ":"))


def _labels_from(text: str) -> Labels:
    return labels_of((name, value) for name, value in json.loads(text))


def _metric_text(metric: Metric) -> str:
    return json.dumps(asdict(metric), sort_keys=True)


def _metric_from(text: str) -> Metric:
    data = json.loads(text)
    return Metric(
        **{
            **data,
            "shape": Shape(data["shape"]),
            "better": Better(data["better"]),
            "silence": Silence(data["silence"]),
            "statistics": tuple(data["statistics"]),
            "bounds": tuple(data["bounds"]),
        }
    )


def _window(spans: Sequence[Sequence[int]]) -> Window:
    return Window(tuple((start, end) for start, end in spans))


def _chain(last: str, digest: str, created: int, note: str) -> str:
    return hashlib.sha256(f"{last}\n{digest}\n{created}\n{note}".encode()).hexdigest()


def _freeze_content(readings: Sequence[Readings], coverage: Mapping[Series, Window], window: Window) -> bytes:
    from harvester.store.codec import columns_of, encode

    ordered = sorted(readings, key=lambda one: (one.series.source, one.series.metric.name, one.series.labels))
    heads, bodies = [], []
    for one in ordered:
        if isinstance(one, Occurrences):
            columns = [one.revision.tolist(), one.start.tolist(), one.end.tolist()]
            body = json.dumps([one.id, *columns, [dict(each) for each in one.attributes]], sort_keys=True).encode()
        else:
            body = encode(columns_of(one), one.series.metric.step)
        bodies.append(body)
        heads.append(
            {
                "source": one.series.source,
                "labels": one.series.labels,
                "metric": json.loads(_metric_text(one.series.metric)),
                "coverage": coverage.get(one.series, Window()).spans,
                "bytes": len(body),
            }
        )
    head = json.dumps({"format": 1, "window": window.spans, "series": heads}, sort_keys=True).encode()
    return struct.pack("<I", len(head)) + head + b"".join(bodies)


def _thaw_content(content: bytes) -> tuple[Window, list[Readings], dict[Series, Window]]:
    import numpy as np

    from harvester.store.codec import decode, readings_of

    (length,) = struct.unpack_from("<I", content)
    head = json.loads(content[4 : 4 + length])
    position = 4 + length
    readings: list[Readings] = []
    coverage: dict[Series, Window] = {}
    for one in head["series"]:
        series = Series(one["source"], _metric_from(json.dumps(one["metric"])), labels_of(map(tuple, one["labels"])))
        body = content[position : position + one["bytes"]]
        position += one["bytes"]
        if series.metric.shape is Shape.EVENT:
            names, revision, start, end, attributes = json.loads(body)
            numbers = (np.array(column, np.int64) for column in (revision, start, end))
            readings.append(Occurrences(series, tuple(names), *numbers, tuple(attributes)))
        else:
            readings.append(readings_of(series, decode(body)))
        coverage[series] = _window(one["coverage"])
    return _window(head["window"]), readings, coverage


def _insert_of(dialect: str) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    engine = sa.create_engine(url, connect_args={"timeout": 10, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        cursor = connection.cursor()
        for pragma in ("busy_timeout=10000", "page_size=16384", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        level = "FULL" if options.get("harvester_full") else "NORMAL"
        if options.get("harvester_begin"):
            connection.exec_driver_sql(f"PRAGMA synchronous={level}")
            _begin_immediate(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_immediate(connection: Connection) -> None:
    """Begin a write; SQLite's own waiting is not fair, so keep asking for a while beyond its timeout."""
    for attempt in range(3):
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except DBAPIError as e:
            if attempt == 2 or "locked" not in str(e.orig):
                raise
            time.sleep(0.05)
        else:
            return


def _prepare_file(path: Path, create: bool) -> None:
    if not path.exists():
        if not create:
            raise StoreError("open store", str(path), "is not there", hint="harvest collect makes it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as e:
            raise StoreError(
                "open store", str(path), f"cannot be created: {e.strerror}",
                hint="set [store] url to a folder you may write to",
            ) from e
    elif path.is_dir():
        raise StoreError("open store", str(path), "is a folder", hint="name a file in [store] url")
    elif not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise StoreError("open store", str(path), "may not be written", hint="is the file or its folder read-only?")


def _store_error(operation: str, target: str, error: DBAPIError) -> StoreError:
    text = str(error.orig).splitlines()[0] if error.orig else type(error).__name__
    known = (
        ("disk is full", "the disk is full", "free some space; what was stored stays whole", True),
        ("readonly", "may not be written", "is the file or its folder read-only?", False),
        ("not a database", "is not a harvester store", "name another file in [store] url", False),
        ("malformed", "the file is damaged", "harvest db check tells where; restore a backup", False),
        ("locked", "another process holds the store", "try again; does another harvest hang?", True),
        ("unable to open", "cannot be opened", "are the folder and its rights as they should be?", False),
        ("disk I/O error", "the disk failed or the file was cut short", "harvest db check tells where", False),
    )
    for sign, cause, hint, retry in known:
        if sign in text:
            return StoreError(operation, target, cause, hint=hint, retry=retry)
    from sqlalchemy.exc import OperationalError

    reachable = isinstance(error, OperationalError)
    cause = "the database does not answer" if reachable else f"the database refused: {text}"
    return StoreError(operation, target, cause, hint="is it running, are user and password right?", retry=reachable)
