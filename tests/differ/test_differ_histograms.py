"""Distributions: quantiles of summed buckets, bucket rules, and the exact share beside a bucketed figure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from differ_samples import BOUNDS, T, codes, compare, evidence, histograms, instants

from harvester.differ.compare import diff
from harvester.differ.inference import bootstrap_quantile
from harvester.differ.result import CLAIMS, Verdict
from harvester.differ.summary import quantile, quantiles_of_rows, share_under, summarise
from harvester.readings import DAY, HOUR, Better, Distribution, Metric, Series, Shape, Window, log_bucket

FINE = tuple(float(value) for value in np.geomspace(0.01, 10, 60))


def lognormal(middle, spread=0.5):
    return lambda rng, number: middle * np.exp(spread * rng.standard_normal(number))


def test_a_window_quantile_is_that_of_the_summed_buckets_never_a_mean_of_quantiles():
    metric = Metric("latency", "seconds", Shape.DISTRIBUTION, Better.LOWER, step_seconds=3600, bounds=(1.0, 2.0, 4.0))
    counts = np.array([[100.0, 0, 0, 0], [0, 0, 10, 0]])
    nan = np.full(2, np.nan)
    one = Distribution(Series("prom", metric), np.array([0, HOUR]), counts, nan, nan, nan)
    found = summarise(one, Window.of(0, 2 * HOUR), "p95")
    # Of 110 observations the 104.5th is the 4.5th of the ten between 2 and 4; the mean of the hours' p95s is 2.4.
    assert found.value == pytest.approx(2 + 2 * 4.5 / 10)
    assert (found.low, found.high, found.n) == (2.0, 4.0, 110)


def test_quantiles_of_rows_are_those_of_each_row():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (50, len(BOUNDS) + 1)).astype(float)
    edges = np.array([0.0, *BOUNDS, math.inf])
    for share in (0.5, 0.95, 0.99):
        expected = [quantile(row, edges, share)[0] for row in counts]
        np.testing.assert_allclose(quantiles_of_rows(counts, edges, share), expected)


def test_a_faster_service_is_improved_with_the_true_ratio_inside_the_interval():
    found = compare(histograms(lognormal(0.4), lognormal(0.2), bounds=FINE), statistic="p95")
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.low < 0.5 < found.effect.high
    assert found.before.value == pytest.approx(0.4 * math.exp(0.5 * 1.645), rel=0.05)
    assert found.before.low <= found.before.value <= found.before.high


def test_a_doubled_tail_is_seen_in_p99_and_not_in_p50():
    def tail(times):
        return lambda rng, n: np.where(rng.random(n) < 0.03, times, 1.0) * lognormal(0.2, 0.2)(rng, n)

    sides = histograms(tail(3), tail(9), bounds=FINE)
    assert compare(sides, statistic="p50").verdict not in CLAIMS
    assert compare(sides, statistic="p99").verdict is Verdict.REGRESSED


def test_both_sides_in_one_bucket_are_refused_with_the_exact_share_beside_it():
    found = compare(histograms(lognormal(0.3, 0.05), lognormal(0.27, 0.05)), statistic="p50")
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["one_bucket"])
    assert "0.25 to 0.5" in found.caveats[0].text
    assert found.under.bound == 0.25
    assert found.under.before < 0.01 < 0.05 < found.under.after


def test_neighbouring_buckets_are_compared():
    found = compare(histograms(lognormal(0.3, 0.05), lognormal(0.2, 0.05)), statistic="p50")
    assert found.verdict is Verdict.IMPROVED
    assert (found.before.low, found.after.low) == (0.25, 0.1)
    assert found.under.bound == 0.25
    assert found.under.after > 0.99 > 0.01 > found.under.before


def test_log_buckets_are_never_one_bucket():
    rng = np.random.default_rng(1)
    metric = Metric("duration", "seconds", Shape.DISTRIBUTION, Better.LOWER, step_seconds=3600)
    one = Series("log", metric)

    def side(start, middle):
        at = instants(start, start + 7 * DAY, HOUR)
        rows = [log_bucket(lognormal(middle, 0.3)(rng, 300)) for _ in at]
        first = min(int(row.min()) for row in rows)
        width = max(int(row.max()) for row in rows) - first + 1
        counts = np.array([np.bincount(row - first, minlength=width) for row in rows], float)
        nan = np.full(len(at), np.nan)
        return evidence(Distribution(one, at, counts, nan, nan, nan, first), start, start + 7 * DAY)

    found = diff(side(T - 7 * DAY, 0.1), side(T, 0.08), at=T, statistic="p50")
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.ratio == pytest.approx(0.8, rel=0.02)
    assert found.under is None
    again = diff(side(T - 7 * DAY, 0.1), side(T, 0.1), at=T, statistic="p50")
    assert again.verdict not in CLAIMS | {Verdict.REFUSED}


def test_the_last_bucket_is_a_floor_and_the_first_a_ceiling():
    found = compare(histograms(lognormal(5, 0.2), lognormal(0.05, 0.2)), statistic="p50")
    assert "above_last_bucket" in codes(found)
    assert "first_bucket" in codes(found)
    texts = {one.code: one.text for one in found.caveats}
    assert "floor" in texts["above_last_bucket"]
    assert "0.1" in texts["first_bucket"]
    assert found.before.value == 2.5
    assert found.before.high is None


def test_the_share_under_a_bound_is_exact():
    before, _ = histograms(lambda _rng, _n: np.array([0.05, 0.1, 0.2, 0.3]), lambda _rng, _n: np.array([1.0]))
    assert share_under(before.readings, 0.1) == 0.5
    assert share_under(before.readings, 0.25) == 0.75


def test_a_quiet_service_is_compared_by_days_and_says_that_drift_is_unseen():
    found = compare(histograms(lognormal(0.4), lognormal(0.2), per_hour=4, bounds=FINE), statistic="p95")
    assert found.verdict is Verdict.IMPROVED
    assert "drift_unseen" in codes(found)


def test_too_few_observations_are_refused():
    found = compare(histograms(lognormal(0.4), lognormal(0.2), per_hour=1, days=3, bounds=FINE), statistic="p95")
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["few_events"])


def test_no_traffic_is_no_latency():
    found = compare(histograms(lognormal(0.4), lambda _rng, _n: np.empty(0), bounds=FINE), statistic="p95")
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["nothing"])


def test_more_traffic_alone_is_no_change_of_a_quantile():
    busy = histograms(lambda rng, n: lognormal(0.4)(rng, 50), lambda rng, n: lognormal(0.4)(rng, 1000), bounds=FINE)
    for statistic in ("p50", "p95", "p99"):
        assert compare(busy, statistic=statistic).verdict not in CLAIMS
    counted = compare(busy, statistic="count")
    assert counted.verdict in CLAIMS
    assert counted.effect.ratio == pytest.approx(20)


def test_the_mean_is_the_total_over_the_number_of_all_observations():
    sides = histograms(lognormal(0.4), lognormal(0.2), bounds=FINE)
    found = compare(sides, statistic="mean")
    assert found.verdict is Verdict.IMPROVED
    assert found.before.value == pytest.approx(
        float(sides[0].readings.total.sum()) / float(sides[0].readings.counts.sum())
    )
    unknown = np.full(len(sides[0].readings), np.nan)
    blind = replace(sides[0], readings=replace(sides[0].readings, total=unknown))
    assert codes(compare((blind, sides[1]), statistic="mean")) == ["nothing"]


def test_the_bootstrap_widens_where_days_differ():
    rng = np.random.default_rng(2)
    edges = np.array([0.0, *FINE, math.inf])

    def days(spread):
        rows = []
        for _ in range(14):
            values = lognormal(0.3 * math.exp(spread * rng.standard_normal()), 0.4)(rng, 2000)
            rows.append(np.histogram(values, edges)[0])
        return np.array(rows, float)

    alike = bootstrap_quantile(days(0), days(0), edges, 0.95)
    differing = bootstrap_quantile(days(0.3), days(0.3), edges, 0.95)
    assert differing.half > 4 * alike.half


def test_the_bootstrap_is_of_whole_days_with_the_small_sample_correction():
    """Two days whose medians are 1 and 3: the median of a resample is 1, 2 or 3 with chances 1/4, 1/2, 1/4."""
    edges = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    one, other = np.array([[100.0, 100, 0, 0], [0, 0, 100, 100]]), np.array([[100.0, 100, 0, 0]] * 2)
    found = bootstrap_quantile(one, other, edges, 0.5, draws=4000)
    logs = np.log([1.0, 2.0, 2.0, 3.0])
    assert found.centre == pytest.approx(-math.log(2))
    assert found.half == pytest.approx(4.302653 * math.sqrt(logs.var() * 2), rel=0.03)
