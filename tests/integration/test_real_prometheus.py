"""
The connector against a real Prometheus with history made by promtool: the numbers that went in are those that come out.

Samples lie on whole quarter minutes, so that an increase over closed ranges (Prometheus 2) is exact; Prometheus 3 leaves
the older end out and extrapolates, which is allowed one per cent here.
"""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from prometheus_server import running_prometheus, version_of, write_blocks

from connectors.prometheus import Prometheus
from harvester.catalog import pack, pack_names
from harvester.connector import Batch
from harvester.derive import SOURCE, Held, derive
from harvester.errors import ConnectorError
from harvester.readings import DAY, HOUR, MINUTE, Counts, Distribution, Level, Ratio, Series, Subject, Window
from harvester.settings import DerivedSection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")), reason="prometheus and promtool are not installed"
    ),
]

SCRAPE = 15_000
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0)
CHECKOUT = Subject("checkout", (("service", "checkout"),))
DAYS = 9


@dataclass
class Truth:
    """What was put in, milliseconds UTC."""

    end: int
    gauge_at: np.ndarray
    gauge: np.ndarray
    pool_at: np.ndarray
    pool: np.ndarray
    gap: tuple[int, int]
    outage: tuple[int, int]
    down: tuple[int, int]
    start: int
    scrapes: np.ndarray
    requests: np.ndarray
    latencies: np.ndarray
    errors: np.ndarray


@dataclass
class Server:
    url: str
    truth: Truth
    exact: bool


def make_history() -> tuple[Truth, list[tuple[str, str, dict[str, str], np.ndarray, list[float]]]]:
    generator = np.random.default_rng(7)
    end = int(time.time() * 1000) // HOUR * HOUR - 3 * HOUR
    at = np.arange(end - DAYS * DAY, end, MINUTE, dtype=np.int64)
    gauge = generator.lognormal(0, 5, len(at)) * generator.choice([-1, 1], len(at))
    gap = (end - 30 * HOUR, end - 30 * HOUR + 3 * MINUTE)
    outage = (end - 5 * HOUR, end - 4 * HOUR)
    kept = ((at < gap[0]) | (at >= gap[1])) & ((at < outage[0]) | (at >= outage[1]))

    start = end - 12 * HOUR
    down = (end - 2 * HOUR, end - 2 * HOUR + 10 * MINUTE)
    scrapes = np.arange(start, end, SCRAPE, dtype=np.int64)
    watched = (scrapes < outage[0]) | (scrapes >= outage[1])
    requests = generator.poisson(20, len(scrapes))
    latencies = np.zeros((len(scrapes), len(BOUNDS) + 1))
    seconds = np.zeros(len(scrapes))
    for index, number in enumerate(requests.tolist()):
        drawn = generator.lognormal(-2, 0.7, number)
        latencies[index] = np.bincount(np.searchsorted(BOUNDS, drawn), minlength=len(BOUNDS) + 1)
        seconds[index] = drawn.sum()
    errors = generator.binomial(requests, 0.02)
    # The process restarts in the eighth hour: its counters begin again at what that scrape saw.
    restart = np.searchsorted(scrapes, start + 8 * HOUR)

    def running(increments):
        total = np.cumsum(increments, axis=0, dtype=float)
        total[restart:] -= total[restart - 1]
        return total

    up = np.where((scrapes >= down[0]) & (scrapes < down[1]), 0.0, 1.0)
    job = {"service": "checkout", "instance": "a"}
    families = [
        ("gauge", "load", {"service": "checkout"}, at, gauge.tolist()),
        ("gauge", "pool", {"service": "checkout"}, at[kept], (gauge[kept] + 1).tolist()),
        ("gauge", "up", job, scrapes[watched], up[watched].tolist()),
        ("counter", "req_total", {**job, "code": "200"}, scrapes[watched], running(requests - errors)[watched].tolist()),
        ("counter", "req_total", {**job, "code": "500"}, scrapes[watched], running(errors)[watched].tolist()),
    ]
    cumulative = running(np.cumsum(latencies, axis=1))
    for column, bound in enumerate((*BOUNDS, float("inf"))):
        name = "+Inf" if bound == float("inf") else repr(bound)
        families.append(("histogram", "lat_bucket", {**job, "le": name}, scrapes[watched], cumulative[watched, column].tolist()))
    families.append(("histogram", "lat_sum", job, scrapes[watched], running(seconds)[watched].tolist()))
    families.append(("histogram", "lat_count", job, scrapes[watched], cumulative[watched, -1].tolist()))
    truth = Truth(
        end, at, gauge, at[kept], gauge[kept] + 1, gap, outage, down, start, scrapes, requests, latencies, errors
    )
    return truth, families


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    truth, families = make_history()
    write_blocks(folder, families)
    with running_prometheus(folder) as url:
        version = version_of(url)
        yield Server(url, truth, version.startswith("2."))


def collect(server, window: Window, *metrics, **options) -> list[Batch]:
    prometheus = Prometheus(source="prom", url=server.url, subjects=(CHECKOUT,), metrics=metrics, **options)
    return list(prometheus.collect(window, {}))


def whole(batches, kind):
    """Return the readings of one series over all batches, in order of time, and its coverage."""
    found = sorted((one for batch in batches for one in batch.readings if isinstance(one, kind)), key=lambda one: one.at[0])
    assert len({one.series.labels for one in found}) == 1
    covered = Window()
    for batch in batches:
        for one in batch.coverage:
            covered |= one.window
    return found, covered


def level(name, **more):
    return {"name": name, "shape": "level", "unit": "1", "query": f"{name}{{$selector}}", **more}


def test_a_level_of_nine_days_comes_out_bit_for_bit_in_slices(server):
    truth = server.truth
    window = Window.of(truth.end - DAYS * DAY, truth.end)
    batches = collect(server, window, level("load"))
    found, covered = whole(batches, Level)
    assert len(found) == 2, "12,960 steps need two slices"
    assert batches[0].readings[0].at[0] > batches[1].readings[0].at[-1], "the newest comes first"
    assert np.array_equal(np.concatenate([one.at for one in found]), truth.gauge_at)
    assert np.array_equal(np.concatenate([one.value for one in found]), truth.gauge)
    assert covered == window
    assert found[0].series.labels == (("service", "checkout"),)


def test_a_gap_of_three_minutes_and_an_outage_are_neither_read_nor_covered(server):
    truth = server.truth
    window = Window.of(truth.end - 40 * HOUR, truth.end)
    found, covered = whole(collect(server, window, level("pool")), Level)
    inside = truth.pool_at >= window.start
    assert np.array_equal(found[0].at, truth.pool_at[inside])
    assert np.array_equal(found[0].value, truth.pool[inside])
    assert covered == window - Window((truth.gap, truth.outage))


def test_an_expression_is_not_covered_while_its_samples_only_stand_still(server):
    truth = server.truth
    window = Window.of(truth.end - 40 * HOUR, truth.end)
    metric = {"name": "pools", "shape": "level", "unit": "1", "query": "sum(pool{$selector}) or vector(0)"}
    found, covered = whole(collect(server, window, metric), Level)
    assert covered == window - Window((truth.gap, truth.outage))
    assert len(found[0]) == covered.milliseconds // MINUTE


def test_an_outage_longer_than_the_window_proves_nothing_even_with_a_fallback(server):
    low, _ = server.truth.outage
    metric = {"name": "pools", "shape": "level", "unit": "1", "query": "sum(pool{$selector}) or vector(0)"}
    batches = collect(server, Window.of(low + 10 * MINUTE, low + 40 * MINUTE), metric)
    assert not [one for batch in batches for one in (*batch.readings, *batch.coverage)]


def test_counts_over_a_restart_and_an_outage_are_those_that_happened(server):
    truth = server.truth
    window = Window.of(truth.start, truth.end)
    metric = {"name": "requests", "shape": "count", "counter": "req_total{$selector}"}
    found, covered = whole(collect(server, window, metric), Counts)
    number = truth_per_minute(truth, truth.requests)
    at = np.arange(truth.start, truth.end, MINUTE)
    proven = covered.contains_interval(found[0].at, MINUTE)
    expected = number[np.searchsorted(at, found[0].at[proven])]
    if server.exact:
        assert found[0].number[proven] == pytest.approx(expected, abs=1e-6)
    assert found[0].number[proven].sum() == pytest.approx(expected.sum(), rel=0.01)
    assert not covered & Window((truth.outage,))
    assert covered.share_of(window - Window((truth.outage,))) > 0.99


def truth_per_minute(truth, increments):
    """Sum what the scrapes inside ``(minute, minute + 1]`` added; the scrape at a minute's end closes it."""
    edges = np.concatenate([[0], np.cumsum(increments)])
    ends = np.searchsorted(truth.scrapes, np.arange(truth.start, truth.end, MINUTE), side="right")
    after = np.searchsorted(truth.scrapes, np.arange(truth.start, truth.end, MINUTE) + MINUTE, side="right")
    return edges[after] - edges[ends]


def test_a_ratio_sums_its_parts_over_the_window(server):
    truth = server.truth
    window = Window.of(truth.start, truth.end)
    metric = {
        "name": "error_ratio", "shape": "ratio", "numerator": 'req_total{$selector,code=~"5.."}',
        "denominator": "req_total{$selector}",
    }
    found, covered = whole(collect(server, window, metric), Ratio)
    kept = found[0].within(covered)
    rows = np.searchsorted(np.arange(truth.start, truth.end, MINUTE), kept.at)
    numerator, denominator = truth_per_minute(truth, truth.errors)[rows], truth_per_minute(truth, truth.requests)[rows]
    assert kept.numerator.sum() / kept.denominator.sum() == pytest.approx(
        numerator.sum() / denominator.sum(), rel=1e-9 if server.exact else 0.01
    )


def test_the_quantile_of_summed_buckets_is_that_of_the_true_counts(server):
    truth = server.truth
    window = Window.of(truth.start, truth.end)
    metric = {"name": "latency", "shape": "distribution", "unit": "seconds", "buckets": "lat_bucket{$selector}"}
    found, covered = whole(collect(server, window, metric), Distribution)
    assert len(found) == 1
    assert found[0].series.metric.bounds == BOUNDS
    kept = found[0].within(covered)
    rows = np.searchsorted(np.arange(truth.start, truth.end, MINUTE), kept.at)
    expected = np.stack([truth_per_minute(truth, column)[rows] for column in truth.latencies.T], axis=1)
    tolerance = 1e-9 if server.exact else 0.01
    assert kept.counts.sum(axis=0) == pytest.approx(expected.sum(axis=0), rel=tolerance)
    assert quantile(kept.counts.sum(axis=0), 0.95) == pytest.approx(quantile(expected.sum(axis=0), 0.95), rel=tolerance)
    assert (kept.total > 0).all()


def quantile(counts, share):
    edges, rank = np.array([0.0, *BOUNDS]), share * counts.sum()
    return np.interp(rank, np.concatenate([[0], np.cumsum(counts[:-1])]), edges)


def test_silence_is_zero_only_where_up_was_seen_and_not_0(server):
    truth = server.truth
    window = Window.of(truth.end - 6 * HOUR, truth.end)
    metric = {"name": "lost", "shape": "count", "counter": "never_total{$selector}", "proof": "up{$selector}"}
    found, covered = whole(collect(server, window, metric), Counts)
    assert not found[0].number.any()
    assert found[0].series.labels == CHECKOUT.labels
    assert covered.contains_interval(found[0].at, MINUTE).all()
    assert not covered & Window((truth.outage, truth.down))
    assert covered.milliseconds >= (window - Window((truth.outage, truth.down))).milliseconds - 5 * MINUTE


def test_a_typo_in_one_query_names_it_and_leaves_the_other_readings(server):
    truth = server.truth
    window = Window.of(truth.end - HOUR, truth.end)
    wrong = {"name": "wrong", "shape": "level", "unit": "1", "query": "sum(load"}
    prometheus = Prometheus(source="prom", url=server.url, subjects=(CHECKOUT,), metrics=(wrong, level("load")))
    seen = []
    with pytest.raises(ConnectorError, match=r"metric wrong: bad_data: .*parse error") as caught:
        seen.extend(prometheus.collect(window, {}))  # keeps what came before the error
    assert caught.value.hint
    assert [one.series.metric.name for batch in seen for one in batch.readings] == ["load"]


def test_an_empty_answer_says_which_name_was_meant(server):
    truth = server.truth
    batches = collect(server, Window.of(truth.end - HOUR, truth.end), level("lod"))
    assert not any(batch.readings or batch.coverage for batch in batches)
    [note] = [note for batch in batches for note in batch.notes]
    assert "knows no metric lod; near it: load" in note


def test_a_step_too_short_for_an_increase_is_explained(server):
    truth = server.truth
    metric = {
        "name": "error_ratio", "shape": "ratio", "numerator": 'req_total{$selector,code=~"5.."}',
        "denominator": "req_total{$selector}", "step_seconds": 10,
    }
    batches = collect(server, Window.of(truth.end - HOUR, truth.end - 1), metric)
    [note] = [note for batch in batches for note in batch.notes]
    assert "twice the scrape interval" in note


def test_check_tells_version_reach_and_what_answers(server):
    prometheus = Prometheus(source="prom", url=server.url, subjects=(CHECKOUT,), metrics=(level("load"), level("lod")))
    health = prometheus.check()
    text = "\n".join(f"{one.level}: {one.text}" for one in health.findings)
    assert health.ok
    assert "version" in text
    assert "keeps 10y" in text
    assert "warning: lod" in text
    assert health.oldest is not None
    assert abs(health.oldest - (server.truth.end - DAYS * DAY)) < 10 * HOUR
    assert health.hosts == (server.url.removeprefix("http://"),)


def test_the_same_window_gives_the_same_readings(server):
    window = Window.of(server.truth.end - 3 * HOUR, server.truth.end)
    metric = {"name": "latency", "shape": "distribution", "unit": "seconds", "buckets": "lat_bucket{$selector}"}
    first, second = (whole(collect(server, window, metric), Distribution)[0][0] for _ in range(2))
    assert np.array_equal(first.at, second.at)
    assert np.array_equal(first.counts, second.counts)


def test_small_slices_give_the_same_readings_and_coverage_as_one(server):
    window = Window.of(server.truth.start, server.truth.end)
    metric = {"name": "requests", "shape": "count", "counter": "req_total{$selector}"}
    (one,), covered = whole(collect(server, window, metric), Counts)
    several, covered_too = whole(collect(server, window, metric, max_points=100), Counts)
    assert len(several) > 5
    assert np.array_equal(np.concatenate([part.at for part in several]), one.at)
    assert np.concatenate([part.number for part in several]) == pytest.approx(one.number)
    assert covered_too == covered


# -- a proxy that misbehaves ------------------------------------------------------------------------------------------

HTML = b"<html><body>502 Bad Gateway</body></html>"


class Proxy:
    """Hands range queries on to the real server and spoils some of the answers, as its plan says."""

    def __init__(self, upstream: str, plan) -> None:
        self.upstream, self.plan, self.count, self.spoiled = upstream, plan, 0, 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = urllib.request.Request(outer.upstream + self.path, body)
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        status, text = answer.status, answer.read()
                except urllib.error.HTTPError as e:
                    status, text = e.code, e.read()
                with outer.lock:
                    outer.count += 1
                    how = outer.plan(outer.count)
                    outer.spoiled += how is not None
                self.spoil(how, status, text)

            def do_GET(self):
                with urllib.request.urlopen(outer.upstream + self.path, timeout=30) as answer:
                    self.give(answer.status, answer.read())

            def give(self, status, text, **headers):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(text)

            def spoil(self, how, status, text):
                if how is None:
                    self.give(status, text)
                elif how == "5xx":
                    self.give(503, b"upstream connect error")
                elif how == "429":
                    self.give(429, b"slow down", Retry_After="0")
                elif how == "html":
                    self.give(502, HTML)
                elif how == "login":
                    self.give(200, HTML)
                elif how == "truncated":
                    self.give(200, text[: len(text) * 2 // 3])
                elif how == "slow":
                    time.sleep(3)
                    self.give(status, text)
                elif how == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                elif how == "cut off":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text[: len(text) // 2])
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


EVERYTHING = (
    level("load"),
    {"name": "requests", "shape": "count", "counter": "req_total{$selector}", "by": ["code"], "proof": "up{$selector}"},
    {
        "name": "error_ratio", "shape": "ratio", "numerator": 'req_total{$selector,code=~"5.."}',
        "denominator": "req_total{$selector}",
    },
    {"name": "latency", "shape": "distribution", "unit": "seconds", "buckets": "lat_bucket{$selector}"},
)


def harvested(url: str, window: Window, **options) -> tuple[dict, dict, str]:
    """Return every number and every covered span of a collection, by series, and the error that ended it."""
    prometheus = Prometheus(source="prom", url=url, subjects=(CHECKOUT,), metrics=EVERYTHING, max_points=150, **options)
    numbers, covered, error = {}, {}, ""
    try:
        for batch in prometheus.collect(window, {}):
            for one in batch.readings:
                columns = [
                    getattr(one, name) for name in ("value", "number", "numerator", "denominator", "counts", "total") if hasattr(one, name)
                ]
                for index, at in enumerate(one.at.tolist()):
                    numbers[str(one.series), at] = tuple(np.atleast_1d(column[index]).tolist() for column in columns)
            for one in batch.coverage:
                key = one.metric, one.labels
                covered[key] = covered.get(key, Window()) | one.window
    except ConnectorError as e:
        error = str(e)
    return numbers, covered, error


@pytest.fixture(scope="module")
def unspoiled(server):
    window = Window.of(server.truth.end - 6 * HOUR, server.truth.end)
    numbers, covered, error = harvested(server.url, window)
    assert not error
    assert len(numbers) > 1000
    return window, numbers, covered


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr("connectors.prometheus.client.time", HurriedTime())


class HurriedTime:
    """The clock, without the waits."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    @staticmethod
    def sleep(_):
        pass


@pytest.mark.parametrize("how", ["5xx", "429", "html", "truncated", "reset", "cut off"])
def test_now_and_then_a_spoiled_answer_changes_no_number(server, unspoiled, hurried, how):
    window, numbers, covered = unspoiled
    with Proxy(server.url, lambda count: how if count % 3 == 1 else None) as proxy:
        found = harvested(proxy.url, window)
        assert proxy.spoiled > 5
    assert found == (numbers, covered, "")


@pytest.mark.parametrize("how, said", [
    ("5xx", "answers 503"), ("429", "answers 429"), ("html", "answers 502"), ("truncated", "breaks off"),
    ("reset", "reset|closed the connection"), ("cut off", "broke it off"), ("slow", "no answer from .* within 1 s"),
    ("login", "it answered with HTML"),
])
def test_a_server_that_stays_spoiled_is_an_error_and_what_came_before_is_right(server, unspoiled, hurried, how, said):
    window, numbers, covered = unspoiled
    with Proxy(server.url, lambda count: how if count > 12 else None) as proxy:
        some, proven, error = harvested(proxy.url, window, timeout=1)
    assert re.search(said, error)
    assert 0 < len(some) < len(numbers)
    assert all(numbers[key] == value for key, value in some.items())
    assert proven
    for key, span in proven.items():
        assert not span - covered[key], "nothing is proven that was not read"


def test_interrupted_collections_add_up_to_a_whole_one(server, unspoiled, hurried):
    window, numbers, covered = unspoiled
    together, proven = {}, {}
    for allowed in (5, 17, 40, 10_000):
        with Proxy(server.url, lambda count, allowed=allowed: "reset" if count > allowed else None) as proxy:
            some, spans, error = harvested(proxy.url, window)
        together.update(some)
        for key, span in spans.items():
            proven[key] = proven.get(key, Window()) | span
    assert not error
    assert (together, proven) == (numbers, covered)


# -- the packs, over what exporters print -----------------------------------------------------------------------------

EXPORTERS = Path(__file__).parents[1] / "connectors" / "prometheus" / "exporters.txt"

EXPECTED = {
    "availability": 0.5, "instances": 2, "probe_availability": 1, "probe_duration": 0.2, "certificate_days_left": 1_799_107_200,
    "latency": {
        "http": 4.5 / 24, "http_micrometer": 3.57 / 14, "http_otel": 3.52 / 13, "http_otel_old": 0.124, "http_otel_plain": 0.3,
    },
    "error_ratio": {
        "http": 2 / 24, "http_micrometer": 2 / 14, "http_otel": 1 / 13, "http_otel_old": 0.1, "http_otel_plain": 0.2,
    },
    "request_rate": {
        "http": 24 / 15, "http_micrometer": 14 / 15, "http_otel": 13 / 15, "http_otel_old": 10 / 15, "http_otel_plain": 5 / 15,
    },
    "fast_requests": {
        "http": 18 / 24, "http_micrometer": 12 / 14, "http_otel": 11 / 13, "http_otel_old": 0.8, "http_otel_plain": 0.6,
    },
    "served_ratio": {"http_more": 22 / 24, "http_micrometer_more": 12 / 14, "http_otel_more": 12 / 13},
    "requests": {"http_more": 96, "http_micrometer_more": 56, "http_otel_more": 52},
    "gateway_timeouts": 4, "throttled_requests": 8, "response_size": {"http_more": 1250, "http_otel_more": 2000}, "active_requests": 4,
    "grpc_latency": {"grpc": 0.1, "grpc_otel": 0.3505, "grpc_otel_old": 0.191},
    "grpc_error_ratio": {"grpc": 0.1, "grpc_otel": 0.15, "grpc_otel_old": 0.05},
    "grpc_request_rate": {"grpc": 10 / 15, "grpc_otel": 20 / 15, "grpc_otel_old": 40 / 15},
    "grpc_deadline_exceeded": {"grpc": 4, "grpc_otel": 8, "grpc_otel_old": 4},
    "grpc_fast_calls": {"grpc": 0.9, "grpc_otel": 0.85, "grpc_otel_old": 33 / 40},
    "mesh_latency": 0.09, "mesh_error_ratio": 0.1, "mesh_request_rate": 10 / 15, "mutual_tls_share": 0.9, "mesh_fast_requests": 0.9,
    "ingress_latency": 0.2, "ingress_error_ratio": 0.1, "ingress_request_rate": 10 / 15, "ingress_fast_requests": 0.8,
    "proxy_latency": 0.2, "proxy_error_ratio": 0.1, "proxy_request_rate": 10 / 15, "proxy_fast_requests": 0.7,
    "upstream_latency": 0.12, "upstream_error_ratio": 0.05, "upstream_request_rate": 20 / 15, "upstream_timeouts": 4,
    "upstream_overflows": 8, "upstream_fast_requests": 0.85,
    "cpu": 0.2, "memory": 2e8, "open_files": 31, "go_heap": 1e8, "goroutines": 40, "gc_longest_pause": 0.002,
    "node_cpu": 0.2, "node_memory": 0.75, "node_load": 0.5, "disk_busy": 0.1, "disk_free": 0.2, "network_received": 1000,
    "network_sent": 2000, "tcp_connections": 120, "container_cpu": 0.4, "container_memory": 3e8, "cpu_throttled": 0.1,
    "out_of_memory_kills": 4, "cpu_of_requested": 0.8, "memory_of_requested": 0.6,
    "jvm_heap": {"jvm": 1e8, "jvm_client": 1e8, "jvm_otel": 2e8}, "jvm_gc_time": {"jvm": 0.002, "jvm_client": 0.004, "jvm_otel": 0.006},
    "jvm_gc_pauses": {"jvm": 4, "jvm_client": 8, "jvm_otel": 12}, "jvm_threads": {"jvm": 52, "jvm_client": 31, "jvm_otel": 23},
    "redis_hit_ratio": 0.94, "redis_evictions": 8, "redis_memory": 5e7, "redis_clients": 12, "redis_command_load": 0.01,
    "redis_command_rate": 10, "redis_command_time": 0.001,
    "memcached_hit_ratio": 0.9, "memcached_evictions": 8, "memcached_memory": 5e7, "cache_hit_ratio": 0.9, "cache_evictions": 4,
    "consumer_lag": 42, "consumed_rate": 10, "produced_rate": 20, "under_replicated_partitions": 1,
    "queue_ready": {"rabbitmq": 7, "rabbitmq_detailed": 17}, "queue_unacknowledged": {"rabbitmq": 2, "rabbitmq_detailed": 5},
    "queue_consumers": 3, "sqs_visible": 11, "sqs_oldest": 90,
    "database_connections": 20, "database_transactions": 100 / 15, "rollback_ratio": 0.01, "buffer_hit_ratio": 0.99,
    "rows_fetched": 100, "deadlocks": 4, "connection_slots_used": 0.2, "replication_lag": 0.4, "capture_lag": 1.5,
    "rds_cpu": 0.35, "rds_connections": 40, "rds_free_storage": 5e10, "rds_read_latency": 0.0005, "rds_reads": 250,
    "pool_server_connections": 6, "pool_waiting_clients": 1, "pooled_query_rate": 2, "pooled_query_time": 0.02, "pool_wait": 0.01,
    "pool_active": 5, "pool_pending": 0, "connections_opened": 8, "pool_timeouts": 4, "connection_wait": 0.002,
    "connections_taken": 1, "pool_use": 0.5,
    "job_duration": 300, "failed_jobs": 2, "since_success": -1_767_571_200, "since_push": -1_767_571_200,
    "replicas": 4, "replica_availability": 0.75, "container_restarts": 4, "killed_for_memory": 1, "autoscaler_replicas": 4,
    "autoscaler_use": 0.4, "requested_cpu": 0.5, "requested_memory": 5e8, "nodes": 2, "node_cost": 0.24, "load_balancer_cost": 0.025,
    "estimated_charges": 812.5,
    "breaker_failures": 0.05, "breakers_open": 0, "breaker_rejections": 8, "rate_limited": 12, "rate_limited_globally": 8,
    "retried_share": 0.1, "rate_limiter_waiting": 2,
}
"""What the metrics of the packs are in that text: a level, a ratio, a count a minute, a histogram's mean; times absolute."""


@pytest.fixture(scope="module")
def exporters(tmp_path_factory):
    """Five hours of scrapes of the exporters, every 15 s but not on whole minutes."""
    folder = tmp_path_factory.mktemp("exporters")
    end = int(time.time()) // 3600 * 3600 - 3600
    scrapes = np.arange(end - 5 * 3600 + 4, end, 15)
    lines = []
    for line in EXPORTERS.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, value = line.rsplit(" ", 1)
        name = name.replace("{", '{service="checkout",') if "{" in name else f'{name}{{service="checkout"}}'
        rise = float(value) if value.startswith("+") else 0.0
        first = 1000.0 if rise else float(value)
        lines += [f"{name} {first + rise * index!r} {at}.250" for index, at in enumerate(scrapes.tolist())]
    (folder / "all.om").write_text("\n".join([*lines, "# EOF", ""]))
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "all.om", folder / "data"],
        check=True, capture_output=True, timeout=120,
    )
    with running_prometheus(folder) as url:
        yield url, Window.of((end - 4 * 3600) * 1000, (end - 60) * 1000)


@pytest.mark.parametrize("name", pack_names())
def test_each_metric_of_a_pack_finds_what_its_exporter_prints(exporters, name):
    url, window = exporters
    prometheus = Prometheus(source="prom", url=url, subjects=(CHECKOUT,), metrics=pack(name)["metrics"])
    found: dict[str, list] = {}
    covered: dict[str, Window] = {}
    notes = []
    for batch in prometheus.collect(window, {}):
        notes += batch.notes
        for one in batch.readings:
            found.setdefault(one.series.metric.name, []).append(one)
        for one in batch.coverage:
            covered[one.metric] = covered.get(one.metric, Window()) | one.window
    assert not notes
    for metric in prometheus.definitions():
        [one] = found[metric.name]
        assert one.series.labels == CHECKOUT.labels
        assert covered[metric.name].share_of(window) > 0.95 if metric.step_seconds < 3600 else covered[metric.name]
        assert typical(one) == pytest.approx(expected(metric.name, name), rel=0.001)
    for derived, table in pack(name).get("derived", {}).items():
        rule = DerivedSection.model_validate(table).rule(derived)
        [distribution] = found[rule.parts[0].metric]
        series = Series(SOURCE, rule.metric(distribution.series.metric), CHECKOUT.labels)
        made = derive(rule, series, [[Held(distribution, covered[rule.parts[0].metric])]], window)
        assert made.coverage.share_of(window) > 0.95
        assert typical(made.readings) == pytest.approx(expected(derived, name), rel=0.001)


def expected(metric: str, name: str) -> float:
    value = EXPECTED[metric]
    return value[name] if isinstance(value, dict) else value


def typical(one) -> float:
    if isinstance(one, Level):
        name, value, at = one.series.metric.name, one.value, one.at / 1000
        if name.startswith("since_"):
            value = value - at
        elif name == "certificate_days_left":
            value = value * 86_400 + at
        return float(np.median(value))
    if isinstance(one, Ratio):
        return float(one.numerator.sum() / one.denominator.sum())
    if isinstance(one, Counts):
        return float(one.number.mean())
    return float(one.total.sum() / one.counts.sum())
