"""The number rules of the wording, and that no number ever becomes a different one."""

import doctest
import math
import re
from datetime import timedelta, timezone

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harvester import figures

HOUR, DAY = 3600.0, 86_400.0
ANY = st.floats(allow_nan=True, allow_infinity=True)
SIZES = st.floats(min_value=1e-7, max_value=1e12)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0.480, "seconds", "480 ms"),
        (4.2, "seconds", "4.2 s"),
        (0.038, "seconds", "38 ms"),
        (0.0384, "seconds", "38 ms"),
        (6.1, "seconds", "6.1 s"),
        (0.9, "seconds", "900 ms"),
        (0.002, "seconds", "2 ms"),
        (45.0, "seconds", "45 s"),
        (60.0, "seconds", "60 s"),
        (140.0, "seconds", "140 s"),
        (12 * 60, "seconds", "12 min"),
        (34 * 60, "seconds", "34 min"),
        (90 * 60, "seconds", "90 min"),
        (3 * HOUR, "seconds", "3 h"),
        (11.4 * HOUR, "seconds", "11.4 h"),
        (2 * DAY, "seconds", "2 d"),
        (5 * DAY, "seconds", "5 d"),
        (1.5e-6, "seconds", "1.5 us"),
        (3.12e8, "bytes", "312 MB"),
        (4.2e9, "bytes", "4.2 GB"),
        (27e12, "bytes", "27 TB"),
        (27e12, "bytes/day", "27 TB/day"),
        (4.2e6, "bytes/second", "4.2 MB/s"),
        (1240, "requests/second", "1,240 requests/s"),
        (18_000, "requests/second", "18,000 requests/s"),
        (1, "requests/second", "1 request/s"),
        (12, "instances", "12 instances"),
        (1, "instances", "1 instance"),
        (1, "queries", "1 query"),
        (1, "processes", "1 process"),
        (1, "glass", "1 glass"),
        (0.34, "cores", "0.34 cores"),
        (12_000_000, "rows", "12M rows"),
        (1_240_000, "requests/day", "1.24M requests/day"),
        (47, "queries/request", "47 queries/request"),
        (4 / 30.44, "incidents/day", "4 incidents/month"),
        (12 / 30.44, "incidents/day", "2.8 incidents/week"),
        (0.0, "incidents/day", "0 incidents/day"),
        (0.0021, "1", "0.21 %"),
        (47, "1", "47"),
        (-3, "instances", "-3 instances"),
        (-0.12, "seconds", "-120 ms"),
        (0, "seconds", "0 s"),
        (0, "bytes", "0 B"),
        (0, "instances", "0 instances"),
        (1e-9, "seconds", "1 ns"),
        (1e-9, "cores", "1e-09 cores"),
        (1e15, "requests", "1,000T requests"),
        (1e15, "bytes", "1 PB"),
        (math.inf, "seconds", "inf"),
        (-math.inf, "bytes", "-inf"),
        (math.nan, "seconds", "?"),
        (None, "1", "?"),
    ],
)
def test_a_value_stands_in_its_natural_unit(number, unit, text):
    assert figures.value(number, unit) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0.99951, "1 s"), (179.6, "3 min"), (179.4, "179 s"), (10_790, "3 h"), (47.99 * HOUR, "2 d")]
)
def test_a_value_that_rounds_up_to_the_next_unit_takes_it(number, text):
    assert figures.value(number, "seconds") == text


def test_two_values_of_one_unit_are_told_apart_wherever_they_differ():
    assert figures.pair(0.4801, 0.4799, "seconds") == ("480.1 ms", "479.9 ms")
    assert figures.pair(12.41, 12.04, "instances") == ("12.4 instances", "12 instances")
    assert figures.pair(0.048, 0.048, "seconds") == ("48 ms", "48 ms")
    assert figures.pair(None, 0.048, "seconds") == ("?", "48 ms")


def test_two_counts_stand_over_one_period():
    assert figures.pair(4 / 30.436875, 0.0, "incidents/day") == ("4 incidents/month", "0 incidents/month")
    assert figures.pair(12.0, 0.5, "timeouts/day") == ("12 timeouts/day", "0.5 timeouts/day")


def test_two_numbers_without_unit_are_both_shares_or_neither():
    assert figures.pair(0.5, 1.25, "1") == ("0.5", "1.3")
    assert figures.pair(0.021, 0.0021, "1") == ("2.1 %", "0.21 %")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.9997, "99.97 %"),
        (0.9999, "99.99 %"),
        (0.999, "99.9 %"),
        (0.99999, "99.999 %"),
        (0.999968, "99.9968 %"),
        (0.9999999999, "99.999999 %"),
        (1 - 0.0003, "99.97 %"),
        (9997 / 10_000, "99.97 %"),
        (0.996, "99.6 %"),
        (0.94, "94 %"),
        (0.99, "99 %"),
        (1.0, "100 %"),
        (0.0021, "0.21 %"),
        (0.34, "34 %"),
        (0.345, "35 %"),
        (0.034, "3.4 %"),
        (0.0, "0 %"),
        (1e-9, "under 0.0001 %"),
        (1.4, "140 %"),
        (-0.03, "-3 %"),
        (None, "?"),
        (math.nan, "?"),
    ],
)
def test_a_share_keeps_its_nines(number, text):
    assert figures.share(number) == text


@given(st.floats(min_value=0.9, max_value=1.0, exclude_max=True))
def test_a_share_of_nearly_all_is_never_rounded_up(number):
    shown = float(figures.share(number).removesuffix(" %"))
    assert shown < 100
    assert shown <= 100 * number + 1e-9


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (-71.2, "-71 %"),
        (-70.83, "-71 %"),
        (12.5, "+13 %"),
        (-12.5, "-13 %"),
        (100 * (0.875 - 1), "-13 %"),
        (100 * (0.285 - 1), "-72 %"),
        (-97.2, "-97 %"),
        (-99.6, "-99.6 %"),
        (-99.55, "-99.6 %"),
        (-99.96, "-99.9 %"),
        (-99.999999999, "-99.9 %"),
        (-100.0, "-100 %"),
        (300.0, "+300 %"),
        (99.6, "+100 %"),
        (1240.4, "+1,240 %"),
        (0.0, "0 %"),
        (-0.0, "0 %"),
        (0.4, "under 1 %"),
        (-0.99, "under 1 %"),
        (1.0, "+1 %"),
        (None, "?"),
        (math.nan, "?"),
    ],
)
def test_a_change_is_whole_percent_with_its_sign(change, text):
    assert figures.percent(change) == text


@given(st.floats(min_value=-100, max_value=1e9))
def test_only_nothing_left_is_minus_100_percent_and_nothing_is_plus_0(change):
    shown = figures.percent(change)
    assert (shown == "-100 %") == (change == -100)
    assert shown != "+0 %"
    assert shown != "-0 %"


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (2.3, "2.3x"),
        (7.1, "7.1x"),
        (3.0, "3x"),
        (9.96, "10x"),
        (12.5, "13x"),
        (15.4, "15x"),
        (0.5, "0.5x"),
        (None, "?"),
        (math.inf, "inf"),
    ],
)
def test_a_multiple_is_whole_from_ten(ratio, text):
    assert figures.multiple(ratio) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (0.57, 0.91, "34 points"),
        (0.91, 0.57, "34 points"),
        (0.64, 0.91, "27 points"),
        (0.923, 0.996, "7.3 points"),
        (0.01, 0.02, "1 point"),
        (0.0021, 0.0004, "0.17 points"),
        (None, 0.1, "?"),
    ],
)
def test_two_shares_lie_points_apart(before, after, text):
    assert figures.points(before, after) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2_034_567, "2M+"),
        (10_000_000, "10M"),
        (10_900_000, "10M+"),
        (100_000_000, "100M"),
        (50_000, "50K"),
        (300_001, "300K+"),
        (999_999, "990K+"),
        (43, "43"),
        (214, "210+"),
        (0, "0"),
        (None, "?"),
        (math.inf, "inf"),
    ],
)
def test_scale_is_rounded_down(number, text):
    assert figures.rounded_down(number) == text


@given(st.integers(min_value=0, max_value=10**15))
def test_scale_is_never_more_than_it_is(number):
    shown = figures.rounded_down(number)
    size = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
    digits, name, more = re.fullmatch(r"([\d.,]+)([KMBT]?)(\+?)", shown).groups()
    said = float(digits.replace(",", "")) * size[name]
    assert said <= number * (1 + 1e-12)
    assert said >= 0.9 * number
    assert bool(more) == (round(said) != number)


@pytest.mark.parametrize(
    ("amount", "currency", "period", "text"),
    [
        (8400, "USD", "month", "$8,400/month"),
        (800, "USD", "month", "$800/month"),
        (180_000, "USD", "year", "$180K/year"),
        (1_200_000, "USD", "year", "$1.2M/year"),
        (95, "EUR", "hour", "95 EUR/hour"),
        (-4.2, "USD", "", "-$4.20"),
        (12.5, "USD", "", "$13"),
        (None, "USD", "", "?"),
    ],
)
def test_money_has_its_currency_and_its_period(amount, currency, period, text):
    assert figures.money(amount, currency, period) == text


@pytest.mark.parametrize(
    ("per_day", "text"),
    [
        (1, "daily"),
        (2, "twice a day"),
        (3, "3 times a day"),
        (1.4, "1.4 times a day"),
        (1 / 7, "weekly"),
        (2 / 7, "twice a week"),
        (3 / 7, "3 times a week"),
        (1 / 14, "every second week"),
        (1 / 30.44, "monthly"),
        (3 / 30.44, "3 times a month"),
        (1 / 60.9, "every second month"),
        (1 / 91.3, "quarterly"),
        (1 / 365.2425, "yearly"),
        (1 / 730.5, "every second year"),
        (1 / 3652.4, "every 10 years"),
        (0, "never"),
        (-1, "?"),
        (None, "?"),
        (math.inf, "?"),
    ],
)
def test_a_frequency_reads_as_people_say_it(per_day, text):
    assert figures.frequency(per_day) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5400, "90 min"),
        (2 * DAY, "2 days"),
        (212.9 * DAY, "212 days"),
        (364.9 * DAY, "364 days"),
        (548 * DAY, "18 months"),
        (1500 * DAY, "4 years"),
        (None, "?"),
    ],
)
def test_a_duration_is_never_more_than_it_was(seconds, text):
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.452, 0.519, "between -55 % and -48 %"),
        (0.9, 1.12, "between -10 % and +12 %"),
        (0.998, 1.013, "between -0.2 % and +1.3 %"),
        (0.0, 0.4, "-60 % or lower"),
        (0.0, 0.0, "-100 %"),
        (1.4, None, "+40 % or higher"),
        (None, 0.6, "-40 % or lower"),
        (None, None, "?"),
        (0.996, 0.9985, "between -0.4 % and -0.15 %"),
        (1e-6, 2e-6, "about -99.99 %"),
        (2.0, math.inf, "+100 % or higher"),
    ],
)
def test_an_interval_names_both_ends_or_the_open_one(low, high, text):
    assert figures.interval(low, high) == text


def test_an_interval_of_differences_has_the_unit_of_the_metric():
    assert figures.interval(-0.12, 0.04, "difference", "seconds") == "between -120 ms and +40 ms"


@given(st.floats(min_value=0.01, max_value=0.9999), st.floats(min_value=0.01, max_value=0.9999))
def test_an_interval_below_one_never_seems_to_hold_no_change(one, other):
    assume(max(one, other) <= 0.9995)
    assert " 0 %" not in figures.interval(min(one, other), max(one, other))
    assert "+" not in figures.interval(min(one, other), max(one, other))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0004, "p < 0.001"),
        (0.0, "p < 0.001"),
        (0.0123, "p = 0.012"),
        (0.049, "p = 0.049"),
        (0.34, "p = 0.34"),
        (1.0, "p = 1"),
        (None, "p = ?"),
    ],
)
def test_a_p_value_is_never_zero(number, text):
    assert figures.p(number) == text


AT = 1_773_446_400_000  # 14 Mar 2026, midnight UTC


def test_dates_know_the_zone_they_are_told_in():
    west = timezone(timedelta(hours=-8))
    assert figures.date(AT) == "14 Mar 2026"
    assert figures.date(AT, west) == "13 Mar 2026"
    assert figures.day(AT) == "14 Mar"
    assert figures.moment(AT) == "14 Mar 2026 00:00 UTC"


def test_a_span_names_its_last_day_and_nothing_twice():
    day = 86_400_000
    assert figures.span(AT, AT + day) == "14 Mar 2026"
    assert figures.span(AT, AT + 14 * day) == "14 to 27 Mar 2026"
    assert figures.span(AT - 20 * day, AT) == "22 Feb to 13 Mar 2026"
    assert figures.span(AT - 100 * day, AT) == "4 Dec 2025 to 13 Mar 2026"
    assert figures.span(AT, AT) == "14 Mar 2026"


@pytest.mark.parametrize(
    ("unit", "shape", "statistic", "printed"),
    [
        ("seconds", "distribution", "p95", "seconds"),
        ("seconds", "distribution", "count", "observations/day"),
        ("seconds", "distribution", "total", "seconds/day"),
        ("timeouts", "count", "count", "timeouts/day"),
        ("1", "event", "count", "events/day"),
        ("seconds", "event", "median", "seconds"),
        ("1", "ratio", "ratio", "1"),
    ],
)
def test_what_is_counted_is_printed_per_day(unit, shape, statistic, printed):
    assert figures.printed_unit(unit, shape, statistic) == printed


@given(SIZES, st.sampled_from(["seconds", "bytes", "instances", "requests/second", ""]))
def test_a_value_read_back_is_within_five_percent_of_itself(number, unit):
    text = figures.value(number, unit)
    digits, _, name = text.partition(" ")
    scale = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    last = digits[-1]
    said = float(digits.rstrip("KMBT").replace(",", "")) * scale.get(last, 1.0)
    sizes = {entry[0]: entry[1] for entry in (*figures._TIME, *figures._BYTES)}
    said *= sizes.get(name, 1.0) if unit in ("seconds", "bytes") else 1.0
    assert said == pytest.approx(number, rel=0.0501)


@given(
    ANY, st.sampled_from(["seconds", "bytes", "1", "proportion", "", "timeouts/day", "requests/second", "seconds/day"])
)
def test_every_number_prints_in_plain_ascii(number, unit):
    texts = [
        figures.value(number, unit), figures.share(number), figures.percent(number), figures.multiple(number),
        figures.rounded_down(number), figures.money(number), figures.frequency(number), figures.duration(number),
        figures.points(number, 0.5), figures.interval(number, number),
        figures.interval(number, None, "difference", unit), *figures.pair(number, 0.5, unit),
    ]  # fmt: skip
    for text in texts:
        assert text
        assert text.isascii()
        assert len(text) < 200
        assert "nan" not in text


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_numpy_numbers_print_as_plain_ones_do(number):
    one = np.float64(number)
    assert figures.value(one, "seconds") == figures.value(number, "seconds")
    assert figures.share(one) == figures.share(number)
    assert figures.percent(one) == figures.percent(number)
    assert figures.rounded_down(one) == figures.rounded_down(number)


@given(ANY, ANY)
def test_different_values_read_the_same_only_when_nearly_equal(one, other):
    assume(math.isfinite(one) and math.isfinite(other) and one != other)
    texts = figures.pair(one, other, "seconds")
    if texts[0] == texts[1]:
        assert abs(one - other) <= 1e-3 * max(abs(one), abs(other), 1e-300) or max(abs(one), abs(other)) < 1e-15


def test_text_from_a_source_carries_no_escape_control_or_direction():
    assert figures.plain("a\x1b[31mred\x1b[0m b\x07\x00c") == "ared bc"
    assert figures.plain("\x1b]0;title\x07shown") == "shown"
    assert figures.plain("one\r\ntwo\tthree\u2028four") == "one two three four"
    assert figures.plain("abc\u202edcba\u2066") == "abcdcba"
    assert figures.plain("x" * 300) == "x" * 197 + "..."


@given(st.text())
def test_plain_text_is_one_printable_line(text):
    line = figures.plain(text)
    assert line.isprintable()
    assert len(line) <= 200
    assert figures.plain(line) == line


def test_what_is_compared_is_named_in_words():
    labels = (("instance", "a:80"), ("route", "/pay\x1b[2J"))
    assert figures.what("request_latency", "p95", shape="distribution", subject="checkout", labels=labels) == (
        "p95 request latency of checkout (route /pay)"
    )
    assert figures.what("memory", "max") == "highest memory"
    assert figures.what("incidents", "median", shape="event") == "median incidents duration"
    assert figures.what("latency", "count", shape="distribution") == "latency observations"


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(figures).failed == 0
    assert doctest.testmod(figures).attempted > 20
