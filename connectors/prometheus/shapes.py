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

BORN_NOISE = 0.01
"""What new series stand at may be this share of an interval's number before the interval counts as incomplete."""

NOISE = 1e-3
"""A bucket's count may fall below the one inside it by this share of all: extrapolation, not disagreement."""

_NO_INSTANTS: Int64s = np.empty(0, dtype=np.int64)
_NOTHING = Samples({}, _NO_INSTANTS, np.empty(0))


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
        fresh: For each selector of the value, where it had a sample within the step. Empty where the value ends with
            its samples by itself; None where nothing tells what it rests on, so that it proves nothing.
        proof_fresh: The same for the proof.
        born: Of a plain counter: what the series that are new at each interval's end stand at. None of an expression.
        mixed: Of a plain histogram: where its series do not all have the same buckets. None where not asked.
        seen: Of a count: where the counter had samples at all. None where that cannot be told, so that nothing is 0.
    """

    value: Matrix
    other: Matrix | None = None
    proof: Matrix | None = None
    fresh: tuple[Matrix, ...] | None = ()
    proof_fresh: tuple[Matrix, ...] | None = ()
    born: Matrix | None = None
    seen: Matrix | None = None
    mixed: Matrix | None = None


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
        scale: What a histogram's bounds and sum are multiplied by to be in the metric's unit.
    """

    source: str
    metric: Metric
    labels: Labels = ()
    templated: bool = False
    keep_name: bool = False
    grouped: bool = False
    scale: float = 1.0

    def identity(self, labels: Mapping[str, str], *without: str) -> Labels:
        dropped = {*without} if self.keep_name else {"__name__", *without}
        own = {name: value for name, value in labels.items() if name not in dropped and value}
        return labels_of({**dict(self.labels), **own})


class AmbiguousError(ValueError):
    """Two series of one answer would become one."""


def level(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return the samples of every series; a sample proves the step it opens, and those up to the next in its rhythm.

    NaN is what a division by nothing gives: it is no sample and proves nothing. A value the server only carried on
    from an earlier sample is none either.
    """
    step, done = target.metric.step, Reduced()
    proven = _proof_instants(answers, step)
    shared, covered = _NO_INSTANTS, Window()
    for labels, one in _by_identity(target, answers.value).items():
        keep = ~np.isnan(one.value) & (one.at >= part.low) & (one.at < part.high)
        keep &= _within_fresh(one.at, answers.fresh, step)
        # Series scraped together share one column of instants as long as nothing is taken out.
        at, value = (one.at, one.value) if keep.all() else (one.at[keep], one.value[keep])
        if len(at):
            done.readings.append(Level(Series(target.source, target.metric, labels), at, value))
            if answers.fresh is not None:
                if at is not shared:
                    shared, covered = at, _spans(_filled(at, step), step) & part.window
                done.coverage.append(Coverage(target.metric.name, covered, labels))
    _cover_by_proof(target, done, proven, part.window)
    return done


def counts(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return what each series counted in each interval.

    Counts of a plain selector are differences: one is whole if another follows, since its own last sample may stand
    anywhere in the interval. Those of an expression are increases, and need both neighbours. Where the proof holds,
    silence means zero and the counter had no samples, there was nothing to count: 0.

    What a new series stands at is counted where the proof holds with the same series at both ends: the target was
    watched, and its first events made the series. Elsewhere it may be old, so that an interval in which it is more
    than a hundredth of the count is a reading but no proof.
    """
    metric, step, done = target.metric, target.metric.step, Reduced()
    held, steady = _proof_intervals(answers, step)
    held = held[(held >= part.low) & (held < part.high)]
    born = _by_identity(target, answers.born) if answers.born is not None else {}
    seen = _by_identity(target, answers.seen) if answers.seen is not None else {}
    found = _by_identity(target, answers.value)
    named = dict.fromkeys([*found, *seen, *born])
    if len(held) and answers.seen is not None and not target.grouped:
        named.setdefault(target.labels)
    doubtful: dict[Labels, Int64s] = {}
    starved = 0
    for labels in named:
        one = found.get(labels, _NOTHING)
        good = ~np.isnan(one.value) & _within_fresh(one.at, answers.fresh, step)
        at, number = one.at[good] - step, one.value[good]
        fresh_born = born.get(labels, _NOTHING)
        at, number, missed = _with_born(at, number, fresh_born.at - step, fresh_born.value, steady)
        whole = at[np.isin(at + step, at)] if answers.born is not None else _unbroken(at, step)
        covered = _spans(np.setdiff1d(whole, missed), step) & _whole(part)
        # An expression's own samples are told without labels.
        sampled = [seen[one].at - step for one in {labels, target.labels} if one in seen]
        uncounted = np.setdiff1d(np.concatenate([_NO_INSTANTS, *sampled]), at)
        doubtful[labels] = np.union1d(missed, uncounted)
        if answers.seen is not None:
            starved += len(np.intersect1d(held, uncounted))
            silent = np.setdiff1d(held, np.union1d(at, doubtful[labels]))
            at, number = _merged(at, number, silent, np.zeros(len(silent)))
        inside = (at >= part.low) & (at < part.high)
        if inside.any():
            done.readings.append(Counts(Series(target.source, metric, labels), at[inside], number[inside]))
        if covered and answers.fresh is not None:
            done.coverage.append(Coverage(metric.name, covered, labels))
    if starved > 2:
        done.notes.append(
            f"{metric.name}: {starved} intervals with samples cannot be counted and are unknown; is step_seconds "
            f"({metric.step_seconds}) at least the scrape interval, or twice that for an increase?"
        )
    if answers.seen is not None or metric.silence is not Silence.ZERO:
        _cover_by_proof(target, done, held, _whole(part), doubtful)
    return done


def _with_born(
    at: Int64s, number: Float64s, born_at: Int64s, stood: Float64s, steady: Int64s
) -> tuple[Int64s, Float64s, Int64s]:
    """Return instants and numbers with what new series stand at where that is new, and the intervals that miss some."""
    new = np.isin(born_at, steady)
    missed = born_at[~new & (stood > BORN_NOISE * _aligned(born_at, at, number, 0.0))]
    born_at, stood = born_at[new], stood[new]
    alone = ~np.isin(born_at, at)
    at, number = _merged(at, number + _aligned(at, born_at, stood, 0.0), born_at[alone], stood[alone])
    return at, number, missed


def ratio(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return numerator and denominator of every series of the denominator.

    A numerator that is absent where the denominator is there is 0; without a denominator nothing is known.
    """
    metric, step, done = target.metric, target.metric.step, Reduced()
    held, _ = _proof_intervals(answers, step)
    numerators = _by_identity(target, answers.value)
    denominators = _by_identity(target, answers.other) if answers.other is not None else {}
    for labels, below in denominators.items():
        good = ~np.isnan(below.value) & _within_fresh(below.at, answers.fresh, step)
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
        covered = _spans(_unbroken(at, step), step) & _whole(part)
        if covered and answers.fresh is not None:
            done.coverage.append(Coverage(metric.name, covered, labels))
    orphans = [labels for labels in numerators if labels not in denominators]
    if orphans:
        done.notes.append(
            f"{metric.name}: {len(orphans)} series of the numerator have no denominator and were left out "
            f"(first {Series(target.source, metric, orphans[0])}); do both keep the same labels?"
        )
    _cover_by_proof(target, done, held, _whole(part))
    return done


def distribution(target: Target, answers: Answers, part: Slice) -> Reduced:
    """
    Return bucket counts per interval, one ``Distribution`` for each bucket layout a series had.

    The source's buckets are cumulative over ``le``; ours are not. Intervals in which two layouts were summed, as
    during a rolling deploy that changes them, belong to neither and are left out.
    """
    metric, step, done = target.metric, target.metric.step, Reduced()
    held, _ = _proof_intervals(answers, step)
    two_layouts = _mixtures(target, answers.mixed, step)
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
            sound &= _within_fresh(ends[rows], answers.fresh, step)
            sound &= ~np.isin(ends[rows] - step, two_layouts.get(labels, _NO_INSTANTS))
            if not sound.all():
                done.notes.append(
                    f"{metric.name}: {int((~sound).sum())} intervals were left out: series with different buckets were "
                    "summed, as while a deploy changes them, or their counts contradict each other or are old"
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
            series = Series(target.source, replace(metric, bounds=tuple((finite * target.scale).tolist())), labels)
            done.readings.append(Distribution(series, at, counted, total * target.scale, unknown, unknown))
        whole = _unbroken(np.sort(np.concatenate([_NO_INSTANTS, *kept_at])), step)
        covered = _spans(whole, step) & _whole(part)
        if covered and answers.fresh is not None:
            done.coverage.append(Coverage(metric.name, covered, labels))
    _cover_by_proof(target, done, held, _whole(part))
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
            f"{name}: {mixed} intervals were left out: their buckets lack +Inf or mix two layouts, as while a deploy "
            "changes them"
        )
    return layouts


def _mixtures(target: Target, mixed: Matrix | None, step: int) -> dict[Labels, Int64s]:
    """Return, by series, the starts of the intervals at one end of which its parts had different buckets."""
    found = _by_identity(target, mixed) if mixed is not None else {}
    return {labels: np.union1d(one.at, one.at - step) for labels, one in found.items()}


def _decumulated(cumulative: Float64s) -> tuple[Float64s, Booleans]:
    """Return counts per bucket (n, k) and which rows are sound: never falling by more than noise along ``le``."""
    risen = np.maximum.accumulate(np.maximum(cumulative, 0), axis=1)
    sound: Booleans = ((risen - cumulative).max(axis=1) <= NOISE * np.maximum(risen[:, -1], 1e-9)) & np.isfinite(
        risen[:, -1]
    )
    return np.diff(risen, axis=1, prepend=0.0), sound


# -- proof ------------------------------------------------------------------------------------------------------------


def _proof_instants(answers: Answers, step: int) -> Int64s:
    """
    Return the instants at which the proof holds: every series of it has a fresh sample that is not 0.

    ``up`` is 0 where a scrape failed: the server was there, the target's numbers were not.
    """
    if answers.proof is None or not answers.proof.series or answers.proof_fresh is None:
        return _NO_INSTANTS
    good: list[Int64s] = []
    bad: list[Int64s] = []
    for one in answers.proof.series:
        holds = ~np.isnan(one.value) & (one.value != 0)
        good.append(_filled(one.at[holds & _within_fresh(one.at, answers.proof_fresh, step)], step))
        bad.append(one.at[~holds])
    return np.setdiff1d(np.concatenate(good), np.concatenate(bad))


def _proof_intervals(answers: Answers, step: int) -> tuple[Int64s, Int64s]:
    """
    Return the starts of the intervals throughout which the proof holds, and of those among them with the same series
    of the proof at both ends: nothing that is watched was new.

    A sample that holds at an interval's end may stand anywhere in it, so that one more must follow.
    """
    at = _proof_instants(answers, step)
    held = at[np.isin(at + step, at) & np.isin(at + 2 * step, at)]
    if answers.proof is None or not len(held):
        return held, held
    here = [_filled(one.at, step) for one in answers.proof.series]
    new = np.concatenate([one[~np.isin(one - step, one)] - step for one in here])
    return held, np.setdiff1d(held, new)


def _cover_by_proof(
    target: Target, done: Reduced, proven: Int64s, window: Window, doubtful: Mapping[Labels, Int64s] | None = None
) -> None:
    """Add what the proof covers: every series of the metric, or those of the one subject it was asked for."""
    step, doubtful = target.metric.step, doubtful or {}
    if not target.templated:
        sure = np.setdiff1d(proven, np.concatenate([_NO_INSTANTS, *doubtful.values()]))
        if covered := _spans(sure, step) & window:
            done.coverage.append(Coverage(target.metric.name, covered, None))
        return
    for labels in dict.fromkeys([target.labels, *(one.series.labels for one in done.readings), *doubtful]):
        sure = np.setdiff1d(proven, doubtful.get(labels, _NO_INSTANTS))
        if covered := _spans(sure, step) & window:
            done.coverage.append(Coverage(target.metric.name, covered, labels))


def _within_fresh(at: Int64s, fresh: Sequence[Matrix] | None, step: int) -> Booleans:
    """
    Tell at which instants every selector that ever appeared rested on fresh samples; where none ever did, at none.

    Where that was not asked, or cannot be told, at all of them.
    """
    if not fresh:
        return np.ones(len(at), dtype=np.bool_)
    appeared = [one.series[0].at for one in fresh if one.series]
    good = np.full(len(at), bool(appeared))
    for one in appeared:
        good &= ~_outdated(at, np.isin(at, one), step)
    return good


def _filled(at: Int64s, step: int) -> Int64s:
    """
    Return the instants of the grid that samples account for: their own, and those up to the next in their rhythm.

    A source scraped every five steps is sampled at every fifth and has no gap before the fifth is missing.
    """
    rhythm = _rhythm(at, step)
    if rhythm <= step:
        return at
    return np.unique(at[:, np.newaxis] + np.arange(0, rhythm, step))


def _rhythm(at: Int64s, step: int) -> int:
    """Return the usual distance of samples in whole steps, as milliseconds; one step where too few tell."""
    return max(step, int(np.median(np.diff(at))) // step * step) if len(at) > 2 else step


def _outdated(at: Int64s, fresh: Booleans, step: int) -> Booleans:
    """
    Tell which samples are older than the series' own rhythm explains.

    A source scraped every five steps is fresh at every fifth: four repetitions are its rhythm, a fifth is a gap.
    """
    if fresh.all():
        return ~fresh
    rhythm = _rhythm(at[fresh], step)
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


def _merged(at: Int64s, value: Float64s, more_at: Int64s, more: Float64s) -> tuple[Int64s, Float64s]:
    """Return two disjoint pairs of columns as one, in order of time."""
    together = np.concatenate([at, more_at])
    order = np.argsort(together, kind="stable")
    return together[order], np.concatenate([value, more])[order]


def _spans(at: Int64s, step: int) -> Window:
    """Return the window that steps from the given instants, which rise, make up."""
    if not len(at):
        return Window()
    cuts = np.flatnonzero(np.diff(at) != step)
    starts, ends = at[np.concatenate([[0], cuts + 1])], at[np.concatenate([cuts, [len(at) - 1]])] + step
    return Window(tuple(zip(starts.tolist(), ends.tolist(), strict=True)))
