"""Every metric pack loads through the real settings, and says what a reader of its numbers has to know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connectors.prometheus import promql
from harvester.catalog import config_folder, pack, pack_names
from harvester.context import is_errors, is_traffic
from harvester.errors import ConfigError
from harvester.readings import STATISTICS, Better, Shape
from harvester.settings import load

PACKS = pack_names()
ALTERNATIVES = (
    ("http", "http_micrometer", "http_otel", "http_otel_old", "http_otel_plain"),
    ("http_micrometer_more", "http_more", "http_otel_more"),
    ("grpc", "grpc_otel", "grpc_otel_old"),
    ("jvm", "jvm_client", "jvm_otel"),
    ("rabbitmq_detailed", "rabbitmq"),
)
"""Packs that say the same of things instrumented in different ways; all others can be taken together."""

UNITS = {
    "1", "seconds", "bytes", "bytes/second", "requests", "requests/second", "cores", "connections", "messages", "messages/second",
    "instances", "files", "threads", "goroutines", "pauses", "keys", "entries", "timeouts", "calls", "calls/second", "jobs", "pods",
    "restarts", "containers", "nodes", "USD", "USD/hour", "breakers", "days", "rows/second", "transactions/second", "deadlocks",
    "kills", "commands/second", "partitions", "consumers", "queries/second", "connections/second", "reads/second",
}
FAMILIES = {
    "latency", "errors", "traffic", "saturation", "availability", "capacity", "cache", "queue", "database", "replication", "payload",
    "security", "cost",
}


def settings_of(folder: Path, *packs: str):
    file = folder / "harvester.toml"
    names = ", ".join(f'"{name}"' for name in packs)
    file.write_text(
        f'[subjects.checkout]\nprometheus = {{ service = "checkout" }}\n\n'
        f'[sources.prom]\nconnector = "prometheus"\nurl = "http://localhost:9090"\npacks = [{names}]\n'
    )
    return load(file)


def configured(folder: Path, *packs: str):
    return settings_of(folder, *packs).connectors["prom"]


def test_there_are_packs_for_what_engineers_speak_of():
    assert {
        "http", "http_micrometer", "http_otel", "grpc", "istio", "nginx_ingress", "traefik", "availability", "probe", "node", "container",
        "saturation", "jvm", "go", "redis", "memcached", "cache_micrometer", "kafka", "rabbitmq", "sqs", "postgres", "pgbouncer", "hikari",
        "jobs", "kubernetes", "cost", "resilience", "http_otel_old", "http_otel_plain", "grpc_otel", "envoy", "jvm_client", "jvm_otel", "rds",
    } <= set(PACKS)


@pytest.mark.parametrize("name", PACKS)
def test_a_pack_loads_and_each_metric_is_asked_once_for_each_subject(name, tmp_path):
    connector = configured(tmp_path, name)
    questions = connector.questions()
    assert [one.spec.name for one in questions] == [metric["name"] for metric in pack(name)["metrics"]]
    for question in questions:
        assert question.labels == (("service", "checkout"),)
        for query in question.queries:
            read = promql.sources(query)
            assert read, f"{query} reads nothing that is known"
            assert all('service="checkout"' in one.selector for one in read), f"{query} reads more than the subject"
        assert question.fresh is not None, f"{question} can prove nothing"


@pytest.mark.parametrize("name", PACKS)
def test_each_metric_of_a_pack_has_a_unit_a_family_a_direction_and_a_sentence(name, tmp_path):
    assert len(pack(name)["description"].split()) > 5
    for metric, spec in zip(configured(tmp_path, name).definitions(), pack(name)["metrics"], strict=True):
        assert metric.unit in UNITS
        assert metric.family in FAMILIES
        assert spec["help"].endswith(".")
        assert set(metric.summaries) <= set(STATISTICS[metric.shape])
        if metric.family in ("latency", "errors") and metric.name not in ("rate_limited", "rate_limited_globally", "throttled_requests"):
            assert metric.better is Better.LOWER
        if metric.family in ("availability", "cache"):
            assert metric.better is not Better.NEITHER
        if metric.family == "traffic":
            assert metric.better is Better.NEITHER or metric.name == "consumed_rate", "traffic is no merit"
        if metric.shape is Shape.DISTRIBUTION:
            assert metric.summaries[0] in ("p95", "mean")


def test_packs_can_be_taken_together_unless_they_are_alternatives(tmp_path):
    together = [name for name in PACKS if not any(name in group for group in ALTERNATIVES)]
    for index in range(max(map(len, ALTERNATIVES))):
        file = settings_of(tmp_path, *together, *(group[index % len(group)] for group in ALTERNATIVES))
        names = [metric.name for metric in file.connectors["prom"].definitions()]
        assert len(names) == len(set(names))
        assert not set(names) & set(file.rules)


@pytest.mark.parametrize("group", ALTERNATIVES, ids=lambda group: group[0])
def test_alternatives_measure_the_same(group):
    said = [
        {(metric["name"], metric["shape"], metric.get("unit"), metric.get("better"), metric["family"]) for metric in pack(name)["metrics"]}
        for name in group
    ]
    derived = [set(pack(name).get("derived", {})) for name in group]
    assert all(one == derived[0] for one in derived)
    if group[0] in ("http_micrometer_more", "rabbitmq_detailed"):  # the others know something more
        assert all(said[0] <= one for one in said)
    else:
        assert all(one == said[0] for one in said)


@pytest.mark.parametrize("name", PACKS)
def test_what_a_metric_is_read_beside_is_in_its_pack_and_each_latency_has_some(name, tmp_path):
    metrics = {one.name: one for one in configured(tmp_path, name).definitions()}
    for metric in metrics.values():
        assert set(metric.context) <= set(metrics)
        if metric.family == "latency" and metric.name != "job_duration":
            assert metric.context, f"{metric.name} is misread without its traffic"
        if metric.family == "latency" and metric.shape is Shape.DISTRIBUTION:
            rate, errors = (metrics[one] for one in metric.context)
            assert is_traffic(rate)
            assert is_errors(errors)


@pytest.mark.parametrize("name", PACKS)
def test_beside_each_latency_with_buckets_stands_the_share_under_one_of_them(name, tmp_path):
    settings = settings_of(tmp_path, name)
    latencies = {one.name for one in settings.connectors["prom"].definitions() if one.shape is Shape.DISTRIBUTION and one.family == "latency"}
    assert latencies == {rule.parts[0].metric for rule in settings.rules.values()}
    for derived in settings.rules:
        metric = settings.metrics[derived]
        assert (metric.shape, metric.better, metric.family) == (Shape.RATIO, Better.HIGHER, "latency")
        assert pack(name)["derived"][derived]["help"].endswith(".")


def test_two_alternatives_together_are_refused_with_a_way_out(tmp_path):
    with pytest.raises(ConfigError, match="two metrics are named error_ratio; rename one, or drop one of the packs"):
        configured(tmp_path, "http", "http_otel")


def test_a_metric_of_ones_own_takes_the_place_of_the_packs(tmp_path):
    connector = configured(tmp_path, "http")
    file = tmp_path / "harvester.toml"
    own = '\n[[sources.prom.metrics]]\nname = "latency"\nshape = "level"\nunit = "seconds"\nquery = "x"\n'
    file.write_text(file.read_text() + own)
    changed = load(file).connectors["prom"]
    assert sorted(one.name for one in changed.definitions()) == sorted(one.name for one in connector.definitions())
    assert next(one for one in changed.definitions() if one.name == "latency").shape is Shape.LEVEL


def test_a_pack_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ConfigError, match="no such pack") as caught:
        configured(tmp_path, "htpp")
    assert "http" in caught.value.hint


def test_pack_files_keep_to_the_line_length():
    long = [
        path.name for path in (config_folder() / "metrics").glob("*.toml")
        for line in path.read_text().splitlines() if len(line) > 120 and not re.match(r"(query|numerator|denominator) = ", line)
    ]
    assert not long


@pytest.mark.parametrize("name", pack_names())
def test_what_is_an_increase_has_steps_that_hold_two_scrapes_at_the_default_interval_of_a_minute(name):
    for metric in pack(name)["metrics"]:
        if metric["shape"] in ("ratio", "distribution"):
            assert metric.get("step_seconds", 60) >= 120, metric["name"]
