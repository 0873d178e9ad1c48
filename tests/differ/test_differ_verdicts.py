"""What is said besides the numbers: unchanged, unclear with advice, horizons, caveats, power, replication, many series."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from differ_samples import T, codes, compare, counts, evidence, instants, levels, noisy_levels, series, values_of

from harvester.differ.compare import (
    HORIZONS,
    Evidence,
    benjamini_hochberg,
    diff,
    power,
    replicated,
    screen,
)
from harvester.differ.result import CLAIMS, Comparison, Mode, Verdict
from harvester.readings import DAY, HOUR, Level, Shape, Window


def test_an_interval_inside_the_margin_is_unchanged():
    found = compare(noisy_levels(noise=0.02))
    assert found.verdict is Verdict.UNCHANGED
    assert 0.95 < found.effect.low < 1 < found.effect.high < 1.05
    assert compare(noisy_levels(noise=0.02), margin=0.0001).verdict is Verdict.UNCLEAR


def test_an_unclear_effect_says_what_could_be_seen_and_how_many_days_are_needed():
    rng = np.random.default_rng(2)
    sides = levels(lambda at: values_of(rng, at, 1.0), lambda at: 0.8 * values_of(rng, at, 1.0), days=3)
    found = compare(sides)
    assert found.verdict is Verdict.UNCLEAR
    half = math.log(found.effect.high / found.effect.low) / 2
    assert found.visible_percent == pytest.approx(100 * math.expm1(half))
    assert found.days_needed == 5
    assert compare(sides, advise=False).days_needed is None


def test_unclear_counts_need_days_in_proportion_to_the_square_of_the_width():
    rng = np.random.default_rng(1)
    found = compare(counts(rng.poisson(3, 7), rng.poisson(2, 7)))
    assert found.verdict is Verdict.UNCLEAR
    half = math.log(found.effect.high / found.effect.low) / 2
    needed = math.ceil(7 * (half / abs(math.log(found.effect.estimate))) ** 2)
    assert found.days_needed == (needed if needed <= 28 else None)


def test_a_wide_interval_is_always_said():
    rng = np.random.default_rng(2)

    def wandering(at):
        return 100 * np.exp(np.cumsum(0.3 * rng.standard_normal(len(at))))

    found = compare(levels(wandering, wandering, days=3, step_seconds=3600))
    assert found.visible_percent > 50
    assert "wide" in codes(found)
    assert "wide" not in codes(compare(noisy_levels()))


@pytest.mark.parametrize(
    ("days", "provisional"), [(1, True), (2, True), (3, False), (5, True), (7, False), (10, True), (14, False), (28, False), (40, False)]
)
def test_between_fixed_horizons_a_claim_is_provisional(days, provisional):
    found = compare(noisy_levels(ratio=0.2, noise=0.02, days=max(days, 2)) if days > 1 else _one_day(), looks=True)
    assert found.verdict is Verdict.IMPROVED
    assert found.provisional is provisional
    assert ("provisional" in codes(found)) is provisional
    assert not compare(noisy_levels(ratio=0.2, days=max(days, 2))).provisional


def _one_day():
    before, after = noisy_levels(ratio=0.2, noise=0.02, days=7)
    day = Window.of(T, T + DAY)
    return before, Evidence(after.readings.within(day), day, day)


def test_looking_every_day_asks_for_the_horizons_smaller_p():
    for days, alpha in HORIZONS.items():
        for seed in range(40):
            rng = np.random.default_rng(seed)
            sides = counts(rng.poisson(6, days), rng.poisson(4, days))
            plain, looked = compare(sides), compare(sides, looks=True)
            assert looked.p == plain.p
            assert (looked.verdict in CLAIMS) == (plain.verdict in CLAIMS and plain.p < alpha)


def test_plain_figures_far_from_the_model_are_said():
    def spiked(at):
        values = np.full(len(at), 10.0) + np.sin(at / HOUR)
        values[100:103] = 1e6
        return values

    found = compare(levels(lambda at: np.full(len(at), 10.0) + np.sin(at / HOUR), spiked))
    assert found.effect.ratio > 100
    assert "disagreement" in codes(found)
    assert found.verdict not in CLAIMS


def test_gaps_in_coverage_are_said_with_their_side():
    before, after = noisy_levels()
    proven = before.window - Window.of(T - 6 * DAY, T - 5 * DAY)
    found = diff(Evidence(before.readings.within(proven), before.window, proven), after, at=T)
    gap = next(one for one in found.caveats if one.code == "gaps")
    assert gap.text == "86 % of the before window is proven complete"


def test_covered_time_with_few_readings_is_said():
    before, after = noisy_levels()
    daytime = before.readings.at % DAY < 12 * HOUR
    half = replace(before.readings, at=before.readings.at[daytime], value=before.readings.value[daytime])
    found = diff(Evidence(half, before.window, before.window), after, at=T)
    assert "sparse" in codes(found)


def test_a_baseline_far_from_its_own_history_is_said():
    rng = np.random.default_rng(3)
    at = instants(T - 28 * DAY, T - 7 * DAY)
    sides = levels(lambda a: 3 * values_of(rng, a), lambda a: values_of(rng, a))
    history = Level(sides[0].readings.series, at, values_of(rng, at))
    assert "regression_to_the_mean" in codes(compare(sides, history=history))
    usual = Level(history.series, at, 3 * values_of(rng, at))
    assert "regression_to_the_mean" not in codes(compare(sides, history=usual))


def test_an_outage_in_the_baseline_is_named_with_a_comparison_against_the_calm_days():
    rng = np.random.default_rng(4)

    def outage(at):
        return values_of(rng, at) * np.where((at >= T - 4 * DAY) & (at < T - 3 * DAY), 20.0, 1.0)

    found = compare(levels(outage, lambda at: values_of(rng, at)))
    caveat = next(one for one in found.caveats if one.code == "outage_in_baseline")
    assert "2026-02-26" in caveat.text
    data = dict(caveat.data)
    assert data["days"] == 1
    assert data["low"] < 0 < data["high"]
    assert abs(data["centre"]) < 0.1
    assert "outage_in_baseline" not in codes(compare(noisy_levels()))


def test_power_is_the_half_width_that_the_comparison_then_has():
    rng = np.random.default_rng(5)
    promised, kept = [], []
    for _ in range(12):
        sides = levels(lambda at: values_of(rng, at, 0.8), lambda at: values_of(rng, at, 0.8))
        (seven,) = power(sides[0], at=T, days=(7,))
        assert seven.days == 7
        promised.append(seven.percent)
        kept.append(compare(sides).visible_percent)
    assert np.median(promised) == pytest.approx(np.median(kept), rel=0.4)


def test_more_days_show_smaller_effects():
    seen = power(noisy_levels(days=14)[0], at=T)
    assert [one.days for one in seen] == [7, 14, 28]
    assert seen[0].percent > seen[1].percent > seen[2].percent > 0


def test_power_is_empty_where_nothing_can_be_learnt():
    one = series(Shape.LEVEL)
    at = instants(T - 7 * DAY, T)
    constant = evidence(Level(one, at, np.full(len(at), 3.0)), T - 7 * DAY, T)
    short = evidence(Level(one, at[-100:], np.arange(100.0)), T - 100 * 300_000, T)
    signed = evidence(Level(one, at, np.sin(np.arange(len(at)))), T - 7 * DAY, T)
    none = evidence(Level(one, at[:0], np.empty(0)), T - 7 * DAY, T)
    for side in (constant, short, signed, none):
        assert power(side, at=T) == ()


def later(claim, ratio, days=7, start=None, **changes):
    rng = np.random.default_rng(9)
    start = claim.after.end if start is None else start
    window = Window.of(start, start + days * DAY)
    at = instants(window.start, window.end)
    before, _ = noisy_levels(**changes)
    return diff(
        before, evidence(Level(before.readings.series, at, ratio * values_of(rng, at)), window.start, window.end), at=T
    )


def test_a_claim_is_replicated_by_the_next_disjoint_week_in_the_same_direction():
    claim = compare(noisy_levels(ratio=0.5))
    assert replicated(claim, later(claim, 0.5))
    assert not replicated(claim, later(claim, 1.0))
    assert not replicated(claim, later(claim, 2.0))
    assert not replicated(claim, later(claim, 0.5, start=T + 6 * DAY))
    assert not replicated(claim, later(claim, 0.5, days=6, start=T + 7 * DAY))
    assert not replicated(compare(noisy_levels()), later(claim, 0.5))
    assert not replicated(replace(claim, statistic="p95"), later(claim, 0.5))


def test_a_short_claim_is_replicated_over_a_week_all_the_same():
    claim = compare(noisy_levels(ratio=0.5, days=3))
    assert replicated(claim, later(claim, 0.5))


def test_that_nothing_changed_is_repeated_by_the_same_verdict_only():
    same = replace(compare(noisy_levels()), verdict=Verdict.UNCHANGED)
    again = replace(later(same, 1.0), verdict=Verdict.UNCHANGED)
    assert replicated(same, again)
    assert not replicated(same, replace(again, verdict=Verdict.UNCLEAR))
    assert not replicated(replace(same, verdict=Verdict.UNCLEAR), replace(again, verdict=Verdict.UNCLEAR))


def test_screening_keeps_the_real_ones_and_states_what_chance_may_add():
    pairs = [(*noisy_levels(seed, ratio=0.6 if seed < 5 else 1.0), None) for seed in range(40)]
    found = screen(pairs, at=T)
    assert sum(found.surviving[:5]) == 5
    assert sum(found.surviving[5:]) <= 1
    assert found.expected_false == pytest.approx(0.05 * sum(found.surviving))


def test_benjamini_hochberg_steps_up_among_the_tested():
    claim = compare(noisy_levels(ratio=0.5))
    stated = compare(levels(lambda at: np.full(len(at), 1.0), lambda at: np.full(len(at), 2.0)))
    found = [replace(claim, p=p) for p in (0.001, 0.04, 0.024, 0.2)] + [stated]
    # Of four tested: .001 <= .0125, .024 <= .025, .04 > .0375.
    assert benjamini_hochberg(found) == ((True, False, True, False, False), pytest.approx(0.1))
    assert benjamini_hochberg([]) == ((), 0.0)


def test_a_comparison_survives_its_json_form():
    for found in (compare(noisy_levels(ratio=0.5), mode=Mode.CONFIRMATORY, subject="checkout"), compare(_one_day(), looks=True)):
        text = json.dumps(found.as_json(), allow_nan=False)
        assert Comparison.from_json(json.loads(text)) == found


def test_the_id_depends_on_series_statistic_and_windows_alone():
    one, other = compare(noisy_levels(0)), compare(noisy_levels(1))
    assert one.id == other.id
    assert compare(noisy_levels(0), statistic="p95").id != one.id
    assert compare(noisy_levels(0, days=8)).id != one.id
