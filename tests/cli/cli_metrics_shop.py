"""A shop with two sources, whose metrics are made of each other, renamed and read beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
from cli_shop import CHANGE, NOW, Shop

from harvester.cli import OK
from harvester.connector import Batch
from harvester.readings import (
    SECOND,
    Counts,
    Coverage,
    Distribution,
    Level,
    Ratio,
    Readings,
    Series,
    Window,
    labels_of,
    to_milliseconds,
)
from harvester.settings import load

SINCE = NOW - timedelta(days=56)
T = to_milliseconds(CHANGE)

SETTINGS = """
[store]
url = "sqlite:///{folder}/store.db"

[subjects.checkout]
prometheus = {{ service = "checkout" }}

[sources.prom]
connector = "prometheus"
url = "http://127.0.0.1:9"
timeout = "2s"

[[sources.prom.metrics]]
name = "requests"
shape = "count"
unit = "requests"
counter = 'requests_total{{$selector}}'
step_seconds = 300

[[sources.prom.metrics]]
name = "latency"
shape = "distribution"
unit = "seconds"
better = "lower"
buckets = 'latency_bucket{{$selector}}'
step_seconds = 3600

[[sources.prom.metrics]]
name = "response_time"
shape = "level"
unit = "seconds"
better = "lower"
query = 'response_time{{$selector}}'
step_seconds = 300

[[sources.prom.metrics]]
name = "old_response_time"
shape = "level"
unit = "seconds"
better = "lower"
query = 'old_response_time{{$selector}}'
step_seconds = 300

[[sources.prom.metrics]]
name = "error_ratio"
shape = "ratio"
better = "lower"
numerator = 'failed_total{{$selector}}'
denominator = 'requests_total{{$selector}}'
step_seconds = 300

[[sources.prom.metrics]]
name = "nodes"
shape = "level"
unit = "nodes"
better = "lower"
exact = true
query = 'nodes{{$selector}}'
step_seconds = 300

[sources.database]
connector = "prometheus"
url = "http://127.0.0.1:9"
timeout = "2s"

[[sources.database.metrics]]
name = "calls"
shape = "count"
unit = "statements"
counter = 'calls_total{{$selector}}'
step_seconds = 60

[derived.queries_per_request]
operation = "ratio"
numerator = "calls"
denominator = "requests"
better = "lower"

[derived.node_cost]
operation = "product"
of = "nodes"
times = 0.5
unit = "USD/hour"

[derived.fast_requests]
operation = "share_under"
of = "latency"
bound = 0.25
"""

BOUNDS = (0.1, 0.25, 0.5, 1.0)


def equip(shop: Shop, more: str = "") -> Shop:
    """Give a shop the settings of this module."""
    shop.config.write_text(SETTINGS.format(folder=shop.folder) + more)
    return shop


def definition(shop: Shop, source: str, name: str, **other):
    """Return a metric as its source defines it, or asked otherwise."""
    (found,) = (one for one in load(shop.config).connectors[source].definitions() if one.name == name)
    return replace(found, **other)


def steps(metric, *, since: datetime = SINCE, until: datetime = NOW):
    """Return the instants of a metric's readings."""
    return np.arange(to_milliseconds(since), to_milliseconds(until), metric.step, dtype=np.int64)


def stepped(at, before: float, after: float, noise: float = 0.05, seed: int = 1):
    """Return values that change when the change goes live, over a daily wave."""
    random = np.random.default_rng(seed)
    wave = 1 + 0.2 * np.sin(2 * np.pi * at / 86_400_000)
    return np.where(at < T, before, after) * wave * np.exp(noise * random.standard_normal(len(at)))


def store(shop: Shop, readings: Readings, *gaps: tuple[datetime, datetime], until: datetime = NOW) -> None:
    """Store readings and prove them complete but for the gaps, in which there are none."""
    metric = readings.series.metric
    missing = Window(tuple((to_milliseconds(start), to_milliseconds(end)) for start, end in gaps))
    window = Window.of(int(readings.at[0]), to_milliseconds(until)) - missing
    proven = Coverage(metric.name, window, readings.series.labels, metric.question)
    with shop.store() as opened:
        opened.commit(readings.series.source, Batch((readings.within(window),), (proven,)))


def counts(
    shop: Shop, source: str, name: str, before: float, after: float, *gaps, seed: int = 1, labels: dict | None = None,
    **other,
) -> None:
    """Store a count a second that changes when the change goes live."""
    metric = definition(shop, source, name, **other)
    at = steps(metric)
    number = np.round(stepped(at, before, after, seed=seed) * metric.step / SECOND)
    store(shop, Counts(Series(source, metric, labels_of({"service": "checkout", **(labels or {})})), at, number), *gaps)


def levels(shop: Shop, name: str, values, at, service: str = "checkout", **other) -> None:
    """Store a level of the first source."""
    metric = definition(shop, "prom", name, **other)
    series = Series("prom", metric, labels_of({"service": service}))
    store(shop, Level(series, at, np.asarray(values, float)), until=datetime.fromtimestamp(at[-1] / 1000 + 300, NOW.tzinfo))


def ratios(shop: Shop, name: str, before: float, after: float) -> None:
    """Store a ratio of the first source over a thousand trials an interval."""
    metric = definition(shop, "prom", name)
    at = steps(metric)
    failed = np.where(at < T, before, after) * 1000.0
    store(shop, Ratio(Series("prom", metric, labels_of({"service": "checkout"})), at, failed, np.full(len(at), 1000.0)))


def latencies(
    shop: Shop,
    before: Sequence[float],
    after: Sequence[float],
    *,
    load_after: float = 1.0,
    context: Sequence[str] = (),
    bounds: Sequence[float] = BOUNDS,
) -> None:
    """Store a histogram whose shares in the five buckets change when the change goes live."""
    metric = definition(shop, "prom", "latency", bounds=tuple(bounds), context=tuple(context))
    at = steps(metric)
    load_ = stepped(at, 1000.0, 1000.0 * load_after)
    shares = np.where((at < T)[:, None], np.asarray(before)[None, :], np.asarray(after)[None, :])
    unknown = np.full(len(at), np.nan)
    series = Series("prom", metric, labels_of({"service": "checkout"}))
    store(shop, Distribution(series, at, np.round(load_[:, None] * shares), unknown, unknown, unknown))


def live(shop: Shop, *expect: str) -> None:
    """Register a change, freeze its baseline as the daemon would, and let it go live."""
    from harvester.impact import find_change, freeze

    shop.now = CHANGE - timedelta(hours=1)
    assert shop("baseline", "index", *(word for text in expect for word in ("--expect", text))) == OK
    shop.now = CHANGE
    assert shop("shipped", "index") == OK
    with shop.store() as opened:
        freeze(opened, load(shop.config), find_change(opened, "index"), T)
    shop.now = NOW
