"""
The measures: an estimate with its 95 % interval and p-value for each shape, on the logarithm of a ratio.

What resampling and counting cannot see, drift from day to day, the structural model of ``model`` sees; where both apply
the wider interval counts. Swapping the sides inverts every estimate here but the structural one, which knows a
direction of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, ndtr, ndtri, stdtr, stdtrit

from harvester.differ.bins import BINS_PER_DAY, Bins
from harvester.differ.model import Onset, Posterior, fit
from harvester.differ.summary import quantile, quantiles_of_rows

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

HISTORY_DAYS = 14
TAIL = 0.025
ONE_SIDED = 0.05
LEAST_FOR_NORMAL = 5.0
"""Fewer failures than this on the better side are bounded exactly."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    A difference with what is known of it.

    Attributes:
        centre: Estimate: a log ratio, or a difference where ``logarithmic`` is false.
        low: Lower end of the interval.
        high: Upper end.
        p: Two-sided p-value (one-sided for ``zero_since``).
        logarithmic: Which of the two scales.
        posterior: The model's, where the structural model was asked.
        bins: The bins it stood on.
    """

    centre: float
    low: float
    high: float
    p: float
    logarithmic: bool = True
    posterior: Posterior | None = None
    bins: Integers | None = None

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def or_wider(self, other: Estimate) -> Estimate:
        """
        Return the one whose interval is wider, with the larger p-value: a claim needs both to make it.

        The model's posterior stays, for advice on how long to wait.
        """
        wider = self if self.half >= other.half else other
        return replace(wider, p=max(self.p, other.p), posterior=self.posterior, bins=self.bins)

    def through(self, scale: Callable[[float], float]) -> Estimate:
        """Return the estimate on another scale, given a rising function onto it that keeps 0."""
        return replace(self, centre=scale(self.centre), low=scale(self.low), high=scale(self.high))


def structural(
    before: Bins, after: Bins, history: Bins, at: int, onset: Onset, *, logarithmic: bool = True
) -> Estimate:
    """
    Return the structural model's estimate from binned levels, already on the scale to be compared.

    Args:
        before: The baseline's bins.
        after: The bins from T on.
        history: Earlier bins; those older than 14 days before the baseline are left out.
        at: T, milliseconds UTC.
        onset: How the effect may set in.
        logarithmic: Whether levels are logarithms.
    """
    joined = recent(history, before) + before + after
    # Values that are no logarithms may be of any size: the model works on those of the order of 1.
    size = 1.0 if logarithmic else float(np.abs(joined.value).max()) or 1.0
    posterior = fit(joined.index, joined.value / size, at, onset)
    low, centre, high = (float(value) * size for value in posterior.quantiles(np.array([TAIL, 0.5, 1 - TAIL])))
    return Estimate(centre, low, high, posterior.p_value(), logarithmic, posterior, joined.index)


def recent(history: Bins, before: Bins) -> Bins:
    """Return the bins of the fourteen days before the baseline."""
    first = before.index[0]
    return history.select((history.index >= first - HISTORY_DAYS * BINS_PER_DAY) & (history.index < first))


def _from_t(centre: float, error: float, df: float) -> Estimate:
    if not 0 < error < math.inf:
        return Estimate(centre, -math.inf, math.inf, 1.0)
    half = float(stdtrit(df, 1 - TAIL)) * error
    p = 2 * float(stdtr(df, -abs(centre) / error))
    return Estimate(centre, centre - half, centre + half, min(1.0, p))


# ---------------------------------------------------------------------------------------------------------------------
# Counts
# ---------------------------------------------------------------------------------------------------------------------


def dispersion(*sides: tuple[Array, Array]) -> tuple[float, int]:
    """Return the quasi-Poisson dispersion of daily counts and exposures, 1 at least, and its degrees of freedom."""
    df = max(1, sum(len(counts) for counts, _ in sides) - len(sides))
    pearson = 0.0
    for counts, exposure in sides:
        expected = exposure * counts.sum() / exposure.sum()
        if counts.sum() > 0:
            pearson += float(((counts - expected) ** 2 / expected).sum())
    return max(1.0, pearson / df), df


def rate_ratio(before: tuple[Array, Array], after: tuple[Array, Array]) -> Estimate:
    """
    Return the log ratio of two rates from daily counts and the exposure of each day: quasi-Poisson.

    ``phi = max(1, Pearson / (n0 + n1 - 2))``, ``log RR = log[((S1+.5)/t1) / ((S0+.5)/t0)]``,
    ``se = sqrt(phi (1/(S0+.5) + 1/(S1+.5)))``, t with n0 + n1 - 2 degrees (Ver Hoef and Boveng, Ecology 2007).

    Args:
        before: Daily counts and exposures in days; shape (days,) each.
        after: The same.
    """
    phi, df = dispersion(before, after)
    (sum0, time0), (sum1, time1) = ((float(counts.sum()) + 0.5, float(days.sum())) for counts, days in (before, after))
    return _from_t(math.log(sum1 / time1) - math.log(sum0 / time0), math.sqrt(phi * (1 / sum0 + 1 / sum1)), df)


def independent_days(counts: Array) -> float:
    """
    Return how many independent occurrences daily counts amount to: days with events, fewer where these stick together.

    Days with events come in runs. Of n days, m of them with events at random, ``m (n - m + 1) / n`` runs are expected
    (Wald and Wolfowitz, 1940); where fewer are seen, the days count for that much less.
    """
    busy = counts > 0
    days, events = len(counts), int(busy.sum())
    if not events:
        return 0.0
    runs = int(busy[0]) + int((busy[1:] & ~busy[:-1]).sum())
    return events * min(1.0, runs * days / (events * (days - events + 1)))


def zero_since(clusters: float, days_with: float, days_without: float) -> Estimate:
    """
    Return what no event in one window means, after (or before) a window with some: the log ratio of the later rate.

    The chance of none, had nothing changed, is ``(t0 / (t0 + t1)) ** S0``. The interval holds the ratios r at which
    ``(t0 / (t0 + r t1)) ** S0`` is not below .05, so it excludes 1 exactly where that chance is below .05.

    Args:
        clusters: S0, the independent occurrences in the window that has some.
        days_with: t0, its exposure.
        days_without: t1, the exposure of the window without.
    """
    chance = (days_with / (days_with + days_without)) ** clusters
    bound = days_with / days_without * float(np.expm1(-np.log(ONE_SIDED) / max(clusters, 1e-3)))
    return Estimate(-math.inf, -math.inf, math.log(bound) if bound > 0 else -math.inf, chance)


# ---------------------------------------------------------------------------------------------------------------------
# Durations
# ---------------------------------------------------------------------------------------------------------------------


def typical_ratio(before: Array, after: Array) -> Estimate:
    """
    Return the log ratio of typical durations: Hodges-Lehmann on logs, interval by inverting Mann-Whitney.

    Zeros count as a thousandth of the smallest positive duration. Of samples above 400 the interval's ends are read
    from evenly spaced order statistics; the p-value uses all.
    """
    n, m = len(before), len(after)
    positive = np.concatenate([before, after])
    positive = positive[positive > 0]
    floor = float(positive.min()) / 1000 if len(positive) else 1.0
    logs = [np.sort(np.log(np.maximum(one, floor))) for one in (before, after)]
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    below = np.searchsorted(logs[0], logs[1], side="left") + np.searchsorted(logs[0], logs[1], side="right")
    z = max(0.0, abs(float(below.sum()) / 2 - n * m / 2) - 0.5) / deviation
    few = [_thinned(one) for one in logs]
    differences = np.sort((few[1][:, None] - few[0][None, :]).ravel())
    # The cut is the same share of all pairs, whether all are there or only some.
    share = max(0.0, 0.5 - float(ndtri(1 - TAIL)) * deviation / (n * m))
    cut = math.floor(share * len(differences))
    return Estimate(
        float(np.median(differences)), float(differences[cut]), float(differences[-1 - cut]), 2 * float(ndtr(-z))
    )


def _thinned(ordered: Array, most: int = 400) -> Array:
    if len(ordered) <= most:
        return ordered
    return np.asarray(np.quantile(ordered, (np.arange(most) + 0.5) / most))


def clustering(values: Array, days: Integers) -> float:
    """
    Return the intraclass correlation of values within their days, 0 where each stands alone (Donner, 1986).

    Args:
        values: Logarithms of durations; shape (n,).
        days: The day of each; shape (n,).
    """
    names, which = np.unique(days, return_inverse=True)
    k, n = len(names), len(values)
    if k < 2 or k == n:
        return 0.0
    sizes = np.bincount(which)
    means = np.bincount(which, values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (k - 1)
    within = float(((values - means[which]) ** 2).sum()) / (n - k)
    usual = (n - float((sizes**2).sum()) / n) / (k - 1)
    whole = between + (usual - 1) * within
    return max(0.0, (between - within) / whole) if whole > 0 else 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Ratios
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pooled:
    """
    One side of a ratio, pooled over its days.

    Attributes:
        number: Sum of numerators.
        whole: Sum of denominators.
        near: Their ratio, kept half a failure away from 0 and from 1.
        relative: Standard error of the ratio as a part of ``near``, clustered by day.
        inflation: How many times the binomial (Poisson where not bounded) variance that is, squared; 1 at least.
        days: How many days.
    """

    number: float
    whole: float
    near: float
    relative: float
    inflation: float
    days: int


def pool(numerator: Array, denominator: Array, *, bounded: bool) -> Pooled:
    """
    Return a side's pooled ratio: ``e_d = X_d - p N_d``, ``var = n/(n-1) sum e^2 / (sum N)^2`` (Cochran, 1977, 6.4).

    Args:
        numerator: Daily sums; shape (days,).
        denominator: Daily sums, positive; shape (days,).
        bounded: Whether numerators are parts of their denominators.
    """
    whole, number, n = float(denominator.sum()), float(numerator.sum()), len(numerator)
    share = number / whole
    least = 0.5 / (whole + 1) if bounded else 0.5 / whole
    near = min(max(share, least), 1 - least) if bounded else max(share, least)
    # Relative to the whole, so that neither very large nor very small sums leave the range of a float.
    residuals = (numerator - share * denominator) / whole / near
    spread = n / max(1, n - 1) * float((residuals**2).sum())
    floor = (1 - near if bounded else 1.0) / (near * whole)
    return Pooled(number, whole, near, math.sqrt(max(spread, floor)), max(1.0, spread / floor), n)


def ratio_of_ratios(before: tuple[Array, Array], after: tuple[Array, Array], *, bounded: bool) -> Estimate:
    """
    Return the log odds ratio of two proportions, or the log ratio where they are not bounded by 1, from daily sums.

    Day-clustered variances on the logit (on the log), Welch's degrees of freedom. Where the side with the smaller share
    has fewer than five failures it is bounded exactly: given both sides' failures, divided by the larger side's
    overdispersion, how they fall on the sides is binomial (Przyborowski and Wilenski, 1940).

    Args:
        before: Daily numerators and denominators; shape (days,) each.
        after: The same.
        bounded: Whether numerators are parts of their denominators.
    """
    sides = [pool(*one, bounded=bounded) for one in (before, after)]
    if bounded and min(side.number for side in sides) < LEAST_FOR_NORMAL:
        return _bounded_exactly(sides[0], sides[1])
    rests = [1 - side.near if bounded else 1.0 for side in sides]
    centres = [math.log(side.near) - math.log(rest) for side, rest in zip(sides, rests, strict=True)]
    variances = [(side.relative / rest) ** 2 for side, rest in zip(sides, rests, strict=True)]
    variance = sum(variances)
    df = variance**2 / sum(one**2 / max(1, side.days - 1) for one, side in zip(variances, sides, strict=True))
    return _from_t(centres[1] - centres[0], math.sqrt(variance), df)


def _bounded_exactly(before: Pooled, after: Pooled) -> Estimate:
    inflation = max(before.inflation, after.inflation)
    fails0, fails1 = before.number / inflation, after.number / inflation
    exposure = math.log(after.whole) - math.log(before.whole)

    def log_ratio(share: float) -> float:
        if share <= 0 or share >= 1:
            return -math.inf if share <= 0 else math.inf
        return math.log(share) - math.log1p(-share) - exposure

    low = log_ratio(float(betaincinv(fails1, fails0 + 1, TAIL))) if fails1 > 0 else -math.inf
    high = log_ratio(float(betaincinv(fails1 + 1, fails0, 1 - TAIL))) if fails0 > 0 else math.inf
    same = after.whole / (before.whole + after.whole)
    at_most = float(betainc(fails0, fails1 + 1, 1 - same)) if fails0 > 0 else 1.0
    at_least = float(betainc(fails1, fails0 + 1, same)) if fails1 > 0 else 1.0
    centre = log_ratio(fails1 / (fails0 + fails1)) if fails0 + fails1 > 0 else 0.0
    return Estimate(centre, low, high, min(1.0, 2 * min(at_most, at_least)))


def odds_to_ratio(before: float, after: float) -> Callable[[float], float]:
    """
    Return the function from a log odds ratio to the log ratio of proportions, for sides around the given proportions.

    The odds of both sides move apart evenly about their middle, so swapping the sides inverts the ratio; at the sides'
    own log odds ratio it gives the log of their ratio.
    """
    middle = sum(math.log(share) - math.log1p(-share) for share in (before, after)) / 2

    def log_share(logit: float) -> float:
        return -float(np.logaddexp(0.0, -logit))

    return lambda odds: log_share(middle + odds / 2) - log_share(middle - odds / 2)


# ---------------------------------------------------------------------------------------------------------------------
# Distributions
# ---------------------------------------------------------------------------------------------------------------------


def bootstrap_quantile(before: Array, after: Array, edges: Array, share: float, draws: int = 400) -> Estimate | None:
    """
    Return the log ratio of window quantiles with a day-block bootstrap interval, or None where it has none.

    Days are drawn with replacement; ``se * sqrt(n / (n - 1))``, t with n0 + n1 - 2 degrees.

    Args:
        before: Bucket counts of each day; shape (days, buckets), two days at least.
        after: The same.
        edges: Shape (buckets + 1,).
        share: 0.95 for p95.
        draws: Number of resamples; the seed is fixed, so the same readings give the same interval.
    """
    variance, points = 0.0, []
    for counts in (before, after):
        random = np.random.default_rng(20_260_101)  # one for each side, so that swapping them inverts the estimate
        n = len(counts)
        drawn = random.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
        quantiles = quantiles_of_rows(drawn @ counts, edges, share)
        usable = quantiles[quantiles > 0]
        point = quantile(counts.sum(axis=0), edges, share)[0]
        if len(usable) < 0.9 * draws or point <= 0:
            return None
        variance += float(np.var(np.log(usable), ddof=1)) * n / (n - 1)
        points.append(math.log(point))
    error = max(math.sqrt(variance), 1e-9)
    return _from_t(points[1] - points[0], error, len(before) + len(after) - 2)
