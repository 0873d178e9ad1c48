"""
The stderr format: ``log_line_prefix``, severity, message; continuation lines are led by a tab.

A prefix becomes one regex that reads a whole message, its continuation lines included, so that a block of log is one
``findall``. It is anchored at line starts: a line inside a literal is led by a tab and is never taken for a message.

Source: https://www.postgresql.org/docs/current/runtime-config-logging.html (log_line_prefix)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from connectors.postgres_slowlog.messages import (
    COMPANIONS,
    DURATION,
    FOREIGN,
    PREPARED,
    Columns,
    microseconds,
    resolve_prepared,
    without_junk,
)
from connectors.postgres_slowlog.times import Clock

USUAL_PREFIXES = (
    "%m [%p] ",
    "%m [%p] %q%u@%d/%a ",
    "%m [%p] %q%u@%d %a ",
    "%m [%p] %q%u@%d ",
    "%m [%p] %q[user=%u,db=%d,app=%a] ",
    "%m [%p] %d %u ",
    "%m [%p]: ",
    "%m [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h ",
    "%m [%p]: [%l-1] db=%d,user=%u ",
    "%m [%p]: user=%u,db=%d,app=%a,client=%h ",
    "%m [%p-%l] %q%u@%d ",
    "%m [%c] ",
    "%m %p ",
    "%m ",
    "< %m > ",
    "< %m %u@%d > ",
    "< %t > ",
    "%t [%p] ",
    "%t [%p]: ",
    "%t [%p]: [%l-1] ",
    "%t [%p]: [%l-1] user=%u,db=%d ",
    "%t [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h ",
    "%t [%p]: [%l-1] db=%d,user=%u ",
    "%t [%p]: user=%u,db=%d,app=%a,client=%h ",
    "%t [%p]: db=%d,user=%u,app=%a,client=%h ",
    "%t [%p] %q%u@%d ",
    "%t [%p-%l] %q%u@%d ",
    "%t [%p]: [%l-1] %q%u@%d ",
    "%t:%r:%u@%d:[%p]:",
    "%m:%r:%u@%d:[%p]:%l:%e:%s:%v:%x:%c:%q%a",
    "%t-%c-",
    "%t ",
    "%n [%p] ",
)
"""The server's default, those of Debian, Red Hat, pgBadger's manual, and of RDS and Azure."""

_TIME = (
    rb"(?P<minute>\d{4}-\d\d-\d\d \d\d:\d\d):(?P<second>\d\d(?:\.\d{1,6})?+) (?P<zone>[A-Za-z]++|[+-]\d\d(?:\d\d)?+)"
)
_NAME = rb"[^\n]{0,63}?"
_ESCAPES = {
    "a": _NAME,
    "u": rb"(?P<user>" + _NAME + rb")",
    "d": rb"(?P<database>[^\n@]{0,63}?)",  # of the two it is roles that hold an @
    "r": rb"[^\s]*?",
    "h": rb"[^\s]*?",
    "L": rb"[^\s]*?",
    "b": _NAME,
    "p": rb"(?P<pid>\d++)",
    "P": rb"\d*+",
    "t": _TIME,
    "m": _TIME,
    "n": rb"(?P<epoch>\d{9,11}\.\d{3})",
    "i": _NAME,
    "e": rb"[0-9A-Z]{5}",
    "c": rb"[0-9a-f]++\.[0-9a-f]++",
    "l": rb"\d++",
    "s": rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?:[A-Za-z]++|[+-]\d\d(?:\d\d)?+)",
    "v": rb"[\d/-]*",
    "x": rb"\d++",
    "Q": rb"-?\d++",
}
# Between a name and the severity there may be nothing at all.
_SEVERITY = rb"(?:LOG|ERROR|FATAL|PANIC|WARNING|NOTICE|INFO|DEBUG[1-5]?|" + b"|".join(sorted(COMPANIONS)) + rb")"
_NAMED = re.compile(rb"\(\?P<(\w+)>")
_ESCAPE = re.compile(r"%(-?\d*)(.)", re.DOTALL)
_ENOUGH = 400
"""Lines, to know a prefix by."""
_COMPANION = re.compile(rb"[^\n]*?\b(?:" + b"|".join(sorted(COMPANIONS)) + rb"):  ")


def prefix_pattern(prefix: str) -> bytes:
    """
    Return the regex of a ``log_line_prefix``, each of its parts named once.

    Raises:
        ValueError: if it holds no time, or an escape the server does not know.
    """
    pieces: list[bytes] = []
    seen: set[bytes] = set()
    closing, at = b"", 0
    for match in _ESCAPE.finditer(prefix):
        pieces.append(re.escape(prefix[at : match.start()].encode()))
        at = match.end()
        width, letter = match.groups()
        if letter == "q":
            pieces.append(b"(?:")
            closing += b")?"
            continue
        if letter != "%" and letter not in _ESCAPES:
            raise ValueError(f"%{letter} is no escape of log_line_prefix")
        piece = b"%" if letter == "%" else _ESCAPES[letter]
        for name in _NAMED.findall(piece):
            if name in seen or (name in (b"minute", b"second", b"zone") and b"epoch" in seen):
                piece = piece.replace(b"(?P<%s>" % name, b"(?:", 1)
            seen.add(name)
        pieces.append(b" *" + piece + b" *" if width else piece)
    rest = prefix[at:]
    if "%" in rest:
        raise ValueError("it ends in a lone %")
    if not seen & {b"minute", b"epoch"}:
        raise ValueError("it holds no time; one of %m, %t and %n is needed")
    return b"".join(pieces) + re.escape(rest.encode()) + closing


@dataclass(frozen=True, slots=True)
class _Places:
    """At which position of a row each part stands; -1 where the prefix has none."""

    minute: int
    second: int
    zone: int
    epoch: int
    pid: int
    user: int
    database: int
    severity: int
    duration: int
    kind: int
    text: int
    junk: int


class Stderr:
    """The stderr format with one prefix."""

    name = "stderr"
    doubled_quotes = False
    runs_on = True

    def __init__(self, prefix: str, clock: Clock, *, detected: bool = False) -> None:
        self.prefix = prefix
        self._detected = detected
        self.says = f'stderr with log_line_prefix "{prefix}"'
        self._clock = clock
        pattern = prefix_pattern(prefix)
        severity = _SEVERITY if prefix[-2:] in ("%a", "%d", "%u", "%i", "%b", "%h", "%r") else rb"[^\s:]++"
        # Some editors and collectors turn the tab into spaces and strip empty lines.
        led = rb"\t" if prefix[:1].isspace() else rb"\t "
        self._leads = (b"\t", b"\n") if prefix[:1].isspace() else (b"\t", b" ", b"\n")
        self._pattern = re.compile(
            rb"^" + pattern + rb"(?P<severity>" + severity + rb"):  (?:[0-9A-Z]{5}: )?+"
            + DURATION.replace(b"%s", rb"[^\n:]")
            + rb"(?P<text>[^\n]*+(?:\n(?:[" + led + rb"][^\n]*+|(?=\n)))*+)|^(?P<junk>[^\n]++)",
            re.MULTILINE,
        )
        index = self._pattern.groupindex
        self._places = _Places(**{one.name: index.get(one.name, 0) - 1 for one in fields(_Places)})
        # Text that a client chooses may pretend to be the rest of the line.
        self._has_names = any(f"%{letter}" in prefix for letter in "aud") or bool(re.search(r"%-?\d+[aud]", prefix))

    def cut(self, data: bytes) -> int:
        end = data.rfind(b"\n")  # only a whole line tells whether it belongs to the message before it
        while end > 0:
            start = data.rfind(b"\n", 0, end) + 1
            if start == 0:
                break
            if not data.startswith(self._leads, start) and not _COMPANION.match(data, start):
                return start
            end = start - 1
        return 0

    def end(self, data: bytes) -> int:
        return data.rfind(b"\n") + 1

    def starts(self, block: bytes) -> list[int]:
        junk = self._places.junk + 1
        return [match.start() for match in self._pattern.finditer(block) if match.start(junk) < 0]

    def score(self, sample: bytes) -> tuple[int, int]:
        """Return how many messages this prefix finds in a sample, and how many of them with a database."""
        rows = self._pattern.findall(sample)
        place, severity = self._places.database, self._places.severity
        messages = sum(1 for row in rows if row[severity])
        return messages, sum(1 for row in rows if row[place]) if place >= 0 else 0

    def read(self, block: bytes) -> Columns:
        rows = self._pattern.findall(block)
        places = self._places
        rows, junk = without_junk(rows, places.junk)
        columns = list(zip(*rows, strict=True)) if rows else [()] * self._pattern.groups

        def column(place: int) -> Sequence[bytes] | None:
            return columns[place] if place >= 0 else None

        if places.minute >= 0:
            at = self._clock.instants(columns[places.minute], columns[places.second], columns[places.zone])
        else:
            at = self._clock.epochs(columns[places.epoch])
        found = Columns(
            at=at,
            duration=microseconds(columns[places.duration]),
            kind=list(columns[places.kind]),
            text=list(columns[places.text]),
            severity=columns[places.severity],
            database=column(places.database),
            user=column(places.user),
            pid=column(places.pid),
            unread=len(junk),
            # Archivers and scripts write to the same file; only what may have been a duration spoils the proof.
            lost=[index for index, line in junk if b"duration:" in line or b"\0" in line],
            first_unread=junk[0][1] if junk else b"",
        )
        if found.lost and self._detected:
            lost = [line for _, line in junk if b"duration:" in line]
            found.other = b"".join(line + b"\n" for line in lost[:_ENOUGH])
        self._judge(found, block)
        return found

    def better(self, columns: Columns, block: bytes) -> Stderr | None:
        """Return a reader that understands more of a block: a quiet beginning does not tell the prefix of sessions."""
        other = detect_prefix(columns.other, self._clock) if columns.other else None
        return other if other is not None and other.score(block)[0] > len(columns) else None

    def _judge(self, found: Columns, block: bytes) -> None:
        """Set apart what only pretends to be a duration, and look up what EXECUTE runs."""
        if b"CONTEXT:  " in block or b"DETAIL:  " + PREPARED in block:
            for index, severity in enumerate(found.severity):
                raised = severity == b"CONTEXT"
                if not raised and not (severity == b"DETAIL" and found.text[index].startswith(PREPARED)):
                    continue
                owner = index - 1
                while owner >= 0 and found.severity[owner] in COMPANIONS:
                    owner -= 1
                if owner >= 0 and raised:
                    found.kind[owner] = FOREIGN
                elif owner >= 0:
                    resolve_prepared(found.text, owner, found.text[index][len(PREPARED) :])
        if self._has_names and block.count(b":  duration: ") > int((found.duration >= 0).sum()):
            for index, text in enumerate(found.text):
                if found.duration[index] >= 0 and b":  duration: " in text.partition(b"\n")[0]:
                    found.kind[index] = FOREIGN


def detect_prefix(sample: bytes, clock: Clock) -> Stderr | None:
    """Return the usual prefix that understands most of a sample, or None."""
    best: tuple[int, int, int] = (0, 0, 0)
    chosen = None
    first_letters = {line[:1] for line in sample.split(b"\n", _ENOUGH)}
    for prefix in USUAL_PREFIXES:
        if prefix[0] != "%" and prefix[:1].encode() not in first_letters:
            continue
        reader = Stderr(prefix, clock, detected=True)
        messages, databases = reader.score(sample)
        # Where names are told the more detailed prefix is right, else the plainer.
        score = (messages, int(databases > 0), len(prefix) if databases else -len(prefix))
        if messages and score > best:
            best = score
            chosen = reader
        if messages and messages == sample.count(b"\n") - sample.count(b"\n\t"):
            break  # it leaves nothing for another to find
    return chosen
