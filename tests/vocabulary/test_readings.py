"""The vocabulary: windows as sets of spans, metrics that know what makes them comparable, readings that are valid."""

from __future__ import annotations

import doctest
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harvester.readings
from harvester.readings import (
    LOG_BUCKET_GAMMA,
    OPEN,
    Better,
    Counts,
    Distribution,
    Level,
    Metric,
    Occurrences,
    Ratio,
    Series,
    Shape,
    Subject,
    Window,
    labels_of,
    log_bucket,
    subject_of,
    to_datetime,
    to_milliseconds,
)

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)
windows = spans.map(lambda found: Window(tuple(found)))
LEVEL = Series("prom", Metric("load", "1", Shape.LEVEL))


def instants(window):
    return {at for start, end in window.spans for at in range(start, end)}


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(harvester.readings).failed == 0


def test_a_naive_time_is_refused():
    with pytest.raises(ValueError, match="has no time zone"):
        to_milliseconds(datetime(2026, 11, 2))  # noqa: DTZ001  that is the point


def test_an_instant_is_the_same_from_any_zone():
    at = datetime(2026, 11, 2, 14, 0, 0, 123000, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert to_datetime(to_milliseconds(at)) == at
    assert to_datetime(to_milliseconds(at)).tzinfo is UTC


@given(windows, windows)
def test_windows_combine_like_the_sets_of_their_instants(left, right):
    assert instants(left | right) == instants(left) | instants(right)
    assert instants(left & right) == instants(left) & instants(right)
    assert instants(left - right) == instants(left) - instants(right)
    assert (left | right).milliseconds == len(instants(left) | instants(right))


@given(windows)
def test_spans_of_a_window_are_sorted_disjoint_and_never_touch(window):
    for (_, end), (start, _) in zip(window.spans, window.spans[1:], strict=False):
        assert end < start
    assert all(start < end for start, end in window.spans)


@given(windows, st.integers(1, 7))
def test_instants_and_intervals_are_inside_as_their_members_are(window, length):
    at = np.arange(-5, 70, dtype=np.int64)
    members = instants(window)
    assert window.contains(at).tolist() == [one in members for one in at.tolist()]
    inside = [all(moment in members for moment in range(one, one + length)) for one in at.tolist()]
    assert window.contains_interval(at, length).tolist() == inside


@given(windows, st.integers(1, 13))
def test_the_parts_of_a_split_window_make_it_up_again(window, length):
    parts = list(window.split(length))
    assert all(part.milliseconds <= length and len(part.spans) == 1 for part in parts)
    assert sum(part.milliseconds for part in parts) == window.milliseconds
    assert Window(tuple(span for part in parts for span in part.spans)) == replace(window, name="")


def test_a_share_of_nothing_is_all_of_it():
    assert Window().share_of(Window()) == 1.0
    assert Window.of(0, 5).share_of(Window.of(0, 20)) == 0.25


def test_an_empty_window_has_no_ends():
    with pytest.raises(ValueError, match="no start"):
        _ = Window().start
    with pytest.raises(ValueError, match="no end"):
        _ = Window().end


def test_what_makes_two_readings_comparable_makes_the_definition():
    metric = Metric("latency", "seconds", Shape.DISTRIBUTION, bounds=(0.1, 1.0), query="q", step_seconds=60)
    for other in (
        replace(metric, unit="bytes"), replace(metric, query="r"), replace(metric, step_seconds=300),
        replace(metric, bounds=(0.1, 2.0)), replace(metric, threshold=0.5), replace(metric, shape=Shape.LEVEL, bounds=()),
    ):
        assert other.definition != metric.definition
    for same in (
        replace(metric, name="other"), replace(metric, better=Better.LOWER), replace(metric, family="latency"),
        replace(metric, context=("requests",)),
    ):
        assert same.definition == metric.definition


def test_the_bounds_a_source_answers_with_are_no_part_of_the_question():
    metric = Metric("latency", "seconds", Shape.DISTRIBUTION, query="q")
    assert replace(metric, bounds=(0.1, 1.0)).question == metric.question
    assert replace(metric, query="r").question != metric.question


@pytest.mark.parametrize("wrong", [{"step_seconds": 0}, {"statistics": ("p42",)}, {"bounds": (1.0, 1.0)}])
def test_a_metric_that_means_nothing_cannot_exist(wrong):
    with pytest.raises(ValueError, match="metric load"):
        Metric("load", "1", Shape.LEVEL, **wrong)


@pytest.mark.parametrize("at", [[2, 1], [1, 1]])
def test_instants_that_do_not_rise_are_refused(at):
    with pytest.raises(ValueError, match="strictly increasing"):
        Level(LEVEL, np.array(at, np.int64), np.zeros(2))


def test_columns_of_unequal_length_and_instants_that_are_no_milliseconds_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        Level(LEVEL, np.arange(3, dtype=np.int64), np.zeros(2))
    with pytest.raises(ValueError, match="int64"):
        Level(LEVEL, np.arange(3, dtype=np.float64), np.zeros(3))


def test_an_occurrence_is_there_once():
    series = Series("gh", Metric("runs", "1", Shape.EVENT))
    ones = np.ones(2, np.int64)
    with pytest.raises(ValueError, match="there twice"):
        Occurrences(series, ("a", "a"), ones, ones, ones, ({}, {}))


def test_buckets_fit_the_sources_own_bounds():
    series = Series("prom", Metric("latency", "seconds", Shape.DISTRIBUTION, bounds=(0.1, 1.0)))
    one = np.array([0], np.int64)
    unknown = np.full(1, np.nan)
    Distribution(series, one, np.zeros((1, 3)), unknown, unknown, unknown)
    with pytest.raises(ValueError, match="2 bounds need 3 buckets"):
        Distribution(series, one, np.zeros((1, 4)), unknown, unknown, unknown)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50))
def test_a_value_lies_in_its_log_bucket_and_within_a_hundredth_of_its_middle(values):
    column = np.array(values)
    index = log_bucket(column).astype(float)
    low, high = LOG_BUCKET_GAMMA ** (index - 1), LOG_BUCKET_GAMMA**index
    assert (column <= high * (1 + 1e-12)).all()
    assert (column >= low * (1 - 1e-12)).all()
    middle = 2 * high / (LOG_BUCKET_GAMMA + 1)
    assert (np.abs(column - middle) <= 0.0100001 * column).all()


def test_what_lies_within_a_window_is_instants_for_levels_and_whole_intervals_for_the_rest():
    at = np.arange(0, 600_000, 60_000, dtype=np.int64)
    window = Window(((0, 150_000), (300_000, 420_000)))
    assert Level(LEVEL, at, np.zeros(10)).within(window).at.tolist() == [0, 60_000, 120_000, 300_000, 360_000]
    counts = Counts(Series("prom", Metric("errors", "1", Shape.COUNT)), at, np.arange(10.0))
    assert counts.within(window).number.tolist() == [0, 1, 5, 6]
    ratio = Ratio(Series("prom", Metric("share", "1", Shape.RATIO)), at, np.arange(10.0), np.ones(10))
    assert ratio.within(window).numerator.tolist() == [0, 1, 5, 6]


def test_occurrences_belong_to_the_window_they_started_in():
    series = Series("gh", Metric("runs", "1", Shape.EVENT))
    start = np.array([10, 20, 30], np.int64)
    found = Occurrences(series, ("a", "b", "c"), start, start, np.array([50, OPEN, 60]), ({}, {}, {})).within(Window.of(15, 30))
    assert found.id == ("b",)
    assert found.end.tolist() == [OPEN]


def test_a_subject_owns_the_series_that_carry_all_its_labels_or_its_name_at_another_source():
    checkout = Subject("checkout", labels_of({"service": "checkout", "env": "prod"}), "Checkout", ("acme/shop",), "shop")
    other = Subject("search", labels_of({"service": "search"}))

    def owner(**labels):
        found = subject_of(Series("x", LEVEL.metric, labels_of(labels)), (checkout, other))
        return found.name if found else None

    assert owner(service="checkout", env="prod", pod="1") == "checkout"
    assert owner(service="checkout", env="test") is None
    assert owner(service="search") == "search"
    assert owner(database="shop") == "checkout"
    assert owner(pagerduty_service="Checkout") == "checkout"
    assert owner(repository="acme/shop") == "checkout"
    assert owner() is None


def test_a_subject_without_labels_owns_nothing_by_them():
    assert subject_of(Series("x", LEVEL.metric, labels_of({"a": "b"})), (Subject("empty"),)) is None
