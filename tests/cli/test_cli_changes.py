"""``baseline``, ``shipped`` and ``changes``, as a person types them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from harvester.cli import OK, USAGE
from harvester.impact import find_change, settle
from harvester.readings import DAY, to_milliseconds


def data(shop):
    return json.loads(shop.out)["data"]


def test_a_baseline_echoes_what_its_expectation_resolved_to_and_states_its_power(shop):
    shop.fill("checkout", "latency", 0.48, 0.48)
    assert shop("baseline", "index", "--expect", "checkout latency lower by 20%", "--link", "https://x/pull/1") == OK
    assert shop.out.splitlines()[:3] == [
        "index: baseline, freezes 26 Oct to 23 Nov 2026 of checkout",
        "  expected: checkout latency mean lower by 20%",
        "  link: https://x/pull/1",
    ]
    assert "checkout latency mean: 480 ms; 14 days more will show a change of" in shop.out
    assert "in the background" in shop.err
    assert "harvest shipped index" in shop.err


def test_a_baseline_answers_within_two_seconds_and_pulls_in_the_background(shop):
    shop.fill("checkout", "latency", 0.48, 0.48)
    words = [sys.executable, "-m", "harvester.cli", "baseline", "quick", "--config", str(shop.config)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert spent < 2.0, "of the processor's time: the wall clock of a busy machine proves nothing"
    assert "quick: baseline, freezes" in done.stdout
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # the collection it started records that nothing answers
        with shop.store() as store:
            if store.collections("prom"):
                break
        time.sleep(0.2)
    with shop.store() as store:
        assert "127.0.0.1:9" in str(store.collections("prom")[0].error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("checkuot latency lower", "there is no subject checkuot\n  hint: did you mean checkout?"),
        ("checkout latencey lower", "there is no metric latencey\n  hint: did you mean latency?"),
        ("checkout latency p42 lower", "there is no statistic p42"),
        ("checkout latency smaller", "there is no direction smaller"),
        ("checkout latency lower by much", "much is not a percentage\n  hint: by 10%"),
        ("checkout", "has too few or too many words\n  hint: SUBJECT METRIC [STATISTIC] lower|higher|held [by N%]"),
    ],
)
def test_an_expectation_that_resolves_to_nothing_is_answered_with_the_nearest_names(shop, text, said):
    assert shop("baseline", "index", "--expect", text) == USAGE
    assert said in shop.err
    with shop.store() as store:
        assert not store.list("change")


def test_a_baseline_without_a_name_outside_a_checkout_asks_for_one(shop):
    assert shop("baseline") == USAGE
    assert shop.err == (
        "harvest: register change: it has no name\n  hint: harvest baseline NAME; inside a git checkout the branch names it\n"
    )


def test_in_a_git_checkout_the_branch_names_the_change_and_the_commit_links_it(shop, monkeypatch):
    monkeypatch.delenv("GIT_CEILING_DIRECTORIES")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(shop.folder)]
    for words in (["init", "-q", "-b", "checkout-index"], ["commit", "-q", "--allow-empty", "-m", "x"],
                  ["remote", "add", "origin", "git@github.com:acme/shop.git"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert shop("baseline", "--json") == OK
    change = data(shop)["change"]
    assert change["name"] == "checkout-index"
    assert change["links"] == [f"https://github.com/acme/shop/commit/{head}"]
    assert shop("shipped") == OK
    assert shop.out.startswith("checkout-index: live since 23 Nov 2026 12:00 UTC")


def test_a_dry_run_keeps_nothing(shop):
    assert shop("baseline", "index", "--dry-run") == OK
    assert "would freeze" in shop.out
    with shop.store() as store:
        assert not store.list("change")


def test_a_name_is_registered_once(shop):
    assert shop("baseline", "index") == OK
    assert shop("baseline", "index") == USAGE
    assert "there is one of that name already" in shop.err


@pytest.mark.parametrize("name", ["", "a b", "-x", "a\x1b[31m", "x" * 101])
def test_what_is_no_name_is_refused(shop, name):
    assert shop("baseline", "--", name) == USAGE
    assert "\x1b" not in shop.err


def test_shipping_takes_now_a_time_with_its_offset_or_so_long_ago(shop):
    shop("baseline", "index")
    shop.now += timedelta(days=3)
    assert shop("shipped", "index") == OK
    assert shop.out == "index: live since 26 Nov 2026 12:00 UTC\n"
    assert shop("shipped", "index", "--at", "2026-11-25T09:30+02:00") == OK
    assert shop.out == "index: live since 25 Nov 2026 07:30 UTC\n"
    assert shop("shipped", "index", "--at", "2d") == OK
    assert shop.out == "index: live since 24 Nov 2026 12:00 UTC\n"


def test_a_time_without_a_zone_is_refused_not_guessed(shop):
    shop("baseline", "index")
    assert shop("shipped", "index", "--at", "2026-11-25T09:30") == USAGE
    assert "has no time zone; write 2026-11-25T09:30Z for UTC" in shop.err


def test_what_cannot_be_a_time_of_shipping_is_refused(shop):
    shop("baseline", "index")
    for words, said in (
        (["--at", "2027-01-01T00:00Z"], "lies in the future"),
        (["--at", "2026-10-26T12:00Z"], "that is before its baseline"),
        (["--at", "tomorrow"], "is not a time such as"),
        (["--undo"], "it is not live"),
    ):
        assert shop("shipped", "index", *words) == USAGE
        assert said in shop.err
    shop("shipped", "index")
    assert shop("shipped", "index") == USAGE
    assert "it is live since 23 Nov 2026 12:00 UTC already" in shop.err


def test_shipping_can_be_taken_back(shop):
    shop("baseline", "index")
    shop("shipped", "index")
    assert shop("shipped", "index", "--undo") == OK
    with shop.store() as store:
        assert find_change(store, "index").shipped is None


def test_a_change_that_was_live_before_its_baseline_was_registered_is_labelled_retrospective(shop):
    shop("baseline", "index")
    assert shop("shipped", "index", "--at", "3d") == OK
    assert "labelled retrospective" in shop.out
    with shop.store() as store:
        assert find_change(store, "index").retrospective


def test_an_unknown_change_is_answered_with_the_nearest(shop):
    shop("baseline", "checkout-index")
    assert shop("shipped", "chekout-index") == USAGE
    assert "did you mean checkout-index?" in shop.err


def test_changes_are_listed_edited_and_removed(shop):
    assert shop("changes") == OK
    assert "no changes yet" in shop.out
    shop("baseline", "index", "--expect", "checkout latency lower")
    assert shop("changes") == OK
    assert "not live" in shop.out
    assert shop("changes", "edit", "index", "--title", "added an index", "--link", "https://x", "--link", "https://x") == OK
    assert shop("changes", "list", "--json") == OK
    [change] = data(shop)["changes"]
    assert change["title"] == "added an index"
    assert change["links"] == ["https://x"]
    assert change["expect"] == ["checkout latency mean lower"]
    assert shop("changes", "edit", "index") == USAGE
    assert shop("changes", "remove", "index") == OK
    assert shop("changes", "list", "--json") == OK
    assert data(shop)["changes"] == []


def test_what_is_named_after_shipping_was_not_expected(shop):
    shop("baseline", "index")
    shop("shipped", "index")
    assert shop("changes", "edit", "index", "--expect", "checkout latency lower") == USAGE
    assert "was not expected" in shop.err


def test_what_is_named_after_it_went_live_is_not_expected_however_late_shipping_is_told(shop):
    shop.fill("checkout", "latency", 0.48, 0.48)
    shop.now -= timedelta(days=9)
    shop("baseline", "index", "--expect", "checkout latency median lower")
    shop.now += timedelta(days=9)
    assert shop("changes", "edit", "index", "--expect", "checkout latency mean lower") == OK
    assert shop("shipped", "index", "--at", "8d") == OK
    shop("diff", "index", "--json")
    modes = {one["statistic"]: one["mode"] for one in data(shop)["comparisons"]}
    assert (modes["median"], modes["mean"]) == ("confirmatory", "retrospective")


def test_a_baseline_is_frozen_once_its_sources_were_collected_after_it(shop):
    shop.fill("checkout", "latency", 0.48, 0.48)
    shop("baseline", "index")
    with shop.store() as store:
        at = to_milliseconds(shop.now)
        assert settle(store, load_settings(shop), at) == []
        assert [one.name for one in settle(store, load_settings(shop), at + DAY + 1)] == ["index"]
        change = find_change(store, "index")
        copy = store.frozen(change.frozen[0])
        assert copy.window.end == change.baseline_end
        assert len(copy.readings[0]) > 0
        assert settle(store, load_settings(shop), at + 2 * DAY) == []


def load_settings(shop):
    from harvester.settings import load

    return load(shop.config)
