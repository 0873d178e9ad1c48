"""Simulated false claims: small, seeded, with a bound that a broken interval would pass far beyond."""

from __future__ import annotations

import numpy as np
import pytest
from differ_samples import T, compare, counts, evidence, instants, levels, occurrences, ratios, series, values_of
from scipy.special import expit, logit

from harvester.differ.compare import Onset, diff
from harvester.differ.result import CLAIMS
from harvester.readings import DAY, HOUR, Level, Shape


def false_claims(make, number, **how):
    return np.mean([compare(make(np.random.default_rng(seed)), **how).verdict in CLAIMS for seed in range(number)])


def drifting_levels(rng):
    """Return seven and seven days of hourly values with a daily and weekly cycle, days that differ and a slow walk."""
    at = instants(T - 7 * DAY, T + 7 * DAY, HOUR)
    day = (at - at[0]) // DAY
    log = 0.3 * np.sin(2 * np.pi * at / DAY) - 0.4 * ((at // DAY + 3) % 7 >= 5) + 0.2 * rng.standard_normal(len(at))
    log += 0.08 * rng.standard_normal(15)[day] + np.cumsum(0.005 * rng.standard_normal(len(at)))
    one = series(Shape.LEVEL, step_seconds=3600)
    half = len(at) // 2
    return (
        evidence(Level(one, at[:half], np.exp(log[:half])), T - 7 * DAY, T),
        evidence(Level(one, at[half:], np.exp(log[half:])), T, T + 7 * DAY),
    )


@pytest.mark.parametrize("onset", list(Onset))
def test_levels_that_drift_are_seldom_claimed(onset):
    assert false_claims(drifting_levels, 120, onset=onset) <= 0.09


def test_signed_levels_that_drift_are_seldom_claimed():
    def signed(rng):
        before, after = drifting_levels(rng)
        sides = []
        for side in (before, after):
            readings = side.readings
            sides.append(evidence(Level(readings.series, readings.at, np.log(readings.value)), *side.window.spans[0]))
        return sides

    assert false_claims(signed, 120) <= 0.09


def test_overdispersed_counts_are_seldom_claimed():
    assert false_claims(lambda rng: counts(*rng.negative_binomial(1.5, 0.2, (2, 14))), 400) <= 0.07


def test_clustered_failures_are_seldom_claimed():
    def clustered(rng):
        shares = expit(logit(0.02) + 0.6 * rng.standard_normal((2, 14)))
        failures = rng.binomial(3000, shares).astype(float)
        whole = np.full(14, 3000.0)
        return ratios((failures[0], whole), (failures[1], whole))

    assert false_claims(clustered, 400) <= 0.07


def test_bursts_that_stop_are_seldom_claimed():
    """Two bursts a month: a window of four weeks without one is common."""

    def bursts(rng):
        happened = rng.random(56) < 0.08
        numbers = np.where(happened, rng.poisson(5, 56), 0)
        return counts(numbers[:28], numbers[28:])

    assert false_claims(bursts, 400) <= 0.05


def test_durations_of_shared_days_are_seldom_claimed():
    def clustered(rng):
        sides = []
        for _ in range(2):
            effects = 0.8 * rng.standard_normal(14)
            sides.append(300 * np.exp(np.repeat(effects, 4) + 0.6 * rng.standard_normal(56)))
        return occurrences(*sides, days=14, start_of=lambda i, _n: i // 4 * DAY + i % 4 * HOUR)

    assert false_claims(clustered, 200, statistic="median") <= 0.085


def test_a_weekend_between_is_seldom_claimed_even_without_history():
    def weekend(rng):
        at_shape = lambda at: np.where((at // DAY + 3) % 7 >= 5, 0.7, 1.0)  # noqa: E731
        return levels(
            lambda at: values_of(rng, at, 0.3) * at_shape(at), lambda at: values_of(rng, at, 0.3) * at_shape(at), days=7
        )

    assert false_claims(weekend, 60) <= 0.05


def test_real_changes_are_found():
    def halved(rng):
        before, after = drifting_levels(rng)
        readings = after.readings
        return before, evidence(Level(readings.series, readings.at, 0.5 * readings.value), T, T + 7 * DAY)

    found = [diff(*halved(np.random.default_rng(seed)), at=T) for seed in range(60)]
    assert np.mean([one.verdict in CLAIMS and one.effect.estimate < 1 for one in found]) >= 0.7
    assert np.mean([one.effect.low <= 0.5 <= one.effect.high for one in found]) >= 0.9
