"""Weeks in the reader's zone: Mondays, 167 and 169 hours, times that do not exist or exist twice."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.digest.weeks import day_and_time, due_at, due_week, week_before, week_bounds, week_of
from harvester.errors import UsageError
from harvester.readings import HOUR, to_datetime
from harvester.settings import DigestSection

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "America/St_Johns", "Pacific/Auckland",
    "Pacific/Honolulu", "Pacific/Apia", "Pacific/Kiritimati", "Asia/Beirut", "Africa/Cairo", "Australia/Lord_Howe",
]


@given(st.sampled_from(ZONES), st.integers(1_199_750_400, 1_893_456_000))  # 2008 to 2029
@settings(max_examples=300, deadline=None)
def test_every_instant_lies_in_exactly_the_week_it_is_called_by(zone_name: str, seconds: int) -> None:
    zone, at = ZoneInfo(zone_name), datetime.fromtimestamp(seconds, UTC)
    week = week_of(at, zone)
    bounds = week_bounds(week, zone)
    assert bounds.start <= at.timestamp() * 1000 < bounds.end
    assert week_bounds(week_before(week), zone).end == bounds.start
    assert week_of(to_datetime(bounds.start), zone) == week
    assert week_of(to_datetime(bounds.end - 1), zone) == week
    assert to_datetime(bounds.start).astimezone(zone).weekday() == 0


@pytest.mark.parametrize(
    ("zone", "week", "hours"),
    [
        ("Europe/Berlin", "2026-W13", 167),
        ("Europe/Berlin", "2026-W43", 169),
        ("Europe/Berlin", "2026-W48", 168),
        ("Australia/Lord_Howe", "2026-W14", 168.5),  # its clocks change by half an hour
        ("Pacific/Apia", "2011-W52", 144),  # it skipped a Friday to change sides
    ],
)
def test_a_week_in_which_the_clocks_change_has_its_own_length(zone: str, week: str, hours: float) -> None:
    assert week_bounds(week, ZoneInfo(zone)).milliseconds == hours * HOUR


def test_monday_begins_in_auckland_while_it_is_sunday_in_honolulu() -> None:
    sunday_noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert week_of(sunday_noon, ZoneInfo("Pacific/Auckland")) == "2026-W48"
    assert week_of(sunday_noon, ZoneInfo("Pacific/Honolulu")) == "2026-W47"
    assert week_of(sunday_noon - timedelta(hours=1, milliseconds=1), ZoneInfo("Pacific/Auckland")) == "2026-W47"


def test_the_year_of_a_week_is_the_iso_year() -> None:
    assert week_of(datetime(2027, 1, 1, tzinfo=UTC), ZoneInfo("UTC")) == "2026-W53"
    assert week_before("2027-W01") == "2026-W53"


def test_a_digest_is_due_at_the_readers_hour_whatever_the_clocks_do() -> None:
    berlin = DigestSection(zone="Europe/Berlin", at=time(8))
    before, after = due_at("2026-W43", berlin), due_at("2026-W44", berlin)
    assert (before.hour, after.hour) == (8, 8)
    assert (after.astimezone(UTC) - before.astimezone(UTC)) == timedelta(hours=169)


def test_an_hour_the_clocks_skip_is_due_just_after_the_jump() -> None:
    skipped = DigestSection(zone="Europe/Berlin", weekday="sunday", at=time(2, 30))
    assert due_at("2026-W13", skipped).astimezone(UTC) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert f"{due_at('2026-W13', skipped):%H:%M}" == "03:30"


def test_an_hour_that_exists_twice_is_due_the_first_time_and_once() -> None:
    twice = DigestSection(zone="Europe/Berlin", weekday="sunday", at=time(2, 30))
    assert due_at("2026-W43", twice).astimezone(UTC) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    second = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert due_week(second, twice) == "2026-W43"


def test_until_the_hour_has_come_last_weeks_digest_is_the_current_one() -> None:
    monday = DigestSection(zone="Europe/Berlin")
    assert due_week(datetime(2026, 11, 23, 6, 59, tzinfo=UTC), monday) == "2026-W47"
    assert due_week(datetime(2026, 11, 23, 7, 0, tzinfo=UTC), monday) == "2026-W48"
    assert due_week(datetime(2026, 11, 26, 7, 0, tzinfo=UTC), DigestSection(weekday="friday")) == "2026-W47"


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        week_of(datetime(2026, 11, 23), ZoneInfo("UTC"))  # noqa: DTZ001  that is the point


@pytest.mark.parametrize("week", ["2026-W54", "2025-W53", "2026-W00", "W48", "2026-48", "", "2026-W48\n"])
def test_a_week_that_does_not_exist_is_refused(week: str) -> None:
    with pytest.raises(UsageError, match="is no ISO week"):
        week_bounds(week, ZoneInfo("UTC"))


def test_days_are_said_in_the_readers_zone() -> None:
    late = 1_795_476_600_000  # 23:30 UTC on Monday
    assert day_and_time(late, ZoneInfo("UTC")) == "Monday 23 November, 23:30"
    assert day_and_time(late, ZoneInfo("Europe/Berlin")) == "Tuesday 24 November, 00:30"
