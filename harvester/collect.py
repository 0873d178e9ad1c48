"""
One collection of one source: plan the window, pull, store.

Each batch a connector yields is committed at once (readings, coverage and the connector's state in one transaction), so
a collection may be interrupted anywhere and the next one goes on. The record of the collection is the snapshot.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from harvester import __version__
from harvester.connector import Connector
from harvester.errors import ConnectorError, HarvesterError, StoreError
from harvester.readings import SECOND, Window, to_milliseconds
from harvester.store import Collection, Lease, Store

logger = logging.getLogger(__name__)

LEASE_SECONDS = 300.0
"""How long a collector may be silent between two batches before another takes its source."""

FIRST_RETRY = 60 * SECOND
"""A source that failed is tried again after this, then twice as long each time, at most after its usual interval."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a collection is: readings so far, and the share of the asked window behind it (0 to 1)."""

    source: str
    readings: int
    share: float


def owner_name() -> str:
    """Return who collects: host and process, as leases show it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def plan(connector: Connector, past: Iterable[Collection], now: int, since: int | None = None) -> Window:
    """
    Return the window to ask for: from the end of the last good collection, less the overlap, to now.

    The first collection, and the first after a metric was added or redefined, reaches back as far as
    ``connector.reach``; ``since`` asks again from an instant on.
    """
    known = definitions(connector)
    good = [one.window.end for one in past if one.error is None and one.versions.get("definitions") == known]
    reach = now - round(connector.reach.total_seconds() * SECOND)
    overlap = round(connector.overlap.total_seconds() * SECOND)
    start = reach if not good else max(good) - overlap
    if since is not None:
        start = min(since, start) if good else since
    return Window.of(min(start, now - 1), now)


def definitions(connector: Connector) -> str:
    """Return a digest of the metrics a source is asked for and of the subjects it is asked about."""
    metrics = sorted(metric.name + metric.definition for metric in connector.definitions())
    return hashlib.sha256(repr((metrics, connector.subjects)).encode()).hexdigest()[:16]


def collect(
    store: Store,
    connector: Connector,
    *,
    now: Callable[[], datetime],
    since: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Collection | None:
    """
    Collect one source into the store and return the record, or None where another process is at it.

    A source that cannot be read is recorded in the returned collection's ``error``; what came before the failure
    stays stored. Failures of the store are raised.
    """
    source = connector.source
    lease = store.acquire(f"collect:{source}", owner_name(), LEASE_SECONDS)
    if lease is None:
        return None
    try:
        return _collect(store, connector, lease, now, since, progress)
    finally:
        store.release(lease)


def _collect(
    store: Store,
    connector: Connector,
    lease: Lease,
    now: Callable[[], datetime],
    since: int | None,
    progress: Callable[[Progress], None],
) -> Collection:
    source = connector.source
    started = to_milliseconds(now())
    past = store.collections(source, limit=50)
    window = plan(connector, past, started, since)
    readings = 0
    covered = Window()
    notes: dict[str, None] = {}
    error: str | None = None
    try:
        for batch in connector.collect(window, store.state(source)):
            readings += store.commit(source, batch).readings
            for coverage in batch.coverage:
                covered |= coverage.window
            notes.update(dict.fromkeys(batch.notes))
            progress(Progress(source, readings, covered.share_of(window)))
            if not store.renew(lease, LEASE_SECONDS):
                raise StoreError(
                    "collect", source, "another process took this source over",
                    hint="this machine was asleep or very slow; the other one goes on",
                )
    except ConnectorError as e:
        error = str(e)
    except HarvesterError:
        raise
    except Exception as e:
        # A connector may be anybody's code; its mistake is recorded as its failure and leaves the other sources alone.
        logger.exception("connector of source %s broke", source)
        error = f"collect {source}: its connector broke with {type(e).__name__}: {e} (report it to whoever wrote it)"
    finished = to_milliseconds(now())
    failures = 0
    if error is not None:
        failures = 1 + next((i for i, one in enumerate(past) if one.error is None), len(past))
    store.set_due(source, next_due(connector, finished, failures))
    record = Collection(
        source=source,
        started=started,
        finished=finished,
        window=window,
        covered=covered & window,
        error=error,
        notes=tuple(notes),
        readings=readings,
        versions={
            "harvester": __version__,
            "python": platform.python_version(),
            "definitions": definitions(connector),
        },
    )
    return store.record_collection(record)


def next_due(connector: Connector, finished: int, failures: int) -> int:
    """Return when a source is due again, milliseconds UTC: after its interval, sooner after a failure."""
    every = round(connector.every.total_seconds() * SECOND)
    return finished + (every if failures == 0 else min(every, FIRST_RETRY * 2 ** min(failures - 1, 10)))


def collect_all(
    store: Store,
    connectors: Iterable[Connector],
    *,
    now: Callable[[], datetime],
    since: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[Collection]:
    """Collect several sources in turn; one source's failure leaves the others alone."""
    done = (collect(store, one, now=now, since=since, progress=progress) for one in connectors)
    return [one for one in done if one is not None]


def due(store: Store, connectors: Iterable[Connector], now: int) -> list[Connector]:
    """Return the connectors whose stored due time has come, the longest overdue first; a new one is due at once."""
    waiting = [(store.due(one.source) or 0, one) for one in connectors]
    return [one for at, one in sorted(waiting, key=lambda pair: pair[0]) if at <= now]


