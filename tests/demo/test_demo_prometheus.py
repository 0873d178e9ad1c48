"""The demo's Prometheus: the real one's rules, over a real socket."""

import json
import re

import httpx
import numpy as np
import pytest

from harvester.demo.company import Company, Raw
from harvester.demo.prometheus import PUBLISHED, Api, serve
from harvester.demo.promql import ParseError, evaluate, form, parse
from harvester.readings import DAY, HOUR, MINUTE

NOW = 1_795_540_385_000


@pytest.fixture(scope="module")
def company():
    return Company(seed=1, now=NOW)


@pytest.fixture(scope="module")
def client(company):
    with serve(company, clock=lambda: NOW) as url, httpx.Client(base_url=url) as client:
        yield client


def ask(client, path="/api/v1/query_range", method="GET", **parameters):
    if method == "GET":
        return client.get(path, params=parameters)
    return client.post(path, data=parameters)


def test_a_range_includes_both_ends_and_values_are_strings(client):
    end = NOW // 300_000 * 300
    answer = ask(client, query='up{service="catalog"}', start=end - 3000, end=end, step="5m").json()
    assert answer["status"] == "success"
    assert "warnings" not in answer
    assert answer["data"]["resultType"] == "matrix"
    (one,) = answer["data"]["result"]
    assert one["metric"]["job"] == "acme-shop"
    assert one["values"][0] == [end - 3000, "1"]
    assert len(one["values"]) == 11
    assert one["values"][-1] == [end, "1"]


def test_a_form_that_is_posted_is_answered_as_a_get_is(client):
    end = NOW // 300_000 * 300
    asked = {"query": PUBLISHED[0], "start": end - 3000, "end": end, "step": 300}
    assert ask(client, method="POST", **asked).json() == ask(client, **asked).json()


@pytest.mark.parametrize("query", PUBLISHED)
def test_every_published_query_is_answered_whatever_its_matchers_select(client, query):
    end = NOW // 300_000 * 300
    (name,) = {one[0] for one in re.findall(r"\b((http|process|up)\w*)", query)}
    for matchers, found in (("", True), ('{service="search"}', True), ('{service=~"check.*",job="acme-shop"}', True),
                            ('{service="nobody"}', False)):
        answer = ask(client, query=query.replace(name, name + matchers), start=end - 3000, end=end, step=300)
        assert answer.status_code == 200
        # All of the shop's histograms are alike, so the query for those that are not finds none.
        assert bool(answer.json()["data"]["result"]) == (found and not query.startswith("stddev"))


def test_a_query_off_the_published_list_is_bad_data_that_names_the_list(client):
    for path in ("/api/v1/query", "/api/v1/query_range"):
        answer = ask(client, path, query="sum(up)", start=0, end=1, step=1)
        assert answer.status_code == 400
        assert answer.json()["errorType"] == "bad_data"
        assert PUBLISHED[0] in answer.json()["error"]


@pytest.mark.parametrize("span, status", [(11_000 * 300, 200), (11_001 * 300, 400)])
def test_eleven_thousand_points_is_the_limit(client, span, status):
    end = NOW // 300_000 * 300
    answer = ask(client, query="up", start=end - span, end=end, step=300)
    assert answer.status_code == status
    if status == 400:
        assert answer.json() == {
            "status": "error",
            "errorType": "bad_data",
            "error": "exceeded maximum resolution of 11,000 points per timeseries. "
            "Try decreasing the query resolution (?step=XX)",
        }


def test_nothing_is_known_of_the_future(client):
    answer = ask(client, query='up{service="catalog"}', start=NOW / 1000 - 600, end=NOW / 1000 + 3600, step=60)
    last = answer.json()["data"]["result"][0]["values"][-1][0]
    assert last <= NOW / 1000 + 300  # the lookback of an instant vector
    answer = ask(client, "/api/v1/query", query='up{service="catalog"}')
    assert answer.json()["data"]["result"][0]["value"] == [NOW // 1000, "1"]


def test_a_series_ends_with_the_first_failed_scrape_and_up_is_zero(client, company):
    start = company.unscraped[0] // 1000
    asked = {"start": start - 120, "end": start + 120, "step": 60}
    memory = ask(client, query='process_resident_memory_bytes{service="search"}', **asked).json()["data"]["result"]
    assert [at for at, _ in memory[0]["values"]] == [start - 120, start - 60]
    up = ask(client, query='up{service="search"}', **asked).json()["data"]["result"]
    assert [value for _, value in up[0]["values"]] == ["1", "1", "0", "0", "0"]


def test_the_lists_of_what_there_is(client):
    assert client.get("/api/v1/label/service/values").json()["data"] == ["catalog", "checkout", "search"]
    names = client.get("/api/v1/label/__name__/values").json()["data"]
    assert {"up", "http_requests_total", "process_cpu_seconds_total"} <= set(names)
    series = client.get("/api/v1/series", params={"match[]": 'http_requests_total{service="search"}'}).json()["data"]
    assert [one["code"] for one in series] == ["200", "404", "500"]
    assert "code" in client.get("/api/v1/labels").json()["data"]
    assert client.get("/api/v1/metadata").json()["data"]["http_requests_total"][0]["type"] == "counter"
    assert client.get("/api/v1/status/buildinfo").json()["data"]["version"].startswith("2.42.0")
    assert client.get("/api/v1/status/runtimeinfo").json()["data"]["storageRetention"] == "90d"
    assert client.get("/-/healthy").status_code == client.get("/-/ready").status_code == 200
    assert client.get("/api/v1/nothing").status_code == 404
    assert client.put("/api/v1/query").status_code == 405


def test_the_order_of_labels_and_the_spelling_of_a_duration_do_not_matter():
    one = parse("sum by (service, le) (increase(http_request_duration_seconds_bucket[5m]))")
    assert one == parse("sum(increase(http_request_duration_seconds_bucket{}[300s])) by (le,service)")
    assert form(parse('up{service="a"}')) == form(parse("up")) != form(parse("down"))


@pytest.mark.parametrize("query", ["", "sum(up", "up{", "rate(up)", "nothing(up[5m])", "up{a=b}", "up[5x]", 'up{a=~"("}', "up up"])
def test_what_is_not_promql_is_a_parse_error(query):
    with pytest.raises(ParseError, match=r"\d+:\d+: parse error"):
        parse(query)


def raw(at, value):
    at = np.array(at, dtype=np.int64)
    return Raw({"__name__": "c", "a": "b"}, at, np.array(value), np.zeros(len(at), dtype=np.bool_))


def test_an_increase_counts_on_over_a_restart_and_needs_two_samples():
    one = raw([0, MINUTE, 2 * MINUTE, 3 * MINUTE, 4 * MINUTE, 5 * MINUTE, HOUR], [10, 20, 30, 5, 10, 15, 20])
    at = np.array([5 * MINUTE, HOUR], dtype=np.int64)
    (answer,) = evaluate(parse("increase(c[5m])"), [one], at, until=DAY)
    assert answer.value[0] == pytest.approx(35)
    assert answer.present.tolist() == [True, False]
    assert "__name__" not in answer.labels


def test_histograms_with_different_buckets_are_told_from_those_alike():
    at = np.array([HOUR], dtype=np.int64)

    def bucket(instance, le):
        return Raw({"__name__": "b", "instance": instance, "le": le}, at, np.ones(1), np.zeros(1, dtype=np.bool_))

    query = parse("stddev(count by (le) (b)) > 0")
    alike = [bucket(instance, le) for instance in "xy" for le in ("1", "+Inf")]
    assert evaluate(query, alike, at, until=DAY) == []
    (answer,) = evaluate(query, [*alike, bucket("y", "2")], at, until=DAY)
    assert answer.value[0] == pytest.approx(np.std([2, 2, 1]))


def test_answers_are_written_without_an_exponent(company):
    tiny = Raw({"__name__": "up"}, np.array([NOW]), np.array([1.5e-7]), np.zeros(1, dtype=np.bool_))
    api = Api(company, lambda: NOW, series=[tiny])
    answer = api.answer("GET", "/api/v1/query", {"query": ["up"]})
    assert json.loads(answer.body)["data"]["result"][0]["value"][1] == "0.00000015"
