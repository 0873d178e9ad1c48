"""Sentences: the verb by verdict and grade, every figure derivable, nobody's words invented or trusted."""

import csv
import doctest
import io
import json
import math
import re
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
from hypothesis import example, given
from hypothesis import strategies as st

from harvester.candidates import word
from harvester.candidates.model import Candidate, Change
from harvester.candidates.propose import propose
from harvester.differ.result import Caveat, UnderBound
from harvester.errors import UsageError

NOW = LIVE + 15 * DAY
TITLE, REASON = "Added a covering index on orders", "checkout timed out at peak"


def candidate(*found, of: Change | None = None, **more) -> Candidate:
    (one,) = propose(of or change(), found or [latency()], now=NOW, **more)
    return one


def confirmed(one, of: Change) -> Candidate:
    later = replace(one, after=replace(one.after, start=one.after.end, end=one.after.end + 14 * DAY))
    return candidate(one, of=of, replications=[(one, later)])


# ---- the verb


@pytest.mark.parametrize(
    ("one", "expect", "text"),
    [
        (
            latency(),
            "latency p95 lower",
            "reduced p95 latency of checkout from 480 ms to 140 ms (-71 %; 95 % interval between -74 % and -67 %)",
        ),
        (
            traffic(4000, 18_000, "improved", better="higher", mode="confirmatory"),
            "request_rate mean higher",
            "increased mean request rate of checkout from 4,000 requests/s to 18,000 requests/s (4.5x, +350 %",
        ),
        (
            errors_rose(
                before=0.57,
                after=0.91,
                low=1.5,
                high=1.7,
                verdict="improved",
                better="higher",
                metric="cache_hits",
                mode="confirmatory",
            ),
            "cache_hits ratio higher",
            "improved cache hits of checkout from 57 % to 91 % (34 points, +60 %",
        ),
        (
            incidents(),
            "incidents count lower",
            "eliminated incidents of checkout from 4 incidents/month to 0 incidents/month (-100 %; 95 % interval -55 % or lower)",
        ),
        (
            latency(before=0.14, after=0.48, low=3, high=4, verdict="regressed"),
            "latency p95 lower",
            "raised p95 latency of checkout from 140 ms to 480 ms",
        ),
        (
            traffic(2000, 1000, "changed", mode="confirmatory"),
            "request_rate mean lower",
            "lowered mean request rate of checkout",
        ),
    ],
    ids=["latency", "throughput", "proportion", "absence", "worse", "neither"],
)
def test_only_what_was_named_and_seen_twice_has_an_active_verb(one, expect, text):
    of = change(expect)
    assert text in confirmed(one, of).sentence
    once = candidate(one, of=of).sentence
    verbs = r"\b(reduced|increased|improved|eliminated|raised|lowered|achieved|cut|saved)\b"
    assert not re.search(verbs, once)
    assert " was lower afterwards" in once or " was higher afterwards" in once


def test_what_was_found_by_looking_never_has_an_active_verb():
    one = latency(mode="exploratory")
    later = latency(start=LIVE + 14 * DAY)
    found = candidate(one, of=change("memory mean lower"), replications=[(one, later)])
    assert "was lower afterwards" in found.sentence
    assert "reduced" not in found.sentence


def test_no_evidence_says_what_could_have_been_seen():
    unclear = latency(after=0.45, low=0.8, high=1.1, verdict="unclear", p=0.3, visible=18.2)
    assert candidate(unclear).sentence == (
        "checkout-index: no evidence that p95 latency of checkout is lower, 480 ms before and 450 ms after (-6 %; 95 % "
        "interval between -20 % and +10 %), over the 14 days before and after 14 Mar 2026. A change smaller than 18 % "
        "could not have been seen."
    )


def test_an_unmoved_guard_that_is_not_proven_is_no_evidence_that_it_moved():
    unclear = p99_held(low=0.8, high=1.3, verdict="unclear")
    assert (
        "no evidence that p99 latency of checkout moved" in candidate(unclear, of=change("latency p99 held")).sentence
    )


# ---- what the sentence holds


def test_the_sentence_is_the_users_words_the_numbers_and_the_condition():
    of = change(title=TITLE, because=REASON)
    assert candidate(latency(), p99_held(mode="exploratory"), of=of).sentence == (
        "Added a covering index on orders: p95 latency of checkout was lower afterwards, 480 ms before and 140 ms after "
        "(-71 %; 95 % interval between -74 % and -67 %), over the 14 days before and after 14 Mar 2026. "
        "Why: checkout timed out at peak."
    )


def test_without_the_users_words_nothing_is_invented():
    text = candidate().sentence
    assert text.startswith("checkout-index: p95 latency")
    assert "Why" not in text


def test_windows_of_unequal_length_are_both_said():
    one = latency(days=1)
    one = replace(one, before=replace(one.before, start=LIVE - 2 * DAY))
    assert "over the 2 days before and the 1 day after 14 Mar 2026" in candidate(one).sentence


def test_a_bucketed_quantile_is_told_with_the_exact_share_beside_it():
    one = latency(under=UnderBound(0.25, 0.92, 0.996))
    assert "92 % before and 99.6 % after within 250 ms" in candidate(one).sentence


def test_a_series_that_may_be_negative_is_told_by_its_difference():
    one = compared(
        "balance", "mean", -2.0, 6.0, 5.0, 11.0, unit="credits", shape="level", better="higher", scale="difference"
    )
    text = candidate(one, of=change("balance mean higher")).sentence
    assert "-2 credits before and 6 credits after (8 credits; 95 % interval between +5 credits and +11 credits)" in text


def test_titles_from_elsewhere_bring_no_escape_sequence_into_the_sentence():
    of = change(title="Fix \x1b[31mred\x1b[0m\nrows\u202e.", because="a\rb")
    one = candidate(latency(labels=(("route", "/x\x1b]0;t\x07y"),)), of=of)
    assert one.sentence.isprintable()
    assert one.sentence.startswith("Fix red rows: p95 latency of checkout (route /xy) was lower")
    for form in word.FORMATS:
        written = word.render([(one, of)], form)
        assert "\x1b" not in written
        assert "\u202e" not in written


# ---- figures


def every_kind() -> list[tuple[Candidate, Change]]:
    rich = change("latency p95 lower", "latency p99 held", title=TITLE, because=REASON)
    found = [latency(), p99_held(), errors_rose(), traffic(1240, 2850, "changed"), instances()]
    pairs = [(candidate(*found, of=rich), rich)]
    for expect, one in (
        ("latency p95 lower", latency(before=0.14, after=0.48, low=3, high=4, verdict="regressed")),
        ("latency p95 lower", latency(after=0.45, low=0.8, high=1.1, verdict="unclear", p=0.3)),
        ("latency p99 held", p99_held()),
        ("instances median lower", instances(mode="confirmatory")),
        ("instances median held", instances(12, 12, mode="confirmatory")),
        ("incidents count lower", incidents()),
        ("request_rate mean higher", traffic(4000, 18_000, "changed", mode="confirmatory")),
        (
            "cache ratio higher",
            errors_rose(
                metric="cache",
                before=0.92,
                after=0.996,
                low=1.05,
                high=1.1,
                verdict="improved",
                better="higher",
                mode="confirmatory",
            ),
        ),
        ("memory mean lower", compared("memory", "mean", 4.2e9, 3.12e8, 0.05, 0.1, unit="bytes", shape="level")),
    ):
        of = change(expect)
        pairs.append((candidate(one, of=of), of))
        if one.verdict != "exact":
            pairs.append((confirmed(one, of), of))
    return pairs


@pytest.mark.parametrize(("one", "of"), every_kind(), ids=lambda one: getattr(one, "verdict", ""))
def test_every_number_in_a_sentence_derives_from_a_comparison(one, of):
    assert word.verify(one) == ()
    rest = one.sentence.replace("95 % interval", "interval")
    for figure in sorted(one.figures, key=lambda each: -len(each.text)):
        assert figure.text in one.sentence
        assert figure.comparison in {each.id for each in one.comparisons}
        rest = rest.replace(figure.text, "")
    assert word.numbers(rest) == []


def test_a_figure_whose_evidence_changed_no_longer_matches():
    one = candidate()
    tampered = replace(one, headline=replace(one.headline, after=replace(one.headline.after, value=0.2)))
    wrong = word.verify(tampered)
    assert [(each.figure.text, each.true) for each in wrong] == [("140 ms", "200 ms")]
    with pytest.raises(UsageError, match=r"140 ms no longer follows.*200 ms"):
        word.render([(tampered, change())], "resume")


def test_a_sentence_changed_behind_its_figures_no_longer_matches():
    one = candidate()
    tampered = replace(one, sentence=one.sentence.replace("140 ms", "14 ms"))
    assert [each.figure.text for each in word.verify(tampered)] == ["140 ms"]


def test_a_figure_of_a_comparison_that_is_not_there_no_longer_matches():
    one = candidate(latency(), errors_rose())
    assert {each.true for each in word.verify(replace(one, contradictions=()))} == {""}


def test_a_change_under_one_percent_keeps_its_text():
    one = latency(before=0.480, after=0.478, low=0.993, high=0.998)
    assert "under 1 %" in candidate(one).sentence
    assert word.verify(candidate(one)) == ()


# ---- editing


@pytest.mark.parametrize(
    "text",
    [
        "Checkout answers in 140 ms where it took 480 ms (-71 %).",
        "Checkout p95 fell by 71% to 140ms",
        "Checkout p95 fell by 71 %, 3.4x faster, after PR 482 and HTTP/2",
        "Checkout p95 \u221271\u00a0% over 14 days",
        "Checkout is faster since 14 Mar 2026",
        "Checkout is faster",
    ],
)
def test_an_edited_sentence_may_say_every_figure_the_evidence_gives(text):
    edited = word.edit(candidate(), change(), text)
    assert edited.edited
    assert word.verify(edited) == ()


@pytest.mark.parametrize(
    "text",
    [
        "Checkout p95 fell to 14 ms",
        "Checkout p95 fell to 1140 ms",
        "Checkout p95 fell to 140 s",
        "Checkout p95 fell to 140.5 ms",
        "Checkout p95 fell by 72 %",
        "Checkout p95 moved +71 %",
        "Checkout p95 fell by 171 %",
        "Checkout is x10 faster",
        "Checkout is 10x faster",
        "Checkout saves $8,400/month",
        "Checkout saves EUR8400",
        "Checkout p95 fell to 140 ms for 2M+ users",
        "Checkout p95 fell to 140",
    ],
)
def test_an_edited_figure_that_does_not_follow_is_refused_with_the_true_one(text):
    with pytest.raises(UsageError, match="does not follow") as refused:
        word.edit(candidate(), change(), text)
    assert "480 ms, 140 ms, -71 %" in refused.value.hint


def test_the_users_own_words_may_hold_numbers():
    of = change(title="Split checkout into 3 services")
    assert word.edit(candidate(of=of), of, "Split checkout into 3 services: p95 140 ms").edited
    for smuggled in ("p95 is 3 ms", "p95 is 3ms", "3 % of it", "3x faster", "3 EUR"):
        with pytest.raises(UsageError):
            word.edit(candidate(of=of), of, smuggled)


def test_an_empty_sentence_is_refused():
    with pytest.raises(UsageError, match="empty"):
        word.edit(candidate(), change(), " \x1b[0m ")


@given(st.integers(min_value=0, max_value=10**6))
@example(123)  # the candidate's id begins 123d
def test_no_whole_number_but_the_evidences_own_gets_past_an_edit(number):
    one = candidate()
    assert one.id.startswith("123d")
    text = f"Checkout p95 is now {number} ms"
    if number in (480, 140):
        assert word.edit(one, change(), text).edited
    else:
        with pytest.raises(UsageError):
            word.edit(one, change(), text)


def test_a_size_is_found_in_the_sentence_only_as_itself():
    one = candidate(latency(before=0.480, after=0.048, low=0.08, high=0.12))
    assert word.edit(one, change(), "p95 now 48 ms").figures[0].name == "after"
    with pytest.raises(UsageError):
        word.edit(one, change(), "p95 now 8 ms")


# ---- formats


@pytest.mark.parametrize("form", word.FORMATS)
@pytest.mark.parametrize(("one", "of"), every_kind(), ids=lambda one: getattr(one, "verdict", ""))
def test_every_format_tells_both_values_of_every_kind(form, one, of):
    text = word.render([(one, of)], form)
    said = word.derive(one.headline)
    for name in ("before", "after"):
        raw = repr(getattr(one.headline, name).value)
        assert said[name].text in text or raw in text
    if one.contradictions:
        assert "error ratio" in text or "error_ratio" in text


def test_a_resume_bullet_starts_with_the_verb_only_where_it_is_earned():
    of = change(title=TITLE)
    assert word.render([(confirmed(latency(), of), of)], "resume") == (
        "- Reduced p95 latency of checkout from 480 ms to 140 ms (-71 %): Added a covering index on orders"
    )
    assert word.render([(candidate(of=of), of)], "resume") == (
        "- Added a covering index on orders: p95 latency of checkout was lower afterwards, 480 ms before and 140 ms "
        "after (-71 %)"
    )


def test_what_is_not_proven_or_was_searched_for_says_so_in_a_bullet():
    unclear = latency(after=0.45, low=0.8, high=1.1, verdict="unclear", p=0.3)
    assert word.render([(candidate(unclear), change())], "resume").endswith("[observed, not proven]")
    of = change("memory mean lower")
    assert word.render([(candidate(latency(mode="exploratory"), of=of), of)], "resume").endswith("[found by looking]")


def test_slots_the_user_has_not_filled_stand_open_in_a_self_assessment():
    text = word.render([(candidate(), change())], "self-assessment")
    assert "What I did: [yours to say]." in text
    assert "What is next: [yours to say]" in text
    of = change(title=TITLE, because=REASON)
    text = word.render([(candidate(of=of), of)], "self-assessment")
    assert "What I did: Added a covering index on orders. Why: checkout timed out at peak." in text
    assert text.count(REASON) == 1


def test_a_case_study_has_the_method_and_the_doubts():
    of = change(title=TITLE, links=("https://github.com/acme/shop/pull/482",))
    text = word.render([(candidate(of=of), of)], "case-study")
    assert "28 Feb to 14 Mar 2026 against 14 to 28 Mar 2026" in text
    assert "120,000 and 130,000 observations" in text
    assert "confirmatory, improved, p \\< 0.001" in text
    assert "- no later window of a week has confirmed it yet" in text
    assert "https://github.com/acme/shop/pull/482" in text


def test_markdown_from_elsewhere_is_shown_and_not_followed():
    of = change(title="[click](http://evil) <img src=x> | `a` *b*")
    text = word.render([(candidate(of=of), of)], "markdown")
    assert "\\[click\\](http://evil) \\<img src=x\\> \\| \\`a\\` \\*b\\*" in text
    assert not re.search(r"(?<!\\)\[click", text)


def test_json_is_the_published_form():
    one = candidate()
    assert json.loads(word.render([(one, change())], "json")) == {"candidates": [one.as_json()]}


@pytest.mark.parametrize("title", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1+1", " =HYPERLINK(1)"])
def test_no_cell_of_a_table_is_taken_for_a_formula(title):
    of = change(title=title, links=(title,))
    rows = list(csv.DictReader(io.StringIO(word.render([(candidate(of=of), of)], "csv"))))
    for cell in rows[0].values():
        assert cell is not None
        try:
            float(cell)
        except ValueError:
            assert not cell.lstrip().startswith(("=", "+", "-", "@"))


def test_numbers_in_a_table_are_unrounded_and_stay_numbers():
    (row,) = csv.DictReader(io.StringIO(word.render([(candidate(), change())], "csv")))
    assert float(row["percent"]) == pytest.approx(100 * (0.14 / 0.48 - 1))
    assert (float(row["before"]), float(row["after"])) == (0.48, 0.14)


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="resume, review"):
        word.render([], "haiku")


def test_nothing_to_write_is_an_empty_text_or_a_header():
    assert word.render([], "resume") == ""
    assert json.loads(word.render([], "json")) == {"candidates": []}
    assert word.render([], "csv").startswith("id,change,title")


def test_an_edited_sentence_stands_in_every_prose_format_as_it_was_written():
    edited = word.edit(candidate(), change(), "Checkout answers in 140 ms")
    for form in ("resume", "review", "self-assessment", "case-study", "markdown"):
        assert "Checkout answers in 140 ms" in word.render([(edited, change())], form)


@given(
    before=st.floats(min_value=1e-6, max_value=1e9),
    ratio=st.floats(min_value=1e-4, max_value=1e4),
    unit=st.sampled_from(["seconds", "bytes", "requests/second", "instances", "1"]),
)
def test_whatever_the_numbers_a_sentence_can_be_verified(before, ratio, unit):
    after = before * ratio
    if before == after or not math.isfinite(after):
        return
    verdict, low, high = (
        ("improved", ratio * 0.9, min(ratio * 1.1, 0.99999))
        if ratio < 1
        else ("regressed", max(ratio * 0.9, 1.00001), ratio * 1.1)
    )
    one = compared("value", "mean", before, after, low, high, verdict=verdict, unit=unit, shape="level")
    of = change("value mean lower")
    found = candidate(one, of=of)
    assert word.verify(found) == ()
    for form in word.FORMATS:
        assert word.render([(found, of)], form)


def test_caveats_reach_every_long_format():
    doubt = Caveat("gaps", "91 % of the before window is proven complete")
    one = candidate(latency(caveats=(doubt,)))
    for form in ("case-study", "markdown", "json", "csv"):
        assert "91 % of the before window is proven complete" in word.render([(one, change())], form)


@pytest.mark.parametrize("text", ["47k", "47% of calls", "47 %", "47x", "47.5", "470", "47 ms", "$47", "47 EUR", "-47"])
def test_a_figure_without_a_unit_is_not_found_inside_a_larger_one(text):
    of = change("calls mean lower")
    one = candidate(compared("calls", "mean", 47, 3, 0.05, 0.08, unit="1", shape="level"), of=of)
    assert word.edit(one, of, "47 calls, now 3").edited
    with pytest.raises(UsageError):
        word.edit(one, of, text)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(word).attempted > 0
    assert doctest.testmod(word).failed == 0
