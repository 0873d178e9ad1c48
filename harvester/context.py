"""
What a metric is read beside: the traffic and the errors of the same windows.

A latency falls when half of the traffic goes away, and requests that fail at once are fast. Both are plain changes of
window summaries, no inference: they are doubts about a comparison, not claims of their own. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harvester import figures
from harvester.derive import Held
from harvester.differ.result import Caveat, Comparison, Verdict
from harvester.readings import Better, Labels, Metric, Series, Shape, Window

MOVED = 1.25
"""The factor by which traffic or an error ratio has to move, up or down, before it is a doubt."""

LEAST_ERRORS = 0.001
"""An error ratio that rose by less than this share of the requests explains nothing."""

LEAST_COVERAGE = 0.8


@dataclass(frozen=True, slots=True)
class Beside:
    """
    A metric's plain value in both windows of a comparison.

    Attributes:
        name: The metric's.
        unit: The unit it is printed in.
        before: Its window summary before, or None where unknown.
        after: The same after.
    """

    name: str
    unit: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Sides:
    """What is held of one series in the window before and in the window after, under one definition."""

    series: Series
    before: Held
    after: Held


def is_traffic(metric: Metric) -> bool:
    """
    Tell whether a metric counts the work that arrives: observations, counts and rates neither good nor bad.

    A histogram with the source's own bounds counts every request; durations from a log may be the slow ones only, which
    become fewer as they become faster.
    """
    if metric.shape is Shape.DISTRIBUTION:
        return bool(metric.bounds)
    return metric.better is Better.NEITHER and (metric.shape is Shape.COUNT or metric.unit.endswith("/second"))


def is_errors(metric: Metric) -> bool:
    """Tell whether a metric is the share of the work that failed."""
    return metric.shape is Shape.RATIO and metric.better is Better.LOWER


def caveats(
    comparison: Comparison, own: Sides, context: Sequence[str], others: Iterable[Sides], windows: tuple[Window, Window]
) -> list[Caveat]:
    """
    Return the doubts that traffic and errors of the same windows cast on a comparison.

    Args:
        comparison: What was compared.
        own: Its series; the observations of a histogram are its own traffic.
        context: Names of the metrics to read beside it, the first that tells first.
        others: What is held of these metrics of the same subject.
        windows: Before and after.
    """
    if comparison.verdict in (Verdict.REFUSED, Verdict.EXACT) or comparison.statistic in ("count", "total"):
        return []
    named: dict[str, list[Sides]] = {name: [] for name in context}
    for one in others:
        if one.series.metric.name in named:
            named[one.series.metric.name].append(one)
    groups = [_alike(own.series.labels, group) for group in named.values() if group]
    traffic = [group for group in groups if is_traffic(group[0].series.metric)]
    if own.series.metric.shape is Shape.DISTRIBUTION and is_traffic(own.series.metric):
        traffic.insert(0, [own])
    errors = [group for group in groups if is_errors(group[0].series.metric)]
    found = []
    for groups_of, tell in ((errors, _errors_rose), (traffic, _traffic_moved)):
        value = _beside(groups_of[0], windows) if groups_of else None
        doubt = None if value is None else tell(comparison, value)
        if doubt is not None:
            found.append(doubt)
    return found


def _alike(labels: Labels, group: Sequence[Sides]) -> list[Sides]:
    """Return the series with the same labels, or else all that no label sets apart from them."""
    same = [one for one in group if one.series.labels == labels]
    carried = dict(labels)
    return same or [
        one for one in group if all(carried.get(name, value) == value for name, value in one.series.labels)
    ]


def _beside(group: Sequence[Sides], windows: tuple[Window, Window]) -> Beside | None:
    """Return the value of one or more series together in both windows; None where too little of one is covered."""
    from harvester.differ.summary import summarise

    if not group:
        return None
    metric = group[0].series.metric
    statistic = {Shape.LEVEL: "mean", Shape.RATIO: "ratio"}.get(metric.shape, "count")
    values: list[float | None] = []
    for index, window in enumerate(windows):
        total = weight = 0.0
        for one in group:
            held = (one.before, one.after)[index]
            covered = held.coverage & window
            if covered.share_of(window) < LEAST_COVERAGE:
                return None
            found = summarise(held.readings.within(window), covered, statistic)
            if found.value is None:
                continue
            # Shares are pooled by what they are shares of; amounts are added.
            total += found.value * (found.n if metric.shape is Shape.RATIO else 1.0)
            weight += found.n if metric.shape is Shape.RATIO else 1.0
        values.append(None if not weight else total / weight if metric.shape is Shape.RATIO else total)
    unit = figures.printed_unit(metric.unit, str(metric.shape), statistic)
    return Beside(metric.name, unit, values[0], values[1])


def _traffic_moved(comparison: Comparison, traffic: Beside) -> Caveat | None:
    before, after = traffic.before, traffic.after
    if before is None or after is None or before <= 0 or 1 / MOVED <= after / before <= MOVED:
        return None
    left, right = figures.pair(before, after, traffic.unit)
    less = after < before
    said = {
        (Verdict.IMPROVED, True): "less load may explain part of it",
        (Verdict.IMPROVED, False): "it came with more load, not with less",
        (Verdict.REGRESSED, True): "it came with less load, not with more",
        (Verdict.REGRESSED, False): "more load may explain part of it",
    }.get((comparison.verdict, less), "the two windows are not alike")
    size = figures.percent(100 * (after / before - 1))
    text = f"traffic {'fell' if less else 'rose'} from {left} to {right} ({size}) in the same windows: {said}"
    return Caveat("traffic_moved", text, _data(traffic))


def _errors_rose(comparison: Comparison, errors: Beside) -> Caveat | None:
    before, after = errors.before, errors.after
    if comparison.verdict is not Verdict.IMPROVED or before is None or after is None:
        return None
    if after - before < LEAST_ERRORS or after < MOVED * before:
        return None
    left, right = figures.pair(before, after, errors.unit)
    name = figures.plain(errors.name, 80).replace("_", " ")
    text = f"{name} rose from {left} to {right} in the same windows: failed requests are fast"
    return Caveat("errors_rose", text, _data(errors))


def _data(one: Beside) -> tuple[tuple[str, float | str], ...]:
    known: Mapping[str, float | None] = {"before": one.before, "after": one.after}
    ratio = one.after / one.before if one.before and one.after is not None else None
    numbers = tuple((name, value) for name, value in {**known, "ratio": ratio}.items() if value is not None)
    return (("metric", one.name), *numbers)
