"""What was called otherwise before is one series, only where it may be, and every figure says so."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import cli_metrics_shop
import numpy as np
import pytest
from cli_metrics_shop import SINCE, T, definition, levels, live, stepped, steps
from cli_shop import CHANGE, NOW
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from harvester.catalog import config_folder
from harvester.cli import OK, USAGE
from harvester.holdings import Holdings
from harvester.impact import find_change
from harvester.readings import DAY, HOUR, MINUTE, Series, Window
from harvester.settings import load

RENAMED = CHANGE - timedelta(days=5)


@pytest.fixture
def shop(shop):
    """Give a shop whose response time was renamed five days before the change."""
    return cli_metrics_shop.equip(shop)


def renamed(shop, *, overlap: int = 0, gap: int = 0, **other) -> None:
    """Store the old name up to the rename (and a few readings on), the new one from there (or a little later)."""
    metric = definition(shop, "prom", "response_time")
    old_at = steps(metric, until=RENAMED + overlap * timedelta(minutes=5))
    new_at = steps(metric, since=RENAMED + gap * timedelta(minutes=5))
    levels(shop, "old_response_time", stepped(old_at, 0.48, 0.24), old_at, **other)
    levels(shop, "response_time", stepped(new_at, 0.48, 0.24, seed=2), new_at)


def comparisons(shop, *words):
    shop("diff", "index", "--json", *words)
    return {one["metric"]: one for one in json.loads(shop.out)["data"]["comparisons"] if one["statistic"] == "mean"}


def listed(shop):
    shop("metrics", "alias", "--list", "--json")
    assert schema_errors(shop.out) == []
    return json.loads(shop.out)["data"]["aliases"]


def schema_errors(text):
    schemas = {path.name: json.loads(path.read_text()) for path in (config_folder() / "schemas").glob("*.json")}
    registry = Registry().with_resources((name, Resource.from_contents(one)) for name, one in schemas.items())
    return list(Draft202012Validator(schemas["metrics.json"], registry=registry).iter_errors(json.loads(text)))


def test_without_the_alias_the_new_name_has_too_little_before_it(shop):
    renamed(shop)
    live(shop)
    assert comparisons(shop)["response_time"]["verdict"] == "refused"


def test_an_alias_makes_one_series_of_both_names_and_the_figures_say_so(shop):
    renamed(shop)
    assert shop("metrics", "alias", "old_response_time", "response_time") == OK
    live(shop, "checkout response_time lower")
    found = comparisons(shop)
    assert "old_response_time" not in found
    one = found["response_time"]
    assert one["verdict"] == "improved"
    assert one["before"]["coverage"] == 1
    assert one["before"]["value"] == pytest.approx(0.48, rel=0.02)
    (caveat,) = (each for each in one["caveats"] if each["code"] == "joined")
    assert caveat["data"]["old"] == "old_response_time"
    assert "it was old_response_time" in caveat["text"]
    assert shop("diff", "index") == OK
    assert "until 4 Nov 2026 12:00 UTC it was old_response_time" in " ".join(shop.out.split())
    assert shop("candidates", "--json") == OK
    (candidate,) = json.loads(shop.out)["data"]["candidates"]
    assert "joined" in {each["code"] for each in candidate["caveats"]}


def test_what_both_names_say_is_read_from_the_new_one_and_said(shop):
    renamed(shop, overlap=36)
    assert shop("metrics", "alias", "old_response_time", "response_time") == OK
    assert "36 later readings of the old name are left out" in " ".join(shop.out.split())
    with shop.store() as store:
        settings = load(shop.config)
        holdings = Holdings(store, settings)
        (series,) = (one for _, one in holdings.series(settings.subject_list) if one.metric.name == "response_time")
        window = Window.of(T - 6 * DAY, T - 4 * DAY)
        (held,) = holdings.held([series], window)
        old, new = store.read([store.series(metric="old_response_time")[0], series], window)
    since = T - 5 * DAY
    assert held.readings.at.tolist() == list(range(window.start, window.end, 5 * MINUTE))
    assert held.readings.value[held.readings.at >= since].tolist() == new.value.tolist()
    assert held.readings.value[held.readings.at < since].tolist() == old.value[old.at < since].tolist()
    assert held.coverage == window
    live(shop)
    said = next(each for each in comparisons(shop)["response_time"]["caveats"] if each["code"] == "joined")
    assert "36 later readings of the old name are left out" in said["text"]


def test_a_gap_between_the_names_stays_one(shop):
    renamed(shop, gap=12 * 24 * 2)
    shop("metrics", "alias", "old_response_time", "response_time")
    live(shop)
    assert comparisons(shop)["response_time"]["before"]["coverage"] == pytest.approx(12 / 14, abs=0.01)


def test_another_unit_or_shape_is_never_joined(shop):
    renamed(shop, unit="1")
    assert shop("metrics", "alias", "old_response_time", "response_time", "--dry-run") == OK
    assert "would join 0 series" in shop.out
    assert "not joined, they differ in unit" in " ".join(shop.out.split())
    shop("metrics", "alias", "old_response_time", "response_time")
    live(shop)
    found = comparisons(shop)
    assert found["response_time"]["verdict"] == "refused"
    assert "old_response_time" in found


def test_a_renamed_label_is_joined_only_where_the_query_is_the_same(shop):
    metric = definition(shop, "prom", "response_time")
    old_at, new_at = steps(metric, until=RENAMED), steps(metric, since=RENAMED)
    levels(shop, "response_time", stepped(old_at, 0.48, 0.24), old_at, service="checkout-v1")
    levels(shop, "response_time", stepped(new_at, 0.48, 0.24), new_at)
    levels(shop, "nodes", np.full(len(old_at), 3.0), old_at, service="checkout-v1", query="count(old_nodes)")
    levels(shop, "nodes", np.full(len(new_at), 3.0), new_at)
    assert shop("metrics", "alias", "service=checkout-v1", "service=checkout") == OK
    assert "1 series" in shop.out
    assert "not joined, they are defined differently" in " ".join(shop.out.split())
    live(shop)
    found = comparisons(shop)
    assert found["response_time"]["verdict"] == "improved"
    assert [one for one in found["response_time"]["caveats"] if one["code"] == "joined"]
    assert not [one for one in found["nodes"]["caveats"] if one["code"] == "joined"]


def test_the_frozen_baseline_holds_the_old_name_too(shop):
    renamed(shop)
    shop("metrics", "alias", "old_response_time", "response_time")
    live(shop)
    with shop.store() as store:
        (copy,) = (store.frozen(digest) for digest in find_change(store, "index").frozen)
        assert {one.series.metric.name for one in copy.readings} == {"old_response_time", "response_time"}


def test_a_dry_run_keeps_nothing_and_an_alias_can_be_taken_back(shop):
    renamed(shop)
    assert shop("metrics", "alias", "old_response_time", "response_time", "--dry-run") == OK
    assert 'old_response_time{service="checkout"} (prom) -> response_time{service="checkout"}' in " ".join(shop.out.split())
    assert listed(shop) == []
    shop("metrics", "alias", "old_response_time", "response_time")
    (one,) = listed(shop)
    assert (one["old"], one["series"][0]["problem"]) == ("old_response_time", None)
    assert one["series"][0]["since"] == RENAMED.isoformat()
    assert shop("metrics", "alias", "old_response_time", "response_time", "--remove") == OK
    assert listed(shop) == []
    live(shop)
    assert comparisons(shop)["response_time"]["verdict"] == "refused"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["old_response_tim", "response_time"], "did you mean old_response_time"),
        (["checkout", "response_time"], "did you mean service=checkout?"),
        (["service=checkout", "response_time"], "one is a label and the other a metric"),
        (["response_time", "response_time"], "is the same name twice"),
        (["response_time"], "two names are needed"),
        (["fast_requests", "response_time"], "a derived metric has no name of its own"),
        (["old_response_time", "response_time", "--remove"], "was never told"),
        (["a", "b", "--list"], "takes no other word"),
    ],
)
def test_words_that_cannot_be_joined_are_named(shop, words, said):
    renamed(shop)
    assert shop("metrics", "alias", *words) == USAGE
    assert said in " ".join(shop.err.split())


def test_what_is_told_twice_or_goes_in_a_circle_is_refused(shop):
    renamed(shop)
    assert shop("metrics", "alias", "old_response_time", "response_time") == OK
    assert shop("metrics", "alias", "old_response_time", "response_time") == USAGE
    assert "was told already" in shop.err
    assert shop("metrics", "alias", "response_time", "old_response_time") == USAGE
    assert "is called already" in " ".join(shop.err.split())


def test_a_metric_renamed_twice_is_one_series_of_three_names(shop):
    metric = definition(shop, "prom", "response_time")
    middle = replace(metric, name="middle_time", query="middle")
    first_at = steps(metric, until=CHANGE - timedelta(days=20))
    middle_at = steps(metric, since=CHANGE - timedelta(days=20), until=RENAMED)
    last_at = steps(metric, since=RENAMED)
    levels(shop, "old_response_time", np.full(len(first_at), 1.0), first_at)
    series = Series("prom", middle, (("service", "checkout"),))
    cli_metrics_shop.store(shop, cli_metrics_shop.Level(series, middle_at, np.full(len(middle_at), 2.0)), until=RENAMED)
    levels(shop, "response_time", np.full(len(last_at), 3.0), last_at)
    assert shop("metrics", "alias", "old_response_time", "middle_time") == OK
    assert shop("metrics", "alias", "middle_time", "response_time") == OK
    with shop.store() as store:
        settings = load(shop.config)
        holdings = Holdings(store, settings)
        ((_, series),) = holdings.series(settings.subject_list)
        window = Window.of(int(first_at[0]), T)
        (held,) = holdings.held([series], window)
        assert sorted(set(held.readings.value.tolist())) == [1.0, 2.0, 3.0]
        assert held.coverage == window
        joined = holdings.joined(series)
        assert [(one.old.metric.name, (T - one.since) // HOUR) for one in joined] == [
            ("middle_time", 120), ("old_response_time", 480),
        ]


def test_nothing_is_joined_before_the_new_name_is_stored(shop):
    metric = definition(shop, "prom", "old_response_time")
    at = steps(metric, since=SINCE, until=NOW)
    levels(shop, "old_response_time", stepped(at, 0.48, 0.24), at)
    assert shop("metrics", "alias", "old_response_time", "response_time") == OK
    assert "joined as soon as there is" in " ".join(shop.out.split())
    live(shop)
    assert comparisons(shop)["old_response_time"]["verdict"] == "improved"


def test_a_name_in_between_that_came_late_hides_nothing_of_the_new_one(shop):
    metric = definition(shop, "prom", "response_time")
    middle = replace(metric, name="middle_time", query="middle")
    old_at, new_at = steps(metric, until=NOW), steps(metric, since=CHANGE - timedelta(days=20))
    late_at = steps(metric, since=RENAMED)
    levels(shop, "old_response_time", np.full(len(old_at), 1.0), old_at)
    series = Series("prom", middle, (("service", "checkout"),))
    cli_metrics_shop.store(shop, cli_metrics_shop.Level(series, late_at, np.full(len(late_at), 2.0)))
    levels(shop, "response_time", np.full(len(new_at), 3.0), new_at)
    shop("metrics", "alias", "old_response_time", "middle_time")
    shop("metrics", "alias", "middle_time", "response_time")
    with shop.store() as store:
        settings = load(shop.config)
        holdings = Holdings(store, settings)
        ((_, series),) = holdings.series(settings.subject_list)
        (held,) = holdings.held([series], Window.of(int(old_at[0]), T))
    assert held.readings.value.tolist() == [1.0] * int((old_at < T - 20 * DAY).sum()) + [3.0] * (20 * 288)
    assert {(T - one.since) // DAY for one in holdings.joined(series)} == {20}
