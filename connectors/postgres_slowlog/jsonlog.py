"""
The jsonlog format of PostgreSQL 15 and later: a JSON object a line, its keys in any order.

A block is parsed as one array; only where that fails is it looked at line by line. Inside a string every quote is
escaped, so that nothing in a literal can be taken for an object.

Source: https://www.postgresql.org/docs/current/runtime-config-logging.html (jsonlog)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from connectors.postgres_slowlog.messages import (
    DURATION,
    FOREIGN,
    PREPARED,
    Columns,
    microseconds,
    resolve_prepared,
)
from connectors.postgres_slowlog.times import Clock

_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d\d\d (?:[A-Za-z]+|[+-]\d\d(?:\d\d)?)")
_MESSAGE = re.compile(DURATION.replace(b"%s", rb"[^\n:]") + rb"(?P<text>.*)", re.DOTALL)
_OBJECT = b'{"timestamp"'


class Jsonlog:
    """The jsonlog format."""

    name = "jsonlog"
    says = "jsonlog"
    doubled_quotes = False
    runs_on = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def cut(self, data: bytes) -> int:
        return data.rfind(b"\n", 0, max(0, len(data) - 1)) + 1

    def end(self, data: bytes) -> int:
        return data.rfind(b"\n") + 1

    def starts(self, block: bytes) -> list[int]:
        return [start for start, _, one in _objects(block) if one is not None]

    def better(self, columns: Columns, block: bytes) -> None:  # noqa: ARG002  nothing about it has to be guessed
        return None

    def score(self, sample: bytes) -> int:
        """Return how many messages a sample holds."""
        return len(self.starts(sample))

    def read(self, block: bytes) -> Columns:
        messages: list[dict[str, Any]] = []
        junk: list[tuple[int, bytes]] = []
        whole = _all_at_once(block)
        if whole is not None:
            messages = whole
        else:
            for _, line, one in _objects(block):
                if one is None:
                    junk.append((len(messages), line))
                else:
                    messages.append(one)
        stamps = [one["timestamp"].encode() for one in messages]
        parts = [_MESSAGE.fullmatch(_encoded(one.get("message"))) for one in messages]
        groups = [part.groups(b"") if part is not None else (b"", b"", b"") for part in parts]
        found = Columns(
            at=self._clock.instants(
                [one[:16] for one in stamps], [one[17:23] for one in stamps], [one[24:] for one in stamps]
            ),
            duration=microseconds([one[0] for one in groups]),
            kind=[one[1] for one in groups],
            text=[one[2] for one in groups],
            severity=[_encoded(one["error_severity"]) for one in messages],
            database=[_encoded(one.get("dbname")) for one in messages],
            user=[_encoded(one.get("user")) for one in messages],
            pid=[_encoded(one.get("pid")) for one in messages],
            unread=len(junk),
            lost=[index for index, _ in junk],
            first_unread=junk[0][1] if junk else b"",
        )
        for index, one in enumerate(messages):
            if "context" in one:  # a duration that a function raised has one
                found.kind[index] = FOREIGN
            elif "detail" in one and (detail := _encoded(one["detail"])).startswith(PREPARED):
                resolve_prepared(found.text, index, detail[len(PREPARED) :])
        return found


def _encoded(value: object) -> bytes:
    return b"" if value is None else str(value).encode("utf-8", "surrogatepass")


def _is_message(one: object) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("error_severity"), str)
        and isinstance(one.get("timestamp"), str)
        and _STAMP.fullmatch(one["timestamp"]) is not None
    )


def _all_at_once(block: bytes) -> list[dict[str, Any]] | None:
    """Return the objects of a block in which every line is a message, or None."""
    try:
        found = json.loads(b"[" + block.rstrip(b"\n").replace(b"\n", b",\n") + b"]")
    except (ValueError, RecursionError):
        return None
    # A line's end between two values of one object would be mended by the comma put there; their numbers tell.
    return found if len(found) == block.rstrip(b"\n").count(b"\n") + 1 and all(map(_is_message, found)) else None


def _objects(block: bytes) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
    """Yield where each line begins, the line and its message, or None; a message behind a torn one is found too."""
    at = 0
    for line in block.split(b"\n"):
        start = at
        at += len(line) + 1
        if not line.strip():
            continue
        one = _parsed(line)
        while one is None and (behind := line.find(_OBJECT, 1)) > 0:
            yield start, line[:behind], None
            start, line = start + behind, line[behind:]  # noqa: PLW2901  the rest of it
            one = _parsed(line)
        yield start, line, one


def _parsed(line: bytes) -> dict[str, Any] | None:
    for encoding in ("utf-8", "latin-1"):  # a database of another encoding writes its own bytes
        try:
            one: dict[str, Any] = json.loads(line.decode(encoding))
        except UnicodeDecodeError:
            continue
        except (ValueError, RecursionError):
            return None
        return one if _is_message(one) else None
    return None
