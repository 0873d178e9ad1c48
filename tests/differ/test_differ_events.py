"""Events: counts per exposure, nothing since, and durations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differ_samples import T, codes, compare, counts, evidence, instants, occurrences, series

from harvester.differ import inference
from harvester.differ.bins import sums
from harvester.differ.compare import Evidence, diff
from harvester.differ.result import CLAIMS, Verdict
from harvester.readings import DAY, HOUR, Counts, Shape, Window


def test_a_fallen_rate_is_improved():
    rng = np.random.default_rng(0)
    found = compare(counts(rng.poisson(8, 28), rng.poisson(3, 28)))
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.low < 3 / 8 < found.effect.high
    assert found.statistic == "count"


def test_the_rate_ratio_is_the_formula():
    before, after = np.array([3.0, 9, 1, 7]), np.array([2.0, 2, 8, 0, 1])
    days0, days1 = np.full(4, 1.0), np.array([1, 1, 1, 1, 0.5])
    found = inference.rate_ratio((before, days0), (after, days1))
    rate0, rate1 = 20 / 4, 13 / 4.5
    pearson = ((before - rate0) ** 2 / rate0).sum() + ((after - rate1 * days1) ** 2 / (rate1 * days1)).sum()
    error = math.sqrt(pearson / 7 * (1 / 20.5 + 1 / 13.5))
    assert found.centre == pytest.approx(math.log((13.5 / 4.5) / (20.5 / 4)))
    assert found.half == pytest.approx(2.3646 * error, rel=1e-4)


def test_exposure_is_the_covered_time():
    at = instants(T, T + 4 * DAY, HOUR)
    gap = Window.of(T, T + 4 * DAY) - Window.of(T + DAY, T + DAY + 6 * HOUR) - Window.of(T + 2 * DAY, T + 3 * DAY - HOUR)
    days, total, exposure = sums(at, np.ones(len(at)), Window.of(T, T + 4 * DAY), gap, T)
    assert list(days) == [0, 1, 3]  # the third day is covered for an hour only
    assert list(total) == [24, 18, 24]
    assert list(exposure) == [1, 0.75, 1]


def test_frequent_counts_are_a_rate_with_drift():
    rng = np.random.default_rng(1)
    one = series(Shape.COUNT, step_seconds=3600)

    def side(start, walk):
        at = instants(start, start + 7 * DAY, HOUR)
        return evidence(Counts(one, at, rng.poisson(50 * np.exp(walk)).astype(float)), start, start + 7 * DAY)

    walk = np.cumsum(0.08 * rng.standard_normal(14 * 24))
    drifting = diff(side(T - 7 * DAY, walk[:168]), side(T, walk[168:]), at=T)
    steady = diff(side(T - 7 * DAY, np.zeros(168)), side(T, np.zeros(168)), at=T)
    assert drifting.effect.high / drifting.effect.low > 2 * steady.effect.high / steady.effect.low
    assert steady.verdict not in CLAIMS


@pytest.mark.parametrize(("before", "after"), [([1, 0, 1, 0], [0, 1, 0, 0]), ([2, 2, 0, 0], [1, 0, 0, 0])])
def test_a_handful_of_events_is_refused(before, after):
    found = compare(counts(before, after))
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["few_events"])


def test_nothing_since_five_single_events_is_a_fall():
    before = np.zeros(28)
    before[[1, 7, 12, 18, 25]] = 1
    found = compare(counts(before, np.zeros(28)))
    assert found.verdict is Verdict.IMPROVED
    assert found.p == pytest.approx(0.5**5)
    assert (found.effect.low, found.effect.estimate) == (0.0, 0.0)
    assert found.effect.high == pytest.approx(0.05 ** (-1 / 5) - 1)


def test_nothing_since_four_events_is_refused():
    before = np.zeros(28)
    before[[1, 7, 12, 18]] = 1
    found = compare(counts(before, np.zeros(28)))
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["few_events"])
    assert "6 % of cases" in found.caveats[0].text


def test_bursts_count_as_one():
    on_two_days, in_one_week = np.zeros(28), np.zeros(28)
    on_two_days[[3, 20]] = 10
    in_one_week[3:9] = 4
    for before in (on_two_days, in_one_week):
        found = compare(counts(before, np.zeros(28)))
        assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["few_events"])
    assert inference.independent_days(on_two_days) == 2
    assert inference.independent_days(in_one_week) < 2
    assert inference.independent_days(np.ones(28)) == 28
    assert inference.independent_days(np.zeros(28)) == 0


def test_a_gap_in_the_silent_window_forbids_any_claim():
    before = np.zeros(28)
    before[::3] = 2
    left, right = counts(before, np.zeros(28))
    proven = right.window - Window.of(T + DAY, T + DAY + 60_000)
    found = diff(left, Evidence(right.readings, right.window, proven), at=T)
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["coverage"])
    assert "zero needs all" in found.caveats[0].text


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_counts_that_are_not_known_are_no_zeros(unknown):
    before = np.zeros(28)
    before[::3] = 2
    after = np.zeros(28)
    after[4] = unknown
    found = compare(counts(before, after))
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["coverage"])
    assert compare(counts(before, np.full(28, unknown))).verdict is Verdict.REFUSED


def test_a_rise_from_zero_mirrors_a_fall_to_zero():
    some = np.zeros(28)
    some[::4] = 1
    fall, rise = compare(counts(some, np.zeros(28))), compare(counts(np.zeros(28), some))
    assert (fall.verdict, rise.verdict) == (Verdict.IMPROVED, Verdict.REGRESSED)
    assert rise.effect.low == pytest.approx(1 / fall.effect.high)
    assert rise.effect.high is None
    assert rise.effect.ratio is None


def test_none_before_and_none_after_is_stated():
    found = compare(counts(np.zeros(14), np.zeros(14)))
    assert (found.verdict, found.before.value, found.after.value) == (Verdict.EXACT, 0.0, 0.0)


def test_negative_counts_are_refused():
    found = compare(counts([5, 9, -3, 8], [5, 6, 7, 8]))
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["negative"])


def lengths(rng, n, middle=600.0):
    return middle * np.exp(rng.standard_normal(n))


def test_shorter_durations_are_improved_and_open_ones_are_counted_apart():
    rng = np.random.default_rng(3)
    before, after = [*lengths(rng, 40), None], [*lengths(rng, 40, 150.0), None, None]
    found = compare(occurrences(before, after), statistic="median")
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.low < 0.25 < found.effect.high
    assert (found.before.n, found.after.n) == (40, 40)
    caveat = next(one for one in found.caveats if one.code == "open")
    assert caveat.text == "1 before and 2 after have not ended and are left out"


def test_the_interval_of_durations_inverts_mann_whitney():
    rng = np.random.default_rng(4)
    before, after = lengths(rng, 12), lengths(rng, 15)
    found = inference.typical_ratio(before, after)
    differences = np.sort((np.log(after)[:, None] - np.log(before)).ravel())
    assert found.centre == pytest.approx(float(np.median(differences)))
    deviation = math.sqrt(12 * 15 * 28 / 12)
    cut = math.floor(90 - 1.959964 * deviation)
    assert (found.low, found.high) == pytest.approx((differences[cut], differences[-1 - cut]))


def test_a_large_sample_gives_nearly_the_same_interval_thinned():
    rng = np.random.default_rng(5)
    before, after = lengths(rng, 900), lengths(rng, 700)
    found = inference.typical_ratio(before, after)
    differences = np.sort((np.log(after)[:, None] - np.log(before)).ravel())
    cut = math.floor(900 * 700 / 2 - 1.959964 * math.sqrt(900 * 700 * 1601 / 12))
    assert (found.low, found.high) == pytest.approx((differences[cut], differences[-1 - cut]), abs=0.01)


def test_four_durations_on_a_side_are_shown_not_claimed():
    found = compare(occurrences([600.0] * 4, [60.0] * 30), statistic="median")
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["few_events"])
    assert (found.before.value, found.after.value) == (600.0, 60.0)


def test_durations_that_cluster_by_day_are_compared_by_days():
    rng = np.random.default_rng(6)
    effects = iter(np.exp(rng.standard_normal(16)))
    before, after = (np.concatenate([np.full(6, 600 * next(effects)) for _ in range(8)]) for _ in range(2))
    sides = occurrences(before, after, days=8, start_of=lambda i, _n: i // 6 * DAY + i % 6 * HOUR)
    found = compare(sides, statistic="median")
    assert "days_as_units" in codes(found)
    alone = inference.typical_ratio(before, after)
    assert math.log(found.effect.high / found.effect.low) > 1.5 * 2 * alone.half


def test_clustering_is_the_intraclass_correlation():
    rng = np.random.default_rng(7)
    days = np.repeat(np.arange(200), 5)
    shared = np.repeat(rng.standard_normal(200), 5)
    assert inference.clustering(rng.standard_normal(1000), days) < 0.05
    expected = shared.var() / (shared.var() + 1)
    assert inference.clustering(shared + rng.standard_normal(1000), days) == pytest.approx(expected, abs=0.06)


def test_total_time_is_per_day_with_days_as_clusters():
    rng = np.random.default_rng(8)
    found = compare(occurrences(lengths(rng, 80), lengths(rng, 40)), statistic="total")
    assert found.effect.ratio == pytest.approx(found.after.value / found.before.value)
    assert found.effect.low < 0.5 < found.effect.high
