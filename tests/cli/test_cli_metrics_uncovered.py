"""``harvest baseline`` says which part of its window nobody can prove."""

from __future__ import annotations

import json
from datetime import timedelta

import cli_metrics_shop
import pytest
from cli_metrics_shop import counts, definition, stepped, steps, store
from cli_shop import NOW

from harvester.cli import OK
from harvester.connector import Batch
from harvester.readings import Level, Series


@pytest.fixture
def shop(shop):
    """Give a shop with two sources."""
    return cli_metrics_shop.equip(shop)


def short(shop, *gaps, days=15.2):
    """Store a level of so many days."""
    metric = definition(shop, "prom", "response_time")
    at = steps(metric, since=NOW - timedelta(days=days))
    store(shop, Level(Series("prom", metric, (("service", "checkout"),)), at, stepped(at, 0.4, 0.4)), *gaps)


def baseline(shop, *words):
    assert shop("baseline", "index", "--dry-run", *words) == OK
    return " ".join(shop.out.split())


def test_a_source_that_holds_less_than_the_window_is_named_with_its_days_and_gaps(shop):
    hole = NOW - timedelta(days=4), NOW - timedelta(days=3, hours=12)
    short(shop, hole)
    counts(shop, "database", "calls", 100.0, 100.0)
    said = baseline(shop)
    assert "prom holds readings since 8 Nov 2026 only: 14.7 of 28 days covered; gap: 2026-11-19 12:00 to 2026-11-20 00:00 UTC" in said
    assert "database holds" not in said


def test_the_retention_that_a_collection_was_told_of_is_said(shop):
    short(shop)
    with shop.store() as opened:
        opened.commit("prom", Batch(notes=("the server keeps 15d: nothing from before 2026-11-08 was asked for",)))
    assert "prom holds readings since 8 Nov 2026 only (retention 15d): 15.2 of 28 days covered" in baseline(shop)


def test_what_is_expected_is_named_where_it_is_covered_less_than_its_source(shop):
    short(shop)
    counts(shop, "prom", "requests", 100.0, 100.0)
    assert "holds readings since" not in baseline(shop)
    said = baseline(shop, "--expect", "checkout response_time lower")
    assert "checkout response_time holds readings since 8 Nov 2026 only: 15.2 of 28 days covered" in said


def test_a_derived_metric_is_covered_as_far_as_both_of_its_parts(shop):
    counts(shop, "prom", "requests", 100.0, 100.0, (NOW - timedelta(days=40), NOW - timedelta(days=10)))
    counts(shop, "database", "calls", 100.0, 100.0)
    said = baseline(shop, "--expect", "checkout queries_per_request lower")
    assert "checkout queries_per_request holds readings since 13 Nov 2026 only: 10.0 of 28 days covered" in said


def test_a_window_that_is_covered_is_not_mentioned_and_the_object_says_the_same(shop):
    counts(shop, "prom", "requests", 100.0, 100.0)
    shop("baseline", "index", "--dry-run", "--json")
    assert json.loads(shop.out)["data"]["uncovered"] == []
    short(shop)
    shop("baseline", "index", "--dry-run", "--json", "--expect", "checkout response_time lower")
    (one,) = json.loads(shop.out)["data"]["uncovered"]
    assert (one["source"], one["of"], one["gaps"]) == ("prom", "checkout response_time", [])
    assert one["days_covered"] == pytest.approx(15.2)
    assert one["text"].startswith("checkout response_time holds readings since")
