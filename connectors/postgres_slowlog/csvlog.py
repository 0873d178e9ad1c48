"""
The csvlog format: 22 to 26 columns by version, quotes doubled, line ends inside quotes.

One regex reads a whole record; its number of columns is part of it, so that a torn row is no record, and the next one
is found again wherever it begins. Inside a quoted field every quote is doubled, so that nothing in a literal can be
taken for a record.

Source: https://www.postgresql.org/docs/current/runtime-config-logging.html (csvlog)
"""

from __future__ import annotations

import re

from connectors.postgres_slowlog.messages import (
    DURATION,
    FOREIGN,
    Columns,
    microseconds,
    resolve_prepared,
    without_junk,
)
from connectors.postgres_slowlog.times import Clock

_QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"'
_FIELD = rb"(?:" + _QUOTED + rb'|[^,"\n]*+)'
_TEXT = rb'(?:"([^"]*+(?:""[^"]*+)*+)")?+'
_TIME = rb"(\d{4}-\d\d-\d\d \d\d:\d\d):(\d\d\.\d\d\d) ([A-Za-z]++|[+-]\d\d(?:\d\d)?+)"
_HEAD = (
    _TIME + rb"," + _TEXT + rb"," + _TEXT + rb",(\d*+),"  # user, database, pid
    + _FIELD + rb",([\da-f]++\.[\da-f]++),"  # connection, session
    + (_FIELD + rb",") * 5  # session line, command tag, session start, virtual transaction, transaction
    + rb'([^,"\n]++),[0-9A-Z]{5},'  # severity, state
)  # fmt: skip
_RECORD = re.compile(
    _HEAD + rb'(?:"' + DURATION.replace(b"%s", rb'(?:[^\n:"]|"")') + rb'([^"]*+(?:""[^"]*+)*+)")?+,'
    + rb'(?:"prepare: ([^"]*+(?:""[^"]*+)*+)"|' + _FIELD + rb")"  # detail
    + (rb"," + _FIELD) * 3  # hint, internal query and its position
    + rb",(" + _FIELD + rb")"  # context
    + (rb"," + _FIELD) * 3  # query, its position, location
    + rb"(?:," + _FIELD + rb"){0,8}\r?\n"
    + rb"|([^\n]+?)(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d\d\d |\n|\Z)"
)  # fmt: skip
_START = re.compile(_HEAD + rb'"[^"]')
_MINUTE, _SECOND, _ZONE, _USER, _DATABASE, _PID, _SESSION = range(7)
_SEVERITY, _DURATION, _KIND, _MESSAGE, _PREPARED, _CONTEXT, _JUNK = range(7, 14)


class Csvlog:
    """The csvlog format, of any version."""

    name = "csvlog"
    says = "csvlog"
    doubled_quotes = True
    runs_on = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def cut(self, data: bytes) -> int:
        at = data.rfind(b"\n")
        while at >= 0:
            if _START.match(data, at + 1):
                return at + 1
            at = data.rfind(b"\n", 0, at)
        return 0

    def end(self, data: bytes) -> int:
        start = self.cut(data)
        record = _RECORD.match(data, start)
        whole = record is not None and record.start(_JUNK + 1) < 0
        return data.rfind(b"\n") + 1 if whole else start

    def starts(self, block: bytes) -> list[int]:
        return [match.start() for match in _RECORD.finditer(block) if match.start(_JUNK + 1) < 0]

    def better(self, columns: Columns, block: bytes) -> None:  # noqa: ARG002  nothing about it has to be guessed
        return None

    def begins(self, sample: bytes) -> bool:
        """Tell whether a sample begins with a record, though it may not end in it."""
        return _START.match(sample) is not None

    def score(self, sample: bytes) -> int:
        """Return how many records a sample holds."""
        return sum(1 for row in _RECORD.findall(sample) if row[_SEVERITY])

    def read(self, block: bytes) -> Columns:
        rows, junk = without_junk(_RECORD.findall(block), _JUNK)
        columns = list(zip(*rows, strict=True)) if rows else [()] * _RECORD.groups
        found = Columns(
            at=self._clock.instants(columns[_MINUTE], columns[_SECOND], columns[_ZONE]),
            duration=microseconds(columns[_DURATION]),
            kind=list(columns[_KIND]),
            text=list(columns[_MESSAGE]),
            severity=columns[_SEVERITY],
            database=columns[_DATABASE],
            user=columns[_USER],
            pid=columns[_PID],
            unread=len(junk),
            lost=[index for index, _ in junk],
            first_unread=junk[0][1] if junk else b"",
        )
        for index, prepared in enumerate(columns[_PREPARED]):
            if prepared:
                resolve_prepared(found.text, index, prepared)
        for index, context in enumerate(columns[_CONTEXT]):
            if context:  # a duration that a function raised has one
                found.kind[index] = FOREIGN
        return found
