"""What the connector understands of PromQL as text."""

from __future__ import annotations

import doctest

import pytest

from connectors.prometheus import promql


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(promql) == (0, doctest.testmod(promql).attempted)
    assert doctest.testmod(promql).attempted > 15


@pytest.mark.parametrize("expression, expected", [
    ("up", ["up"]),
    ('{__name__=~"a|b", job="x}y"}', ['{__name__=~"a|b", job="x}y"}']),
    ('sum(rate(a_total{x="1"}[5m])) / on (job) group_left (pod) sum(b)', ['a_total{x="1"}', "b"]),
    ("a - a offset 1h", ["a", "a"]),
    ("max_over_time(rate(a[5m])[1h:1m])", ["a"]),
    ("a # and not b\n + c", ["a", "c"]),
    ("topk(3, sum by (pod) (a)) > bool 5 and on () b unless c", ["a", "b", "c"]),
    ("histogram_quantile(0.95, sum by (le) (rate(h_bucket[5m])))", ["h_bucket"]),
    ('label_replace(a, "x", "$1", "y", "(.*)b{c}")', ["a"]),
    ("1 + 2", []),
    ("job:latency:p95", ["job:latency:p95"]),
])
def test_the_selectors_of_an_expression_are_found(expression, expected):
    assert [one.selector for one in promql.sources(expression)] == expected


@pytest.mark.parametrize("expression", ["a @ 1600000000", "a @ end()", "max_over_time(a[1h:1m] offset 1d)", "(a) offset 5m"])
def test_what_reads_other_instants_than_those_asked_for_cannot_be_told(expression):
    assert promql.sources(expression) is None
    assert promql.fresh_queries(expression, 60) is None


@pytest.mark.parametrize("expression, step, expected", [
    ("sum(up)", 60, ("count(count_over_time(up[59999ms]))",)),
    ("sum(up)", 300, ()),
    ("sum(rate(a[5m]))", 300, ()),
    ("sum(rate(a[1h]))", 300, ("count(count_over_time(a[299999ms]))",)),
    ("sum(rate(a[1m]))", 60, ()),
    ("sum(a) or vector(0)", 600, ("count(count_over_time(a[599999ms]))",)),
    ("time() - a", 600, ("count(count_over_time(a[599999ms]))",)),
    ("absent(a)", 600, ("count(count_over_time(a[599999ms]))",)),
    ("sum(a offset 1h)", 60, ("count(count_over_time(a[59999ms] offset 1h))",)),
    ("sum(a offset -1h)", 60, ("count(count_over_time(a[59999ms] offset -1h))",)),
    ("avg_over_time(a[30m:1m])", 600, ("count(count_over_time(a[599999ms]))",)),
    ("vector(1)", 60, None),
])
def test_freshness_is_asked_where_an_expression_outlives_its_samples(expression, step, expected):
    assert promql.fresh_queries(expression, step) == expected


def test_label_values_cannot_break_out_of_a_matcher():
    hostile = 'a"} or up{b="\n\\'
    text = promql.fill("x{$selector}", {"selector": promql.matchers([("service", hostile)]), "step": "60s"})
    assert promql.is_plain(text)
    assert [one.selector for one in promql.sources(text)] == [text]
