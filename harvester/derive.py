"""
Metrics made of others: queries per request, cost of nodes, minutes per deploy, share of fast requests.

Pure: readings and what is proven of them in, readings and what is proven of those out. The parts are brought to one
grid of intervals, as long as the coarser of their steps; an interval counts only where every part is wholly covered
and known, so that a gap on one side shrinks what is proven and never moves a ratio. Nothing derived is stored.

    operation     of                                     gives          for example
    ratio         numerator / denominator                ratio          statement calls / requests
    product       a level or count x a level or number   level, count   nodes x price per hour
    share_under   a distribution, at or under a bound    ratio          requests answered within 250 ms
    onsets        a level or ratio beyond a threshold    events         error ratio above 5 % for two minutes
    followed_by   events followed by others within       ratio          deploys with an incident within two hours

Many series of one part are summed, never averaged: counts, rates, sums of durations, both parts of a ratio, levels of
things that can be counted. What cannot be summed (a latency, a utilisation) has to be told apart by ``by``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from harvester.readings import (
    DAY,
    OPEN,
    SECOND,
    STATISTICS,
    Better,
    Counts,
    Labels,
    Level,
    Metric,
    Occurrences,
    Ratio,
    Readings,
    Series,
    Shape,
    Silence,
    Window,
)

if TYPE_CHECKING:
    from harvester.readings import Booleans, Float64s, Int64s

SOURCE = "derived"
"""The source every derived series names; no configured source may have this name."""

EVENT_STEP_SECONDS = 3600
"""Single events have no step: they are counted by the hour."""

LONGEST_STEP_SECONDS = DAY // SECOND


class Operation(StrEnum):
    """What is done to the parts."""

    RATIO = "ratio"
    PRODUCT = "product"
    SHARE_UNDER = "share_under"
    ONSETS = "onsets"
    FOLLOWED_BY = "followed_by"


class UnderivableError(ValueError):
    """
    The parts do not fit the operation.

    Attributes:
        cause: Why, in one sentence.
        hint: What would.
    """

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


# ---------------------------------------------------------------------------------------------------------------------
# Rules
# ---------------------------------------------------------------------------------------------------------------------

AMOUNTS: Mapping[Shape, tuple[str, ...]] = {
    Shape.LEVEL: ("",),
    Shape.COUNT: ("count",),
    Shape.EVENT: ("count", "total"),
    Shape.DISTRIBUTION: ("count", "total"),
    Shape.RATIO: ("denominator", "numerator"),
}
"""What of each shape can be summed over an interval; the first where none is named. A level is its integral."""

_PER_TIME = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_NOT_BASE = re.compile(r"(ms|us|milliseconds?|microseconds?|minutes?|hours?|days?|[KMGT]i?B|kB)(/.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """
    What a derived metric is made of.

    Attributes:
        metric: Name of the stored metric.
        amount: What is summed of it: one of ``AMOUNTS``, or ``""`` for the first of its shape.
        source: The source it is read from, or ``""`` for the first that has it.
    """

    metric: str
    amount: str = ""
    source: str = ""

    @classmethod
    def parse(cls, text: str) -> Part:
        """
        Return the part that ``[SOURCE/]METRIC [AMOUNT]`` names.

        Raises:
            UnderivableError: if it has another form.

        >>> Part.parse("postgres/statements total")
        Part(metric='statements', amount='total', source='postgres')
        """
        words = text.split()
        if not 1 <= len(words) <= 2 or words[0].endswith("/"):
            raise UnderivableError(f"{text!r} does not name a metric", "[SOURCE/]METRIC [AMOUNT]")
        source, _, metric = words[0].rpartition("/")
        return cls(metric, words[1] if len(words) == 2 else "", source)

    def __str__(self) -> str:
        name = f"{self.source}/{self.metric}" if self.source else self.metric
        return f"{name} {self.amount}".strip()


@dataclass(frozen=True, slots=True)
class Rule:
    """
    How one metric is made of one or two others; ``metric`` says what it then is.

    Attributes:
        name: Of the metric that is made.
        operation: What is done.
        parts: What it is made of, the numerator first.
        by: Labels the series of both parts share and are told apart by, beside the subject.
        factor: What a product's one part is multiplied by.
        bound: Of a share: in the distribution's unit.
        threshold: Of onsets: the value that has to be passed.
        falling: Whether onsets are below it instead of above.
        seconds: How long an onset has to last at least; how soon something has to follow.
        unit: Of the result where it does not follow from the parts', or ``""``.
        better: Which way is better, or None where it follows from the parts.
        statistics: Window summaries worth showing, the headline first.
        family: Which noise it shares with others.
    """

    name: str
    operation: Operation
    parts: tuple[Part, ...]
    by: tuple[str, ...] = ()
    factor: float | None = None
    bound: float | None = None
    threshold: float | None = None
    falling: bool = False
    seconds: int = 0
    unit: str = ""
    better: Better | None = None
    statistics: tuple[str, ...] = ()
    family: str = ""

    def __str__(self) -> str:
        first, *others = map(str, self.parts)
        second = others[0] if others else f"{self.factor:g}" if self.factor is not None else ""
        said = {
            Operation.RATIO: f"{first} / {second}",
            Operation.PRODUCT: f"{first} x {second}",
            Operation.SHARE_UNDER: f"share of {first} at or under {self.bound:.17g}" if self.bound is not None else "",
            Operation.ONSETS: f"{first} {'below' if self.falling else 'above'} {self.threshold} for {self.seconds} s",
            Operation.FOLLOWED_BY: f"{first} followed by {second} within {self.seconds} s",
        }[self.operation]
        return said + (f" by {', '.join(self.by)}" if self.by else "")

    def reach(self, window: Window, step: int) -> Window:
        """
        Return the window over which readings are needed to know what happened in a window, in whole steps.

        What begins has not been before, so that one step more is needed; what follows takes its time. An interval that
        lies across the window's edge is known as a whole or not at all.
        """
        lead, tail = step if self.operation is Operation.ONSETS else 0, self.seconds * SECOND
        return Window(
            tuple((start // step * step - lead, -(-end // step) * step + tail) for start, end in window.spans)
        )

    def metric(self, *of: Metric) -> Metric:
        """
        Return the metric that is made of these metrics; its query names them by what was asked, so that a change of
        either, or of the rule, is a new definition.

        Raises:
            UnderivableError: if the operation cannot be done on them.
        """
        if len(of) != len(self.parts):
            raise ValueError(f"{self.name} is made of {len(self.parts)} metrics, not {len(of)}")
        shape, unit, better, silence, exact = _RESULTS[self.operation](self, of)
        made_of = ", ".join(f"{one.name} {one.question}" for one in of)
        try:
            return Metric(
                name=self.name,
                unit=unit,
                shape=shape,
                better=better if self.better is None else self.better,
                silence=silence,
                query=f"{self} ({made_of})",
                step_seconds=self._step_seconds(of),
                statistics=self.statistics,
                exact=exact,
                family=self.family,
            )
        except ValueError as e:
            raise UnderivableError(str(e), f"a {shape} has {', '.join(STATISTICS[shape])}") from e

    def amount(self, index: int, metric: Metric) -> str:
        """
        Return what is summed of a part.

        Raises:
            UnderivableError: if its metric's shape has no such amount.
        """
        known = AMOUNTS[metric.shape]
        wanted = self.parts[index].amount or known[0]
        if wanted not in known:
            hint = f"it has {' and '.join(known)}" if known != ("",) else f"write {metric.name} alone"
            raise UnderivableError(f"{metric.name} is a {metric.shape} and has no {wanted}", hint)
        return wanted

    def _step_seconds(self, of: Sequence[Metric]) -> int:
        steps = [EVENT_STEP_SECONDS if one.shape is Shape.EVENT else one.step_seconds for one in of]
        common = math.lcm(*steps)
        if common > LONGEST_STEP_SECONDS:
            raise UnderivableError(
                f"steps of {' and '.join(map(str, steps))} seconds meet every {common} seconds only",
                "give both step_seconds of which one is a multiple of the other",
            )
        return common


class _Result(NamedTuple):
    shape: Shape
    unit: str
    better: Better
    silence: Silence = Silence.UNKNOWN
    exact: bool = False


def _refuse_shape(metric: Metric, operation: Operation, *fit: Shape) -> None:
    if metric.shape not in fit:
        raise UnderivableError(
            f"{metric.name} is a {metric.shape}, and {operation} takes a {' or a '.join(fit)}",
            "harvest metrics shows the shape of each metric",
        )


def _ratio(rule: Rule, of: Sequence[Metric]) -> _Result:
    over, under = of
    amounts = [rule.amount(index, one) for index, one in enumerate(of)]
    if over.shape is not Shape.LEVEL and under.shape is Shape.LEVEL and _period(under.unit) is None:
        raise UnderivableError(
            f"{over.name} is an amount, {under.name} a level in {under.unit}: their ratio would depend on the step",
            f"divide by a count or by a rate, as in {under.unit}/second",
        )
    if over.shape is Shape.LEVEL and under.shape is not Shape.LEVEL and _period(over.unit) is None:
        raise UnderivableError(
            f"{over.name} is a level in {over.unit}, {under.name} an amount: their ratio would depend on the step",
            f"divide a count or a rate, as in {over.unit}/second",
        )
    plain = _as_levels(of)
    numerator, denominator = (
        one.unit if plain else _unit_of(one, amount) for one, amount in zip(of, amounts, strict=True)
    )
    unit = "1" if numerator == denominator else f"{numerator}/{_singular(denominator)}"
    if denominator in ("", "1"):
        unit = numerator
    if rule.unit:
        base = {"seconds", "bytes"} & {numerator, rule.unit.partition("/")[0]}
        if base and rule.unit.partition("/")[0] != numerator:
            raise UnderivableError(f"its unit follows from its parts and is {unit}, not {rule.unit}", "leave unit out")
        unit = _base(rule.unit)
    return _Result(Shape.RATIO, unit, Better.NEITHER)


def _product(rule: Rule, of: Sequence[Metric]) -> _Result:
    first = of[0]
    if len(of) == 2:
        for one in of:
            _refuse_shape(one, rule.operation, Shape.LEVEL)
    elif rule.factor is None:
        raise UnderivableError("a product needs what it is multiplied by", 'times = 0.19, or times = "METRIC"')
    else:
        _refuse_shape(first, rule.operation, Shape.LEVEL, Shape.COUNT)
    if not rule.unit:
        raise UnderivableError("the unit of a product does not follow from its parts", 'as in unit = "USD/hour"')
    steady = len(of) == 1 and rule.factor is not None and rule.factor > 0
    return _Result(
        first.shape, _base(rule.unit), first.better if steady else Better.NEITHER,
        Silence.ZERO if first.shape is Shape.COUNT and first.silence is Silence.ZERO else Silence.UNKNOWN,
        all(one.exact for one in of),
    )  # fmt: skip


def _share_under(rule: Rule, of: Sequence[Metric]) -> _Result:
    _refuse_shape(of[0], rule.operation, Shape.DISTRIBUTION)
    if rule.bound is None:
        raise UnderivableError("a share needs the bound it is under", "bound = 0.25")
    if of[0].threshold:
        raise UnderivableError(
            f"{of[0].name} holds only what took {of[0].threshold:g} {of[0].unit} or longer, no share of all",
            'count what is logged per request instead: operation = "ratio"',
        )
    column_of(of[0], rule.bound)
    turned = {Better.LOWER: Better.HIGHER, Better.HIGHER: Better.LOWER, Better.NEITHER: Better.NEITHER}
    return _Result(Shape.RATIO, "1", turned[of[0].better])


def _onsets(rule: Rule, of: Sequence[Metric]) -> _Result:
    _refuse_shape(of[0], rule.operation, Shape.LEVEL, Shape.RATIO)
    if rule.threshold is None:
        raise UnderivableError("onsets need the threshold that is passed", "above = 0.05, or below = 0.99")
    worse = Better.HIGHER if rule.falling else Better.LOWER
    better = Better.LOWER if of[0].better is worse else Better.NEITHER
    return _Result(Shape.EVENT, "1", better, Silence.ZERO)


def _followed_by(rule: Rule, of: Sequence[Metric]) -> _Result:
    for one in of:
        _refuse_shape(one, rule.operation, Shape.EVENT)
    if rule.seconds <= 0:
        raise UnderivableError("how soon something has to follow is missing", 'within = "2h"')
    return _Result(Shape.RATIO, "1", Better.NEITHER)


_RESULTS = {
    Operation.RATIO: _ratio,
    Operation.PRODUCT: _product,
    Operation.SHARE_UNDER: _share_under,
    Operation.ONSETS: _onsets,
    Operation.FOLLOWED_BY: _followed_by,
}


# -- units ------------------------------------------------------------------------------------------------------------


def _period(unit: str) -> int | None:
    """Return how many seconds a rate's unit is over, or None where it is no rate."""
    return _PER_TIME.get(unit.rpartition("/")[2]) if "/" in unit else None


def _as_levels(of: Sequence[Metric]) -> bool:
    """Tell whether two levels are divided as they are, because one of them is no rate."""
    return all(one.shape is Shape.LEVEL for one in of) and any(_period(one.unit) is None for one in of)


def _unit_of(metric: Metric, amount: str) -> str:
    """Return the unit of what is summed of a metric."""
    if metric.shape is Shape.LEVEL:
        return metric.unit.rpartition("/")[0]
    if amount == "total":
        return "seconds" if metric.shape is Shape.EVENT else metric.unit
    if metric.shape is Shape.COUNT or (metric.shape is Shape.EVENT and metric.unit != "seconds"):
        return metric.unit or "1"
    return "1"


def _base(unit: str) -> str:
    if _NOT_BASE.fullmatch(unit):
        raise UnderivableError(f"{unit} is no base unit", "values are kept in seconds and bytes, and printed naturally")
    return unit


def _singular(plural: str) -> str:
    if plural.endswith("ies"):
        return plural[:-3] + "y"
    return plural[:-1] if plural.endswith("s") and not plural.endswith("ss") else plural


def summable(metric: Metric) -> bool:
    """
    Tell whether the values of several series of a metric may be added.

    Amounts may; of levels, those of things that can be counted, not durations and shares.
    """
    return metric.shape is not Shape.LEVEL or metric.unit not in ("1", "seconds")


def column_of(metric: Metric, bound: float) -> int | None:
    """
    Return how many of the buckets lie at or under a bound; None where the bounds come with the readings only.

    Raises:
        UnderivableError: if it is none of the histogram's own bounds, so that the share under it is not known.
    """
    for index, own in enumerate(metric.bounds):
        if math.isclose(own, bound, rel_tol=1e-9):
            return index + 1
    if not metric.bounds:
        return None
    near = sorted(metric.bounds, key=lambda own: abs(own - bound))[:2]
    raise UnderivableError(
        f"{bound:g} is none of the bounds of {metric.name}", f"near it are {' and '.join(f'{own:g}' for own in near)}"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Deriving
# ---------------------------------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """
    Readings of a series inside a window, and which part of the window is proven complete.

    Attributes:
        readings: Of one series.
        coverage: A part of the window that was asked for.
    """

    readings: Readings
    coverage: Window


def derive(rule: Rule, series: Series, parts: Sequence[Sequence[Held]], window: Window) -> Held:
    """
    Return the readings of a derived series inside a window, with the part of it that is proven.

    Args:
        rule: What is done.
        series: What it is done for; its metric is the rule's.
        parts: For each of the rule's parts, what is held of all its series over ``rule.reach`` of the window. Series
            of the same labels are one whose bounds have changed.
        window: What is asked for.
    """
    grid = _Grid.over(rule.reach(window, series.metric.step), series.metric.step)
    readings, known = _MADE[rule.operation](rule, series, parts, grid)
    return Held(readings.within(window), known & window)


@dataclass(frozen=True, slots=True)
class _Grid:
    """
    Consecutive intervals that all parts are brought to.

    Attributes:
        at: Starts of the intervals, whole steps from the epoch, milliseconds UTC; shape (n,).
        step: Length of one, milliseconds.
    """

    at: Int64s
    step: int

    @classmethod
    def over(cls, window: Window, step: int) -> _Grid:
        import numpy as np

        if not window:
            return cls(np.empty(0, np.int64), step)
        return cls(np.arange(window.start // step, -(-window.end // step), dtype=np.int64) * step, step)

    def place(self, at: Int64s) -> Int64s:
        """Return in which interval each instant lies; those outside are numbered beyond the ends."""
        return (at - (int(self.at[0]) if len(self.at) else 0)) // self.step

    def sums(self, place: Int64s, values: Float64s | None = None) -> Float64s:
        """Return the sum of the values (or the number of places) in each interval; shape (n,)."""
        import numpy as np

        inside = (place >= 0) & (place < len(self.at))
        weights = None if values is None else values[inside]
        return np.bincount(place[inside], weights, minlength=len(self.at)).astype(np.float64)

    def spans(self, known: Booleans) -> Window:
        """Return the intervals that are known as a window."""
        import numpy as np

        edges = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0))
        return Window(
            tuple((int(self.at[first]), int(self.at[last - 1]) + self.step) for first, last in edges.reshape(-1, 2))
        )


class _Amounts(NamedTuple):
    """What a part, all of its series together, comes to in each interval, and where that is known; shape (n,) each."""

    value: Float64s
    known: Booleans


def _summed(held: Sequence[Held], grid: _Grid, amount: str, *, bound: float | None = None) -> _Amounts:
    """
    Return the sum of an amount over all series of a part.

    Within covered time a series that has no reading while others have did not exist, and adds nothing; where none has
    a reading the sum is 0 if silence means zero, else unknown. Outside covered time of any of them it is unknown.
    """
    import numpy as np

    size = len(grid.at)
    total, seen, unknown, covered = np.zeros(size), np.zeros(size, bool), np.zeros(size, bool), np.ones(size, bool)
    proven: dict[Labels, Window] = {}
    for readings, coverage in held:
        labels = readings.series.labels
        proven[labels] = proven.get(labels, Window()) | coverage
        value, present, doubtful = _binned(readings, grid, amount, bound)
        total += np.where(present, value, 0.0)
        seen |= present
        unknown |= doubtful
    for window in proven.values():
        covered &= window.contains_interval(grid.at, grid.step)
    silent_is_zero = bool(held) and all(_silence(one.readings.series.metric) is Silence.ZERO for one in held)
    known = covered & ~unknown & (seen | silent_is_zero) if held else np.zeros(size, bool)
    return _Amounts(total, known)


def _silence(metric: Metric) -> Silence:
    """Return what no readings mean: of single events, in covered time, that there were none."""
    return Silence.ZERO if metric.shape is Shape.EVENT else metric.silence


def _binned(
    readings: Readings, grid: _Grid, amount: str, bound: float | None
) -> tuple[Float64s, Booleans, Booleans]:
    """Return what one series comes to in each interval, where it has readings, and where those do not say it."""
    import numpy as np

    metric = readings.series.metric
    at, values = _values(readings, amount, bound)
    place = grid.place(at)
    number = grid.sums(place)
    finite = np.isfinite(values)
    doubtful = grid.sums(place[~finite]) > 0
    value = grid.sums(place[finite], values[finite])
    present = number > 0
    if isinstance(readings, Level):
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.where(present, value / number, 0.0)
    elif not isinstance(readings, Occurrences):
        # What an interval of the source's counted cannot be split between two of ours.
        last = grid.place(at + metric.step - 1)
        doubtful |= (grid.sums(place[last != place]) > 0) | (grid.sums(last[last != place]) > 0)
    if not isinstance(readings, Occurrences) and (_silence(metric) is Silence.UNKNOWN or isinstance(readings, Level)):
        doubtful |= present & (number < grid.step // metric.step)
    return value, present, doubtful


def _values(readings: Readings, amount: str, bound: float | None) -> tuple[Int64s, Float64s]:
    """Return when something was read of a series, and the amount each time; NaN where it is not known."""
    import numpy as np

    if isinstance(readings, Level):
        return readings.at, readings.value
    if isinstance(readings, Counts):
        return readings.at, readings.number
    if isinstance(readings, Ratio):
        return readings.at, readings.numerator if amount == "numerator" else readings.denominator
    if isinstance(readings, Occurrences):
        if amount == "count":
            return readings.start, np.ones(len(readings))
        open_ended = readings.end == OPEN  # how long it will have taken is not known, nor then what the hour comes to
        return readings.start, np.where(open_ended, np.nan, (readings.end - readings.start) / SECOND)
    if amount == "total":
        return readings.at, readings.total
    counts = readings.counts
    if bound is not None:
        column = column_of(readings.series.metric, bound)
        if column is None:  # log buckets, whose edges are 2 % apart: the nearest edge
            column = int(np.abs(readings.edges - bound).argmin())
        counts = counts[:, :column]
    return readings.at, counts.sum(axis=1)


def _make_ratio(rule: Rule, series: Series, parts: Sequence[Sequence[Held]], grid: _Grid) -> tuple[Readings, Window]:
    of = [one[0].readings.series.metric for one in parts if one]
    sides = [_summed(held, grid, rule.amount(index, of[index])) for index, held in enumerate(parts)]
    plain = _as_levels(of)
    values = []
    for one, metric in zip(sides, of, strict=True):
        # A level stands for its integral over the interval: a rate's is an amount, any other's is weighed by time.
        seconds = grid.step / SECOND if metric.shape is Shape.LEVEL else 1.0
        values.append(one.value * (seconds if plain else seconds / (_period(metric.unit) or 1)))
    known = sides[0].known & sides[1].known
    return Ratio(series, grid.at[known], values[0][known], values[1][known]), grid.spans(known)


def _make_product(rule: Rule, series: Series, parts: Sequence[Sequence[Held]], grid: _Grid) -> tuple[Readings, Window]:
    sides = [_summed(held, grid, "count") for held in parts]
    known, value = sides[0].known, sides[0].value * (1.0 if rule.factor is None else rule.factor)
    for other in sides[1:]:
        known, value = known & other.known, value * other.value
    if series.metric.shape is Shape.COUNT:
        return Counts(series, grid.at[known], value[known]), grid.spans(known)
    return Level(series, grid.at[known], value[known]), grid.spans(known)


def _make_share(rule: Rule, series: Series, parts: Sequence[Sequence[Held]], grid: _Grid) -> tuple[Readings, Window]:
    under, every = _summed(parts[0], grid, "count", bound=rule.bound), _summed(parts[0], grid, "count")
    known = under.known & every.known
    return Ratio(series, grid.at[known], under.value[known], every.value[known]), grid.spans(known)


def _make_onsets(rule: Rule, series: Series, parts: Sequence[Sequence[Held]], grid: _Grid) -> tuple[Readings, Window]:
    """
    Return when the value went beyond the threshold and stayed there long enough.

    What was beyond it already when covered time begins did not begin there. Where covered time ends before it had
    lasted long enough, nobody knows whether it did, and that time is not proven. One whose end is not seen is open.
    """
    import numpy as np

    assert rule.threshold is not None
    held = parts[0]
    if held and held[0].readings.series.metric.shape is Shape.RATIO:
        over, under = (_summed(held, grid, amount) for amount in ("numerator", "denominator"))
        with np.errstate(invalid="ignore", divide="ignore"):
            value, known = over.value / under.value, over.known & under.known  # NaN, of nothing, is beyond nothing
    else:
        value, known = _summed(held, grid, "")
    with np.errstate(invalid="ignore"):
        beyond = known & ((value < rule.threshold) if rule.falling else (value > rule.threshold))
    edges = np.flatnonzero(np.diff(beyond.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    first, last = edges[:, 0], edges[:, 1]
    padded = np.concatenate([[False], known, [False]])
    began, ended = padded[first], padded[last + 1]
    enough = (last - first) * grid.step >= rule.seconds * SECOND
    proven = known.copy()
    proven[first[~began]] = False
    for start, end in edges[began & ~enough & ~ended]:
        proven[start:end] = False
    chosen = began & enough
    start = grid.at[first[chosen]]
    end = np.where(ended[chosen], grid.at[first[chosen]] + (last - first)[chosen] * grid.step, OPEN).astype(np.int64)
    occurrences = Occurrences(
        series, tuple(map(str, start.tolist())), ended[chosen].astype(np.int64), start, end, ({},) * len(start)
    )
    return occurrences, grid.spans(proven)


def _make_followed(rule: Rule, series: Series, parts: Sequence[Sequence[Held]], grid: _Grid) -> tuple[Readings, Window]:
    import numpy as np

    every = _summed(parts[0], grid, "count")
    followed, others = (_starts(held) for held in parts)
    following = np.searchsorted(others, followed, side="left")
    soon = np.zeros(len(followed), bool)
    there = following < len(others)
    soon[there] = others[following[there]] < followed[there] + rule.seconds * SECOND
    number = grid.sums(grid.place(followed[soon]))
    known = every.known.copy()
    for one in parts[1]:
        known &= one.coverage.contains_interval(grid.at, grid.step + rule.seconds * SECOND)
    if not parts[1]:
        known[:] = False
    return Ratio(series, grid.at[known], number[known], every.value[known]), grid.spans(known)


def _starts(held: Sequence[Held]) -> Int64s:
    import numpy as np

    columns = [one.readings.start for one in held if isinstance(one.readings, Occurrences)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *columns]))


_MADE = {
    Operation.RATIO: _make_ratio,
    Operation.PRODUCT: _make_product,
    Operation.SHARE_UNDER: _make_share,
    Operation.ONSETS: _make_onsets,
    Operation.FOLLOWED_BY: _make_followed,
}
