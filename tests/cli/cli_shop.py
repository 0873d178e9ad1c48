"""A shop to run commands in: settings, a filled store, a clock, and nothing that answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from harvester.cli import main
from harvester.connector import Batch
from harvester.readings import MINUTE, Coverage, Level, Series, Window, labels_of, to_milliseconds
from harvester.settings import load
from harvester.store import Store

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CHANGE = NOW - timedelta(days=14)

SETTINGS = """
[store]
url = "sqlite:///{folder}/store.db"

[subjects.checkout]
prometheus = {{ service = "checkout" }}

[subjects.search]
prometheus = {{ service = "search" }}

[sources.prom]
connector = "prometheus"
url = "http://127.0.0.1:9"
timeout = "2s"

[[sources.prom.metrics]]
name = "latency"
shape = "level"
unit = "seconds"
better = "lower"
query = 'latency{{$selector}}'
step_seconds = 300

[[sources.prom.metrics]]
name = "replicas"
shape = "level"
unit = "replicas"
exact = true
query = 'replicas{{$selector}}'
step_seconds = 300
"""


@dataclass
class Shop:
    """What a test runs commands in."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    now: datetime = NOW
    out: str = ""
    err: str = ""
    codes: list[int] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "harvester.toml"

    def __call__(self, *words: str) -> int:
        """Run a command and keep what it said."""
        code = main([*words, "--config", str(self.config)], now=lambda: self.now)
        said = self.capsys.readouterr()
        self.out, self.err = said.out, said.err
        self.codes.append(code)
        return code

    def store(self) -> Store:
        return Store.open(load(self.config).store.url, now=lambda: self.now)

    def fill(
        self, service: str, metric: str, before: float, after: float, noise: float = 0.03, until: datetime = NOW,
        since: datetime = NOW - timedelta(days=56),
    ) -> None:
        """Store a level of eight weeks, or of less, that changes at ``CHANGE``, proven complete."""
        connector = load(self.config).connectors["prom"]
        definition = next(one for one in connector.definitions() if one.name == metric)
        series = Series("prom", definition, labels_of({"service": service}))
        end = to_milliseconds(until)
        at = np.arange(to_milliseconds(since), end, 5 * MINUTE, dtype=np.int64)
        random = np.random.default_rng(len(service) + len(metric))
        level = np.where(at < to_milliseconds(CHANGE), before, after)
        value = level * np.exp(noise * random.standard_normal(len(at))) if noise else level.astype(float)
        coverage = Coverage(metric, Window.of(int(at[0]), end), series.labels, definition.question)
        with self.store() as store:
            store.commit("prom", Batch((Level(series, at, value),), (coverage,)))
