"""A store on a real file, and settings without a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from digest_samples import NOW

from harvester.readings import to_datetime
from harvester.settings import Settings
from harvester.store import Store


class Clock:
    """A clock that is set by hand."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock(to_datetime(NOW).astimezone(UTC))


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", now=clock) as opened:
        yield opened


@pytest.fixture
def configured() -> Callable[..., Settings]:
    """Return settings of one subject and one Prometheus that is never asked."""

    def make(**given: Any) -> Settings:
        metric = {"name": "cpu", "shape": "level", "unit": "1", "better": "lower", "query": "cpu{$selector}"}
        source = {"connector": "prometheus", "url": "http://127.0.0.1:9", "every": "5m", "metrics": [metric]}
        content: dict[str, Any] = {
            "digest": {"zone": "Europe/Berlin"},
            "subjects": {"checkout": {"prometheus": {"service": "checkout"}}},
            "sources": {"prom": source},
        }
        return Settings(**{**content, **given})

    return make
