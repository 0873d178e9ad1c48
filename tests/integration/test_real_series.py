"""
From ``check`` to ``digest`` on real operational series, served by a real Prometheus.

The folder named by ``$HARVESTER_REAL_SERIES`` holds ``*.csv.gz`` files with the columns ``ts,value,label`` (seconds). Their
times are shifted by whole weeks, so that the same hours of the same weekdays end last Monday at midnight UTC, which is
the clock the command line is given: every run sees the same numbers. Five quiet series are halved from a known instant
on, fifteen are left alone.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prometheus_server import running_prometheus, write_blocks

from harvester.cli import FINDINGS, INCONCLUSIVE, OK, main
from harvester.differ.compare import Evidence, power
from harvester.readings import DAY, HOUR, Better, Level, Metric, Series, Shape, Window, labels_of, to_milliseconds

FOLDER = os.environ.get("HARVESTER_REAL_SERIES", "")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not FOLDER, reason="$HARVESTER_REAL_SERIES names no folder of real series: nothing was tried on them"),
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")), reason="prometheus and promtool are not installed"
    ),
]

AFTER = 14 * DAY
BEFORE = 28 * DAY
QUIET_PERCENT = 15.0
FACTOR = 0.5


def midnight_of_monday() -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=today.weekday())


def shifted(path: Path, end: int) -> Level | None:
    """Return an hourly series shifted by whole weeks to end at ``end``, or None where it is too short or has gaps."""
    with gzip.open(path, "rt") as file:
        table = np.genfromtxt(io.StringIO(file.read()), delimiter=",", skip_header=1, usecols=(0, 1))
    at = (table[:, 0] * 1000).astype(np.int64)
    weeks = -(-(end - int(at[-1])) // (7 * DAY))
    at = at + max(weeks, 0) * 7 * DAY
    keep = (at >= end - AFTER - BEFORE) & (at < end) & np.isfinite(table[:, 1])
    at, value = at[keep], table[keep, 1]
    hours, first = np.unique(at // HOUR, return_index=True)
    if len(hours) < 0.98 * (AFTER + BEFORE) / HOUR or float(np.median(value)) <= 0:
        return None
    series = Series("prom", Metric("load", "1", Shape.LEVEL, Better.LOWER, step_seconds=3600), labels_of({"id": path.name}))
    return Level(series, hours * HOUR, value[first])


def half_width_percent(level: Level, change: int) -> float:
    """Return the smallest change that 14 days after the instant would show, from what came before it."""
    window = Window.of(change - 14 * DAY, change)
    seen = power(
        Evidence(level.within(window), window, window), at=change, days=(14,),
        history=level.within(Window.of(change - BEFORE, window.start)),
    )
    return seen[0].percent if seen else np.inf


def test_five_halved_series_are_found_and_of_fifteen_others_at_most_one_is_claimed(tmp_path, capsys):
    clock = midnight_of_monday()
    end = to_milliseconds(clock)
    change = end - AFTER
    found = [level for path in sorted(Path(FOLDER).glob("*.csv.gz")) if (level := shifted(path, end)) is not None]
    quiet = [level for level in found if half_width_percent(level, change) < QUIET_PERCENT][:5]
    others = [level for level in found if level not in quiet][:15]
    assert (len(quiet), len(others)) == (5, 15), f"{len(found)} series are long enough"

    halved = [f"halved{number}" for number in range(5)]
    alone = [f"alone{number}" for number in range(15)]
    families = []
    for name, level in zip([*halved, *alone], [*quiet, *others], strict=True):
        value = np.where((level.at >= change) & (name in halved), FACTOR, 1.0) * level.value
        families.append(("gauge", "load", {"subject": name}, level.at, value.tolist()))
    write_blocks(tmp_path, families)

    with running_prometheus(tmp_path) as url:
        subjects = "".join(f'[subjects.{name}]\nprometheus = {{ subject = "{name}" }}\n' for name in [*halved, *alone])
        (tmp_path / "harvester.toml").write_text(
            f'[store]\nurl = "sqlite:///{tmp_path}/store.db"\n{subjects}'
            f'[sources.prom]\nconnector = "prometheus"\nurl = "{url}"\n'
            '[[sources.prom.metrics]]\nname = "load"\nshape = "level"\nunit = "1"\nbetter = "lower"\n'
            "query = 'load{$selector}'\nstep_seconds = 3600\n"
        )

        def harvest(*words, codes=(OK,)):
            code = main([*words, "--config", str(tmp_path / "harvester.toml")], now=lambda: clock)
            said = capsys.readouterr()
            assert code in codes, said.out + said.err
            return said.out

        assert "all is well" in harvest("check")
        assert "readings" in harvest("collect")
        at = f"{datetime.fromtimestamp(change / 1000, UTC):%Y-%m-%dT%H:%MZ}"
        harvest("baseline", "rewrite", "--at", at, "--wait")
        harvest("shipped", "rewrite", "--at", at)
        said = harvest("diff", "rewrite", "--json", codes=(OK, FINDINGS, INCONCLUSIVE))
        comparisons = {one["subject"]: one for one in json.loads(said)["data"]["comparisons"]}
        assert sorted(comparisons) == sorted([*halved, *alone])
        for name in halved:
            one = comparisons[name]
            assert one["verdict"] == "improved", one
            assert one["effect"]["low"] <= FACTOR <= one["effect"]["high"], one["effect"]
        claimed = [name for name in alone if comparisons[name]["verdict"] in ("improved", "regressed", "changed")]
        assert len(claimed) <= 1, [comparisons[name] for name in claimed]

        candidates = json.loads(harvest("candidates", "--json"))["data"]["candidates"]
        told = {one["subject"] for one in candidates if one["verdict"] in ("improved", "regressed", "changed")}
        assert set(halved) <= told
        assert len(told - set(halved)) <= 1
        digest = harvest("digest")
        assert sum(name in digest for name in halved) >= 4, digest
