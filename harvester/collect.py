"""
One collection of one source: plan what to ask, pull, store.

Each batch a connector yields is committed at once (readings, coverage and the connector's state in one transaction), so
a collection may end anywhere: by an error, a signal, a power cut. How far each metric has come is remembered apart from
the batches, always after them, so that the next collection asks for exactly what is missing. The record of the
collection is the snapshot.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from harvester import __version__
from harvester.connector import Batch, Connector
from harvester.errors import HarvesterError, StoreBusy, StoreError, StoreVersion
from harvester.readings import DAY, SECOND, Metric, Subject, Window, to_milliseconds
from harvester.store import Collection, Lease, Store

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""How long a source stays with a collector that gives no sign of life; a living one renews it four times as often."""

FIRST_RETRY = 60 * SECOND
"""A source that failed is tried again after this, then twice as long each time, at most after its usual interval."""

LONG = DAY
"""Metrics asked for more than this are asked one by one once a collection of them broke off."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a collection is: readings so far, and the share of the asked window behind it (0 to 1)."""

    source: str
    readings: int
    share: float


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a source at once: a connector that knows only these metrics, and a window."""

    connector: Connector
    metrics: tuple[str, ...]
    window: Window


@dataclass(frozen=True, slots=True)
class Position:
    """
    How far collecting a source has come.

    Attributes:
        complete: By metric, as ``_key`` names it: up to when it was asked and answered, milliseconds UTC.
        alone: Names of metrics that are asked one by one, in this order, after a collection of several broke off.
        failures: How many collections failed since the last good one.
        good: When the last good one ended, milliseconds UTC, or None.
        proven: End of the newest time proven complete for at least one metric, milliseconds UTC, or None.
        begun: Start and end of the window being asked for; None between collections.
    """

    complete: Mapping[str, int] = field(default_factory=dict)
    alone: tuple[str, ...] = ()
    failures: int = 0
    good: int | None = None
    proven: int | None = None
    begun: tuple[int, int] | None = None

    @classmethod
    def of(cls, store: Store, source: str) -> Position:
        """Return the position a store remembers; a blank one for a source never collected."""
        data = store.state(_place(source))
        if not data:
            return cls()
        begun = data.pop("begun")
        return cls(**{**data, "alone": tuple(data["alone"]), "begun": tuple(begun) if begun else None})

    def keep(self, store: Store, source: str) -> None:
        """Remember it."""
        store.commit(_place(source), Batch(state=asdict(self)))


def _place(source: str) -> str:
    return f"collect:{source}"  # no source can be named so


def owner_name() -> str:
    """Return who collects: host and process, as leases show it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def holder(store: Store, source: str) -> str | None:
    """Return who is collecting a source now, or None."""
    return store.holder(_place(source))


# ---------------------------------------------------------------------------------------------------------------------
# Planning
# ---------------------------------------------------------------------------------------------------------------------


def plan(store: Store, connector: Connector, now: int, since: int | None = None) -> list[Ask]:
    """
    Return what to ask for: each metric from where it was last complete, less the overlap, to now.

    A metric that is new, or whose definition or subjects changed, reaches back as far as ``connector.reach``; so does
    every metric after a clock that was ahead was set back, for nobody knows what was missed then. ``since`` asks again
    from an instant on. Metrics that need the same window are asked together, short windows first.
    """
    return _plan(Position.of(store, connector.source), connector, now, since)


def _plan(position: Position, connector: Connector, now: int, since: int | None) -> list[Ask]:
    reach = now - _milliseconds(connector.reach)
    overlap = _milliseconds(connector.asked_again)
    starts: dict[str, int] = {}
    for metric in connector.definitions():
        until = position.complete.get(_key(metric, connector.subjects))
        known = until is not None and until <= now + overlap
        start = min(until, now) - overlap if until is not None and known else reach
        if since is not None:
            start = min(since, start) if known else since
        starts[metric.name] = min(start, now - 1)
    if not _has_metric_options(connector):
        window = Window.of(min(starts.values(), default=now - 1), now)
        return [Ask(connector, tuple(starts), window)]
    alone = [name for name in position.alone if name in starts]
    together: dict[int, list[str]] = {}
    for name, start in starts.items():
        if name not in alone:
            together.setdefault(start, []).append(name)
    groups = [(start, together[start]) for start in sorted(together, reverse=True)]
    groups += [(starts[name], [name]) for name in alone]
    return [Ask(_asking(connector, names), tuple(names), Window.of(start, now)) for start, names in groups]


def _has_metric_options(connector: Connector) -> bool:
    return "metrics" in type(connector).model_fields


def _asking(connector: Connector, names: Sequence[str]) -> Connector:
    """Return a connector that asks for some of its metrics only."""
    specifications = getattr(connector, "metrics")  # noqa: B009  only some connectors have it; see above
    wanted = tuple(one for one in specifications if one.name in names)
    return connector if len(wanted) == len(specifications) else connector.model_copy(update={"metrics": wanted})


def _key(metric: Metric, subjects: Sequence[Subject]) -> str:
    asked = hashlib.sha256(repr((metric.definition, subjects)).encode()).hexdigest()[:16]
    return f"{metric.name} {asked}"


def definitions(connector: Connector) -> str:
    """Return a digest of the metrics a source is asked for and of the subjects it is asked about."""
    keys = sorted(_key(metric, connector.subjects) for metric in connector.definitions())
    return hashlib.sha256(repr(keys).encode()).hexdigest()[:16]


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * SECOND)


def next_due(connector: Connector, finished: int, failures: int) -> int:
    """Return when a source is due again, milliseconds UTC: after its interval, sooner after a failure."""
    every = _milliseconds(connector.every)
    return finished + (every if failures == 0 else min(every, FIRST_RETRY * 2 ** min(failures - 1, 10)))


def due(store: Store, connectors: Iterable[Connector], now: int) -> list[Connector]:
    """
    Return the connectors whose stored due time has come, the longest overdue first; a new one is due at once.

    A due time further ahead than the interval was written by a clock that was ahead, and counts as come.
    """
    waiting = [(store.due(one.source) or 0, one) for one in connectors]
    return [
        one
        for at, one in sorted(waiting, key=lambda pair: pair[0])
        if at <= now or at > now + _milliseconds(one.every) + FIRST_RETRY
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Collecting
# ---------------------------------------------------------------------------------------------------------------------


def collect(
    store: Store,
    connector: Connector,
    *,
    now: Callable[[], datetime],
    since: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    owner: str | None = None,
) -> Collection | None:
    """
    Collect one source into the store and return the record, or None where another process is at it.

    A source that cannot be read is recorded in the returned collection's ``error``; what came before the failure
    stays stored. ``owner`` must be unique to whoever may collect at the same time (default: this process).

    Raises:
        StoreError: if the store itself fails, or another process took the source over meanwhile.
    """
    source = connector.source
    lease = store.acquire(_place(source), owner or owner_name(), LEASE_SECONDS)
    if lease is None:
        return None
    try:
        with _Hold(store, lease, now) as hold:
            _bury(store, connector, now, "")
            run = _Run(store, connector, hold, now, progress)
            _under_way.append(run)
            try:
                return run.collect(since)
            finally:
                _under_way.remove(run)
    finally:
        store.release(lease)


_under_way: list[_Run] = []


def give_up() -> None:
    """
    Leave every collection under way in this process as if it had never begun, and give its source back.

    For a process that has to end now and cannot wait until its connectors let go; nothing may be collected after it.
    """
    for run in tuple(_under_way):
        run.abandon()
        run.hold.release()


def bury(
    store: Store, connector: Connector, now: Callable[[], datetime], *, cause: str = "", owner: str | None = None
) -> Collection | None:
    """
    Record the collection whose process died before its end, if there is one and nobody is at it; return the record.

    ``cause`` says how it died, where that is known.
    """
    if Position.of(store, connector.source).begun is None:
        return None
    lease = store.acquire(_place(connector.source), owner or owner_name(), LEASE_SECONDS)
    if lease is None:
        return None
    try:
        return _bury(store, connector, now, cause)
    finally:
        store.release(lease)


def _bury(store: Store, connector: Connector, now: Callable[[], datetime], cause: str) -> Collection | None:
    source = connector.source
    position = Position.of(store, source)
    if position.begun is None:
        return None
    start, end = position.begun
    died = cause or "the last collection did not come to its end (its process died, or the store failed)"
    record = Collection(
        source, end, to_milliseconds(now()), Window.of(start, end), Window(), f"collect {source}: {died}",
        versions=_versions(connector),
    )
    store.record_collection(record)
    asked = [one for one in _plan(position, connector, end, None) if end - one.window.start > LONG]
    replace(
        position, begun=None, failures=position.failures + 1, alone=_alone(position.alone, connector, asked),
    ).keep(store, source)
    return record


def _alone(already: Sequence[str], connector: Connector, broken: Iterable[Ask]) -> tuple[str, ...]:
    """Return which metrics are to be asked one by one, those that broke off last at the end."""
    if not _has_metric_options(connector):
        return ()
    names = [name for ask in broken for name in ask.metrics]
    return (*(name for name in already if name not in names), *dict.fromkeys(names))


def _versions(connector: Connector) -> dict[str, str]:
    return {
        "harvester": __version__,
        "python": platform.python_version(),
        "definitions": definitions(connector),
    }


class _Hold:
    """A lease that stays ours as long as we live, however long the source takes between two batches."""

    def __init__(self, store: Store, lease: Lease, now: Callable[[], datetime]) -> None:
        self._store = store
        self._lease = lease
        self._now = now
        self._renewed = to_milliseconds(now())
        self._lost = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {lease.name}", daemon=True)

    def __enter__(self) -> _Hold:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._done.wait(LEASE_SECONDS / 4):
            try:
                self._renew()
            except StoreError as e:
                logger.debug("lease %s: %s", self._lease.name, e)  # ``check`` meets the same trouble, and raises it

    def _renew(self) -> None:
        at = to_milliseconds(self._now())
        if self._store.renew(self._lease, LEASE_SECONDS):
            self._renewed = at
        else:
            self._lost = True

    def release(self) -> None:
        """Give the source back before its time; nothing more is written for it here."""
        self._lost = True
        self._done.set()
        self._store.release(self._lease)

    def check(self) -> None:
        """
        Make sure before something is written that the source is still ours: this machine may have slept.

        Raises:
            StoreBusy: if it is not.
        """
        age = to_milliseconds(self._now()) - self._renewed
        if not self._lost and not 0 <= age <= LEASE_SECONDS / 2 * SECOND:
            self._renew()
        if self._lost:
            raise StoreBusy(
                "collect", self._lease.name.partition(":")[2], "another process took this source over",
                hint="this machine was asleep or very slow; the other one goes on",
            )


class _Run:
    """One collection under way."""

    def __init__(
        self,
        store: Store,
        connector: Connector,
        hold: _Hold,
        now: Callable[[], datetime],
        progress: Callable[[Progress], None],
    ) -> None:
        self.store = store
        self.connector = connector
        self.source = connector.source
        self.hold = hold
        self.now = now
        self.progress = progress
        self.started = to_milliseconds(now())
        self.before = Position.of(store, connector.source)
        self.complete = dict(self.before.complete)
        self.alone = list(self.before.alone)
        self.asks: list[Ask] = []
        self.window = Window()
        self.covered = Window()
        self.readings = 0
        self.batches = 0
        self.notes: dict[str, None] = {}

    def collect(self, since: int | None) -> Collection:
        self.asks = _plan(self.before, self.connector, self.started, since)
        for one in self.asks:
            self.window |= one.window
        # Until it ends well it counts as failed, so that a connector which takes the process down waits its turn too.
        replace(self.before, begun=(self.window.start, self.window.end)).keep(self.store, self.source)
        failures = self.before.failures + 1
        self.store.set_due(self.source, next_due(self.connector, self.started, failures))
        try:
            error = self._ask_all()
        except (KeyboardInterrupt, SystemExit):
            self.abandon()
            raise
        finished = to_milliseconds(self.now())
        failures = failures if error else 0
        record = Collection(
            source=self.source,
            started=self.started,
            finished=finished,
            window=self.window,
            covered=self.covered & self.window,
            error=error,
            notes=tuple(self.notes),
            readings=self.readings,
            versions=_versions(self.connector),
        )
        self.hold.check()
        record = self.store.record_collection(record)
        known = {_key(metric, self.connector.subjects) for metric in self.connector.definitions()}
        Position(
            complete={key: at for key, at in self.complete.items() if key in known},
            alone=tuple(self.alone),
            failures=failures,
            good=self.before.good if error else finished,
            proven=max(filter(None, (self.before.proven, self.covered.end if self.covered else None)), default=None),
        ).keep(self.store, self.source)
        self.store.set_due(self.source, next_due(self.connector, finished, failures))
        return record

    def _ask_all(self) -> str | None:
        """Ask one after the other and return the first failure; go on while the source still answers."""
        error: str | None = None
        for ask in self.asks:
            batches = self.batches
            failure, again = self._ask(ask)
            if failure is None:
                self.complete.update(
                    (_key(metric, self.connector.subjects), ask.window.end)
                    for metric in ask.connector.definitions()
                )
                self.alone = [name for name in self.alone if name not in ask.metrics]
                continue
            error = error or failure
            broke_off = self.batches > batches and (not again or self.started - ask.window.start > LONG)
            if len(ask.metrics) == 1 or broke_off:
                self.alone = list(_alone(self.alone, self.connector, [ask]))
            if again or not self.batches:
                break
        return error

    def _ask(self, ask: Ask) -> tuple[str | None, bool]:
        """Ask and store; return what failed, or None, and whether asking again may help."""
        questions = {metric.name: metric.question for metric in ask.connector.definitions()}
        try:
            for found in ask.connector.collect(ask.window, self.store.state(self.source)):
                batch = replace(
                    found, coverage=tuple(replace(one, question=questions[one.metric]) for one in found.coverage)
                )
                self.hold.check()
                self.readings += self.store.commit(self.source, batch).readings
                self.batches += bool(batch.readings or batch.coverage)
                for coverage in batch.coverage:
                    self.covered |= coverage.window
                self.notes.update(dict.fromkeys(batch.notes))
                self.progress(Progress(self.source, self.readings, self.covered.share_of(self.window)))
        except StoreError as e:
            if e.retry or isinstance(e, (StoreBusy, StoreVersion)):
                raise
            return str(e), False  # one damaged day, one impossible reading: this source's own trouble
        except HarvesterError as e:
            return str(e), e.retry
        except Exception as e:  # noqa: BLE001  recorded, not swallowed:
            # A connector may be anybody's code; its mistake is recorded as its failure and leaves the other sources
            # alone. The exception's own text is not told: it may quote an address with a token in it.
            frame = traceback.extract_tb(e.__traceback__)[-1]
            logger.debug("connector of %s broke:\n%s", self.source, "".join(traceback.format_tb(e.__traceback__)))
            place = f"{type(e).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
            return f"collect {self.source}: its connector broke ({place}; report it to whoever wrote it)", False
        return None, False

    def abandon(self) -> None:
        """Leave the source as if this collection had never begun, but for what is stored: somebody wants us to stop."""
        asked = [one for one in self.asks if self.started - one.window.start > LONG and self._open(one)]
        alone = _alone(self.alone, self.connector, asked) if self.batches else tuple(self.alone)
        replace(self.before, complete=self.complete, alone=alone).keep(self.store, self.source)
        self.store.set_due(self.source, self.started)

    def _open(self, ask: Ask) -> bool:
        keys = (_key(metric, self.connector.subjects) for metric in ask.connector.definitions())
        return any(self.complete.get(key) != ask.window.end for key in keys)
