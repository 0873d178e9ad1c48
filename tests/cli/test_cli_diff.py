"""From a shipped change to a verdict, a candidate and a digest, on readings that are stored."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from cli_shop import CHANGE, NOW

from harvester.cli import FAILED, FINDINGS, INCONCLUSIVE, OK, USAGE
from harvester.connector import Batch
from harvester.readings import DAY, Coverage, Window, to_milliseconds


def live(shop, *expect):
    shop.now = CHANGE - timedelta(hours=1)
    assert shop("baseline", "index", *(word for text in expect for word in ("--expect", text))) == OK
    shop.now = CHANGE
    assert shop("shipped", "index") == OK
    shop.now = NOW


def comparisons(shop):
    data = json.loads(shop.out)["data"]
    assert data["change"] == "index"
    found = [one for one in data["comparisons"] if one["statistic"] == "mean"]
    return {(one["subject"], one["metric"]): one for one in found}


def test_a_halved_latency_is_improved_with_an_interval_that_holds_the_half(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    assert shop("diff", "index", "--json") == OK
    one = comparisons(shop)["checkout", "latency"]
    assert one["verdict"] == "improved"
    assert one["mode"] == "confirmatory"
    assert one["effect"]["low"] < 0.5 < one["effect"]["high"]
    assert shop("diff", "index") == OK
    assert "expected beforehand:" in shop.out
    assert "improved   checkout latency mean: 480 ms -> 240 ms (-50 %), between" in shop.out
    assert max(map(len, shop.out.splitlines())) <= 80


def test_a_regression_is_a_finding(shop):
    shop.fill("checkout", "latency", 0.24, 0.48)
    live(shop)
    assert shop("diff", "index") == FINDINGS
    assert "regressed  checkout latency mean: 240 ms -> 480 ms (+100 %)" in shop.out


def test_noise_is_no_claim_and_says_what_could_have_been_seen(shop):
    shop.fill("checkout", "latency", 0.48, 0.48, noise=0.8)
    live(shop, "checkout latency lower")
    shop("diff", "index", "--json")
    one = comparisons(shop)["checkout", "latency"]
    assert one["verdict"] in ("unclear", "unchanged")
    assert 0 < one["visible_percent"] < 50


def test_what_is_known_exactly_is_stated_not_tested(shop):
    shop.fill("checkout", "replicas", 12, 8, noise=0)
    live(shop)
    assert shop("diff", "index", "--json") == OK
    one = comparisons(shop)["checkout", "replicas"]
    assert (one["verdict"], one["p"], one["effect"]["low"]) == ("exact", None, None)
    assert shop("diff", "index") == OK
    assert "12 replicas -> 8 replicas (-33 %)" in shop.out


def test_a_gap_is_refused_with_its_share_and_is_inconclusive(shop):
    shop.fill("checkout", "latency", 0.48, 0.24, until=NOW - timedelta(days=6))
    live(shop, "checkout latency lower")
    assert shop("diff", "index") == INCONCLUSIVE
    assert "refused    checkout latency mean" in shop.out
    assert "57 % of the after window" in " ".join(shop.out.split())


def test_only_the_series_of_the_changes_subjects_are_compared(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    shop.fill("search", "latency", 0.1, 0.1)
    live(shop, "checkout latency lower")
    shop("diff", "index", "--json")
    assert set(comparisons(shop)) == {("checkout", "latency")}


def test_a_change_that_is_not_live_and_a_metric_that_is_none_are_said_with_what_to_do(shop):
    shop("baseline", "index")
    assert shop("diff", "index") == USAGE
    assert "is not shipped yet\n  hint: harvest shipped index" in shop.err
    shop("shipped", "index")
    shop.now += timedelta(days=4)
    assert shop("diff", "index", "--metric", "latencey") == USAGE
    assert "did you mean latency?" in shop.err
    assert shop("diff", "index", "--days", "9") == USAGE
    assert "only 4 whole days have passed" in shop.err
    assert shop("diff", "indx") == USAGE
    assert "did you mean index?" in shop.err


def test_explain_shows_windows_coverage_model_and_every_doubt(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    assert shop("diff", "index", "--explain") == OK
    said = " ".join(shop.out.split())
    assert "before: n = 4,032, 100.0 % proven complete" in said
    assert "after: n = 4,032, 100.0 % proven complete" in said
    assert "model: x 0.50" in said
    assert "confirmatory" in said


def test_the_frozen_copy_is_what_is_compared_even_when_the_store_forgot(shop):
    from harvester.impact import settle
    from harvester.settings import load

    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    with shop.store() as store:
        assert settle(store, load(shop.config), to_milliseconds(NOW) + DAY)
        [series] = store.series(metric="latency")
        # Somebody's backfill rewrites history after the fact: the evidence that was frozen does not move.
        [held] = store.read([series], Window.of(0, to_milliseconds(CHANGE)))
        rewritten = type(held)(series, held.at, held.value / 2)
        store.commit("prom", Batch((rewritten,)))
    assert shop("diff", "index", "--json") == OK
    one = comparisons(shop)["checkout", "latency"]
    assert one["verdict"] == "improved"
    assert one["before"]["value"] == pytest.approx(0.48, rel=0.01)


def test_what_was_missing_when_the_baseline_was_frozen_is_not_taken_for_proven_by_what_filled_it_later(shop):
    from harvester.impact import settle
    from harvester.settings import load

    shop.fill("checkout", "latency", 0.48, 0.24, until=CHANGE - timedelta(days=6))
    live(shop, "checkout latency lower")
    with shop.store() as store:
        assert settle(store, load(shop.config), to_milliseconds(NOW) + DAY)
    shop.fill("checkout", "latency", 0.48, 0.24, since=CHANGE - timedelta(days=6))
    assert shop("diff", "index", "--json") == OK
    one = comparisons(shop)["checkout", "latency"]
    assert one["before"]["coverage"] == 1.0
    assert one["before"]["n"] == 14 * 288, "the copy holds eight of the fourteen days only"


def test_what_was_proven_of_a_metric_asked_otherwise_proves_nothing_of_it_now(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    text = shop.config.read_text()
    shop.config.write_text(text.replace("latency{$selector}", "latency_v2{$selector}"))
    shop.fill("checkout", "latency", 0.30, 0.30, since=CHANGE - timedelta(days=5))
    assert shop("diff", "index", "--json") == INCONCLUSIVE
    one = comparisons(shop)["checkout", "latency"]
    assert one["verdict"] == "refused"
    assert one["before"]["coverage"] == pytest.approx(5 / 14)


def test_candidates_are_proposed_decided_taken_back_and_never_return_when_dismissed(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    assert shop("candidates", "--json") == OK
    [one] = json.loads(shop.out)["data"]["candidates"]
    assert (one["change"], one["subject"], one["status"]) == ("index", "checkout", "proposed")
    assert "480 ms" in one["sentence"]
    assert "240 ms" in one["sentence"]
    assert shop("candidates", "accept", one["id"][:6]) == OK
    assert shop("candidates", "--json") == OK
    assert json.loads(shop.out)["data"]["candidates"][0]["status"] == "accepted"
    assert shop("candidates", "undo", one["id"]) == OK
    assert shop("candidates", "dismiss", one["id"], "--why", "traffic moved") == OK
    assert shop("candidates") == OK
    assert "no candidates yet" in shop.out
    assert shop("candidates", "--all", "--json") == OK
    [again] = json.loads(shop.out)["data"]["candidates"]
    assert (again["id"], again["status"], again["reason"]) == (one["id"], "dismissed", "traffic moved")
    assert shop("candidates", "show", "zzz") == USAGE
    assert "there is none whose id begins so" in shop.err


def test_a_change_is_forgotten_with_its_candidates_unless_one_was_accepted(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    shop("candidates", "--json")
    [one] = json.loads(shop.out)["data"]["candidates"]
    shop("candidates", "accept", one["id"])
    assert shop("changes", "remove", "index") == USAGE
    assert f"harvest candidates undo {one['id']}" in shop.err
    shop("candidates", "undo", one["id"])
    shop("candidates", "dismiss", one["id"])
    assert shop("changes", "remove", "index") == OK
    for words in (["candidates", "--all"], ["candidates", "--all", "--format", "csv"], ["digest"]):
        assert shop(*words) == OK, shop.err


def test_hours_after_shipping_the_answer_is_that_a_day_has_to_pass(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    shop.now = CHANGE + timedelta(hours=3)
    assert shop("diff", "index") == INCONCLUSIVE
    assert "there is 0.1 days of time since the change, 1 is needed" in shop.out


def test_a_sentence_is_reworded_but_no_figure_is_invented(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    shop("candidates", "--json")
    [one] = json.loads(shop.out)["data"]["candidates"]
    assert shop("candidates", "edit", one["id"], "--sentence", "An index took checkout from 480 ms to 240 ms.") == OK
    assert shop("candidates", "edit", one["id"], "--sentence", "An index took checkout from 480 ms to 24 ms.") == USAGE
    assert "24 ms" in shop.err
    assert shop("candidates", "--json") == OK
    [again] = json.loads(shop.out)["data"]["candidates"]
    assert again["sentence"] == "An index took checkout from 480 ms to 240 ms."


@pytest.mark.parametrize("form", ["resume", "review", "self-assessment", "case-study", "markdown", "json", "csv"])
def test_candidates_are_printed_in_every_form(shop, form):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    assert shop("candidates", "--format", form) == OK
    assert "480 ms" in shop.out


def test_the_digest_tells_the_candidate_and_writes_a_mail_and_a_page(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    live(shop, "checkout latency lower")
    assert shop("digest") == OK
    assert "480 ms" in shop.out
    assert shop("digest", "--json") == OK
    assert json.loads(shop.out)["data"]["candidates"]
    assert shop("digest", "--preview", "--out", str(shop.folder / "out")) == OK
    paths = shop.out.split()
    assert [path.rpartition(".")[2] for path in paths] == ["eml", "html"]
    assert "480 ms" in (shop.folder / "out" / paths[1]).read_text()


def test_a_digest_by_mail_without_mail_settings_is_answered_with_what_to_do(shop):
    for word in ("--send", "--test"):
        assert shop("digest", word) == USAGE
        assert "no [mail] is configured" in shop.err
    assert shop("digest", "--preview", "--send") == USAGE
    assert shop("digest", "--out", "x") == USAGE


def test_an_empty_store_says_what_to_do_and_never_shows_a_traceback(shop):
    for words, code in ((["candidates"], OK), (["digest"], OK), (["status"], OK), (["changes"], OK), (["metrics"], OK)):
        assert shop(*words) == code, shop.err
        assert shop.out
    assert shop("diff") == USAGE
    assert "harvest baseline NAME" in shop.err
    live(shop)
    assert shop("diff", "index") == INCONCLUSIVE
    assert "nothing is stored of its subjects" in shop.out


def test_a_source_that_is_down_fails_the_collection_and_shows_in_the_status(shop):
    assert shop("collect") == FAILED
    assert "127.0.0.1:9" in shop.err
    assert shop("status") == FINDINGS
    assert "!! prom failed" in shop.out
    assert shop("check") == FINDINGS
    assert "!!" in shop.out


def test_coverage_is_kept_by_the_source_that_proved_it(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    with shop.store() as store:
        found = store.series()
        before = store.coverages(found)
        store.commit("other", Batch((), (Coverage("latency", Window.of(0, DAY), None, found[0].metric.question),)))
        assert store.coverages(found) == before
