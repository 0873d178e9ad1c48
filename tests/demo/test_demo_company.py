"""The made-up company: deterministic, plausible, and true to what its ``truth`` says."""

import dataclasses
import itertools
import re
from datetime import UTC, datetime

import numpy as np
import pytest

from harvester.demo.company import BOUNDS, LATENCY_FACTOR, SERVICES, STATEMENT_FACTOR, Company, slow_log
from harvester.readings import DAY, HOUR, MINUTE, to_milliseconds

NOW = to_milliseconds(datetime(2026, 11, 24, 17, 13, 5, tzinfo=UTC))


@pytest.fixture(scope="module")
def company():
    made = Company(seed=1, now=NOW)
    list(made.series())
    return made


def column(company, service, name, **labels):
    return next(
        one
        for one in company.of(service)
        if one.labels["__name__"] == name and all(one.labels.get(key) == value for key, value in labels.items())
    )


def rose(raw, start, end):
    """What a counter rose by between two scrapes, restarts mended."""
    value = raw.value[(raw.at >= start) & (raw.at <= end)].astype(float)
    step = np.diff(value)
    return float(np.where(step < 0, value[1:], step).sum())


def quantile(company, service, share, start, end):
    counts = [
        rose(column(company, service, "http_request_duration_seconds_bucket", le=f"{bound:g}"), start, end)
        for bound in BOUNDS
    ]
    total = rose(column(company, service, "http_request_duration_seconds_count"), start, end)
    return float(np.interp(share * total, [0.0, *counts], [0.0, *BOUNDS]))


def test_the_same_seed_and_day_give_the_same_samples_and_another_seed_others(company):
    again = Company(seed=1, now=NOW + HOUR)
    other = Company(seed=2, now=NOW)
    same = zip(company.of("checkout"), again.of("checkout"), strict=True)
    assert all(a.labels == b.labels and np.array_equal(a.value, b.value) and np.array_equal(a.at, b.at) for a, b in same)
    name = "http_request_duration_seconds_count"
    assert not np.array_equal(column(company, "checkout", name).value, column(other, "checkout", name).value)
    assert slow_log(company) == slow_log(again) != slow_log(other)


def test_scrapes_are_a_minute_apart_from_ten_weeks_before_the_first_change_to_the_end_of_today(company):
    up = column(company, "catalog", "up")
    assert set(np.diff(up.at).tolist()) == {MINUTE}
    assert up.at[0] % DAY == 0
    assert up.at[-1] >= NOW
    assert company.shipped("checkout-index") - up.at[0] >= 70 * DAY


def test_buckets_are_cumulative_and_end_in_the_count(company):
    for service in SERVICES:
        buckets = [
            one.value for one in company.of(service.name) if one.labels["__name__"].endswith("_seconds_bucket")
        ]
        assert len(buckets) == len(BOUNDS) + 1
        assert all(bool((low <= high).all()) for low, high in itertools.pairwise(buckets))
        count = column(company, service.name, "http_request_duration_seconds_count").value
        assert np.array_equal(buckets[-1], count)
        codes = [one.value for one in company.of(service.name) if one.labels["__name__"] == "http_requests_total"]
        assert np.array_equal(sum(codes), count)


def test_counters_rise_but_for_restarts(company):
    value = column(company, "search", "http_request_duration_seconds_count").value
    fell = int((np.diff(value) < 0).sum())
    assert 3 <= fell <= 12


def test_the_index_brings_checkout_latency_down_by_what_the_truth_says(company):
    at = company.shipped("checkout-index")
    before = quantile(company, "checkout", 0.95, at - 14 * DAY, at)
    after = quantile(company, "checkout", 0.95, at, at + 14 * DAY)
    assert 0.40 < before < 0.55
    assert after / before == pytest.approx(LATENCY_FACTOR, rel=0.06)


@pytest.mark.parametrize("service", ["search", "catalog"])
def test_the_other_services_latency_stays(company, service):
    at = company.shipped("checkout-index")
    before = quantile(company, service, 0.95, at - 14 * DAY, at)
    after = quantile(company, service, 0.95, at, at + 5 * DAY)
    assert after / before == pytest.approx(1, rel=0.08)


def test_search_is_missing_while_its_scrapes_fail_and_up_says_so(company):
    start, end = company.unscraped
    assert (end - start) == 60 * HOUR
    count = column(company, "search", "http_request_duration_seconds_count")
    assert not ((count.at >= start) & (count.at < end)).any()
    assert int(count.ends.sum()) == 1
    up = column(company, "search", "up")
    inside = (up.at >= start) & (up.at < end)
    assert up.value[inside].max() == 0
    assert up.value[~inside].min() == 1


def test_one_outage_has_more_than_half_of_catalogs_errors_before_its_change_and_nothing_else_changed(company):
    at = company.shipped("catalog-retries")
    errors = column(company, "catalog", "http_requests_total", code="500")
    before, after = rose(errors, at - 7 * DAY, at), rose(errors, at, at + 7 * DAY)
    outage = rose(errors, company.outage[0], company.outage[1])
    assert outage > 0.5 * before
    assert before > 2 * after
    assert after == pytest.approx(before - outage, rel=0.3)


def test_the_log_is_moderate_in_order_and_each_message_begins_with_its_instant(company):
    messages = slow_log(company)
    text = "".join(message for _, message in messages)
    assert 5e6 < len(text) < 15e6
    stamps = re.findall(r"^(2026-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[\d+\] [A-Z]+:  ", text, re.MULTILINE)
    assert stamps == sorted(stamps)
    untold = [line for line in text.split("\n") if line and not re.match(r"2026-.* UTC \[\d+\] [A-Z]+:  |\t", line)]
    assert untold == []
    for at, message in messages[:: len(messages) // 50]:
        assert to_milliseconds(datetime.fromisoformat(message[:23] + "+00:00")) == at


def test_the_statement_the_index_serves_gets_faster_at_the_change_and_no_other_does(company):
    found = [
        (at, float(match[1]), match[2])
        for at, message in slow_log(company)
        if (match := re.search(r"LOG:  duration: ([\d.]+) ms  \w[^:]*: (\w+)", message))
    ]
    for word, factor in (("SELECT", STATEMENT_FACTOR), ("UPDATE", 1), ("INSERT", 1)):
        before, after = (
            np.median([ms for at, ms, kind in found if kind == word and (at < company.shipped("checkout-index")) == side])
            for side in (True, False)
        )
        assert after / before == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("hour", range(24))
def test_at_any_hour_the_changes_have_been_live_for_the_same_whole_days(hour):
    now = NOW // DAY * DAY + hour * HOUR + 59 * MINUTE
    company = Company(1, now)
    shipped = [company.shipped(name) for name in ("checkout-index", "search-cache", "catalog-retries")]
    assert [(now - at) // DAY for at in shipped] == [14, 8, 7]
    assert [at % DAY // HOUR for at in shipped] == [10, 13, 9]
    assert [one.shipped for one in company.truth] == sorted(one.shipped for one in company.truth)
    assert company.start + 70 * DAY < shipped[0]
    assert company.unscraped[1] < now


def test_the_outage_lies_within_one_day_of_the_baseline_counted_from_the_change(company):
    at = company.shipped("catalog-retries")
    start, end = company.outage
    assert end < at
    assert (start - at) // DAY == (end - at) // DAY


@pytest.mark.parametrize("seed", [2, 3])
def test_the_truth_does_not_depend_on_the_seed(seed):
    def told(company):
        return [dataclasses.astuple(one) for one in company.truth]

    assert told(Company(seed, NOW)) == told(Company(1, NOW))
