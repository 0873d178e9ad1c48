"""The demo's Prometheus says what the real one says of the same samples, to the last digit that matters."""

import contextlib
import dataclasses
import re
import shutil
import socket
import subprocess
import time

import httpx
import numpy as np
import pytest

from harvester.demo.company import Company
from harvester.demo.prometheus import PUBLISHED, Api
from harvester.readings import DAY, HOUR, MINUTE

pytestmark = pytest.mark.integration

NOW = int(time.time() * 1000)


@pytest.fixture(scope="module")
def history():
    """Both ends of the failed scrapes and a restart: the hours in which a careless evaluation goes wrong."""
    company = Company(seed=1, now=NOW)
    start, end = company.unscraped
    keep = [(company.shipped("search-cache") - 3 * HOUR, start + 3 * HOUR), (end - 2 * HOUR, end + 6 * HOUR)]
    chosen = []
    for one in company.series():
        inside = np.zeros(len(one.at), dtype=bool)
        for low, high in keep:
            inside |= (one.at >= low) & (one.at < high)
        # Blocks made from text hold no staleness marks, so nothing ends by one here.
        chosen.append(
            dataclasses.replace(one, at=one.at[inside], value=one.value[inside], ends=np.zeros(inside.sum(), dtype=bool))
        )
    return company, chosen, keep


@pytest.fixture(scope="module")
def real(history, tmp_path_factory):
    for tool in ("prometheus", "promtool"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the demo's Prometheus is not compared with the real one")
    folder = tmp_path_factory.mktemp("prometheus")
    text = folder / "history.om"
    with text.open("w") as file:
        for one in history[1]:
            labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items() if name != "__name__")
            head = f"{one.labels['__name__']}{{{labels}}}"
            pairs = zip(one.at.tolist(), one.value.tolist(), strict=True)
            file.writelines(f"{head} {value!r} {at / 1000:.3f}\n" for at, value in pairs)
        file.write("# EOF\n")
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"],
        check=True, capture_output=True, timeout=120,
    )
    (folder / "prometheus.yml").write_text("global: {}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=90d"],
            stdout=log, stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for _ in range(200):
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/-/ready").status_code == 200:
                        break
                time.sleep(0.1)
            yield client
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def demo(history):
    return Api(history[0], lambda: NOW, series=history[1])


def both(real, demo, path, method="GET", **parameters):
    words = {name: str(value) for name, value in parameters.items()}
    theirs = real.get(path, params=words) if method == "GET" else real.request(method, path, data=words)
    ours = demo.answer(method, path, {name: [value] for name, value in words.items()})
    return theirs, ours


def points(result):
    return {tuple(sorted(one["metric"].items())): one["values"] for one in result["data"]["result"]}


EMPTY = {"stddev(count by (le) (http_request_duration_seconds_bucket)) > 0"}  # all of the shop's histograms are alike

SPEAKS = (*PUBLISHED, "sum by (service, le) (increase(http_request_duration_seconds_bucket[5m]))", *(
    f"{name}(process_resident_memory_bytes{{service='search'}}[7m])"
    for name in ("count_over_time", "sum_over_time", "avg_over_time", "min_over_time", "max_over_time", "last_over_time")
), *(f"{name} without (le, instance) (rate(http_request_duration_seconds_bucket[11m]))" for name in ("sum", "avg", "min", "max", "count", "stddev")),
    *(f"process_resident_memory_bytes {operator} 4e8" for operator in (">", ">=", "<", "<=", "!=")),
    "up{service='catalog'} == 1",
    "stddev by (service) (count by (code, service) (http_requests_total > 3e5)) >= 0",
    'sum by (service) (increase(http_requests_total{code=~"5..", service!="catalog"}[5m]))',
    "sum(increase(http_requests_total{code!~'4.*'}[17m])) by (code)",
)


@pytest.mark.parametrize("step", [300, 60, 97])
@pytest.mark.parametrize("query", SPEAKS)
def test_both_servers_give_the_same_numbers_at_the_same_times(real, history, query, step):
    company, series, keep = history
    demo = Api(company, lambda: NOW, published=(query,), series=series)
    compared = 0
    for low, high in keep:
        start, end = low - 10 * MINUTE, high + 10 * MINUTE
        asked = {"query": query, "start": start / 1000 + (0 if step != 97 else 13.5), "end": end / 1000, "step": step}
        theirs, ours = both(real, demo, "/api/v1/query_range", **asked)
        assert theirs.status_code == ours.status == 200, theirs.text
        expected, found = points(theirs.json()), points(httpx.Response(200, content=ours.body).json())
        assert list(found) == list(expected)
        for labels, values in expected.items():
            assert [at for at, _ in found[labels]] == [at for at, _ in values], labels
            there, here = (np.array([float(value) for _, value in one]) for one in (values, found[labels]))
            np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-9, err_msg=str(labels))
            compared += len(there)
            assert all(re.fullmatch(r"-?\d+(\.\d+)?", value) for _, value in found[labels])
    assert compared > 300 or (query in EMPTY and not compared)


@pytest.mark.parametrize("query", PUBLISHED)
def test_both_servers_give_the_same_vector_at_one_instant(real, demo, history, query):
    at = (history[2][0][0] + 90 * MINUTE) / 1000 + 7
    theirs, ours = both(real, demo, "/api/v1/query", query=query, time=at)
    expected = {tuple(sorted(one["metric"].items())): one["value"] for one in theirs.json()["data"]["result"]}
    answer = httpx.Response(200, content=ours.body).json()["data"]
    assert answer["resultType"] == "vector"
    found = {tuple(sorted(one["metric"].items())): one["value"] for one in answer["result"]}
    assert found.keys() == expected.keys()
    for labels, (when, value) in expected.items():
        assert found[labels][0] == when
        assert float(found[labels][1]) == pytest.approx(float(value), rel=1e-6)


WRONG = (
    {}, {"query": "up"}, {"query": "up", "start": 1}, {"query": "up", "start": 10, "end": 1, "step": 1},
    {"query": "up", "start": 1, "end": 10}, {"query": "up", "start": 1, "end": 10, "step": 0},
    {"query": "up", "start": 1, "end": 10, "step": "x"}, {"query": "up", "start": "x", "end": 10, "step": 1},
    {"query": "up", "start": 1, "end": 1 + 11_001 * 60, "step": 60}, {"start": 1, "end": 10, "step": 1},
    {"query": "up", "start": 1, "end": 10, "step": 1, "timeout": "x"},
    {"query": "sum(up", "start": 1, "end": 10, "step": 1}, {"query": "foo(up)", "start": 1, "end": 10, "step": 1},
    {"query": "rate(up)", "start": 1, "end": 10, "step": 1}, {"query": "up[5m]", "start": 1, "end": 10, "step": 1},
)


@pytest.mark.parametrize("parameters", WRONG)
def test_both_servers_refuse_a_bad_range_query_in_the_same_words(real, demo, parameters):
    theirs, ours = both(real, demo, "/api/v1/query_range", **parameters)
    assert theirs.status_code == ours.status == 400
    assert httpx.Response(400, content=ours.body).json() == theirs.json()


@pytest.mark.parametrize("method, path, parameters", [
    ("GET", "/api/v1/query", {}), ("GET", "/api/v1/query", {"query": "sum(up"}),
    ("GET", "/api/v1/query", {"query": "up", "time": "x"}), ("GET", "/api/v1/query", {"query": "1", "time": "7.5"}),
    ("POST", "/api/v1/query", {"query": "2.50", "time": "7"}), ("GET", "/api/v1/query", {"query": "time()", "time": "7.25"}), ("GET", "/api/v1/series", {}),
    ("GET", "/api/v1/label/a-b/values", {}), ("GET", "/api/v1/nothing", {}), ("GET", "/nothing", {}),
    ("PUT", "/api/v1/query", {"query": "up"}), ("POST", "/api/v1/label/service/values", {}),
    ("GET", "/-/healthy", {}), ("GET", "/-/ready", {}),
    ("GET", "/api/v1/query_range", {"query": "2", "start": "1", "end": "2.5", "step": "0.5"}),
])
def test_both_servers_give_the_same_answer(real, demo, method, path, parameters):
    theirs, ours = both(real, demo, path, method, **parameters)
    assert (ours.status, ours.content) == (theirs.status_code, theirs.headers["content-type"])
    if "json" in ours.content:
        assert httpx.Response(200, content=ours.body).json() == theirs.json()
    else:
        assert ours.body.strip() == theirs.content.strip()


@pytest.mark.parametrize("path", ["/api/v1/labels", "/api/v1/label/service/values", "/api/v1/label/__name__/values",
                                  "/api/v1/series"])
def test_both_servers_list_the_same(real, demo, path):
    span = {"start": (NOW - 60 * DAY) / 1000, "end": NOW / 1000}
    if path.endswith("series"):
        span["match[]"] = '{service="search"}'
    theirs, ours = both(real, demo, path, **span)
    assert httpx.Response(200, content=ours.body).json() == theirs.json()


@pytest.mark.parametrize("path", ["/api/v1/status/buildinfo", "/api/v1/status/runtimeinfo", "/api/v1/targets"])
def test_both_servers_describe_themselves_with_the_same_keys(real, demo, path):
    theirs, ours = both(real, demo, path)
    assert httpx.Response(200, content=ours.body).json()["data"].keys() == theirs.json()["data"].keys()
