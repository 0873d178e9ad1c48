"""What coverage proves of a span of time, and what has no data in it: silence is never read as "no change"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from harvester import figures
from harvester.connector import Connector
from harvester.digest.model import Silent, Watched
from harvester.digest.weeks import day, day_and_time
from harvester.readings import DAY, SECOND, Labels, Window, subject_of

if TYPE_CHECKING:
    from harvester.settings import Settings
    from harvester.store import Store

ENOUGH = 0.99
"""Less proven time than this share is told as a gap."""

FORGET = 28 * DAY
"""A metric that ended longer than this before the span is no longer told: it is gone, not silent."""


@dataclass(frozen=True, slots=True)
class _Source:
    """
    What is known of one source.

    Attributes:
        name: Its configured name.
        grace: How far its coverage lags behind when all is well, milliseconds.
        reach: How far back it asks, milliseconds.
        groups: Proven spans of each series, by what a reader calls its group: a subject's metric.
        covered: The union of all of them.
    """

    name: str
    grace: int
    reach: int
    groups: Mapping[str, Mapping[Labels, Window]]
    covered: Window


def watch(store: Store, settings: Settings, span: Window) -> tuple[Watched, tuple[Silent, ...]]:
    """
    Return what coverage proves of a span that ends now, and what has no data in it, the longest silence first.

    Looked at is every series a subject owns of a metric its source still yields, from its first proven instant on, and
    every metric proven as a whole. A series that ended while others of the same subject and metric go on has ended; it
    is counted, not mourned.
    """
    zone = settings.digest.zoneinfo
    silent: list[Silent] = []
    shares: list[float] = []
    series = ended = 0
    for connector in settings.connectors.values():
        source = _source(store, settings, connector)
        dead = source.covered.end < span.end - source.grace if source.covered else True
        if dead:
            silent.append(_unreached(store, source, span, zone))
        seen = source.covered & span
        if not seen:
            continue
        common = Window.of(seen.start, seen.end) - seen
        if common.milliseconds > (1 - ENOUGH) * (seen.end - seen.start):
            silent.append(_gap(source.name, source.name, common, seen, zone))
        for name, members in source.groups.items():
            together = _union(members.values())
            end = together.end if together else span.start
            if not together or (not dead and end < source.covered.end - source.grace):
                if not together or end > span.start - FORGET:
                    silent.append(_ended(name, source.name, together, zone))
                continue
            missing = Window.of(max(seen.start, together.start), max(seen.start, end)) - together - common
            if missing.milliseconds > (1 - ENOUGH) * (seen.end - seen.start):
                silent.append(_gap(f"{name} ({source.name})", source.name, missing, seen, zone))
            partly: list[tuple[float, Window]] = []
            for one in members.values():
                if not one & span:
                    continue
                series += 1
                if one.end < end - source.grace:
                    ended += 1
                    continue
                whole = Window.of(max(span.start, one.start), one.end)
                shares.append(one.share_of(whole))
                if (whole - one - common - missing).milliseconds > (1 - ENOUGH) * whole.milliseconds:
                    partly.append((shares[-1], whole - one))
            if partly:
                silent.append(_partly(f"{name} ({source.name})", source.name, partly, len(members), zone))
    share = min(shares, default=0.0)
    complete = not silent and bool(shares) and share >= ENOUGH
    sources = len(settings.connectors)
    text = _said(sources, series, ended, share, complete, day_and_time(span.start, zone))
    watched = Watched(sources, series, ended, share, complete, text)
    return watched, tuple(sorted(silent, key=lambda one: (one.until is not None, one.since or 0)))


def _said(sources: int, series: int, ended: int, share: float, complete: bool, since: str) -> str:
    """Return in a sentence what was watched; a share is never rounded up."""
    if not sources:
        return "No source is configured, so nothing was watched."
    if not series:
        return f"Nothing was watched since {since}: no source has proven data of a subject."
    if not complete:
        return f"Not everything was watched since {since}."
    every = f"{_number(series, 'series', 'series')} of {_number(sources, 'source', 'sources')}"
    floor = math.floor(share * 1000) / 10
    proven = "without a gap" if share >= 1 else f"each proven complete for at least {floor:g} % of the time"
    gone = f" ({_number(ended, 'series', 'series')} ended meanwhile)" if ended else ""
    return f"Everything was watched since {since}: {every}, {proven}{gone}."


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _source(store: Store, settings: Settings, connector: Connector) -> _Source:
    metrics = {metric.name: metric for metric in connector.definitions()}
    groups: dict[str, dict[Labels, Window]] = {}
    known = store.series(source=connector.source)
    # What was asked otherwise before is watched no more; a histogram's series of other bounds is the same question.
    questions = {name: metric.question for name, metric in metrics.items()}
    asked = [one for one in known if questions.get(one.metric.name) == one.metric.question]
    for series, proven in zip(asked, store.coverages(asked), strict=True):
        subject = subject_of(series, settings.subject_list)
        if subject is not None:
            name = f"{subject.name} {series.metric.name.replace('_', ' ')}"
            groups.setdefault(name, {})[series.labels] = proven
    appeared = {series.metric.name for series in known}
    for name, metric in metrics.items():
        whole = store.coverage(connector.source, name, None, metric.question) if name not in appeared else Window()
        if whole:  # proven for every series of it, and none ever appeared
            groups[name.replace("_", " ")] = {(): whole}
    longest = max((metric.step for metric in metrics.values()), default=0)
    return _Source(
        connector.source,
        3 * _milliseconds(connector.every) + _milliseconds(connector.asked_again) + 2 * longest,
        _milliseconds(connector.reach),
        groups,
        _union(one for members in groups.values() for one in members.values()),
    )


def _unreached(store: Store, source: _Source, span: Window, zone: ZoneInfo) -> Silent:
    """Tell of a source whose coverage has stopped, or never began."""
    last = next(iter(store.collections(source.name, limit=1)), None)
    if last is None:
        reason = "it was never collected"
    elif last.error is not None:
        reason = _said_by(last.error)
    else:
        reason = "it answers, but proves no data of a subject complete"
        if last.notes:
            reason += f": {_said_by(last.notes[0])}"
    if not source.covered:
        return Silent(source.name, source.name, f"no data yet: {reason}.", None)
    since = source.covered.end
    text = f"no data since {day_and_time(since, zone)}: {reason}."
    until = since + source.reach
    if until <= span.end or last is None or last.error is None:
        return Silent(source.name, source.name, text, since)
    text += f" Not lost yet: it is asked for again until {day(until, zone)}, as far as the source still holds it."
    return Silent(source.name, source.name, text, since, None, until)


def _ended(name: str, source: str, covered: Window, zone: ZoneInfo) -> Silent:
    if not covered:
        return Silent(f"{name} ({source})", source, "no data of it is proven complete yet.", None)
    text = f"no data since {day_and_time(covered.end, zone)}, though {source} answers."
    return Silent(f"{name} ({source})", source, text, covered.end)


def _gap(name: str, source: str, missing: Window, seen: Window, zone: ZoneInfo) -> Silent:
    """Tell of spans inside the time looked at that nothing is known of, the longest by name."""
    start, end = max(missing.spans, key=lambda one: one[1] - one[0])
    text = f"no data from {day_and_time(start, zone)} to {day_and_time(end, zone)}"
    others = len(missing.spans) - 1
    if others:
        text += f" and in {_number(others, 'shorter gap', 'shorter gaps')}"
    share = missing.milliseconds / (seen.end - seen.start)
    return Silent(name, source, f"{text}, {figures.share(share)} of the time.", start, end)


def _partly(
    name: str, source: str, partly: Sequence[tuple[float, Window]], members: int, zone: ZoneInfo
) -> Silent:
    """Tell of series that were missed while others of the same metric were not."""
    share, missing = min(partly, key=lambda one: one[0])
    start, end = max(missing.spans, key=lambda one: one[1] - one[0])
    which = f"{len(partly)} of {members} series {'is' if len(partly) == 1 else 'are'}"
    longest = f"the longest gap from {day_and_time(start, zone)} to {day_and_time(end, zone)}"
    text = f"{which} not proven complete, down to {figures.share(share)} of the time; {longest}."
    return Silent(name, source, text, start, end)


def _union(windows: Iterable[Window]) -> Window:
    return Window(tuple(span for one in windows for span in one.spans))


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * SECOND)


def _said_by(source: str) -> str:
    return figures.plain(source).rstrip(".")
