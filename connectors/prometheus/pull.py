"""
One collection: slices, the queries of each, batches of readings, and why some questions had no answer.

Slices go from the newest to the oldest whatever the metric, so that a collection broken off has read the same span of
each. Small answers are kept while slices of the same instants are read: metrics that share a denominator, a proof or a
selector ask for it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connectors.prometheus.client import BusyError, Client, QueryError, TooMuchError
from connectors.prometheus.health import clock_time, reason, retention, unprovable
from connectors.prometheus.shapes import REDUCERS, AmbiguousError, Answers, Reduced, Slice, Target
from harvester.connector import Batch, State
from harvester.errors import ConnectorError
from harvester.readings import DAY, SECOND, Window

if TYPE_CHECKING:
    from connectors.prometheus.matrix import Matrix
    from connectors.prometheus.spec import Question

SMALLEST_SLICE = 60
"""Steps; a slice the server finds too large is not halved below twice this."""

_KEPT_POINTS = 100_000
"""Answers up to this size are kept for other metrics of the same slice."""

_EXPLAINED_AGAIN = DAY
"""A silent question is looked into once in so long; until then the same explanation is repeated."""


def slices(
    questions: Sequence[Question], window: Window, most_points: int
) -> Iterator[tuple[Question, Slice]]:
    """Yield every question's slices, the newest first whatever the question."""
    jobs: list[tuple[int, Question, Slice]] = []
    # An interval needs its neighbours on both sides, and both ends of them.
    most = most_points - 3
    for question in questions:
        step = question.step
        for start, end in window.spans:
            low = -(-start // step) * step
            high = -(-end // step) * step if question.spec.shape == "level" else end // step * step
            while low < high:
                below = max(low, high - most * step)
                jobs.append((high, question, Slice(below, high, Window.of(start, end))))
                high = below
    jobs.sort(key=lambda job: -job[0])
    for _, question, part in jobs:
        yield question, part


@dataclass
class Pull:
    """
    One collection of one source.

    Attributes:
        source: The source's name.
        questions: What is asked.
        client: The server.
        pool: Runs queries; its size is how many are under way at once.
        most_points: Most steps of one query.
    """

    source: str
    questions: Sequence[Question]
    client: Client
    pool: ThreadPoolExecutor
    most_points: int

    def __post_init__(self) -> None:
        self._kept: dict[tuple[str, int, int, int], Matrix] = {}
        self._kept_high = 0
        self._silent = dict.fromkeys(self.questions)
        self._answered: set[Question] = set()

    def batches(self, window: Window, state: State) -> Iterator[Batch]:
        """
        Yield what the window holds, then what could not be had and why.

        Raises:
            QueryError: after everything else was read, if the server refused a query.
            BusyError: if it asks to be left alone; the state says until when.
            ConnectorError: if it cannot be read.
        """
        refused: dict[str, QueryError] = {}
        window, note = held(self.client, window)
        if note:
            yield Batch(notes=(note,))
        for question in self.questions:
            if question.fresh is None and not question.proof:
                finding = unprovable(question)
                yield Batch(notes=(f"{finding.text} ({finding.hint})",))
        try:
            for question, part in slices(self.questions, window, self.most_points):
                if question.spec.name in refused:
                    continue
                try:
                    yield from self._read(question, part)
                except QueryError as e:
                    refused[question.spec.name] = e
        except BusyError as e:
            yield Batch(state={**state, "wait_until": window.end + round(e.wait_seconds * SECOND)})
            raise
        silent = [one for one in self._silent if one.spec.name not in refused]
        yield from self._explained(silent, window, state)
        if refused:
            first, *others = refused.values()
            more = f"; refused as well: {', '.join(list(refused)[1:])}" if others else ""
            raise type(first)(first.operation, first.target, first.cause + more, hint=first.hint) from first

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, question: Question, part: Slice) -> Iterator[Batch]:
        """Ask one slice, or its halves where the server finds it too large."""
        try:
            yield self._slice(question, part)
        except TooMuchError:
            steps = (part.high - part.low) // question.step
            if steps < 2 * SMALLEST_SLICE:
                raise
            middle = part.low + steps // 2 * question.step
            yield from self._read(question, Slice(middle, part.high, part.window))
            yield from self._read(question, Slice(part.low, middle, part.window))

    def _slice(self, question: Question, part: Slice) -> Batch:
        spec = question.spec
        target = Target(
            self.source, spec.metric, question.labels, spec.templated, "__name__" in question.value, question.grouped,
            spec.scale,
        )
        answers, notes = self._answers(question, part)
        warned = dict.fromkeys(warning for one in answers.values() if one is not None for warning in one.warnings)
        if warned:
            self._silent.pop(question, None)
            span = f"{clock_time(part.low)} to {clock_time(part.high)}"
            said = "; ".join(warned)
            return Batch(
                notes=(f"{question}: incomplete, so nothing is claimed for {span}; the server warns: {said}",)
            )
        value = answers[question.value]
        if value is None:
            raise AssertionError("the value is always asked for")
        spoke = (value, answers.get(question.seen), answers.get(question.born))
        if any(one is not None and (one.series or one.histograms) for one in spoke):
            self._silent.pop(question, None)
        other = answers.get(question.other)
        if other is not None and other.series:
            self._answered.add(question)
        try:
            reduced: Reduced = REDUCERS[spec.shape](target, _by_role(question, answers), part)
        except AmbiguousError as e:
            raise QueryError(
                "read", f"{self.source}, metric {spec.name}", f"the query yields several series that are all {e}",
                hint="aggregate, or keep a label that tells them apart",
            ) from e
        infos = dict.fromkeys(info for one in answers.values() if one is not None for info in one.infos)
        remarks = [f"{spec.name}: the server remarks: {info}" for info in infos]
        if value.histograms:
            remarks.append(
                f"{spec.name}: {value.histograms} series are native histograms, which are left out; "
                "their classic buckets or histogram_count() and histogram_sum() can be asked for"
            )
        return Batch(tuple(reduced.readings), tuple(reduced.coverage), notes=(*notes, *remarks, *reduced.notes))

    def _answers(self, question: Question, part: Slice) -> tuple[dict[str, Matrix | None], tuple[str, ...]]:
        """Ask every query of a slice, each once; None, with a note, for a companion that the server refuses."""
        if part.high != self._kept_high:
            self._kept.clear()
            self._kept_high = part.high
        spec = question.spec
        first, last = question.instants(part.low, part.high)
        target = f"{self.source}, metric {spec.name}"
        needed = {question.value, question.other, question.proof}

        def ask(query: str) -> Matrix | QueryError:
            key = (query, first, last, spec.step_seconds)
            if key in self._kept:
                return self._kept[key]
            try:
                found = self.client.query_range(query, first, last, spec.step_seconds, target)
            except TooMuchError:
                raise
            except QueryError as e:
                if query in needed:
                    raise
                return e
            if sum(len(one.at) for one in found.series) <= _KEPT_POINTS:
                self._kept[key] = found
            return found

        answers: dict[str, Matrix | None] = {}
        notes: dict[str, None] = {}
        for query, answer in zip(question.queries, self.pool.map(ask, question.queries), strict=True):
            answers[query] = None if isinstance(answer, QueryError) else answer
            if isinstance(answer, QueryError):
                what, so = {
                    question.born: ("new series", "what one counted before its first sample may be missed"),
                    question.mixed: ("one bucket layout from two", "intervals that mix them may go unseen"),
                    question.seen: ("silence from too few samples", "nothing is taken for 0"),
                }.get(query, ("fresh samples from repeated ones", "only a proof counts as coverage"))
                notes[f"{spec.name}: the server refused to tell {what} ({answer.cause}); {so}"] = None
        return answers, tuple(notes)

    # -- explaining ---------------------------------------------------------------------------------------------------

    def _explained(self, silent: Sequence[Question], window: Window, state: State) -> Iterator[Batch]:
        """Say why questions had no answer; what was found out is kept in the state and not looked up each time."""
        if not window:
            return
        before: Mapping[str, Any] = state.get("explained") or {}
        names: list[str] | None = None
        explained: dict[str, list[Any]] = {}
        for question in silent:
            key = str(question)
            known = before.get(key)
            if known and 0 <= window.end - known[0] < _EXPLAINED_AGAIN:
                explained[key] = list(known)
                continue
            if names is None:
                names = self.client.metric_names()
            explained[key] = [window.end, self._reason(question, names, window.end)]
        if explained:
            yield Batch(notes=tuple(f"{key}: {text}" for key, (_, text) in explained.items()))
        if explained != before:
            yield Batch(state={**state, "explained": explained})

    def _reason(self, question: Question, names: Sequence[str], at: int) -> str:
        if question in self._answered:
            return f"0 throughout: {reason(self.client, question, question.value, names, None)}"
        main = question.other if question.spec.shape == "ratio" else question.value
        found = reason(self.client, question, main, names, at)
        if question.seen:
            return f"0 wherever its proof holds: {found}"
        return found


def held(client: Client, window: Window) -> tuple[Window, str]:
    """
    Return the part of the window that the server's retention reaches, and a note where that is less.

    Blocks are dropped whole, when their youngest sample is out of retention, and span up to a tenth of it.
    """
    if not window or window.end - window.start <= DAY:
        return window, ""
    kept, said = retention(client)
    floor = window.end - kept * 11 // 10 if kept else window.start
    if floor <= window.start:
        return window, ""
    return (
        window & Window.of(floor, window.end),
        f"the server keeps {said}: nothing from before {clock_time(floor)} was asked for",
    )


def _by_role(question: Question, answers: Mapping[str, Matrix | None]) -> Answers:
    def fresh(queries: tuple[str, ...] | None) -> tuple[Matrix, ...] | None:
        """None where freshness cannot be told: nobody knows how to ask, or the server refused."""
        found = tuple(one for query in queries or () if (one := answers[query]) is not None)
        return found if queries is not None and len(found) == len(queries) else None

    value = answers[question.value]
    if value is None:
        raise AssertionError("the value is always asked for")
    return Answers(
        value,
        other=answers.get(question.other),
        proof=answers.get(question.proof),
        fresh=fresh(question.fresh),
        proof_fresh=fresh(question.proof_fresh),
        born=answers.get(question.born),
        seen=answers.get(question.seen),
        mixed=answers.get(question.mixed),
    )


def wait_over(source: str, window: Window, state: State) -> None:
    """
    Refuse to ask while the server wants to be left alone.

    Raises:
        ConnectorError: saying until when.
    """
    until = state.get("wait_until", 0)
    if window and isinstance(until, int) and until > window.end:
        raise ConnectorError(
            "query", source, f"the server asked to be left alone until {clock_time(until)}",
            hint="it is asked again after that", retry=True,
        )
