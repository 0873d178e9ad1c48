"""Window summaries: plain arithmetic on unrounded values, the figures that are printed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harvester.readings import (
    DAY,
    OPEN,
    SECOND,
    Counts,
    Distribution,
    Level,
    Occurrences,
    Ratio,
    Readings,
    Window,
)

Array = NDArray[np.float64]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "median": 0.5}


@dataclass(frozen=True, slots=True)
class Summary:
    """
    One window in one number.

    Attributes:
        value: In the metric's unit; None where there is nothing to summarise.
        n: How many samples, observations, occurrences or trials it stands on.
        low: Lower edge of the bucket a quantile was interpolated in, or None.
        high: Upper edge, infinite in the last bucket, or None.
    """

    value: float | None
    n: float
    low: float | None = None
    high: float | None = None


def summarise(readings: Readings, window: Window, statistic: str) -> Summary:
    """
    Return the declared summary of the readings given, over the covered window given.

    Level: mean, median, p95 or max of the samples. Distribution: the quantile of the summed buckets, or the mean of all
    observations. Counts, occurrences and distributions: ``count`` and ``total`` are **per day** of the window;
    durations of occurrences leave out the open ones. Ratio: sum over sum. Readings that are not finite are left out;
    what is beyond a float is unknown.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = _summarise(readings, window.milliseconds / DAY, statistic)
    if not math.isfinite(found.n):
        return Summary(None, 0)
    return found if found.value is None or math.isfinite(found.value) else Summary(None, found.n)


def _summarise(readings: Readings, days: float, statistic: str) -> Summary:
    if isinstance(readings, Level):
        value = readings.value[np.isfinite(readings.value)]
        return Summary(_of_values(value, statistic), len(value))
    if isinstance(readings, Ratio):
        numerator, denominator = (float(np.nansum(one)) for one in (readings.numerator, readings.denominator))
        return Summary(numerator / denominator if denominator > 0 else None, denominator)
    if isinstance(readings, Counts):
        return _per_day(float(np.nansum(readings.number)), days)
    if isinstance(readings, Occurrences):
        if statistic == "count":
            return _per_day(float(len(readings)), days)
        length = durations(readings)
        if statistic == "total":
            return Summary(_per_day(float(length.sum()), days).value, len(length))
        return Summary(_of_values(length, statistic), len(length))
    return _of_distribution(readings, days, statistic)


def _per_day(number: float, days: float) -> Summary:
    return Summary(number / days if days > 0 else None, number)


def durations(readings: Occurrences) -> Array:
    """Return how long each ended occurrence lasted, in seconds; open ones are left out."""
    ended = readings.end != OPEN
    return np.asarray((readings.end[ended] - readings.start[ended]) / SECOND)


def _of_values(value: Array, statistic: str) -> float | None:
    if not len(value):
        return None
    if statistic == "mean":
        return float(value.mean())
    if statistic == "max":
        return float(value.max())
    return float(np.quantile(value, QUANTILES[statistic]))


def _of_distribution(readings: Distribution, days: float, statistic: str) -> Summary:
    counts = np.nansum(readings.counts, axis=0)
    observed = float(counts.sum())
    if statistic == "count":
        return _per_day(observed, days)
    known = np.isfinite(readings.total)
    if statistic in ("mean", "total"):
        total = float(readings.total[known].sum())
        weighed = float(np.nansum(readings.counts[known]))
        if not known.any() or observed <= 0:
            return Summary(None, observed)
        if statistic == "total":
            # A total is what it is only where every interval told its own.
            return Summary(total / days if days > 0 and known.all() else None, observed)
        return Summary(total / weighed if weighed > 0 else None, observed)
    if observed <= 0:
        return Summary(None, 0)
    value, low, high = quantile(counts, readings.edges, QUANTILES[statistic])
    return Summary(value, observed, low, high)


def share_under(readings: Distribution, bound: float) -> float | None:
    """Return the exact share of observations at or below one of the histogram's own bounds; None without any."""
    counts = np.nansum(readings.counts, axis=0)
    observed = float(counts.sum())
    column = int(np.searchsorted(readings.edges, bound))
    return float(counts[:column].sum()) / observed if observed > 0 else None


def quantile(counts: Array, edges: Array, share: float) -> tuple[float, float, float]:
    """
    Return the quantile of bucket counts, linear inside its bucket, and the bucket's edges.

    In a last bucket without an upper edge it is that bucket's lower edge, as Prometheus' ``histogram_quantile`` has it.
    """
    cumulative = np.cumsum(counts)
    rank = share * cumulative[-1]
    index = int(np.searchsorted(cumulative, rank, side="left"))
    while index < len(counts) - 1 and counts[index] <= 0:
        index += 1
    low, high = float(edges[index]), float(edges[index + 1])
    if not math.isfinite(high):
        return low, low, high
    if not math.isfinite(low):
        return high, low, high
    below = float(cumulative[index - 1]) if index else 0.0
    inside = float(counts[index])
    return low + (high - low) * (min(1.0, max(0.0, (rank - below) / inside)) if inside > 0 else 1.0), low, high


def quantiles_of_rows(counts: Array, edges: Array, share: float) -> Array:
    """Return the quantile of each row of bucket counts, NaN for an empty row; shape (rows,)."""
    cumulative = np.cumsum(counts, axis=1)
    total = cumulative[:, -1]
    rank = share * total
    index = np.minimum((cumulative < rank[:, None]).sum(axis=1), counts.shape[1] - 1)
    rows = np.arange(len(counts))
    below = np.where(index > 0, cumulative[rows, np.maximum(index - 1, 0)], 0.0)
    inside = counts[rows, index]
    low, high = edges[index], edges[index + 1]
    open_above, open_below = ~np.isfinite(high), ~np.isfinite(low)
    with np.errstate(invalid="ignore", divide="ignore"):
        share_inside = np.clip(np.where(inside > 0, (rank - below) / inside, 1.0), 0.0, 1.0)
        value = low + (np.where(open_above, low, high) - low) * share_inside
    value = np.where(open_below, high, np.where(open_above, low, value))
    return np.where(total > 0, value, np.nan)
