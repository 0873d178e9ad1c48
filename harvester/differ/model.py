"""
The structural step model: has the level of a noisy, drifting, seasonal series changed at T?

``y = mu + delta * s(x) + e`` on logarithms of six-hour bins, x in days, with

    Cov(e) = sigma^2 [ I + l min(x_i, x_j) + k D + 10 H + g (H o D) + o exp(-|x_i - x_j| / 0.5) ]

white noise, random walk, weekday (D), time of day (H), their product and a half-day Ornstein-Uhlenbeck term. The noise
is averaged over a grid of (l, k, g, o), the onset over five shapes; each model is solved by generalised least squares
and weighted by its marginal likelihood. The posterior of delta is a mixture of t distributions. Resampling points or
days knows nothing of drift; this model does, and pays for it with wider, honest intervals.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from harvester.differ.bins import BIN, BINS_PER_DAY
from harvester.readings import DAY

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

LEAST_DF, MOST_DF = 2, 8

RESOLUTION = 1e-9
"""Noise no smaller than this is ever assumed: levels are logarithms, or of the order of 1."""

NOISE: Array = np.array(
    [
        (0, 0, 0, 0), (0, 0, 0, 1), (0, 0.5, 1, 5), (0.05, 0, 0, 0), (0.05, 0, 0, 1), (0.05, 0, 0, 5),
        (0.05, 0.5, 0, 5), (0.05, 0.5, 1, 5), (0.3, 0, 0, 0), (0.3, 0, 0, 5), (0.3, 0, 1, 1), (0.3, 0.5, 0, 0),
        (0.3, 0.5, 0, 5), (0.3, 0.5, 1, 0), (0.3, 0.5, 1, 1), (0.3, 0.5, 1, 5), (0.3, 5, 1, 0), (2, 0, 0, 5),
        (2, 0, 1, 5), (2, 0.5, 0, 5), (2, 0.5, 1, 0), (10, 0, 0, 5), (10, 0.5, 0, 5), (10, 5, 0, 5),
    ]
)  # fmt: skip
"""The grid of (l, k, g, o); each has the same prior weight."""


PRIOR_OF_STEP = 0.8
"""That the effect is whole from T on; a step half a day or a day late and ramps of one or three days share the rest."""


class Onset(StrEnum):
    """How the effect sets in: averaged over five shapes (one marked change) or a plain step (screening)."""

    AVERAGED = "averaged"
    STEP = "step"


@dataclass(frozen=True, slots=True)
class Posterior:
    """
    A mixture of t distributions of delta.

    Attributes:
        weight: Of each component, summing to 1; shape (m,).
        centre: shape (m,).
        scale: shape (m,).
        df: Degrees of freedom, common to all.
        noise: Posterior weight of each point of ``NOISE``; shape (24,).
        sigma2: Estimated variance for each point of ``NOISE``; shape (24,).
    """

    weight: Array
    centre: Array
    scale: Array
    df: float
    noise: Array
    sigma2: Array

    def cdf(self, at: float | Array) -> Array:
        """Return the probability that delta lies at or below each of the given values."""
        points = np.atleast_1d(np.asarray(at, float))
        each = np.asarray(stdtr(self.df, (points[:, None] - self.centre) / self.scale), np.float64)
        return np.asarray(each @ self.weight)

    def quantiles(self, probabilities: Array) -> Array:
        """Return quantiles of delta by bisection to 1e-7 of the mixture's width."""
        spread = 400.0 * float(self.scale.max())
        low = np.full(len(probabilities), float(self.centre.min()) - spread)
        high = np.full(len(probabilities), float(self.centre.max()) + spread)
        for _ in range(44):
            middle = (low + high) / 2
            below = self.cdf(middle) < probabilities
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray((low + high) / 2)

    def p_value(self) -> float:
        """Return the two-sided probability of a delta as far from 0."""
        below = float(self.cdf(0.0)[0])
        return float(min(1.0, max(0.0, 2 * min(below, 1 - below))))  # weights sum to 1 but for rounding


@dataclass(frozen=True, slots=True)
class _Operators:
    """What depends on the bins alone: whitening matrices and, per noise point and shape, bases and variances."""

    white: Array  # (24, n, n) inverse Cholesky factors
    log_det: Array  # (24,)
    basis: Array  # (24, shapes, n, 2) orthonormal basis of the whitened design
    contrast: Array  # (24, shapes, n) delta = contrast . whitened y
    variance: Array  # (24, shapes) of delta, in units of sigma^2
    log_information: Array  # (24, shapes) log |X' S^-1 X|
    prior: Array  # (shapes,)


_cache: OrderedDict[tuple[bytes, int, Onset], _Operators] = OrderedDict()
_cache_lock = Lock()
_MOST_CACHED = 6


def phase_of(at: int) -> int:
    """Return what of T matters for the weekdays of its bins: the quarter of a day in the week it lies in, 0 to 27."""
    return int((at + BIN // 2) % (7 * DAY) // BIN)


def degrees_of_freedom(bins: int) -> float:
    """
    Return the degrees of freedom that so many bins give: two less than the days they fill, 8 at most.

    Bins of one day share their noise, so the day is the unit. With one degree for each bin, windows of three days
    claim a change in 7 % of comparisons whose days were permuted.
    """
    return float(min(max(bins / BINS_PER_DAY - 2, LEAST_DF), MOST_DF))


def _least_squares(centred: Array) -> float:
    return max(1e-12 * float(centred @ centred), len(centred) * RESOLUTION**2)


def fit(bins: Integers, y: Array, at: int, onset: Onset = Onset.AVERAGED) -> Posterior:
    """
    Return the posterior of the step delta at T.

    Args:
        bins: Index of each six-hour bin, counted from T (negative before it), increasing; shape (n,).
        y: The level in each bin, usually a mean of logarithms; shape (n,).
        at: T, milliseconds UTC.
        onset: How the effect may set in.

    Raises:
        ValueError: if there are fewer than four bins or none on one side.
    """
    if len(bins) < 4 or bins[0] >= 0 or bins[-1] < 0:
        raise ValueError("the model needs bins on both sides")
    operators = _operators(bins, phase_of(at), onset)
    n = len(y)
    centred = y - y.mean()
    whitened = operators.white @ centred  # (24, n)
    delta = np.einsum("msn,mn->ms", operators.contrast, whitened)
    fitted = np.einsum("msnk,mn->msk", operators.basis, whitened)
    total = np.einsum("mn,mn->m", whitened, whitened)
    rss = np.maximum(total[:, None] - (fitted**2).sum(axis=2), _least_squares(centred))
    log_weight = (
        np.log(operators.prior)
        - 0.5 * operators.log_det[:, None]
        - 0.5 * operators.log_information
        - 0.5 * (n - 2) * np.log(rss)
    )
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    sigma2 = rss / (n - 2)
    scale = np.sqrt(sigma2 * operators.variance)
    keep = weight > 1e-9
    kept = weight[keep] / weight[keep].sum()
    by_noise = weight.sum(axis=1)
    mean_sigma2 = (weight * sigma2).sum(axis=1) / np.maximum(by_noise, 1e-300)
    return Posterior(kept, delta[keep], scale[keep], degrees_of_freedom(n), by_noise, mean_sigma2)


def noise_of(bins: Integers, y: Array, at: int) -> tuple[Array, Array]:
    """
    Return the posterior weight and the variance of each point of ``NOISE`` for a series in which nothing was done.

    Args:
        bins: Index of each bin counted from T; shape (n,).
        y: The level in each bin; shape (n,).
        at: T, milliseconds UTC.
    """
    white, log_det = _whitening(bins, phase_of(at))
    centred = y - y.mean()
    whitened = white @ centred
    ones = white.sum(axis=2)
    information = (ones**2).sum(axis=1)
    fitted = (ones * whitened).sum(axis=1) ** 2 / information
    rss = np.maximum((whitened**2).sum(axis=1) - fitted, _least_squares(centred))
    n = len(y)
    log_weight = -0.5 * log_det - 0.5 * np.log(information) - 0.5 * (n - 1) * np.log(rss)
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum(), rss / (n - 1)


def visible(noise: Array, sigma2: Array, bins: Integers, at: int, onset: Onset) -> float:
    """
    Return the half-width of the 95 % interval that such noise gives to a change seen through the given bins.

    Args:
        noise: Weight of each point of ``NOISE``; shape (24,).
        sigma2: Variance of each; shape (24,).
        bins: The bins there would be, counted from T; shape (n,).
        at: T, milliseconds UTC.
        onset: How the effect may set in.
    """
    operators = _operators(bins, phase_of(at), onset)
    weight = noise[:, None] * operators.prior
    scale = np.sqrt(sigma2[:, None] * operators.variance)
    keep = weight > 1e-5
    kept = weight[keep] / weight[keep].sum()
    mixture = Posterior(kept, np.zeros(len(kept)), scale[keep], degrees_of_freedom(len(bins)), noise, sigma2)
    return float(mixture.quantiles(np.array([0.975]))[0])


def onset_shapes(x: Array, onset: Onset) -> tuple[Array, Array]:
    """
    Return the onset shapes at times x (days from T) and their prior weights: shapes (s, n) and (s,).

    A shape counts only if it leaves at least half of the after bins at full effect.
    """
    after = x > 0
    candidates = [(PRIOR_OF_STEP, after.astype(float))]
    if onset is Onset.AVERAGED:
        each = (1 - PRIOR_OF_STEP) / 4
        candidates += [(each, (x > late).astype(float)) for late in (0.5, 1.0)]
        candidates += [(each, np.clip(x / length, 0.0, 1.0)) for length in (1.0, 3.0)]
    full = [(prior, s) for prior, s in candidates if (s[after] >= 1.0).mean() >= 0.5]
    prior = np.array([one for one, _ in full])
    return np.array([s for _, s in full]), prior / prior.sum()


def _operators(bins: Integers, phase: int, onset: Onset) -> _Operators:
    key = (bins.tobytes(), phase, onset)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    made = _make(bins, phase, onset)
    with _cache_lock:
        _cache[key] = made
        while len(_cache) > _MOST_CACHED:
            _cache.popitem(last=False)
    return made


def _make(bins: Integers, phase: int, onset: Onset) -> _Operators:
    x = (bins + 0.5) / BINS_PER_DAY
    shapes, prior = onset_shapes(x, onset)
    white, log_det = _whitening(bins, phase)
    design = np.stack([np.broadcast_to(np.ones_like(x), shapes.shape), shapes], axis=2)  # (s, n, 2)
    whitened = np.einsum("mij,sjk->msik", white, design)
    basis, upper = np.linalg.qr(whitened)
    diagonal = np.abs(np.diagonal(upper, axis1=2, axis2=3))  # (m, s, 2)
    # With X = Q R the second coefficient is (Q' y)_2 / R_22: its variance is 1 / R_22^2.
    contrast = basis[..., 1] / upper[..., 1, 1][..., None]
    return _Operators(
        white, log_det, basis, contrast, 1 / diagonal[..., 1] ** 2, 2 * np.log(diagonal).sum(axis=2), prior
    )


@lru_cache(maxsize=4)
def _whitening_cached(raw: bytes, phase: int) -> tuple[Array, Array]:
    bins = np.frombuffer(raw, np.int64)
    x = (bins + 0.5) / BINS_PER_DAY
    slot = np.mod(bins, BINS_PER_DAY)
    weekday = np.mod((phase + bins) // BINS_PER_DAY, 7)
    # The epoch began on a Thursday: days 2 and 3 of a week counted from it are Saturday and Sunday.
    weekend = (weekday == 2) | (weekday == 3)
    same_day = weekday[:, None] == weekday[None, :]
    same_class = weekend[:, None] == weekend[None, :]
    day = 0.35 * same_day + 0.65 * same_class
    hour = (slot[:, None] == slot[None, :]).astype(float)
    walk = np.minimum(x[:, None], x[None, :]) - x[0] + 0.5 / BINS_PER_DAY
    decay = np.exp(-np.abs(x[:, None] - x[None, :]) / 0.5)
    walking, weekly, both, drift = (NOISE[:, column, None, None] for column in range(4))
    covariance = np.eye(len(x)) + walking * walk + weekly * day + 10 * hour + both * (hour * day) + drift * decay
    factor = np.linalg.cholesky(covariance)
    log_det = 2 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    white = np.linalg.inv(factor)
    return white, log_det


def _whitening(bins: Integers, phase: int) -> tuple[Array, Array]:
    return _whitening_cached(np.ascontiguousarray(bins, np.int64).tobytes(), phase)
