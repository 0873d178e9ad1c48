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

- level: `query`, any PromQL, read at whole steps of the clock. A plain selector yields the samples of its step only.
- count: `counter`, a plain selector, counted exactly: the difference of the counters at both ends of a step, restarts
  included. It needs one sample a step.
- ratio: `numerator` and `denominator`; distribution: `buckets` (and `sum`, found by itself for a plain `..._bucket`).
  A plain selector of counters is wrapped as `sum(increase(SELECTOR[$step]))`, an estimate that needs two samples: a
  step is at least twice as long as the scrape interval.
- `by = ["route"]` keeps labels where a plain selector is summed. Anything else than a plain selector must itself be an
  increase over `$step`; a count of such an expression is an estimate too, which may tell 0 where there was one.

A reading over an interval stands at the interval's start.

What counts as proven: the steps of a series' own samples, of a ratio's denominator, and those at which every series
of `proof` has a sample other than 0 (`up` is 0 where a scrape failed; `proof = 'max(up{job="x"})'` is content with one
instance). A value that an outage only left standing (Prometheus repeats a last sample for five minutes, and
`or vector(0)` speaks for ever) is neither a reading nor proof: beside an expression that outlives its samples one small
query asks where they are fresh. NaN, the quotient of nothing and nothing, is no reading. An interval with a gap beside
it, or in which series with different buckets were summed, is not counted as complete. An answer with warnings is
dropped whole and said.

Where the proof holds, the counter has had no samples for five minutes and the metric's silence is "zero" (the default
of counts), there was nothing to count: 0. What a new series stands at when it is first seen is counted where the proof
holds with the same series on both sides; elsewhere it may be old, and where it could be more than 1 % of a count, the
interval is not counted as complete. Ratios and distributions do not see it: export counters at 0 from the start.

Ranges of more than `max_points` steps are asked in slices, the newest first; a slice the server finds too large is
halved. Nothing is asked from before the server's retention, and a query of more than `max_series` series is refused.
At least three of the longest steps are asked again, whatever `overlap` says.

Credentials: `token_env`, `token_file` or `token_command` for a bearer token; `username` with `password_env`; a client
certificate by `certificate_file` and `key_file`; other headers (`headers = { X-Scope-OrgID = "acme" }`). None of them
follows a redirect to another host. `params` are sent with each query (`params = { partial_response = "false" }` for
Thanos). `compression = true` saves traffic on a slow link.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr, model_validator

from connectors.prometheus.spec import MetricSpec, Question, questions, unasked
from harvester.connector import Batch, Health, HttpConnector, State
from harvester.errors import ConnectorError
from harvester.readings import SECOND, Labels, Metric, Window

if TYPE_CHECKING:
    from connectors.prometheus.client import Client


@dataclass(frozen=True, slots=True)
class Planned:
    """
    One query of a collection that is yet to come.

    Attributes:
        metric: The metric's name.
        labels: The subject it is asked for; empty where it is asked for all at once.
        query: PromQL, as it is sent.
        requests: How many requests the window needs.
        points: Most points of each series it yields, all requests together.
    """

    metric: str
    labels: Labels
    query: str
    requests: int
    points: int


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
        max_series: Most series of one answer, buckets counted each; more are refused.
        certificate_file: A client certificate, with ``key_file``.
        key_file: Its key, not encrypted.
        compression: Whether answers are compressed: for slow links; on near ones it costs more than it saves.
    """

    metrics: tuple[MetricSpec, ...] = Field(min_length=1)
    headers: dict[str, str] = Field(default_factory=dict)
    username: str | None = None
    password_env: str | None = None
    params: dict[str, str] = Field(default_factory=dict)
    max_points: int = Field(default=11_000, ge=10, le=100_000)
    concurrency: int = Field(default=2, ge=1, le=16)
    max_series: int = Field(default=5_000, ge=1)
    certificate_file: Path | None = None
    key_file: Path | None = None
    compression: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Prometheus:
        names = [one.name for one in self.metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"two metrics are named {twice[0]}; rename one, or drop one of the packs (another source can have it)"
            )
        if any(name.lower() in ("authorization", "proxy-authorization", "cookie") for name in self.headers):
            raise ValueError("headers holds a credential: use token_env, token_file or token_command")
        if (self.username is None) != (self.password_env is None):
            raise ValueError("username and password_env go together")
        if self.username and (self.token_env or self.token_file or self.token_command):
            raise ValueError("give a token or a username, not both")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self

    def least_overlap(self) -> timedelta:
        # An interval is complete one step after its end and is asked for from its start.
        return timedelta(seconds=3 * max(one.step_seconds for one in self.metrics))

    def definitions(self) -> Sequence[Metric]:
        return tuple(one.metric for one in self.metrics)

    def questions(self) -> tuple[Question, ...]:
        """Return what is asked, in the order of the settings, templates filled in. Contacts nothing."""
        return questions(self.metrics, self.subjects)

    def plan(self, window: Window) -> tuple[Planned, ...]:
        """
        Return the queries that collecting a window asks, each once, in the order of the settings. Contacts nothing.

        What the server does not hold, or finds too large, changes their number; how many series answer is not known.
        """
        from connectors.prometheus.pull import slices

        planned: dict[tuple[str, tuple[tuple[int, int], ...]], Planned] = {}
        for question in self.questions():
            spans = [
                question.instants(part.low, part.high)
                for _, part in slices([question], window, self.max_points)
            ]
            points = sum((last - first) // question.step + 1 for first, last in spans)
            for query in question.queries:
                one = Planned(question.spec.name, question.labels, query, len(spans), points)
                planned.setdefault((query, tuple(spans)), one)
        return tuple(planned.values())

    def collect(self, window: Window, state: State) -> Iterator[Batch]:
        from connectors.prometheus.pull import Pull, wait_over

        wait_over(self.source, window, state)
        if notes := unasked(self.metrics, self.subjects):
            yield Batch(notes=notes)
        with self._client() as client, ThreadPoolExecutor(self.concurrency) as pool:
            yield from Pull(self.source, self.questions(), client, pool, self.max_points).batches(window, state)

    def check(self) -> Health:
        from connectors.prometheus.health import examine

        return examine(
            self._client, self.url, self.questions(),
            reach=round(self.reach.total_seconds() * SECOND),
            notes=unasked(self.metrics, self.subjects),
            most_points=self.max_points,
        )

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
        certificate = (self.certificate_file, self.key_file) if self.certificate_file and self.key_file else None
        return Client(
            self.source, self.url, timeout_seconds=self.timeout.total_seconds(), headers=self.headers,
            token=self.token(), basic=basic, ca_file=self.ca_file, certificate=certificate, proxy=self.proxy,
            params=self.params, compression=self.compression, most_series=self.max_series,
        )
