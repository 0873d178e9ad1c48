"""What is made of two metrics, on what is proven of both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.derive import SOURCE, Held, Operation, Part, Rule, UnderivableError, derive
from harvester.readings import (
    HOUR,
    LOG_BUCKET_GAMMA,
    MINUTE,
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
    Silence,
    Window,
)

T = 20_000 * 24 * HOUR
DAY = Window.of(T, T + 24 * HOUR)

CALLS = Metric("calls", "statements", Shape.COUNT, query="calls", step_seconds=60)
REQUESTS = Metric("requests", "requests", Shape.COUNT, query="requests", step_seconds=300)
RATE = Metric("rate", "requests/second", Shape.LEVEL, query="rate", step_seconds=300)
NODES = Metric("nodes", "nodes", Shape.LEVEL, Better.LOWER, query="nodes", step_seconds=300, exact=True)
PRICE = Metric("price", "USD/hour", Shape.LEVEL, query="price", step_seconds=3600)
LATENCY = Metric("latency", "seconds", Shape.DISTRIBUTION, Better.LOWER, query="l", step_seconds=300, bounds=(0.1, 0.25))
ERRORS = Metric("errors", "1", Shape.RATIO, Better.LOWER, query="e", step_seconds=60)
DEPLOYS = Metric("deploys", "deploys", Shape.EVENT, query="d")
LOGGED = Metric("logged", "seconds", Shape.DISTRIBUTION, query="log", step_seconds=3600, threshold=0.25)
RUNS = Metric("runs", "seconds", Shape.EVENT, query="r")

QPR = Rule("qpr", Operation.RATIO, (Part("calls"), Part("requests")), better=Better.LOWER)


def counts(metric, number, every, *, start=T, labels=()):
    number = np.asarray(number, float)
    return Counts(Series("s", metric, labels), start + np.arange(len(number), dtype=np.int64) * every, number)


def events(metric, starts, lengths=None, labels=()):
    starts = np.array(starts, np.int64) + T
    ends = np.full(len(starts), OPEN) if lengths is None else starts + np.array(lengths, np.int64)
    names = tuple(map(str, range(len(starts))))
    return Occurrences(Series("s", metric, labels), names, np.ones(len(starts), np.int64), starts, ends, ({},) * len(starts))


def made(rule, *parts, window=DAY):
    parts = [[part] if isinstance(part, Held) else part for part in parts]
    metric = rule.metric(*(part[0].readings.series.metric for part in parts))
    return derive(rule, Series(SOURCE, metric), parts, window)


def held(readings, *spans):
    return Held(readings, Window(spans) if spans else DAY)


def test_queries_per_request_are_calls_over_requests_on_the_coarser_step():
    found = made(QPR, held(counts(CALLS, np.arange(1440), MINUTE)), held(counts(REQUESTS, np.full(288, 10.0), 5 * MINUTE)))
    assert isinstance(found.readings, Ratio)
    assert found.readings.series.metric.step_seconds == 300
    assert found.readings.numerator[:2].tolist() == [0 + 1 + 2 + 3 + 4, 5 + 6 + 7 + 8 + 9]
    assert found.readings.denominator.tolist() == [10.0] * 288
    assert found.coverage == DAY
    assert found.readings.series.metric.unit == "statements/request"


def test_steps_of_which_none_is_a_multiple_meet_at_their_least_common_one():
    other = Metric("requests", "requests", Shape.COUNT, query="requests", step_seconds=90)
    found = made(QPR, held(counts(CALLS, np.ones(1440), MINUTE)), held(counts(other, np.ones(960), 90_000)))
    assert (found.readings.numerator[0], found.readings.denominator[0]) == (3, 2)
    assert found.readings.series.metric.step_seconds == 180
    with pytest.raises(UnderivableError, match="meet every"):
        QPR.metric(Metric("a", "1", Shape.COUNT, step_seconds=86_399), REQUESTS)


@given(
    gaps=st.lists(st.tuples(st.integers(0, 1439), st.integers(1, 300), st.booleans()), max_size=6),
    zero=st.booleans(),
)
def test_a_gap_on_either_side_shrinks_what_is_proven_and_moves_no_ratio(gaps, zero):
    silence = Silence.ZERO if zero else Silence.UNKNOWN
    calls = Metric("calls", "statements", Shape.COUNT, silence=silence, query="calls", step_seconds=60)
    requests = Metric("requests", "requests", Shape.COUNT, silence=silence, query="requests", step_seconds=300)
    left, right = counts(calls, np.full(1440, 3.0), MINUTE), counts(requests, np.full(288, 5.0), 5 * MINUTE)
    missing = [Window(), Window()]
    for first, length, side in gaps:
        missing[side] |= Window.of(T + first * MINUTE, T + (first + length) * MINUTE)
    covered = [DAY - one for one in missing]
    # What was missed is not there, as after an outage of the source.
    found = made(QPR, Held(left.within(covered[0]), covered[0]), Held(right.within(covered[1]), covered[1]))
    assert not (found.coverage - (covered[0] & covered[1]))
    assert np.all(found.readings.numerator == 15)
    assert np.all(found.readings.denominator == 5)
    whole = [window.contains_interval(right.at, 5 * MINUTE) for window in covered]
    assert found.readings.at.tolist() == right.at[whole[0] & whole[1]].tolist()


def test_a_covered_minute_without_a_reading_is_nothing_only_where_silence_means_so():
    silent = Metric("calls", "statements", Shape.COUNT, silence=Silence.ZERO, query="calls", step_seconds=60)
    keep = np.arange(1440) != 7
    for metric, expected in ((CALLS, 287), (silent, 288)):
        whole = counts(metric, np.ones(1440), MINUTE)
        some = Counts(whole.series, whole.at[keep], whole.number[keep])
        found = made(QPR, held(some), held(counts(REQUESTS, np.ones(288), 5 * MINUTE)))
        assert len(found.readings) == expected
    assert found.readings.numerator[1] == 4


def test_an_unknown_number_makes_its_interval_unknown():
    number = np.ones(1440)
    number[3] = np.nan
    found = made(QPR, held(counts(CALLS, number, MINUTE)), held(counts(REQUESTS, np.ones(288), 5 * MINUTE)))
    assert found.readings.at[0] == T + 5 * MINUTE
    assert found.coverage == Window.of(T + 5 * MINUTE, DAY.end)


def test_an_interval_that_lies_across_two_of_ours_is_not_split():
    shifted = counts(REQUESTS, np.ones(287), 5 * MINUTE, start=T + MINUTE)
    found = made(QPR, held(counts(CALLS, np.ones(1440), MINUTE)), held(shifted))
    assert len(found.readings) == 0
    assert not found.coverage


def test_many_series_of_one_side_are_summed_and_never_averaged():
    parts = [held(counts(CALLS, np.full(1440, n), MINUTE, labels=(("table", str(n)),))) for n in (1, 2, 30)]
    found = made(QPR, parts, held(counts(REQUESTS, np.ones(288), 5 * MINUTE)))
    assert set(found.readings.numerator) == {5 * 33.0}


def test_what_is_unknown_of_one_of_many_series_is_unknown_of_their_sum():
    whole = [counts(CALLS, np.ones(1440), MINUTE, labels=(("table", name),)) for name in "ab"]
    hole = Window.of(T + HOUR, T + 2 * HOUR)
    parts = [held(whole[0]), Held(whole[1].within(DAY - hole), DAY - hole)]
    found = made(QPR, parts, held(counts(REQUESTS, np.ones(288), 5 * MINUTE)))
    assert found.coverage == DAY - hole
    assert set(found.readings.numerator) == {10.0}


def test_a_series_that_appears_in_covered_time_was_not_there_before():
    late = counts(CALLS, np.ones(720), MINUTE, start=T + 12 * HOUR, labels=(("table", "new"),))
    found = made(QPR, [held(counts(CALLS, np.ones(1440), MINUTE)), held(late)], held(counts(REQUESTS, np.ones(288), 5 * MINUTE)))
    assert found.coverage == DAY
    assert found.readings.numerator[[0, -1]].tolist() == [5.0, 10.0]


def test_a_rate_stands_for_what_it_adds_up_to():
    rate = Level(Series("s", RATE), T + np.arange(288, dtype=np.int64) * 5 * MINUTE, np.full(288, 2.0))
    rule = Rule("qpr", Operation.RATIO, (Part("calls"), Part("rate")))
    found = made(rule, held(counts(CALLS, np.ones(1440), MINUTE)), held(rate))
    assert (found.readings.numerator[0], found.readings.denominator[0]) == (5, 600)
    assert found.readings.series.metric.unit == "statements/request"


def test_an_amount_is_not_divided_by_a_level_that_is_no_rate():
    rule = Rule("per_node", Operation.RATIO, (Part("calls"), Part("nodes")))
    with pytest.raises(UnderivableError, match="would depend on the step") as refused:
        rule.metric(CALLS, NODES)
    assert "nodes/second" in refused.value.hint


def test_nodes_times_a_price_are_a_cost_and_exact_where_both_are():
    nodes = Level(Series("s", NODES), T + np.arange(288, dtype=np.int64) * 5 * MINUTE, np.repeat([4.0, 6.0], 144))
    price = Level(Series("s", PRICE), T + np.arange(24, dtype=np.int64) * HOUR, np.full(24, 0.5))
    rule = Rule("cost", Operation.PRODUCT, (Part("nodes"), Part("price")), unit="USD/hour")
    found = made(rule, held(nodes), held(price))
    assert isinstance(found.readings, Level)
    assert found.readings.value.tolist() == [2.0] * 12 + [3.0] * 12
    assert not found.readings.series.metric.exact
    fixed = Rule("cost", Operation.PRODUCT, (Part("nodes"),), factor=0.25, unit="USD/hour")
    found = made(fixed, held(nodes))
    assert (found.readings.value[0], found.readings.value[-1]) == (1.0, 1.5)
    assert found.readings.series.metric.exact
    assert found.readings.series.metric.better is Better.LOWER


def test_minutes_per_deploy_are_the_sum_of_durations_over_how_often():
    rule = Rule("deploy_time", Operation.RATIO, (Part("runs", "total"), Part("deploys", "count")))
    runs = events(RUNS, [0, HOUR, HOUR + MINUTE], [10 * MINUTE, 4 * MINUTE, 6 * MINUTE])
    found = made(rule, held(runs), held(events(DEPLOYS, [MINUTE, HOUR], [1, 1])))
    assert found.readings.series.metric.unit == "seconds/deploy"
    assert found.readings.numerator[:2].tolist() == [600.0, 600.0]
    assert found.readings.denominator[:2].tolist() == [1.0, 1.0]
    assert found.coverage == DAY


def test_the_hour_of_an_event_that_has_not_ended_is_not_proven():
    rule = Rule("deploy_time", Operation.RATIO, (Part("runs", "total"), Part("deploys")))
    found = made(rule, held(events(RUNS, [HOUR])), held(events(DEPLOYS, [HOUR], [1])))
    assert found.coverage == DAY - Window.of(T + HOUR, T + 2 * HOUR)


def test_the_share_under_a_bound_is_exact_and_takes_no_other_bound():
    rows = np.tile([3.0, 5.0, 2.0], (288, 1))
    nothing = np.full(288, np.nan)
    at = T + np.arange(288, dtype=np.int64) * 5 * MINUTE
    latency = Distribution(Series("s", LATENCY), at, rows, nothing, nothing, nothing)
    rule = Rule("fast", Operation.SHARE_UNDER, (Part("latency"),), bound=0.25)
    found = made(rule, held(latency))
    assert (found.readings.numerator[0], found.readings.denominator[0]) == (8, 10)
    assert found.readings.series.metric.better is Better.HIGHER
    with pytest.raises(UnderivableError, match="none of the bounds") as refused:
        Rule("fast", Operation.SHARE_UNDER, (Part("latency"),), bound=0.2).metric(LATENCY)
    assert "0.25 and 0.1" in refused.value.hint


def test_the_share_under_a_bound_of_log_buckets_is_within_one_bucket():
    metric = Metric("latency", "seconds", Shape.DISTRIBUTION, silence=Silence.ZERO, query="l", step_seconds=3600)
    first = -300
    nothing = np.full(24, np.nan)
    counts_ = np.ones((24, 400))
    latency = Distribution(
        Series("s", metric), T + np.arange(24, dtype=np.int64) * HOUR, counts_, nothing, nothing, nothing, first
    )
    bound = LOG_BUCKET_GAMMA**-100
    found = made(Rule("fast", Operation.SHARE_UNDER, (Part("latency"),), bound=bound), held(latency))
    assert found.readings.numerator[0] == -100 - first + 1


def level(values, *, metric=RATE):
    return Level(Series("s", metric), T + np.arange(len(values), dtype=np.int64) * 5 * MINUTE, np.array(values, float))


def above(seconds=600):
    return Rule("onsets", Operation.ONSETS, (Part("rate"),), threshold=5.0, seconds=seconds)


def test_an_onset_is_what_goes_above_and_stays_long_enough():
    values = np.ones(288)
    values[10:13] = 9  # 15 minutes
    values[20] = 9  # 5 minutes: too short
    values[286:] = 9  # not over yet
    found = made(above(), held(level(values)))
    assert isinstance(found.readings, Occurrences)
    assert ((found.readings.start - T) // MINUTE).tolist() == [50, 1430]
    assert found.readings.end.tolist() == [T + 65 * MINUTE, OPEN]
    assert found.coverage == Window.of(T, T + 24 * HOUR)


def test_what_was_above_when_covered_time_began_did_not_begin_there():
    values = np.ones(288)
    values[:4] = 9
    values[100:110] = 9
    gap = Window.of(T + 500 * MINUTE, T + 510 * MINUTE)  # swallows the onset of the second
    whole = level(values)
    found = made(above(), Held(whole.within(DAY - gap), DAY - gap))
    assert len(found.readings) == 0
    assert not found.coverage.contains(np.array([T, gap.start, gap.end])).any()


def test_where_covered_time_ends_too_soon_to_tell_nothing_is_proven():
    values = np.ones(288)
    values[20] = 9
    gap = Window.of(T + 105 * MINUTE, T + 120 * MINUTE)
    whole = level(values)
    found = made(above(), Held(whole.within(DAY - gap), DAY - gap))
    assert len(found.readings) == 0
    assert not found.coverage.contains(np.array([T + 100 * MINUTE]))[0]


def test_onsets_are_the_same_in_whatever_window_they_are_asked_for():
    values = np.ones(288)
    values[100:110] = 9
    rule, whole = above(), level(values)
    for window in (DAY, Window.of(T + 500 * MINUTE, DAY.end), Window.of(T + 300 * MINUTE, T + 505 * MINUTE)):
        reach = rule.reach(window, 5 * MINUTE)
        found = made(rule, Held(whole.within(reach), DAY & reach), window=window)
        assert found.readings.start.tolist() == [T + 500 * MINUTE]
    reach = rule.reach(Window.of(T + 505 * MINUTE, DAY.end), 5 * MINUTE)
    assert not len(made(rule, Held(whole.within(reach), DAY & reach), window=Window.of(T + 505 * MINUTE, DAY.end)).readings)


def test_an_error_ratio_above_a_threshold_has_onsets_too():
    at = T + np.arange(1440, dtype=np.int64) * MINUTE
    bad = np.zeros(1440)
    bad[60:65] = 10
    errors = Ratio(Series("s", ERRORS), at, bad, np.full(1440, 100.0))
    found = made(Rule("faults", Operation.ONSETS, (Part("errors"),), threshold=0.05, seconds=120), held(errors))
    assert found.readings.start.tolist() == [T + HOUR]
    assert found.readings.end.tolist() == [T + HOUR + 5 * MINUTE]
    assert found.readings.series.metric.better is Better.LOWER


def test_the_change_failure_rate_counts_deploys_that_something_followed():
    rule = Rule("cfr", Operation.FOLLOWED_BY, (Part("deploys"), Part("runs")), seconds=7200)
    deploys = events(DEPLOYS, [0, 5 * HOUR, 20 * HOUR], [1, 1, 1])
    incidents = events(RUNS, [HOUR, 8 * HOUR], [1, 1])
    found = made(rule, held(deploys), held(incidents))
    assert (found.readings.numerator.sum(), found.readings.denominator.sum()) == (1, 3)
    assert found.coverage == Window.of(T, DAY.end - 2 * HOUR)  # of the last hours it is not known yet


def test_a_change_of_the_rule_or_of_a_part_is_a_new_definition():
    base = QPR.metric(CALLS, REQUESTS).definition
    assert QPR.metric(CALLS, REQUESTS).definition == base
    other = Metric("calls", "statements", Shape.COUNT, query="other", step_seconds=60)
    assert QPR.metric(other, REQUESTS).definition != base
    under = [Rule("f", Operation.SHARE_UNDER, (Part("latency"),), bound=bound).metric(LATENCY) for bound in (0.1, 0.25)]
    assert under[0].definition != under[1].definition


@pytest.mark.parametrize(
    ("rule", "of", "said"),
    [
        (Rule("x", Operation.PRODUCT, (Part("latency"),), factor=2.0, unit="USD"), [LATENCY], "product takes a level or a count"),
        (Rule("x", Operation.PRODUCT, (Part("nodes"),), factor=2.0), [NODES], "unit of a product"),
        (Rule("x", Operation.PRODUCT, (Part("nodes"),), factor=2.0, unit="minutes"), [NODES], "no base unit"),
        (Rule("x", Operation.RATIO, (Part("calls", "total"), Part("requests"))), [CALLS, REQUESTS], "has no total"),
        (Rule("x", Operation.RATIO, (Part("runs", "total"), Part("deploys")), unit="minutes/deploy"), [RUNS, DEPLOYS], "seconds/deploy"),
        (Rule("x", Operation.ONSETS, (Part("calls"),), threshold=1.0), [CALLS], "onsets takes a level or a ratio"),
        (Rule("x", Operation.SHARE_UNDER, (Part("nodes"),), bound=1.0), [NODES], "takes a distribution"),
        (Rule("x", Operation.SHARE_UNDER, (Part("logged"),), bound=1.0), [LOGGED], "holds only what took 0.25 seconds or longer"),
        (Rule("x", Operation.FOLLOWED_BY, (Part("deploys"), Part("runs"))), [DEPLOYS, RUNS], "how soon"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(rule, of, said):
    with pytest.raises(UnderivableError, match=said) as refused:
        rule.metric(*of)
    assert refused.value.cause


def test_an_interval_across_the_edge_of_a_window_is_proven_and_not_counted_in_part():
    calls, requests = counts(CALLS, np.ones(1440), MINUTE), counts(REQUESTS, np.ones(288), 5 * MINUTE)
    window = Window.of(T + 62 * MINUTE, T + 123 * MINUTE)
    reach = QPR.reach(window, 5 * MINUTE)
    assert reach == Window.of(T + 60 * MINUTE, T + 125 * MINUTE)
    found = made(QPR, Held(calls.within(reach), reach), Held(requests.within(reach), reach), window=window)
    assert found.coverage == window
    assert found.readings.at[[0, -1]].tolist() == [T + 65 * MINUTE, T + 115 * MINUTE]
