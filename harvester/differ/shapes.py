"""
One question for each shape: what inference says of two sides, or why it says nothing.

Whatever cannot be told is ``Refused`` with what would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harvester.differ import bins, inference
from harvester.differ.bins import NONE, Bins
from harvester.differ.inference import Estimate
from harvester.differ.question import (
    LEAST_AFTER_DAYS,
    LEAST_BEFORE_DAYS,
    LEAST_SPANS,
    Answer,
    Evidence,
    Levels,
    Question,
    Refused,
    long_enough,
    refuse_evidence,
    refuse_short,
)
from harvester.differ.result import Caveat
from harvester.differ.summary import QUANTILES, durations
from harvester.readings import DAY, OPEN, Better, Counts, Distribution, Level, Occurrences, Ratio, Readings, Window

Array = NDArray[np.float64]

LEAST_EVENTS = 5
LEAST_DURATIONS = 5
LEAST_FAILURES = 10
LEAST_OBSERVATIONS = 100
LEAST_DAYS_UNMODELLED = 5
PLENTIFUL = 0.9
"""Where this share of six-hour bins has events, they are a rate that drifts like any other: the model decides."""
CLUSTERED = 0.05
"""Durations whose intraclass correlation within days is above this are compared by days."""
BEYOND = 1e100
"""Sums above this are no counts of anything."""


def answer(question: Question) -> Answer:
    """
    Return what may be inferred.

    Raises:
        Refused: if the evidence does not carry an answer.
    """
    refuse_evidence(question)
    left, right = question.before.readings, question.after.readings
    if isinstance(left, Level) and isinstance(right, Level):
        return _of_levels(question, left, right)
    if isinstance(left, Distribution) and isinstance(right, Distribution) and question.statistic != "count":
        if question.statistic in QUANTILES:
            return _of_quantiles(question, left, right)
        return _of_sums(question, left, right)
    if isinstance(left, Occurrences) and isinstance(right, Occurrences) and question.statistic != "count":
        if question.statistic == "total":
            return _of_total_durations(question, left, right)
        return _of_durations(question, left, right)
    if isinstance(left, Ratio) and isinstance(right, Ratio):
        return _of_ratios(question, left, right)
    if isinstance(left, Counts | Occurrences | Distribution) and type(left) is type(right):
        return _of_counts(question)
    raise Refused("definitions", "the two sides have different shapes")


def _structural(question: Question, levels: Levels, *, logarithmic: bool = True) -> Estimate:
    if len(question.before.window.spans) == len(question.after.window.spans) == 1:
        refuse_short(levels.before.days, levels.after.days, "usable readings")
    elif min(len(levels.before), len(levels.after)) < LEAST_SPANS:
        raise Refused("few_spans", f"fewer than {LEAST_SPANS} spans have readings on one side")
    return inference.structural(
        levels.before, levels.after, levels.history, question.at, question.onset, logarithmic=logarithmic
    )


# ---------------------------------------------------------------------------------------------------------------------
# Levels
# ---------------------------------------------------------------------------------------------------------------------


def _of_levels(question: Question, left: Level, right: Level) -> Answer:
    values = [one.value for one in (left, right)]
    for (name, _, _), one in zip(question.sides, values, strict=True):
        if not len(one):
            raise Refused("nothing", f"there are no readings {name}", side=name)
    if left.series.metric.exact:
        return Answer(None)
    if all(float(one.min()) == float(one.max()) for one in values):
        plain = [bins.of_level(one, question.at, question.statistic, None).days for one in (left, right)]
        refuse_short(plain[0], plain[1], "usable readings")
        return Answer(None)
    for (name, _, _), one in zip(question.sides, values, strict=True):
        if float((one == 0).mean()) > 0.5:
            raise Refused(
                "zeros", f"more than half of the readings {name} are zero; ask for its count instead", side=name
            )
    older = question.history if isinstance(question.history, Level) else None
    usual = [_usual(one, older) for one in (left, right)]
    if None in usual:
        usual = [None, None]
    levels = _quieter(left, right, older, question.at, question.statistic, usual)
    caveats: tuple[Caveat, ...] = ()
    if question.statistic == "max":
        caveats = (Caveat("extremes", "maxima are observed extremes, one value each; longer windows have larger ones"),)
    return Answer(_structural(question, levels, logarithmic=None not in usual), levels=levels, caveats=caveats)


def _quieter(
    left: Level, right: Level | None, older: Level | None, at: int, statistic: str, usual: Sequence[float | None]
) -> Levels:
    """
    Return the levels of a series, read in the way in which its baseline and history are quieter.

    A bin's mean is that of the logarithms, which spikes move little, or the logarithm of the mean, which zeros move
    little. Both shift alike when a side is scaled. The choice never looks at what came after.
    """
    readings = [
        Levels(
            bins.of_level(left, at, statistic, usual[0], logs_first=logs_first),
            bins.of_level(right, at, statistic, usual[1], logs_first=logs_first),
            bins.of_level(older, at, statistic, usual[0], logs_first=logs_first),
        )
        for logs_first in ((True, False) if statistic == "mean" and None not in usual else (True,))
    ]
    return min(readings, key=lambda one: bins.roughness(_before(one)))


def _before(levels: Levels) -> Bins:
    return inference.recent(levels.history, levels.before) + levels.before if len(levels.before) else NONE


def _usual(level: Level, history: Level | None) -> float | None:
    """Return the median of a level that is never negative, or None where logarithms mean nothing."""
    if not len(level) or min(float(one.value.min(initial=0.0)) for one in (level, history) if one is not None) < 0:
        return None
    return float(np.median(level.value)) or None


# ---------------------------------------------------------------------------------------------------------------------
# Distributions
# ---------------------------------------------------------------------------------------------------------------------


def _of_quantiles(question: Question, left: Distribution, right: Distribution) -> Answer:
    for name, _, summary in question.sides:
        if summary.value is None:
            raise Refused("nothing", f"nothing was observed {name}; without traffic there is no latency", side=name)
        if summary.n < LEAST_OBSERVATIONS:
            text = f"{summary.n:.0f} observations {name}, {LEAST_OBSERVATIONS} are needed"
            raise Refused("few_events", text, side=name, events=summary.n)
    if left.series.metric.bounds and question.left.low == question.right.low:
        raise Refused(
            "one_bucket",
            f"both sides lie in one bucket of the histogram, {question.left.low:g} to {question.left.high:g}; "
            "finer buckets would tell them apart",
        )
    if any(not summary.value or summary.value <= 0 for _, _, summary in question.sides):
        raise Refused("zeros", "the quantile is not above zero on both sides")
    daily = _by_day(question, left, right)
    bootstrap = None
    if min(len(one) for one in daily[:2]) >= 2:
        bootstrap = inference.bootstrap_quantile(*daily, QUANTILES[question.statistic])
    levels = _levels_of_distribution(question, left, right)
    if long_enough(levels):
        model = _structural(question, levels)
        return Answer(model.or_wider(bootstrap) if bootstrap else model, levels=levels)
    if bootstrap is None or min(len(one) for one in daily[:2]) < LEAST_DAYS_UNMODELLED:
        raise Refused(
            "few_events",
            f"too few observations in six hours to follow the {question.statistic}, and fewer than "
            f"{LEAST_DAYS_UNMODELLED} days a side to do without",
        )
    text = "too few observations in six hours to see drift; days were taken as independent of each other"
    return Answer(bootstrap, caveats=(Caveat("drift_unseen", text),))


def _by_day(question: Question, left: Distribution, right: Distribution) -> tuple[Array, Array, Array]:
    """Return both sides' bucket counts of each day with observations, and their edges."""
    one, two, edges = bins.aligned(left, right)
    days = []
    for counts, side in ((one, left), (two, right)):
        summed = np.add.reduceat(counts, bins.group(side.at, question.at, DAY)[1], axis=0)
        days.append(summed[summed.sum(axis=1) > 0])
    return days[0], days[1], edges


def _levels_of_distribution(question: Question, left: Distribution, right: Distribution) -> Levels:
    older = question.history if isinstance(question.history, Distribution) else None
    return Levels(
        bins.of_distribution(left, question.at, question.statistic),
        bins.of_distribution(right, question.at, question.statistic),
        bins.of_distribution(older, question.at, question.statistic),
    )


def _of_sums(question: Question, left: Distribution, right: Distribution) -> Answer:
    """Compare the mean, or the total per day, of all observations."""
    if any(summary.value is None or summary.value <= 0 for _, _, summary in question.sides):
        raise Refused("nothing", f"the {question.statistic} is unknown or zero on one side")
    daily = []
    for side, one in ((question.before, left), (question.after, right)):
        columns = np.stack([one.total, one.counts.sum(axis=1)], axis=1)
        columns[~np.isfinite(one.total)] = 0.0
        _, totals, exposure = bins.sums(one.at, columns, side.window, side.coverage, question.at)
        daily.append((totals[:, 0], totals[:, 1] if question.statistic == "mean" else exposure))
    estimate = inference.ratio_of_ratios(*_dividable(daily), bounded=False)
    levels = _levels_of_distribution(question, left, right)
    return Answer(_structural(question, levels).or_wider(estimate), levels=levels)


# ---------------------------------------------------------------------------------------------------------------------
# Counts
# ---------------------------------------------------------------------------------------------------------------------


def _of_counts(question: Question) -> Answer:
    daily = []
    for _, side, _ in question.sides:
        assert isinstance(side.readings, Counts | Occurrences | Distribution)
        at, number = bins.counted(side.readings)
        _, counts, days = bins.sums(at, number, side.window, side.coverage, question.at)
        if not len(counts):
            raise Refused("coverage", "no day is covered on one side")
        daily.append((counts, days))
    _refuse_sums([counts for counts, _ in daily])
    totals = [float(counts.sum()) for counts, _ in daily]
    if totals == [0.0, 0.0]:
        _refuse_gaps(question.before, "before")
        _refuse_gaps(question.after, "after")
        return Answer(None)
    if 0 in totals:
        return Answer(_zero(question, daily, totals))
    if sum(totals) < LEAST_EVENTS or (min(totals) < LEAST_EVENTS and max(totals) < 2 * LEAST_EVENTS):
        raise Refused(
            "few_events",
            f"{totals[0]:.0f} events before and {totals[1]:.0f} after are too few to compare",
            before=totals[0],
            after=totals[1],
        )
    levels, busy = _levels_of_counts(question)
    if busy >= PLENTIFUL and long_enough(levels):
        return Answer(_structural(question, levels), levels=levels)
    return Answer(inference.rate_ratio(daily[0], daily[1]))


def _levels_of_counts(question: Question) -> tuple[Levels, float]:
    before, after = (_levels_of_events(side, question.at) for _, side, _ in question.sides)
    older = _earlier_events(question.history, question.before.window, question.at)
    return Levels(before[0], after[0], older), min(before[1], after[1])


def _levels_of_events(side: Evidence, at: int) -> tuple[Bins, float]:
    assert isinstance(side.readings, Counts | Occurrences | Distribution)
    return bins.of_counts(*bins.counted(side.readings), side.window, side.coverage, at)


def _earlier_events(history: Readings | None, before: Window, at: int) -> Bins:
    """Nothing is known of the history's coverage; it is taken from its first reading on."""
    if not isinstance(history, Counts | Occurrences | Distribution) or not len(history) or not before:
        return NONE
    times, number = bins.counted(history)
    start = at + int((times[0] - at) // bins.BIN) * bins.BIN
    whole = Window.of(start, before.start)
    return bins.of_counts(times, number, whole, whole, at)[0]


def _refuse_sums(columns: Sequence[Array]) -> None:
    for one in columns:
        if not float(np.abs(one).sum()) < BEYOND:
            raise Refused("beyond", "the sums are beyond what can be compared")
        if (one < 0).any():
            raise Refused("negative", "there are negative counts; a counter that was reset shows like that")


def _refuse_gaps(silent: Evidence, name: str) -> None:
    if silent.share < 1.0:
        raise Refused(
            "coverage",
            f"there was nothing {name}, but only {100 * silent.share:.2f} % of that window is proven complete; zero "
            "needs all of it",
            side=name,
            share=silent.share,
        )


def _zero(question: Question, daily: Sequence[tuple[Array, Array]], totals: Sequence[float]) -> Estimate:
    fell = totals[1] == 0
    silent, (seen, days) = (question.after, daily[0]) if fell else (question.before, daily[1])
    _refuse_gaps(silent, "after" if fell else "before")
    clusters = inference.independent_days(seen)
    estimate = inference.zero_since(clusters, float(days.sum()), silent.days)
    if estimate.p >= inference.ONE_SIDED:
        raise Refused(
            "few_events",
            f"{float(seen.sum()):.0f} events, {clusters:.1f} of them independent, and none in the other window: that "
            f"happens by chance in {100 * estimate.p:.0f} % of cases; with windows of one length, five days with "
            "events are needed",
            chance=estimate.p,
            clusters=clusters,
        )
    return estimate if fell else replace(estimate, centre=math.inf, low=-estimate.high, high=math.inf)


# ---------------------------------------------------------------------------------------------------------------------
# Durations
# ---------------------------------------------------------------------------------------------------------------------


def _of_durations(question: Question, left: Occurrences, right: Occurrences) -> Answer:
    lengths = [durations(one) for one in (left, right)]
    started = [(one.start[one.end != OPEN] - question.at) // DAY for one in (left, right)]
    _refuse_few(lengths, "ended")
    if any((length < 0).any() for length in lengths):
        raise Refused("negative", "some ended before they started")
    logs = [np.log(np.maximum(length, 1e-3)) for length in lengths]
    both = np.concatenate([one - np.median(one) for one in logs]), np.concatenate(started)
    if inference.clustering(*both) <= CLUSTERED:
        return Answer(inference.typical_ratio(lengths[0], lengths[1]))
    units = []
    for length, day in zip(lengths, started, strict=True):
        order = np.argsort(day, kind="stable")
        starts = np.flatnonzero(np.diff(day[order], prepend=day[order][0] - 1)).astype(np.int64)
        units.append(bins.reduce_bins(length[order], starts, "median")[0])
    _refuse_few(units, "days with some that ended")
    caveat = Caveat("days_as_units", "those of one day are alike, so days were compared, not single ones")
    return Answer(inference.typical_ratio(units[0], units[1]), caveats=(caveat,))


def _refuse_few(units: Sequence[Array], what: str) -> None:
    before, after = (len(one) for one in units)
    if min(before, after) < LEAST_DURATIONS:
        text = f"{what}: {before} before and {after} after; at least {LEAST_DURATIONS} a side are needed"
        raise Refused("few_events", text, before=before, after=after)


def _of_total_durations(question: Question, left: Occurrences, right: Occurrences) -> Answer:
    daily = []
    for side, one in ((question.before, left), (question.after, right)):
        ended = one.end != OPEN
        _, totals, exposure = bins.sums(one.start[ended], durations(one), side.window, side.coverage, question.at)
        daily.append((totals, exposure))
    _refuse_few([durations(one) for one in (left, right)], "ended")
    return Answer(inference.ratio_of_ratios(*_dividable(daily), bounded=False))


# ---------------------------------------------------------------------------------------------------------------------
# Ratios
# ---------------------------------------------------------------------------------------------------------------------


def _dividable(daily: Sequence[tuple[Array, Array]]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the days on which there is something to divide by; refuse where a side has too few."""
    _refuse_sums([column for day in daily for column in day])
    before, after = ((numerator[under > 0], under[under > 0]) for numerator, under in daily)
    if len(before[0]) < LEAST_BEFORE_DAYS or len(after[0]) < LEAST_AFTER_DAYS:
        raise Refused("nothing", "one side has too few days with anything to divide by")
    return before, after


def _of_ratios(question: Question, left: Ratio, right: Ratio) -> Answer:
    daily = []
    for side, one in ((question.before, left), (question.after, right)):
        both = np.stack([one.numerator, one.denominator], axis=1)
        _, totals, _ = bins.sums(one.at, both, side.window, side.coverage, question.at)
        daily.append((totals[:, 0], totals[:, 1]))
    before, after = _dividable(daily)
    bounded = all(bool((over <= under * (1 + 1e-9)).all()) for over, under in (before, after))
    turned = bounded and _failing_is_the_rest(left.series.metric.better, before, after)
    failing = [(np.maximum(under - over, 0.0) if turned else over, under) for over, under in (before, after)]
    if not any(one.any() for one, _ in failing):
        return Answer(None)
    _refuse_failures(failing)
    estimate = inference.ratio_of_ratios(failing[0], failing[1], bounded=bounded)
    if turned:
        estimate = replace(estimate, centre=-estimate.centre, low=-estimate.high, high=-estimate.low)
    older = question.history if isinstance(question.history, Ratio) else None
    levels = Levels(
        bins.of_ratio(left, question.at, bounded=bounded),
        bins.of_ratio(right, question.at, bounded=bounded),
        bins.of_ratio(older, question.at, bounded=bounded),
    )
    fine = left.series.metric.step <= bins.BIN and long_enough(levels)
    if fine and _often(question, left, right, turned=turned) >= PLENTIFUL:
        estimate = _structural(question, levels).or_wider(estimate)
    used = levels if estimate.posterior is not None else None
    if not bounded:
        return Answer(estimate, levels=used)
    shares = [inference.pool(*one, bounded=True).near for one in (before, after)]
    return Answer(estimate, estimate.through(inference.odds_to_ratio(*shares)), used)


def _failing_is_the_rest(better: Better, *sides: tuple[Array, Array]) -> bool:
    """Tell whether what the numerator lacks is the failing: more of it is better, or it is the larger part."""
    if better is not Better.NEITHER:
        return better is Better.HIGHER
    return sum(float(over.sum()) for over, _ in sides) > 0.5 * sum(float(under.sum()) for _, under in sides)


def _refuse_failures(sides: Sequence[tuple[Array, Array]]) -> None:
    sums = [float(failures.sum()) for failures, _ in sides]
    shares = [total / float(under.sum()) for total, (_, under) in zip(sums, sides, strict=True)]
    worse = int(shares[1] > shares[0])
    if sums[worse] < LEAST_FAILURES:
        raise Refused(
            "few_events",
            f"{sums[0]:.0f} before and {sums[1]:.0f} after; the worse side needs {LEAST_FAILURES}",
            before=sums[0],
            after=sums[1],
        )
    if float(sides[worse][0].max()) > 0.5 * sums[worse]:
        name = ("before", "after")[worse]
        raise Refused(
            "outage", f"one day has over half of those {name}: one outage, not the usual level", side=name
        )


def _often(question: Question, *sides: Ratio, turned: bool) -> float:
    """Return the smaller share of six-hour bins with any failure."""
    shares = []
    for one in sides:
        failures = one.denominator - one.numerator if turned else one.numerator
        _, starts = bins.group(one.at, question.at)
        shares.append(float((np.add.reduceat(failures, starts) > 0).mean()))
    return min(shares)


# ---------------------------------------------------------------------------------------------------------------------
# A baseline alone
# ---------------------------------------------------------------------------------------------------------------------


def baseline_levels(before: Evidence, at: int, history: Readings | None, statistic: str) -> Levels | None:
    """Return the levels a comparison with this baseline would stand on, or None where there would be no model."""
    one = before.readings
    if statistic == "count" and not isinstance(one, Level | Ratio):
        found, busy = _levels_of_events(before, at)
        return Levels(found, NONE, _earlier_events(history, before.window, at)) if busy >= PLENTIFUL else None
    if isinstance(one, Level) and not one.series.metric.exact:
        older = history if isinstance(history, Level) else None
        usual = _usual(one, older)
        if usual is None:
            return None
        return _quieter(one, None, older, at, statistic, (usual, usual))
    if isinstance(one, Distribution):
        earlier = history if isinstance(history, Distribution) else None
        return Levels(
            bins.of_distribution(one, at, statistic), NONE, bins.of_distribution(earlier, at, statistic)
        )
    if isinstance(one, Ratio):
        bounded = bool((one.numerator <= one.denominator * (1 + 1e-9)).all())
        before_that = history if isinstance(history, Ratio) else None
        return Levels(
            bins.of_ratio(one, at, bounded=bounded), NONE, bins.of_ratio(before_that, at, bounded=bounded)
        )
    return None
