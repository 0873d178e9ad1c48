"""
From the comparisons of one change to candidates: what may be claimed, which is strongest, what speaks against it.

Effects named beforehand come first. Everything else pays for the search: Benjamini and Hochberg (1995) over all
comparisons of the change that nobody named. One subject gives one candidate; what moved with the headline supports it,
what moved the other way contradicts it and is told in the same sentence. What somebody decided stays as decided.

Pure: no store, no settings, no clock.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from harvester import figures
from harvester.candidates import word
from harvester.candidates.model import Candidate, Cause, Change, Direction, Expectation, Grade, Status
from harvester.differ.result import CLAIMS, Caveat, Comparison, Mode, Verdict

_WEEK = 7 * 86_400_000

_LOAD_MOVED = 20.0
"""Percent by which the load has to differ before it is a doubt of its own, whatever its verdict."""

# The strongest doubt first; what is not listed stands in the middle, in the differ's order.
_DOUBTS = (
    "later", "disagreement", "errors_rose", "outage_in_baseline", "count_with_load", "cause", "traffic_moved",
    "load_moved", "joined", "regression_to_the_mean",
    "gaps", "above_last_bucket", "expected_not_seen", "short", "retrospective", "provisional", "drift_unseen", "wide",
    "sparse", "extremes", "first_bucket", "searched", "mean_alone", "own_figure",
)  # fmt: skip
_REMARKS = ("open", "days_as_units", "no_scale", "single_dimension", "read_once")


def mode_of(change: Change, subject: str, metric: str, statistic: str) -> Mode:
    """
    Return how a comparison came about.

    Confirmatory: the effect was named before the change went live. Retrospective: baseline or expectation were put
    together afterwards, when the outcome could be known. Exploratory: nobody named it.
    """
    if change.retrospective:
        return Mode.RETROSPECTIVE
    asked = (subject, metric, statistic)
    named = [one.named for one in change.expect if (one.subject, one.metric, one.statistic) == asked]
    if not named:
        return Mode.EXPLORATORY
    told = max(change.registered, min(named))
    return Mode.CONFIRMATORY if change.shipped is None or told <= change.shipped else Mode.RETROSPECTIVE


def candidate_id(change: str, headline: Comparison) -> str:
    """Return the id of the candidate with this headline: the same at every look, whatever the windows."""
    said = (change, headline.subject, headline.source, headline.metric, headline.labels, headline.statistic)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:8]


def propose(
    change: Change,
    found: Sequence[Comparison],
    *,
    causes: Sequence[Cause] = (),
    now: int,
    existing: Sequence[Candidate] = (),
    replications: Sequence[tuple[Comparison, Comparison]] = (),
) -> list[Candidate]:
    """
    Return the candidates of one change, the strongest first, those already decided among them.

    Args:
        change: The change.
        found: Its comparisons, of all its subjects.
        causes: What else happened near it, the nearest first.
        now: Milliseconds UTC.
        existing: What is kept already. An accepted or edited candidate keeps its sentence, its figures and its
            headline for ever; how its series compares now stands beside it as ``latest``. A dismissed one is not
            returned, and neither of the two is ever proposed again under another headline.
        replications: The same series over two disjoint windows, the earlier one first, which may confirm a claim.
    """
    mine = [one for one in existing if one.change == change.name]
    told = _tell(change, found, replications)
    candidates: list[Candidate] = []
    for subject in dict.fromkeys([*(one.subject for one in mine), *(one.subject for one in found)]):
        kept = [one for one in mine if one.subject == subject]
        decided = [one for one in kept if one.status is not Status.PROPOSED or one.edited]
        group = [one for one in told if one.comparison.subject == subject]
        seen = [_read_again(one, found, causes) for one in decided if one.status is not Status.DISMISSED]
        candidates += seen
        settled = {_topic(one) for candidate in decided for one in candidate.comparisons}
        fresh = [one for one in group if _topic(one.comparison) not in settled]
        if decided:
            fresh = [one for one in fresh if one.kind is _Kind.CLAIM]
        made = _make(change, group, fresh, found, causes, now, [one for one in kept if one not in decided])
        if made is not None:
            candidates.append(made)
    order = {one.comparison.id: one.rank for one in told}
    return sorted(candidates, key=lambda one: order.get((one.latest or one.headline).id, _LAST))


# ---------------------------------------------------------------------------------------------------------------------
# What each comparison may say
# ---------------------------------------------------------------------------------------------------------------------


class _Kind(IntEnum):
    """What may be made of a comparison, the strongest first."""

    CLAIM = 0
    HELD = 1
    OBSERVED = 2
    DOUBT = 3  # a worsening that did not survive the search: never a claim, always a contradiction
    NOTHING = 4


Rank = tuple[int, int, int, int, float, float, str, str, str]
_LAST: Rank = (9, 9, 9, 9, 0.0, 0.0, "", "", "")


@dataclass(frozen=True, slots=True)
class _Told:
    """
    A comparison, weighed.

    Attributes:
        kind: What may be made of it.
        good: 1 if it speaks for the change, -1 against it, 0 neither.
        replicated: A later window confirms it.
        expected: What was expected of it, or None.
        searched: How many comparisons it was found among; 0 where it was named beforehand.
    """

    comparison: Comparison
    kind: _Kind
    good: int
    replicated: bool
    expected: Expectation | None
    searched: int

    @property
    def rank(self) -> Rank:
        """The strongest first: what was named beforehand, what has a good and a bad side, what is large."""
        one = self.comparison
        p = 1.0 if one.p is None else one.p
        where = repr(one.labels)
        neutral = int(self.good == 0)
        named = int(self.expected is None)
        searched = int(one.mode is not Mode.CONFIRMATORY)
        return (self.kind, searched, named, neutral, -_size(one), p, one.metric, one.statistic, where)

    @property
    def tier(self) -> tuple[int, ...]:
        """What has to be equal for a headline to stay when another series becomes a little stronger."""
        return self.rank[:4]

    @property
    def grade(self) -> Grade:
        one = self.comparison
        if self.kind is _Kind.OBSERVED:
            return Grade.OBSERVED
        if one.verdict is Verdict.EXACT:
            return Grade.EXACT
        if one.mode is not Mode.CONFIRMATORY:
            return Grade.EXPLORED
        return Grade.CONFIRMED if self.replicated else Grade.EXPECTED


def _tell(
    change: Change, found: Sequence[Comparison], replications: Sequence[tuple[Comparison, Comparison]]
) -> list[_Told]:
    from harvester.differ.compare import benjamini_hochberg

    searched = [one for one in found if one.mode is not Mode.CONFIRMATORY]
    surviving, _ = benjamini_hochberg(searched)
    survivors = {one.id for one, survives in zip(searched, surviving, strict=True) if survives}
    tested = sum(one.p is not None for one in searched)
    told = []
    for one in found:
        expected = word.expectation_of(change, one)
        pays = one.mode is not Mode.CONFIRMATORY
        good = _good(one, expected)
        kind = _kind(one, expected, good, not pays or one.id in survivors)
        if kind not in (_Kind.CLAIM, _Kind.DOUBT):
            good = 0  # a wobble inside the noise speaks for nothing
        again = kind in (_Kind.CLAIM, _Kind.HELD) and any(_replicates(one, *pair) for pair in replications)
        told.append(_Told(one, kind, good, again, expected, tested if pays and one.p is not None else 0))
    return told


def _kind(one: Comparison, expected: Expectation | None, good: int, survives: bool) -> _Kind:
    moved = word.rose(one)
    if one.verdict is Verdict.REFUSED or one.before.value is None or one.after.value is None:
        return _Kind.NOTHING
    if one.verdict is Verdict.EXACT and moved is not None:
        return _Kind.CLAIM
    if one.verdict in CLAIMS and _agrees(one):
        if survives:
            return _Kind.CLAIM
        return _Kind.DOUBT if good < 0 else _Kind.NOTHING
    if expected is None:
        return _Kind.NOTHING
    if expected.direction is Direction.HELD and one.verdict in (Verdict.UNCHANGED, Verdict.EXACT):
        return _Kind.HELD
    # Too early to say that nothing was seen: a week has to pass, unless it is known that nothing moved.
    if one.verdict is Verdict.UNCLEAR and one.after.end - one.after.start < _WEEK:
        return _Kind.NOTHING
    return _Kind.OBSERVED


def _agrees(one: Comparison) -> bool:
    """Tell whether the printed values moved the way the model says; a sentence needs both."""
    effect, moved = one.effect, word.rose(one)
    if effect is None or moved is None:
        return False
    none = 1.0 if effect.scale == "ratio" else 0.0
    if moved:
        return effect.low is not None and effect.low > none
    return effect.high is not None and effect.high < none


def _good(one: Comparison, expected: Expectation | None) -> int:
    moved = word.rose(one)
    if moved is None:
        return 0
    if not word.is_neutral(one):
        return 1 if moved == (one.better == "higher") else -1
    if expected is None:
        return 0
    return 1 if expected.direction is (Direction.HIGHER if moved else Direction.LOWER) else -1


def _size(one: Comparison) -> float:
    """Return the size that is sure: the log ratio at the end of the interval nearest to no change."""
    effect = one.effect
    if effect is None:
        return 0.0
    if one.verdict in CLAIMS and effect.scale == "ratio":
        end = effect.low if word.rose(one) else effect.high
        if end is not None and end > 0:
            return abs(math.log(end))
    return abs(math.log(effect.ratio)) if effect.ratio else 0.0


def _replicates(one: Comparison, earlier: Comparison, later: Comparison) -> bool:
    """Tell whether what was said of an earlier window, and is said of the whole, holds in a later one."""
    from harvester.differ.compare import replicated

    if _key(one) != _key(earlier) or one.verdict is not earlier.verdict or not replicated(earlier, later):
        return False
    return one.verdict not in CLAIMS or (_agrees(earlier) and _agrees(later))


def _key(one: Comparison) -> tuple[object, ...]:
    return one.subject, one.source, one.metric, one.labels, one.statistic


def _topic(one: Comparison) -> tuple[object, ...]:
    """Return what a reader takes for one fact: p95 and p99 of a series are one, how many were observed another."""
    return one.subject, one.source, one.metric, one.labels, one.statistic in ("count", "total")


# ---------------------------------------------------------------------------------------------------------------------
# One candidate
# ---------------------------------------------------------------------------------------------------------------------


def _make(
    change: Change,
    group: Sequence[_Told],
    fresh: Sequence[_Told],
    found: Sequence[Comparison],
    causes: Sequence[Cause],
    now: int,
    kept: Sequence[Candidate],
) -> Candidate | None:
    # That more work arrived is a condition of the result, not a result, unless it was hoped for.
    worth = [one for one in fresh if not (word.is_load(one.comparison) and one.expected is None)]
    ranked = sorted((one for one in worth if one.kind <= _Kind.OBSERVED), key=lambda one: one.rank)
    if not ranked:
        return None
    known = {one.id: one for one in kept}
    head = next(
        (one for one in ranked if one.tier == ranked[0].tier and candidate_id(change.name, one.comparison) in known),
        ranked[0],
    )
    others = sorted((one for one in group if one is not head), key=lambda one: (one.expected is None, one.rank))
    open_to = {_topic(one.comparison) for one in fresh}
    support = [
        one.comparison
        for one in others
        if one.kind in (_Kind.CLAIM, _Kind.HELD)
        and not _opposed(head, one)
        and (_topic(one.comparison) in open_to or one.good == 0)
    ]
    contradictions = [
        one.comparison for one in others if one.kind in (_Kind.CLAIM, _Kind.DOUBT) and _opposed(head, one)
    ]
    name = candidate_id(change.name, head.comparison)
    worded = word.sentence(change, head.comparison, support, contradictions, grade=head.grade)
    return Candidate(
        id=name,
        subject=head.comparison.subject,
        change=change.name,
        sentence=worded.text,
        verdict=str(head.comparison.verdict),
        grade=head.grade,
        status=Status.PROPOSED,
        headline=head.comparison,
        support=tuple(support),
        contradictions=tuple(contradictions),
        causes=tuple(causes),
        caveats=_caveats(change, head, group, found, causes),
        created=known[name].created if name in known else now,
        figures=worded.figures,
    )


def _opposed(head: _Told, other: _Told) -> bool:
    """Tell whether another series speaks against what the headline says."""
    return other.good > 0 if head.good < 0 else other.good < 0


# ---------------------------------------------------------------------------------------------------------------------
# What was decided
# ---------------------------------------------------------------------------------------------------------------------


def _read_again(kept: Candidate, found: Iterable[Comparison], causes: Sequence[Cause]) -> Candidate:
    """
    Return a decided candidate with how its series compares now beside it.

    Sentence, figures, headline, support and grade stay. Doubts and competing causes may only be added to.
    """
    key = _key(kept.headline)
    latest = next((one for one in found if _key(one) == key), None)
    if latest is None or latest == kept.headline:
        latest = kept.latest if latest is None else None
    doubts = tuple(one for one in kept.caveats if one.code != "later")
    if latest is not None and (
        latest.verdict is not kept.headline.verdict or word.rose(latest) != word.rose(kept.headline)
    ):
        said = word.derive(latest)
        sides = f"{said['before'].text} before, {said['after'].text} after" if {"before", "after"} <= set(said) else "?"
        text = f"compared again over {said['days_after'].text} it is {latest.verdict}: {sides}"
        doubts = (Caveat("later", text), *doubts)
    known = {(one.kind, one.text, one.at) for one in kept.causes}
    added = tuple(one for one in causes if (one.kind, one.text, one.at) not in known)
    return replace(kept, latest=latest, caveats=doubts, causes=(*kept.causes, *added))


# ---------------------------------------------------------------------------------------------------------------------
# Doubts
# ---------------------------------------------------------------------------------------------------------------------


def _caveats(
    change: Change,
    head: _Told,
    group: Sequence[_Told],
    found: Sequence[Comparison],
    causes: Sequence[Cause],
) -> tuple[Caveat, ...]:
    one = head.comparison
    claims = head.kind in (_Kind.CLAIM, _Kind.HELD)
    doubts = list(one.caveats)
    if causes and claims:
        doubts.append(_cause_caveat(causes))
    beside = [other for other in group if other is not head and other.comparison.verdict is not Verdict.REFUSED]
    doubts += _load_caveats(one, [other.comparison for other in beside if word.is_load(other.comparison)], found)
    if one.mode is Mode.RETROSPECTIVE or change.retrospective:
        doubts.append(
            Caveat("retrospective", "the baseline was put together after the change, from what was still held")
        )
    if head.searched and claims:
        among = (
            f" among {head.searched} comparisons, kept at a false discovery rate of 5 %" if head.searched > 1 else ""
        )
        text = f"found by looking, not named beforehand{among}"
        doubts.append(Caveat("searched", text, (("comparisons", head.searched),)))
    doubts += _expectation_caveats(head, group)
    if one.shape == "distribution" and one.statistic == "mean":
        quantiles = [other for other in beside if other.comparison.statistic in ("p95", "p99")]
        if not quantiles:
            doubts.append(
                Caveat("mean_alone", "a mean can look fine while the slowest requests do not: add p95 or p99")
            )
    own = word.numbers(figures.plain(f"{change.title} {change.because}", 1000))
    if own:
        text = f"the change's own words hold a figure that was not measured here: {', '.join(own)}"
        doubts.append(Caveat("own_figure", text))
    if claims and not beside:
        doubts.append(
            Caveat("single_dimension", "nothing else of this subject was compared, so a trade-off would not show")
        )
    if claims and one.verdict in CLAIMS and not head.replicated:
        doubts.append(Caveat("read_once", "no later window of a week has confirmed it yet"))
    return tuple(sorted(doubts, key=_weight))


def _weight(caveat: Caveat) -> int:
    if caveat.code in _DOUBTS:
        return _DOUBTS.index(caveat.code)
    return len(_DOUBTS) + (1 + _REMARKS.index(caveat.code) if caveat.code in _REMARKS else 0)


def _cause_caveat(causes: Sequence[Cause]) -> Caveat:
    told = ", ".join(f"{figures.plain(one.text, 120)} ({figures.date(one.at)})" for one in causes[:3])
    more = f" and {len(causes) - 3} more" if len(causes) > 3 else ""
    return Caveat("cause", f"other things in the same windows may explain it: {told}{more}", (("causes", len(causes)),))


def _load_caveats(one: Comparison, load: Sequence[Comparison], found: Sequence[Comparison]) -> list[Caveat]:
    """Say that the load moved, that a count fell with it, or that nothing is known of it."""
    # What was read beside the series itself says it better than a sibling does.
    if word.is_load(one) or any(doubt.code == "traffic_moved" for doubt in one.caveats):
        return []
    if not load:
        # Another subject's traffic says nothing of this one's.
        known = any(word.is_load(other) and other.subject == one.subject for other in found)
        text = "the load could not be compared" if known else "no request rate or count is collected for this subject"
        return [Caveat("no_scale", f"{text}, so the size of the work is not known")]
    moved = [other for other in load if _moved(other)]
    if not moved:
        return []
    other = max(moved, key=lambda each: abs(each.effect.percent or 0.0) if each.effect else 0.0)
    said = word.derive(other)
    size = f" ({said['percent'].text})" if "percent" in said else ""
    text = f"{word.named(other)} moved from {said['before'].text} to {said['after'].text}{size} in the same windows"
    counted = one.statistic in ("count", "total") or one.shape == "count"
    if counted and word.rose(one) is not None and word.rose(other) == word.rose(one):
        cure = "a count moves with its load; compare it per request"
        return [Caveat("count_with_load", f"{text}: {cure}")]
    return [Caveat("load_moved", text)]


def _moved(one: Comparison) -> bool:
    percent = one.effect.percent if one.effect is not None else None
    if word.rose(one) is None:
        return False
    return one.verdict in CLAIMS or percent is None or abs(percent) >= _LOAD_MOVED


def _expectation_caveats(head: _Told, group: Sequence[_Told]) -> list[Caveat]:
    doubts = []
    hoped, one = head.expected, head.comparison
    if hoped is not None and hoped.by_percent is not None and head.good > 0 and one.effect is not None:
        percent = one.effect.percent
        if percent is not None and abs(percent) < hoped.by_percent:
            text = f"at least {hoped.by_percent:g} % was expected, {figures.percent(percent)} came"
            doubts.append(Caveat("short", text, (("expected", hoped.by_percent), ("percent", percent))))
    missing = [
        other
        for other in group
        if other is not head and other.expected is not None and other.kind in (_Kind.OBSERVED, _Kind.NOTHING)
    ]
    if missing and head.kind is not _Kind.OBSERVED:
        told = ", ".join(
            f"{word.named(other.comparison)} {other.expected.direction}" for other in missing if other.expected
        )
        verdicts = ", ".join(dict.fromkeys(str(other.comparison.verdict) for other in missing))
        doubts.append(Caveat("expected_not_seen", f"also expected but not shown: {told} ({verdicts})"))
    return doubts
