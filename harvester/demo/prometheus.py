"""
A Prometheus on loopback that holds the made-up company's history and answers a published list of queries.

It follows the HTTP API of Prometheus 2.42: paths, parameters, limits, error texts and the form of the answers
(https://prometheus.io/docs/prometheus/latest/querying/api/). A query that is not of a form in ``PUBLISHED`` is answered
with 400 ``bad_data``; label matchers may be anything. ``tests/demo`` compares every published query with a real server.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from harvester import __version__
from harvester.demo.company import HELP, JOB, SCRAPE, SERVICES, Company, Raw
from harvester.demo.promql import (
    Expression,
    Number,
    ParseError,
    Selector,
    Time,
    Vector,
    evaluate,
    form,
    parse,
    parse_duration,
)
from harvester.readings import SECOND, to_datetime

MOST_POINTS = 11_000
RETENTION = "90d"

PUBLISHED: tuple[str, ...] = (
    "sum by (le) (increase(http_request_duration_seconds_bucket[5m]))",
    "sum(increase(http_request_duration_seconds_sum[5m]))",
    "stddev(count by (le) (http_request_duration_seconds_bucket)) > 0",
    "sum(increase(http_requests_total[5m]))",
    "sum(rate(http_requests_total[5m]))",
    "count(sum by (le) (increase(http_request_duration_seconds_bucket[5m])))",
    "sum(rate(process_cpu_seconds_total[5m]))",
    "sum(process_resident_memory_bytes)",
    "process_resident_memory_bytes",
    "avg(up)",
    "count(up)",
    "up",
)
"""The queries the demo answers, each with any label matchers (``{service="search",code=~"5.."}``), besides scalars."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, content type, body."""

    status: int
    content: str
    body: bytes


class _Refusal(Exception):
    """A request that Prometheus refuses as ``bad_data``."""


class Api:
    """
    The HTTP API as a function from a request to an answer; knows no sockets.

    Attributes:
        company: Whose history it serves.
        clock: The present, milliseconds UTC: later samples have not been scraped yet.
        published: Queries it answers.
    """

    def __init__(
        self,
        company: Company,
        clock: Callable[[], int],
        published: Sequence[str] = PUBLISHED,
        series: Sequence[Raw] = (),
    ) -> None:
        self.company = company
        self.clock = clock
        self.published = tuple(published)
        self._forms = {form(parse(query)) for query in self.published}
        self._series = list(series) or list(company.series())
        self._started = clock()

    def answer(self, method: str, path: str, parameters: Mapping[str, Sequence[str]]) -> Answer:
        """Answer one request; parameters are those of the address and of a POST form together."""
        routes = {
            "/api/v1/query": (self._query, ("GET", "POST")),
            "/api/v1/query_range": (self._query_range, ("GET", "POST")),
            "/api/v1/series": (self._list_series, ("GET", "POST")),
            "/api/v1/labels": (self._list_labels, ("GET", "POST")),
            "/api/v1/metadata": (self._metadata, ("GET",)),
            "/api/v1/targets": (self._targets, ("GET",)),
            "/api/v1/status/buildinfo": (self._buildinfo, ("GET",)),
            "/api/v1/status/runtimeinfo": (self._runtimeinfo, ("GET",)),
            "/api/v1/status/flags": (self._flags, ("GET",)),
        }
        texts = {
            "/-/healthy": "Prometheus Server is Healthy.\n",
            "/-/ready": "Prometheus Server is Ready.\n",
            "/": f"The Prometheus of harvester's demo. It answers\n\n{self._listed()}\n\nwith any label matchers.\n",
        }
        if path in texts:
            return _text(200, texts[path])
        label = path.removeprefix("/api/v1/label/").removesuffix("/values")
        if path == f"/api/v1/label/{label}/values":
            handler: Callable[[Mapping[str, Sequence[str]]], bytes] = partial(self._label_values, label)
            methods: tuple[str, ...] = ("GET",)
        elif path in routes:
            handler, methods = routes[path]
        else:
            return _text(404, "404 page not found\n")
        if method not in methods:
            return _text(405, "Method Not Allowed\n")
        try:
            return Answer(200, "application/json", b'{"status":"success","data":' + handler(parameters) + b"}")
        except _Refusal as refusal:
            said = {"status": "error", "errorType": "bad_data", "error": str(refusal)}
            return Answer(400, "application/json", _json(said))

    def _listed(self) -> str:
        return "\n".join(self.published)

    # -- queries

    def _expression(self, parameters: Mapping[str, Sequence[str]], *, instant: bool) -> Expression:
        query = _first(parameters, "query")
        try:
            expression = parse(query)
        except ParseError as e:
            raise _Refusal(f'invalid parameter "query": {e}' if instant else str(e)) from None
        if not isinstance(expression, Number | Time) and form(expression) not in self._forms:
            known = "; ".join(self.published)
            raise _Refusal(f"this query is not on the list that the demo's Prometheus answers: {known}")
        return expression

    def _query(self, parameters: Mapping[str, Sequence[str]]) -> bytes:
        at = self.clock()
        if given := _first(parameters, "time"):
            try:
                at = _time(given)
            except ValueError as e:
                raise _Refusal(f"invalid parameter \"time\": Invalid time value for 'time': {e}") from None
        expression = self._expression(parameters, instant=True)
        found = evaluate(expression, self._series, np.array([at], dtype=np.int64), until=self.clock())
        if isinstance(expression, Number | Time):
            value = _number(float(found[0].value[0]))
            return f'{{"resultType":"scalar","result":[{_seconds(at)},"{value}"]}}'.encode()
        result = ",".join(
            f'{{"metric":{_labels(one)},"value":[{_seconds(at)},"{_number(float(one.value[0]))}"]}}' for one in found
        )
        return f'{{"resultType":"vector","result":[{result}]}}'.encode()

    def _query_range(self, parameters: Mapping[str, Sequence[str]]) -> bytes:
        start, end = (_parameter(parameters, name, _time) for name in ("start", "end"))
        if end < start:
            raise _Refusal('invalid parameter "end": end timestamp must not be before start time')
        step = _parameter(parameters, "step", _step)
        if step <= 0:
            raise _Refusal(
                'invalid parameter "step": zero or negative query resolution step widths are not accepted. '
                "Try a positive integer"
            )
        if (end - start) // step > MOST_POINTS:
            raise _Refusal(
                "exceeded maximum resolution of 11,000 points per timeseries. "
                "Try decreasing the query resolution (?step=XX)"
            )
        if _first(parameters, "timeout"):
            _parameter(parameters, "timeout", _step)
        expression = self._expression(parameters, instant=False)
        at = np.arange(start, end + 1, step, dtype=np.int64)
        heads = [f'[{_seconds(when)},"' for when in at.tolist()]
        found = evaluate(expression, self._series, at, until=self.clock())
        result = ",".join(f'{{"metric":{_labels(one)},"values":[{_values(one, heads)}]}}' for one in found)
        return f'{{"resultType":"matrix","result":[{result}]}}'.encode()

    # -- what there is

    def _selected(self, parameters: Mapping[str, Sequence[str]], *, required: bool) -> Iterator[Raw]:
        asked = parameters.get("match[]", ())
        if not asked and required:
            raise _Refusal("no match[] parameter provided")
        selectors = []
        for query in asked:
            try:
                selector = parse(query)
            except ParseError as e:
                raise _Refusal(f'invalid parameter "match[]": {e}') from None
            if not isinstance(selector, Selector):
                raise _Refusal('invalid parameter "match[]": 1:1: parse error: unexpected expression')
            selectors.append(selector)
        start, end = (
            _parameter(parameters, name, _time) if _first(parameters, name) else usual
            for name, usual in (("start", self.company.start), ("end", self.clock()))
        )
        for one in self._series:
            if asked and not any(selector.matches(one.labels) for selector in selectors):
                continue
            first, last = np.searchsorted(one.at, [start, min(end, self.clock()) + 1])
            if first < last:
                yield one

    def _list_series(self, parameters: Mapping[str, Sequence[str]]) -> bytes:
        found = (dict(sorted(one.labels.items())) for one in self._selected(parameters, required=True))
        return _json(sorted(found, key=lambda labels: list(labels.items())))

    def _list_labels(self, parameters: Mapping[str, Sequence[str]]) -> bytes:
        return _json(sorted({name for one in self._selected(parameters, required=False) for name in one.labels}))

    def _label_values(self, label: str, parameters: Mapping[str, Sequence[str]]) -> bytes:
        if not label.isidentifier():
            raise _Refusal(f'invalid label name: "{label}"')
        found = {one.labels.get(label, "") for one in self._selected(parameters, required=False)}
        return _json(sorted(found - {""}))

    def _metadata(self, parameters: Mapping[str, Sequence[str]]) -> bytes:
        wanted = _first(parameters, "metric")
        return _json(
            {
                name: [{"type": kind, "help": text, "unit": unit}]
                for name, (kind, text, unit) in HELP.items()
                if wanted in ("", name)
            }
        )

    def _targets(self, parameters: Mapping[str, Sequence[str]]) -> bytes:  # noqa: ARG002  every route is called alike
        last = to_datetime(self.clock() // SCRAPE * SCRAPE).isoformat().replace("+00:00", "Z")
        active = [
            {
                "discoveredLabels": {"__address__": f"{service.name}-1:8080", "job": JOB},
                "labels": {"instance": f"{service.name}-1:8080", "job": JOB, "service": service.name},
                "scrapePool": JOB,
                "scrapeUrl": f"http://{service.name}-1:8080/metrics",
                "globalUrl": f"http://{service.name}-1:8080/metrics",
                "lastError": "",
                "lastScrape": last,
                "lastScrapeDuration": 0.004,
                "health": "up",
                "scrapeInterval": "1m",
                "scrapeTimeout": "10s",
            }
            for service in SERVICES
        ]
        return _json({"activeTargets": active, "droppedTargets": []})

    def _buildinfo(self, parameters: Mapping[str, Sequence[str]]) -> bytes:  # noqa: ARG002
        return _json(
            {
                "version": "2.42.0+harvester-demo", "revision": __version__, "branch": "demo", "buildUser": "harvester",
                "buildDate": "", "goVersion": "",
            }
        )

    def _runtimeinfo(self, parameters: Mapping[str, Sequence[str]]) -> bytes:  # noqa: ARG002
        started = to_datetime(self._started).isoformat().replace("+00:00", "Z")
        return _json(
            {
                "startTime": started, "CWD": "/", "reloadConfigSuccess": True, "lastConfigTime": started,
                "corruptionCount": 0, "goroutineCount": threading.active_count(), "GOMAXPROCS": 1, "GOGC": "",
                "GODEBUG": "", "storageRetention": RETENTION,
            }
        )

    def _flags(self, parameters: Mapping[str, Sequence[str]]) -> bytes:  # noqa: ARG002
        flags = {
            "query.lookback-delta": "5m", "query.max-concurrency": "20", "query.max-samples": "50000000",
            "query.timeout": "2m", "storage.tsdb.retention.time": RETENTION,
        }
        return _json(flags)


# ---------------------------------------------------------------------------------------------------------------------
# Parameters and numbers as Prometheus reads and writes them
# ---------------------------------------------------------------------------------------------------------------------


def _first(parameters: Mapping[str, Sequence[str]], name: str) -> str:
    return next(iter(parameters.get(name, ())), "")


def _parameter(parameters: Mapping[str, Sequence[str]], name: str, read: Callable[[str], int]) -> int:
    try:
        return read(_first(parameters, name))
    except ValueError as e:
        raise _Refusal(f'invalid parameter "{name}": {e}') from None


def _time(text: str) -> int:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds):
            return round(seconds * SECOND)
    with contextlib.suppress(ValueError):
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is not None:
            return round(parsed.timestamp() * SECOND)
    raise ValueError(f'cannot parse "{text}" to a valid timestamp')


def _step(text: str) -> int:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds):
            return round(seconds * SECOND)
    with contextlib.suppress(ParseError):
        return parse_duration(text)
    raise ValueError(f'cannot parse "{text}" to a valid duration')


def _seconds(at: int) -> str:
    whole, rest = divmod(at, SECOND)
    return f"{whole}.{rest:03d}" if rest else str(whole)


def _number(value: float) -> str:
    """Return the shortest digits that read back as the same float, never with an exponent (Go's ``'f', -1``)."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    shortest = repr(value)
    if "e" in shortest:
        return np.format_float_positional(value, trim="-")
    return shortest.removesuffix(".0")


def _labels(one: Vector) -> str:
    return json.dumps(dict(sorted(one.labels.items())), separators=(",", ":"))


def _values(one: Vector, heads: Sequence[str]) -> str:
    """Return the points of one series as JSON; ``heads`` is each evaluation time's ``[seconds,"``."""
    value = one.value
    if not one.present.all():
        kept = np.flatnonzero(one.present)
        heads = [heads[i] for i in kept.tolist()]
        value = value[kept]
    return ",".join([f'{head}{number}"]' for head, number in zip(heads, _numbers(value), strict=True)])


def _numbers(value: NDArray[np.float64]) -> list[str]:
    whole = value.astype(np.int64, casting="unsafe") if bool((np.abs(value) < 2**53).all()) else None
    if whole is not None and np.array_equal(whole, value):
        return list(map(str, whole.tolist()))  # most answers are counts, and integers are written ten times as fast
    return list(map(_number, value.tolist()))


def _json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _text(status: int, body: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", body.encode())


# ---------------------------------------------------------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 30
    wbufsize = -1  # head and body in one packet: otherwise a kept-alive client waits for a delayed acknowledgement
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815  the names http.server calls

    def _serve(self) -> None:
        address = urlsplit(self.path)
        given = parse_qs(address.query, keep_blank_values=True)
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length)) if length.isdigit() else b""
        if self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            for name, values in parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).items():
                given[name] = [*values, *given.get(name, [])]  # a form's value comes before the address's, as in Go
        answer = self.server.api.answer(self.command, address.path, given)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class fixes the name
        """Say nothing: the demo's transcript is the CLI's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: Api, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.api = api


@contextlib.contextmanager
def serve(company: Company, *, clock: Callable[[], int] | None = None, port: int = 0) -> Iterator[str]:
    """
    Serve the company's history on loopback while the block runs; yield the base address.

    Args:
        company: Whose history.
        clock: The present in milliseconds UTC; the machine's own if None.
        port: 0 for any free one.
    """
    server = _Server(Api(company, clock or (lambda: time.time_ns() // 1_000_000)), port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
