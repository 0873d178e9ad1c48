"""
Calls by the hour: what every group took, in log buckets, exactly.

Durations are whole microseconds, so that sums do not depend on how the log was cut into blocks or collections. Of the
groups only the first ``top`` have a series of their own; the rest is pooled as "other". Once they are full, a group
whose time outgrows twice that of the smallest one kept takes its place, from a whole hour on: the hour after next, so
that nothing already told has to be taken back.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from harvester.readings import HOUR, Distribution, Metric, Series, labels_of, log_bucket

if TYPE_CHECKING:
    from harvester.readings import Float64s, Int64s

OTHER = "other"
FIRST_BUCKET = -691
"""That of a microsecond."""
_BUCKETS = 1600
_MOST_CANDIDATES = 10
"""Groups without a series whose time is remembered, as a multiple of ``top``."""


class Key(NamedTuple):
    """A group of statements in one database; ``OTHER`` for all without a series of their own."""

    fingerprint: str
    database: str


@dataclass(slots=True)
class Kept:
    """
    What is remembered of a group.

    Attributes:
        query: Its canonical text.
        load: Microseconds it took, halved from one day to the next.
        since: From when on it has a series of its own, milliseconds UTC.
    """

    query: str
    load: int = 0
    since: int = 0


@dataclass(slots=True)
class Tally:
    """
    What one group took in one hour; numbers of microseconds are whole.

    Attributes:
        buckets: Indices of log buckets, rising; int64, shape (k,).
        counts: Calls in each; int64, shape (k,).
        total: Microseconds in all.
        minimum: Of one call; -1 where there was none.
        maximum: Likewise.
    """

    buckets: Int64s
    counts: Int64s
    total: int
    minimum: int
    maximum: int


class _Open:
    """A tally that still grows."""

    __slots__ = ("counts", "maximum", "minimum", "total")

    def __init__(self) -> None:
        import numpy as np

        self.counts: Int64s = np.zeros(_BUCKETS, np.int64)
        self.total = 0
        self.minimum = self.maximum = -1

    def add(self, buckets: Int64s, total: int, minimum: int, maximum: int) -> None:
        import numpy as np

        self.counts += np.bincount(buckets, minlength=_BUCKETS)
        self.total += total
        self.minimum = minimum if self.minimum < 0 else min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)

    def closed(self) -> Tally:
        import numpy as np

        used = np.flatnonzero(self.counts)
        return Tally(used + FIRST_BUCKET, self.counts[used], self.total, self.minimum, self.maximum)

    @classmethod
    def opened(cls, tally: Tally) -> _Open:
        one = cls()
        one.counts[tally.buckets - FIRST_BUCKET] = tally.counts
        one.total, one.minimum, one.maximum = tally.total, tally.minimum, tally.maximum
        return one


@dataclass(slots=True)
class Calls:
    """
    What one stretch of log says of calls, in its order; n entries.

    Attributes:
        hour: Whole hours since 1970 of their ends; int64, shape (n,).
        group: Indices into ``keys``; int64, shape (n,).
        micros: Their durations; int64, shape (n,).
        bucket: Their log buckets, counted from ``FIRST_BUCKET``; int64, shape (n,). Below 0 what is no call of its own
            but more time of one: fetching the rest of a result.
        keys: The groups that occur, in the order they first do.
        queries: Their canonical texts.
        first: Logged time of each one's first call, milliseconds UTC; a time not before any that was logged earlier.
    """

    hour: Int64s
    group: Int64s
    micros: Int64s
    bucket: Int64s
    keys: Sequence[Key]
    queries: Sequence[str]
    first: Sequence[int]


def buckets_of(micros: Int64s) -> Int64s:
    """Return the log buckets of durations, counted from ``FIRST_BUCKET``; no time at all counts as a microsecond."""
    import numpy as np

    return np.clip(log_bucket(np.maximum(micros, 1) / 1e6) - FIRST_BUCKET, 0, _BUCKETS - 1)


class Hours:
    """
    The hours that may still grow, and the groups that have a series.

    Attributes:
        kept: The groups with a series of their own, in the order they got it.
        candidates: What is remembered of others.
        dropped: Groups that lost their series of late, with the instant they lost it.
        databases: Names, each with the logged time of its first call.
        touched: Where it is given, collects the (hour, group) that grow, with their texts.
        full_since: When the first call was pooled as other, or None; from then on absence of a group tells nothing.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self.kept: dict[Key, Kept] = {}
        self.candidates: dict[Key, Kept] = {}
        self.dropped: dict[Key, tuple[Kept, int]] = {}
        self.databases: dict[str, int] = {}
        self.full_since: int | None = None
        self.touched: dict[tuple[int, Key], str] | None = None
        self._recalled: dict[Key, str] = {}
        self._day = 0
        self._open: dict[int, dict[Key, _Open]] = {}

    # -- adding -------------------------------------------------------------------------------------------------------

    def admit(self, calls: Calls) -> None:
        """Give groups a series in the order they come, until ``top`` have one."""
        for key, query, first in zip(calls.keys, calls.queries, calls.first, strict=True):
            self.databases.setdefault(key.database, first)
            if key in self.kept:
                continue
            if len(self.kept) < self.top:
                self.kept[key] = Kept(query, 0, first)
            else:
                self.full_since = first if self.full_since is None else self.full_since
                if len(self.candidates) < _MOST_CANDIDATES * self.top:
                    self.candidates.setdefault(key, Kept(query))

    def add(self, calls: Calls, chosen: slice) -> None:
        """Add some of the calls; their groups were admitted before."""
        import numpy as np

        rows = np.arange(len(calls.hour))[chosen]
        only_time = calls.bucket[rows] < 0
        if only_time.any():
            for row in rows[only_time].tolist():
                micros = int(calls.micros[row])
                self._of(int(calls.hour[row]), calls.keys[calls.group[row]], micros).total += micros
            rows = rows[~only_time]
        # By hour and group, whole runs at a time.
        order = np.lexsort((calls.group[rows], calls.hour[rows]))
        rows = rows[order]
        hour, group, micros_of, buckets = calls.hour[rows], calls.group[rows], calls.micros[rows], calls.bucket[rows]
        edges = np.flatnonzero((np.diff(group, prepend=-1) != 0) | (np.diff(hour, prepend=-1) != 0))
        if not len(edges):
            return
        columns = (
            hour[edges].tolist(),
            group[edges].tolist(),
            edges.tolist(),
            [*edges[1:].tolist(), len(rows)],
            np.add.reduceat(micros_of, edges).tolist(),
            np.minimum.reduceat(micros_of, edges).tolist(),
            np.maximum.reduceat(micros_of, edges).tolist(),
        )
        for at, index, low, high, total, minimum, maximum in zip(*columns, strict=True):
            self._of(at, calls.keys[index], total).add(buckets[low:high], total, minimum, maximum)

    def _of(self, hour: int, key: Key, micros: int) -> _Open:
        remembered = self.kept.get(key)
        if remembered is None or remembered.since >= (hour + 1) * HOUR:
            remembered = remembered or self.candidates.get(key)
            key = Key(OTHER, key.database)
        if remembered is not None:
            remembered.load += micros
        if self.touched is not None:
            self.touched[hour, key] = OTHER if key.fingerprint == OTHER or remembered is None else remembered.query
        tallies = self._open.setdefault(hour, {})
        found = tallies.get(key)
        if found is None:
            found = tallies[key] = _Open()
        return found

    # -- closing ------------------------------------------------------------------------------------------------------

    def close(self, hour: int, *, covered: bool) -> dict[Key, Tally | None]:
        """
        Return the tallies of an hour that will not grow any more, and settle who keeps a series from then on.

        Where the hour was ``covered``, what had a series then and no call is there too, with None.
        """
        tallies: dict[Key, Tally | None] = {key: one.closed() for key, one in self._open.pop(hour, {}).items()}
        if covered:
            for key in self._known((hour + 1) * HOUR):
                tallies.setdefault(key, None)
        day = hour // 24
        if day > self._day:
            shift = min(day - self._day, 63)
            for one in (*self.kept.values(), *self.candidates.values()):
                one.load >>= shift
            self._day = day
        if self.candidates:
            self._exchange((hour + 2) * HOUR)
        return tallies

    def _known(self, end: int) -> Iterator[Key]:
        """Yield what had a series in the hour that ended then."""
        yield from (key for key, one in self.kept.items() if one.since < end)
        yield from (key for key, (_, until) in self.dropped.items() if until >= end)
        if self.full_since is not None and self.full_since < end:
            yield from (Key(OTHER, name) for name, first in self.databases.items() if first < end)

    def _exchange(self, at: int) -> None:
        least = sorted(self.kept.items(), key=lambda item: item[1].load)
        most = sorted(self.candidates.items(), key=lambda item: -item[1].load)
        for (leaving, small), (coming, large) in zip(least, most, strict=False):
            if large.load <= 2 * small.load:
                break
            del self.kept[leaving], self.candidates[coming]
            self.dropped[leaving] = (small, at)
            self.candidates[leaving] = Kept(small.query, small.load)
            self.kept[coming] = Kept(large.query, large.load, at)
        for key, _ in most[_MOST_CANDIDATES * self.top // 2 :]:
            self.candidates.pop(key, None)

    def open_tallies(self) -> Iterator[tuple[int, dict[Key, Tally]]]:
        """Yield the hours that may still grow, with what they hold so far."""
        for hour in sorted(self._open):
            yield hour, {key: one.closed() for key, one in self._open[hour].items()}

    def forget_calls(self) -> None:
        """Begin to count anew; what has a series keeps it."""
        self._open.clear()
        self.candidates.clear()
        self.dropped.clear()
        self.databases.clear()
        self.full_since = None
        self._day = 0
        for one in self.kept.values():
            one.load = one.since = 0

    def forget_dropped(self, hour: int) -> None:
        """Forget the groups that lost their series before an hour, of which nothing is open any more."""
        self.dropped = {key: (one, until) for key, (one, until) in self.dropped.items() if until > hour * HOUR}

    def query_of(self, key: Key) -> str:
        """Return the canonical text of a group that has, or had, a series of its own."""
        if key.fingerprint == OTHER:
            return OTHER
        if key in self.kept or key in self.dropped:
            return (self.kept.get(key) or self.dropped[key][0]).query
        return self._recalled[key]

    def recall(self, key: Key, query: str) -> None:
        """Remember the text of a group that was told of and never came."""
        self._recalled[key] = query

    # -- state --------------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        keys = list(dict.fromkeys(key for tallies in self._open.values() for key in tallies))
        number = {key: index for index, key in enumerate(keys)}
        hours = {
            str(hour): [
                [number[key], one.buckets.tolist(), one.counts.tolist(), one.total, one.minimum, one.maximum]
                for key, one in tallies.items()
            ]
            for hour, tallies in self.open_tallies()
        }
        return {
            "kept": _packed([[*key, one.query, one.load, one.since] for key, one in self.kept.items()]),
            "dropped": [[*key, one.query, until] for key, (one, until) in self.dropped.items()],
            "candidates": _packed([[*key, one.query, one.load] for key, one in self.candidates.items()]),
            "databases": self.databases,
            "full_since": self.full_since,
            "day": self._day,
            "open": _packed([keys, hours]),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], top: int) -> Hours:
        """Return what ``to_state`` gave, with room for ``top`` series."""
        import numpy as np

        one = cls(top)
        for name, database, query, load, since in _unpacked(state["kept"]):
            one.kept[Key(name, database)] = Kept(query, load, since)
        one.candidates = {Key(name, db): Kept(query, load) for name, db, query, load in _unpacked(state["candidates"])}
        one.dropped = {Key(name, db): (Kept(query), until) for name, db, query, until in state["dropped"]}
        one.databases = dict(state["databases"])
        one.full_since = state["full_since"]
        one._day = state["day"]
        keys, hours = _unpacked(state["open"])
        for hour, tallies in hours.items():
            one._open[int(hour)] = {
                Key(*keys[index]): _Open.opened(Tally(np.array(buckets, np.int64), np.array(counts, np.int64), *rest))
                for index, buckets, counts, *rest in tallies
            }
        return one


def _packed(data: Any) -> str:
    return base64.b85encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 6)).decode()


def _unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b85decode(text)))


# ---------------------------------------------------------------------------------------------------------------------
# Readings
# ---------------------------------------------------------------------------------------------------------------------


def joined(tallies: Sequence[Tally]) -> Tally | None:
    """Return the sum of tallies, None where there is none."""
    if len(tallies) < 2:
        return tallies[0] if tallies else None
    whole = _Open()
    for one in tallies:
        whole.counts[one.buckets - FIRST_BUCKET] += one.counts
        whole.total += one.total
        if one.minimum >= 0:
            whole.minimum = one.minimum if whole.minimum < 0 else min(whole.minimum, one.minimum)
        whole.maximum = max(whole.maximum, one.maximum)
    return whole.closed()


def series_of(source: str, metric: Metric, key: Key, query: str | None) -> Series:
    """Return a group's series; without a query that of a whole database."""
    labels = {"database": key.database} if key.database else {}
    if query is not None:
        labels |= {"fingerprint": key.fingerprint, "query": query}
    return Series(source, metric, labels_of(labels))


def distribution(series: Series, hours: Sequence[int], tallies: Sequence[Tally | None]) -> Distribution:
    """Return hours, given by rising number, as readings; None is an hour without calls."""
    import numpy as np

    used = [one for one in tallies if one is not None and len(one.buckets)]
    first = min((int(one.buckets[0]) for one in used), default=0)
    last = max((int(one.buckets[-1]) for one in used), default=0)
    counts = np.zeros((len(hours), last - first + 1))
    total, minimum, maximum = np.zeros(len(hours)), np.full(len(hours), np.nan), np.full(len(hours), np.nan)
    for row, one in enumerate(tallies):
        if one is None:
            continue
        counts[row, one.buckets - first] = one.counts
        total[row] = one.total / 1e6
        if one.minimum >= 0:
            minimum[row], maximum[row] = one.minimum / 1e6, one.maximum / 1e6
    at = np.array(hours, np.int64) * HOUR
    floats: Float64s = counts
    return Distribution(series, at, floats, total, minimum, maximum, first)

