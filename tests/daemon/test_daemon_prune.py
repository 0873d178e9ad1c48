"""The daemon's child drops what is older than it shall be kept, once a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from harvester.connector import Batch
from harvester.daemon import tick
from harvester.readings import DAY, HOUR, Level, Metric, Series, Shape, Window, to_milliseconds
from harvester.settings import load
from harvester.store import Store

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_old_readings_go_once_a_day_and_new_ones_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "harvester.toml"
    path.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/store.db"\nkeep = "30d"\n')
    settings = load(path)
    series = Series("prom", Metric("load", "1", Shape.LEVEL, step_seconds=3600))
    end = to_milliseconds(NOW)
    at = np.arange(end - 60 * DAY, end, HOUR, dtype=np.int64)
    clock = [NOW]
    with Store.open(settings.store.url, now=lambda: clock[0]) as store:

        def oldest():
            [held] = store.read([series], Window.of(0, end))
            return int(held.at[0])

        store.commit("prom", Batch((Level(series, at, np.ones(len(at))),)))
        tick(settings, store, lambda: clock[0])
        assert oldest() == (end - 30 * DAY) // DAY * DAY
        clock[0] += timedelta(hours=23)
        tick(settings, store, lambda: clock[0])
        assert oldest() == (end - 30 * DAY) // DAY * DAY, "not twice a day"
        clock[0] += timedelta(hours=2)
        tick(settings, store, lambda: clock[0])
        assert oldest() == (end - 29 * DAY) // DAY * DAY
