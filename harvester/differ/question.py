"""What is compared, what comes of it, and the refusals that need no model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harvester.differ.bins import Bins
from harvester.differ.inference import Estimate
from harvester.differ.model import Onset
from harvester.differ.result import Caveat
from harvester.differ.summary import Summary
from harvester.readings import DAY, Counts, Level, Occurrences, Ratio, Readings, Window

LEAST_COVERAGE = 0.8
LEAST_BEFORE_DAYS = 2.0
LEAST_AFTER_DAYS = 1.0
LEAST_SPANS = 5


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    One side of a comparison.

    Attributes:
        readings: Readings inside the window.
        window: The window asked about.
        coverage: Which part of it is proven complete.
    """

    readings: Readings
    window: Window
    coverage: Window

    @property
    def share(self) -> float:
        """Which share of the window is proven complete, 0 to 1."""
        return self.coverage.share_of(self.window)

    @property
    def days(self) -> float:
        """How many days of the window are proven complete."""
        return (self.coverage & self.window).milliseconds / DAY

    @property
    def extent(self) -> float:
        """How many days lie between the window's first instant and its end."""
        return (self.window.end - self.window.start) / DAY if self.window else 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """
    What is compared.

    Attributes:
        before: The side before the change.
        after: The side from the change on.
        at: T, milliseconds UTC.
        history: Readings of the same series and definition before the baseline, or None.
        statistic: The window summary compared.
        onset: How the effect may set in.
        left: The summary before.
        right: The summary after.
    """

    before: Evidence
    after: Evidence
    at: int
    history: Readings | None
    statistic: str
    onset: Onset
    left: Summary
    right: Summary

    @property
    def sides(self) -> tuple[tuple[str, Evidence, Summary], ...]:
        """Both sides by name."""
        return ("before", self.before, self.left), ("after", self.after, self.right)


@dataclass(frozen=True, slots=True)
class Levels:
    """Six-hour levels of both sides and of the time before them, on one scale."""

    before: Bins
    after: Bins
    history: Bins


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What inference came to.

    Attributes:
        estimate: What decides; None where the two values are stated without inference.
        shown: The same on the scale of the printed values, where that is another.
        levels: What the structural model stood on, if it was asked.
        caveats: Doubts that came up on the way.
    """

    estimate: Estimate | None
    shown: Estimate | None = None
    levels: Levels | None = None
    caveats: tuple[Caveat, ...] = ()


class Refused(Exception):
    """Nothing can be said; ``caveat`` says why and what would settle it."""

    def __init__(self, code: str, text: str, **data: float | str) -> None:
        super().__init__(text)
        self.caveat = Caveat(code, text, tuple(data.items()))


def known(readings: Readings) -> Readings:
    """Return the readings whose numbers are finite; a total, a minimum or a maximum may be unknown."""
    if isinstance(readings, Occurrences):
        return readings
    if isinstance(readings, Level):
        keep = np.isfinite(readings.value)
        return readings if keep.all() else replace(readings, at=readings.at[keep], value=readings.value[keep])
    if isinstance(readings, Counts):
        keep = np.isfinite(readings.number)
        return readings if keep.all() else replace(readings, at=readings.at[keep], number=readings.number[keep])
    if isinstance(readings, Ratio):
        keep = np.isfinite(readings.numerator + readings.denominator)
        numerator, denominator = readings.numerator[keep], readings.denominator[keep]
        return replace(readings, at=readings.at[keep], numerator=numerator, denominator=denominator)
    keep = np.isfinite(readings.counts.sum(axis=1))
    return replace(
        readings,
        at=readings.at[keep],
        counts=readings.counts[keep],
        total=readings.total[keep],
        minimum=readings.minimum[keep],
        maximum=readings.maximum[keep],
    )


def known_side(side: Evidence) -> Evidence:
    """Return a side with its finite readings; intervals whose count is unknown are not covered."""
    readings = known(side.readings)
    if not isinstance(side.readings, Counts) or len(readings) == len(side.readings):
        return Evidence(readings, side.window, side.coverage)
    unknown = side.readings.at[~np.isfinite(side.readings.number)].tolist()
    step = side.readings.series.metric.step
    return Evidence(readings, side.window, side.coverage - Window(tuple((at, at + step) for at in unknown)))


def refuse_evidence(question: Question) -> None:
    """Refuse sides of different definitions, too little coverage, too little time or too few spans."""
    before, after = question.before, question.after
    metric = after.readings.series.metric
    if before.readings.series.metric.definition != metric.definition:
        raise Refused(
            "definitions",
            "the metric was defined differently before and after; collect the earlier window again under the new "
            "definition",
        )
    for name, side, _ in question.sides:
        if side.share < LEAST_COVERAGE:
            raise Refused(
                "coverage",
                f"only {100 * side.share:.0f} % of the {name} window is proven complete, "
                f"{100 * LEAST_COVERAGE:.0f} % is needed",
                side=name,
                share=side.share,
            )
    if not metric.exact:
        refuse_short(before.extent, after.extent, "time")
    for name, side, _ in question.sides:
        spans = sum(1 for span in side.window.spans if side.coverage & Window((span,)))
        if len(side.window.spans) > 1 and spans < LEAST_SPANS:
            raise Refused(
                "few_spans",
                f"the window {name} has {spans} covered spans, {LEAST_SPANS} are needed: each counts as one",
                side=name,
                spans=spans,
            )


def refuse_short(before: float, after: float, what: str) -> None:
    """Refuse where either side has fewer days than the least."""
    if before < LEAST_BEFORE_DAYS:
        text = f"the baseline has {before:.1f} days of {what}, {LEAST_BEFORE_DAYS:.0f} are needed"
        raise Refused("short_before", text, days=before)
    if after < LEAST_AFTER_DAYS:
        text = f"there is {after:.1f} days of {what} since the change, {LEAST_AFTER_DAYS:.0f} is needed"
        raise Refused("short_after", text, days=after)


def long_enough(levels: Levels) -> bool:
    """Tell whether both sides have the least days of usable bins."""
    return levels.before.days >= LEAST_BEFORE_DAYS and levels.after.days >= LEAST_AFTER_DAYS
