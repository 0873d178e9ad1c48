"""Made-up series for the differ's tests: levels, histograms, counts, occurrences and ratios about one instant T."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harvester.differ.compare import Evidence, diff
from harvester.readings import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Better,
    Counts,
    Distribution,
    Level,
    Metric,
    Occurrences,
    Ratio,
    Series,
    Shape,
    Window,
)

T = 1_772_409_600_000  # 2026-03-02 00:00 UTC, a Monday
BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5)


def series(shape, better=Better.LOWER, **more):
    return Series("prom", Metric("thing", "1", shape, better, step_seconds=more.pop("step_seconds", 300), **more))


def evidence(readings, start, end, coverage=None):
    window = Window.of(start, end)
    return Evidence(readings, window, window if coverage is None else coverage)


def instants(start, end, step=5 * MINUTE):
    return np.arange(start, end, step, dtype=np.int64)


def values_of(rng, at, noise=0.1, level=100.0, cycle=0.2):
    """Return a positive series with a daily cycle and noise of a given size on the log scale."""
    return level * np.exp(cycle * np.sin(2 * np.pi * at / DAY) + noise * rng.standard_normal(len(at)))


def levels(before, after, **how):
    """Return two sides of seven days each from functions of instants; ``how`` goes to the metric."""
    days = how.pop("days", 7)
    one = series(Shape.LEVEL, **how)
    left, right = instants(T - days * DAY, T), instants(T, T + days * DAY)
    return (
        evidence(Level(one, left, np.asarray(before(left), float)), T - days * DAY, T),
        evidence(Level(one, right, np.asarray(after(right), float)), T, T + days * DAY),
    )


def noisy_levels(seed=0, ratio=1.0, noise=0.1, days=7, **how):
    rng = np.random.default_rng(seed)
    return levels(
        lambda at: values_of(rng, at, noise), lambda at: ratio * values_of(rng, at, noise), days=days, **how
    )


def histograms(draw_before, draw_after, per_hour=400, days=7, bounds=BOUNDS, seed=0):
    """Return two sides of hourly histograms of values drawn by functions of (rng, number)."""
    rng = np.random.default_rng(seed)
    metric = Metric("latency", "seconds", Shape.DISTRIBUTION, Better.LOWER, step_seconds=3600, bounds=bounds)
    one = Series("prom", metric)

    def side(start, draw):
        at = instants(start, start + days * DAY, HOUR)
        drawn = [draw(rng, per_hour) for _ in at]
        edges = np.array([-np.inf, *bounds, np.inf])
        counts = np.array([np.histogram(-values, -edges[::-1])[0][::-1] for values in drawn], float)
        total = np.array([values.sum() for values in drawn])
        nothing = np.full(len(at), np.nan)
        return evidence(Distribution(one, at, counts, total, nothing, nothing), start, start + days * DAY)

    return side(T - days * DAY, draw_before), side(T, draw_after)


def counts(before, after, better=Better.LOWER):
    """Return two sides of daily counts, one interval a day."""
    one = series(Shape.COUNT, better, step_seconds=86_400)
    left = T + np.arange(-len(before), 0, dtype=np.int64) * DAY
    right = T + np.arange(len(after), dtype=np.int64) * DAY
    return (
        evidence(Counts(one, left, np.asarray(before, float)), int(left[0]), T),
        evidence(Counts(one, right, np.asarray(after, float)), T, int(right[-1]) + DAY),
    )


def ratios(before, after, better=Better.LOWER):
    """Return two sides of daily (numerators, denominators)."""
    one = series(Shape.RATIO, better, step_seconds=86_400)
    sides = []
    for (numerator, denominator), sign in ((before, -1), (after, 1)):
        n = len(numerator)
        at = T + np.arange(-n if sign < 0 else 0, 0 if sign < 0 else n, dtype=np.int64) * DAY
        readings = Ratio(one, at, np.asarray(numerator, float), np.asarray(denominator, float))
        sides.append(evidence(readings, int(at[0]), int(at[-1]) + DAY))
    return sides[0], sides[1]


def occurrences(before, after, days=28, start_of=None, better=Better.LOWER):
    """Return two sides of occurrences with the given durations in seconds (None for open), spread over the days."""
    one = series(Shape.EVENT, better)
    sides = []
    for lengths, start in ((before, T - days * DAY), (after, T)):
        n = len(lengths)
        at = start + np.linspace(HOUR, days * DAY - HOUR, max(n, 1)).astype(np.int64)[:n]
        if start_of is not None:
            at = np.sort(start + np.array([start_of(i, n) for i in range(n)], dtype=np.int64))
        end = np.array([-(2**63) if x is None else a + round(x * SECOND) for x, a in zip(lengths, at, strict=True)], np.int64)
        ids = tuple(f"{start}-{i}" for i in range(n))
        readings = Occurrences(one, ids, np.zeros(n, np.int64), at, end, tuple({} for _ in ids))
        sides.append(evidence(readings, start, start + days * DAY))
    return sides[0], sides[1]


def swapped(sides):
    """Return the two sides with their readings exchanged and moved to the other's window."""
    before, after = sides
    return _moved(after, before.window), _moved(before, after.window)


def _moved(side, window):
    shift = window.start - side.window.start
    readings = side.readings
    if isinstance(readings, Occurrences):
        still = readings.end == -(2**63)
        moved = replace(readings, start=readings.start + shift, end=np.where(still, readings.end, readings.end + shift))
    else:
        moved = replace(readings, at=readings.at + shift)
    return Evidence(moved, window, window)


def compare(sides, **how):
    return diff(sides[0], sides[1], at=T, **how)


def codes(comparison):
    return [one.code for one in comparison.caveats]
