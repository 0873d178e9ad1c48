"""
From readings to what inference works on: six-hour levels and daily sums, all counted from the change's instant T.

A bin never straddles T. Levels of positive series are on the log scale, so that a difference of two is a log ratio.
Of no readings there are no bins, and a bin whose level is not finite is none. Division by nothing is expected here:
callers ignore numpy's warnings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harvester.differ.summary import QUANTILES, quantiles_of_rows
from harvester.readings import DAY, HOUR, Counts, Distribution, Level, Occurrences, Ratio, Window

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

BIN = 6 * HOUR
BINS_PER_DAY = 4

ZERO_SHARE = 0.01
"""A hundredth of the usual level is added before a logarithm is taken: it keeps zeros finite and moves nothing else."""


@dataclass(frozen=True, slots=True)
class Bins:
    """
    A series in six-hour bins counted from T.

    Attributes:
        index: Number of each bin, negative before T, increasing; shape (n,).
        value: What the bin's readings come to; shape (n,).
    """

    index: Integers
    value: Array

    def __len__(self) -> int:
        return len(self.index)

    @property
    def days(self) -> float:
        """How many days' worth of bins there are."""
        return len(self.index) / BINS_PER_DAY

    def select(self, keep: NDArray[np.bool_]) -> Bins:
        """Return the bins where ``keep`` is true."""
        return Bins(self.index[keep], self.value[keep])

    def __add__(self, later: Bins) -> Bins:
        return Bins(np.concatenate([self.index, later.index]), np.concatenate([self.value, later.value]))


NONE = Bins(np.empty(0, np.int64), np.empty(0))


def group(at: Integers, change: int, length: int = BIN) -> tuple[Integers, Integers]:
    """
    Return the bins that instants fall in: their numbers counted from T, and where each begins in ``at``.

    Args:
        at: Increasing, milliseconds UTC; shape (n,).
        change: T, milliseconds UTC.
        length: Of a bin, milliseconds.
    """
    if not len(at):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    number = (at - change) // length
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1)).astype(np.int64)
    return number[starts], starts


def reduce_bins(values: Array, starts: Integers, statistic: str) -> tuple[Array, Integers]:
    """
    Return one number a bin, and how many values each stands on.

    Args:
        values: One after the other, bin by bin; shape (n,).
        starts: Where each bin begins in them.
        statistic: ``mean``, ``max``, ``median`` or a quantile.
    """
    sizes = np.diff(starts, append=len(values))
    if statistic == "mean":
        return np.add.reduceat(values, starts) / sizes, sizes
    if statistic == "max":
        return np.maximum.reduceat(values, starts), sizes
    number = np.repeat(np.arange(len(starts)), sizes)
    ordered = values[np.lexsort((values, number))]
    position = starts + QUANTILES[statistic] * (sizes - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, starts + sizes - 1)
    part = position - low
    return ordered[low] * (1 - part) + ordered[high] * part, sizes


def _kept(index: Integers, value: Array, sizes: Integers) -> Bins:
    """Return the bins with at least half of the usual number of readings and a finite value."""
    return Bins(index, value).select((sizes >= 0.5 * np.median(sizes)) & np.isfinite(value))


def of_level(
    readings: Level | None, change: int, statistic: str, usual: float | None, *, logs_first: bool = True
) -> Bins:
    """
    Return the logarithm of a level in each bin, or its plain values.

    Args:
        readings: Samples.
        change: T, milliseconds UTC.
        statistic: What a bin's samples are brought to.
        usual: The usual level of that side, positive; None for plain values.
        logs_first: Whether logarithms are taken of the samples, or of what they are brought to.
    """
    if readings is None or not len(readings):
        return NONE
    index, starts = group(readings.at, change)
    if usual is None:
        value, sizes = reduce_bins(readings.value, starts, statistic)
    elif logs_first:
        value, sizes = reduce_bins(np.log(readings.value / usual + ZERO_SHARE), starts, statistic)
        value += np.log(usual)
    else:
        value, sizes = reduce_bins(readings.value / usual, starts, statistic)
        value = np.log(value + ZERO_SHARE) + np.log(usual)
    return _kept(index, value, sizes)


def roughness(levels: Bins) -> float:
    """Return the root mean square difference of bins a day apart, infinite where there is no such pair."""
    later = np.searchsorted(levels.index, levels.index + BINS_PER_DAY)
    inside = later < len(levels)
    pairs = inside & (levels.index[np.where(inside, later, 0)] == levels.index + BINS_PER_DAY)
    differences = levels.value[later[pairs]] - levels.value[pairs]
    return float(np.sqrt(np.mean(differences**2))) if len(differences) else np.inf


def of_distribution(readings: Distribution | None, change: int, statistic: str) -> Bins:
    """
    Return the logarithm of each bin's quantile (of its summed buckets), mean or total per interval.

    A bin needs as many observations as put two beyond the quantile, and 20 at least.
    """
    if readings is None or not len(readings):
        return NONE
    index, starts = group(readings.at, change)
    sizes = np.diff(starts, append=len(readings))
    counts = np.add.reduceat(readings.counts, starts, axis=0)
    observed = counts.sum(axis=1)
    if statistic in QUANTILES:
        share = QUANTILES[statistic]
        value = np.log(quantiles_of_rows(counts, readings.edges, share))
        value[observed < max(20.0, 2 / (1 - share))] = np.nan
    else:
        total = np.add.reduceat(readings.total, starts)
        value = np.log(total / (observed if statistic == "mean" else sizes))
    return _kept(index, value, sizes)


def of_ratio(readings: Ratio | None, change: int, *, bounded: bool) -> Bins:
    """
    Return the log odds of each bin's summed proportion, or the log of its ratio where it is not bounded by 1.

    Each is moved a hundredth of the way to the side's own ratio, which keeps bins without a failure finite.
    """
    if readings is None or not len(readings):
        return NONE
    index, starts = group(readings.at, change)
    sizes = np.diff(starts, append=len(readings))
    over, under = (np.add.reduceat(one, starts) for one in (readings.numerator, readings.denominator))
    usual, share = over.sum() / under.sum(), over / under
    value = np.log(share + ZERO_SHARE * usual)
    if bounded:
        value -= np.log(1 - share + ZERO_SHARE * (1 - usual))
    return _kept(index, value, sizes)


def covered(window: Window, change: int, length: int, first: int, last: int) -> Array:
    """Return which part of each bin from ``first`` up to ``last`` (outside) a window covers, 0 to 1."""
    edges = change + np.arange(first, last + 1, dtype=np.int64) * length
    starts, ends = np.array(window.spans, dtype=np.int64).reshape(-1, 2).T
    until = np.clip(edges[:, None] - starts, 0, ends - starts).sum(axis=1)
    return np.asarray(np.diff(until) / length)


def sums(
    at: Integers, numbers: Array, window: Window, coverage: Window, change: int, length: int = DAY
) -> tuple[Integers, Array, Array]:
    """
    Return the sums over each bin of a window and the exposure of each: the covered part of the bin.

    Bins without any reading inside covered time are zeros. Bins of which less than half is covered are left out.

    Args:
        at: Increasing, milliseconds UTC; shape (n,).
        numbers: What is summed; shape (n,) or (n, k).
        window: The window asked about.
        coverage: Which part of it is proven complete.
        change: T, milliseconds UTC.
        length: Of a bin, milliseconds.

    Returns:
        Numbers of the bins, shape (m,); their sums, shape (m,) or (m, k); their exposures in bins, shape (m,).
    """
    if not window:
        return np.empty(0, np.int64), np.empty((0, *numbers.shape[1:])), np.empty(0)
    first, last = (window.start - change) // length, -((change - window.end) // length)
    proven = window & coverage
    asked, exposure = covered(window, change, length, first, last), covered(proven, change, length, first, last)
    inside = proven.contains(at)
    total = np.zeros((last - first, *numbers.shape[1:]))
    np.add.at(total, (at[inside] - change) // length - first, numbers[inside])
    keep = (exposure > 0) & (exposure >= 0.5 * asked)
    return np.arange(first, last, dtype=np.int64)[keep], total[keep], exposure[keep]


def of_counts(at: Integers, number: Array, window: Window, coverage: Window, change: int) -> tuple[Bins, float]:
    """Return the logarithm of the rate in each bin, and the share of bins in which anything happened."""
    index, number_of, exposure = sums(at, number, window, coverage, change, BIN)
    total = float(number_of.sum())
    if not 0 < total < np.inf:
        return NONE, 0.0
    value = np.log(number_of / exposure + ZERO_SHARE * total / float(exposure.sum()))
    return Bins(index, value).select(np.isfinite(value)), float((number_of > 0).mean())


def counted(readings: Counts | Occurrences | Distribution) -> tuple[Integers, Array]:
    """Return when things happened and how many each time; observations of a distribution count too."""
    if isinstance(readings, Counts):
        return readings.at, readings.number
    if isinstance(readings, Occurrences):
        return readings.start, np.ones(len(readings))
    return readings.at, readings.counts.sum(axis=1)


def aligned(left: Distribution, right: Distribution) -> tuple[Array, Array, Array]:
    """Return both sides' bucket counts over one set of edges: shapes (n, k), (m, k) and (k + 1,)."""
    first = min(left.first, right.first)
    width = max(left.first + left.counts.shape[1], right.first + right.counts.shape[1]) - first
    sides = []
    for one in (left, right):
        counts = np.zeros((len(one), width))
        counts[:, one.first - first : one.first - first + one.counts.shape[1]] = one.counts
        sides.append(counts)
    return sides[0], sides[1], replace(left, counts=sides[0], first=first).edges
