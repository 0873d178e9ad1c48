"""Writes log lines as the server does, and says what a store holds of them."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from connectors.postgres_slowlog import PostgresSlowLog
from harvester.readings import HOUR, Window, to_milliseconds
from harvester.store.store import Store

START = datetime(2026, 11, 22, 10, tzinfo=UTC)
ALL = Window.of(to_milliseconds(START - timedelta(days=60)), to_milliseconds(START + timedelta(days=60)))


def stamp(at: datetime, zone: str = "UTC") -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} {zone}"


def stderr_line(at: datetime, message: str, *, severity: str = "LOG", pid: int = 4711) -> str:
    return f"{stamp(at)} [{pid}] {severity}:  " + message.replace("\n", "\n\t") + "\n"


def csv_line(
    at: datetime, message: str, *, severity: str = "LOG", pid: int = 4711, database: str = "shop", detail: str = "",
    context: str = "", columns: int = 26,
) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if text else ""

    row = [
        stamp(at), quoted("app"), quoted(database), str(pid), quoted("[local]"), "6740f1aa.1267", "3", quoted("SELECT"),
        "2026-11-22 09:00:00 UTC", "3/7", "0", severity, "00000", quoted(message), quoted(detail), "", "", "",
        quoted(context), "", "", "", quoted("psql"), quoted("client backend"), "", "0",
    ]
    return ",".join(row[:columns]) + "\n"


def call(text: str, milliseconds: float = 1.5) -> str:
    return f"duration: {milliseconds:.3f} ms  statement: {text}"


def connector(*paths: Path | str, **options: object) -> PostgresSlowLog:
    return PostgresSlowLog(source="log", paths=tuple(str(path) for path in paths), **options)


def collect(store: Store, log: PostgresSlowLog, window: Window = ALL) -> list[str]:
    """Collect as the service does, each batch committed with its state; return the notes."""
    notes: list[str] = []
    for batch in log.collect(window, store.state("log")):
        store.commit("log", batch)
        notes += batch.notes
    return notes


def held(store: Store, metric: str = "statement_duration") -> dict[tuple[tuple[str, str], ...], dict[int, tuple]]:
    """Return what a store holds: labels -> hour -> (calls by log bucket, total, minimum, maximum), silent hours too."""
    series = store.series(metric=metric)
    result = {}
    for one, readings in zip(series, store.read(series, Window.of(0, 4 * 10**12)), strict=True):
        hours = {}
        for row, at in enumerate(readings.at.tolist()):
            buckets = {
                readings.first + column: int(number) for column, number in enumerate(readings.counts[row]) if number
            }
            ends = [None if math.isnan(value) else value for value in (readings.minimum[row], readings.maximum[row])]
            hours[at // HOUR] = (buckets, float(readings.total[row]), *ends)
        result[one.labels] = hours
    return result


def coverage(store: Store, metric: str = "statement_duration", labels=None) -> tuple[tuple[int, int], ...]:
    return store.coverage("log", metric, labels).spans


def calls(store: Store, metric: str = "statement_duration") -> Counter[str]:
    """Return how many calls a store holds of each query."""
    found: Counter[str] = Counter()
    for labels, hours in held(store, metric).items():
        found[dict(labels).get("query", "")] += sum(sum(buckets.values()) for buckets, *_ in hours.values())
    return found
