"""Levels: the structural step model against an independent one, and what the differ says of positive and signed series."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from differ_samples import T, codes, compare, evidence, instants, levels, noisy_levels, series, values_of
from scipy.stats import t as student

from harvester.differ.bins import of_level
from harvester.differ.compare import Evidence, Onset, diff
from harvester.differ.inference import Estimate
from harvester.differ.model import NOISE, degrees_of_freedom, fit
from harvester.differ.result import CLAIMS, Verdict
from harvester.readings import DAY, HOUR, Better, Level, Shape, Window


def reference_posterior(bins, y, at, averaged):
    """Return weights, centres and scales by textbook generalised least squares, one dense inverse for each model."""
    x, slot = (bins + 0.5) / 4, bins % 4
    day = np.floor((at / 1000 + (bins + 0.5) * 21_600) / 86_400).astype(int)
    weekday, weekend = (day + 3) % 7, (day + 3) % 7 >= 5
    daily = 0.35 * (weekday[:, None] == weekday) + 0.65 * (weekend[:, None] == weekend)
    hourly = (slot[:, None] == slot).astype(float)
    walk = np.minimum(x[:, None], x) - x[0] + 1
    after = x > 0
    shapes = [(0.8, after * 1.0)]
    if averaged:
        shapes += [(0.05, one * 1.0) for one in (x > 0.5, x > 1)] + [(0.05, np.clip(x / d, 0, 1)) for d in (1, 3)]
    n, weights, centres, scales = len(y), [], [], []
    for walking, weekly, both, drift in NOISE:
        cov = np.eye(n) + walking * walk + weekly * daily + 10 * hourly + both * hourly * daily
        inverse = np.linalg.inv(cov + drift * np.exp(-abs(x[:, None] - x) / 0.5))
        log_det = -np.linalg.slogdet(inverse)[1]
        for prior, shape in shapes:
            if (shape[after] >= 1).mean() < 0.5:
                continue
            design = np.c_[np.ones(n), shape]
            information = design.T @ inverse @ design
            beta = np.linalg.solve(information, design.T @ inverse @ y)
            rss = (y - design @ beta) @ inverse @ (y - design @ beta)
            weights.append(
                np.log(prior) - 0.5 * log_det - 0.5 * np.linalg.slogdet(information)[1] - 0.5 * (n - 2) * np.log(rss)
            )
            centres.append(beta[1])
            scales.append(np.sqrt(rss / (n - 2) * np.linalg.inv(information)[1, 1]))
    weight = np.exp(np.array(weights) - max(weights))
    return weight / weight.sum(), np.array(centres), np.array(scales)


@pytest.mark.parametrize("onset", list(Onset))
@pytest.mark.parametrize("at", [T, T + 5 * DAY + 7 * HOUR])
def test_the_model_agrees_with_one_written_from_the_formula(onset, at):
    rng = np.random.default_rng(3)
    bins = np.delete(np.arange(-30, 28, dtype=np.int64), [4, 5, 40])
    y = 0.3 * np.sin(bins * np.pi / 2) + 0.2 * rng.standard_normal(len(bins)) + np.cumsum(
        0.05 * rng.standard_normal(len(bins))
    ) - 0.4 * (bins >= 0)
    weight, centre, scale = reference_posterior(bins, y, at, onset is Onset.AVERAGED)
    posterior = fit(bins, y, at, onset)
    df = degrees_of_freedom(len(bins))
    for point in (-1.0, -0.5, -0.3, 0.0):
        expected = float(weight @ student.cdf((point - centre) / scale, df))
        assert float(posterior.cdf(point)[0]) == pytest.approx(expected, abs=1e-9)
    low, high = posterior.quantiles(np.array([0.025, 0.975]))
    assert float(posterior.cdf(low)[0]) == pytest.approx(0.025, abs=1e-6)
    assert float(posterior.cdf(high)[0]) == pytest.approx(0.975, abs=1e-6)


def test_a_halved_level_is_improved_and_the_interval_holds_a_half():
    found = compare(noisy_levels(ratio=0.5))
    assert found.verdict is Verdict.IMPROVED
    assert found.effect.low < 0.5 < found.effect.high < 0.7
    assert found.effect.percent == pytest.approx(-50, abs=2)
    assert found.p < 0.001


@pytest.mark.parametrize(
    ("better", "verdict"),
    [(Better.LOWER, Verdict.REGRESSED), (Better.HIGHER, Verdict.IMPROVED), (Better.NEITHER, Verdict.CHANGED)],
)
def test_the_verdict_follows_which_way_is_better(better, verdict):
    assert compare(noisy_levels(ratio=2.0, better=better)).verdict is verdict


def test_printed_figures_are_plain_arithmetic_on_unrounded_values():
    sides = noisy_levels(ratio=0.5)
    found = compare(sides)
    before, after = (float(side.readings.value.mean()) for side in sides)
    assert (found.before.value, found.after.value) == (before, after)
    assert found.effect.ratio == after / before
    assert found.effect.difference == after - before


def test_a_change_of_one_statistic_is_seen_in_bins_of_that_statistic():
    rng = np.random.default_rng(1)

    def tail(at, times):
        values = values_of(rng, at, 0.1, cycle=0.0)
        return np.where(rng.random(len(at)) < 0.08, times * values, values)

    sides = levels(lambda at: tail(at, 2.0), lambda at: tail(at, 6.0))
    assert compare(sides, statistic="median").verdict not in CLAIMS
    found = compare(sides, statistic="p95")
    assert found.verdict is Verdict.REGRESSED
    assert found.before.value == pytest.approx(float(np.quantile(sides[0].readings.value, 0.95)))


def test_maxima_are_called_observed_extremes():
    assert "extremes" in codes(compare(noisy_levels(), statistic="max"))


def test_a_weekly_cycle_is_not_a_change():
    rng = np.random.default_rng(2)

    def weekly(at):
        weekend = (at // DAY + 3) % 7 >= 5
        return values_of(rng, at) * np.where(weekend, 0.4, 1.0)

    sides = levels(weekly, weekly, days=3)  # Friday to Sunday before, Monday to Wednesday after
    at = instants(T - 17 * DAY, T - 3 * DAY)
    history = Level(sides[0].readings.series, at, weekly(at))
    assert compare(sides, history=history).verdict not in CLAIMS


def test_a_level_that_may_be_negative_is_compared_by_difference():
    rng = np.random.default_rng(4)
    found = compare(levels(lambda at: rng.normal(0, 1, len(at)), lambda at: 3 + rng.normal(0, 1, len(at))))
    assert found.verdict is Verdict.REGRESSED
    assert found.effect.scale == "difference"
    assert found.effect.low < 3 < found.effect.high
    assert found.visible_percent is None


def test_history_with_negative_values_makes_it_a_difference_too():
    sides = noisy_levels()
    at = instants(T - 21 * DAY, T - 7 * DAY)
    history = Level(sides[0].readings.series, at, np.linspace(-5, 5, len(at)))
    assert compare(sides, history=history).effect.scale == "difference"


def test_more_than_half_zeros_is_refused_and_says_what_to_ask_for():
    rng = np.random.default_rng(5)
    found = compare(levels(lambda at: 1.0 * (rng.random(len(at)) < 0.45), lambda at: 1.0 + rng.random(len(at))))
    assert found.verdict is Verdict.REFUSED
    assert codes(found) == ["zeros"]
    assert "before" in found.caveats[0].text
    assert "count" in found.caveats[0].text
    assert found.effect is None
    assert found.before.value is not None


def test_just_under_half_zeros_is_not_refused():
    rng = np.random.default_rng(6)
    values = lambda at: np.where(rng.random(len(at)) < 0.4, 0.0, 1 + rng.random(len(at)))  # noqa: E731
    assert compare(levels(values, values)).verdict is not Verdict.REFUSED


def test_a_series_constant_on_both_sides_is_stated_not_tested():
    found = compare(levels(lambda at: np.full(len(at), 8.0), lambda at: np.full(len(at), 6.0)))
    assert (found.verdict, found.effect.ratio, found.p, found.effect.low) == (Verdict.EXACT, 0.75, None, None)


def test_equal_constants_are_no_change():
    for value in (0.0, 5.0, -2.0):
        found = compare(levels(lambda at, v=value: np.full(len(at), v), lambda at, v=value: np.full(len(at), v)))
        assert found.verdict is Verdict.EXACT
        assert found.effect.difference == 0
        assert found.verdict not in CLAIMS


def test_a_quantity_known_exactly_is_stated_from_a_single_reading():
    one = series(Shape.LEVEL, exact=True)
    before = evidence(Level(one, np.array([T - HOUR]), np.array([12.0])), T - DAY, T)
    after = evidence(Level(one, np.array([T + HOUR]), np.array([9.0])), T, T + DAY)
    found = diff(before, after, at=T)
    assert (found.verdict, found.before.value, found.after.value) == (Verdict.EXACT, 12.0, 9.0)


def test_definitions_that_differ_are_refused():
    before, after = noisy_levels()
    metric = replace(after.readings.series.metric, query="another")
    moved = replace(after.readings, series=replace(after.readings.series, metric=metric))
    found = diff(before, Evidence(moved, after.window, after.coverage), at=T)
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["definitions"])


@pytest.mark.parametrize("name", ["before", "after"])
def test_less_than_eighty_per_cent_coverage_is_refused_naming_the_side(name):
    before, after = noisy_levels()
    start = {"before": T - 7 * DAY, "after": T}[name]
    proven = Window.of(start + round(1.5 * DAY), start + 7 * DAY)
    sides = {"before": before, "after": after}
    sides[name] = Evidence(sides[name].readings.within(proven), sides[name].window, proven)
    found = diff(sides["before"], sides["after"], at=T)
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["coverage"])
    assert f"{name} window" in found.caveats[0].text
    assert "79 %" in found.caveats[0].text


@pytest.mark.parametrize(("days_before", "days_after", "code"), [(1.5, 3, "short_before"), (3, 0.5, "short_after")])
def test_windows_too_short_are_refused(days_before, days_after, code):
    rng = np.random.default_rng(7)
    one = series(Shape.LEVEL)
    left, right = instants(T - round(days_before * DAY), T), instants(T, T + round(days_after * DAY))
    found = diff(
        evidence(Level(one, left, values_of(rng, left)), T - round(days_before * DAY), T),
        evidence(Level(one, right, values_of(rng, right)), T, T + round(days_after * DAY)),
        at=T,
    )
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, [code])


def test_covered_time_without_usable_readings_is_refused():
    rng = np.random.default_rng(8)
    one = series(Shape.LEVEL)
    left, right = instants(T - 7 * DAY, T), instants(T + 2 * DAY, T + 2 * DAY + 12 * HOUR)
    found = diff(
        evidence(Level(one, left, values_of(rng, left)), T - 7 * DAY, T),
        evidence(Level(one, right, values_of(rng, right)), T, T + 7 * DAY),
        at=T,
    )
    assert (found.verdict, codes(found)) == (Verdict.REFUSED, ["short_after"])


def test_a_ramp_over_a_day_is_seen_by_the_averaged_onset_with_the_final_level_in_its_interval():
    rng = np.random.default_rng(9)
    sides = levels(
        lambda at: values_of(rng, at, 0.2),
        lambda at: values_of(rng, at, 0.2) * np.exp(np.log(0.5) * np.minimum((at - T) / DAY, 1)),
    )
    averaged, step = compare(sides), compare(sides, onset=Onset.STEP)
    assert averaged.verdict is Verdict.IMPROVED
    assert averaged.effect.low < 0.5 < averaged.effect.high
    assert abs(averaged.effect.estimate - 0.5) < abs(step.effect.estimate - 0.5)


def test_peak_hours_of_many_days_are_compared_by_their_occurrences():
    rng = np.random.default_rng(10)
    one = series(Shape.LEVEL)

    def side(first, days, ratio):
        window = Window(tuple((first + d * DAY + 9 * HOUR, first + d * DAY + 11 * HOUR) for d in range(days)))
        at = np.concatenate([instants(*span) for span in window.spans])
        return Evidence(Level(one, at, ratio * values_of(rng, at, cycle=0.0)), window, window)

    assert diff(side(T - 14 * DAY, 14, 1), side(T, 14, 0.5), at=T).verdict is Verdict.IMPROVED
    few = diff(side(T - 14 * DAY, 14, 1), side(T, 4, 0.5), at=T)
    assert (few.verdict, codes(few)) == (Verdict.REFUSED, ["few_spans"])


def test_zeros_and_spikes_are_each_read_in_the_quieter_way():
    rng = np.random.default_rng(11)

    def spiked(at):
        return values_of(rng, at) * np.where(rng.random(len(at)) < 0.01, 200.0, 1.0)

    def zeroed(at):
        return rng.poisson(1.5, len(at)) * 1.0

    for values in (spiked, zeroed):
        sides = levels(values, lambda at, draw=values: 0.6 * draw(at))
        found = compare(sides)
        logs = [np.log(side.readings.value + 0.01 * np.median(side.readings.value)) for side in sides]
        blocks = [np.log(side.readings.value.reshape(-1, 72).mean(axis=1)) for side in sides]
        spreads = [np.std(logs[0].reshape(-1, 72).mean(axis=1)), np.std(blocks[0])]
        assert (spreads[0] < spreads[1]) == (values is spiked)
        level = logs if values is spiked else blocks
        assert math.log(found.effect.estimate) == pytest.approx(level[1].mean() - level[0].mean(), abs=0.05)
        assert found.verdict in CLAIMS


def test_degrees_of_freedom_follow_the_days():
    assert [degrees_of_freedom(bins) for bins in (4, 12, 24, 30, 40, 168)] == [2, 2, 4, 5.5, 8, 8]


def test_of_two_estimates_the_wider_interval_and_the_larger_p_count():
    narrow, wide = Estimate(0.5, 0.4, 0.6, 0.03), Estimate(0.6, 0.1, 1.1, 0.02)
    for joined in (narrow.or_wider(wide), wide.or_wider(narrow)):
        assert (joined.low, joined.high, joined.p) == (0.1, 1.1, 0.03)


def test_bins_with_less_than_half_the_usual_points_are_left_out():
    at = instants(T, T + DAY)
    thin = (at < T + 6 * HOUR) & (np.arange(len(at)) % 3 > 0)
    values = np.where(at < T + 6 * HOUR, 50.0, 1.0)
    one = Level(series(Shape.LEVEL), at[~thin], values[~thin])
    assert list(of_level(one, T, "mean", 1.0).index) == [1, 2, 3]
