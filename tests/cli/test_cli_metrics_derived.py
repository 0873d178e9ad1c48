"""A metric made of two others goes the whole way: expected, shipped, compared, proposed, shown."""

from __future__ import annotations

import json
from datetime import timedelta

import cli_metrics_shop
import pytest
import sqlalchemy as sa
from cli_metrics_shop import T, counts, definition, latencies, levels, live, stepped, steps
from cli_shop import CHANGE, NOW

from harvester.cli import OK
from harvester.errors import ConfigError
from harvester.holdings import Holdings
from harvester.impact import compare, find_change, picture
from harvester.readings import DAY, Window
from harvester.settings import load

EXPECTED = "checkout queries_per_request lower"


@pytest.fixture
def shop(shop):
    """Give a shop whose metrics are made of each other."""
    return cli_metrics_shop.equip(shop)


def comparison(shop, metric, *words):
    shop("diff", "index", "--json", *words)
    (found,) = (one for one in json.loads(shop.out)["data"]["comparisons"] if one["metric"] == metric)
    return found


def one_of(shop, metric):
    with shop.store() as store:
        settings = load(shop.config)
        (found,) = compare(store, settings, find_change(store, "index"), cli_metrics_shop.to_milliseconds(NOW), metrics=(metric,))
    return found


def fill(shop, *gaps, after=3.0):
    counts(shop, "database", "calls", 4700.0, after * 100, seed=1)
    counts(shop, "prom", "requests", 100.0, 100.0, *gaps, seed=2)


def test_queries_per_request_are_expected_compared_and_proposed_like_any_metric(shop):
    fill(shop)
    live(shop, EXPECTED)
    one = comparison(shop, "queries_per_request")
    assert one["verdict"] == "improved"
    assert one["mode"] == "confirmatory"
    assert one["source"] == "derived"
    assert one["labels"] == {"service": "checkout"}
    assert one["before"]["value"] == pytest.approx(47.0, rel=0.01)
    assert one["after"]["value"] == pytest.approx(3.0, rel=0.01)
    assert one["effect"]["low"] < 3 / 47 < one["effect"]["high"]
    assert shop("diff", "index") == OK
    said = "checkout queries_per_request ratio: 47 statements/request -> 3 statements/request (-94 %)"
    assert said in " ".join(shop.out.split())
    assert shop("candidates") == OK
    assert "queries per request" in shop.out
    assert "47 statements/request to 3 statements/request" in " ".join(shop.out.split())


def test_a_gap_on_one_side_shrinks_what_is_proven_and_never_makes_the_ratio_look_better(shop):
    gap = CHANGE + timedelta(days=2), CHANGE + timedelta(days=4)
    fill(shop, gap)
    live(shop, EXPECTED)
    one = comparison(shop, "queries_per_request")
    assert one["after"]["value"] == pytest.approx(3.0, rel=0.01)
    assert one["after"]["coverage"] == pytest.approx(12 / 14, abs=0.001)
    assert any(caveat["code"] == "gaps" for caveat in one["caveats"])


def test_too_large_a_gap_on_one_side_is_refused(shop):
    fill(shop, (CHANGE + timedelta(days=2), CHANGE + timedelta(days=7)))
    live(shop, EXPECTED)
    one = comparison(shop, "queries_per_request")
    assert (one["verdict"], one["caveats"][0]["code"]) == ("refused", "coverage")


def test_the_frozen_parts_are_enough_to_derive_again(shop):
    fill(shop)
    live(shop, EXPECTED)
    before = one_of(shop, "queries_per_request").before
    database = sa.create_engine(load(shop.config).store.url)
    with database.begin() as connection:
        day = T // DAY
        gone = connection.execute(sa.text("DELETE FROM block WHERE (id & 1048575) < :day"), {"day": day}).rowcount
        connection.execute(sa.text("DELETE FROM pending"))
    assert gone > 50
    again = one_of(shop, "queries_per_request").before
    assert again == before
    with shop.store() as store:
        settings = load(shop.config)
        (copy,) = (store.frozen(digest) for digest in find_change(store, "index").frozen)
        assert {one.series.source for one in copy.readings} == {"prom", "database"}
        assert not Holdings(store, settings).problems


def test_a_changed_query_of_one_part_is_another_definition_and_is_refused(shop):
    counts(shop, "database", "calls", 4700.0, 300.0)
    counts(shop, "prom", "requests", 100.0, 100.0, (CHANGE, NOW))
    counts(shop, "prom", "requests", 100.0, 100.0, (cli_metrics_shop.SINCE, CHANGE), query="sum(other_requests)")
    live(shop, EXPECTED)
    one = comparison(shop, "queries_per_request")
    assert (one["verdict"], one["caveats"][0]["code"]) == ("refused", "definitions")


def test_what_is_derived_has_a_picture_a_baseline_and_a_place_in_the_list(shop):
    fill(shop)
    live(shop, EXPECTED)
    one = one_of(shop, "queries_per_request")
    with shop.store() as store:
        drawn = picture(store, load(shop.config), one)
    assert drawn is not None
    assert "<svg" in drawn
    shop.now = CHANGE
    assert shop("baseline", "again", "--expect", EXPECTED, "--dry-run") == OK
    assert "checkout queries_per_request ratio: 47 statements/request; 14 days more will show" in " ".join(shop.out.split())
    assert shop("metrics") == OK
    assert "queries_per_request" in shop.out
    shop("metrics", "--json")
    listed = {one["name"]: one for one in json.loads(shop.out)["data"]["metrics"]}
    assert listed["queries_per_request"]["source"] == "derived"
    assert "calls / requests" in listed["queries_per_request"]["query"]


def test_the_list_shows_the_definition_that_is_compared(shop):
    fill(shop)
    live(shop, EXPECTED)
    shop("metrics", "--json")
    listed = {one["name"]: one["definition"] for one in json.loads(shop.out)["data"]["metrics"]}
    assert comparison(shop, "queries_per_request")["definition"] == listed["queries_per_request"]


def test_nodes_times_a_price_are_stated_exactly(shop):
    at = steps(definition(shop, "prom", "nodes"))
    levels(shop, "nodes", [12 if one < T else 8 for one in at], at)
    live(shop)
    one = comparison(shop, "node_cost")
    assert (one["verdict"], one["before"]["value"], one["after"]["value"]) == ("exact", 6.0, 4.0)
    shop("diff", "index")
    assert "6 USD/h -> 4 USD/h (-33 %)" in shop.out


def test_the_share_of_fast_requests_is_a_metric_and_stands_beside_the_quantile(shop):
    latencies(shop, (0.5, 0.42, 0.05, 0.02, 0.01), (0.9, 0.096, 0.002, 0.001, 0.001))
    live(shop, "checkout latency p95 lower")
    one = comparison(shop, "fast_requests")
    assert one["verdict"] == "improved"
    assert one["before"]["value"] == pytest.approx(0.92, abs=0.002)
    assert one["after"]["value"] == pytest.approx(0.996, abs=0.001)
    shop("diff", "index")
    said = " ".join(shop.out.split())
    assert "at or under 250 ms: 91.9 % -> 99.6 %" in said


def test_a_part_whose_series_cannot_be_added_up_is_said_and_by_tells_them_apart(shop):
    more = """
[derived.slow_spells]
operation = "onsets"
of = "response_time"
above = 0.4
lasting = "10m"
"""
    cli_metrics_shop.equip(shop, more)
    metric = definition(shop, "prom", "response_time")
    at = steps(metric)
    for route, value in (("/a", 0.3), ("/b", 0.2)):
        series = cli_metrics_shop.Series("prom", metric, (("route", route), ("service", "checkout")))
        cli_metrics_shop.store(shop, cli_metrics_shop.Level(series, at, stepped(at, value, value)))
    with shop.store() as store:
        holdings = Holdings(store, load(shop.config))
        assert not [one for _, one in holdings.series(load(shop.config).subject_list) if one.source == "derived"]
        assert "2 series of response_time, a level in seconds, cannot be added up" in holdings.problems[0]
    live(shop)
    shop("diff", "index")
    assert "slow_spells of checkout: 2 series of response_time" in " ".join(shop.err.split())
    cli_metrics_shop.equip(shop, more + 'by = ["route"]\n')
    with shop.store() as store:
        holdings = Holdings(store, load(shop.config))
        made = [one for _, one in holdings.series(load(shop.config).subject_list) if one.source == "derived"]
        assert [dict(one.labels)["route"] for one in made] == ["/a", "/b"]
        assert not holdings.problems
        (first, _) = holdings.held(made, Window.of(T - DAY, T))
        assert not len(first.readings)
        assert first.coverage == Window.of(T - DAY, T)


@pytest.mark.parametrize("own", [True, False])
def test_what_a_pack_offers_in_vain_is_not_complained_of(shop, monkeypatch, own):
    rule = '[derived.odd]\noperation = "share_under"\nof = "latency"\nbound = 0.3\n'
    text = shop.config.read_text()
    if own:
        text += rule
    else:
        packed = {"metrics": [], "derived": {"odd": {"operation": "share_under", "of": "latency", "bound": 0.3}}}
        monkeypatch.setattr("harvester.settings.pack", lambda _name: packed)
        text = text.replace('timeout = "2s"', 'timeout = "2s"\npacks = ["http"]', 1)
    shop.config.write_text(text)
    latencies(shop, (0.5, 0.42, 0.05, 0.02, 0.01), (0.9, 0.096, 0.002, 0.001, 0.001))
    with shop.store() as store:
        holdings = Holdings(store, load(shop.config))
        assert "odd" in load(shop.config).rules
        assert bool(holdings.problems) is own


def test_many_series_of_a_count_are_summed(shop):
    for table, number in (("a", 700.0), ("b", 1000.0)):
        counts(shop, "database", "calls", number, number, labels={"table": table})
    counts(shop, "prom", "requests", 100.0, 100.0, seed=2)
    live(shop)
    assert comparison(shop, "queries_per_request")["before"]["value"] == pytest.approx(17.0, rel=0.01)


def test_a_rule_that_cannot_be_stops_every_command_with_its_line(shop):
    cli_metrics_shop.equip(shop, '[derived.x]\noperation = "ratio"\nnumerator = "cals"\ndenominator = "requests"\n')
    with pytest.raises(ConfigError):
        load(shop.config)
    shop("metrics")
    assert "did you mean calls?" in shop.err


def test_labels_in_common_tell_series_apart_and_what_has_no_counterpart_is_not_made(shop):
    shop.config.write_text(shop.config.read_text().replace('denominator = "requests"', 'denominator = "requests"\nby = ["route"]'))
    for route, number in (("/a", 200.0), ("/b", 900.0), ("/c", 500.0)):
        counts(shop, "database", "calls", number, number, labels={"route": route, "table": "t"})
    for route in ("/a", "/b", "/d"):
        counts(shop, "prom", "requests", 100.0, 100.0, labels={"route": route}, seed=2)
    live(shop)
    shop("diff", "index", "--json")
    found = {
        one["labels"]["route"]: one["before"]["value"]
        for one in json.loads(shop.out)["data"]["comparisons"]
        if one["metric"] == "queries_per_request"
    }
    assert found == {"/a": pytest.approx(2.0, rel=0.01), "/b": pytest.approx(9.0, rel=0.01)}


def test_a_subject_known_by_its_database_only_owns_what_is_derived_for_it(shop):
    more = '[subjects.orders]\ndatabase = "orders"\n'
    more += '[derived.slow_spells]\noperation = "onsets"\nof = "response_time"\nabove = 0.4\n'
    cli_metrics_shop.equip(shop, more)
    metric = definition(shop, "prom", "response_time")
    at = steps(metric)
    series = cli_metrics_shop.Series("prom", metric, (("database", "orders"),))
    cli_metrics_shop.store(shop, cli_metrics_shop.Level(series, at, stepped(at, 0.3, 0.3)))
    with shop.store() as store:
        settings = load(shop.config)
        (orders,) = (one for one in settings.subject_list if one.name == "orders")
        ((_, stored), (_, made)) = Holdings(store, settings).series([orders])
        assert made.metric.name == "slow_spells"
        assert orders.owns(made)
        assert Holdings(store, settings).made_of([made]) == [stored]
