"""Ratios: sums over sums, days as clusters, and one outage is no improvement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differ_samples import T, codes, compare, evidence, instants, ratios, series
from scipy.special import expit, logit
from scipy.stats import beta
from scipy.stats import t as student

from harvester.differ import inference
from harvester.differ.compare import diff
from harvester.differ.result import CLAIMS, Verdict
from harvester.readings import DAY, HOUR, Better, Ratio, Shape

DAYS = 14


def failing(rng, share, total=2000, days=DAYS, spread=0.3):
    shares = expit(logit(share) + spread * rng.standard_normal(days))
    return rng.binomial(total, shares).astype(float), np.full(days, float(total))


def test_a_fallen_error_ratio_is_improved():
    rng = np.random.default_rng(5)
    sides = failing(rng, 0.02), failing(rng, 0.005)
    found = compare(ratios(*sides))
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.low < 0.25 < found.effect.high
    assert found.before.value == pytest.approx(sides[0][0].sum() / sides[0][1].sum())


def test_an_availability_is_judged_by_its_failures():
    rng = np.random.default_rng(1)
    before, after = failing(rng, 0.02), failing(rng, 0.005)
    turned = [(total - failures, total) for failures, total in (before, after)]
    found = compare(ratios(*turned, better=Better.HIGHER))
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.ratio == pytest.approx(1.015, abs=0.005)
    assert 1 < found.effect.low < found.effect.ratio < found.effect.high
    # Doubled failures are no "unchanged" because 99.6 % is within 5 % of 99.8 %.
    tiny = [(total - failures, total) for failures, total in (failing(rng, 0.002, 500), failing(rng, 0.004, 500))]
    assert compare(ratios(*tiny, better=Better.HIGHER)).verdict is not Verdict.UNCHANGED


def test_the_variance_is_clustered_by_day_on_the_logit():
    x0, n0 = np.array([10.0, 30, 20, 24]), np.array([1000.0, 1100, 900, 1000])
    x1, n1 = np.array([12.0, 10, 8, 6, 9]), np.array([1000.0, 900, 1000, 1000, 1100])
    found = inference.ratio_of_ratios((x0, n0), (x1, n1), bounded=True)
    variances, centres = [], []
    for x, n in ((x0, n0), (x1, n1)):
        p = x.sum() / n.sum()
        variance = len(x) / (len(x) - 1) * ((x - p * n) ** 2).sum() / n.sum() ** 2
        variances.append(max(variance, p * (1 - p) / n.sum()) / (p * (1 - p)) ** 2)
        centres.append(logit(p))
    df = sum(variances) ** 2 / (variances[0] ** 2 / 3 + variances[1] ** 2 / 4)
    assert found.centre == pytest.approx(centres[1] - centres[0])
    assert found.half == pytest.approx(student.ppf(0.975, df) * math.sqrt(sum(variances)))


def test_odds_become_a_ratio_that_inverts_with_the_sides():
    there, back = inference.odds_to_ratio(0.4, 0.1), inference.odds_to_ratio(0.1, 0.4)
    own = float(logit(0.1) - logit(0.4))
    assert there(own) == pytest.approx(math.log(0.1 / 0.4))
    assert there(0.0) == 0
    for odds in (-3.0, -1.0, 0.5, 2.0):
        assert there(odds) == pytest.approx(-back(-odds))


def test_fewer_than_ten_failures_on_the_worse_side_are_refused():
    days = np.full(DAYS, 1000.0)
    nine, none = np.zeros(DAYS), np.zeros(DAYS)
    nine[:9] = 1
    for sides in (((nine, days), (none, days)), ((none, days), (nine, days))):
        found = compare(ratios(*sides))
        assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["few_events"])


def test_no_failure_after_ten_on_ten_days_is_bounded_exactly():
    days = np.full(DAYS, 1000.0)
    ten = np.zeros(DAYS)
    ten[:10] = 1
    found = compare(ratios((ten, days), (np.zeros(DAYS), days)))
    assert found.verdict is Verdict.IMPROVED
    assert (found.effect.low, found.effect.ratio) == (0.0, 0.0)
    upper = beta.ppf(0.975, 1, 10)
    assert found.effect.high == pytest.approx(upper / (1 - upper), rel=0.01)
    assert found.p == pytest.approx(2 * 0.5**10)


@pytest.mark.parametrize("side", [0, 1])
def test_one_day_with_over_half_of_the_failures_is_an_outage_not_a_level(side):
    rng = np.random.default_rng(2)
    calm, outage = failing(rng, 0.002), failing(rng, 0.002)
    outage[0][5] = 500.0
    found = compare(ratios(*((outage, calm) if side == 0 else (calm, outage))))
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["outage"])
    assert ("before", "after")[side] in found.caveats[0].text


def test_no_failures_at_all_are_stated():
    days = np.full(DAYS, 1000.0)
    found = compare(ratios((np.zeros(DAYS), days), (np.zeros(DAYS), days)))
    assert (found.verdict, found.effect.difference) == (Verdict.EXACT, 0.0)


def test_a_ratio_not_bounded_by_one_is_compared_on_the_log():
    rng = np.random.default_rng(3)
    requests = np.full(DAYS, 1000.0)
    queries = [rng.poisson(each * 1000 * np.exp(0.05 * rng.standard_normal(DAYS))).astype(float) for each in (12, 4)]
    found = compare(ratios((queries[0], requests), (queries[1], requests)))
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.low < 1 / 3 < found.effect.high
    assert found.before.value == pytest.approx(12, rel=0.1)


def test_nothing_to_divide_by_is_refused():
    nothing = np.zeros(DAYS)
    found = compare(ratios((nothing, nothing), (nothing, nothing)))
    assert found.verdict is Verdict.REFUSED
    assert found.before.value is None


def test_where_neither_way_is_better_the_rarer_part_is_counted():
    rng = np.random.default_rng(4)
    before, after = failing(rng, 0.02), failing(rng, 0.02)
    hits = [(total - misses, total) for misses, total in (before, after)]
    found = compare(ratios(*hits, better=Better.NEITHER))
    assert found.verdict not in CLAIMS | {Verdict.REFUSED}


def test_frequent_failures_drift_and_the_model_has_to_agree():
    rng = np.random.default_rng(6)
    one = series(Shape.RATIO, step_seconds=3600)
    walk = np.cumsum(0.05 * rng.standard_normal(14 * 24))

    def side(start, logits):
        at = instants(start, start + 7 * DAY, HOUR)
        whole = np.full(len(at), 20_000.0)
        failures = rng.binomial(20_000, expit(logit(0.01) + logits)).astype(float)
        return evidence(Ratio(one, at, failures, whole), start, start + 7 * DAY)

    drifting = diff(side(T - 7 * DAY, walk[:168]), side(T, walk[168:]), at=T)
    steady = diff(side(T - 7 * DAY, np.zeros(168)), side(T, np.full(168, -0.7)), at=T)
    widths = [math.log(one.effect.high / one.effect.low) for one in (drifting, steady)]
    assert widths[0] > 4 * widths[1]
    assert steady.verdict is Verdict.IMPROVED
    assert steady.effect.low < expit(logit(0.01) - 0.7) / 0.01 < steady.effect.high
