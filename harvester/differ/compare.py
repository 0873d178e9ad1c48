"""
The public questions: ``diff`` one marked change, ``screen`` many series, ``power`` of a baseline, ``replicated``.

What is printed (value, ratio, percent) is the metric's declared window summary, plain arithmetic on unrounded values.
Inference supplies verdict, interval and p-value. What cannot be told is refused, with what would settle it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harvester.differ import caveats, inference
from harvester.differ.bins import BINS_PER_DAY
from harvester.differ.inference import Estimate
from harvester.differ.model import Onset, noise_of, visible
from harvester.differ.question import LEAST_BEFORE_DAYS, Answer, Evidence, Question, Refused, known, known_side
from harvester.differ.result import CLAIMS, Caveat, Comparison, Effect, Mode, Power, Side, Verdict
from harvester.differ.shapes import answer, baseline_levels
from harvester.differ.summary import Summary, summarise
from harvester.readings import DAY, STATISTICS, Better, Metric, Readings, Series, Window

__all__ = [
    "Evidence",
    "Onset",
    "Screening",
    "benjamini_hochberg",
    "diff",
    "power",
    "replicated",
    "screen",
    "summarise",
]

ALPHA = 0.05
HORIZONS = {3: 0.005, 7: 0.015, 14: 0.035, 28: 0.05}
"""At these whole days after a change a claim may be made, at these p, when one looks every day: the chance of ever
claiming falsely stays at .03 up to day 14."""

LEAST_REPLICATION_DAYS = 7
LOOKED_AHEAD = (3, 5, 7, 10, 14, 21, 28)
MOST_BASELINE_DAYS = 28


def diff(
    before: Evidence,
    after: Evidence,
    *,
    at: int,
    history: Readings | None = None,
    statistic: str | None = None,
    subject: str = "",
    mode: Mode = Mode.EXPLORATORY,
    margin: float = 0.05,
    onset: Onset = Onset.AVERAGED,
    looks: bool = False,
    advise: bool = True,
) -> Comparison:
    """
    Return what may be said of one series before and after one marked change.

    Args:
        before: The side before the change; as long as the after side is usual.
        after: The side from the change on.
        at: The change's instant T, milliseconds UTC.
        history: Readings of the same series before the baseline, for its drift.
        statistic: Window summary to compare; the metric's headline if None.
        subject: Whose series it is.
        mode: How the question came about.
        margin: An interval inside ``1 +- margin`` is called unchanged.
        onset: How the effect may set in.
        looks: Whether the same change is looked at every day: stricter alphas at fixed horizons, provisional between.
        advise: Whether to work out how many more days an unclear effect needs.

    Raises:
        ValueError: if the metric's shape has no such statistic.
    """
    # Numbers beyond a float become infinite or NaN, and those are refused by value where they matter.
    with np.errstate(all="ignore"):
        return _diff(before, after, at, history, statistic, subject, mode, margin, onset, looks=looks, advise=advise)


def _diff(
    before: Evidence,
    after: Evidence,
    at: int,
    history: Readings | None,
    statistic: str | None,
    subject: str,
    mode: Mode,
    margin: float,
    onset: Onset,
    *,
    looks: bool,
    advise: bool,
) -> Comparison:
    series = after.readings.series
    metric = series.metric
    statistic = statistic or metric.summaries[0]
    if statistic not in STATISTICS[metric.shape]:
        raise ValueError(f"metric {metric.name}: a {metric.shape} has no statistic {statistic}")
    before, after = known_side(before), known_side(after)
    history = _usable(history, metric)
    left, right = (_summary(side, statistic) for side in (before, after))
    question = Question(before, after, at, history, statistic, onset, left, right)
    alpha, provisional = _alpha(after, looks)
    found, doubts, verdict = Answer(None), [], Verdict.EXACT
    try:
        found = answer(question)
    except Refused as refused:
        doubts, verdict = [refused.caveat], Verdict.REFUSED
    visible_percent = days_needed = None
    if found.estimate is not None:
        verdict = _verdict(found.estimate, metric.better, alpha, margin, left, right)
        if found.estimate.logarithmic and found.estimate.half < 100:
            visible_percent = 100 * math.expm1(found.estimate.half)
        if verdict is Verdict.UNCLEAR and advise:
            days_needed = _days_needed(found.estimate, question)
    if provisional and verdict in CLAIMS:
        text = "provisional: looked at between the fixed horizons of 3, 7, 14 and 28 days"
        doubts.append(Caveat("provisional", text))
    if verdict is not Verdict.REFUSED:
        doubts += caveats.wide(visible_percent) + caveats.of_answer(question, found)
    return Comparison(
        id=_comparison_id(series, statistic, before.window, after.window),
        subject=subject,
        metric=metric.name,
        labels=series.labels,
        source=series.source,
        statistic=statistic,
        unit=metric.unit,
        shape=str(metric.shape),
        better=str(metric.better),
        before=_side(before, left, at),
        after=_side(after, right, at),
        effect=None if verdict is Verdict.REFUSED else _effect(left, right, found.shown or found.estimate),
        p=None if found.estimate is None else found.estimate.p,
        verdict=verdict,
        mode=mode,
        caveats=(*doubts, *caveats.unended(question)),
        provisional=provisional,
        visible_percent=visible_percent,
        days_needed=days_needed,
        definition=metric.definition,
        under=caveats.under_bound(question),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Many series
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Screening:
    """
    Many comparisons looked at together.

    Attributes:
        comparisons: In the order asked.
        surviving: Which of them survive Benjamini-Hochberg.
        expected_false: How many of the surviving are expected to be chance.
    """

    comparisons: tuple[Comparison, ...]
    surviving: tuple[bool, ...]
    expected_false: float


def screen(
    pairs: Sequence[tuple[Evidence, Evidence, Readings | None]], *, at: int, q: float = 0.05, subject: str = ""
) -> Screening:
    """Compare many series about one instant with the plain step model, under false-discovery control."""
    found = [
        diff(before, after, at=at, history=history, subject=subject, onset=Onset.STEP, advise=False)
        for before, after, history in pairs
    ]
    surviving, expected = benjamini_hochberg(found, q)
    return Screening(tuple(found), surviving, expected)


def benjamini_hochberg(comparisons: Sequence[Comparison], q: float = 0.05) -> tuple[tuple[bool, ...], float]:
    """
    Return which claims survive at a false-discovery rate of q, and how many of those are expected to be false.

    Comparisons without inference take no part (Benjamini and Hochberg, 1995, section 3).
    """
    tested = sorted((one.p, index) for index, one in enumerate(comparisons) if one.p is not None)
    last = max((rank for rank, (p, _) in enumerate(tested, 1) if p <= q * rank / len(tested)), default=0)
    kept = {index for _, index in tested[:last] if comparisons[index].verdict in CLAIMS}
    return tuple(index in kept for index in range(len(comparisons))), q * len(kept)


# ---------------------------------------------------------------------------------------------------------------------
# Before and after a comparison: power and replication
# ---------------------------------------------------------------------------------------------------------------------


def power(
    before: Evidence,
    *,
    at: int,
    history: Readings | None = None,
    statistic: str | None = None,
    days: Sequence[int] = (7, 14, 28),
) -> tuple[Power, ...]:
    """
    Return the smallest effect that so many days after a change would show, from the series' own noise.

    It is the half-width of the interval there would be. Empty where the baseline is too short, has no noise to learn
    from, or its shape has no level to model.
    """
    with np.errstate(all="ignore"):
        return _power(before, at, history, statistic, days)


def _power(
    before: Evidence, at: int, history: Readings | None, statistic: str | None, days: Sequence[int]
) -> tuple[Power, ...]:
    metric = before.readings.series.metric
    statistic = statistic or metric.summaries[0]
    before, history = known_side(before), _usable(history, metric)
    levels = baseline_levels(before, at, history, statistic)
    if levels is None or levels.before.days < LEAST_BEFORE_DAYS:
        return ()
    past = inference.recent(levels.history, levels.before) + levels.before
    past = past.select(past.index >= -(MOST_BASELINE_DAYS + inference.HISTORY_DAYS) * BINS_PER_DAY)
    if float(np.ptp(past.value)) == 0:
        return ()
    noise, sigma2 = noise_of(past.index, past.value, at)
    seen = []
    for length in days:
        first = max(int(past.index[0]), -(length + inference.HISTORY_DAYS) * BINS_PER_DAY)
        bins = np.arange(first, length * BINS_PER_DAY, dtype=np.int64)
        half = visible(noise, sigma2, bins, at, Onset.AVERAGED)
        seen.append(Power(length, 100 * math.expm1(min(half, 100.0))))
    return tuple(seen)


def replicated(earlier: Comparison, later: Comparison) -> bool:
    """
    Tell whether a later comparison of the same series and statistic against the same baseline repeats an earlier one.

    Its after-window is disjoint from the earlier one's, lies behind it and has seven days at least. A claim is repeated
    by an effect of the same direction whose interval excludes no change; that nothing changed, by the same verdict.
    """
    same = all(
        getattr(earlier, name) == getattr(later, name)
        for name in ("subject", "source", "metric", "labels", "statistic", "definition")
    )
    behind = later.after.start >= earlier.after.end
    long_enough = later.after.end - later.after.start >= LEAST_REPLICATION_DAYS * DAY
    if not (same and behind and long_enough):
        return False
    if earlier.verdict in CLAIMS:
        return _direction(earlier) == _direction(later) != 0
    return earlier.verdict is later.verdict and earlier.verdict in (Verdict.UNCHANGED, Verdict.EXACT)


def _direction(comparison: Comparison) -> int:
    """Return 1 or -1 where the interval excludes no change, else 0."""
    effect = comparison.effect
    if effect is None or (effect.low is None and effect.high is None):
        return 0
    none = 1.0 if effect.scale == "ratio" else 0.0
    if effect.low is not None and effect.low > none:
        return 1
    return -1 if effect.high is not None and effect.high < none else 0


# ---------------------------------------------------------------------------------------------------------------------
# Verdict, effect, advice
# ---------------------------------------------------------------------------------------------------------------------


def _usable(history: Readings | None, metric: Metric) -> Readings | None:
    if history is None or history.series.metric.definition != metric.definition:
        return None
    return known(history) if len(history) else None


def _summary(side: Evidence, statistic: str) -> Summary:
    if statistic not in STATISTICS[side.readings.series.metric.shape]:
        return Summary(None, 0)
    return summarise(side.readings, side.coverage & side.window, statistic)


def _alpha(after: Evidence, looks: bool) -> tuple[float, bool]:
    """Return the p below which a claim may be made, and whether the window lies between the fixed horizons."""
    if not looks:
        return ALPHA, False
    days = after.extent
    reached = [alpha for horizon, alpha in HORIZONS.items() if days >= horizon]
    between = days < max(HORIZONS) and not any(horizon <= days < horizon + 1 for horizon in HORIZONS)
    return reached[-1] if reached else HORIZONS[3], between


def _verdict(
    estimate: Estimate, better: Better, alpha: float, margin: float, left: Summary, right: Summary
) -> Verdict:
    before, after = left.value, right.value
    # A series that drifts up, falls back at T and drifts up again has a step, and no difference that could be shown:
    # nothing is claimed that the printed figures do not say as well.
    said = before is not None and after is not None and (after > before if estimate.centre > 0 else after < before)
    if estimate.p < alpha and (estimate.low > 0 or estimate.high < 0) and said:
        if better is Better.NEITHER:
            return Verdict.CHANGED
        return Verdict.IMPROVED if (estimate.low > 0) == (better is Better.HIGHER) else Verdict.REGRESSED
    if estimate.logarithmic:
        inside = math.log1p(-margin) <= estimate.low and estimate.high <= math.log1p(margin)
    else:
        most = margin * abs(left.value or 0.0)
        inside = -most <= estimate.low and estimate.high <= most
    return Verdict.UNCHANGED if inside else Verdict.UNCLEAR


def _effect(left: Summary, right: Summary, estimate: Estimate | None) -> Effect | None:
    if left.value is None or right.value is None:
        return None
    difference = _finite(right.value - left.value)
    ratio = _finite(right.value / left.value) if left.value > 0 and right.value >= 0 else None
    percent = None if ratio is None else _finite(100 * (ratio - 1))
    if estimate is None:
        return Effect(ratio, difference, percent)
    if not estimate.logarithmic:
        low, high, centre = (_finite(value) for value in (estimate.low, estimate.high, estimate.centre))
        return Effect(ratio, difference, percent, low, high, centre, scale="difference")
    low, high, centre = (_exp(value) for value in (estimate.low, estimate.high, estimate.centre))
    return Effect(ratio, difference, percent, low, high, centre)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _exp(value: float) -> float | None:
    """Return e to the value, or None where it is beyond a float."""
    return math.exp(value) if value < 700 else None


def _days_needed(estimate: Estimate, question: Question) -> int | None:
    """
    Return after how many days in all the present effect would be clear, or None if not within four weeks.

    The model says how much narrower its interval becomes; without the model it narrows with the root of the time.
    """
    effect, half = abs(estimate.centre), estimate.half
    if not 0 < effect < math.inf or not math.isfinite(half):
        return None
    now = max(1, round(question.after.extent))
    posterior, bins = estimate.posterior, estimate.bins
    if posterior is None or bins is None:
        days = math.ceil(now * min((half / effect) ** 2, 1e6))
        return days if now < days <= max(LOOKED_AHEAD) else None
    present = visible(posterior.noise, posterior.sigma2, bins, question.at, question.onset)
    for days in LOOKED_AHEAD:
        if days <= now:
            continue
        first = min(int(bins[0]), -days * BINS_PER_DAY)
        hypothetical = np.arange(first, days * BINS_PER_DAY, dtype=np.int64)
        narrower = visible(posterior.noise, posterior.sigma2, hypothetical, question.at, question.onset) / present
        if half * narrower < effect:
            return days
    return None


def _side(evidence: Evidence, summary: Summary, at: int) -> Side:
    low, high = (None if one is None or not math.isfinite(one) else one for one in (summary.low, summary.high))
    return Side(
        value=summary.value,
        n=summary.n,
        start=evidence.window.start if evidence.window else at,
        end=evidence.window.end if evidence.window else at,
        coverage=evidence.share if evidence.window else 0.0,
        low=low,
        high=high,
    )


def _comparison_id(series: Series, statistic: str, before: Window, after: Window) -> str:
    named = (series.source, series.metric.name, series.labels, series.metric.definition, statistic)
    return hashlib.sha256(repr((*named, before.spans, after.spans)).encode()).hexdigest()[:12]
