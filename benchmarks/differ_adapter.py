"""
The product's differ as a scorer sees it: two callables over arrays of seconds and values.

``diff`` is the form for one marked change, ``screen`` the one for many series. Both return what the product says: the
estimate and the interval of the effect, the p-value, whether a claim is made and whether the comparison was refused.
A series of kind ``count`` is what the product holds as counts per interval; every other kind is a level.
"""

from __future__ import annotations

import math

import numpy as np

from harvester.differ.compare import Evidence, Onset
from harvester.differ.compare import diff as product_diff
from harvester.differ.result import CLAIMS, Verdict
from harvester.readings import DAY, HOUR, SECOND, Better, Counts, Level, Metric, Series, Shape, Window


def diff(before, after, kind, history=None):
    """Compare about one marked change: the onset is averaged over five shapes."""
    return _compare(before, after, kind, history, Onset.AVERAGED)


def screen(before, after, kind, history=None):
    """Compare as one of many series: the plain step."""
    return _compare(before, after, kind, history, Onset.STEP)


def _compare(before, after, kind, history, onset):
    step_seconds = max(1, round(float(np.median(np.diff(before[0])))))
    shape = Shape.COUNT if kind == "count" else Shape.LEVEL
    series = Series("scorer", Metric(kind or "gauge", "1", shape, Better.LOWER, step_seconds=step_seconds))
    change = math.floor(after[0][0] / 3600) * HOUR  # a scorer gives no T: it is the whole hour the after side begins in
    left, right = _readings(series, before), _readings(series, after)
    days = max(1, round((int(right.at[-1]) + step_seconds * SECOND - change) / DAY))
    windows = Window.of(change - days * DAY, change), Window.of(change, change + days * DAY)
    comparison = product_diff(
        Evidence(left, windows[0], windows[0]),
        Evidence(right, windows[1], windows[1]),
        at=change,
        history=None if history is None or not len(history[0]) else _readings(series, history),
        onset=onset,
        advise=False,
    )
    effect = comparison.effect
    inferred = effect is not None and effect.scale == "ratio"
    estimate, low, high = (effect.estimate, effect.low, effect.high) if inferred else (None, None, None)
    return {
        "effect_ratio": math.nan if estimate is None else estimate,
        "ci_low": math.nan if low is None else low,
        "ci_high": math.nan if high is None else high,
        "p_value": 1.0 if comparison.p is None else comparison.p,
        "claim": comparison.verdict in CLAIMS,
        "refused": comparison.verdict is Verdict.REFUSED,
        "verdict": str(comparison.verdict),
    }


def _readings(series, part):
    """Return one side as the product holds it: instants in milliseconds, in order, the last of each kept."""
    at = np.round(np.asarray(part[0], float) * SECOND).astype(np.int64)
    order = np.argsort(at, kind="stable")
    at, value = at[order], np.asarray(part[1], float)[order]
    keep = np.append(at[1:] != at[:-1], True) if len(at) else np.empty(0, bool)
    return (Counts if series.metric.shape is Shape.COUNT else Level)(series, at[keep], value[keep])
