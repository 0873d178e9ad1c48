"""What the differ says: a comparison with its verdict, and every doubt beside it as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harvester.readings import Labels, to_datetime


class Verdict(StrEnum):
    """What may be said of before and after; the first that holds."""

    REFUSED = "refused"
    EXACT = "exact"
    IMPROVED = "improved"
    REGRESSED = "regressed"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    UNCLEAR = "unclear"


CLAIMS = frozenset({Verdict.IMPROVED, Verdict.REGRESSED, Verdict.CHANGED})
"""The verdicts that claim a difference on the strength of inference."""


class Mode(StrEnum):
    """Whether the effect was named beforehand, searched for, or rebuilt from what was still held."""

    CONFIRMATORY = "confirmatory"
    EXPLORATORY = "exploratory"
    RETROSPECTIVE = "retrospective"


@dataclass(frozen=True, slots=True)
class Caveat:
    """
    A doubt that stays with a number into every output.

    Attributes:
        code: Stable, for programs: ``coverage``, ``one_bucket``, ``few_events``.
        text: One sentence for a reader, with what would cure it.
        data: The numbers in the sentence.
    """

    code: str
    text: str
    data: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Side:
    """
    One side of a comparison.

    Attributes:
        value: The declared window summary in base units, plain arithmetic on unrounded values; None if unknown.
        n: How many readings (or occurrences, or trials) it summarises.
        start: First instant, milliseconds UTC.
        end: End, itself outside.
        coverage: Share of the window proven complete, 0 to 1.
        low: Lower edge of the bucket the value was interpolated in, or None.
        high: Upper edge of that bucket, or None.
    """

    value: float | None
    n: float
    start: int
    end: int
    coverage: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """
    The size of a difference.

    Attributes:
        ratio: after / before of the printed values, or None where it means nothing.
        difference: after - before, in the metric's unit.
        percent: 100 * (ratio - 1), or None.
        low: Lower end of the 95 % interval, on the scale named by ``scale``; None where there was no inference.
        high: Upper end.
        estimate: The model's own estimate on that scale.
        scale: ``ratio`` or ``difference``.
    """

    ratio: float | None
    difference: float | None
    percent: float | None
    low: float | None = None
    high: float | None = None
    estimate: float | None = None
    scale: str = "ratio"


@dataclass(frozen=True, slots=True)
class UnderBound:
    """
    The exact figure beside a bucketed quantile: which share of observations lay at or under a bound.

    Attributes:
        bound: One of the histogram's own bounds, in the metric's unit.
        before: Share before, 0 to 1.
        after: Share after.
    """

    bound: float
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Power:
    """What a comparison could have seen: ``percent`` is the smallest change visible with ``days`` of after-window."""

    days: int
    percent: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    What the differ says of one series before and after.

    Attributes:
        id: Stable: a hash of series, statistic and windows.
        subject: Whose series, or ``""``.
        metric: The metric's name.
        labels: The series' labels.
        source: The source's name.
        statistic: The window summary compared: ``p95``, ``mean``, ``count``, ``ratio``.
        unit: Base unit of the values.
        shape: The metric's shape.
        better: Which way is better.
        before: The before side.
        after: The after side.
        effect: The size, or None where refused.
        p: Two-sided p-value, or None where there was no inference.
        verdict: What may be said.
        mode: How the question came about.
        caveats: Doubts, the strongest first.
        provisional: The after-window is between the fixed horizons of 3, 7 and 14 days.
        visible_percent: The smallest change this comparison could have seen, or None.
        days_needed: Days after which the present effect would be clear, or None.
        definition: The definition both sides share.
        under: For a histogram, the exact share of observations under a bound, or None.
    """

    id: str
    subject: str
    metric: str
    labels: Labels
    source: str
    statistic: str
    unit: str
    shape: str
    better: str
    before: Side
    after: Side
    effect: Effect | None
    p: float | None
    verdict: Verdict
    mode: Mode
    caveats: tuple[Caveat, ...] = ()
    provisional: bool = False
    visible_percent: float | None = None
    days_needed: int | None = None
    definition: str = ""
    under: UnderBound | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the published JSON form; times are ISO 8601 UTC."""

        def side(one: Side) -> dict[str, Any]:
            return {
                "value": one.value,
                "n": one.n,
                "start": to_datetime(one.start).isoformat(),
                "end": to_datetime(one.end).isoformat(),
                "coverage": one.coverage,
                "low": one.low,
                "high": one.high,
            }

        effect = self.effect
        return {
            "id": self.id,
            "subject": self.subject,
            "metric": self.metric,
            "labels": dict(self.labels),
            "source": self.source,
            "statistic": self.statistic,
            "unit": self.unit,
            "shape": self.shape,
            "better": self.better,
            "before": side(self.before),
            "after": side(self.after),
            "effect": None
            if effect is None
            else {
                "ratio": effect.ratio,
                "difference": effect.difference,
                "percent": effect.percent,
                "low": effect.low,
                "high": effect.high,
                "estimate": effect.estimate,
                "scale": effect.scale,
            },
            "p": self.p,
            "verdict": str(self.verdict),
            "mode": str(self.mode),
            "caveats": [{"code": c.code, "text": c.text, "data": dict(c.data)} for c in self.caveats],
            "provisional": self.provisional,
            "visible_percent": self.visible_percent,
            "days_needed": self.days_needed,
            "definition": self.definition,
            "under": None
            if self.under is None
            else {"bound": self.under.bound, "before": self.under.before, "after": self.under.after},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Comparison:
        """Return the comparison whose ``as_json`` is given."""
        from datetime import datetime

        from harvester.readings import labels_of, to_milliseconds

        def side(one: dict[str, Any]) -> Side:
            start, end = (to_milliseconds(datetime.fromisoformat(one[key])) for key in ("start", "end"))
            return Side(one["value"], one["n"], start, end, one["coverage"], one.get("low"), one.get("high"))

        plain = {
            name: data[name]
            for name in (
                "id", "subject", "metric", "source", "statistic", "unit", "shape", "better", "p", "provisional",
                "visible_percent", "days_needed", "definition",
            )
        }
        return cls(
            **plain,
            labels=labels_of(data["labels"]),
            before=side(data["before"]),
            after=side(data["after"]),
            effect=Effect(**data["effect"]) if data["effect"] else None,
            under=UnderBound(**data["under"]) if data.get("under") else None,
            verdict=Verdict(data["verdict"]),
            mode=Mode(data["mode"]),
            caveats=tuple(Caveat(c["code"], c["text"], tuple(c.get("data", {}).items())) for c in data["caveats"]),
        )
