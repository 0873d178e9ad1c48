"""
Candidates in words.

Sentences are built from the numbers by templates. What was done and why are the user's own words, put into slots and
never invented. Every figure names the comparison it derives from and is derived again by ``verify``; ``edit`` lets
nobody write a figure that the evidence does not give. How strong the verb is follows the verdict and the grade:

    confirmatory and replicated    reduced p95 latency of checkout from 480 ms to 140 ms
    another claim                  p95 latency of checkout was lower afterwards, 480 ms before and 140 ms after
    no claim                       no evidence that p95 latency of checkout is lower
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harvester import figures
from harvester.candidates.model import Candidate, Change, Direction, Expectation, Figure, Grade
from harvester.differ.result import CLAIMS, Comparison, Side, Verdict
from harvester.errors import UsageError

_MOST_SUPPORT = 2
"""Supporting series told in the sentence; the rest are listed beside it."""

_DAY = 86_400_000


# ---------------------------------------------------------------------------------------------------------------------
# What a comparison says, apart from its words
# ---------------------------------------------------------------------------------------------------------------------


def named(comparison: Comparison) -> str:
    """Return what is compared, in words: ``p95 latency of checkout``."""
    return figures.what(
        comparison.metric,
        comparison.statistic,
        shape=comparison.shape,
        subject=comparison.subject,
        labels=comparison.labels,
    )


def expectation_of(change: Change, comparison: Comparison) -> Expectation | None:
    """Return what was expected of the series compared, or None."""
    return next(
        (
            one
            for one in change.expect
            if (one.subject, one.metric, one.statistic) == (comparison.subject, comparison.metric, comparison.statistic)
        ),
        None,
    )


def rose(comparison: Comparison) -> bool | None:
    """Tell whether the printed value rose; None where it did not move or is unknown."""
    before, after = comparison.before.value, comparison.after.value
    return None if before is None or after is None or before == after else after > before


def is_load(comparison: Comparison) -> bool:
    """Tell whether a series counts the work that arrived, such as requests: more of it is neither better nor worse."""
    if comparison.shape == "distribution" and comparison.statistic == "count":
        return True
    return comparison.better == "neither" and (comparison.shape == "count" or comparison.unit.endswith("/second"))


def is_neutral(comparison: Comparison) -> bool:
    """Tell whether neither direction is better; so it is with how many were observed, whatever was observed."""
    return comparison.better == "neither" or is_load(comparison)


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------


def derive(comparison: Comparison) -> dict[str, Figure]:
    """
    Return every figure that may be said of a comparison, by name; what is unknown is left out.

    The names: ``before, after, percent, size, multiple, fewer, points, difference, interval, visible, days_before,
    days_after, since, before_span, after_span``, and beside a bucketed quantile ``bound, under_before, under_after``:
    the exact share of observations at or under one of the histogram's bounds.
    """
    unit = figures.printed_unit(comparison.unit, comparison.shape, comparison.statistic)
    before, after, effect = comparison.before, comparison.after, comparison.effect
    texts = figures.pair(before.value, after.value, unit)
    found: dict[str, tuple[str, float | None]] = {
        "before": (texts[0], before.value),
        "after": (texts[1], after.value),
        "days_before": _days(before),
        "days_after": _days(after),
        "since": (figures.date(after.start), None),
        "before_span": (figures.span(before.start, before.end), None),
        "after_span": (figures.span(after.start, after.end), None),
    }
    if comparison.visible_percent is not None and math.isfinite(comparison.visible_percent):
        found["visible"] = (figures.percent(comparison.visible_percent).lstrip("+"), comparison.visible_percent)
    if effect is not None:
        if effect.percent is not None:
            said = figures.percent(effect.percent)
            found |= {"percent": (said, effect.percent), "size": (said.lstrip("+-"), abs(effect.percent))}
        if effect.ratio is not None and effect.ratio >= 2:
            found["multiple"] = (figures.multiple(effect.ratio), effect.ratio)
        if effect.ratio is not None and 0 < effect.ratio <= 0.5:
            found["fewer"] = (figures.multiple(1 / effect.ratio), 1 / effect.ratio)
        if figures.common_unit(unit, (before.value, after.value)) == figures.PROPORTION:
            found["points"] = (figures.points(before.value, after.value), effect.difference)
        elif effect.difference is not None:
            found["difference"] = (figures.value(effect.difference, unit), effect.difference)
        found["interval"] = (figures.interval(effect.low, effect.high, effect.scale, unit), None)
    under = comparison.under
    if under is not None:
        shares = figures.pair(under.before, under.after, figures.PROPORTION)
        found["bound"] = (figures.value(under.bound, comparison.unit), under.bound)
        found |= {"under_before": (shares[0], under.before), "under_after": (shares[1], under.after)}
    return {
        name: Figure(text, comparison.id, name, value)
        for name, (text, value) in found.items()
        if figures.UNKNOWN not in text
    }


def _days(side: Side) -> tuple[str, float]:
    days = (side.end - side.start) / _DAY
    text = figures.value(days, "days")
    return text, days


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A figure that the evidence no longer gives; ``true`` is what it gives instead, ``""`` where nothing."""

    figure: Figure
    true: str


def verify(candidate: Candidate) -> tuple[Mismatch, ...]:
    """Derive each figure of a candidate from its comparisons again and return those that no longer match."""
    by_id = {one.id: one for one in candidate.comparisons}
    found = []
    for figure in candidate.figures:
        comparison = by_id.get(figure.comparison)
        true = derive(comparison).get(figure.name) if comparison is not None else None
        if true != figure or _places(figure.text, _normal(candidate.sentence)) == []:
            found.append(Mismatch(figure, true.text if true is not None else ""))
    return tuple(found)


def edit(candidate: Candidate, change: Change, sentence: str) -> Candidate:
    """
    Return the candidate with a sentence in the user's words.

    Every number in it must be one that a comparison of the candidate gives, or stand in the user's own words (title,
    reason, names). Numbers written out as words are not looked at.

    Raises:
        UsageError: naming the first number that does not follow, with what the evidence gives.
    """
    words = figures.plain(sentence, 1000)
    if not words:
        raise UsageError("edit candidate", candidate.id, "an empty sentence says nothing")
    rest, used = _normal(words), []
    derived = [figure for one in candidate.comparisons for figure in derive(one).values()]
    for figure in sorted(derived, key=lambda one: -len(one.text)):
        places = _places(figure.text, rest)
        if places:
            used.append(figure)
        for start, end in places:
            rest = rest[:start] + " " * (end - start) + rest[end:]
    own = " ".join((change.title, change.because, change.name, named(candidate.headline), *change.links))
    allowed = set(numbers(_normal(own)))
    wrong = next((number for number in numbers(rest) if number not in allowed), None)
    if wrong is not None:
        said = derive(candidate.headline)
        true = [said[name].text for name in ("before", "after", "percent", "points", "interval") if name in said]
        raise UsageError(
            "edit candidate",
            candidate.id,
            f"{wrong} does not follow from its evidence",
            hint=f"the evidence gives {', '.join(true)}",
        )
    return replace(candidate, sentence=words, figures=tuple(used), edited=True)


_UNITS = "%|ms|us|ns|s|min|h|d|kB|MB|GB|TB"


def _normal(text: str) -> str:
    """Return text with numbers written our way: ``71%`` as ``71 %``, ``480ms`` as ``480 ms``, a minus as hyphen."""
    text = text.replace("\u2212", "-").replace("\u00d7", "x").replace("\u00a0", " ")
    return re.sub(rf"(?<![A-Za-z\d])([\d.,]*\d)({_UNITS})(?!\w)", r"\1 \2", text)


def _places(figure: str, text: str) -> list[tuple[int, int]]:
    """Return where a figure stands in a text as itself, not as part of another one, with or without its commas."""
    pattern = re.escape(figure).replace(",", ",?")
    if figure[-1].isdigit():  # a number without a unit is not the one with a unit
        pattern += rf"(?! (?:{_UNITS}|points?|USD|EUR|GBP|CHF|JPY)(?!\w))"
    found = re.finditer(rf"(?<![\w.,+\-$]){pattern}(?![\d%]|[.,]\d|\w)", text)
    return [match.span() for match in found]


def numbers(text: str) -> list[str]:
    """
    Return the numbers of a text, each with its unit; ``p95``, ``HTTP/2``, ``#482`` and ``PR 482`` are names.

    >>> numbers("PR 482 cut p95 by 71 % (340 ms) on 3 services")
    ['71 %', '340 ms', '3']
    """
    found = []
    text = re.sub(
        r"(?i)\b(PR|MR|pull request|issue|ticket|incident|version|release|phase|part|sprint) \d+\b", r"\1", text
    )
    for token in re.findall(rf"\S*\d\S*(?: (?:{_UNITS}|points?|USD|EUR|GBP|CHF|JPY)(?!\w))?", text):
        bare = token.strip("()[]{}\"'~<>=:;,.!?*_`")
        if re.match(r"(?:[A-Za-z]|#)", bare) and not re.match(r"(?:x|EUR|USD|GBP|CHF|JPY)\d", bare):
            continue
        found.append(bare)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The sentence
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worded:
    """A sentence and the figures in it."""

    text: str
    figures: tuple[Figure, ...]


@dataclass(slots=True)
class _Line:
    """A sentence being written; remembers which figures it used."""

    used: list[Figure] = field(default_factory=list)

    def figure(self, comparison: Comparison, name: str) -> str:
        found = derive(comparison).get(name)
        if found is None:
            return figures.UNKNOWN
        if found not in self.used:
            self.used.append(found)
        return found.text

    def size(self, comparison: Comparison, *, interval: bool = True) -> str:
        """Return the size of a difference in brackets, as far as it is known."""
        known = derive(comparison)
        absolute = "points" if "points" in known else "multiple"
        names = [name for name in (absolute, "percent") if name in known]
        if not names and "difference" in known:
            names.append("difference")
        parts = [", ".join(self.figure(comparison, name) for name in names)] if names else []
        if interval and "interval" in known:
            parts.append(f"95 % interval {self.figure(comparison, 'interval')}")
        return f" ({'; '.join(parts)})" if parts else ""

    def windows(self, comparison: Comparison) -> str:
        before, after = (self.figure(comparison, name) for name in ("days_before", "days_after"))
        since = self.figure(comparison, "since")
        if before == after:
            return f"over the {before} before and after {since}"
        return f"over the {before} before and the {after} after {since}"


def sentence(
    change: Change,
    headline: Comparison,
    support: Sequence[Comparison] = (),
    contradictions: Sequence[Comparison] = (),
    *,
    grade: Grade,
) -> Worded:
    """
    Return the sentence of a candidate: what was done, what differs, how sure that is, and what speaks against it.

    The lead is the change's title, or its name; a reason is added where the user gave one.
    """
    line = _Line()
    text = f"{lead(change)}: {_body(line, change, headline, grade)}, {line.windows(headline)}"
    if headline.under is not None and headline.verdict in CLAIMS:
        shares = f"{line.figure(headline, 'under_before')} before and {line.figure(headline, 'under_after')} after"
        text += f", {shares} within {line.figure(headline, 'bound')}"
    moved = [one for one in support if is_load(one) and (one.verdict in CLAIMS or one.verdict is Verdict.EXACT)]
    if moved and moved[0] is not headline:
        sides = f"{line.figure(moved[0], 'before')} to {line.figure(moved[0], 'after')}"
        text += f", while {named(moved[0])} went from {sides}{line.size(moved[0], interval=False)}"
    for one in contradictions:
        text += f"; but {_aside(line, change, one)}"
    text += "."
    if headline.verdict is Verdict.UNCLEAR and "visible" in derive(headline):
        text += f" A change smaller than {line.figure(headline, 'visible')} could not have been seen."
    others = [one for one in support if one not in moved][:_MOST_SUPPORT]
    if others:
        also = "; ".join(_aside(line, change, one) for one in others)
        text += f" Also, {also}."
    if change.because:
        text += f" Why: {_slot(change.because)}."
    return Worded(text, tuple(line.used))


def lead(change: Change) -> str:
    """Return what was done in the user's words, or the change's name."""
    return _slot(change.title) or figures.plain(change.name)


def _slot(text: str) -> str:
    return figures.plain(text).rstrip(" .:;")


def _body(line: _Line, change: Change, one: Comparison, grade: Grade, *, interval: bool = True) -> str:
    what, higher, expected = named(one), rose(one), expectation_of(change, one)
    guard = expected is not None and expected.direction is Direction.HELD
    if one.verdict is Verdict.EXACT and higher is None:
        held = "held at" if guard else "did not move:"
        return f"{what} {held} {line.figure(one, 'after')}, known exactly"
    size = line.size(one, interval=interval)
    moved = f"from {line.figure(one, 'before')} to {line.figure(one, 'after')}{size}"
    beside = f"{line.figure(one, 'before')} before and {line.figure(one, 'after')} after{size}"
    if one.verdict is Verdict.EXACT:
        return f"{what} went {moved}, known exactly"
    if one.verdict in CLAIMS and higher is not None:
        if guard and not _better(one):
            return f"{what} did not hold, {beside}"
        if grade is Grade.CONFIRMED:
            return f"{_verb(one, higher)} {what} {moved}"
        return f"{what} was {'higher' if higher else 'lower'} afterwards, {beside}"
    if guard:
        held = f"{what} held" if one.verdict is Verdict.UNCHANGED else f"no evidence that {what} moved"
        return f"{held}, {beside}"
    hoped = f"is {expected.direction}" if expected is not None else "moved"
    return f"no evidence that {what} {hoped}, {beside}"


def _aside(line: _Line, change: Change, one: Comparison) -> str:
    """Return a supporting or contradicting series, shortly; never with more than it may claim."""
    return _body(line, change, one, Grade.EXPECTED, interval=False).replace(" afterwards,", ",", 1)


def _better(one: Comparison) -> bool:
    return one.verdict is Verdict.IMPROVED and not is_neutral(one)


def _verb(one: Comparison, higher: bool) -> str:
    if not _better(one):
        return "raised" if higher else "lowered"
    if not higher:
        return "eliminated" if one.after.value == 0 else "reduced"
    unit = figures.printed_unit(one.unit, one.shape, one.statistic)
    proportion = figures.common_unit(unit, (one.before.value, one.after.value)) == figures.PROPORTION
    return "improved" if proportion else "increased"


# ---------------------------------------------------------------------------------------------------------------------
# Formats
# ---------------------------------------------------------------------------------------------------------------------

Pair = tuple[Candidate, Change]

_NOTES = {Grade.EXPLORED: "found by looking", Grade.OBSERVED: "observed, not proven"}


def render(told: Iterable[Pair], form: str) -> str:
    """
    Return candidates, each with its change, in one of ``FORMATS``.

    Raises:
        UsageError: if there is no such format, or a sentence has a figure that its evidence no longer gives.
    """
    pairs = list(told)
    writer = _WRITERS.get(form)
    if writer is None:
        raise UsageError("write candidates", form, "there is no such format", hint=f"known: {', '.join(FORMATS)}")
    for candidate, _ in pairs:
        wrong = verify(candidate)
        if wrong:
            true = wrong[0].true
            raise UsageError(
                "write candidate",
                candidate.id,
                f"{wrong[0].figure.text} no longer follows from its evidence",
                hint=f"it gives {true}" if true else "the comparison it came from is not part of it",
            )
    return writer(pairs)


def _resume(pairs: Sequence[Pair]) -> str:
    return "\n".join(f"- {_bullet(candidate, change)}" for candidate, change in pairs)


def _bullet(candidate: Candidate, change: Change) -> str:
    if candidate.edited:
        return candidate.sentence
    line = _Line()
    headline, grade = candidate.headline, candidate.grade
    text = _body(line, change, headline, grade, interval=False)
    did = _slot(change.title)
    if grade is Grade.CONFIRMED and headline.verdict in CLAIMS:
        text = f"{text[:1].upper()}{text[1:]}" + (f": {did}" if did else "")
    elif did:
        text = f"{did}: {text}"
    for one in candidate.contradictions:
        text += f"; but {_aside(line, change, one)}"
    note = _NOTES.get(grade)
    return f"{text} [{note}]" if note else text


def _review(pairs: Sequence[Pair]) -> str:
    """Action, specific work, measurable result: one paragraph each, with what it rests on."""
    return "\n\n".join(
        "\n".join((candidate.sentence, f"[{candidate.grade}; {_evidence(candidate, change)}]"))
        for candidate, change in pairs
    )


def _evidence(candidate: Candidate, change: Change) -> str:
    links = ", ".join(figures.plain(link) for link in change.links)
    said = f"candidate {candidate.id}"
    return f"{said}, {links}" if links else said


def _self_assessment(pairs: Sequence[Pair]) -> str:
    """What I did, the impact it had, what comes next; slots the user has not filled stand open."""
    blocks = []
    for candidate, change in pairs:
        reason = f" Why: {_slot(change.because)}." if change.because else ""
        doubt = f" Doubt: {candidate.caveats[0].text}." if candidate.caveats else ""
        blocks.append(
            f"What I did: {_slot(change.title) or '[yours to say]'}.{reason}\n"
            f"Impact: {_impact(candidate, change)}{doubt}\n"
            "What is next: [yours to say]"
        )
    return "\n\n".join(blocks)


def _impact(candidate: Candidate, change: Change) -> str:
    """Return the sentence without the lead and the reason, which stand in slots of their own."""
    if candidate.edited:
        return candidate.sentence
    text = sentence(
        replace(change, because=""),
        candidate.headline,
        candidate.support,
        candidate.contradictions,
        grade=candidate.grade,
    ).text.removeprefix(f"{lead(change)}: ")
    return text if re.match(r"p\d", text) else text[:1].upper() + text[1:]


def _case_study(pairs: Sequence[Pair]) -> str:
    return "\n\n".join(_study(candidate, change) for candidate, change in pairs)


def _study(candidate: Candidate, change: Change) -> str:
    one = candidate.headline
    tested = f", {figures.p(one.p)}" if one.p is not None else ""
    method = (
        f"{_shape(one)}, {figures.span(one.before.start, one.before.end)} against "
        f"{figures.span(one.after.start, one.after.end)}; {figures.share(one.before.coverage)} and "
        f"{figures.share(one.after.coverage)} of the two windows proven complete; {one.mode}, {one.verdict}{tested}."
    )
    parts = [
        f"## {markdown(lead(change))}",
        f"**Problem.** {markdown(_slot(change.because)) or '[yours to say]'}",
        f"**What was done.** {markdown(lead(change))}{_links(change)}",
        f"**Result.** {markdown(_impact(candidate, change))}",
        _table(candidate.comparisons),
        f"**Method.** {markdown(method)}",
        f"**Doubts.**\n\n{_doubts(candidate)}",
        f"Grade: {candidate.grade}; candidate {candidate.id}.",
    ]
    return "\n\n".join(parts)


def _shape(one: Comparison) -> str:
    counted = f"{one.before.n:,.0f} and {one.after.n:,.0f}"
    if one.shape == "distribution":
        return f"Quantiles and means of whole windows, {counted} observations"
    if one.shape == "ratio":
        return f"Sum over sum of whole windows, {counted} in the denominators"
    if one.shape in ("count", "event"):
        return f"Counts per proven day, {counted} occurrences"
    return f"Summaries of sampled values, {counted} samples"


def _links(change: Change) -> str:
    return "".join(f" {markdown(figures.plain(link))}" for link in change.links)


def _table(comparisons: Sequence[Comparison]) -> str:
    rows = ["| what | before | after | change | verdict |", "|---|---:|---:|---:|---|"]
    for one in comparisons:
        said = derive(one)
        cells = [named(one), *(said[key].text if key in said else "" for key in ("before", "after", "percent"))]
        rows.append("| " + " | ".join(markdown(cell) for cell in (*cells, str(one.verdict))) + " |")
    return "\n".join(rows)


def _doubts(candidate: Candidate) -> str:
    lines = [f"- {markdown(figures.plain(one.text, 400))}" for one in candidate.caveats]
    if not any(one.code == "cause" for one in candidate.caveats):
        lines += [
            f"- also near: {markdown(figures.plain(one.text))}, {figures.date(one.at)}" for one in candidate.causes
        ]
    return "\n".join(lines) or "- none known"


def _markdown(pairs: Sequence[Pair]) -> str:
    return "\n\n".join(
        f"### {markdown(lead(change))}\n\n{markdown(candidate.sentence)}\n\n"
        f"{_table(candidate.comparisons)}\n\n{_doubts(candidate)}\n\n"
        f"Grade: {candidate.grade}; {markdown(_evidence(candidate, change))}."
        for candidate, change in pairs
    )


def markdown(text: str) -> str:
    r"""
    Return text that Markdown shows as it is: what would format, link or embed is escaped.

    >>> markdown("[see](http://x) <b>p95</b> a|b")
    '\\[see\\](http://x) \\<b\\>p95\\</b\\> a\\|b'
    """
    escaped = re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", text)
    return re.sub(r"^(\s*)([#+\-=]|\d+[.)])(?=\s)", r"\1\\\2", escaped)


def _json(pairs: Sequence[Pair]) -> str:
    return json.dumps({"candidates": [candidate.as_json() for candidate, _ in pairs]}, indent=2)


_COLUMNS: Mapping[str, Callable[[Candidate, Change], object]] = {
    "id": lambda one, _: one.id,
    "change": lambda one, _: one.change,
    "title": lambda _, change: figures.plain(change.title),
    "subject": lambda one, _: one.subject,
    "metric": lambda one, _: one.headline.metric,
    "statistic": lambda one, _: one.headline.statistic,
    "unit": lambda one, _: figures.printed_unit(one.headline.unit, one.headline.shape, one.headline.statistic),
    "before": lambda one, _: one.headline.before.value,
    "after": lambda one, _: one.headline.after.value,
    "percent": lambda one, _: one.headline.effect.percent if one.headline.effect else None,
    "low": lambda one, _: one.headline.effect.low if one.headline.effect else None,
    "high": lambda one, _: one.headline.effect.high if one.headline.effect else None,
    "scale": lambda one, _: one.headline.effect.scale if one.headline.effect else None,
    "p": lambda one, _: one.headline.p,
    "verdict": lambda one, _: str(one.verdict),
    "grade": lambda one, _: str(one.grade),
    "status": lambda one, _: str(one.status),
    "since": lambda one, _: figures.date(one.headline.after.start),
    "days": lambda one, _: round((one.headline.after.end - one.headline.after.start) / _DAY, 3),
    "sentence": lambda one, _: one.sentence,
    "contradictions": lambda one, _: "; ".join(named(other) for other in one.contradictions),
    "caveats": lambda one, _: "; ".join(figures.plain(caveat.text, 400) for caveat in one.caveats),
    "links": lambda _, change: " ".join(figures.plain(link) for link in change.links),
}


def _csv(pairs: Sequence[Pair]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for candidate, change in pairs:
        writer.writerow([_cell(of(candidate, change)) for of in _COLUMNS.values()])
    return out.getvalue().rstrip("\n")


def _cell(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@", "|", "%")):
        return f"'{value}"
    return "" if value is None else value


_WRITERS: Mapping[str, Callable[[Sequence[Pair]], str]] = {
    "resume": _resume,
    "review": _review,
    "self-assessment": _self_assessment,
    "case-study": _case_study,
    "markdown": _markdown,
    "json": _json,
    "csv": _csv,
}

FORMATS = tuple(_WRITERS)
