"""Doubts beside a number, as values: what a careful reader would ask before believing it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from harvester.differ import inference
from harvester.differ.bins import BINS_PER_DAY, Bins
from harvester.differ.inference import Estimate
from harvester.differ.question import Answer, Levels, Question
from harvester.differ.result import Caveat, UnderBound
from harvester.differ.summary import Summary, share_under
from harvester.readings import DAY, OPEN, Distribution, Occurrences, to_datetime

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

WIDE = 0.5
FULL_COVERAGE = 0.99
USABLE = 0.8
FAR = 4.0
"""Robust standard deviations between a baseline's level and its history's days that call for a warning."""
OUTAGE_FAR, OUTAGE_LEAST = 6.0, math.log(1.5)
"""How far, in robust standard deviations and as a ratio, a baseline's day must stand out to be an outage."""


def of_answer(question: Question, answer: Answer) -> list[Caveat]:
    """Return the doubts about a comparison that says something, those about the sides' equality first."""
    found = list(answer.caveats)
    if answer.levels is not None and answer.estimate is not None:
        found += outage(question, answer.levels, logarithmic=answer.estimate.logarithmic)
        found += regression_to_the_mean(answer.levels)
        found += sparse(question, answer.levels)
    shown = answer.shown or answer.estimate
    if shown is not None:
        found += disagreement(shown, question.left, question.right)
    return found + gaps(question) + buckets(question)


def wide(visible_percent: float | None) -> list[Caveat]:
    """Say so where only a change of more than half could have been seen."""
    if visible_percent is None or visible_percent <= 100 * WIDE:
        return []
    text = f"the interval is wide: a change smaller than {visible_percent:.0f} % would not have been seen"
    return [Caveat("wide", text, (("percent", visible_percent),))]


def disagreement(estimate: Estimate, left: Summary, right: Summary) -> list[Caveat]:
    """Say so where the printed figures and the model differ by more than half of the interval."""
    if left.value is None or right.value is None or not math.isfinite(estimate.centre):
        return []
    if not estimate.logarithmic:
        plain, said = right.value - left.value, f"{estimate.centre:+.4g}"
    elif left.value > 0 and right.value > 0:
        plain = math.log(right.value) - math.log(left.value)
        said = _percent(estimate.centre)
    else:
        return []
    if abs(plain - estimate.centre) <= estimate.half:
        return []
    text = f"the plain figures and the model ({said}) disagree: drift, the weekly cycle or a few extremes lie between"
    return [Caveat("disagreement", text, (("model", estimate.centre), ("plain", plain)))]


def gaps(question: Question) -> list[Caveat]:
    """Name each side that is not proven complete."""
    return [
        Caveat(
            "gaps",
            f"{100 * side.share:.0f} % of the {name} window is proven complete",
            (("share", side.share), ("side", name)),
        )
        for name, side, _ in question.sides
        if side.share < FULL_COVERAGE
    ]


def sparse(question: Question, levels: Levels) -> list[Caveat]:
    """Name each side whose readings fill much less of its window than its coverage would allow."""
    found = []
    for (name, side, _), one in zip(question.sides, (levels.before, levels.after), strict=True):
        if len(side.window.spans) == 1 and one.days < USABLE * side.extent:
            share = one.days / side.extent
            text = f"readings fill only {100 * share:.0f} % of the {name} window"
            found.append(Caveat("sparse", text, (("share", share), ("side", name))))
    return found


def _days(levels: Bins) -> tuple[Integers, Array]:
    """Return the days counted from T that have three bins at least, and the mean level of each."""
    if not len(levels):
        return levels.index, levels.value
    names, which = np.unique(levels.index // BINS_PER_DAY, return_inverse=True)
    sizes = np.bincount(which)
    full = sizes >= BINS_PER_DAY - 1
    return names[full], (np.bincount(which, levels.value) / sizes)[full]


def _spread(values: Array) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def regression_to_the_mean(levels: Levels) -> list[Caveat]:
    """Say so where the baseline is far from its own history: what comes after may be a return to the usual."""
    days = _days(levels.history)[1]
    if len(days) < 5 or not len(levels.before):
        return []
    middle, level, spread = float(np.median(days)), float(levels.before.value.mean()), _spread(days)
    if spread <= 0 or abs(level - middle) <= FAR * spread:
        return []
    text = "the baseline is far from its own history, so part of any change may be a return to the usual"
    return [Caveat("regression_to_the_mean", text, (("baseline", level), ("history", middle)))]


def outage(question: Question, levels: Levels, *, logarithmic: bool) -> list[Caveat]:
    """
    Name days of the baseline that stand far out, and compare against the calm days.

    A day stands out when it is six robust standard deviations and a ratio of 1.5 from the median of the baseline's and
    its history's days; more than a third of the baseline's days never do.
    """
    names, days = _days(inference.recent(levels.history, levels.before) + levels.before)
    if len(days) < 5:
        return []
    least = max(OUTAGE_FAR * _spread(days), OUTAGE_LEAST if logarithmic else 0.0)
    ours = names >= levels.before.index[0] // BINS_PER_DAY
    stand_out = names[ours & (np.abs(days - np.median(days)) > least)]
    if not 0 < len(stand_out) <= int(ours.sum()) / 3:
        return []
    calm = levels.before.select(~np.isin(levels.before.index // BINS_PER_DAY, stand_out))
    estimate = inference.structural(
        calm, levels.after, levels.history, question.at, question.onset, logarithmic=logarithmic
    )
    when = ", ".join(_date(question, int(day)) for day in stand_out[:3])
    if logarithmic:
        low, centre, high = (_percent(value) for value in (estimate.low, estimate.centre, estimate.high))
        said = f"{centre} ({low} to {high})"
    else:
        said = f"{estimate.centre:+.4g} ({estimate.low:+.4g} to {estimate.high:+.4g})"
    text = f"the baseline has {len(stand_out)} day(s) far from the rest ({when}); against the calm days it is {said}"
    data = (("days", len(stand_out)), ("low", estimate.low), ("centre", estimate.centre), ("high", estimate.high))
    return [Caveat("outage_in_baseline", text, data)]


def _percent(log_ratio: float) -> str:
    return f"{100 * math.expm1(min(log_ratio, 100.0)):+.0f} %"


def _date(question: Question, day: int) -> str:
    return to_datetime(question.at + day * DAY).date().isoformat()


def buckets(question: Question) -> list[Caveat]:
    """Say where a quantile of a histogram is a floor or a ceiling: in its last or first bucket."""
    readings = question.after.readings
    if not isinstance(readings, Distribution) or not readings.series.metric.bounds:
        return []
    found = []
    for name, _, summary in question.sides:
        if summary.high is not None and not math.isfinite(summary.high):
            text = f"the value {name} lies above the histogram's last bound and is a floor: it may be larger"
            found.append(Caveat("above_last_bucket", text, (("side", name),)))
        elif summary.low is not None and summary.low == readings.edges[0]:
            text = f"the value {name} lies in the histogram's first bucket: it may be anything up to {summary.high:g}"
            found.append(Caveat("first_bucket", text, (("side", name),)))
    return found


def unended(question: Question) -> list[Caveat]:
    """Count the occurrences that have not ended, where durations are compared."""
    left, right = question.before.readings, question.after.readings
    if question.statistic == "count" or not isinstance(left, Occurrences) or not isinstance(right, Occurrences):
        return []
    before, after = (int((one.end == OPEN).sum()) for one in (left, right))
    if not before + after:
        return []
    text = f"{before} before and {after} after have not ended and are left out"
    return [Caveat("open", text, (("before", before), ("after", after)))]


def under_bound(question: Question) -> UnderBound | None:
    """
    Return the exact share of observations under one of the histogram's own bounds, before and after.

    It is the bound below the larger of the two quantiles, or the first bound where there is none below.
    """
    left, right = question.before.readings, question.after.readings
    if not isinstance(left, Distribution) or not isinstance(right, Distribution):
        return None
    if not left.series.metric.bounds or left.series.metric.bounds != right.series.metric.bounds:
        return None
    lows = [one.low for one in (question.left, question.right) if one.low is not None]
    if not lows:
        return None
    bound = max(left.series.metric.bounds[0], *lows)
    before, after = share_under(left, bound), share_under(right, bound)
    if before is None or after is None:
        return None
    return UnderBound(bound, before, after)


