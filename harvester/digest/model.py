"""The digest as it is stored: what mail, page and ``--json`` show alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from harvester.candidates.model import Candidate
from harvester.differ.result import Comparison
from harvester.readings import to_datetime, to_milliseconds


@dataclass(frozen=True, slots=True)
class Told:
    """
    A candidate as the digest tells it.

    Attributes:
        candidate: Itself; sentence, verdict, grade and every figure are its own.
        short: Its headline in one short line, as the mail's subject has it.
        interval: How sure the size is, in plain words, or ``""``.
        caveat: The strongest doubt, or ``""``.
        command: What accepts it.
        new: Whether it was first proposed since the last digest.
        picture: Before and after as SVG, or ``""`` where nothing is held of the series.
        alt: What the picture shows, in words and numbers.
    """

    candidate: Candidate
    short: str
    interval: str
    caveat: str
    command: str
    new: bool
    picture: str = ""
    alt: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """
    What became of a candidate that was accepted.

    Attributes:
        candidate: Its id.
        change: Its change.
        state: ``held``, ``faded`` where its claim can no longer be made, or ``reversed``.
        text: Both sides as accepted and as compared now, in words.
        latest: Its series as compared now.
    """

    candidate: str
    change: str
    state: str
    text: str
    latest: Comparison


@dataclass(frozen=True, slots=True)
class Open:
    """
    An expected effect that nothing is claimed of.

    Attributes:
        change: The change it was expected of, or ``""``.
        comparison: What the differ says.
        text: The same in words.
        clear_at: When it will be clear if the effect stays as it is, milliseconds UTC, or None.
    """

    change: str
    comparison: Comparison
    text: str
    clear_at: int | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """
    Something without data: never to be read as something without change.

    Attributes:
        name: A source, or a subject's metric.
        source: The source.
        text: Since when or from when to when, why, and what becomes of it.
        since: Start of the silence, milliseconds UTC, or None if there never was any data.
        until: Its end, or None while it lasts.
        recoverable: Until when harvester asks for what is missing again, or None where it does not.
    """

    name: str
    source: str
    text: str
    since: int | None
    until: int | None = None
    recoverable: int | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """
    What coverage proves of the time since the last digest.

    Attributes:
        sources: Configured sources.
        series: Series with proven time in it.
        ended: Those among them that ended while others of the same metric went on.
        share: The smallest share of the time proven for any of those that go on, 0 to 1.
        complete: Whether nothing was missed: every source answers, every metric has data, every share is 99 % or more.
        text: The same in a sentence.
    """

    sources: int
    series: int
    ended: int
    share: float
    complete: bool
    text: str


@dataclass(frozen=True, slots=True)
class Digest:
    """
    One week's digest.

    Attributes:
        week: ``2026-W48``, in the reader's zone.
        zone: The reader's zone.
        since: When the last digest was due, milliseconds UTC.
        generated: When this one was composed, milliseconds UTC.
        subject: The mail's subject: the week's best line.
        summary: The week in one line.
        candidates: At most five, the strongest first.
        more: How many more wait.
        accepted: What became of what was accepted, as long as its after-window still grows.
        unclear: Expected effects that cannot be told yet.
        unchanged: Expected effects that were looked for and are smaller than matters.
        silent: What has no data.
        watched: What coverage proves.
        expected_false: How many of the claims shown are expected to be false by chance, at most; None where none is.
    """

    week: str
    zone: str
    since: int
    generated: int
    subject: str
    summary: str
    candidates: tuple[Told, ...] = ()
    more: int = 0
    accepted: tuple[Accepted, ...] = ()
    unclear: tuple[Open, ...] = ()
    unchanged: tuple[Open, ...] = ()
    silent: tuple[Silent, ...] = ()
    watched: Watched | None = None
    expected_false: float | None = None

    @property
    def zoneinfo(self) -> ZoneInfo:
        """The reader's zone."""
        return ZoneInfo(self.zone)

    def as_json(self) -> dict[str, Any]:
        """Return the stored and published form; times are ISO 8601 UTC."""
        return {
            "week": self.week,
            "zone": self.zone,
            "since": _text(self.since),
            "generated": _text(self.generated),
            "subject": self.subject,
            "summary": self.summary,
            "candidates": [
                {
                    **one.candidate.as_json(),
                    "digest": {
                        "short": one.short,
                        "interval": one.interval,
                        "caveat": one.caveat,
                        "command": one.command,
                        "new": one.new,
                        "picture": one.picture,
                        "alt": one.alt,
                    },
                }
                for one in self.candidates
            ],
            "more": self.more,
            "accepted": [{
                    "candidate": one.candidate,
                    "change": one.change,
                    "state": one.state,
                    "text": one.text,
                    "latest": one.latest.as_json(),
                }
                for one in self.accepted
            ],
            "unclear": [_open_json(one) for one in self.unclear],
            "unchanged": [_open_json(one) for one in self.unchanged],
            "silent": [
                {**asdict(one), **{key: _text(getattr(one, key)) for key in ("since", "until", "recoverable")}}
                for one in self.silent
            ],
            "watched": None if self.watched is None else asdict(self.watched),
            "expected_false": self.expected_false,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Digest:
        """Return the digest whose ``as_json`` is given."""
        plain = {key: data[key] for key in ("week", "zone", "subject", "summary", "more", "expected_false")}
        return cls(
            **plain,
            since=_instant(data["since"]),
            generated=_instant(data["generated"]),
            candidates=tuple(
                Told(candidate=Candidate.from_json(one), **one["digest"]) for one in data["candidates"]
            ),
            accepted=tuple(
                Accepted(**{**one, "latest": Comparison.from_json(one["latest"])}) for one in data["accepted"]
            ),
            unclear=tuple(_open(one) for one in data["unclear"]),
            unchanged=tuple(_open(one) for one in data["unchanged"]),
            silent=tuple(
                Silent(
                    one["name"], one["source"], one["text"],
                    *(None if one[key] is None else _instant(one[key]) for key in ("since", "until", "recoverable")),
                )
                for one in data["silent"]
            ),
            watched=None if data["watched"] is None else Watched(**data["watched"]),
        )


def _text(at: int | None) -> str | None:
    return None if at is None else to_datetime(at).isoformat()


def _instant(text: str) -> int:
    return to_milliseconds(datetime.fromisoformat(text))


def _open_json(one: Open) -> dict[str, Any]:
    return {
        "change": one.change,
        "text": one.text,
        "clear_at": _text(one.clear_at),
        "comparison": one.comparison.as_json(),
    }


def _open(data: Mapping[str, Any]) -> Open:
    clear_at = None if data["clear_at"] is None else _instant(data["clear_at"])
    return Open(data["change"], Comparison.from_json(data["comparison"]), data["text"], clear_at)
