"""
Weeks as the reader's calendar has them.

A week is an ISO week of the reader's zone, written ``2026-W48``. It begins on Monday at midnight and has 167 or 169
hours where the clocks change. A local time that exists twice is its first instant; one that does not exist is as long
after the jump as it would have been.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from harvester.errors import UsageError
from harvester.readings import Window, to_datetime, to_milliseconds

if TYPE_CHECKING:
    from harvester.settings import DigestSection

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def week_of(now: datetime, zone: ZoneInfo) -> str:
    """
    Return the ISO week an instant falls in, in the reader's zone.

    >>> week_of(datetime(2026, 11, 22, 12, 0, tzinfo=UTC), ZoneInfo("Pacific/Auckland"))
    '2026-W48'
    """
    year, week, _ = _local(now, zone).isocalendar()
    return f"{year}-W{week:02d}"


def week_bounds(week: str, zone: ZoneInfo) -> Window:
    """
    Return the week from Monday's midnight to the next Monday's, in the reader's zone.

    Raises:
        UsageError: if there is no such week.
    """
    monday = _monday(week)
    start, end = (_instant(day, time(), zone) for day in (monday, monday + timedelta(days=7)))
    return Window.of(to_milliseconds(start), to_milliseconds(end))


def due_at(week: str, digest: DigestSection) -> datetime:
    """
    Return when the digest of a week is due, in the reader's zone.

    Raises:
        UsageError: if there is no such week.
    """
    day = _monday(week) + timedelta(days=WEEKDAYS.index(digest.weekday))
    return _instant(day, digest.at, digest.zoneinfo)


def due_week(now: datetime, digest: DigestSection) -> str:
    """Return the week whose digest was due last: until the hour has come, last week's digest is the current one."""
    week = week_of(now, digest.zoneinfo)
    return week if now >= due_at(week, digest) else week_before(week)


def week_before(week: str) -> str:
    """
    Return the week before.

    >>> week_before("2027-W01")
    '2026-W53'
    """
    year, number, _ = (_monday(week) - timedelta(days=7)).isocalendar()
    return f"{year}-W{number:02d}"


def day_and_time(at: int, zone: ZoneInfo) -> str:
    """
    Return an instant, in milliseconds, as a reader of the week says it.

    >>> day_and_time(1_795_503_900_000, ZoneInfo("Europe/Berlin"))
    'Tuesday 24 November, 08:05'
    """
    return f"{day(at, zone)}, {_local(to_datetime(at), zone):%H:%M}"


def day(at: int, zone: ZoneInfo) -> str:
    """
    Return the day of an instant, in milliseconds, as a reader of the week says it.

    >>> day(1_795_503_900_000, ZoneInfo("Europe/Berlin"))
    'Tuesday 24 November'
    """
    local = _local(to_datetime(at), zone)
    return f"{WEEKDAYS[local.weekday()].capitalize()} {local.day} {_MONTHS[local.month - 1]}"


_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)


def _local(at: datetime, zone: ZoneInfo) -> datetime:
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone")
    return at.astimezone(zone)


def _monday(week: str) -> date:
    match = re.fullmatch(r"(\d{4})-W(\d{2})", week)
    try:
        if not match:
            raise ValueError(week)
        return date.fromisocalendar(int(match[1]), int(match[2]), 1)
    except ValueError as e:
        raise UsageError("find week", repr(week), "is no ISO week", hint="write it as 2026-W48") from e


def _instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """Return the instant of a local time; through UTC, so that a time the clocks skip becomes one they show."""
    return datetime.combine(day, at.replace(tzinfo=None, fold=0), zone).astimezone(UTC).astimezone(zone)
