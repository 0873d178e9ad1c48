"""
One change against the store: what is frozen for it, what the differ says of it, which candidates come of it.

This is where stored readings meet the differ. It prints nothing and asks no clock; ``cli`` and ``daemon`` call it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harvester import figures
from harvester.candidates.model import Candidate, Cause, Change, Direction, Expectation
from harvester.context import Sides, caveats
from harvester.differ.result import CLAIMS, Caveat, Comparison, Mode, Power, Verdict
from harvester.errors import UsageError
from harvester.holdings import Holdings, Join
from harvester.readings import DAY, HOUR, STATISTICS, Level, Metric, Series, Shape, Subject, Window, to_datetime

if TYPE_CHECKING:
    from harvester.derive import Held
    from harvester.differ.compare import Evidence
    from harvester.settings import Settings
    from harvester.store import FrozenCopy, Store

BASELINE = 28 * DAY
"""How far back a baseline is frozen."""

HISTORY = 28 * DAY
"""How much is frozen before it, so that the model sees the series' own drift."""

MOST_AFTER = 28
"""An after-window never grows beyond this many days."""

MARGIN = 0.05
"""A value whose interval stays within this share of no change is called unchanged, unless a guard names another."""

FREEZE_PATIENCE = DAY
"""How long a freeze waits for a source that does not answer before it takes what is there."""


# ---------------------------------------------------------------------------------------------------------------------
# What was expected
# ---------------------------------------------------------------------------------------------------------------------


def metrics_of(settings: Settings) -> dict[str, Metric]:
    """Return every metric that is collected or derived, by name; the first source's where two yield one name."""
    return dict(settings.metrics)


def parse_expectation(text: str, settings: Settings, now: int) -> Expectation:
    """
    Return what ``SUBJECT METRIC [STATISTIC] lower|higher|held [by N%]``, named now, resolves to.

    Raises:
        UsageError: if a word resolves to nothing; the hint has the nearest names.
    """
    form = "SUBJECT METRIC [STATISTIC] lower|higher|held [by N%]"
    words = text.split()
    size = None
    if len(words) >= 2 and words[-2] == "by":
        if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)%?", words[-1])):
            raise UsageError("read expectation", repr(text), f"{words[-1]} is not a percentage", hint="by 10%")
        size, words = float(match[1]), words[:-2]
    if not 3 <= len(words) <= 4:
        raise UsageError("read expectation", repr(text), "has too few or too many words", hint=form)
    directions = [str(direction) for direction in Direction]
    subject = _named("subject", words[0], list(settings.subjects), text)
    metrics = metrics_of(settings)
    metric = metrics[_named("metric", words[1], list(metrics), text)]
    direction = Direction(_named("direction", words[-1], directions, text))
    known = STATISTICS[metric.shape]
    statistic = _named("statistic", words[2], list(known), text) if len(words) == 4 else metric.summaries[0]
    return Expectation(subject, metric.name, statistic, direction, size, now)


def _named(kind: str, word: str, known: Sequence[str], text: str) -> str:
    if word in known:
        return word
    near = difflib.get_close_matches(word, known, 3, 0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif known:
        hint = f"known: {', '.join(known[:12])}"
    else:
        hint = f"no {kind} is configured; see harvest init"
    raise UsageError("read expectation", repr(text), f"there is no {kind} {word}", hint=hint)


# ---------------------------------------------------------------------------------------------------------------------
# Changes in the store
# ---------------------------------------------------------------------------------------------------------------------


def changes(store: Store) -> list[Change]:
    """Return every change, in the order they were registered."""
    return [Change.from_json(data) for data in store.list("change")]


def find_change(store: Store, name: str) -> Change:
    """
    Return one change.

    Raises:
        UsageError: if there is none of that name.
    """
    data = store.get("change", name)
    if data is not None:
        return Change.from_json(data)
    names = [one.name for one in changes(store)]
    near = difflib.get_close_matches(name, names, 1)
    known = f"known: {', '.join(names[-8:])}" if names else f"harvest baseline {name}"
    hint = f"did you mean {near[0]}?" if near else known
    raise UsageError("find change", name, "there is none of that name", hint=hint)


def save_change(store: Store, change: Change) -> None:
    """Keep a change; durable when it returns."""
    store.put("change", change.name, change.as_json())


def subjects_of(change: Change, settings: Settings) -> list[Subject]:
    """Return the subjects a change touches; all of them where it names none."""
    return [one for one in settings.subject_list if not change.subjects or one.name in change.subjects]


# ---------------------------------------------------------------------------------------------------------------------
# Freezing
# ---------------------------------------------------------------------------------------------------------------------


def freeze(store: Store, settings: Settings, change: Change, until: int) -> Change:
    """
    Freeze readings of a change's subjects up to an instant, with their history; return the change that says so.

    What is frozen is what is stored: all that derived and renamed series are made of.
    """
    window = Window.of(min(change.baseline_start, until - BASELINE) - HISTORY, until)
    holdings = Holdings(store, settings)
    series = holdings.made_of(one for _, one in holdings.series(subjects_of(change, settings)))
    readings = [one for one in store.read(series, window) if len(one)]
    proven = store.coverages([one.series for one in readings])
    coverage = {one.series: found & window for one, found in zip(readings, proven, strict=True)}
    digest = store.freeze(readings, coverage, window=window, note=f"baseline of {change.name}")
    if digest in change.frozen:
        return change
    frozen = replace(change, frozen=(*change.frozen, digest), frozen_until=until)
    save_change(store, frozen)
    return frozen


def settle(store: Store, settings: Settings, now: int) -> list[Change]:
    """
    Freeze whatever is ready to be frozen and return the changes it was done for.

    A baseline is frozen once every source of ours was collected after it was registered, the segment up to ``shipped``
    once every source was collected after that. A source that fails is waited for a day, then what is there is frozen.
    """
    done = []
    for change in changes(store):
        for target, told in ((change.baseline_end, change.registered), (change.shipped, change.shipped)):
            if target is None or told is None or (change.frozen_until or 0) >= target:
                continue
            waited = now - max(told, change.registered)
            if waited < FREEZE_PATIENCE and not _collected_since(store, settings, target, told):
                continue
            change = freeze(store, settings, change, target)  # noqa: PLW2901  the second freeze builds on the first
            done.append(change)
    return done


def _collected_since(store: Store, settings: Settings, target: int, told: int) -> bool:
    for source in settings.connectors:
        good = [one for one in store.collections(source, limit=50) if one.error is None]
        if not any(one.window.end >= target and (one.started >= told or one.window.end >= told) for one in good):
            return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Comparing
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Windows:
    """
    The before and the after window of a change, and the whole days of the after window.

    ``before`` ends when the change went live; history lies before it.
    """

    before: Window
    after: Window
    days: int


def windows_of(change: Change, now: int) -> Windows:
    """
    Return ``[T - w, T)`` and ``[T, T + w)``, w the whole days since T, at least one and at most 28.

    With one whole day the before-window is two days, the least the differ takes; the after-window stays one. Before a
    day has passed it ends now, so that it is refused as too short and not as unproven.

    Raises:
        UsageError: if the change is not shipped, or its instant lies ahead.
    """
    if change.shipped is None:
        raise UsageError(
            "compare", change.name, "is not shipped yet", hint=f"harvest shipped {change.name} [--at TIME]"
        )
    if change.shipped >= now:
        raise UsageError("compare", change.name, "ships in the future", hint="harvest diff again once a day has passed")
    days = max(1, min((now - change.shipped) // DAY, MOST_AFTER))
    at = change.shipped
    return Windows(Window.of(at - max(days, 2) * DAY, at), Window.of(at, min(at + days * DAY, now)), days)


def compare(
    store: Store,
    settings: Settings,
    change: Change,
    now: int,
    *,
    windows: Windows | None = None,
    metrics: Sequence[str] = (),
) -> list[Comparison]:
    """
    Return what the differ says of every series of a change's subjects, expected effects first.

    The before side comes from the frozen copy, with what was proven when it was frozen, unless the store has come to
    prove more of the window since; the after side comes from the store.
    ``metrics`` narrows the question to metrics of those names.
    """
    from harvester.candidates.propose import mode_of
    from harvester.differ.compare import Onset, diff

    windows = windows or windows_of(change, now)
    at = windows.before.end
    whole = Window.of(windows.before.start - HISTORY, windows.after.end)
    frozen = _frozen_copy(store, change, at)
    holdings = Holdings(store, settings)
    everything = holdings.series(subjects_of(change, settings))
    owned = [(subject, one) for subject, one in everything if not metrics or one.metric.name in metrics]
    named = {name for _, one in owned for name in one.metric.context}
    context = [(subject, one) for subject, one in everything if one.metric.name in named]
    wanted = list(dict.fromkeys(one for _, one in (*owned, *context)))
    held = dict(zip(wanted, holdings.held(wanted, whole), strict=True))
    earlier = held
    if frozen is not None:
        sides = holdings.held(wanted, whole, frozen=frozen, settled=windows.before)
        earlier = dict(zip(wanted, sides, strict=True))
    beside: dict[str, list[Sides]] = {}
    for subject, group in _groups(context).values():
        newest, oldest = _sides(group, held, earlier, windows)
        if newest == oldest:
            beside.setdefault(subject.name, []).append(Sides(newest, earlier[oldest], held[newest]))
    results = []
    for subject, group in _groups(owned).values():
        newest, oldest = _sides(group, held, earlier, windows)
        before, after = earlier[oldest], held[newest]
        metric = newest.metric
        renames = _renames(holdings.joined(newest), whole)
        expected = [one.statistic for one in change.expect if (one.subject, one.metric) == (subject.name, metric.name)]
        for statistic in dict.fromkeys([*expected, *_statistics(metric, bool(expected))]):
            mode = mode_of(change, subject.name, metric.name, statistic)
            guard = _held(change, subject.name, metric.name, statistic)
            found = diff(
                _side(before, windows.before),
                _side(after, windows.after),
                at=at,
                history=before.readings.within(Window.of(whole.start, windows.before.start)),
                statistic=statistic,
                subject=subject.name,
                mode=mode,
                margin=guard if guard is not None else MARGIN,
                # What was named beforehand is one question about one instant; what is found by looking is one of
                # many, and only the plain step's tail is right for those.
                onset=Onset.AVERAGED if statistic in expected else Onset.STEP,
                looks=True,
            )
            doubts = caveats(
                found, Sides(newest, before, after), metric.context, beside.get(subject.name, ()),
                (windows.before, windows.after),
            )  # fmt: skip
            results.append(replace(found, caveats=(*found.caveats, *doubts, *renames)))
    return sorted(results, key=_interest)


def replications(
    store: Store, settings: Settings, change: Change, now: int
) -> list[tuple[Comparison, Comparison]]:
    """
    Return the metrics something was expected of over two disjoint windows since the change, a week or more each.

    Both stand against the same before-window. Empty until two weeks have passed.
    """
    from harvester.differ.compare import LEAST_REPLICATION_DAYS

    days = windows_of(change, now).days // 2
    metrics = tuple(dict.fromkeys(one.metric for one in change.expect))
    if days < LEAST_REPLICATION_DAYS or change.shipped is None or not metrics:
        return []
    at, middle = change.shipped, change.shipped + days * DAY
    before = Window.of(at - days * DAY, at)
    earlier, later = (
        compare(store, settings, change, now, windows=Windows(before, after, days), metrics=metrics)
        for after in (Window.of(at, middle), Window.of(middle, middle + days * DAY))
    )
    by_question = {(one.subject, one.source, one.metric, one.labels, one.statistic): one for one in earlier}
    pairs = [
        (by_question.get((one.subject, one.source, one.metric, one.labels, one.statistic)), one) for one in later
    ]
    return [(first, second) for first, second in pairs if first is not None]


def _held(change: Change, subject: str, metric: str, statistic: str) -> float | None:
    """Return the share a value may move and still count as held, where that was expected with a size."""
    return next(
        (
            one.by_percent / 100
            for one in change.expect
            if (one.subject, one.metric, one.statistic) == (subject, metric, statistic)
            and one.direction is Direction.HELD
            and one.by_percent
        ),
        None,
    )


def _statistics(metric: Metric, expected: bool) -> tuple[str, ...]:
    """Headline only, unless the metric was named beforehand: every further question pays for the search."""
    return metric.summaries if expected else metric.summaries[:1]


def _frozen_copy(store: Store, change: Change, at: int) -> FrozenCopy | None:
    copies = [store.frozen(digest) for digest in reversed(change.frozen)]
    return next((one for one in copies if one.window.end >= at), None)


def _renames(joins: Iterable[Join], whole: Window) -> list[Caveat]:
    """Say what a series was called before, where readings of that time take part."""
    found = []
    for one in joins:
        if one.since is None or not whole.start < one.since:
            continue
        late = f"; {one.overlap} later readings of the old name are left out" if one.overlap else ""
        text = (
            f"until {figures.moment(one.since)} it was {one.alias.old}, joined to {one.alias.new} by harvest metrics "
            f"alias{late}"
        )
        data = (("old", one.alias.old), ("new", one.alias.new), ("since", to_datetime(one.since).isoformat()))
        found.append(Caveat("joined", text, data))
    return found


def _side(held: Held, window: Window) -> Evidence:
    """Return one side of a comparison: what is held inside its window."""
    from harvester.differ.compare import Evidence

    return Evidence(held.readings.within(window), window, held.coverage & window)


def _groups(owned: Sequence[tuple[Subject, Series]]) -> dict[tuple[object, ...], tuple[Subject, list[Series]]]:
    """Group series that differ in their definition only, in the order they were first stored."""
    groups: dict[tuple[object, ...], tuple[Subject, list[Series]]] = {}
    for subject, one in owned:
        key = (subject.name, one.source, one.metric.name, one.labels)
        groups.setdefault(key, (subject, []))[1].append(one)
    return groups


def _sides(
    group: Sequence[Series],
    held: Mapping[Series, Held],
    earlier: Mapping[Series, Held],
    windows: Windows,
) -> tuple[Series, Series]:
    """
    Return the series of the after and of the before side: one definition for both where one has readings on both.

    Where none has, the newest definition with readings stands on each side, and the differ refuses them by name.
    """
    after = [one for one in group if len(held[one].readings.within(windows.after))]
    before = [one for one in group if len(earlier[one].readings.within(windows.before))]
    both = [one for one in after if one in before]
    if both:
        return both[-1], both[-1]
    newest = after[-1] if after else group[-1]
    return newest, before[-1] if before else newest


def _interest(one: Comparison) -> tuple[int, int, float]:
    order = [Verdict.REGRESSED, Verdict.IMPROVED, Verdict.CHANGED, Verdict.EXACT, Verdict.UNCHANGED, Verdict.UNCLEAR]
    rank = order.index(one.verdict) if one.verdict in order else len(order)
    return int(one.mode is not Mode.CONFIRMATORY), rank, one.p if one.p is not None else 1.0


def baseline_power(
    store: Store, settings: Settings, change: Change
) -> list[tuple[Subject, Series, str, float | None, tuple[Power, ...]]]:
    """
    Return, for each expected effect (or each headline where none was named), its present value and what could be seen.

    The value is the window summary over the baseline window; the power is for 7, 14 and 28 more days.
    """
    from harvester.differ.compare import power
    from harvester.differ.summary import summarise

    window = Window.of(change.baseline_start, change.baseline_end)
    wanted = {(one.subject, one.metric): one.statistic for one in change.expect}
    holdings = Holdings(store, settings)
    owned = [
        (subject, one, wanted.get((subject.name, one.metric.name), one.metric.summaries[0]))
        for subject, one in holdings.series(subjects_of(change, settings))
        if not wanted or (subject.name, one.metric.name) in wanted
    ]
    whole = Window.of(window.start - HISTORY, window.end)
    found = []
    held = holdings.held([one for _, one, _ in owned], whole)
    for (subject, series, statistic), one in zip(owned, held, strict=True):
        evidence = _side(one, window)
        if not len(evidence.readings):
            continue
        value = summarise(evidence.readings, evidence.coverage, statistic).value
        history = one.readings.within(Window.of(whole.start, window.start))
        seen = power(evidence, at=window.end, history=history, statistic=statistic)
        found.append((subject, series, statistic, value, seen))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Candidates
# ---------------------------------------------------------------------------------------------------------------------


def candidates(store: Store) -> list[Candidate]:
    """Return every candidate kept, the newest last."""
    return [Candidate.from_json(data) for data in store.list("candidate")]


def propose(
    store: Store, settings: Settings, change: Change, now: int, found: Sequence[Comparison]
) -> list[Candidate]:
    """Turn comparisons of one change into candidates and keep them; return them, the strongest first."""
    from harvester.candidates.propose import propose as propose_from

    kept = candidates(store)
    again = replications(store, settings, change, now) if any(one.mode is Mode.CONFIRMATORY for one in found) else []
    proposed = propose_from(
        change, found, causes=causes(store, change, now), now=now, existing=kept, replications=again
    )
    before = {one.id: one for one in kept}
    for one in proposed:
        if before.get(one.id) != one:
            store.put("candidate", one.id, one.as_json())
    gone = {one.id for one in kept if one.change == change.name and one.status == "proposed"}
    for name in gone - {one.id for one in proposed}:
        store.delete("candidate", name)  # proposed earlier, no longer said by the evidence; its history stays
    return proposed


def refresh(store: Store, settings: Settings, now: int) -> tuple[list[Candidate], list[Comparison]]:
    """Compare and propose for every shipped change; return all candidates and the comparisons that claim nothing."""
    proposed: list[Candidate] = []
    open_questions: list[Comparison] = []
    for change in changes(store):
        if change.shipped is None or change.shipped >= now:
            continue
        found = compare(store, settings, change, now)
        proposed += propose(store, settings, change, now, found)
        expected = {(one.subject, one.metric, one.statistic) for one in change.expect}
        open_questions += [
            one
            for one in found
            if one.verdict not in CLAIMS | {Verdict.EXACT} and (one.subject, one.metric, one.statistic) in expected
        ]
    return proposed, open_questions


def causes(store: Store, change: Change, now: int) -> list[Cause]:
    """Return what else the store knows of near a change: other changes inside its two windows, the nearest first."""
    if change.shipped is None:
        return []
    windows = windows_of(change, now)
    span = Window.of(windows.before.start, windows.after.end)
    near = [
        Cause(f"{one.name} shipped", one.shipped, "change")
        for one in changes(store)
        if one.name != change.name
        and one.shipped is not None
        and span.start <= one.shipped < span.end
        and (not one.subjects or not change.subjects or set(one.subjects) & set(change.subjects))
    ]
    at = change.shipped
    return sorted(near, key=lambda cause: abs(cause.at - at))


# ---------------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------------


def picture(store: Store, settings: Settings, comparison: Comparison, title: str = "") -> str | None:
    """Return the before/after picture of a comparison as SVG, or None where nothing is held of its series."""
    import numpy as np

    from harvester.charts import comparison_svg
    from harvester.differ.summary import summarise

    holdings = Holdings(store, settings)
    series = holdings.find(comparison.source, comparison.metric, comparison.labels, comparison.definition)
    if series is None:
        return None
    window = Window.of(comparison.before.start, comparison.after.end)
    ((readings, coverage),) = holdings.held([series], window)
    if isinstance(readings, Level):
        at, value = readings.at, readings.value
    else:
        length = DAY if series.metric.shape in (Shape.COUNT, Shape.EVENT) else 6 * HOUR
        parts = list(window.split(length))
        values = [summarise(readings.within(one), coverage & one, comparison.statistic).value for one in parts]
        at = np.array([one.start + length // 2 for one in parts], dtype=np.int64)
        value = np.array([np.nan if one is None else one for one in values], dtype=np.float64)
    return comparison_svg(comparison, at, value, comparison.after.start, gaps=window - coverage, title=title)
