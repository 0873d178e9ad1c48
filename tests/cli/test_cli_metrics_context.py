"""A latency is read beside the traffic and the errors of the same windows."""

from __future__ import annotations

import json

import cli_metrics_shop
import pytest
from cli_metrics_shop import counts, definition, latencies, levels, live, ratios, stepped, steps

from harvester.cli import OK

SLOW, FAST = (0.5, 0.42, 0.05, 0.02, 0.01), (0.9, 0.096, 0.002, 0.001, 0.001)
CONTEXT = ("requests", "error_ratio")


@pytest.fixture
def shop(shop):
    """Give a shop with a latency, its requests and its errors."""
    return cli_metrics_shop.equip(shop)


def doubts(shop, metric, statistic):
    shop("diff", "index", "--json")
    (one,) = (
        one
        for one in json.loads(shop.out)["data"]["comparisons"]
        if (one["metric"], one["statistic"]) == (metric, statistic)
    )
    return one["verdict"], {caveat["code"]: caveat for caveat in one["caveats"]}


def test_a_latency_that_fell_while_its_traffic_halved_says_so_from_its_own_buckets(shop):
    latencies(shop, SLOW, FAST, load_after=0.5)
    live(shop, "checkout latency p95 lower")
    verdict, found = doubts(shop, "latency", "p95")
    assert verdict == "improved"
    data = found["traffic_moved"]["data"]
    assert data["ratio"] == pytest.approx(0.5, rel=0.02)
    assert data["before"] == pytest.approx(24_000, rel=0.02)
    assert "less load may explain part of it" in found["traffic_moved"]["text"]
    assert "traffic_moved" not in doubts(shop, "latency", "count")[1]  # which is the traffic
    assert shop("diff", "index") == OK
    assert "traffic fell from" in shop.out


def test_traffic_that_moved_by_less_than_a_quarter_is_not_mentioned(shop):
    latencies(shop, SLOW, FAST, load_after=0.85)
    live(shop, "checkout latency p95 lower")
    assert "traffic_moved" not in doubts(shop, "latency", "p95")[1]


def test_a_latency_that_rose_with_its_traffic_says_so_too(shop):
    latencies(shop, FAST, SLOW, load_after=2.0)
    live(shop, "checkout latency p95 lower")
    verdict, found = doubts(shop, "latency", "p95")
    assert verdict == "regressed"
    assert "more load may explain part of it" in found["traffic_moved"]["text"]


def test_a_metric_that_names_its_traffic_is_read_beside_it(shop):
    metric = definition(shop, "prom", "response_time")
    at = steps(metric)
    levels(shop, "response_time", stepped(at, 0.48, 0.24), at, context=CONTEXT)
    counts(shop, "prom", "requests", 100.0, 30.0)
    live(shop, "checkout response_time lower")
    verdict, found = doubts(shop, "response_time", "mean")
    assert verdict == "improved"
    assert found["traffic_moved"]["data"]["metric"] == "requests"
    assert found["traffic_moved"]["data"]["ratio"] == pytest.approx(0.3, rel=0.02)
    shop("diff", "index", "--metric", "response_time")  # asked alone it is read beside the same
    assert "traffic fell from" in shop.out


def test_a_metric_that_names_none_is_read_alone(shop):
    metric = definition(shop, "prom", "response_time")
    at = steps(metric)
    levels(shop, "response_time", stepped(at, 0.48, 0.24), at)
    counts(shop, "prom", "requests", 100.0, 30.0)
    live(shop, "checkout response_time lower")
    assert "traffic_moved" not in doubts(shop, "response_time", "mean")[1]


def test_a_win_beside_more_errors_is_doubted_and_a_loss_is_not(shop):
    latencies(shop, SLOW, FAST, context=CONTEXT)
    ratios(shop, "error_ratio", 0.001, 0.04)
    live(shop, "checkout latency p95 lower")
    verdict, found = doubts(shop, "latency", "p95")
    assert verdict == "improved"
    assert found["errors_rose"]["text"] == (
        "error ratio rose from 0.1 % to 4 % in the same windows: failed requests are fast"
    )
    assert shop("candidates", "--json") == OK
    candidates = json.loads(shop.out)["data"]["candidates"]
    (latency,) = (one for one in candidates if one["headline"]["metric"] == "latency")
    assert "errors_rose" in {one["code"] for one in latency["caveats"]}


def test_a_latency_that_got_worse_beside_more_errors_is_not_excused_by_them(shop):
    latencies(shop, FAST, SLOW, context=CONTEXT)
    ratios(shop, "error_ratio", 0.001, 0.04)
    live(shop, "checkout latency p95 lower")
    assert "errors_rose" not in doubts(shop, "latency", "p95")[1]


def test_traffic_of_which_too_little_is_proven_says_nothing(shop):
    from datetime import timedelta

    from cli_shop import CHANGE

    metric = definition(shop, "prom", "response_time")
    at = steps(metric)
    levels(shop, "response_time", stepped(at, 0.48, 0.24), at, context=CONTEXT)
    counts(shop, "prom", "requests", 100.0, 30.0, (CHANGE + timedelta(days=1), CHANGE + timedelta(days=6)))
    live(shop, "checkout response_time lower")
    assert "traffic_moved" not in doubts(shop, "response_time", "mean")[1]


def test_a_rise_of_errors_that_hardly_anybody_saw_is_not_mentioned(shop):
    latencies(shop, SLOW, FAST, context=CONTEXT)
    ratios(shop, "error_ratio", 0.0001, 0.0009)
    live(shop, "checkout latency p95 lower")
    assert "errors_rose" not in doubts(shop, "latency", "p95")[1]


def test_a_candidate_says_once_that_its_traffic_moved_and_says_it_before_lesser_doubts(shop):
    latencies(shop, SLOW, FAST, load_after=0.5)
    counts(shop, "prom", "requests", 100.0, 50.0)
    live(shop, "checkout latency p95 lower")
    shop("candidates", "--json")
    (one,) = json.loads(shop.out)["data"]["candidates"]
    codes = [caveat["code"] for caveat in one["caveats"]]
    assert codes[0] == "traffic_moved"
    assert "load_moved" not in codes
    shop("candidates")
    assert "doubt: traffic fell from" in " ".join(shop.out.split())


def test_durations_of_a_log_that_holds_the_slow_ones_only_are_no_traffic(shop):
    latencies(shop, SLOW, FAST, load_after=0.5, bounds=())
    live(shop, "checkout latency p95 lower")
    assert "traffic_moved" not in doubts(shop, "latency", "p95")[1]
