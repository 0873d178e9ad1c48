"""What every format has in common: the columns a block of log becomes, and the message of a duration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from harvester.readings import Int64s

DURATION = (
    rb"(?:duration: (?P<duration>\d++\.\d++) ms"
    rb"(?:  (?P<kind>statement|execute fetch from|execute|parse|bind|plan|fastpath function call)%s*+: ?+)?+)?+"
)
"""The head of a duration message; ``%s`` is what a prepared statement's name consists of."""

CALLS = frozenset((b"statement", b"execute"))
FETCH = b"execute fetch from"
PHASES = frozenset((b"parse", b"bind"))
FOREIGN = b"foreign"
"""The kind of a message that only says it is a duration: one raised by a function, or one of two in a line."""

PREPARED = b"prepare: "
"""How the detail begins that tells which statement SQL's EXECUTE runs."""

LOCALISED = re.compile(rb"\S+ ?: ?\d+[.,]\d{3} ms\b")
"""A duration in another language than English: ``durée : 0.1 ms``."""

COMPANIONS = frozenset((b"DETAIL", b"HINT", b"QUERY", b"CONTEXT", b"LOCATION", b"STATEMENT", b"BACKTRACE"))
FAILURES = frozenset((b"ERROR", b"FATAL", b"PANIC"))

_EXECUTE = re.compile(rb"\s*execute\s", re.IGNORECASE)


@dataclass(slots=True)
class Columns:
    """
    The messages of one block, in its order; n of them.

    Attributes:
        at: End of what they report, as logged; int64 milliseconds UTC, shape (n,).
        duration: int64 microseconds, -1 where the message has none; shape (n,).
        kind: ``statement``, ``execute``, ``execute fetch from``, ``parse``, ``bind``, ``plan`` or empty; length n.
        text: The statement of a duration, else the message; as the format writes it; length n.
        severity: ``LOG``, ``ERROR``, ``DETAIL``; length n.
        database: Names as the format writes them, or None where it does not say.
        user: Likewise.
        pid: Likewise.
        unread: How many lines belong to no message.
        lost: Numbers of the messages before which something was lost that may have been a duration.
        first_unread: The first such line, or empty. Never to be shown as it is.
        other: Some of these lines, where another reader might understand them.
    """

    at: Int64s
    duration: Int64s
    kind: list[bytes]
    text: list[bytes]
    severity: Sequence[bytes]
    database: Sequence[bytes] | None = None
    user: Sequence[bytes] | None = None
    pid: Sequence[bytes] | None = None
    unread: int = 0
    lost: list[int] = field(default_factory=list)
    first_unread: bytes = b""
    other: bytes = b""

    def __len__(self) -> int:
        return len(self.at)


class Format(Protocol):
    """
    One way PostgreSQL writes its log.

    Attributes:
        name: ``stderr``, ``csvlog`` or ``jsonlog``.
        says: What was found out about it, for a person: ``stderr with prefix "%m [%p] "``.
        doubled_quotes: Whether quotes in texts are doubled.
        runs_on: Whether only the next message tells that one has ended.
    """

    name: str
    says: str
    doubled_quotes: bool
    runs_on: bool

    def cut(self, data: bytes) -> int:
        """Return the last place after a line's end where a message is known to begin, 0 where there is none."""

    def end(self, data: bytes) -> int:
        """Return where the last message ends that is whole, though nothing follows it yet."""

    def read(self, block: bytes) -> Columns:
        """Return the messages of a block that begins and ends with whole ones."""

    def better(self, columns: Columns, block: bytes) -> Format | None:
        """Return what reads more of a block than ``read`` did, or None."""

    def starts(self, block: bytes) -> list[int]:
        """Return where each message begins that ``read`` returns."""


def microseconds(durations: Sequence[bytes]) -> Int64s:
    """Return ``12.345`` milliseconds as whole microseconds, -1 for empty ones; shape (n,)."""
    import numpy as np

    found = np.array([float(one) if one else -0.001 for one in durations], np.float64)
    return np.rint(found * 1000).astype(np.int64)


def without_junk(
    rows: list[tuple[bytes, ...]], place: int
) -> tuple[list[tuple[bytes, ...]], list[tuple[int, bytes]]]:
    """Part the messages from the lines that are none, which come with the number of the message that follows."""
    messages: list[tuple[bytes, ...]] = []
    junk: list[tuple[int, bytes]] = []
    if not any(map(itemgetter(place), rows)):
        return rows, junk
    for row in rows:
        if row[place]:
            junk.append((len(messages), row[place]))
        else:
            messages.append(row)
    return messages, junk


def resolve_prepared(text: list[bytes], index: int, prepared: bytes) -> None:
    """Put the statement that SQL's EXECUTE runs in its place: the detail says ``prepare: PREPARE name AS query``."""
    head, _, query = prepared.partition(b" AS ")
    if query and head.lower().startswith(b"prepare ") and _EXECUTE.match(text[index]):
        text[index] = query


# ---------------------------------------------------------------------------------------------------------------------
# Lines nobody understood
# ---------------------------------------------------------------------------------------------------------------------

_KNOWN = frozenset(
    re.findall(
        r"\w+",
        "LOG ERROR FATAL PANIC WARNING NOTICE INFO DEBUG DETAIL HINT STATEMENT CONTEXT QUERY LOCATION "
        "duration ms statement execute parse bind plan parameters UTC GMT CET CEST EST EDT PST PDT MSK "
        "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec Mon Tue Wed Thu Fri Sat Sun T Z F P "
        "timestamp textPayload log stderr stdout postgres user db app client host pid message time",
    )
)
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\x20-\x7e]")
_STATEMENT = re.compile(r"""(statement|execute [^:]*|parse [^:]*|bind [^:]*|parameters): |['"$].*""", re.DOTALL)


def shape_of(line: bytes) -> str:
    """
    Return a line's outline without anything it says: digits as 9, words as x unless they are a log's own, no literals.

    >>> shape_of(b"2026-11-22T10:00:00 db7 LOG:  duration: 3.1 ms  statement: SELECT 'secret'")
    '9999-99-99T99:99:99 x9 LOG:  duration: 9.9 ms  statement: ...'
    """
    text = line[:400].decode("ascii", "replace")
    quoted = _STATEMENT.search(text)
    rest = ""
    if quoted:
        text, rest = text[: quoted.start()], f"{quoted[1].split()[0]}: ..." if quoted[1] else "..."

    def outline(word: re.Match[str]) -> str:
        if word[0].isdigit():
            return "9" * len(word[0])
        return word[0] if word[0] in _KNOWN else "x"

    return _WORD.sub(outline, text)[:140] + rest
