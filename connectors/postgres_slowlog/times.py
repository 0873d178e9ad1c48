"""
From what a log says of the time to milliseconds UTC.

PostgreSQL writes ``2026-11-22 10:00:00.123 CET``: local time in ``log_timezone`` and an abbreviation or an offset. An
abbreviation that means more than one offset in the world is refused unless the zone is given; the reading machine's own
zone plays no part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from harvester.errors import ConnectorError

if TYPE_CHECKING:
    from harvester.readings import Int64s

_HOURS = {
    b"UTC": 0, b"GMT": 0, b"UCT": 0, b"Z": 0, b"WET": 0, b"WEST": 1, b"CET": 1, b"CEST": 2, b"WAT": 1, b"CAT": 2,
    b"EET": 2, b"EEST": 3, b"SAST": 2, b"EAT": 3, b"MSK": 3, b"PKT": 5, b"WIB": 7, b"AWST": 8, b"HKT": 8, b"JST": 9,
    b"KST": 9, b"ACST": 9.5, b"ACDT": 10.5, b"AEST": 10, b"AEDT": 11, b"NZST": 12, b"NZDT": 13, b"NDT": -2.5,
    b"NST": -3.5, b"ADT": -3, b"EDT": -4, b"EST": -5, b"CDT": -5, b"MDT": -6, b"MST": -7, b"PDT": -7, b"PST": -8,
    b"AKDT": -8, b"AKST": -9, b"HST": -10,
}  # fmt: skip
"""Abbreviations with one meaning in today's zones. Not CST, IST, BST, AST: those have two or three."""

_OFFSET = re.compile(rb"([+-])(\d\d)(\d\d)?")
_MOST_MINUTES = 1 << 16
INVALID = -1
"""The instant of what looks like a time and is none, such as 30 February."""


class Clock:
    """
    Reads a log's times.

    Attributes:
        zone: The server's ``log_timezone`` where it is given: tells an ambiguous abbreviation's offset.
    """

    def __init__(self, source: str, zone: ZoneInfo | None = None) -> None:
        self._source = source
        self.zone = zone
        self._minutes: dict[bytes, _Minutes] = {}

    def instants(self, minute: Sequence[bytes], second: Sequence[bytes], zone: Sequence[bytes]) -> Int64s:
        """
        Return the instants of columns of ``2026-11-22 10:00``, ``59.123`` and ``CET``; shape (n,).

        Raises:
            ConnectorError: if an abbreviation may mean several offsets, or does not occur in the zone given.
        """
        import numpy as np

        if not minute:
            return np.empty(0, np.int64)
        if zone.count(zone[0]) == len(zone):
            found = map(self._of(zone[0]).__getitem__, minute)
        else:
            found = (self._of(name)[at] for name, at in zip(zone, minute, strict=True))  # type: ignore[assignment]
        begun = np.fromiter(found, np.int64, len(minute))
        instants: Int64s = np.where(begun >= 0, begun + _milliseconds(second), INVALID)
        return instants

    def epochs(self, epoch: Sequence[bytes]) -> Int64s:
        """Return the instants of a column of ``1700000000.123``, seconds since 1970; shape (n,)."""
        import numpy as np

        return np.rint(np.fromiter(map(float, epoch), np.float64, len(epoch)) * 1000).astype(np.int64)

    def _of(self, name: bytes) -> _Minutes:
        found = self._minutes.get(name)
        if found is None:
            found = self._minutes[name] = _Minutes(self, name)
        return found

    def utc(self, local: datetime, name: bytes) -> datetime:
        """Return the aware UTC time of a local time and its abbreviation or offset."""
        if match := _OFFSET.fullmatch(name):
            minutes = 60 * int(match[2]) + int(match[3] or 0)
            offset = timedelta(minutes=-minutes if match[1] == b"-" else minutes)
            return local.replace(tzinfo=timezone(offset)).astimezone(UTC)
        shown = name.decode("ascii", "replace")
        if self.zone is not None:
            for fold in (0, 1):
                aware = local.replace(tzinfo=self.zone, fold=fold)
                if aware.tzname() == shown:
                    return aware.astimezone(UTC)
        if name in (b"UTC", b"GMT") or (self.zone is None and name in _HOURS):
            return local.replace(tzinfo=timezone(timedelta(hours=_HOURS[name]))).astimezone(UTC)
        if self.zone is not None:
            raise ConnectorError(
                "read log of", self._source, f"its times are in {shown}, which {self.zone.key} does not have then",
                hint="timezone must be the server's log_timezone",
            )
        raise ConnectorError(
            "read log of", self._source, f"the time zone {shown} of its times may mean several offsets",
            hint='give the server\'s log_timezone, as in timezone = "Asia/Kolkata"',
        )


def _milliseconds(second: Sequence[bytes]) -> Int64s:
    """Return ``59.123`` or ``59`` as milliseconds; shape (n,)."""
    import numpy as np

    text = np.array(second)
    digits = text.view(np.uint8).reshape(len(text), -1).astype(np.int64) - ord("0")
    if digits.shape[1] == len(b"59.123") and int(digits[:, -1].min()) >= 0:
        found: Int64s = digits @ np.array([10_000, 1_000, 0, 100, 10, 1])
        return found
    return np.rint(text.astype(np.float64) * 1000).astype(np.int64)


class _Minutes(dict[bytes, int]):
    """From ``2026-11-22 10:00`` in one zone to milliseconds UTC."""

    def __init__(self, clock: Clock, name: bytes) -> None:
        super().__init__()
        self._clock = clock
        self._name = name

    def __missing__(self, minute: bytes) -> int:
        text = minute.decode("ascii")
        try:
            local = datetime.strptime(text, "%Y-%m-%d %H:%M")  # noqa: DTZ007  its zone is the next word
        except ValueError:
            return INVALID
        if len(self) >= _MOST_MINUTES:
            self.clear()
        found = self[minute] = round(self._clock.utc(local, self._name).timestamp()) * 1000
        return found
