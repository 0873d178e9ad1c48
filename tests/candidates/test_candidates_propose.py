"""Which comparisons become candidates, which never do, and what a decision protects."""

from dataclasses import replace

import pytest
from candidate_samples import (
    DAY,
    LIVE,
    change,
    compared,
    errors_rose,
    incidents,
    instances,
    latency,
    p99_held,
    traffic,
)

from harvester.candidates import word
from harvester.candidates.model import Candidate, Cause, Grade, Status
from harvester.candidates.propose import candidate_id, mode_of, propose
from harvester.differ.result import Caveat, Mode, Verdict

NOW = LIVE + 15 * DAY


def codes(candidate: Candidate) -> list[str]:
    return [one.code for one in candidate.caveats]


# ---- how a comparison came about


def test_what_was_named_before_it_went_live_is_confirmatory_and_nothing_else_is():
    mine = change("latency p95 lower")
    assert mode_of(mine, "checkout", "latency", "p95") is Mode.CONFIRMATORY
    assert mode_of(mine, "checkout", "latency", "p99") is Mode.EXPLORATORY
    assert mode_of(mine, "search", "latency", "p95") is Mode.EXPLORATORY
    assert mode_of(replace(mine, shipped=None), "checkout", "latency", "p95") is Mode.CONFIRMATORY


def test_what_was_named_after_it_went_live_is_retrospective():
    late = change("latency p95 lower", registered=LIVE + DAY)
    assert mode_of(late, "checkout", "latency", "p95") is Mode.RETROSPECTIVE
    rebuilt = change("latency p95 lower", retrospective=True)
    assert mode_of(rebuilt, "checkout", "latency", "p95") is Mode.RETROSPECTIVE
    assert mode_of(rebuilt, "checkout", "memory", "mean") is Mode.RETROSPECTIVE


# ---- what becomes a candidate


def test_a_named_effect_that_came_is_expected_and_a_later_window_confirms_it():
    (one,) = propose(change(), [latency()], now=NOW)
    assert (one.grade, one.verdict, one.status) == (Grade.EXPECTED, "improved", Status.PROPOSED)
    assert "read_once" in codes(one)
    later = latency(start=LIVE + 14 * DAY, after=0.15)
    (one,) = propose(change(), [latency()], now=NOW, replications=[(latency(), later)])
    assert one.grade is Grade.CONFIRMED
    assert "read_once" not in codes(one)


@pytest.mark.parametrize(
    "later",
    [
        latency(start=LIVE + 14 * DAY, days=6),
        latency(start=LIVE + 13 * DAY),
        latency(start=LIVE + 14 * DAY, verdict="unclear", high=1.1),
        latency(start=LIVE + 14 * DAY, after=0.9, low=1.4, high=2.4, verdict="regressed"),
        latency(start=LIVE + 14 * DAY, statistic="p99"),
    ],
    ids=["shorter than a week", "overlapping", "unclear", "the other way", "another statistic"],
)
def test_a_window_that_is_short_overlapping_or_says_otherwise_confirms_nothing(later):
    (one,) = propose(change(), [latency()], now=NOW, replications=[(latency(), later)])
    assert one.grade is Grade.EXPECTED


def test_a_later_window_confirms_nothing_that_the_earlier_one_did_not_show():
    later = latency(start=LIVE + 14 * DAY)
    earlier = latency(verdict="unclear", high=1.1)
    (one,) = propose(change(), [latency()], now=NOW, replications=[(earlier, later)])
    assert one.grade is Grade.EXPECTED


def test_a_refused_comparison_claims_nothing():
    assert propose(change(), [latency(verdict="refused")], now=NOW) == []


def test_an_unclear_effect_nobody_named_claims_nothing():
    found = [latency(verdict="unclear", high=1.2, mode="exploratory", p=0.2)]
    assert propose(change("memory mean lower"), found, now=NOW) == []


def test_a_named_effect_that_did_not_come_is_observed_and_not_proven():
    unclear = latency(after=0.45, low=0.8, high=1.1, verdict="unclear", p=0.3)
    (one,) = propose(change(), [unclear], now=NOW)
    assert one.grade is Grade.OBSERVED
    assert "no evidence that p95 latency of checkout is lower" in one.sentence
    assert "reduced" not in one.sentence


def test_before_a_week_has_passed_an_unclear_effect_is_not_yet_a_candidate():
    unclear = {"after": 0.45, "low": 0.8, "high": 1.1, "verdict": "unclear", "p": 0.3}
    assert propose(change(), [latency(**unclear, days=6)], now=NOW) == []
    assert len(propose(change(), [latency(**unclear, days=7)], now=NOW)) == 1


def test_a_guard_that_did_not_move_is_held():
    (one,) = propose(change("latency p99 held"), [p99_held()], now=NOW)
    assert one.grade is Grade.EXPECTED
    assert "p99 latency of checkout held" in one.sentence


def test_a_guard_that_got_worse_did_not_hold():
    worse = p99_held(after=2.4, low=1.7, high=2.3, verdict="regressed", p=1e-4)
    (one,) = propose(change("latency p99 held"), [worse], now=NOW)
    assert "did not hold" in one.sentence
    assert one.verdict == "regressed"


def test_known_exactly_is_stated_as_such():
    (one,) = propose(change("instances median lower"), [instances(mode="confirmatory")], now=NOW)
    assert one.grade is Grade.EXACT
    assert "from 24 instances to 12 instances (-50 %), known exactly" in one.sentence


def test_an_exact_value_that_did_not_move_is_no_candidate_unless_it_was_named():
    assert propose(change(), [instances(12, 12)], now=NOW) == []
    (one,) = propose(change("instances median held"), [instances(12, 12, mode="confirmatory")], now=NOW)
    assert "held at 12 instances" in one.sentence


def test_a_regression_is_told_as_plainly_as_an_improvement():
    worse = latency(before=0.140, after=0.480, low=3.0, high=3.9, verdict="regressed")
    (one,) = propose(change(), [worse], now=NOW)
    assert "p95 latency of checkout was higher afterwards" in one.sentence


def test_figures_that_moved_against_the_model_are_never_worded_as_a_claim():
    odd = latency(before=0.100, after=0.101, low=0.8, high=0.95, verdict="improved")
    assert all(one.grade is Grade.OBSERVED for one in propose(change(), [odd], now=NOW))


# ---- paying for the search


def test_what_nobody_named_pays_for_the_search():
    weak = [
        latency(
            metric=f"m{index}",
            mode="exploratory",
            p=0.04 if index == 0 else 0.5 + index / 100,
            verdict="improved" if index == 0 else "unclear",
            high=0.99 if index == 0 else 1.2,
        )
        for index in range(10)
    ]
    nobody = change("memory mean lower")
    assert propose(nobody, weak, now=NOW) == []
    strong = [replace(weak[0], p=0.0001), *weak[1:]]
    (one,) = propose(nobody, strong, now=NOW)
    assert one.grade is Grade.EXPLORED
    assert "searched" in codes(one)
    assert "10 comparisons" in next(c.text for c in one.caveats if c.code == "searched")


def test_what_was_named_does_not_pay_for_the_search():
    noise = [latency(metric=f"m{index}", mode="exploratory", verdict="unclear", p=0.9, high=1.2) for index in range(20)]
    (one,) = propose(change(), [latency(p=0.04), *noise], now=NOW)
    assert one.grade is Grade.EXPECTED
    assert "searched" not in codes(one)


def test_a_rebuilt_baseline_pays_and_says_so():
    (one,) = propose(change(retrospective=True), [latency(mode="retrospective", p=1e-6)], now=NOW)
    assert one.grade is Grade.EXPLORED
    assert "retrospective" in codes(one)
    noise = [
        latency(metric=f"m{index}", mode="retrospective", verdict="unclear", p=0.9, high=1.2) for index in range(20)
    ]
    found = [latency(mode="retrospective", p=0.04), *noise]
    assert all(one.grade is Grade.OBSERVED for one in propose(change(retrospective=True), found, now=NOW))


# ---- one candidate a subject


def test_one_change_and_subject_give_one_candidate_with_the_named_effect_as_headline():
    p50 = latency(statistic="p50", before=0.12, after=0.01, low=0.05, high=0.1, mode="exploratory", p=1e-9)
    (one,) = propose(change("latency p95 lower", "latency p99 held"), [p50, p99_held(), latency()], now=NOW)
    assert one.headline.statistic == "p95"
    assert [other.statistic for other in one.support] == ["p99", "p50"]


def test_each_subject_has_its_own():
    found = [latency(), latency(subject="search", mode="exploratory")]
    assert {one.subject for one in propose(change(), found, now=NOW)} == {"checkout", "search"}


def test_the_strongest_of_equals_is_the_headline():
    small = latency(metric="a_latency", after=0.4, low=0.8, high=0.9, mode="exploratory")
    large = latency(metric="z_latency", mode="exploratory")
    (one,) = propose(change("memory mean lower"), [small, large], now=NOW)
    assert one.headline.metric == "z_latency"


def test_what_got_worse_stands_in_the_same_sentence():
    (one,) = propose(change(), [latency(), errors_rose()], now=NOW)
    assert [other.metric for other in one.contradictions] == ["error_ratio"]
    assert "but error ratio of checkout was higher, 0.21 % before and 0.64 % after" in one.sentence


def test_a_worsening_contradicts_even_where_it_did_not_survive_the_search():
    noise = [latency(metric=f"m{index}", mode="exploratory", verdict="unclear", p=0.9, high=1.2) for index in range(20)]
    (one,) = propose(change(), [latency(), errors_rose(p=0.03), *noise], now=NOW)
    assert [other.metric for other in one.contradictions] == ["error_ratio"]
    assert propose(change("memory mean lower"), [errors_rose(p=0.03), *noise], now=NOW) == []


def test_a_named_effect_that_did_not_come_is_said_beside_one_that_did():
    unclear = errors_rose(after=0.0022, low=0.7, high=1.4, verdict="unclear", mode="confirmatory", p=0.7)
    (one,) = propose(change("latency p95 lower", "error_ratio ratio lower"), [latency(), unclear], now=NOW)
    text = next(caveat.text for caveat in one.caveats if caveat.code == "expected_not_seen")
    assert "error ratio of checkout lower (unclear)" in text


def test_less_than_was_expected_is_said():
    (one,) = propose(change("latency p95 lower 80"), [latency()], now=NOW)
    assert "at least 80 % was expected, -71 % came" in [caveat.text for caveat in one.caveats]
    (one,) = propose(change("latency p95 lower 70"), [latency()], now=NOW)
    assert "short" not in codes(one)


# ---- doubts


def test_load_that_moved_is_a_doubt_and_a_condition_of_the_result():
    (one,) = propose(change(), [latency(), traffic(1240, 2850, "changed")], now=NOW)
    assert "load_moved" in codes(one)
    assert (
        "while mean request rate of checkout went from 1,240 requests/s to 2,850 requests/s (2.3x, +130 %)"
        in one.sentence
    )


def test_a_count_that_fell_with_the_load_is_the_first_doubt():
    timeouts = incidents(12.0, 5.0, metric="timeouts", unit="timeouts", shape="count", low=0.3, high=0.6)
    halved = traffic(1240, 560, "changed")
    (one,) = propose(change("timeouts count lower"), [timeouts, halved], now=NOW)
    assert codes(one)[0] == "count_with_load"
    grew = traffic(1240, 2480, "changed")
    (one,) = propose(change("timeouts count lower"), [timeouts, grew], now=NOW)
    assert "count_with_load" not in codes(one)
    assert "load_moved" in codes(one)


def test_steady_load_is_no_doubt_and_unknown_load_is():
    (one,) = propose(change(), [latency(), traffic()], now=NOW)
    assert not {"load_moved", "no_scale"} & set(codes(one))
    (one,) = propose(change(), [latency()], now=NOW)
    assert "no_scale" in codes(one)


def test_more_traffic_is_no_achievement_of_its_own_unless_it_was_hoped_for():
    grew = traffic(1240, 2850, "changed")
    assert propose(change(), [grew], now=NOW) == []
    hoped = replace(grew, mode=Mode.CONFIRMATORY)
    (one,) = propose(change("request_rate mean higher"), [hoped], now=NOW)
    assert one.headline.metric == "request_rate"


def test_fewer_observations_are_load_not_an_improvement():
    fewer = latency(statistic="count", before=90_000, after=40_000, low=0.4, high=0.5, mode="exploratory", p=1e-9)
    assert propose(change("memory mean lower"), [fewer], now=NOW) == []
    (one,) = propose(change(), [latency(), fewer], now=NOW)
    assert "load_moved" in codes(one)


def test_competing_causes_are_kept_in_order_and_told():
    near = [Cause("search-cache shipped", LIVE - DAY, "change"), Cause("bad\x1b[31m title", LIVE + 3 * DAY, "change")]
    (one,) = propose(change(), [latency()], causes=near, now=NOW)
    assert list(one.causes) == near
    text = next(caveat.text for caveat in one.caveats if caveat.code == "cause")
    assert "search-cache shipped (13 Mar 2026), bad title (17 Mar 2026)" in text


def test_a_mean_without_a_quantile_is_flagged():
    mean = latency(statistic="mean")
    (one,) = propose(change("latency mean lower"), [mean], now=NOW)
    assert "mean_alone" in codes(one)
    (one,) = propose(change("latency mean lower"), [mean, p99_held(mode="exploratory")], now=NOW)
    assert "mean_alone" not in codes(one)


def test_a_figure_in_the_users_own_words_is_flagged_as_not_measured():
    (one,) = propose(change(title="Cut p95 by 50% (PR 482)"), [latency()], now=NOW)
    assert "50%" in next(caveat.text for caveat in one.caveats if caveat.code == "own_figure")
    (one,) = propose(change(title="Moved to HTTP/2, p95 first (PR 482, #483)"), [latency()], now=NOW)
    assert "own_figure" not in codes(one)


# ---- identity


def test_an_id_is_the_same_at_every_look_and_differs_by_what_it_is_about():
    now, later = latency(), latency(days=21)
    assert now.id != later.id
    assert candidate_id("checkout-index", now) == candidate_id("checkout-index", later)
    others = [
        candidate_id("other", now),
        candidate_id("checkout-index", latency(statistic="p99")),
        candidate_id("checkout-index", latency(metric="wait")),
        candidate_id("checkout-index", latency(subject="x")),
        candidate_id("checkout-index", latency(labels=(("route", "/pay"),))),
    ]
    assert len({candidate_id("checkout-index", now), *others}) == 6


def test_a_proposed_candidate_keeps_its_headline_while_another_becomes_a_little_stronger():
    nobody = change("memory mean lower")
    first = latency(mode="exploratory")
    (was,) = propose(nobody, [first], now=NOW)
    stronger = latency(metric="wait", after=0.05, low=0.08, high=0.12, mode="exploratory", p=1e-9)
    (now,) = propose(nobody, [latency(mode="exploratory", days=21), stronger], now=NOW + 7 * DAY, existing=[was])
    assert now.id == was.id
    assert now.created == was.created
    assert now.headline.after.end > was.headline.after.end


def test_looking_again_at_the_same_evidence_changes_nothing():
    found = [latency(), errors_rose(), traffic(), instances()]
    first = propose(change(), found, now=NOW)
    assert propose(change(), found, now=NOW + DAY, existing=first) == first


def test_a_candidate_survives_its_json():
    for one in propose(change(), [latency(), errors_rose(), traffic(1, 2, "changed")], now=NOW):
        accepted = replace(one, status=Status.ACCEPTED)
        (read,) = propose(change(), [latency(after=0.3)], now=NOW, existing=[accepted])
        assert Candidate.from_json(read.as_json()) == read


def test_a_candidate_stored_before_figures_were_kept_can_be_read():
    (one,) = propose(change(), [latency()], now=NOW)
    old = {key: value for key, value in one.as_json().items() if key not in ("figures", "edited", "latest")}
    assert Candidate.from_json(old) == replace(one, figures=())


# ---- decisions


@pytest.fixture
def accepted():
    (one,) = propose(change(), [latency(), errors_rose()], now=NOW)
    return replace(one, status=Status.ACCEPTED)


def test_nothing_moves_under_an_accepted_sentence(accepted):
    later = latency(days=28, after=0.3, low=0.5, high=0.8)
    (one,) = propose(change(title="New words"), [later, p99_held(mode="exploratory")], now=NOW, existing=[accepted])
    for kept in ("id", "sentence", "figures", "headline", "support", "contradictions", "grade", "verdict", "created"):
        assert getattr(one, kept) == getattr(accepted, kept)
    assert one.latest == later
    assert word.verify(one) == ()


def test_an_accepted_candidate_says_when_it_no_longer_holds(accepted):
    worse = latency(days=28, before=0.48, after=0.47, low=0.9, high=1.1, verdict="unclear")
    (one,) = propose(change(), [worse], now=NOW, existing=[accepted])
    assert one.caveats[0].code == "later"
    assert one.caveats[0].text == "compared again over 28 days it is unclear: 480 ms before, 470 ms after"
    (again,) = propose(change(), [latency(days=21)], now=NOW, existing=[one])
    assert "later" not in codes(again)


def test_an_accepted_candidate_does_not_come_back_under_another_headline(accepted):
    p99 = latency(statistic="p99", before=1.2, after=0.2, low=0.1, high=0.2, mode="exploratory", p=1e-9)
    found = propose(change(), [latency(), p99, errors_rose()], now=NOW, existing=[accepted])
    assert [one.id for one in found] == [accepted.id]


def test_a_new_fact_about_the_same_subject_is_its_own_candidate(accepted):
    memory = compared("memory", "mean", 4e9, 3e9, 0.7, 0.8, unit="bytes", shape="level", mode="exploratory", p=1e-6)
    found = propose(change(), [latency(), memory, errors_rose()], now=NOW, existing=[accepted])
    assert [one.status for one in found] == [Status.ACCEPTED, Status.PROPOSED]
    assert found[1].headline.metric == "memory"
    assert "latency" not in {other.metric for other in found[1].support}


def test_new_causes_are_added_to_an_accepted_candidate_and_old_ones_stay():
    old, new = Cause("a shipped", LIVE - DAY, "change"), Cause("b shipped", LIVE + DAY, "change")
    (one,) = propose(change(), [latency()], causes=[old], now=NOW)
    (one,) = propose(change(), [latency()], causes=[new], now=NOW, existing=[replace(one, status=Status.ACCEPTED)])
    assert one.causes == (old, new)


def test_a_dismissed_candidate_never_returns():
    (one,) = propose(change(), [latency()], now=NOW)
    dismissed = replace(one, status=Status.DISMISSED, reason="the traffic moved")
    p99 = latency(statistic="p99", before=1.2, after=0.2, low=0.1, high=0.2, p=1e-9)
    assert (
        propose(
            change("latency p95 lower", "latency p99 lower"), [latency(days=28), p99], now=NOW, existing=[dismissed]
        )
        == []
    )


def test_a_dismissal_does_not_silence_another_route_that_got_worse():
    (one,) = propose(change(), [latency(labels=(("route", "/a"),))], now=NOW)
    dismissed = replace(one, status=Status.DISMISSED)
    worse = latency(labels=(("route", "/b"),), before=0.1, after=0.4, low=3, high=5, verdict="regressed")
    (now,) = propose(change(), [latency(labels=(("route", "/a"),)), worse], now=NOW, existing=[dismissed])
    assert now.id != one.id
    assert now.verdict == "regressed"


def test_an_edited_sentence_is_not_rebuilt():
    (one,) = propose(change(), [latency()], now=NOW)
    edited = word.edit(one, change(), "Checkout answers in 140 ms instead of 480 ms")
    (now,) = propose(change(), [latency(days=21, after=0.2)], now=NOW, existing=[edited])
    assert now.sentence == edited.sentence
    assert now.headline == edited.headline
    assert now.latest is not None


def test_a_decision_about_one_change_does_not_touch_another(accepted):
    other = change(name="other")
    (one,) = propose(other, [latency()], now=NOW, existing=[accepted])
    assert one.change == "other"
    assert one.status is Status.PROPOSED


def test_decided_candidates_are_returned_even_where_their_series_was_not_compared(accepted):
    assert propose(change(), [], now=NOW, existing=[accepted]) == [accepted]


def test_verdicts_without_figures_on_a_side_claim_nothing():
    nothing = latency(before=None, verdict="improved")
    assert propose(change(), [nothing], now=NOW) == []
    assert nothing.verdict is Verdict.IMPROVED


def test_what_is_only_observed_adds_nothing_to_an_accepted_candidate():
    both = change("latency p95 lower", "memory mean lower")
    (one,) = propose(both, [latency()], now=NOW)
    unclear = compared("memory", "mean", 4e9, 3.9e9, 0.8, 1.1, unit="bytes", shape="level", verdict="unclear", p=0.4)
    accepted = replace(one, status=Status.ACCEPTED)
    assert propose(both, [latency(), unclear], now=NOW, existing=[accepted]) == [accepted]


def test_how_many_were_observed_is_another_fact_than_how_long_they_took():
    (one,) = propose(change(), [latency()], now=NOW)
    dismissed = replace(one, status=Status.DISMISSED)
    hoped = change("latency p95 lower", "latency count higher")
    more = latency(statistic="count", before=40_000, after=90_000, low=2, high=2.5, verdict="regressed")
    (now,) = propose(hoped, [latency(), more], now=NOW, existing=[dismissed])
    assert now.headline.statistic == "count"


def test_the_strongest_doubt_stands_first():
    weak = Caveat("open", "2 before and 1 after have not ended and are left out")
    strong = Caveat("disagreement", "the plain figures and the model disagree")
    near = [Cause("search-cache shipped", LIVE - DAY, "change")]
    unknown = Caveat("something_new", "a doubt of a later version")
    (one,) = propose(change(), [latency(caveats=(weak, unknown, strong))], causes=near, now=NOW)
    assert codes(one) == ["disagreement", "cause", "something_new", "open", "no_scale", "single_dimension", "read_once"]
