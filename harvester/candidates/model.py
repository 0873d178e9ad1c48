"""Changes, what was expected of them, and the candidates that come of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from harvester.differ.result import Caveat, Comparison


class Direction(StrEnum):
    """What an expectation hopes for."""

    LOWER = "lower"
    HIGHER = "higher"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Expectation:
    """
    One expected effect, resolved against what is collected.

    Attributes:
        subject: ``checkout``.
        metric: ``latency``.
        statistic: ``p95``.
        direction: lower, higher or held.
        by_percent: At least by how much, or None.
        named: When it was named, milliseconds UTC; what is named after the change went live was not expected of it.
    """

    subject: str
    metric: str
    statistic: str
    direction: Direction
    by_percent: float | None = None
    named: int = field(default=0, compare=False)

    def __str__(self) -> str:
        size = f" by {self.by_percent:g}%" if self.by_percent is not None else ""
        return f"{self.subject} {self.metric} {self.statistic} {self.direction}{size}"


@dataclass(frozen=True, slots=True)
class Change:
    """
    Something the engineer did.

    Attributes:
        name: Unique: ``checkout-index``.
        subjects: What it touches; empty means every subject.
        registered: When harvester was told, milliseconds UTC.
        baseline_start: Start of the frozen window, milliseconds UTC.
        baseline_end: Its end.
        shipped: Live from, milliseconds UTC, or None while it is not.
        expect: Expected effects; those named before ``shipped`` are confirmatory.
        links: Pull request, commit, deploy.
        title: The action in the user's words, or ``""``.
        because: The reason in the user's words, or ``""``.
        retrospective: The baseline was rebuilt after the fact.
        frozen: Digests of the frozen copies, oldest first.
        frozen_until: End of the window of the newest of them, milliseconds UTC, or None.
    """

    name: str
    subjects: tuple[str, ...]
    registered: int
    baseline_start: int
    baseline_end: int
    shipped: int | None = None
    expect: tuple[Expectation, ...] = ()
    links: tuple[str, ...] = ()
    title: str = ""
    because: str = ""
    retrospective: bool = False
    frozen: tuple[str, ...] = ()
    frozen_until: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Change:
        """Return the change whose ``as_json`` is given."""
        expect = tuple(Expectation(**{**e, "direction": Direction(e["direction"])}) for e in data["expect"])
        tuples = {name: tuple(data[name]) for name in ("subjects", "links", "frozen")}
        return cls(**{**data, **tuples, "expect": expect})


class Status(StrEnum):
    """The life of a candidate."""

    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    DISMISSED = "dismissed"


class Grade(StrEnum):
    """How much a candidate may be leant on, the strongest first."""

    CONFIRMED = "confirmed"  # confirmatory and replicated
    EXPECTED = "expected"  # confirmatory
    EXACT = "exact"  # known exactly
    EXPLORED = "explored"  # found by looking
    OBSERVED = "observed, not proven"


@dataclass(frozen=True, slots=True)
class Cause:
    """Something else that happened near the change and may explain the difference."""

    text: str
    at: int
    kind: str


@dataclass(frozen=True, slots=True)
class Figure:
    """
    A number in a sentence, and where it comes from.

    Attributes:
        text: As it stands in the sentence: ``480 ms``.
        comparison: Id of the comparison it derives from.
        name: What of it: a key of ``word.derive``, as ``before`` or ``percent``.
        value: Unrounded, in base units; None where it is text by nature (an interval, a date).
    """

    text: str
    comparison: str
    name: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    A comparison worth telling.

    Attributes:
        id: Stable: change, subject, metric and statistic of the headline.
        subject: ``checkout``.
        change: The change's name.
        sentence: Built from the numbers by templates.
        verdict: The headline's.
        grade: See ``Grade``.
        status: See ``Status``.
        headline: The strongest comparison.
        support: Others that say the same.
        contradictions: Those that speak against it.
        causes: Competing causes, ranked.
        caveats: The headline's and the candidate's own, the strongest first.
        created: Milliseconds UTC.
        reason: Why it was dismissed, or ``""``.
        figures: Every number of the sentence that was measured.
        edited: The sentence is in the user's words and is not rebuilt.
        latest: The headline's series as last compared, where the headline itself is kept as it was decided.
    """

    id: str
    subject: str
    change: str
    sentence: str
    verdict: str
    grade: Grade
    status: Status
    headline: Comparison
    support: tuple[Comparison, ...] = ()
    contradictions: tuple[Comparison, ...] = ()
    causes: tuple[Cause, ...] = ()
    caveats: tuple[Caveat, ...] = field(default=())
    created: int = 0
    reason: str = ""
    figures: tuple[Figure, ...] = ()
    edited: bool = False
    latest: Comparison | None = None

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The headline, its support and what contradicts it."""
        return (self.headline, *self.support, *self.contradictions)

    def as_json(self) -> dict[str, Any]:
        """Return the published JSON form."""
        return {
            "id": self.id,
            "subject": self.subject,
            "change": self.change,
            "sentence": self.sentence,
            "verdict": self.verdict,
            "grade": str(self.grade),
            "status": str(self.status),
            "headline": self.headline.as_json(),
            "support": [one.as_json() for one in self.support],
            "contradictions": [one.as_json() for one in self.contradictions],
            "causes": [asdict(one) for one in self.causes],
            "caveats": [{"code": c.code, "text": c.text, "data": dict(c.data)} for c in self.caveats],
            "created": self.created,
            "reason": self.reason,
            "figures": [asdict(one) for one in self.figures],
            "edited": self.edited,
            "latest": self.latest.as_json() if self.latest else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Candidate:
        """Return the candidate whose ``as_json`` is given."""
        return cls(
            **{name: data[name] for name in ("id", "subject", "change", "sentence", "verdict", "created", "reason")},
            grade=Grade(data["grade"]),
            status=Status(data["status"]),
            headline=Comparison.from_json(data["headline"]),
            support=tuple(Comparison.from_json(one) for one in data["support"]),
            contradictions=tuple(Comparison.from_json(one) for one in data["contradictions"]),
            causes=tuple(Cause(**one) for one in data["causes"]),
            caveats=tuple(Caveat(c["code"], c["text"], tuple(c["data"].items())) for c in data["caveats"]),
            figures=tuple(Figure(**one) for one in data.get("figures", ())),
            edited=data.get("edited", False),
            latest=Comparison.from_json(data["latest"]) if data.get("latest") else None,
        )
