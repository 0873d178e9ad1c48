"""
The vocabulary: what is measured, over which spans of time, and what a source said about it.

Imports nothing of ours. Instants are ``int`` milliseconds UTC inside; ``datetime`` lives at the edges and must be
aware. Readings travel in columns, one object per series, never one object per sample. Values are in base units
(seconds, bytes, 1). numpy is imported where it is used, so that commands which only look at settings stay quick.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Int64s: TypeAlias = "NDArray[np.int64]"
    Float64s: TypeAlias = "NDArray[np.float64]"
    Booleans: TypeAlias = "NDArray[np.bool_]"

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

Labels: TypeAlias = tuple[tuple[str, str], ...]

OPEN = -(2**63)
"""The end of an occurrence that has not ended."""


# ---------------------------------------------------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------------------------------------------------


def to_milliseconds(at: datetime) -> int:
    """
    Return the instant as milliseconds UTC.

    Raises:
        ValueError: if the time is naive; a zone is never guessed.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone")
    return round(at.timestamp() * 1000)


def to_datetime(milliseconds: int) -> datetime:
    """Return the aware UTC datetime of an instant in milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """
    A set of half-open spans ``[start, end)`` in milliseconds UTC: sorted, disjoint, none empty.

    One span is the common case; recurring hours, the minutes after each deploy or the proven parts of a day are
    several. Coverage is a window too. Touching and overlapping spans given to the constructor are joined.

    Attributes:
        spans: ``((start, end), ...)``.
        name: What a person calls it (``"peak hours"``), or ``""``; not part of equality of time.

    >>> Window.of(0, 10) | Window.of(10, 20)
    Window(spans=((0, 20),), name='')
    """

    spans: tuple[tuple[int, int], ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        joined: list[tuple[int, int]] = []
        for start, end in sorted(self.spans):
            if start >= end:
                continue
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((int(start), int(end)))
        object.__setattr__(self, "spans", tuple(joined))

    @classmethod
    def of(cls, start: int, end: int, name: str = "") -> Window:
        """Return the window of one span."""
        return cls(((start, end),), name)

    @property
    def start(self) -> int:
        """The first instant; raises ValueError if the window is empty."""
        if not self.spans:
            raise ValueError("an empty window has no start")
        return self.spans[0][0]

    @property
    def end(self) -> int:
        """The end of the last span, itself outside."""
        if not self.spans:
            raise ValueError("an empty window has no end")
        return self.spans[-1][1]

    @property
    def milliseconds(self) -> int:
        """The summed length of the spans."""
        return sum(end - start for start, end in self.spans)

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __or__(self, other: Window) -> Window:
        return Window(self.spans + other.spans, self.name)

    def __and__(self, other: Window) -> Window:
        mine, theirs, both = self.spans, other.spans, []
        i = j = 0
        while i < len(mine) and j < len(theirs):
            start, end = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
            if start < end:
                both.append((start, end))
            if mine[i][1] <= theirs[j][1]:
                i += 1
            else:
                j += 1
        return Window(tuple(both), self.name)

    def __sub__(self, other: Window) -> Window:
        if not self.spans:
            return self
        edges = [self.start, *(edge for span in other.spans for edge in span), self.end]
        outside = tuple(
            (edges[i], edges[i + 1]) for i in range(0, len(edges), 2) if edges[i] < edges[i + 1]
        )
        return self & Window(outside)

    def share_of(self, whole: Window) -> float:
        """Return which share of ``whole`` this window covers, 0 to 1; 1 where ``whole`` is empty."""
        return (self & whole).milliseconds / whole.milliseconds if whole else 1.0

    def contains(self, at: Int64s) -> Booleans:
        """Return, for each instant, whether it lies inside; shape (n,)."""
        import numpy as np

        edges = np.array([edge for span in self.spans for edge in span], dtype=np.int64)
        inside: Booleans = np.searchsorted(edges, at, side="right") % 2 == 1
        return inside

    def contains_interval(self, at: Int64s, length: int) -> Booleans:
        """Return, for each interval ``[at, at + length)``, whether it lies wholly inside one span; shape (n,)."""
        import numpy as np

        edges = np.array([edge for span in self.spans for edge in span], dtype=np.int64)
        first = np.searchsorted(edges, at, side="right")
        last = np.searchsorted(edges, at + length, side="left")
        inside: Booleans = (first % 2 == 1) & (first == last)
        return inside

    def split(self, length: int) -> Iterator[Window]:
        """Yield consecutive windows of one span, each at most ``length`` milliseconds, in order."""
        for start, end in self.spans:
            for at in range(start, end, length):
                yield Window.of(at, min(at + length, end), self.name)

    def aligned(self, step: int) -> Window:
        """Return the window shrunk to whole steps counted from the epoch."""
        return Window(tuple((-(-start // step) * step, end // step * step) for start, end in self.spans), self.name)


# ---------------------------------------------------------------------------------------------------------------------
# What is measured
# ---------------------------------------------------------------------------------------------------------------------


class Shape(StrEnum):
    """The four kinds of number; each metric has exactly one. COUNT is the counted form of an event."""

    LEVEL = "level"
    DISTRIBUTION = "distribution"
    EVENT = "event"
    COUNT = "count"
    RATIO = "ratio"


class Better(StrEnum):
    """Which way is better."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Silence(StrEnum):
    """What the absence of readings inside covered time means."""

    ZERO = "zero"
    UNKNOWN = "unknown"


STATISTICS: Mapping[Shape, tuple[str, ...]] = {
    Shape.LEVEL: ("mean", "median", "p95", "max"),
    Shape.DISTRIBUTION: ("p95", "p50", "p90", "p99", "mean", "count", "total"),
    Shape.EVENT: ("count", "median", "mean", "p90", "total"),
    Shape.COUNT: ("count",),
    Shape.RATIO: ("ratio",),
}
"""The window summaries each shape can give; the first is the default headline."""


@dataclass(frozen=True, slots=True)
class Metric:
    """
    What is measured.

    Attributes:
        name: ``request_latency``; the unit is not part of it.
        unit: Base unit: ``seconds``, ``bytes``, ``1``, ``requests/second``.
        shape: Which of the four kinds of number.
        better: Which way is better.
        silence: What no readings in covered time mean.
        query: The template that defines it, as it is asked of the source.
        step_seconds: Distance of samples, or length of the interval each reading sums over.
        statistics: Window summaries worth showing, the headline first; empty means those of ``STATISTICS``.
        exact: Known exactly (nodes, indexes, sizes): stated, not tested.
        family: Which noise it is expected to share: ``latency``, ``saturation``.
        bounds: Finite upper bounds of the source's own histogram buckets, in ``unit``; empty for log buckets.
        threshold: The smallest value the source reports at all (a slow log's limit), or None.
        context: Names of metrics without which it is misread: of a latency, its request rate and error ratio.
    """

    name: str
    unit: str
    shape: Shape
    better: Better = Better.NEITHER
    silence: Silence = Silence.UNKNOWN
    query: str = ""
    step_seconds: int = 60
    statistics: tuple[str, ...] = ()
    exact: bool = False
    family: str = ""
    bounds: tuple[float, ...] = ()
    threshold: float | None = None
    context: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.step_seconds <= 0:
            raise ValueError(f"metric {self.name}: step_seconds must be positive")
        unknown = [name for name in self.statistics if name not in STATISTICS[self.shape]]
        if unknown:
            raise ValueError(f"metric {self.name}: a {self.shape} has no statistic {', '.join(unknown)}")
        if any(low >= high for low, high in zip(self.bounds, self.bounds[1:], strict=False)):
            raise ValueError(f"metric {self.name}: bucket bounds must rise")

    @property
    def step(self) -> int:
        """``step_seconds`` in milliseconds."""
        return self.step_seconds * SECOND

    @property
    def summaries(self) -> tuple[str, ...]:
        """The window summaries to show, the headline first."""
        return self.statistics or STATISTICS[self.shape]

    @property
    def definition(self) -> str:
        """
        A hash of what makes two readings comparable: shape, unit, query, step, bucket bounds, threshold.

        Readings of different definitions are never compared as they are.
        """
        return self._hash(self.bounds)

    @property
    def question(self) -> str:
        """
        A hash of what is asked of the source: the definition but for the bounds, which come with the readings only.

        What is proven is proven of a question; that a metric was asked otherwise before proves nothing of it now.
        """
        return self._hash(())

    def _hash(self, bounds: tuple[float, ...]) -> str:
        defining = [self.shape, self.unit, self.query, self.step_seconds, bounds, self.threshold]
        return hashlib.sha256(json.dumps(defining).encode()).hexdigest()[:16]


def labels_of(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> Labels:
    """Return labels in their one order: sorted by name."""
    return tuple(sorted(dict(pairs).items()))


@dataclass(frozen=True, slots=True)
class Series:
    """
    One metric of one thing: metric + labels, from one source.

    Attributes:
        source: The configured source's name: ``prom``.
        metric: What is measured; its ``definition`` is part of the identity.
        labels: Sorted pairs.
    """

    source: str
    metric: Metric
    labels: Labels = ()

    def __str__(self) -> str:
        inside = ", ".join(f'{name}="{value}"' for name, value in self.labels)
        return f"{self.metric.name}{{{inside}}}" if inside else self.metric.name


@dataclass(frozen=True, slots=True)
class Subject:
    """
    A thing the engineer works on, tied to what each source calls it.

    Attributes:
        name: ``checkout``.
        labels: Prometheus labels, all of which a series must carry.
        service: PagerDuty service name or id, or ``""``.
        repositories: ``owner/name`` of each repository.
        database: PostgreSQL database name, or ``""``.
    """

    name: str
    labels: Labels = ()
    service: str = ""
    repositories: tuple[str, ...] = ()
    database: str = ""

    def owns(self, series: Series) -> bool:
        """Tell whether a series speaks of this subject, by what its labels say."""
        carried = dict(series.labels)
        if self.labels and all(carried.get(name) == value for name, value in self.labels):
            return True
        if self.database and carried.get("database") == self.database:
            return True
        if self.service and self.service in (carried.get("pagerduty_service"), carried.get("pagerduty_service_id")):
            return True
        return carried.get("repository") in self.repositories


# ---------------------------------------------------------------------------------------------------------------------
# What a source said: one class per shape, columnar
# ---------------------------------------------------------------------------------------------------------------------


def _check_rising(name: str, at: Int64s, *columns: Any) -> None:
    import numpy as np

    if at.ndim != 1 or at.dtype != np.int64:
        raise ValueError(f"{name}: instants must be a column of int64 milliseconds")
    if len(at) > 1 and not bool((at[1:] > at[:-1]).all()):
        raise ValueError(f"{name}: instants must be strictly increasing")
    for column in columns:
        if len(column) != len(at):
            raise ValueError(f"{name}: columns differ in length")


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """
    Sampled values of one series.

    Attributes:
        series: Whose values; carries the metric, its unit and the query that made it.
        at: Instants as the source dates them, int64 milliseconds UTC, strictly increasing; shape (n,).
        value: float64 in ``series.metric.unit``; shape (n,). Absent data is no entry at all; NaN is a value.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.LEVEL})
    series: Series
    at: Int64s
    value: Float64s

    def __post_init__(self) -> None:
        _check_rising(str(self.series), self.at, self.value)

    def __len__(self) -> int:
        return len(self.at)

    def within(self, window: Window) -> Level:
        """Return the samples inside the window."""
        keep = window.contains(self.at)
        return replace(self, at=self.at[keep], value=self.value[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Ratio:
    """
    Numerators and denominators of one series, summed over intervals of ``metric.step_seconds``.

    Attributes:
        at: Starts of the intervals, int64 milliseconds UTC, strictly increasing; shape (n,).
        numerator: float64; shape (n,).
        denominator: float64; shape (n,).
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.RATIO})
    series: Series
    at: Int64s
    numerator: Float64s
    denominator: Float64s

    def __post_init__(self) -> None:
        _check_rising(str(self.series), self.at, self.numerator, self.denominator)

    def __len__(self) -> int:
        return len(self.at)

    def within(self, window: Window) -> Ratio:
        """Return the intervals that lie wholly inside the window."""
        keep = window.contains_interval(self.at, self.series.metric.step)
        return replace(self, at=self.at[keep], numerator=self.numerator[keep], denominator=self.denominator[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """
    How many occurrences each interval of ``metric.step_seconds`` saw: an event in counted form.

    Attributes:
        at: Starts of the intervals, int64 milliseconds UTC, strictly increasing; shape (n,).
        number: float64 (a counter's increase is extrapolated and need not be whole); shape (n,).
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.COUNT})
    series: Series
    at: Int64s
    number: Float64s

    def __post_init__(self) -> None:
        _check_rising(str(self.series), self.at, self.number)

    def __len__(self) -> int:
        return len(self.at)

    def within(self, window: Window) -> Counts:
        """Return the intervals that lie wholly inside the window."""
        keep = window.contains_interval(self.at, self.series.metric.step)
        return replace(self, at=self.at[keep], number=self.number[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Occurrences:
    """
    Single occurrences of an event, each with an identity the source gave it.

    Attributes:
        id: The source's ids (with the attempt, where there are attempts); length n, unique.
        revision: A number that rises when the source changes its mind about an occurrence; int64, shape (n,).
        start: int64 milliseconds UTC; shape (n,), not decreasing.
        end: int64 milliseconds UTC, ``OPEN`` where it has not ended; shape (n,).
        attributes: What the source said besides, as text; length n.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.EVENT})
    series: Series
    id: tuple[str, ...]
    revision: Int64s
    start: Int64s
    end: Int64s
    attributes: tuple[Mapping[str, str], ...]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.id, self.revision, self.start, self.end, self.attributes)}
        if len(lengths) != 1:
            raise ValueError(f"{self.series}: columns differ in length")
        if len(set(self.id)) != len(self.id):
            raise ValueError(f"{self.series}: an occurrence is there twice")

    def __len__(self) -> int:
        return len(self.id)

    def within(self, window: Window) -> Occurrences:
        """Return the occurrences that started inside the window."""
        keep = window.contains(self.start)
        chosen = [index for index, kept in enumerate(keep) if kept]
        return replace(
            self,
            id=tuple(self.id[index] for index in chosen),
            revision=self.revision[keep],
            start=self.start[keep],
            end=self.end[keep],
            attributes=tuple(self.attributes[index] for index in chosen),
        )


LOG_BUCKET_ALPHA = 0.01
LOG_BUCKET_GAMMA = (1 + LOG_BUCKET_ALPHA) / (1 - LOG_BUCKET_ALPHA)


def log_bucket(values: Float64s) -> Int64s:
    """
    Return the index of the log bucket each positive value falls in: bucket i holds ``(gamma^(i-1), gamma^i]``.

    Any value of a bucket is within 1 % of its middle (DDSketch, Masson et al., VLDB 2019, section 2.1).
    """
    import numpy as np

    return np.ceil(np.log(values) / math.log(LOG_BUCKET_GAMMA)).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """
    Bucket counts of one series over intervals of ``metric.step_seconds``.

    With ``metric.bounds`` the buckets are the source's own: column j counts values in ``(bounds[j-1], bounds[j]]``,
    the last column those above the last bound. Without, they are log buckets and column j is bucket ``first + j``.

    Attributes:
        at: Starts of the intervals, int64 milliseconds UTC, strictly increasing; shape (n,).
        counts: float64, not cumulative; shape (n, k).
        total: Sum of the values in ``metric.unit``, NaN where unknown; float64, shape (n,).
        minimum: Smallest value, NaN where unknown; float64, shape (n,).
        maximum: Largest value, NaN where unknown; float64, shape (n,).
        first: Index of the first log bucket; 0 with the source's own bounds.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.DISTRIBUTION})
    series: Series
    at: Int64s
    counts: Float64s
    total: Float64s
    minimum: Float64s
    maximum: Float64s
    first: int = 0

    def __post_init__(self) -> None:
        _check_rising(str(self.series), self.at, self.counts, self.total, self.minimum, self.maximum)
        if self.counts.ndim != 2:
            raise ValueError(f"{self.series}: bucket counts must be a matrix, one row an interval")
        bounds = self.series.metric.bounds
        if bounds and (self.counts.shape[1] != len(bounds) + 1 or self.first != 0):
            raise ValueError(f"{self.series}: {len(bounds)} bounds need {len(bounds) + 1} buckets")

    def __len__(self) -> int:
        return len(self.at)

    @property
    def edges(self) -> Float64s:
        """Edges of the columns, shape (k + 1,): column j holds ``(edges[j], edges[j + 1]]``."""
        import numpy as np

        bounds = self.series.metric.bounds
        if bounds:
            return np.array([0.0 if bounds[0] > 0 else -math.inf, *bounds, math.inf])
        columns = np.arange(self.first - 1, self.first + self.counts.shape[1], dtype=np.float64)
        return np.power(LOG_BUCKET_GAMMA, columns)

    def within(self, window: Window) -> Distribution:
        """Return the intervals that lie wholly inside the window."""
        keep = window.contains_interval(self.at, self.series.metric.step)
        return replace(
            self,
            at=self.at[keep],
            counts=self.counts[keep],
            total=self.total[keep],
            minimum=self.minimum[keep],
            maximum=self.maximum[keep],
        )


Readings: TypeAlias = Level | Distribution | Occurrences | Counts | Ratio
"""What a source said of one series."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """
    Spans for which a source's readings of a metric are proven complete.

    Attributes:
        metric: The metric's name.
        window: The proven spans.
        labels: Of which series; None means of every series of the metric, those that never appeared included.
        question: ``Metric.question`` of the metric as it was asked; connectors leave it to the collection.
    """

    metric: str
    window: Window
    labels: Labels | None = None
    question: str = ""


def subject_of(series: Series, subjects: Sequence[Subject]) -> Subject | None:
    """Return the first subject that owns the series."""
    return next((subject for subject in subjects if subject.owns(series)), None)
