"""
What stays when readings are dropped: a summary of each day, events, coverage, documents and frozen copies.

A summary holds what windows are made of: counts, sums and a quantile sketch, all of which add up over days. The sketch
is that of ``log_bucket`` (DDSketch): any quantile it gives is within 1 % of one of the values.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Connection, delete, select

from harvester.readings import (
    DAY,
    LOG_BUCKET_GAMMA,
    Distribution,
    Level,
    Ratio,
    Readings,
    Series,
    Shape,
    Window,
    log_bucket,
)
from harvester.store import schema
from harvester.store.codec import columns_of, readings_of
from harvester.store.schema import DAY_BITS, DAY_MASK
from harvester.store.store import Store
from harvester.store.texts import labels_text

if TYPE_CHECKING:
    from harvester.readings import Float64s

_AT_ONCE = 500
_TINIEST = 1e-300
"""Values nearer to zero are taken for zero: their logarithm would need buckets of their own."""


@dataclass(frozen=True, slots=True)
class Summary:
    """
    A day, or several, of one series.

    Attributes:
        readings: How many samples or intervals.
        count: Of values: samples of a Level, observations of a Distribution, occurrences of Counts, denominators of a
            Ratio.
        total: Sum of the values; of a Ratio its numerators.
        minimum: The smallest value, NaN where unknown.
        maximum: The largest value, NaN where unknown.
        buckets: How many values lie in each bucket: of ``log_bucket``, or of the metric's bounds where it has some.
        negative: The same for values below zero, by their size.
        zeros: How many are zero.
    """

    readings: int
    count: float
    total: float
    minimum: float = float("nan")
    maximum: float = float("nan")
    buckets: Mapping[int, float] = field(default_factory=dict)
    negative: Mapping[int, float] = field(default_factory=dict)
    zeros: float = 0.0

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.readings + other.readings,
            self.count + other.count,
            self.total + other.total,
            float(np.fmin(self.minimum, other.minimum)),
            float(np.fmax(self.maximum, other.maximum)),
            _added(self.buckets, other.buckets),
            _added(self.negative, other.negative),
            self.zeros + other.zeros,
        )

    def quantile(self, q: float) -> float:
        """Return the q-quantile of values kept in log buckets, within 1 % of a value; NaN where there are none."""
        ordered = [(-_middle(index), number) for index, number in sorted(self.negative.items(), reverse=True)]
        ordered += [(0.0, self.zeros)] * bool(self.zeros)
        ordered += [(_middle(index), number) for index, number in sorted(self.buckets.items())]
        if not ordered:
            return float("nan")
        reached = np.cumsum([number for _, number in ordered])
        place = int(np.searchsorted(reached, q * (reached[-1] - 1), side="right"))
        return ordered[min(place, len(ordered) - 1)][0]


def _middle(index: int) -> float:
    return float(2 * LOG_BUCKET_GAMMA**index / (1 + LOG_BUCKET_GAMMA))


def _added(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    return {index: one.get(index, 0.0) + other.get(index, 0.0) for index in sorted({*one, *other})}


def summarize(readings: Readings) -> Summary:
    """Return the summary of readings of any shape but single occurrences, which are kept themselves."""
    n = len(readings)
    if isinstance(readings, Distribution):
        sums = readings.counts.sum(axis=0)
        return Summary(
            n, float(sums.sum()), _sum(readings.total), _least(readings.minimum), -_least(-readings.maximum),
            {readings.first + int(place): float(sums[place]) for place in np.flatnonzero(sums)},
        )
    if isinstance(readings, Ratio):
        return Summary(n, _sum(readings.denominator), _sum(readings.numerator))
    if isinstance(readings, Level):
        values = readings.value[np.isfinite(readings.value)]
        size = np.abs(values)
        return Summary(
            n, float(len(values)), _sum(values), _least(values), -_least(-values),
            _counted(values[(values > 0) & (size >= _TINIEST)]), _counted(-values[(values < 0) & (size >= _TINIEST)]),
            float(np.count_nonzero(size < _TINIEST)),
        )
    number = _sum(readings.number)  # type: ignore[union-attr]  # Counts; single occurrences have no blocks
    return Summary(n, number, number)


def _sum(values: Float64s) -> float:
    return float(np.nansum(values))


def _least(values: Float64s) -> float:
    known = values[~np.isnan(values)]
    return float(known.min()) if len(known) else float("nan")


def _counted(values: Float64s) -> dict[int, float]:
    buckets, numbers = np.unique(log_bucket(values), return_counts=True)
    return dict(zip(buckets.tolist(), numbers.astype(float).tolist(), strict=True))


def _packed(one: Summary) -> bytes:
    fields = [
        one.readings, one.count, one.total, one.minimum, one.maximum,
        list(one.buckets.items()), list(one.negative.items()), one.zeros,
    ]
    return zlib.compress(json.dumps(fields).encode(), 9)


def _unpacked(data: bytes) -> Summary:
    readings, count, total, minimum, maximum, buckets, negative, zeros = json.loads(zlib.decompress(data))
    return Summary(readings, count, total, minimum, maximum, dict(buckets), dict(negative), zeros)


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many days of series, records of collections and notes were dropped."""

    blocks: int
    collections: int
    notes: int


def prune(store: Store, before: int) -> Pruned:
    """
    Drop readings of the whole UTC days before an instant (milliseconds), keeping a summary of each series' day.

    What was proven of those days is kept apart: ``Store.coverage`` no longer tells it, lest nothing be taken for zero;
    ``past_coverage`` does. Occurrences and their coverage, documents and frozen copies stay. Records of collections and
    notes from before go.

    Raises:
        DamagedBlock: naming series and day, if one that is to go cannot be read; what was dropped before stays dropped.
    """
    day = before // DAY
    store.fold()
    numbered = store.numbered()
    database, block, summary = store.database, schema.block, schema.summary
    blocks = 0
    with database.guard("prune"):
        while True:
            with database.read() as connection:
                query = select(block.c.id).where(block.c.id % (DAY_MASK + 1) < day).order_by(block.c.id).limit(_AT_ONCE)
                keys = connection.scalars(query).all()
            if not keys:
                break
            with database.write(full_sync=True) as connection:
                held = connection.execute(select(block.c.id, block.c.data).where(block.c.id.in_(keys))).all()
                known = connection.execute(select(summary).where(summary.c.id.in_(keys))).all()
                earlier = {row.id: _unpacked(row.data) for row in known}
                rows = []
                for row in held:
                    series = numbered[row.id >> DAY_BITS]
                    one = summarize(readings_of(series, store.decoded(row.id, row.data)))
                    if row.id in earlier:  # readings that came after their day was dropped
                        one = earlier[row.id] + one
                    rows.append({"id": row.id, "data": _packed(one)})
                database.upsert(connection, summary, rows)
                connection.execute(delete(block).where(block.c.id.in_(keys)))
            blocks += len(held)
        with database.write(full_sync=True) as connection:
            _set_coverage_aside(connection, store, numbered.values(), day * DAY)
            old = connection.execute(delete(schema.note).where(schema.note.c.at < day * DAY)).rowcount
            collections = _drop_collections(connection, day * DAY)
    if blocks > _AT_ONCE:
        store.sync(compact=True)
    return Pruned(blocks, collections, old)


def _drop_collections(connection: Connection, before: int) -> int:
    table = schema.collection
    gone = [
        number
        for number, text in connection.execute(select(table.c.id, table.c.data).order_by(table.c.id)).all()
        if json.loads(text)["finished"] < before
    ]
    for low in range(0, len(gone), _AT_ONCE):
        connection.execute(delete(table).where(table.c.id.in_(gone[low : low + _AT_ONCE])))
    return len(gone)


def _set_coverage_aside(connection: Connection, store: Store, known: Iterable[Series], before: int) -> None:
    table, past = schema.coverage, schema.past_coverage
    columnar = {(one.source, one.metric.name) for one in known if one.metric.shape is not Shape.EVENT}
    rows = connection.execute(select(table).where(table.c.start < before)).all()
    for row in rows:
        if (row.source, row.metric) not in columnar:
            continue
        name = {"source": row.source, "metric": row.metric, "labels": row.labels, "question": row.question}
        mine = [table.c[key] == value for key, value in name.items()]
        connection.execute(delete(table).where(*mine, table.c.start == row.start))
        store.database.upsert(connection, past, [{**name, "start": row.start, "end": min(row.end, before)}])
        if row.end > before:
            store.database.upsert(connection, table, [{**name, "start": before, "end": row.end}])


def summaries(store: Store, series: Sequence[Series], window: Window) -> list[dict[int, Summary]]:
    """
    Return, for each series, the summaries of the whole UTC days inside the window by their start (milliseconds).

    Days whose readings are still held are summed up now, from all that is held of them; days without any have none.
    """
    result: list[dict[int, Summary]] = []
    numbers = {one: number for number, one in store.numbered().items()}
    table = schema.summary
    days = window.aligned(DAY)
    for one in series:
        found: dict[int, Summary] = {}
        number = numbers.get(one)
        if number is not None and one.metric.shape is not Shape.EVENT and days:
            low, high = number << DAY_BITS, number << DAY_BITS | DAY_MASK
            with store.database.guard("read"), store.database.read() as connection:
                for row in connection.execute(select(table).where(table.c.id.between(low, high)).order_by(table.c.id)):
                    found[(row.id & DAY_MASK) * DAY] = _unpacked(row.data)
            # An interval belongs to the day it begins in, also the one that reaches beyond the last.
            (readings,) = store.read([one], Window(tuple((low, high + one.metric.step) for low, high in days.spans)))
            columns = columns_of(readings)
            starts = np.unique(columns.at // DAY * DAY)
            edges = np.searchsorted(columns.at, np.append(starts, 2**62)).tolist()
            for start, first, last in zip(starts.tolist(), edges, edges[1:], strict=False):
                day = summarize(readings_of(one, columns.part(first, last)))
                found[start] = found[start] + day if start in found else day
        inside = days.contains(np.array(sorted(found), np.int64))
        result.append({start: found[start] for start, kept in zip(sorted(found), inside.tolist(), strict=True) if kept})
    return result


def past_coverage(store: Store, series: Series) -> Window:
    """Return what was proven complete of days whose readings were dropped."""
    table = schema.past_coverage
    named = table.c.labels.in_({labels_text(None), labels_text(series.labels)})
    query = select(table.c.start, table.c.end).where(
        table.c.source == series.source, table.c.metric == series.metric.name,
        table.c.question == series.metric.question, named,
    )
    with store.database.guard("read"), store.database.read() as connection:
        return Window(tuple((row.start, row.end) for row in connection.execute(query)))
