"""Comparisons and changes as the differ and a user would make them."""

from __future__ import annotations

import hashlib

from harvester.candidates.model import Change, Direction, Expectation
from harvester.differ.result import Caveat, Comparison, Effect, Mode, Side, UnderBound, Verdict

DAY = 86_400_000
LIVE = 1_773_480_600_000  # 14 Mar 2026 09:30 UTC


def compared(
    metric: str = "latency",
    statistic: str = "p95",
    before: float | None = 0.480,
    after: float | None = 0.140,
    low: float | None = 0.26,
    high: float | None = 0.33,
    *,
    verdict: str = "improved",
    mode: str = "confirmatory",
    p: float | None = 1e-5,
    unit: str = "seconds",
    shape: str = "distribution",
    better: str = "lower",
    days: float = 14,
    start: int = LIVE,
    subject: str = "checkout",
    labels: tuple[tuple[str, str], ...] = (),
    scale: str = "ratio",
    visible: float | None = 12.0,
    caveats: tuple[Caveat, ...] = (),
    under: UnderBound | None = None,
) -> Comparison:
    effect = None
    if verdict != "refused" and before is not None and after is not None:
        ratio = after / before if before > 0 and after >= 0 else None
        percent = None if ratio is None else 100 * (ratio - 1)
        effect = Effect(ratio, after - before, percent, low, high, low, scale)
    length = round(days * DAY)
    said = repr((metric, statistic, subject, labels, days, start))
    return Comparison(
        id=hashlib.sha256(said.encode()).hexdigest()[:12],
        subject=subject,
        metric=metric,
        labels=labels,
        source="prom",
        statistic=statistic,
        unit=unit,
        shape=shape,
        better=better,
        before=Side(before, 120_000.0, LIVE - length, LIVE, 1.0),
        after=Side(after, 130_000.0, start, start + length, 1.0),
        effect=effect,
        p=None if verdict in ("refused", "exact") else p,
        verdict=Verdict(verdict),
        mode=Mode(mode),
        visible_percent=visible if verdict not in ("refused", "exact") else None,
        caveats=caveats,
        under=under,
    )


def latency(**changed) -> Comparison:
    return compared(**changed)


def p99_held(**changed) -> Comparison:
    base = {
        "statistic": "p99",
        "before": 1.2,
        "after": 1.21,
        "low": 0.98,
        "high": 1.03,
        "verdict": "unchanged",
        "p": 0.6,
    }
    return compared(**{**base, **changed})


def errors_rose(**changed) -> Comparison:
    base = {
        "metric": "error_ratio",
        "statistic": "ratio",
        "before": 0.0021,
        "after": 0.0064,
        "low": 2.1,
        "high": 4.4,
        "verdict": "regressed",
        "mode": "exploratory",
        "p": 1e-4,
        "unit": "1",
        "shape": "ratio",
    }
    return compared(**{**base, **changed})


def traffic(before: float = 1240.0, after: float = 1250.0, verdict: str = "unclear", **changed) -> Comparison:
    base = {
        "metric": "request_rate",
        "statistic": "mean",
        "before": before,
        "after": after,
        "low": 0.9 * after / before,
        "high": 1.1 * after / before,
        "verdict": verdict,
        "mode": "exploratory",
        "p": 0.4 if verdict == "unclear" else 1e-6,
        "unit": "requests/second",
        "shape": "level",
        "better": "neither",
    }
    return compared(**{**base, **changed})


def instances(before: float = 24, after: float = 12, **changed) -> Comparison:
    base = {
        "metric": "instances",
        "statistic": "median",
        "before": before,
        "after": after,
        "low": None,
        "high": None,
        "verdict": "exact",
        "mode": "exploratory",
        "unit": "instances",
        "shape": "level",
        "better": "neither",
    }
    return compared(**{**base, **changed})


def incidents(before: float = 4 / 30.436875, after: float = 0.0, **changed) -> Comparison:
    base = {
        "metric": "incidents",
        "statistic": "count",
        "before": before,
        "after": after,
        "low": 0.0,
        "high": 0.45,
        "unit": "incidents",
        "shape": "event",
        "days": 28,
        "p": 0.002,
    }
    return compared(**{**base, **changed})


def change(*expect: str, title: str = "", because: str = "", **changed) -> Change:
    """Return a change; each expectation is ``METRIC STATISTIC DIRECTION [PERCENT]`` of checkout."""
    wanted = []
    for one in expect or ("latency p95 lower",):
        metric, statistic, direction, *by = one.split()
        wanted.append(Expectation("checkout", metric, statistic, Direction(direction), float(by[0]) if by else None))
    base = {
        "name": "checkout-index",
        "subjects": ("checkout",),
        "registered": LIVE - 5 * DAY,
        "baseline_start": LIVE - 33 * DAY,
        "baseline_end": LIVE - 5 * DAY,
        "shipped": LIVE,
        "expect": tuple(wanted),
        "title": title,
        "because": because,
    }
    return Change(**{**base, **changed})
