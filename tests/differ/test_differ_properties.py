"""Properties: what must hold for every series, and that no input, however degenerate, raises or brings forth a claim."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from differ_samples import (
    BOUNDS,
    T,
    compare,
    counts,
    evidence,
    instants,
    levels,
    noisy_levels,
    occurrences,
    ratios,
    series,
    swapped,
    values_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvester.differ import inference
from harvester.differ.compare import Evidence, Onset, diff, power
from harvester.differ.result import CLAIMS, Verdict
from harvester.readings import (
    DAY,
    HOUR,
    OPEN,
    STATISTICS,
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

quick = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 10**6)


def same(one, other, rel=1e-6):
    """Compare two verdicts with their intervals."""
    assert one.verdict is other.verdict
    assert one.p == pytest.approx(other.p, rel=1e-4, abs=1e-9)
    if one.effect is None or other.effect is None:
        assert one.effect is other.effect
        return
    for name in ("ratio", "low", "high", "estimate"):
        assert getattr(one.effect, name) == pytest.approx(getattr(other.effect, name), rel=rel)


def wiggly(seed, days=7):
    rng = np.random.default_rng(seed)

    def values(at):
        walk = np.cumsum(rng.choice([0.0, 0.05, 0.2]) * rng.standard_normal(len(at) // 72 + 1))
        return values_of(rng, at, rng.uniform(0.05, 1.0)) * np.exp(np.repeat(walk, 72)[: len(at)])

    return levels(values, values, days=days)


@quick
@given(seeds, st.sampled_from(STATISTICS[Shape.LEVEL]), st.sampled_from(list(Onset)))
def test_a_sample_against_itself_is_never_better_or_worse(seed, statistic, onset):
    before, _ = wiggly(seed)
    after = Evidence(replace(before.readings, at=before.readings.at + 7 * DAY), Window.of(T, T + 7 * DAY), Window.of(T, T + 7 * DAY))
    found = diff(before, after, at=T, statistic=statistic, onset=onset)
    assert found.verdict not in CLAIMS
    assert found.effect.ratio == 1


@quick
@given(st.lists(st.integers(0, 30), min_size=4, max_size=20))
def test_counts_against_themselves_are_never_better_or_worse(numbers):
    assert compare(counts(numbers, numbers)).verdict not in CLAIMS


@quick
@given(st.lists(st.floats(1, 1e5), min_size=5, max_size=60))
def test_durations_against_themselves_are_never_better_or_worse(lengths):
    assert compare(occurrences(lengths, lengths), statistic="median").verdict not in CLAIMS


@quick
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(50, 1000)), min_size=3, max_size=20))
def test_ratios_against_themselves_are_never_better_or_worse(days):
    side = tuple(np.array(days, float).T)
    assert compare(ratios(side, side)).verdict not in CLAIMS


@quick
@given(seeds, st.sampled_from([1e-9, 1e-3, 7.0, 1e6, 1e12]), st.sampled_from(["mean", "p95"]))
def test_a_change_of_unit_changes_nothing(seed, factor, statistic):
    sides = wiggly(seed)
    scaled = [
        replace(side, readings=replace(side.readings, value=factor * side.readings.value)) for side in sides
    ]
    same(compare(sides, statistic=statistic), compare(scaled, statistic=statistic))


@quick
@given(seeds, st.sampled_from([1e-12, 1e-3, 1e12]))
def test_a_change_of_unit_scales_a_difference(seed, factor):
    rng = np.random.default_rng(seed)
    sides = levels(lambda at: rng.normal(0, 1, len(at)), lambda at: rng.normal(0.4, 1, len(at)))
    scaled = [replace(side, readings=replace(side.readings, value=factor * side.readings.value)) for side in sides]
    one, other = compare(sides), compare(scaled)
    assert one.verdict is other.verdict
    assert other.effect.low == pytest.approx(factor * one.effect.low, rel=1e-5)
    assert other.effect.high == pytest.approx(factor * one.effect.high, rel=1e-5)


@quick
@given(seeds, st.floats(0.1, 1.5))
def test_a_common_daily_pattern_changes_little(seed, depth):
    sides = noisy_levels(seed, ratio=0.7)
    patterned = [
        replace(
            side,
            readings=replace(
                side.readings, value=side.readings.value * np.exp(depth * np.sin(4 * np.pi * side.readings.at / DAY))
            ),
        )
        for side in sides
    ]
    one, other = compare(sides), compare(patterned)
    assert one.verdict is other.verdict
    for end in ("low", "high", "estimate"):
        assert math.log(getattr(one.effect, end)) == pytest.approx(math.log(getattr(other.effect, end)), abs=0.08)


@quick
@given(seeds)
def test_the_order_of_occurrences_and_of_days_is_irrelevant(seed):
    rng = np.random.default_rng(seed)
    before, after = rng.lognormal(5, 1, 20), rng.lognormal(5, 1, 25)
    shuffled = rng.permutation(before), rng.permutation(after)
    assert inference.typical_ratio(before, after) == inference.typical_ratio(*shuffled)
    days = rng.poisson(5, 14).astype(float), rng.uniform(0.5, 1, 14)
    order = rng.permutation(14)
    one = inference.rate_ratio(days, (days[0][:7], days[1][:7]))
    other = inference.rate_ratio((days[0][order], days[1][order]), (days[0][:7][::-1], days[1][:7][::-1]))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


@quick
@given(seeds, st.sampled_from(["count", "ratio", "exact", "open_ratio", "durations", "total"]))
def test_swapping_the_sides_inverts_the_effect_where_no_drift_is_modelled(seed, kind):
    rng = np.random.default_rng(seed)
    how = {}
    if kind == "count":
        sides = counts(rng.negative_binomial(2, 0.3, 12), rng.negative_binomial(2, 0.2, 12))
    elif kind in ("ratio", "exact"):
        shares = rng.uniform(0.02, 0.3), (rng.uniform(0.02, 0.3) if kind == "ratio" else 1e-5)
        each = [(rng.binomial(500, share, 10).astype(float), np.full(10, 500.0)) for share in shares]
        sides = ratios(*each)
    elif kind == "open_ratio":
        each = [(rng.poisson(rng.uniform(3000, 9000), 10).astype(float), np.full(10, 500.0)) for _ in range(2)]
        sides = ratios(*each)
    else:
        sides = occurrences(rng.lognormal(5, 1, 20), rng.lognormal(5.5, 1, 20))
        how = {"statistic": "median" if kind == "durations" else "total"}
    there, back = compare(sides, **how), compare(swapped(sides), **how)
    turned = {Verdict.IMPROVED: Verdict.REGRESSED, Verdict.REGRESSED: Verdict.IMPROVED}
    assert back.verdict is turned.get(there.verdict, there.verdict)
    assert there.p == pytest.approx(back.p, rel=1e-9)
    for name, opposite in (("low", "high"), ("high", "low"), ("estimate", "estimate"), ("ratio", "ratio")):
        mine, theirs = getattr(there.effect, name), getattr(back.effect, opposite)
        if mine:
            assert theirs == pytest.approx(1 / mine, rel=1e-9)
        else:
            assert theirs is None


# ---------------------------------------------------------------------------------------------------------------------
# Degenerate input
# ---------------------------------------------------------------------------------------------------------------------

ODD = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e300, -1e300, 1e-300, 5e-324, 1.7e308, math.nan, math.inf, -math.inf])
NUMBERS = st.one_of(ODD, st.floats(-1e6, 1e6))


@st.composite
def columns(draw, n):
    """Return n numbers: all alike, alternating between a few odd ones, or anything."""
    some = draw(st.lists(NUMBERS, min_size=1, max_size=6))
    return np.array([some[i % len(some)] for i in range(n)], float)


@st.composite
def odd_sides(draw):
    """Return two sides of any shape with any numbers, none included."""
    shape = draw(st.sampled_from([Shape.LEVEL, Shape.COUNT, Shape.RATIO, Shape.DISTRIBUTION, Shape.EVENT]))
    better = draw(st.sampled_from(list(Better)))
    bounds = draw(st.sampled_from([(), BOUNDS])) if shape is Shape.DISTRIBUTION else ()
    one = series(shape, better, step_seconds=3600, bounds=bounds, exact=draw(st.booleans()))
    days = draw(st.integers(0, 4))
    sides = []
    for start in (T - days * DAY, T):
        at = instants(start, start + days * DAY, HOUR)[: draw(st.sampled_from([None, 0, 1, 2, 60]))]
        n = len(at)
        if shape is Shape.LEVEL:
            readings = Level(one, at, draw(columns(n)))
        elif shape is Shape.COUNT:
            readings = Counts(one, at, draw(columns(n)))
        elif shape is Shape.RATIO:
            readings = Ratio(one, at, draw(columns(n)), draw(columns(n)))
        elif shape is Shape.DISTRIBUTION:
            width = len(bounds) + 1 if bounds else 5
            matrix = np.abs(draw(columns(n * width)).reshape(n, width))
            readings = Distribution(one, at, matrix, draw(columns(n)), draw(columns(n)), draw(columns(n)))
        else:
            lengths = draw(st.lists(st.sampled_from([0, 1, 10**6, 10**12, -5]), min_size=n, max_size=n))
            end = np.array([OPEN if k % 7 == 6 else a + x for k, (a, x) in enumerate(zip(at, lengths, strict=True))], np.int64)
            ids = tuple(f"{start}-{i}" for i in range(n))
            readings = Occurrences(one, ids, np.zeros(n, np.int64), at, end, tuple({} for _ in ids))
        sides.append(evidence(readings, start, start + days * DAY))
    return sides[0], sides[1]


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(odd_sides(), st.data())
def test_no_input_raises_and_what_comes_out_is_valid_json(sides, data):
    shape = sides[0].readings.series.metric.shape
    statistic = data.draw(st.sampled_from(STATISTICS[shape]))
    history = data.draw(st.sampled_from([None, sides[1].readings, sides[0].readings]))
    if history is not None and shape is not Shape.EVENT:
        history = replace(history, at=history.at - 9 * DAY)
    found = compare(sides, statistic=statistic, history=history)
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["verdict"] == str(found.verdict)
    if found.verdict in CLAIMS:
        assert found.p < 0.05
        bounds = (found.effect.low, found.effect.high)
        assert any(end is not None for end in bounds)
    assert isinstance(power(sides[0], at=T, history=history, statistic=statistic), tuple)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(odd_sides(), st.data())
def test_odd_input_against_itself_is_never_a_claim(sides, data):
    before = sides[0]
    readings = before.readings
    length = before.window.milliseconds
    if isinstance(readings, Occurrences):
        end = np.where(readings.end == OPEN, OPEN, readings.end + length)
        again = replace(readings, start=readings.start + length, end=end)
    else:
        again = replace(readings, at=readings.at + length)
    after = evidence(again, T, T + length)
    statistic = data.draw(st.sampled_from(STATISTICS[readings.series.metric.shape]))
    assert compare((before, after), statistic=statistic).verdict not in CLAIMS


@pytest.mark.parametrize("shape", [Shape.LEVEL, Shape.COUNT])
def test_two_sides_of_different_shapes_are_refused(shape):
    other = Shape.COUNT if shape is Shape.LEVEL else Shape.LEVEL
    at = instants(T - 7 * DAY, T, HOUR)
    kinds = {Shape.LEVEL: Level, Shape.COUNT: Counts}
    one, two = (Series("prom", Metric("thing", "1", kind, step_seconds=3600)) for kind in (shape, other))
    left = evidence(kinds[shape](one, at, np.ones(len(at))), T - 7 * DAY, T)
    right = evidence(kinds[other](two, at + 7 * DAY, np.ones(len(at))), T, T + 7 * DAY)
    assert diff(left, right, at=T).verdict is Verdict.REFUSED
