"""
From answers to readings and the coverage they prove. Pure: no network, no clock.

Instants of a Level are the evaluated ones. The interval shapes are evaluated at interval ends and dated at their
starts. Everything is on the grid of whole steps since the epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from connectors.prometheus.matrix import Matrix, Samples
from harvester.readings import (
    Counts,
    Coverage,
    Distribution,
    Labels,
    Level,
    Metric,
    Ratio,
    Readings,
    Series,
    Silence,
    Window,
    labels_of,
)

if TYPE_CHECKING:
    from harvester.readings import Booleans, Float64s, Int64s

NOISE = 1e-3
"""A bucket's count may fall below the one inside it by this share of all: extrapolation, not disagreement."""


@dataclass(frozen=True, slots=True)
class Slice:
    """
    What one round of queries is about.

    Attributes:
        low: First reading's instant, milliseconds UTC, a whole step since the epoch.
        high: Where the next slice's first reading would be.
        window: What may be covered; its end may cut the last step of a Level.
    """

    low: int
    high: int
    window: Window


@dataclass(frozen=True, slots=True)
class Answers:
    """
    The server's answers for one slice of one metric, by role.

    Attributes:
        value: The level, numerator, counter or buckets.
        other: The denominator, or the buckets' sum; None where there is none.
        proof: The proof query's answer, or None.
        stale: Of a plain selector: the samples that only repeat an earlier one. None where not asked.
        fresh: Of an expression: for each selector, where it had a fresh sample. Empty where not asked.
        proof_stale: As ``stale``, of the proof.
        proof_fresh: As ``fresh``, of the proof.
    """

    value: Matrix
    other: Matrix | None = None
    proof: Matrix | None = None
    stale: Matrix | None = None
    fresh: tuple[Matrix, ...] = ()
    proof_stale: Matrix | None = None
    proof_fresh: tuple[Matrix, ...] = ()


@dataclass
class Reduced:
    """Readings of one slice, what they prove, and what a person should know of them."""

    readings: list[Readings] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Target:
    """
    Whose readings they become.

    Attributes:
        source: The configured source's name.
        metric: The metric's definition.
        labels: Labels every series gets where the query aggregated them away: the subject's.
        templated: Whether the query was asked for one subject; its proof then speaks of that subject only.
        keep_name: Whether ``__name__`` tells the series apart.
        grouped: Whether the query may yield several series, so that which ones are silent cannot be known.
    """

    source: str
    metric: Metric
    labels: Labels = ()
    templated: bool = False
    keep_name: bool = False
    grouped: bool = False

    def identity(self, labels: Mapping[str, str], *without: str) -> Labels:
        dropped = {*without} if self.keep_name else {"__name__", *without}
        own = {name: value for name, value in labels.items() if name not in dropped and value}
        return labels_of({**dict(self.labels), **own})


class AmbiguousError(ValueError):
    """Two series of one answer would become one."""


def level(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return the samples of every series; a sample proves the step it opens.

    NaN is what a division by nothing gives: it is no sample and proves nothing. A value the server only carried on
    from an earlier sample is none either.
    """
    step, done = target.metric.step, Reduced()
    proven = _proof_instants(target, answers, step)
    shared = _aggregate_fresh(answers.fresh)
    stale = _by_identity(target, answers.stale) if answers.stale is not None else {}
    for labels, one in _by_identity(target, answers.value).items():
        keep = ~np.isnan(one.value) & (one.at >= part.low) & (one.at < part.high)
        repeated = stale.get(labels)
        if repeated is not None:
            keep &= ~_outdated(one.at, ~np.isin(one.at, repeated.at), step)
        keep &= _within_fresh(one.at, shared, step)
        at = one.at[keep]
        if len(at):
            done.readings.append(Level(Series(target.source, target.metric, labels), at, one.value[keep]))
            done.coverage.append(Coverage(target.metric.name, _spans(at, step) & part.window, labels))
    _cover_by_proof(target, done, _spans(proven, step) & part.window)
    return done


def counts(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return the increases of every series.

    Where the proof holds and silence means zero, an interval without an increase is 0; without proof it is unknown.
    """
    metric, step, done = target.metric, target.metric.step, Reduced()
    proven = _proof_intervals(target, answers, step)
    held = proven[(proven >= part.low) & (proven < part.high)]
    found = _by_identity(target, answers.value)
    if not found and len(held) and not target.grouped:
        found = {target.labels: Samples({}, np.empty(0, dtype=np.int64), np.empty(0))}
    for labels, one in found.items():
        at, number = one.at - step, one.value
        good = ~np.isnan(number) & _within_fresh(one.at, _aggregate_fresh(answers.fresh), step)
        at, number = at[good], number[good]
        covered = _spans(_unbroken(at, step), step)
        if metric.silence is Silence.ZERO and len(held):
            silent = held[~np.isin(held, at)]
            order = np.argsort(np.concatenate([at, silent]), kind="stable")
            at = np.concatenate([at, silent])[order]
            number = np.concatenate([number, np.zeros(len(silent))])[order]
        inside = (at >= part.low) & (at < part.high)
        if inside.any():
            done.readings.append(Counts(Series(target.source, metric, labels), at[inside], number[inside]))
        if covered := covered & _whole(part):
            done.coverage.append(Coverage(metric.name, covered, labels))
    _cover_by_proof(target, done, _spans(held, step), found)
    return done


def ratio(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return numerator and denominator of every series of the denominator.

    A numerator that is absent where the denominator is there is 0; without a denominator nothing is known.
    """
    metric, step, done = target.metric, target.metric.step, Reduced()
    proven = _proof_intervals(target, answers, step)
    held = proven[(proven >= part.low) & (proven < part.high)]
    numerators = _by_identity(target, answers.value)
    shared = _aggregate_fresh(answers.fresh)
    denominators = _by_identity(target, answers.other) if answers.other is not None else {}
    for labels, below in denominators.items():
        good = ~np.isnan(below.value) & _within_fresh(below.at, shared, step)
        at, denominator = below.at[good] - step, below.value[good]
        numerator = np.zeros(len(at))
        above = numerators.get(labels)
        if above is not None:
            numerator = _aligned(at, above.at - step, above.value, 0.0)
        known = ~np.isnan(numerator)
        at, numerator, denominator = at[known], numerator[known], denominator[known]
        inside = (at >= part.low) & (at < part.high)
        if inside.any():
            series = Series(target.source, metric, labels)
            done.readings.append(Ratio(series, at[inside], numerator[inside], denominator[inside]))
        if covered := _spans(_unbroken(at, step), step) & _whole(part):
            done.coverage.append(Coverage(metric.name, covered, labels))
    orphans = [labels for labels in numerators if labels not in denominators]
    if orphans:
        done.notes.append(
            f"{metric.name}: {len(orphans)} series of the numerator have no denominator and were left out "
            f"(first {Series(target.source, metric, orphans[0])}); do both keep the same labels?"
        )
    _cover_by_proof(target, done, _spans(held, step))
    return done


def distribution(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return bucket counts per interval, one ``Distribution`` for each bucket layout a series had.

    The source's buckets are cumulative over ``le``; ours are not. Intervals in which two layouts were summed, as
    during a rolling deploy that changes them, belong to neither and are left out.
    """
    metric, step, done = target.metric, target.metric.step, Reduced()
    proven = _proof_intervals(target, answers, step)
    held = proven[(proven >= part.low) & (proven < part.high)]
    shared = _aggregate_fresh(answers.fresh)
    sums = _by_identity(target, answers.other) if answers.other is not None else {}
    families: dict[Labels, dict[float, list[Samples]]] = defaultdict(lambda: defaultdict(list))
    unlabelled = 0
    for one in answers.value.series:
        try:
            bound = float(one.labels["le"])
        except (KeyError, ValueError):
            unlabelled += 1
            continue
        families[target.identity(one.labels, "le")][bound].append(one)
    if unlabelled:
        done.notes.append(f"{metric.name}: {unlabelled} series carry no usable le label; are they histogram buckets?")
    for labels, family in families.items():
        ends, bounds, cumulative = _cumulative(family)
        kept_at: list[Int64s] = []
        for layout, rows in _layouts(bounds, cumulative, done.notes, f"{metric.name}"):
            finite = bounds[layout][:-1]
            counted, sound = _decumulated(cumulative[np.ix_(rows, layout)])
            sound &= _within_fresh(ends[rows], shared, step)
            if not sound.all():
                done.notes.append(
                    f"{metric.name}: {int((~sound).sum())} intervals were left out: their buckets contradict each other"
                    " or rest on old samples"
                )
            at = ends[rows][sound] - step
            kept_at.append(at)
            inside = (at >= part.low) & (at < part.high)
            if not inside.any():
                continue
            at, counted = at[inside], counted[sound][inside]
            total = np.full(len(at), np.nan)
            if labels in sums:
                total = _aligned(at, sums[labels].at - step, sums[labels].value, np.nan)
            unknown = np.full(len(at), np.nan)
            series = Series(target.source, replace(metric, bounds=tuple(finite.tolist())), labels)
            done.readings.append(Distribution(series, at, counted, total, unknown, unknown))
        if kept_at and (
            covered := _spans(_unbroken(np.sort(np.concatenate(kept_at)), step), step) & _whole(part)
        ):
            done.coverage.append(Coverage(metric.name, covered, labels))
    _cover_by_proof(target, done, _spans(held, step))
    return done


REDUCERS: Mapping[str, Callable[[Target, Answers, Slice], Reduced]] = {
    "level": level,
    "count": counts,
    "ratio": ratio,
    "distribution": distribution,
}


# -- buckets ----------------------------------------------------------------------------------------------------------


def _cumulative(family: Mapping[float, Sequence[Samples]]) -> tuple[Int64s, Float64s, Float64s]:
    """Return instants (n,), bounds (k,) rising, and cumulative counts (n, k), NaN where a bucket had no sample."""
    bounds = np.array(sorted(family))
    ends: Int64s = np.unique(np.concatenate([one.at for group in family.values() for one in group]))
    table = np.full((len(ends), len(bounds)), np.nan)
    for column, bound in enumerate(bounds.tolist()):
        for one in family[bound]:  # "1" and "1.0" are the same bound, written by different versions
            rows = np.searchsorted(ends, one.at)
            table[rows, column] = np.where(np.isnan(table[rows, column]), 0, table[rows, column]) + one.value
    return ends, bounds, table


def _layouts(
    bounds: Float64s, table: Float64s, notes: list[str], name: str
) -> list[tuple[Int64s, Int64s]]:
    """Return (columns, rows) of each bucket layout; rows that hold a mixture of others are in none of them."""
    present = ~np.isnan(table)
    patterns, row_of = np.unique(present, axis=0, return_inverse=True)
    row_of = row_of.reshape(-1)
    usable = patterns[:, -1] & (patterns.sum(axis=1) > 1) if np.isinf(bounds[-1]) else np.zeros(len(patterns), bool)
    mixed = 0
    layouts = []
    for index in range(len(patterns)):
        pattern = patterns[index]
        parts = [
            other for position, other in enumerate(patterns)
            if position != index and usable[position] and not (other & ~pattern).any()
        ]
        is_mixture = len(parts) > 1 and bool((np.logical_or.reduce(parts) == pattern).all())
        rows = np.flatnonzero(row_of == index)
        if not usable[index] or is_mixture:
            mixed += len(rows)
            continue
        layouts.append((np.flatnonzero(pattern), rows))
    if mixed:
        notes.append(
            f"{name}: {mixed} intervals were left out: their buckets lack +Inf or mix two layouts, "
            "as while a deploy changes them"
        )
    return layouts


def _decumulated(cumulative: Float64s) -> tuple[Float64s, Booleans]:
    """Return counts per bucket (n, k) and which rows are sound: never falling by more than noise along ``le``."""
    risen = np.maximum.accumulate(np.maximum(cumulative, 0), axis=1)
    sound: Booleans = ((risen - cumulative).max(axis=1) <= NOISE * np.maximum(risen[:, -1], 1e-9)) & np.isfinite(
        risen[:, -1]
    )
    return np.diff(risen, axis=1, prepend=0.0), sound


# -- proof ------------------------------------------------------------------------------------------------------------


def _proof_instants(target: Target, answers: Answers, step: int) -> Int64s:
    """
    Return the instants at which the proof holds: every series of it has a fresh sample that is not 0.

    ``up`` is 0 where a scrape failed: the server was there, the target's numbers were not.
    """
    if answers.proof is None or not answers.proof.series:
        return np.empty(0, dtype=np.int64)
    bare = replace(target, labels=())
    stale = _by_identity(bare, answers.proof_stale) if answers.proof_stale is not None else {}
    shared = _aggregate_fresh(answers.proof_fresh)
    good: list[Int64s] = []
    bad: list[Int64s] = []
    for labels, one in _by_identity(bare, answers.proof).items():
        keep = ~np.isnan(one.value) & (one.value != 0)
        if labels in stale:
            keep &= ~_outdated(one.at, ~np.isin(one.at, stale[labels].at), step)
        keep &= _within_fresh(one.at, shared, step)
        good.append(one.at[keep])
        bad.append(one.at[~keep])
    return np.setdiff1d(np.concatenate(good), np.concatenate(bad))


def _proof_intervals(target: Target, answers: Answers, step: int) -> Int64s:
    """Return the starts of the intervals at both ends of which the proof holds."""
    at = _proof_instants(target, answers, step)
    return at[np.isin(at + step, at)]


def _cover_by_proof(
    target: Target, done: Reduced, window: Window, known: Mapping[Labels, object] | None = None
) -> None:
    """Add what the proof covers: every series of the metric, or those of the one subject it was asked for."""
    if not window:
        return
    if not target.templated:
        done.coverage.append(Coverage(target.metric.name, window, None))
        return
    for labels in dict.fromkeys([target.labels, *(one.series.labels for one in done.readings), *(known or ())]):
        done.coverage.append(Coverage(target.metric.name, window, labels))


def _aggregate_fresh(fresh: Sequence[Matrix]) -> tuple[Int64s, ...] | None:
    """Return, for each selector that appeared at all, where it was fresh; empty if none did; None if not asked."""
    if not fresh:
        return None
    return tuple(one.series[0].at for one in fresh if one.series)


def _within_fresh(at: Int64s, fresh: tuple[Int64s, ...] | None, step: int) -> Booleans:
    """Tell for which instants every selector rested on fresh samples; where none ever appeared, for none."""
    if fresh is None:
        return np.ones(len(at), dtype=np.bool_)
    good = np.full(len(at), bool(fresh))
    for one in fresh:
        good &= ~_outdated(at, np.isin(at, one), step)
    return good


def _outdated(at: Int64s, fresh: Booleans, step: int) -> Booleans:
    """
    Tell which samples are older than the series' own rhythm explains.

    A source scraped every five steps is fresh at every fifth: four repetitions are its rhythm, a fifth is a gap.
    """
    if fresh.all():
        return ~fresh
    times = at[fresh]
    rhythm = max(step, int(np.median(np.diff(times)))) if len(times) > 2 else step
    last = np.maximum.accumulate(np.where(fresh, at, at[0] - step))
    outdated: Booleans = ~fresh & (at - last > rhythm - step)
    return outdated


def _unbroken(at: Int64s, step: int) -> Int64s:
    """
    Return the intervals that have neighbours on both sides.

    The first and the last interval before a gap may hold half their samples: their increase is a reading, but no
    proof of a whole interval. One interval more than wanted is asked for on either side.
    """
    return at[np.isin(at - step, at) & np.isin(at + step, at)]


def _whole(part: Slice) -> Window:
    return Window.of(part.low, part.high) & part.window


# -- columns ----------------------------------------------------------------------------------------------------------


def _by_identity(target: Target, matrix: Matrix) -> dict[Labels, Samples]:
    found: dict[Labels, Samples] = {}
    for one in matrix.series:
        labels = target.identity(one.labels)
        if labels in found:
            raise AmbiguousError(str(Series(target.source, target.metric, labels)))
        found[labels] = one
    return found


def _aligned(wanted: Int64s, at: Int64s, value: Float64s, missing: float) -> Float64s:
    """Return the values at the wanted instants, ``missing`` where there is none; shape of ``wanted``."""
    if not len(at):
        return np.full(len(wanted), missing)
    index = np.minimum(np.searchsorted(at, wanted), len(at) - 1)
    return np.where(at[index] == wanted, value[index], missing)


def _spans(at: Int64s, step: int) -> Window:
    """Return the window that steps from the given instants, which rise, make up."""
    if not len(at):
        return Window()
    cuts = np.flatnonzero(np.diff(at) != step)
    starts, ends = at[np.concatenate([[0], cuts + 1])], at[np.concatenate([cuts, [len(at) - 1]])] + step
    return Window(tuple(zip(starts.tolist(), ends.tolist(), strict=True)))
