"""
What the differ's intervals hold, by simulation, and how long it takes.

    python benchmarks/differ.py [--runs N]

Each line names a way of making two windows with a known true effect, the share of 95 % intervals that hold it, and the
floor and ceiling it should lie between, give or take what the number of runs leaves open. For the zero-since test the
share is that of false claims. Seeds are fixed. The last lines time 1,000 comparisons of 7 + 7 days of five-minute points on one core. Exits with 1 if a line is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.special import expit, logit

from harvester.differ import inference
from harvester.differ.compare import Evidence, Onset, diff
from harvester.differ.result import CLAIMS
from harvester.readings import DAY, MINUTE, Better, Counts, Level, Metric, Series, Shape, Window

T = 1_772_409_600_000


def held(make, truth, runs, seed=1):
    """Return the share of intervals that hold the truth; one without an interval counts as missed."""
    rng = np.random.default_rng(seed)
    found = [make(rng) for _ in range(runs)]
    return float(np.mean([one is not None and one.low <= truth <= one.high for one in found]))


# ---------------------------------------------------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------------------------------------------------


def counts(days, rate, ratio, shape):
    """Return a maker of daily counts: Poisson, or negative binomial of the given shape."""

    def draw(rng, mean):
        lam = mean if shape is None else mean * rng.gamma(shape, 1 / shape, days)
        return rng.poisson(lam, days).astype(float), np.ones(days)

    return lambda rng: inference.rate_ratio(draw(rng, rate), draw(rng, rate * ratio))


def silence(days, rate, burst):
    """
    Return a maker of (before, after) daily counts whose after-window happens to hold nothing, nothing having changed.

    Onsets of bursts are Poisson; each burst's events spread over two days.
    """

    def make(rng):
        while True:
            counts = np.zeros(2 * days + 1)
            for onset in np.flatnonzero(rng.random(2 * days) < rate):
                spread = rng.binomial(burst, 0.5) if burst > 1 else burst
                counts[onset] += spread
                counts[onset + 1] += burst - spread
            before, after = counts[:days], counts[days : 2 * days]
            if before.sum() > 0:
                return before, after

    return make


def silent_claims(days, rate, burst, runs, seed=2):
    """Return the share of all windows in which a fall to nothing is claimed falsely."""
    rng, make = np.random.default_rng(seed), silence(days, rate, burst)
    series = Series("sim", Metric("events", "1", Shape.COUNT, Better.LOWER, step_seconds=86_400))
    windows = Window.of(T - days * DAY, T), Window.of(T, T + days * DAY)
    claims = 0
    for _ in range(runs):
        before, after = make(rng)
        if after.any():
            continue
        at = T + np.arange(-days, days, dtype=np.int64) * DAY
        sides = (
            Evidence(Counts(series, at[:days], before), windows[0], windows[0]),
            Evidence(Counts(series, at[days:], after), windows[1], windows[1]),
        )
        claims += diff(*sides, at=T).verdict in CLAIMS
    return claims / runs


def raw_silent_claims(days, rate, burst, runs, seed=2):
    """Return the same where every single event counts as one."""
    rng, make = np.random.default_rng(seed), silence(days, rate, burst)
    pairs = [make(rng) for _ in range(runs)]
    return float(np.mean([not after.any() and 0.5 ** before.sum() < 0.05 for before, after in pairs]))


# ---------------------------------------------------------------------------------------------------------------------
# Ratios, durations, totals, quantiles
# ---------------------------------------------------------------------------------------------------------------------


def ratios(days, share, odds_ratio, spread, trials):
    """Return a maker of daily failures and trials whose daily shares differ on the logit, and the true log odds ratio."""
    # The share of all trials is the mean of the days' shares, so the truth is taken from those.
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()

    def mean_share(centre):
        return float(weights @ expit(centre + spread * nodes))

    centres = logit(share), logit(share) + np.log(odds_ratio)
    truth = float(logit(mean_share(centres[1])) - logit(mean_share(centres[0])))

    def draw(rng, centre):
        whole = rng.poisson(trials, days).astype(float)
        return rng.binomial(whole.astype(int), expit(centre + spread * rng.standard_normal(days))).astype(float), whole

    return (lambda rng: inference.ratio_of_ratios(draw(rng, centres[0]), draw(rng, centres[1]), bounded=True)), truth


def durations(n, m, ratio, draw):
    """Return a maker of two samples of durations."""
    return lambda rng: inference.typical_ratio(draw(rng, n), ratio * draw(rng, m))


def totals(days, ratio):
    """Return a maker of daily sums of a few heavy-tailed durations."""

    def draw(rng, scale):
        sums = [scale * rng.lognormal(3, 0.8, rng.poisson(6)).sum() for _ in range(days)]
        return np.array(sums), np.ones(days)

    return lambda rng: inference.ratio_of_ratios(draw(rng, 1.0), draw(rng, ratio), bounded=False)


EDGES = np.array([0.0, *np.geomspace(0.01, 20, 80), np.inf])


def quantiles(days, ratio, share, day_spread, observations):
    """Return a maker of daily histograms of log-normal values whose days differ."""

    def draw(rng, middle):
        centres = np.log(middle) + day_spread * rng.standard_normal(days)
        return np.array([np.histogram(rng.lognormal(each, 0.6, observations), EDGES)[0] for each in centres], float)

    return lambda rng: inference.bootstrap_quantile(draw(rng, 0.4), draw(rng, 0.4 * ratio), EDGES, share, draws=200)


# ---------------------------------------------------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------------------------------------------------


def seconds_for(comparisons, onset, advise):
    """Return how long so many comparisons of 7 + 7 days of five-minute points take, the first included."""
    rng = np.random.default_rng(0)
    at = np.arange(T - 21 * DAY, T + 7 * DAY, 5 * MINUTE, dtype=np.int64)
    series = Series("sim", Metric("level", "1", Shape.LEVEL, Better.LOWER, step_seconds=300))
    windows = Window.of(T - 7 * DAY, T), Window.of(T, T + 7 * DAY)
    wave = 1 + 0.3 * np.sin(2 * np.pi * at / DAY)
    wholes = [Level(series, at, wave * np.exp(0.3 * rng.standard_normal(len(at)))) for _ in range(20)]
    parts = [(one.within(windows[0]), one.within(windows[1]), one.within(Window.of(at[0], T - 7 * DAY))) for one in wholes]
    start = time.process_time()
    for index in range(comparisons):
        before, after, history = parts[index % len(parts)]
        sides = Evidence(before, windows[0], windows[0]), Evidence(after, windows[1], windows[1])
        diff(*sides, at=T, history=history, onset=onset, advise=advise)
    return time.process_time() - start


def lines(runs):
    """Yield (what, figure, floor, ceiling)."""
    for days, rate, shape in ((14, 1, None), (14, 6, None), (7, 3, 1.5), (14, 6, 1.5), (28, 2, 0.7)):
        name = "Poisson" if shape is None else f"negative binomial {shape}"
        for ratio in (1.0, 0.5):
            share = held(counts(days, rate, ratio, shape), np.log(ratio), runs)
            yield f"events: {days} d, {rate} a day, {name}, ratio {ratio}", share, 0.94, 0.99
    for days, rate, burst in ((28, 0.1, 1), (28, 0.1, 5), (28, 0.05, 20), (14, 0.2, 5)):
        claims = silent_claims(days, rate, burst, runs * 5)
        raw = raw_silent_claims(days, rate, burst, runs * 5)
        yield f"zero since, bursts of {burst}, {days} d: false claims (single events: {raw:.3f})", claims, 0.0, 0.025
    for days, share, odds, spread, trials in (
        (14, 0.02, 1.0, 0.0, 500), (14, 0.02, 0.5, 0.4, 2000), (14, 0.3, 0.7, 0.5, 300), (7, 0.05, 0.5, 0.3, 1000),
        (28, 0.004, 0.25, 0.5, 1000),
    ):  # fmt: skip
        make, truth = ratios(days, share, odds, spread, trials)
        yield f"ratios: {days} d, {share:g} x {odds:g}, daily spread {spread}", held(make, truth, runs), 0.94, 0.98
    heavy = {"log-normal": lambda rng, n: rng.lognormal(6, 1, n), "exponential": lambda rng, n: rng.exponential(600, n)}
    for name, draw in heavy.items():
        for n, m in ((5, 5), (12, 20), (60, 60)):
            yield f"durations: {n} + {m}, {name}, ratio 0.6", held(durations(n, m, 0.6, draw), np.log(0.6), runs), 0.94, 0.96
    for days in (7, 14, 28):
        yield f"totals: {days} d, ratio 0.6", held(totals(days, 0.6), np.log(0.6), runs), 0.94, 0.98
    for days, share, spread in ((7, 0.5, 0.1), (14, 0.95, 0.1), (14, 0.95, 0.3), (14, 0.99, 0.1)):
        make = quantiles(days, 0.7, share, spread, 1500)
        yield f"quantiles: {days} d, p{100 * share:g}, daily spread {spread}", held(make, np.log(0.7), runs // 3), 0.95, 0.96


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=3000)
    runs = parser.parse_args().runs
    missed = 0
    print(f"{'simulated coverage of 95 % intervals':72s} {'share':>6s}  should be")
    for what, share, floor, ceiling in lines(runs):
        slack = 2.5 * np.sqrt(max(share * (1 - share), 0.01) / runs)
        good = floor - slack <= share <= ceiling + slack
        missed += not good
        print(f"{what:72s} {share:6.3f}  {floor:g} to {ceiling:g}{'' if good else '  MISSED'}", flush=True)
    print(f"\n{'1,000 comparisons of 7 + 7 d of five-minute points, history of 14 d':72s} {'CPU s':>6s}  should be")
    for onset in Onset:
        for advise in (False, True):
            name = f"{onset} onset, {'with' if advise else 'without'} days needed"
            took = seconds_for(1000, onset, advise)
            good = took <= 5
            missed += not good
            print(f"{name:72s} {took:6.2f}  at most 5{'' if good else '  MISSED'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
