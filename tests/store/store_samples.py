"""Readings to store, and how to tell whether two are the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harvester.connector import Batch
from harvester.readings import (
    DAY,
    MINUTE,
    OPEN,
    Better,
    Counts,
    Distribution,
    Level,
    Metric,
    Occurrences,
    Ratio,
    Readings,
    Series,
    Shape,
    Silence,
    Window,
)

START = 20_000 * DAY  # 2024-10-04
EVER = Window.of(0, 2**62)

CPU = Metric("cpu", "1", Shape.LEVEL, Better.LOWER, query="rate(cpu[5m])", family="saturation")
ERRORS = Metric("errors", "1", Shape.RATIO, Better.LOWER, query="errors / all")
TIMEOUTS = Metric("timeouts", "1", Shape.COUNT, Better.LOWER, Silence.ZERO, query="increase(timeouts[1m])")
LATENCY = Metric("latency", "seconds", Shape.DISTRIBUTION, Better.LOWER, bounds=(0.1, 0.5, 1.0), step_seconds=300)
STATEMENTS = Metric("statements", "seconds", Shape.DISTRIBUTION, Better.LOWER, threshold=0.25, step_seconds=3600)
INCIDENTS = Metric("incidents", "1", Shape.EVENT, Better.LOWER, Silence.ZERO)


def series(metric: Metric = CPU, name: str = "a") -> Series:
    return Series("source", metric, (("instance", name),))


def level(values: Sequence[float], start: int = START, step: int = MINUTE, name: str = "a") -> Level:
    at = start + np.arange(len(values), dtype=np.int64) * step
    return Level(series(name=name), at, np.array(values, np.float64))


def one_of_each_shape() -> tuple[Readings, ...]:
    at = START + np.arange(100, dtype=np.int64) * MINUTE
    hours = START + np.arange(48, dtype=np.int64) * 3600_000
    wave = np.round(np.sin(np.arange(100) / 9.0), 4)
    return (
        Level(series(), at, wave),
        Ratio(series(ERRORS), at, np.abs(wave), np.full(100, 40.0)),
        Counts(series(TIMEOUTS), at, np.arange(100.0) / 3),
        Distribution(
            series(LATENCY), START + np.arange(100, dtype=np.int64) * 5 * MINUTE, np.arange(400.0).reshape(100, 4),
            np.arange(100.0), np.full(100, np.nan), np.full(100, np.nan),
        ),
        Distribution(
            series(STATEMENTS), hours, np.arange(48 * 3.0).reshape(48, 3) + 1, np.arange(48.0), np.full(48, 0.25),
            np.full(48, 7.5), first=-60,
        ),
        Occurrences(
            series(INCIDENTS), ("P1", "P2"), np.array([1, 4]), np.array([START, START + DAY]),
            np.array([START + MINUTE, OPEN]), ({"urgency": "high"}, {"title": "Zeit läuft"}),
        ),
    )


def batch(*readings: Readings, **more: object) -> Batch:
    return Batch(readings=readings, **more)  # type: ignore[arg-type]


def same(one: Readings, other: Readings) -> bool:
    """Tell whether two say the same of the same series, bit for bit."""
    if type(one) is not type(other) or one.series != other.series or len(one) != len(other):
        return False
    if isinstance(one, Occurrences):
        assert isinstance(other, Occurrences)
        columns = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("revision", "start", "end"))
        return one.id == other.id and columns and [*one.attributes] == [*other.attributes]
    names = {
        Level: ("value",), Counts: ("number",), Ratio: ("numerator", "denominator"),
        Distribution: ("counts", "total", "minimum", "maximum"),
    }[type(one)]
    if isinstance(one, Distribution) and one.first != other.first:  # type: ignore[union-attr]
        return False
    return np.array_equal(one.at, other.at) and all(  # type: ignore[union-attr]
        np.ascontiguousarray(getattr(one, name)).tobytes() == np.ascontiguousarray(getattr(other, name)).tobytes()
        for name in names
    )
