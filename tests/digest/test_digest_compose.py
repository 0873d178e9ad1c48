"""What goes into a digest, in which order and in which words; composed once and kept."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from digest_samples import NOW, SHIPPED, UNCLEAR, WORSE, candidate, comparison

from harvester import impact
from harvester.candidates.model import Candidate, Change, Grade, Status
from harvester.connector import Batch
from harvester.differ.result import Caveat, Comparison, Effect, Mode, Side, Verdict
from harvester.digest import render
from harvester.digest.compose import by_chance, compose, expected_false, for_week, kept
from harvester.digest.model import Digest
from harvester.readings import DAY, MINUTE, Coverage, Level, Series, Window, labels_of
from harvester.settings import Settings
from harvester.store import Store


@pytest.fixture
def watched_store(store: Store, configured: Callable[..., Settings]) -> Store:
    """A store whose one series is proven up to five minutes ago."""
    (metric,) = configured().connectors["prom"].definitions()
    labels = labels_of({"service": "checkout"})
    one = Level(Series("prom", metric, labels), np.array([NOW - 30 * DAY], np.int64), np.array([0.4]))
    store.commit("prom", Batch((one,), (Coverage("cpu", Window.of(NOW - 30 * DAY, NOW - 5 * MINUTE), labels, metric.question),)))
    return store


@pytest.fixture
def composed(
    watched_store: Store, configured: Callable[..., Settings], clock: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Digest]:
    """Compose as if these candidates and open questions had come of the comparisons."""

    def make(candidates: Sequence[Candidate] = (), questions: Sequence[Comparison] = ()) -> Digest:
        monkeypatch.setattr(impact, "refresh", lambda *_: (list(candidates), list(questions)))
        monkeypatch.setattr(impact, "picture", lambda *_: None)
        return compose(watched_store, configured(), clock())

    return make


def named(id: str, head: Comparison | None = None, **given: object) -> Candidate:  # noqa: A002
    return candidate(head, id=id, **given)


# -- the record -------------------------------------------------------------------------------------------------------


def test_a_digest_is_composed_once_and_kept(
    watched_store: Store, configured: Callable[..., Settings], clock: Any
) -> None:
    assert kept(watched_store, "2026-W48") is None
    first = for_week(watched_store, configured(), clock())
    clock.advance(days=3)
    assert for_week(watched_store, configured(), clock()) == first == kept(watched_store, "2026-W48")
    clock.advance(days=4)
    assert for_week(watched_store, configured(), clock()).week == "2026-W49"
    assert kept(watched_store, "2026-W48") == first


def test_whoever_composes_first_wins(watched_store: Store, configured: Callable[..., Settings], clock: Any) -> None:
    found: list[Digest] = []

    def ask(minutes: int) -> None:
        found.append(for_week(watched_store, configured(), clock() + timedelta(minutes=minutes)))

    threads = [threading.Thread(target=ask, args=(minutes,)) for minutes in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 6
    assert set(map(repr, found)) == {repr(kept(watched_store, "2026-W48"))}


def test_composing_alone_keeps_nothing(watched_store: Store, configured: Callable[..., Settings], clock: Any) -> None:
    compose(watched_store, configured(), clock())
    assert kept(watched_store, "2026-W48") is None


# -- nothing, or no data ----------------------------------------------------------------------------------------------


def test_a_week_with_nothing_says_so_and_that_everything_was_watched(composed: Callable[..., Digest]) -> None:
    digest = composed()
    assert digest.subject == "harvester 2026-W48: nothing to tell, everything was watched"
    assert digest.summary == "Nothing to tell this week."
    assert digest.watched is not None
    assert digest.watched.text == (
        "Everything was watched since Monday 16 November, 08:00: 1 series of 1 source, without a gap."
    )
    assert digest.expected_false is None
    assert by_chance(digest) == ""


def test_no_data_is_never_nothing_to_tell(store: Store, configured: Callable[..., Settings], clock: Any) -> None:
    digest = compose(store, configured(), clock())
    assert digest.subject == "harvester 2026-W48: no data from prom"
    assert digest.summary == "Nothing to tell this week; no data from prom."
    assert "verything was watched" not in render.text(digest)


def test_without_a_source_nothing_is_said_to_be_watched(
    store: Store, configured: Callable[..., Settings], clock: Any
) -> None:
    digest = compose(store, configured(sources={}), clock())
    assert digest.subject == "harvester 2026-W48: nothing to tell"
    assert "No source is configured, so nothing was watched." in render.text(digest)


# -- candidates -------------------------------------------------------------------------------------------------------


def test_at_most_five_candidates_are_told_the_strongest_first(composed: Callable[..., Digest]) -> None:
    observed = comparison(verdict=Verdict.UNCLEAR, p=0.2)
    weak = comparison(mode=Mode.EXPLORATORY, p=0.04)
    digest = composed(
        [
            named("observed", observed, grade=Grade.OBSERVED),
            named("explored, weak", weak, grade=Grade.EXPLORED),
            named("explored", WORSE, grade=Grade.EXPLORED),
            named("expected, smaller", comparison(p=0.0004, effect=Effect(0.9, -0.1, -10, 0.85, 0.95)), grade=Grade.EXPECTED),
            named("expected", grade=Grade.EXPECTED),
            named("exact", comparison(verdict=Verdict.EXACT, p=None), grade=Grade.EXACT),
            named("confirmed", grade=Grade.CONFIRMED),
            named("dismissed", grade=Grade.CONFIRMED, status=Status.DISMISSED),
            named("accepted", grade=Grade.CONFIRMED, status=Status.ACCEPTED),
        ]
    )
    order = ["confirmed", "expected", "expected, smaller", "exact", "explored"]
    assert [one.candidate.id for one in digest.candidates] == order
    assert digest.more == 2
    assert digest.summary == "3 improvements; 1 regression; 1 exact difference; 2 more waiting."
    assert digest.subject == (
        "harvester 2026-W48: p95 request latency of checkout 480 ms -> 310 ms (-35 %), and 4 more"
    )


def test_a_candidate_is_told_with_interval_caveat_and_the_command_that_accepts_it(
    composed: Callable[..., Digest],
) -> None:
    head = comparison(caveats=(Caveat("gaps", "first doubt"), Caveat("wide", "second doubt")))
    (one,) = composed([named("it's; rm -rf", head)]).candidates
    assert one.short == "p95 request latency of checkout 480 ms -> 310 ms (-35 %)"
    assert one.interval == "With 95 % confidence the change is between -42 % and -28 %."
    assert one.caveat == "first doubt"
    assert one.command == "harvest candidates accept 'it'\"'\"'s; rm -rf'"
    assert one.new


def test_a_candidate_proposed_before_the_last_digest_is_not_new(composed: Callable[..., Digest]) -> None:
    old, fresh = (named(str(days), created=NOW - days * DAY) for days in (8, 6))
    assert [(one.candidate.id, one.new) for one in composed([old, fresh]).candidates] == [("8", False), ("6", True)]


def test_what_is_known_exactly_has_no_interval(composed: Callable[..., Digest]) -> None:
    head = comparison(
        verdict=Verdict.EXACT, p=None, metric="nodes", unit="nodes", shape="level", statistic="mean",
        before=Side(9, 1, SHIPPED - DAY, SHIPPED, 1), after=Side(6, 1, SHIPPED, NOW, 1), effect=Effect(2 / 3, -3, -33.3),
    )
    (one,) = composed([named("nodes", head, grade=Grade.EXACT)]).candidates
    assert one.interval == "Both values are known exactly; nothing is estimated."
    assert one.short == "mean nodes of checkout 9 nodes -> 6 nodes (-33 %)"


def test_a_ratios_interval_is_said_on_its_own_scale(composed: Callable[..., Digest]) -> None:
    (one,) = composed([named("errors", WORSE, grade=Grade.EXPLORED)]).candidates
    assert one.interval == "With 95 % confidence the change is between +20 % and +118 %."
    assert one.short == "errors of checkout 0.21 % -> 0.34 % (0.13 points)"


# -- what was accepted ------------------------------------------------------------------------------------------------


def accepted(latest: Comparison | None, head: Comparison | None = None, grade: Grade = Grade.EXPECTED) -> Candidate:
    return named("latency", head, status=Status.ACCEPTED, latest=latest, grade=grade)


LATER = Side(0.33, 262_000, SHIPPED, NOW - DAY, 1.0)


@pytest.mark.parametrize(
    ("latest", "state"),
    [
        (comparison(after=LATER, effect=Effect(0.6875, -0.15, -31.25, 0.62, 0.76)), "held"),
        (comparison(after=LATER, effect=Effect(0.6875, -0.15, -31.25, 0.4, 1.2), verdict=Verdict.UNCLEAR), "faded"),
        (comparison(after=LATER, effect=Effect(0.6875, -0.15, -31.25, 0.9, 1.0), verdict=Verdict.UNCHANGED), "faded"),
        (
            comparison(
                after=dataclasses.replace(LATER, value=0.9), effect=Effect(1.9, 0.42, 88, 1.5, 2.4), verdict=Verdict.REGRESSED
            ),
            "reversed",
        ),
    ],
)
def test_what_was_accepted_is_told_to_have_held_faded_or_reversed(
    composed: Callable[..., Digest], latest: Comparison, state: str
) -> None:
    digest = composed([accepted(latest)])
    assert [one.state for one in digest.accepted] == [state]
    assert digest.accepted[0].latest == latest
    assert digest.candidates == ()
    assert digest.summary == f"Of what was accepted 1 {state}."


def test_a_level_that_held_holds_while_it_is_unchanged(composed: Callable[..., Digest]) -> None:
    then = comparison(verdict=Verdict.UNCHANGED)
    still = composed([accepted(comparison(after=LATER, verdict=Verdict.UNCHANGED), then)])
    moved = composed([accepted(comparison(after=LATER), then)])
    assert [one.state for one in (*still.accepted, *moved.accepted)] == ["held", "faded"]


def test_what_was_accepted_is_told_with_both_figures(composed: Callable[..., Digest]) -> None:
    (one,) = composed([accepted(comparison(after=LATER, effect=Effect(0.6875, -0.15, -31.25, 0.62, 0.76)))]).accepted
    assert one.text == (
        "p95 request latency of checkout 480 ms -> 310 ms (-35 %) when accepted, 480 ms -> 330 ms (-31 %) over the 8 days "
        "since: improved."
    )


@pytest.mark.parametrize("latest", [None, comparison(after=dataclasses.replace(LATER, end=NOW - 8 * DAY))])
def test_without_news_of_it_an_accepted_candidate_is_not_told_again(
    composed: Callable[..., Digest], latest: Comparison | None
) -> None:
    assert composed([accepted(latest)]).accepted == ()


def test_what_was_never_proven_cannot_fade(composed: Callable[..., Digest]) -> None:
    unproven = dataclasses.replace(UNCLEAR, after=LATER)
    assert composed([accepted(unproven, UNCLEAR, Grade.OBSERVED)]).accepted == ()


# -- what is not told -------------------------------------------------------------------------------------------------


def test_an_unclear_effect_says_what_could_have_been_seen_and_when_it_will_be_clear(
    composed: Callable[..., Digest], watched_store: Store
) -> None:
    impact.save_change(
        watched_store, Change("search-cache", (), SHIPPED - DAY, SHIPPED - 28 * DAY, SHIPPED, SHIPPED)
    )
    digest = composed(questions=[dataclasses.replace(UNCLEAR, subject="checkout")])
    (one,) = digest.unclear
    assert one.change == "search-cache"
    assert one.clear_at == SHIPPED + 21 * DAY
    assert one.text == (
        "mean cpu of checkout 42 % -> 40 % (2 points), no more than this series' own noise may make; a change smaller than 18 % "
        "could not have been seen. Clear about Saturday 5 December if it stays as it is."
    )
    assert digest.summary == "1 still unclear."
    assert digest.subject == "harvester 2026-W48: 1 question still open"


def test_an_effect_that_four_weeks_would_not_settle_has_no_date(composed: Callable[..., Digest]) -> None:
    (one,) = composed(questions=[dataclasses.replace(UNCLEAR, days_needed=None)]).unclear
    assert one.clear_at is None
    assert one.text.endswith("could not have been seen. Four weeks would not settle a difference of this size.")


def test_a_refused_comparison_says_why(composed: Callable[..., Digest]) -> None:
    refused = comparison(
        verdict=Verdict.REFUSED, effect=None, p=None, caveats=(Caveat("coverage", "only 61 % of the before window is proven"),)
    )
    (one,) = composed(questions=[refused]).unclear
    assert one.text == "p95 request latency of checkout cannot be compared: only 61 % of the before window is proven."


def test_what_was_only_observed_is_told_once_as_the_question_it_is(composed: Callable[..., Digest]) -> None:
    digest = composed([named("cpu", UNCLEAR, grade=Grade.OBSERVED)], [UNCLEAR])
    assert (digest.candidates, digest.more) == ((), 0)
    assert [one.comparison for one in digest.unclear] == [UNCLEAR]


def test_a_level_that_was_to_hold_and_did_is_a_candidate_and_no_question(composed: Callable[..., Digest]) -> None:
    same = comparison(verdict=Verdict.UNCHANGED, p=0.6)
    digest = composed([named("latency", same)], [same])
    assert [one.candidate.headline for one in digest.candidates] == [same]
    assert digest.unchanged == ()
    assert digest.summary == "1 level held."


def test_an_unchanged_effect_is_no_open_question(composed: Callable[..., Digest]) -> None:
    same = comparison(
        verdict=Verdict.UNCHANGED, p=0.6, before=Side(0.480, 9, SHIPPED - DAY, SHIPPED, 1.0),
        after=Side(0.478, 9, SHIPPED, NOW, 1.0), effect=Effect(0.9958, -0.002, -0.42, 0.98, 1.013),
    )
    digest = composed(questions=[same])
    assert digest.unclear == ()
    assert [one.text for one in digest.unchanged] == [
        "p95 request latency of checkout 480 ms -> 478 ms (under 1 %): unchanged; the change is between -2 % and +1 %."
    ]
    assert digest.summary == "1 unchanged."


# -- chance -----------------------------------------------------------------------------------------------------------


def test_the_expected_number_of_false_claims_counts_every_effect_named_beforehand() -> None:
    claim = named("a", comparison(id="a"))
    open_ones = [comparison(id=str(n), verdict=Verdict.UNCLEAR, p=0.4) for n in range(9)]
    assert expected_false([claim], open_ones) == pytest.approx(0.05 * 10)
    assert expected_false([claim], [comparison(id=str(n), p=0.4) for n in range(99)]) == 1  # no more than there are


def test_claims_found_by_looking_count_by_their_false_discovery_rate() -> None:
    found = [named(str(n), dataclasses.replace(WORSE, id=str(n))) for n in range(4)]
    assert expected_false(found, []) == pytest.approx(0.2)
    refused = comparison(id="r", verdict=Verdict.REFUSED, p=None)
    assert expected_false(found, [refused]) == pytest.approx(0.2)


def test_without_a_claim_nothing_is_expected_to_be_false() -> None:
    exact = comparison(verdict=Verdict.EXACT, p=None)
    assert expected_false([named("a", exact)], [UNCLEAR]) is None


@pytest.mark.parametrize(
    ("claims", "expected", "sentence"),
    [
        (1, 0.05, "Of this 1 claim, fewer than 1 is expected to be false by chance."),
        (4, 0.2, "Of these 4 claims, fewer than 1 is expected to be false by chance."),
        (5, 1.0, "Of these 5 claims, at most 1 is expected to be false by chance."),
        (5, 1.2, "Of these 5 claims, at most 2 are expected to be false by chance."),
    ],
)
def test_chance_is_said_in_whole_claims(
    composed: Callable[..., Digest], claims: int, expected: float, sentence: str
) -> None:
    digest = composed([named(str(n)) for n in range(claims)])
    assert by_chance(dataclasses.replace(digest, expected_false=expected)) == sentence
