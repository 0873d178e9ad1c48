"""What is asked: a metric as the settings give it, and the queries it becomes for each subject. Contacts nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from connectors.prometheus import promql
from harvester.readings import SECOND, Better, Labels, Metric, Shape, Silence, Subject

_QUERIES: Mapping[str, tuple[str, ...]] = {
    "level": ("query",),
    "ratio": ("numerator", "denominator"),
    "count": ("counter",),
    "distribution": ("buckets", "sum"),
}


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
        scale: What the histogram's bounds and sum are multiplied by to be in ``unit``: 0.001 for milliseconds.
        by: Labels kept when a plain selector is summed.
        proof: PromQL whose samples other than 0 prove that the source was watching: ``up{job="x"}``.
        statistics: Window summaries worth showing, the headline first.
        exact: Known exactly: stated, not tested.
        family: Which noise it shares with others.
        step_seconds: Distance of samples, or length of an interval.
        context: Metrics it is misread without: of a latency, its request rate and error ratio.
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
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    by: tuple[str, ...] = ()
    proof: str | None = None
    statistics: tuple[str, ...] = ()
    exact: bool = False
    family: str = ""
    step_seconds: int = Field(default=60, gt=0)
    context: tuple[str, ...] = ()
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
        if self.scale != 1 and self.shape != "distribution":
            raise ValueError(f"metric {self.name}: scale is for histograms; a {self.shape} says it in its query")
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
        if self.shape == "count" and promql.is_plain(str(self.counter)):
            return (promql.counted(str(self.counter), by, self.step_seconds),)
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
            context=self.context,
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
        fresh: Queries that tell where the value rests on samples of its step; None where no query can.
        proof_fresh: The same for the proof.
        born: Of a plain counter: what series stand at that are new at an interval's end.
        mixed: Of a plain histogram: where its series do not all have the same buckets.
        seen: Of a count whose silence is 0: where the counter had samples at all, which is no silence.
    """

    spec: MetricSpec
    labels: Labels
    value: str
    other: str = ""
    proof: str = ""
    grouped: bool = False
    fresh: tuple[str, ...] | None = ()
    proof_fresh: tuple[str, ...] | None = ()
    born: str = ""
    seen: str = ""
    mixed: str = ""

    def __str__(self) -> str:
        return self.spec.name + (f" of {promql.matchers(self.labels)}" if self.labels else "")

    @property
    def step(self) -> int:
        """Distance of samples or length of an interval, in milliseconds."""
        return self.spec.step_seconds * SECOND

    @property
    def queries(self) -> tuple[str, ...]:
        """All queries one slice of it asks, each once, the value first."""
        own = [self.value, self.other, self.proof, *(self.fresh or ()), *(self.proof_fresh or ())]
        own += [self.born, self.seen, self.mixed]
        return tuple(dict.fromkeys(one for one in own if one))

    def instants(self, low: int, high: int) -> tuple[int, int]:
        """
        Return the first and last instant to evaluate for readings at ``[low, high)``, milliseconds UTC.

        Intervals are evaluated at their ends, with one more on either side to tell whole ones from broken ones.
        """
        return (low, high - self.step) if self.spec.shape == "level" else (low, high + self.step)


def questions(specs: Sequence[MetricSpec], subjects: Sequence[Subject]) -> tuple[Question, ...]:
    """Return what is asked, in the order of the settings, templates filled in."""
    return tuple(question for spec in specs for question in _questions(spec, subjects))


def _questions(spec: MetricSpec, subjects: Sequence[Subject]) -> Iterator[Question]:
    if spec.templated:
        for subject in subjects:
            if subject.labels:
                yield _question(spec, subject.labels, spec.by)
        return
    # So that series of counters can still be told apart by subject.
    by = spec.by or tuple(sorted({name for one in subjects for name, _ in one.labels}))
    yield _question(spec, (), () if spec.shape == "level" else by)


def _question(spec: MetricSpec, labels: Labels, by: Sequence[str]) -> Question:
    step = spec.step_seconds
    values = {"selector": promql.matchers(labels), "step": f"{step}s"}
    value, other = (*(promql.fill(text, values) for text in spec.asked(by)), "")[:2]
    proof = promql.fill(spec.proof or "", values)
    counter = promql.fill(spec.counter or "", values)
    counter = counter if promql.is_plain(counter) else ""
    buckets = promql.fill(spec.buckets or "", values)
    seen = ""
    if proof and spec.shape == "count" and spec.metric.silence is Silence.ZERO:
        seen = promql.sampled(counter, by, step) if counter else promql.sampled_any(value, step)
    fresh = () if counter else promql.fresh_queries(other if spec.shape == "ratio" else value, step)
    if spec.shape == "level" and promql.is_plain(value):
        value, fresh = promql.current(value, step), ()
    proof_fresh: tuple[str, ...] | None = ()
    if promql.is_plain(proof):
        proof = promql.current(proof, step)
    elif proof:
        proof_fresh = promql.fresh_queries(proof, step)
    return Question(
        spec, labels, value, other, proof,
        grouped=bool(by) or not (counter or promql.is_single(value)),
        fresh=fresh,
        proof_fresh=proof_fresh,
        born=promql.born(counter, by, step) if counter else "",
        seen=seen,
        mixed=promql.mixed(buckets, by) if promql.is_plain(buckets) else "",
    )


def unasked(specs: Sequence[MetricSpec], subjects: Sequence[Subject]) -> tuple[str, ...]:
    """Say which metrics nobody can be asked for."""
    waiting = [one.name for one in specs if one.templated]
    if not waiting or any(one.labels for one in subjects):
        return ()
    note = f"not asked, because no subject has Prometheus labels: {', '.join(waiting)}"
    return (f'{note} (add [subjects.NAME] with prometheus = {{ service = "..." }})',)
