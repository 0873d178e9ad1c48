"""
Prometheus range queries: levels, ratios, counts and histograms.

    [subjects.checkout]
    prometheus = { service = "checkout" }

    [sources.prom]
    connector = "prometheus"
    url = "http://localhost:9090"
    packs = ["http", "saturation"]

    [[sources.prom.metrics]]
    name = "queue_length"
    shape = "level"
    unit = "messages"
    better = "lower"
    query = 'sum by (service) (rabbitmq_queue_messages_ready{$selector})'

    [[sources.prom.metrics]]
    name = "cache_hits"
    shape = "ratio"
    better = "higher"
    numerator = 'cache_gets_total{$selector,result="hit"}'
    denominator = 'cache_gets_total{$selector}'

    [[sources.prom.metrics]]
    name = "timeouts"
    shape = "count"
    unit = "timeouts"
    better = "lower"
    counter = 'http_client_timeouts_total{$selector}'
    proof = 'up{job="checkout"}'

    [[sources.prom.metrics]]
    name = "job_duration"
    shape = "distribution"
    unit = "seconds"
    better = "lower"
    buckets = 'job_duration_seconds_bucket{$selector}'
    step_seconds = 300

A query that holds `$selector` is asked once for each subject, with the subject's Prometheus labels in its place, and
its series carry those labels even where the query sums them away. One without is asked once; a series of it belongs to
a subject when it carries the subject's labels. `$step` becomes the metric's step (`step_seconds`, 60 by default).

What each shape asks for:

- level: `query`, any PromQL, read at whole steps of the clock.
- count: `counter`; ratio: `numerator` and `denominator`; distribution: `buckets` (and `sum`, found by itself for a
  plain `..._bucket`). A plain selector of counters is wrapped as `sum(increase(SELECTOR[$step]))`; `by = ["route"]`
  keeps labels. Anything else must itself be an increase over `$step`. An increase needs two samples: a step is at
  least twice as long as the scrape interval. A reading stands at the start of its interval.

What counts as proven: the steps of a series' own samples, of a ratio's denominator, and those at which every series
of `proof` has a sample other than 0 (`up` is 0 where a scrape failed; `proof = 'max(up{job="x"})'` is content with one
instance). A value that an outage only left standing (Prometheus repeats a last sample for five minutes) is neither a
reading nor proof: beside each level and each expression one small query asks which samples are fresh. NaN, the
quotient of nothing and nothing, is no reading. An interval with a gap beside it is read but not counted as complete.
Where the proof holds and the metric's silence is "zero" (the default of counts), no increase is 0. A counter's first
increment, with which it is born, is invisible to `increase`. An answer with warnings is dropped whole and said.

Ranges of more than `max_points` steps are asked in slices, the newest first; a slice the server finds too large is
halved. Nothing is asked from before the server's retention. `overlap` is at least three of the longest steps.

Credentials: `token_env`, `token_file` or `token_command` for a bearer token; `username` with `password_env`; other
headers (`headers = { X-Scope-OrgID = "acme" }`); none of them follows a redirect to another host. `params` are sent
with each query (`params = { partial_response = "false" }` for Thanos). `compression = true` saves traffic on a slow
link.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from connectors.prometheus import promql
from harvester.connector import Batch, Finding, Health, HttpConnector, State
from harvester.errors import ConnectorError
from harvester.readings import (
    DAY,
    SECOND,
    Better,
    Labels,
    Metric,
    Shape,
    Silence,
    Window,
    to_datetime,
)

if TYPE_CHECKING:
    from connectors.prometheus.client import Client
    from connectors.prometheus.matrix import Matrix
    from connectors.prometheus.shapes import Answers, Slice

_QUERIES: Mapping[str, tuple[str, ...]] = {
    "level": ("query",),
    "ratio": ("numerator", "denominator"),
    "count": ("counter",),
    "distribution": ("buckets", "sum"),
}
_SMALLEST_SLICE = 60
"""Steps; a slice the server finds too large is not halved below it."""


class MetricSpec(BaseModel):
    """
    One metric, as a pack or the settings file gives it.

    Attributes:
        name: What it is called everywhere else.
        shape: ``level``, ``ratio``, ``count`` or ``distribution``.
        unit: Base unit of the values, or of the histogram's bounds: ``seconds``, ``bytes``, ``1``.
        better: Which way is better.
        silence: What no readings in covered time mean; ``zero`` for counts, else ``unknown``.
        query: PromQL of a level.
        numerator: A ratio's counter selector, or an increase over ``$step``.
        denominator: Likewise.
        counter: A count's counter selector, or an increase over ``$step``.
        buckets: A histogram's ``_bucket`` selector, or an increase over ``$step`` that keeps ``le``.
        sum: The histogram's ``_sum``, likewise; found by itself for a plain ``_bucket`` selector.
        by: Labels kept when a plain selector is summed.
        proof: PromQL whose samples other than 0 prove that the source was watching: ``up{job="x"}``.
        statistics: Window summaries worth showing, the headline first.
        exact: Known exactly: stated, not tested.
        family: Which noise it shares with others.
        step_seconds: Distance of samples, or length of an interval.
        help: What it means, in a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")
    shape: Literal["level", "ratio", "count", "distribution"]
    unit: str = ""
    better: Better = Better.NEITHER
    silence: Silence | None = None
    query: str | None = None
    numerator: str | None = None
    denominator: str | None = None
    counter: str | None = None
    buckets: str | None = None
    sum: str | None = None
    by: tuple[str, ...] = ()
    proof: str | None = None
    statistics: tuple[str, ...] = ()
    exact: bool = False
    family: str = ""
    step_seconds: int = Field(default=60, gt=0)
    help: str = ""

    @model_validator(mode="after")
    def _fits_its_shape(self) -> MetricSpec:
        wanted = _QUERIES[self.shape]
        every = [name for names in _QUERIES.values() for name in names]
        foreign = [name for name in every if getattr(self, name) is not None and name not in wanted]
        missing = [name for name in wanted if name != "sum" and not (getattr(self, name) or "").strip()]
        if foreign or missing:
            needs = " and ".join(name for name in wanted if name != "sum")
            wrong = f"has no {', '.join(foreign)}" if foreign else f"needs {needs}"
            raise ValueError(
                f"metric {self.name}: a {self.shape} {wrong}" + (f"; it takes {needs}" if foreign else "")
            )
        if self.shape in ("level", "distribution") and not self.unit:
            raise ValueError(f'metric {self.name}: a {self.shape} needs a unit, as in unit = "seconds" or unit = "1"')
        if self.shape == "level" and self.by:
            raise ValueError(f"metric {self.name}: by is for sums of counters; a level says it in its query")
        if self.shape != "level":
            for name in wanted:
                text = getattr(self, name)
                if text and not promql.is_plain(text) and "$step" not in text:
                    raise ValueError(
                        f"metric {self.name}: {name} is an expression, so it must be an increase over $step itself, "
                        "as in sum(increase(requests_total[$step]))"
                    )
        _ = self.metric  # the vocabulary's own checks
        return self

    @property
    def templates(self) -> tuple[str, ...]:
        """Every query a person wrote, the proof included."""
        return tuple(text for name in (*_QUERIES[self.shape], "proof") if (text := getattr(self, name)))

    @property
    def templated(self) -> bool:
        """Whether it is asked once for each subject."""
        return any(promql.is_templated(text) for text in self.templates)

    def asked(self, by: Sequence[str] = ()) -> tuple[str, ...]:
        """Return its queries as templates: plain counter selectors wrapped, summed ``by`` these labels."""
        if self.shape == "level":
            return (str(self.query),)
        if self.shape == "distribution":
            buckets, sums = str(self.buckets), self.sum
            if sums is None and re.match(r"\s*\w+_bucket\b", buckets) and promql.is_plain(buckets):
                sums = buckets.replace("_bucket", "_sum", 1)
            return (
                promql.summed(buckets, ["le", *by]),
                *((promql.summed(sums, by),) if sums else ()),
            )
        return tuple(promql.summed(str(getattr(self, name)), by) for name in _QUERIES[self.shape])

    @property
    def metric(self) -> Metric:
        """What it yields; a distribution's bounds become known with its readings."""
        silence = self.silence or (Silence.ZERO if self.shape == "count" else Silence.UNKNOWN)
        return Metric(
            name=self.name,
            unit=self.unit or "1",
            shape=Shape(self.shape),
            better=self.better,
            silence=silence,
            query=(" / " if self.shape == "ratio" else "; ").join(self.asked(self.by)),
            step_seconds=self.step_seconds,
            statistics=self.statistics,
            exact=self.exact,
            family=self.family,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """
    One metric asked for one subject, or for all at once.

    Attributes:
        spec: The metric.
        labels: The subject's labels, given to every series; empty where it is asked for all.
        value: PromQL of the level, numerator, counter or buckets.
        other: PromQL of the denominator or the buckets' sum, or ``""``.
        proof: PromQL of the proof, or ``""``.
        grouped: Whether it may yield several series.
    """

    spec: MetricSpec
    labels: Labels
    value: str
    other: str
    proof: str
    grouped: bool

    @property
    def fresh(self) -> tuple[str, ...]:
        """Companion queries that tell fresh samples; a plain increase needs none, its neighbours tell."""
        text = self.other if self.spec.shape == "ratio" else self.value
        source = {"level": "query", "ratio": "denominator", "count": "counter", "distribution": "buckets"}
        if self.spec.shape != "level" and promql.is_plain(getattr(self.spec, source[self.spec.shape]) or ""):
            return ()
        return promql.fresh_queries(text, self.spec.step_seconds)

    @property
    def proof_fresh(self) -> tuple[str, ...]:
        """The same for the proof."""
        return promql.fresh_queries(self.proof, self.spec.step_seconds) if self.proof else ()

    @property
    def queries(self) -> tuple[str, ...]:
        """All queries one slice of it asks, companions included."""
        own = [self.value, self.other, *self.fresh, self.proof, *self.proof_fresh]
        return tuple(dict.fromkeys(one for one in own if one))


class Prometheus(HttpConnector):
    """
    A Prometheus server, or anything that answers its HTTP API.

    Attributes:
        metrics: What is asked.
        headers: Sent with each request; credentials belong elsewhere.
        username: For basic authentication, with ``password_env``.
        password_env: Name of the environment variable that holds the password.
        params: Sent with each query.
        max_points: Most steps of one query; Prometheus itself allows 11,000.
        concurrency: Most queries under way at once.
        compression: Whether answers are compressed: for slow links; on near ones it costs more than it saves.
    """

    metrics: tuple[MetricSpec, ...] = Field(min_length=1)
    headers: dict[str, str] = Field(default_factory=dict)
    username: str | None = None
    password_env: str | None = None
    params: dict[str, str] = Field(default_factory=dict)
    max_points: int = Field(default=11_000, ge=10, le=100_000)
    concurrency: int = Field(default=2, ge=1, le=16)
    compression: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Prometheus:
        names = [one.name for one in self.metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"two metrics are named {twice[0]}; rename one, or drop one of the packs (another source can have it)"
            )
        if any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("headers holds a credential: use token_env, token_file or token_command")
        if (self.username is None) != (self.password_env is None):
            raise ValueError("username and password_env go together")
        if self.username and (self.token_env or self.token_file or self.token_command):
            raise ValueError("give a token or a username, not both")
        # An interval is complete one step after its end and is asked for from its start.
        least = timedelta(seconds=3 * max(one.step_seconds for one in self.metrics))
        if self.overlap < least:
            self.__dict__["overlap"] = least  # the model is frozen against its users, not against itself
        return self

    def definitions(self) -> Sequence[Metric]:
        return tuple(one.metric for one in self.metrics)

    def questions(self) -> tuple[Question, ...]:
        """Return what is asked, in the order of the settings, templates filled in. Contacts nothing."""
        return tuple(question for spec in self.metrics for question in self._questions(spec))

    def _questions(self, spec: MetricSpec) -> Iterator[Question]:
        step = f"{spec.step_seconds}s"
        if not spec.templated:
            # So that series of counters can still be told apart by subject.
            by = spec.by or tuple(sorted({name for one in self.subjects for name, _ in one.labels}))
            asked = [promql.fill(text, {"selector": "", "step": step}) for text in spec.asked(by)]
            proof = promql.fill(spec.proof or "", {"selector": "", "step": step})
            plain = spec.shape == "count" and promql.is_plain(spec.counter or "")
            yield Question(spec, (), asked[0], asked[1] if len(asked) > 1 else "", proof, bool(by) or not plain)
            return
        for subject in self.subjects:
            if not subject.labels:
                continue
            values = {"selector": promql.matchers(subject.labels), "step": step}
            asked = [promql.fill(text, values) for text in spec.asked(spec.by)]
            yield Question(
                spec, subject.labels, asked[0], asked[1] if len(asked) > 1 else "",
                promql.fill(spec.proof or "", values), bool(spec.by),
            )

    # -- collecting ---------------------------------------------------------------------------------------------------

    def collect(self, window: Window, state: State) -> Iterator[Batch]:
        from connectors.prometheus.client import BusyError, QueryError

        wait_until = state.get("wait_until", 0)
        if window and isinstance(wait_until, int) and wait_until > window.end:
            raise ConnectorError(
                "query", self.source, f"the server asked to be left alone until {_clock(wait_until)}",
                hint="it is asked again after that", retry=True,
            )
        if notes := self._unasked():
            yield Batch(notes=notes)
        refused: dict[str, QueryError] = {}
        silent = dict.fromkeys(self.questions())
        with self._client() as client, ThreadPoolExecutor(self.concurrency) as pool:
            held, note = self._held(client, window)
            if note:
                yield Batch(notes=(note,))
            try:
                for question, part in self._slices(silent, held):
                    if question.spec.name in refused:
                        continue
                    try:
                        for batch in self._pull(client, pool, question, part):
                            if batch.readings or batch.notes:
                                silent.pop(question, None)
                            yield batch
                    except QueryError as e:
                        refused[question.spec.name] = e
            except BusyError as e:
                yield Batch(state={"wait_until": window.end + round(e.wait_seconds * SECOND)})
                raise
            explained = self._explain(client, [one for one in silent if one.spec.name not in refused], held)
            if explained:
                yield Batch(notes=explained)
        if refused:
            first, *others = refused.values()
            more = f"; refused as well: {', '.join(list(refused)[1:])}" if others else ""
            raise type(first)(first.operation, first.target, first.cause + more, hint=first.hint) from first

    def _unasked(self) -> tuple[str, ...]:
        """Say which metrics nobody can be asked for."""
        if any(one.labels for one in self.subjects):
            return ()
        waiting = [one.name for one in self.metrics if one.templated]
        note = (
            f"not asked, because no subject has Prometheus labels: {', '.join(waiting)} "
            '(add [subjects.NAME] with prometheus = { service = "..." })'
        )
        return (note,) if waiting else ()

    def _held(self, client: Client, window: Window) -> tuple[Window, str]:
        """Return the part of the window that the server's retention reaches, and a note where that is less."""
        if not window or window.end - window.start <= DAY:
            return window, ""
        retention, said = _retention(client)
        floor = window.end - retention if retention else window.start
        if floor <= window.start:
            return window, ""
        return (
            window & Window.of(floor, window.end),
            f"the server keeps {said}: nothing from before {_clock(floor)} was asked for",
        )

    def _slices(self, questions: Mapping[Question, None], window: Window) -> Iterator[tuple[Question, Slice]]:
        """Yield every question's slices, the newest first whatever the question."""
        from connectors.prometheus.shapes import Slice

        jobs: list[tuple[int, Question, Slice]] = []
        # An interval needs its neighbours on both sides, and both ends of them.
        most = self.max_points - 3
        for question in questions:
            step = question.spec.step_seconds * SECOND
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

    def _pull(self, client: Client, pool: ThreadPoolExecutor, question: Question, part: Slice) -> Iterator[Batch]:
        """Ask one slice, or its halves where the server finds it too large."""
        from connectors.prometheus.client import TooMuchError
        from connectors.prometheus.shapes import Slice

        try:
            yield self._read(client, pool, question, part)
        except TooMuchError:
            step = question.spec.step_seconds * SECOND
            steps = (part.high - part.low) // step
            if steps < 2 * _SMALLEST_SLICE:
                raise
            middle = part.low + steps // 2 * step
            yield from self._pull(client, pool, question, Slice(middle, part.high, part.window))
            yield from self._pull(client, pool, question, Slice(part.low, middle, part.window))

    def _read(self, client: Client, pool: ThreadPoolExecutor, question: Question, part: Slice) -> Batch:
        from connectors.prometheus.client import QueryError
        from connectors.prometheus.shapes import REDUCERS, AmbiguousError, Target

        spec = question.spec
        answers, notes = self._answers(client, pool, question, part)
        if answers is None:
            return Batch(notes=notes)
        target = Target(
            self.source, spec.metric, question.labels, spec.templated, "__name__" in question.value, question.grouped
        )
        try:
            reduced = REDUCERS[spec.shape](target, answers, part)
        except AmbiguousError as e:
            raise QueryError(
                "read", f"{self.source}, metric {spec.name}", f"the query yields several series that are all {e}",
                hint="aggregate, or keep a label that tells them apart",
            ) from e
        if answers.value.histograms:
            said = (
                f"{spec.name}: {answers.value.histograms} series are native histograms, which are left out; "
                "their classic buckets or histogram_count() and histogram_sum() can be asked for"
            )
            notes = (*notes, said)
        return Batch(tuple(reduced.readings), tuple(reduced.coverage), notes=(*notes, *reduced.notes))

    def _answers(
        self, client: Client, pool: ThreadPoolExecutor, question: Question, part: Slice
    ) -> tuple[Answers | None, tuple[str, ...]]:
        """Ask every query of a slice; None, with a note, where a warning makes the answers prove nothing."""
        from connectors.prometheus.client import QueryError, TooMuchError
        from connectors.prometheus.shapes import Answers

        spec, step = question.spec, question.spec.step_seconds * SECOND
        target = f"{self.source}, metric {spec.name}"
        level = spec.shape == "level"
        # Intervals are evaluated at their ends, with one more on either side to tell whole ones from broken ones.
        first, last = (part.low, part.high - step) if level else (part.low, part.high + step)

        def ask(query: str, companion: bool) -> Matrix | QueryError | None:
            if not query:
                return None
            try:
                return client.query_range(query, first, last, spec.step_seconds, target)
            except TooMuchError:
                raise
            except QueryError as e:
                if companion:
                    return e
                raise

        fresh, proof_fresh = question.fresh, question.proof_fresh
        asked = [(question.value, False), (question.other, False), (question.proof, False)]
        asked += [(query, True) for query in (*fresh, *proof_fresh)]
        answered = list(pool.map(lambda one: ask(*one), asked))
        notes: list[str] = []
        matrices: list[Matrix | None] = []
        for one in answered:
            if isinstance(one, QueryError):
                notes.append(
                    f"{spec.name}: the server refused to tell fresh samples from repeated ones ({one.cause}); "
                    "gaps shorter than five minutes may go unseen"
                )
                matrices.append(None)
            else:
                matrices.append(one)
        warned = dict.fromkeys(warning for one in matrices if one is not None for warning in one.warnings)
        if warned:
            span = f"{_clock(part.low)} to {_clock(part.high)}"
            return None, (
                f"{spec.name}: incomplete, so nothing is claimed for {span}; the server warns: {'; '.join(warned)}",
            )
        value, other, proof, *rest = matrices
        if value is None:
            raise AssertionError("the value is always asked for")
        own, of_proof = rest[: len(fresh)], rest[len(fresh) :]
        plain, plain_proof = level and promql.is_plain(question.value), promql.is_plain(question.proof)
        return Answers(
            value, other, proof,
            stale=own[0] if plain and own else None,
            fresh=() if plain else tuple(one for one in own if one is not None),
            proof_stale=of_proof[0] if plain_proof and of_proof else None,
            proof_fresh=() if plain_proof else tuple(one for one in of_proof if one is not None),
        ), tuple(notes)

    # -- explaining ---------------------------------------------------------------------------------------------------

    def _explain(self, client: Client, silent: Sequence[Question], window: Window) -> tuple[str, ...]:
        """Say why questions had no answer, as far as the server can tell."""
        if not silent or not window:
            return ()
        names = client.metric_names()
        return tuple(f"{one.spec.name}: {self._reason(client, one, names, window.end)}" for one in silent)

    def _reason(self, client: Client, question: Question, names: Sequence[str], at: int) -> str:
        spec = question.spec
        for query in (question.other, question.value) if spec.shape == "ratio" else (question.value,):
            for selector in promql.selectors(query) or ():
                name = promql.name_of(selector)
                if names and name and name not in names:
                    near = difflib.get_close_matches(name, names, 3, 0.6)
                    like = f"; near it: {', '.join(near)}" if near else ""
                    return f"{query} found nothing: the server knows no metric {name}{like}"
                if spec.shape != "level" and self._exists(client, selector, at):
                    return (
                        f"{query} found nothing, though {selector} has samples: an increase needs two in each step, "
                        f"so step_seconds (now {spec.step_seconds}) must be at least twice the scrape interval"
                    )
        who = f" of {promql.matchers(question.labels)}" if question.labels else ""
        return f"{question.value} found nothing{who} in this window; do the label values match?"

    def _exists(self, client: Client, selector: str, at: int) -> bool:
        try:
            data, _ = client.query(f"count({selector})", at)
        except ConnectorError:
            return False
        return bool(data.get("result"))

    # -- checking -----------------------------------------------------------------------------------------------------

    def check(self) -> Health:
        from connectors.prometheus.client import host_of

        findings: list[Finding] = []
        oldest: int | None = None
        hosts = (host_of(self.url),)
        try:
            with self._client() as client:
                findings.append(_clock_finding(client))
                version = _tolerant(client, "/api/v1/status/buildinfo").get("version")
                findings.append(Finding("ok", f"reachable at {hosts[0]}" + (f", version {version}" if version else "")))
                oldest, finding = self._oldest(client)
                findings.append(finding)
                findings += [Finding("warning", note) for note in self._unasked()]
                findings += self._answered(client)
        except ConnectorError as e:
            findings.append(Finding("failed", f"{e.operation} {e.target}: {e.cause}", e.hint))
        return Health(tuple(findings), oldest, hosts)

    def _answered(self, client: Client) -> Iterator[Finding]:
        from connectors.prometheus.client import QueryError

        names: list[str] | None = None
        now = round(time.time() * SECOND)
        for question in self.questions():
            who = f" for {promql.matchers(question.labels)}" if question.labels else ""
            main = question.other if question.spec.shape == "ratio" else question.value
            try:
                for query in filter(None, (question.value, question.other, question.proof)):
                    data, warnings = client.query(query, target=f"{self.source}, metric {question.spec.name}")
                    found = data.get("resultType") == "scalar" or bool(data.get("result"))
                    if query == main:
                        answered = found
                    for warning in warnings:
                        yield Finding("warning", f"{question.spec.name}{who}: the server warns: {warning}")
                    if query == question.proof and not found:
                        yield Finding("warning", f"{question.spec.name}{who}: the proof {query} finds nothing now")
            except QueryError as e:
                yield Finding("failed", f"{question.spec.name}: {e.cause}", e.hint)
                continue
            if answered:
                yield Finding("ok", f"{question.spec.name}{who} answers")
                yield from self._kind(client, question)
                continue
            if names is None:
                names = client.metric_names()
            yield Finding("warning", f"{question.spec.name}{who}: {self._reason(client, question, names, now)}")

    def _kind(self, client: Client, question: Question) -> Iterator[Finding]:
        name = promql.name_of(question.value) if question.spec.shape == "level" else ""
        if name and client.metric_type(name) == "counter":
            yield Finding(
                "warning", f"{question.spec.name}: {name} is a counter, and its running total is no level",
                f'use rate({name}[5m]), or shape = "count"',
            )

    def _oldest(self, client: Client) -> tuple[int | None, Finding]:
        """Return the oldest instant with samples, to within an hour or so, and a sentence about it."""
        retention, said = _retention(client)
        now = round(time.time() * SECOND)
        reach = retention or round(self.reach.total_seconds() * SECOND)
        # One coarse query; an instant that falls into a gap only makes the answer a little younger.
        step = max(3600, -(-reach // SECOND // min(10_000, self.max_points - 1)))
        keeps = f"it keeps {said}" if said else "it does not say how long it keeps samples"
        found: list[int] = []
        for query in ("count(up)", *(f"count({one.value})" for one in self.questions()[:1])):
            try:
                found += [int(one.at[0]) for one in client.query_range(query, now - reach, now, step).series]
            except ConnectorError:
                continue
        if found:
            days = (now - min(found)) / DAY
            return min(found), Finding("ok", f"{keeps}; its oldest samples are {days:.1f} days old")
        return (now - retention if retention else None), Finding(
            "ok" if said else "warning", keeps, "" if said else "older windows are asked for and may come back empty"
        )

    # -- connecting ---------------------------------------------------------------------------------------------------

    def _client(self) -> Client:
        from connectors.prometheus.client import Client

        basic: tuple[str, SecretStr] | None = None
        if self.username is not None and self.password_env is not None:
            password = os.environ.get(self.password_env, "")
            if not password:
                raise ConnectorError(
                    "read password of", self.source, f"the environment variable {self.password_env} is not set",
                    hint=f"export {self.password_env}=...",
                )
            basic = (self.username, SecretStr(password))
        return Client(
            self.source, self.url, timeout_seconds=self.timeout.total_seconds(), headers=self.headers,
            token=self.token(), basic=basic, ca_file=self.ca_file, proxy=self.proxy, params=self.params,
            compression=self.compression,
        )


def _tolerant(client: Client, path: str) -> Mapping[str, Any]:
    """Return a status page, or nothing where the server (Thanos, Mimir, a proxy) has none or forbids it."""
    try:
        data = client.get(path)
    except ConnectorError as e:
        if e.retry:
            raise
        return {}
    return data if isinstance(data, dict) else {}


def _retention(client: Client) -> tuple[int, str]:
    """Return how long the server keeps samples in milliseconds, or 0 where it does not say, and its own words."""
    said = str(_tolerant(client, "/api/v1/status/runtimeinfo").get("storageRetention") or "")
    found = re.match(r"((?:\d+(?:ms|[smhdwy]))+)(?:\s|$)", said)
    if not found:
        return 0, ""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31_536_000}
    parts = re.findall(r"(\d+)(ms|[smhdwy])", found[1])
    return round(sum(int(number) * units[unit] for number, unit in parts) * SECOND), said


def _clock_finding(client: Client) -> Finding:
    """Compare the server's clock with ours; also the first contact, whose failure says all."""
    before = time.time()
    data, _ = client.query("time()")
    after = time.time()
    try:
        theirs = float(data["result"][1])
    except (KeyError, IndexError, TypeError, ValueError):
        return Finding("warning", "the server does not tell its time", "is it a Prometheus API?")
    skew = theirs - before if theirs < before else max(0.0, theirs - after)
    if abs(skew) < 10:
        return Finding("ok", "its clock agrees with ours")
    way = "ahead of" if skew > 0 else "behind"
    hint = "set both by NTP; until then the newest samples are missed or misplaced"
    return Finding("warning", f"its clock is {abs(skew):.0f} s {way} ours", hint)


def _clock(milliseconds: int) -> str:
    return f"{to_datetime(milliseconds):%Y-%m-%d %H:%M} UTC"
