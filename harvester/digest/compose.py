"""
The digest: what is worth telling of a week, composed once and stored.

It says what the candidates say and adds no figure of its own. Nothing is said to be quiet unless coverage proves it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from harvester.candidates.model import Candidate, Grade, Status
from harvester.candidates.word import derive, named, rose
from harvester.differ.result import CLAIMS, Comparison, Mode, Verdict
from harvester.digest.model import Accepted, Digest, Open, Silent, Told, Watched
from harvester.digest.watch import watch
from harvester.digest.weeks import day, due_at, due_week, week_before, week_bounds, week_of
from harvester.readings import DAY, Shape, Window, to_milliseconds

if TYPE_CHECKING:
    from harvester.settings import Settings
    from harvester.store import Store

__all__ = ["compose", "due_at", "due_week", "for_week", "kept", "week_bounds", "week_of"]

MOST = 5
"""Candidates in one digest."""

FALSE_POSITIVE_RATE = 0.05
"""The differ's nominal rate of false claims, and the false discovery rate of what was found by looking."""

_GRADES = tuple(Grade)
_SUBJECT_LENGTH = 110


def for_week(store: Store, settings: Settings, now: datetime) -> Digest:
    """
    Return the current digest: composed and stored by whoever asks first, the stored record ever after.

    Current is the digest that was due last; on a Monday before eight that is last week's.
    """
    week = due_week(now, settings.digest)
    found = kept(store, week)
    if found is not None:
        return found
    first = store.put_once("digest", week, compose(store, settings, now).as_json())
    store.put("digest", week, first)  # whoever came first; where it can be read without writing, and listed
    return Digest.from_json(first)


def kept(store: Store, week: str) -> Digest | None:
    """Return the stored digest of a week, or None where none was composed."""
    data = store.get("digest", week)
    return None if data is None else Digest.from_json(data)


def compose(store: Store, settings: Settings, now: datetime) -> Digest:
    """Compare, propose and look at coverage as of now, and return the digest that comes of it; it is not stored."""
    from harvester import impact

    week = due_week(now, settings.digest)
    generated = to_milliseconds(now)
    since = to_milliseconds(due_at(week_before(week), settings.digest))
    candidates, questions = impact.refresh(store, settings, generated)
    # What was only observed is told once: as the question it still is, with the day it may be answered.
    asked = {one.id for one in questions}
    waiting = (one for one in candidates if one.status is Status.PROPOSED)
    proposed = sorted(
        (one for one in waiting if one.grade is not Grade.OBSERVED or one.headline.id not in asked), key=_strength
    )
    shown = proposed[:MOST]
    shown_ids = {compared.id for one in shown for compared in one.comparisons}
    told = tuple(_tell(store, settings, one, since) for one in shown)
    changes = impact.changes(store)
    names = {(one.shipped, subject): one.name for one in changes for subject in one.subjects or settings.subjects}
    opened = tuple(
        _ask(one, names.get((one.after.start, one.subject), ""), settings)
        for one in questions
        if one.id not in shown_ids
    )
    unclear = tuple(one for one in opened if one.comparison.verdict is not Verdict.UNCHANGED)
    unchanged = tuple(one for one in opened if one.comparison.verdict is Verdict.UNCHANGED)
    accepted = tuple(
        _became(one, one.latest)
        for one in candidates
        if one.status is Status.ACCEPTED
        and one.grade is not Grade.OBSERVED
        and one.latest is not None
        and one.latest.after.end > since  # an after-window stops growing after four weeks; then there is no news
    )
    watched, silent = watch(store, settings, Window.of(since, generated))
    return Digest(
        week=week,
        zone=settings.digest.zone,
        since=since,
        generated=generated,
        subject=_subject(week, told, silent, unclear, watched),
        summary=_summary(told, len(proposed) - len(shown), accepted, unclear, unchanged, silent),
        candidates=told,
        more=len(proposed) - len(shown),
        accepted=accepted,
        unclear=unclear,
        unchanged=unchanged,
        silent=silent,
        watched=watched,
        expected_false=expected_false(shown, questions),
    )


def expected_false(shown: Sequence[Candidate], questions: Sequence[Comparison]) -> float | None:
    """
    Return how many of the claims shown are expected to be false by chance, at most; None where none is claimed.

    Each effect named beforehand was tested at 5 %, whether a claim came of it or not, so 5 % of those tests is the
    most that chance makes of them. Claims found by looking were kept at a false discovery rate of 5 % (Benjamini and
    Hochberg 1995), so 5 % of those shown. Neither can exceed the claims there are.
    """
    claims = [one for one in shown if one.headline.verdict in CLAIMS]
    if not claims:
        return None
    named = [one for one in claims if one.headline.mode is Mode.CONFIRMATORY]
    tested = {
        one.id
        for candidate in shown
        for one in (candidate.headline, *candidate.support, *candidate.contradictions)
        if one.mode is Mode.CONFIRMATORY and one.p is not None
    } | {one.id for one in questions if one.p is not None}
    by_name = min(FALSE_POSITIVE_RATE * len(tested), len(named)) if named else 0.0
    return by_name + FALSE_POSITIVE_RATE * (len(claims) - len(named))


def by_chance(digest: Digest) -> str:
    """Return in a sentence how many claims are expected to be false, or ``""`` where none is made."""
    if digest.expected_false is None:
        return ""
    claims = sum(one.candidate.headline.verdict in CLAIMS for one in digest.candidates)
    of = "Of this 1 claim" if claims == 1 else f"Of these {claims} claims"
    upper = math.ceil(round(digest.expected_false, 9))
    count = "fewer than 1" if digest.expected_false < 1 else f"at most {upper}"
    return f"{of}, {count} is expected to be false by chance." if upper <= 1 else (
        f"{of}, {count} are expected to be false by chance."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Parts
# ---------------------------------------------------------------------------------------------------------------------


def _strength(one: Candidate) -> tuple[int, int, float, float]:
    """Order claims before what is only observed, by grade, by p, by size."""
    head = one.headline
    claimed = head.verdict in CLAIMS or head.verdict is Verdict.EXACT
    size = abs(math.log(head.effect.ratio)) if head.effect and head.effect.ratio and head.effect.ratio > 0 else 0.0
    return int(not claimed), _GRADES.index(one.grade), 1.0 if head.p is None else head.p, -size


def _tell(store: Store, settings: Settings, one: Candidate, since: int) -> Told:
    from harvester import impact

    picture = impact.picture(store, settings, one.headline)
    return Told(
        candidate=one,
        short=_short(one.headline),
        interval=_interval(one.headline),
        caveat=one.caveats[0].text if one.caveats else "",
        command=shlex.join(["harvest", "candidates", "accept", one.id]),
        new=one.created >= since,
        picture=picture or "",
        alt=_alt(one.headline) if picture else "",
    )


def _alt(one: Comparison) -> str:
    from harvester.charts import alt_text

    return alt_text(one)


def _interval(one: Comparison) -> str:
    """Return in plain words how sure the size is."""
    if one.verdict is Verdict.EXACT:
        return "Both values are known exactly; nothing is estimated."
    found = derive(one).get("interval")
    return f"With 95 % confidence the change is {found.text}." if found is not None else ""


def _became(one: Candidate, latest: Comparison) -> Accepted:
    """Return what became of an accepted candidate whose series was compared again."""
    then = one.headline
    if then.verdict is Verdict.UNCHANGED:
        state = "held" if latest.verdict is Verdict.UNCHANGED else "faded"
    elif latest.verdict in CLAIMS or latest.verdict is Verdict.EXACT:
        state = "held" if rose(latest) == rose(then) else "reversed"
    else:
        state = "faded"
    days = derive(latest)["days_after"].text
    text = f"{_short(then)} when accepted, {_sides(latest)} over the {days} since: {latest.verdict}."
    return Accepted(one.id, one.change, state, text, latest)


def _ask(one: Comparison, change: str, settings: Settings) -> Open:
    zone = settings.digest.zoneinfo
    said = derive(one)
    if one.verdict is Verdict.REFUSED:
        why = one.caveats[0].text if one.caveats else "what is held does not allow it"
        return Open(change, one, f"{named(one)} cannot be compared: {why}.")
    if one.verdict is Verdict.UNCHANGED:
        ends = f"; the change is {said['interval'].text}" if "interval" in said else ""
        return Open(change, one, f"{_short(one)}: unchanged{ends}.")
    text = f"{_short(one)}, no more than this series' own noise may make"
    if "visible" in said:
        text += f"; a change smaller than {said['visible'].text} could not have been seen"
    if one.days_needed is not None:
        clear_at = one.after.start + one.days_needed * DAY
        return Open(change, one, f"{text}. Clear about {day(clear_at, zone)} if it stays as it is.", clear_at)
    if one.shape in (Shape.LEVEL, Shape.DISTRIBUTION) and one.visible_percent is not None:
        text += ". Four weeks would not settle a difference of this size"
    return Open(change, one, f"{text}.")


def _short(one: Comparison) -> str:
    """Return a comparison in one short line."""
    return f"{named(one)} {_sides(one)}"


def _sides(one: Comparison) -> str:
    """Return both values and the size of the difference."""
    said = derive(one)
    before, after = (said[side].text if side in said else "?" for side in ("before", "after"))
    size = next((f" ({said[name].text})" for name in ("points", "percent") if name in said), "")
    return f"{before} -> {after}{size}"


def _subject(
    week: str, told: Sequence[Told], silent: Sequence[Silent], unclear: Sequence[Open], watched: Watched
) -> str:
    """Return the week's best line, short enough for a phone."""
    if told:
        line = told[0].short + (f", and {len(told) - 1} more" if len(told) > 1 else "")
    elif any(one.until is None for one in silent):
        first = next(one for one in silent if one.until is None)
        line = f"no data from {first.name}"
    elif unclear:
        line = f"{_count(len(unclear), 'question')} still open"
    else:
        line = "nothing to tell, everything was watched" if watched.complete else "nothing to tell"
    line = f"harvester {week}: {line}"
    return line if len(line) <= _SUBJECT_LENGTH else f"{line[: _SUBJECT_LENGTH - 3]}..."


_NOUNS = {
    Verdict.IMPROVED: "improvement", Verdict.REGRESSED: "regression", Verdict.CHANGED: "change",
    Verdict.EXACT: "exact difference",
}


def _summary(
    told: Sequence[Told],
    more: int,
    accepted: Sequence[Accepted],
    unclear: Sequence[Open],
    unchanged: Sequence[Open],
    silent: Sequence[Silent],
) -> str:
    """Return the week in one line."""
    verdicts = [one.candidate.headline.verdict for one in told if one.candidate.grade is not Grade.OBSERVED]
    parts = [_count(verdicts.count(verdict), noun) for verdict, noun in _NOUNS.items() if verdict in verdicts]
    if Verdict.UNCHANGED in verdicts:
        parts.append(f"{_count(verdicts.count(Verdict.UNCHANGED), 'level')} held")
    observed = len(told) - len(verdicts)
    if observed:
        parts.append(f"{observed} observed, not proven")
    if more:
        parts.append(f"{more} more waiting")
    states = [one.state for one in accepted]
    became = [f"{states.count(state)} {state}" for state in ("held", "faded", "reversed") if state in states]
    if became:
        parts.append(f"of what was accepted {', '.join(became)}")
    if unclear:
        parts.append(f"{len(unclear)} still unclear")
    if unchanged:
        parts.append(f"{len(unchanged)} unchanged")
    if not parts:
        parts.append("nothing to tell this week")
    lasting = [one for one in silent if one.until is None]
    if lasting:
        others = f" and {len(lasting) - 1} more" if len(lasting) > 1 else ""
        parts.append(f"no data from {lasting[0].name}{others}")
    elif silent:
        parts.append(f"{_count(len(silent), 'gap')} in the data")
    line = "; ".join(parts)
    return f"{line[:1].upper()}{line[1:]}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
