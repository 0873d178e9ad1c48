"""Derived metrics as a person writes them in the settings, and what is said of those that cannot be made."""

from __future__ import annotations

from datetime import timedelta

import pytest

from harvester import settings as settings_module
from harvester.catalog import pack, pack_names
from harvester.derive import Operation, Part
from harvester.errors import ConfigError
from harvester.readings import Better, Shape
from harvester.settings import load

BASE = """
[subjects.checkout]
prometheus = { service = "checkout" }

[sources.prom]
connector = "prometheus"
url = "http://127.0.0.1:9"
packs = ["http"]

[[sources.prom.metrics]]
name = "calls"
shape = "count"
unit = "statements"
counter = 'calls_total{$selector}'

[[sources.prom.metrics]]
name = "nodes"
shape = "level"
unit = "nodes"
better = "lower"
exact = true
query = 'nodes{$selector}'
"""


def configured(folder, text):
    (folder / "harvester.toml").write_text(BASE + text)
    return load(folder / "harvester.toml")


def test_every_operation_is_declared_in_a_few_lines(tmp_path):
    found = configured(
        tmp_path,
        """
[derived.queries_per_request]
operation = "ratio"
numerator = "calls"
denominator = "prom/latency count"
unit = "queries/request"
better = "lower"

[derived.cost]
operation = "product"
of = "nodes"
times = 0.19
unit = "USD/hour"

[derived.fast_requests]
operation = "share_under"
of = "latency"
bound = 0.25

[derived.faults]
operation = "onsets"
of = "error_ratio"
above = 0.05
lasting = "2m"
""",
    )
    assert {"queries_per_request", "cost", "fast_requests", "faults"} <= set(found.rules)
    rule, metric = found.rules["queries_per_request"], found.metrics["queries_per_request"]
    assert rule.parts == (Part("calls"), Part("latency", "count", "prom"))
    assert (metric.shape, metric.unit, metric.better, metric.step_seconds) == (
        Shape.RATIO, "queries/request", Better.LOWER, 300,
    )
    assert (found.metrics["cost"].exact, found.metrics["cost"].better) == (True, Better.LOWER)
    assert found.metrics["fast_requests"].better is Better.HIGHER
    assert (found.rules["faults"].seconds, found.metrics["faults"].shape) == (120, Shape.EVENT)
    assert found.metrics["latency"].shape is Shape.DISTRIBUTION


def test_a_pack_may_bring_derived_metrics_that_the_file_overrides_and_that_may_lack_a_part(tmp_path, monkeypatch):
    real = settings_module.pack

    def pack(name):
        derived = {
            "fast": {"operation": "share_under", "of": "latency", "bound": 0.25},
            "slow": {"operation": "share_under", "of": "latency", "bound": 1.0},
            "elsewhere": {"operation": "share_under", "of": "not_collected", "bound": 1.0},
            "otherwise": {"operation": "share_under", "of": "nodes", "bound": 1.0},
        }
        return {**real(name), "derived": derived} if name == "http" else real(name)

    monkeypatch.setattr(settings_module, "pack", pack)
    found = configured(tmp_path, '[derived.fast]\noperation = "share_under"\nof = "latency"\nbound = 0.1\n')
    assert {name: rule.bound for name, rule in found.rules.items()} == {"fast": 0.1, "slow": 1.0}
    assert "elsewhere" not in found.metrics


@pytest.mark.parametrize("name", pack_names())
def test_what_a_pack_derives_can_be_made_of_what_it_collects(tmp_path, name):
    (tmp_path / "harvester.toml").write_text(BASE.replace('packs = ["http"]', f'packs = ["{name}"]'))
    assert set(load(tmp_path / "harvester.toml").rules) == set(pack(name).get("derived", {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('operation = "average"\nof = "latency"', "must be 'ratio', 'product', 'share_under', 'onsets' or 'followed_by'"),
        ('operation = "ratio"\nnumerator = "calls"', "needs denominator"),
        ('operation = "ratio"\nnumerator = "calls"\ndenominator = "latency"\nbound = 1.0', "has no bound"),
        ('operation = "onsets"\nof = "error_ratio"', "either above or below"),
        ('operation = "share_under"\nof = "latncy"\nbound = 1.0', "did you mean latency?"),
        ('operation = "share_under"\nof = "other/latency"\nbound = 1.0', "no source yields a metric latency"),
        ('operation = "share_under"\nof = "latency p95 mean"\nbound = 1.0', "does not name a metric"),
        ('operation = "ratio"\nnumerator = "calls"\ndenominator = "nodes"', "would depend on the step"),
        ('operation = "product"\nof = "nodes"\ntimes = 2.0', "unit of a product"),
        ('operation = "ratio"\nnumerator = "calls"\ndenominator = "latency"\nstatistics = ["p95"]', "has no statistic p95"),
        ('operation = "ratio"\nnumerator = "calls"\ndenominatr = "latency"', "did you mean denominator?"),
    ],
)
def test_what_cannot_be_made_is_named_with_its_line_and_a_hint(tmp_path, text, said):
    with pytest.raises(ConfigError) as refused:
        configured(tmp_path, f"[derived.broken]\n{text}\n")
    assert said in str(refused.value)
    assert "derived.broken" in str(refused.value)
    assert "line 2" in str(refused.value)
    assert refused.value.hint


def test_neither_a_source_nor_a_collected_metric_may_be_called_like_a_derived_one(tmp_path):
    with pytest.raises(ConfigError, match="no source may be called derived"):
        configured(tmp_path, '[sources.derived]\nconnector = "prometheus"\nurl = "http://127.0.0.1:9"\n')
    with pytest.raises(ConfigError, match="a source yields a metric of that name"):
        configured(tmp_path, '[derived.calls]\noperation = "share_under"\nof = "latency"\nbound = 0.25\n')


def test_the_operations_of_the_settings_are_those_there_are():
    assert set(settings_module._DERIVED_KEYS) == set(Operation)
    assert timedelta(minutes=2) == settings_module.DerivedSection(
        operation="onsets", of="rate", above=1.0, lasting="2m"
    ).lasting
