"""
What goes wrong between the connector and its server: one clear sentence, the right hint, whether to try again.

Servers here are real sockets. The token is looked for in everything that leaves the connector.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError
from werkzeug import Request, Response

from connectors.prometheus import Prometheus
from harvester.errors import ConnectorError
from harvester.readings import MINUTE, Subject, Window

START = 1_767_571_200_000
WINDOW = Window.of(START, START + 10 * MINUTE)
TOKEN = "s3cr3t-t0k3n-that-must-not-leak"
LEVEL = {"name": "load", "shape": "level", "unit": "1", "query": "load"}


def prometheus(url: str, **options) -> Prometheus:
    options.setdefault("metrics", (LEVEL,))
    return Prometheus(source="prom", url=url.rstrip("/"), **options)


def failure(connector: Prometheus, window: Window = WINDOW) -> ConnectorError:
    with pytest.raises(ConnectorError) as caught:
        list(connector.collect(window, {}))
    return caught.value


def answer(request: Request, value="1", **more) -> Response:
    """A matrix of one series on the asked grid; status pages are empty."""
    if request.path != "/api/v1/query_range":
        return Response(json.dumps({"status": "success", "data": {} if "status" in request.path else []}), content_type="application/json")
    start, end, step = (float(request.form[name]) for name in ("start", "end", "step"))
    values = [[start + step * index, value] for index in range(int((end - start) // step) + 1)]
    data = {"resultType": "matrix", "result": [{"metric": {"job": "a"}, "values": values}]}
    return Response(json.dumps({"status": "success", "data": data, **more}), content_type="application/json")


def serve(httpserver, *handlers):
    """Answer range queries by one handler after the other, the last one for ever; returns the requests."""
    seen: list[Request] = []
    left = list(handlers)

    def handle(request: Request) -> Response:
        if request.path.endswith("/api/v1/query_range"):
            seen.append(request)
            return left.pop(0)(request) if len(left) > 1 else left[0](request)
        return answer(request)

    httpserver.expect_request(re.compile("/.*")).respond_with_handler(handle)
    return seen


@pytest.fixture
def sleeps(monkeypatch) -> list[float]:
    """Waits are noted, not waited."""
    waited: list[float] = []
    monkeypatch.setattr("connectors.prometheus.client.time.sleep", waited.append)
    return waited


@contextmanager
def raw_server(speak):
    """A socket whose every connection is given to ``speak``, after its request was read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        count = [0]

        def run():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    count[0] += 1
                    speak(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", count
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def refused(status: int, body: str = "", content: str = "text/plain", **headers):
    return lambda _: Response(body, status, headers=headers, content_type=content)


def error_body(kind: str, text: str) -> str:
    return json.dumps({"status": "error", "errorType": kind, "error": text})


# -- the network ------------------------------------------------------------------------------------------------------


def test_a_source_that_is_down_says_so_at_once_and_may_be_tried_again(sleeps):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = failure(prometheus(url))
    assert re.fullmatch(r"connect to prom(, metric load)?: 127.0.0.1:\d+: Connection refused \(is the server running, and is url right\?\)", str(error))
    assert error.retry
    assert not sleeps


def test_a_host_that_does_not_exist_is_named():
    error = failure(prometheus("http://no-such-host.invalid:9090"))
    assert "no-such-host.invalid:9090" in str(error)
    assert error.hint == "is the server running, and is url right?"
    assert error.retry


def test_a_reset_connection_is_tried_again_and_then_said(sleeps):
    def reset(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(reset) as (url, count):
        error = failure(prometheus(url))
    assert re.search("Connection reset by peer|it closed the connection without an answer", str(error))
    assert error.retry
    assert count[0] == 4
    assert sleeps == [0.5, 1, 2]


def test_a_slow_answer_ends_at_the_timeout():
    with raw_server(lambda connection: time.sleep(2)) as (url, _):
        began = time.monotonic()
        error = failure(prometheus(url, timeout="0.5s"))
        assert time.monotonic() - began < 1.5
    assert re.search(r"no answer from 127.0.0.1:\d+ within 0.5 s \(raise timeout, or lower max_points\)$", str(error))
    assert error.retry


def test_an_answer_that_stops_halfway_ends_at_the_timeout():
    def stall(connection):
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"status":"success",')
        time.sleep(2)

    with raw_server(stall) as (url, _):
        assert "within 0.5 s" in str(failure(prometheus(url, timeout="0.5s")))


def test_a_truncated_answer_is_asked_again(httpserver, sleeps):
    def cut(request):
        whole = answer(request)
        return Response(whole.get_data()[:-40], content_type="application/json")

    seen = serve(httpserver, cut, cut, answer)
    [batch] = prometheus(httpserver.url_for("")).collect(WINDOW, {})
    assert len(batch.readings[0]) == 10
    assert len(seen) == 3
    assert sleeps == [0.5, 1]


def test_an_answer_that_is_always_truncated_gives_nothing_and_says_so(httpserver, sleeps):
    serve(httpserver, lambda request: Response(answer(request).get_data()[:-40], content_type="application/json"))
    error = failure(prometheus(httpserver.url_for("")))
    assert re.search(r"the answer breaks off or is damaged after [\d,]+ bytes \(is a proxy cutting it short\?\)", str(error))
    assert error.retry


def test_an_answer_shorter_than_its_length_is_asked_again(sleeps):
    def short(connection):
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"status":"success"')

    with raw_server(short) as (url, count):
        error = failure(prometheus(url))
    assert "broke it off" in str(error) or "breaks off" in str(error)
    assert error.retry
    assert count[0] == 4


# -- statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token_is_refused_once_and_the_token_shown_nowhere(httpserver, monkeypatch, caplog, status):
    monkeypatch.setenv("PROM_TOKEN", TOKEN)
    seen = serve(httpserver, refused(status, f"bad token {TOKEN}"))
    with caplog.at_level(logging.DEBUG):
        error = failure(prometheus(httpserver.url_for(""), token_env="PROM_TOKEN"))
    assert f"answers {status}" in str(error)
    assert error.hint == "is the token or password right, and may it read this server?"
    assert not error.retry
    assert len(seen) == 1
    assert seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in str(error) + repr(error) + caplog.text


def test_a_server_that_wants_credentials_where_none_are_set_gets_another_hint(httpserver):
    serve(httpserver, refused(401))
    assert failure(prometheus(httpserver.url_for(""))).hint.startswith("this server wants credentials: set token_env")


@pytest.mark.parametrize("status", [200, 400, 422, 500])
def test_a_token_that_the_server_repeats_is_masked(httpserver, monkeypatch, sleeps, status):
    monkeypatch.setenv("PROM_TOKEN", TOKEN)
    serve(httpserver, refused(status, error_body("bad_data", f"no tenant for Bearer {TOKEN}"), "application/json"))
    error = failure(prometheus(httpserver.url_for(""), token_env="PROM_TOKEN"))
    assert "no tenant for Bearer ***" in str(error)
    assert TOKEN not in str(error) + repr(error.__cause__)


def test_a_token_in_a_warning_is_masked_too(httpserver, monkeypatch):
    monkeypatch.setenv("PROM_TOKEN", TOKEN)
    serve(httpserver, lambda request: answer(request, warnings=[f"sent {TOKEN}"]))
    notes = [note for batch in prometheus(httpserver.url_for(""), token_env="PROM_TOKEN").collect(WINDOW, {}) for note in batch.notes]
    assert "sent ***" in notes[0]


def test_basic_credentials_are_sent_and_masked(httpserver, monkeypatch):
    monkeypatch.setenv("PROM_PASSWORD", TOKEN)
    seen = serve(httpserver, lambda request: Response(error_body("bad_data", request.headers["Authorization"]), 400))
    error = failure(prometheus(httpserver.url_for(""), username="me", password_env="PROM_PASSWORD"))
    assert seen[0].authorization.password == TOKEN
    assert str(error).startswith("query prom, metric load: bad_data: Basic ***")


def test_a_token_that_is_not_set_is_an_error_before_any_request(httpserver):
    seen = serve(httpserver, answer)
    error = failure(prometheus(httpserver.url_for(""), token_env="NO_SUCH_TOKEN"))
    assert "NO_SUCH_TOKEN is not set" in str(error)
    assert not seen


def test_a_wrong_path_says_which_and_hints_at_the_prefix(httpserver):
    serve(httpserver, refused(404, "404 page not found\n"))
    error = failure(prometheus(httpserver.url_for("/graph")))
    assert f"404: there is no /api/v1/query_range at {httpserver.url_for('/graph')}" in str(error)
    assert "/select/0/prometheus" in error.hint
    assert not error.retry


def test_html_instead_of_json_is_said_to_be_html(httpserver):
    serve(httpserver, refused(200, "<!DOCTYPE html><title>Sign in</title>", "text/html"))
    error = failure(prometheus(httpserver.url_for("")))
    assert re.search(r"localhost:\d+ is no Prometheus API: it answered with HTML, not JSON", str(error))
    assert "A login page or a proxy may answer" in error.hint
    assert not error.retry


@pytest.mark.parametrize("body, said", [
    ("", "the answer is empty"),
    ("ok", "something other than JSON"),
    ("[]", "not a Prometheus answer"),
    ('{"status":"success","data":{"resultType":"vector","result":[]}}', "not the answer of a range query"),
    ('{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1767571260,"x"]]}]}}', "could not convert"),
    ('{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[2,"1"],[1,"1"]]}]}}', "not in order of time"),
    ('{"status":"success","data":{"resultType":"matrix","result":[{"values":[[1,"1"]]}]}}', "a series of it has no 'metric'"),
    ('{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1]]}]}}', "a series of it has no"),
])
def test_a_body_that_is_no_range_answer_is_never_taken_for_one(httpserver, sleeps, body, said):
    serve(httpserver, refused(200, body, "application/json"))
    assert said in str(failure(prometheus(httpserver.url_for(""))))


def test_a_typo_in_promql_gives_the_servers_own_words(httpserver):
    seen = serve(httpserver, refused(400, error_body("bad_data", "1:5: parse error: unclosed left parenthesis"), "application/json"))
    error = failure(prometheus(httpserver.url_for("")))
    assert str(error) == (
        "query prom, metric load: bad_data: 1:5: parse error: unclosed left parenthesis (mend the query in the settings)"
    )
    assert not error.retry
    assert len(seen) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_tried_again_where_that_helps_and_says_its_status(httpserver, sleeps, status):
    seen = serve(httpserver, refused(status, "<html>Bad gateway</html>", "text/html"))
    error = failure(prometheus(httpserver.url_for("")))
    assert f"answers {status}" in str(error)
    assert error.retry
    assert len(seen) == (1 if status == 500 else 4)


def test_a_server_that_recovers_gives_all_readings(httpserver, sleeps):
    serve(httpserver, refused(503), refused(502), answer)
    [batch] = prometheus(httpserver.url_for("")).collect(WINDOW, {})
    assert len(batch.readings[0]) == 10


def test_429_waits_as_long_as_it_is_told(httpserver, sleeps):
    serve(httpserver, refused(429, **{"Retry-After": "7"}), answer)
    list(prometheus(httpserver.url_for("")).collect(WINDOW, {}))
    assert sleeps == [7.0]


def test_429_without_a_time_waits_longer_each_time_and_then_gives_up(httpserver, sleeps):
    serve(httpserver, refused(429))
    error = failure(prometheus(httpserver.url_for("")))
    assert "answers 429" in str(error)
    assert error.retry
    assert sleeps == [0.5, 1, 2]


def test_a_long_wait_is_kept_for_the_next_collections_and_not_slept(httpserver, sleeps):
    seen = serve(httpserver, refused(429, **{"Retry-After": "600"}), answer)
    connector, state, error = prometheus(httpserver.url_for("")), {}, None
    try:
        for batch in connector.collect(WINDOW, state):
            state = batch.state or state
    except ConnectorError as e:
        error = e
    assert error is not None
    assert error.retry
    assert "wait 600 s" in str(error)
    assert not sleeps
    early = Window.of(START, WINDOW.end + 5 * MINUTE)
    with pytest.raises(ConnectorError, match="left alone until 2026-01-05 00:20 UTC"):
        list(connector.collect(early, state))
    assert len(seen) == 1
    later = list(connector.collect(Window.of(START, WINDOW.end + 11 * MINUTE), state))
    assert later[0].readings


def test_what_came_before_a_failure_is_kept(httpserver, sleeps):
    serve(httpserver, answer, answer, refused(502))
    connector = prometheus(httpserver.url_for(""), max_points=10)
    batches = []
    with pytest.raises(ConnectorError, match="answers 502"):
        batches.extend(connector.collect(Window.of(START, START + 60 * MINUTE), {}))
    assert [len(batch.readings[0]) for batch in batches] == [7, 7]
    assert batches[0].readings[0].at[-1] == START + 59 * MINUTE, "the newest were read first"


# -- redirects, TLS, proxies ------------------------------------------------------------------------------------------


def test_credentials_never_follow_a_redirect_to_another_host(httpserver, monkeypatch):
    monkeypatch.setenv("PROM_TOKEN", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as thief:
        thief.settimeout(0.3)
        elsewhere = f"http://127.0.0.1:{thief.getsockname()[1]}/login"
        serve(httpserver, refused(302, Location=elsewhere))
        error = failure(prometheus(httpserver.url_for(""), token_env="PROM_TOKEN"))
        with pytest.raises(TimeoutError):
            thief.accept()
    assert f"redirects to {urlsplit(elsewhere).netloc}" in str(error)
    assert "credentials are not sent to another host" in error.hint


def test_a_redirect_on_the_same_host_is_followed_with_the_query(httpserver):
    def move(request):
        return Response("", 307, headers={"Location": "/prometheus/api/v1/query_range"})

    httpserver.expect_request("/api/v1/query_range").respond_with_handler(move)
    httpserver.expect_request("/prometheus/api/v1/query_range").respond_with_handler(
        lambda request: answer_at(request, "/api/v1/query_range")
    )
    [batch] = prometheus(httpserver.url_for("")).collect(WINDOW, {})
    assert len(batch.readings[0]) == 10


def answer_at(request, path):
    request.path = path
    return answer(request)


def test_a_circle_of_redirects_ends(httpserver):
    serve(httpserver, refused(302, Location="/api/v1/query_range"))
    assert "redirects in a circle" in str(failure(prometheus(httpserver.url_for(""))))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A private authority with a certificate for localhost, and one for a client, made by openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: TLS with a private authority is not tried")
    folder = tmp_path_factory.mktemp("authority")

    def run(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Private", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san", "-out", f"{name}.pem")
    return folder


@contextmanager
def tls_server(authority, *, mutual=False):
    from pytest_httpserver import HTTPServer

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority / "ca.pem")
    server = HTTPServer(host="localhost", ssl_context=context)
    server.start()
    try:
        serve(server, answer)
        yield server.url_for("")
    finally:
        server.stop()


def test_a_private_authority_is_not_trusted_unless_it_is_named(authority):
    with tls_server(authority) as url:
        error = failure(prometheus(url))
        assert "its certificate is not trusted" in str(error)
        assert error.hint == "a private authority is trusted by ca_file"
        assert not error.retry
        [batch] = prometheus(url, ca_file=authority / "ca.pem").collect(WINDOW, {})
        assert len(batch.readings[0]) == 10


def test_a_client_certificate_opens_a_server_that_wants_one(authority):
    with tls_server(authority, mutual=True) as url:
        assert failure(prometheus(url, ca_file=authority / "ca.pem"))
        pair = {"certificate_file": authority / "client.pem", "key_file": authority / "client.key"}
        [batch] = prometheus(url, ca_file=authority / "ca.pem", **pair).collect(WINDOW, {})
        assert len(batch.readings[0]) == 10


@pytest.mark.parametrize("options, said", [
    ({"ca_file": "absent.pem"}, "absent.pem: No such file or directory (is ca_file right?)"),
    ({"ca_file": "san"}, "it holds no certificate"),
    ({"certificate_file": "client.pem", "key_file": "server.key"}, "no certificate with its unencrypted key"),
])
def test_certificate_files_that_are_none_are_named(authority, options, said):
    given = {name: authority / value for name, value in options.items()}
    assert said in str(failure(prometheus("https://localhost:1", **given)))


def test_a_proxy_that_is_down_is_said_without_its_password():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = failure(prometheus("http://prometheus.example:9090", proxy=f"http://user:{TOKEN}@127.0.0.1:{port}"))
    assert str(error).startswith("connect to prom, metric load: the proxy does not let us through to prometheus.example:9090")
    assert TOKEN not in str(error) + repr(error.__cause__)


def test_a_proxy_is_used(httpserver):
    seen = serve(httpserver, answer)
    [batch] = prometheus("http://prometheus.example:9090", proxy=httpserver.url_for("").rstrip("/")).collect(WINDOW, {})
    assert len(batch.readings[0]) == 10
    assert seen[0].host == "prometheus.example:9090"


# -- politeness -------------------------------------------------------------------------------------------------------


def test_headers_and_params_are_sent_with_each_query(httpserver):
    seen = serve(httpserver, answer)
    connector = prometheus(httpserver.url_for(""), headers={"X-Scope-OrgID": "acme"}, params={"partial_response": "false"})
    list(connector.collect(WINDOW, {}))
    assert seen[0].headers["X-Scope-OrgID"] == "acme"
    assert seen[0].form["partial_response"] == "false"
    assert seen[0].headers["Accept-Encoding"] == "identity"
    assert seen[0].form["timeout"] == "27s"


def test_no_more_queries_than_allowed_are_under_way_at_once(authority):
    under_way, most, lock = [0], [0], threading.Lock()

    def handle(request):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1
        return answer(request)

    from pytest_httpserver import HTTPServer

    server = HTTPServer(threaded=True)
    server.start()
    try:
        serve(server, handle)
        metric = {"name": "lost", "shape": "count", "counter": "lost_total", "proof": "up"}
        list(prometheus(server.url_for(""), metrics=(metric,)).collect(WINDOW, {}))
    finally:
        server.stop()
    assert most[0] == 2


def test_a_slice_the_server_finds_too_large_is_halved(httpserver):
    def limited(request):
        if float(request.form["end"]) - float(request.form["start"]) > 100 * 60:
            return Response(error_body("bad_data", "the total query time range exceeds the limit (err-mimir-max-total-query-length)"), 400)
        return answer(request)

    serve(httpserver, limited)
    window = Window.of(START, START + 180 * MINUTE)
    batches = list(prometheus(httpserver.url_for("")).collect(window, {}))
    assert sum(len(batch.readings[0]) for batch in batches) == 180
    covered = Window()
    for batch in batches:
        covered |= batch.coverage[0].window
    assert covered == window


def test_a_slice_that_stays_too_large_is_refused_and_not_halved_for_ever(httpserver):
    seen = serve(httpserver, refused(422, error_body("execution", "query processing would load too many samples into memory"), "application/json"))
    error = failure(prometheus(httpserver.url_for("")), Window.of(START, START + 1000 * MINUTE))
    assert "too many samples" in str(error)
    assert error.hint == "lower max_points, or ask for less"
    assert len(seen) < 10


def test_a_query_of_too_many_series_is_refused(httpserver):
    def many(request):
        at = request.form["start"]
        series = ",".join(f'{{"metric":{{"pod":"{index}"}},"values":[[{at},"1"]]}}' for index in range(60))
        return Response(f'{{"status":"success","data":{{"resultType":"matrix","result":[{series}]}}}}', content_type="application/json")

    serve(httpserver, many)
    assert sum(len(batch.readings) for batch in prometheus(httpserver.url_for(""), max_series=60).collect(WINDOW, {})) == 60
    error = failure(prometheus(httpserver.url_for(""), max_series=59))
    assert str(error) == "query prom, metric load: it yields more than 59 series (aggregate, or raise max_series if so many are wanted)"


def test_why_a_metric_is_silent_is_looked_up_once_a_day(httpserver):
    looked: list[str] = []

    def handle(request):
        if "label" in request.path:
            looked.append(request.path)
            return Response(json.dumps({"status": "success", "data": ["loads", "up"]}), content_type="application/json")
        if request.path == "/api/v1/query_range":
            return Response('{"status":"success","data":{"resultType":"matrix","result":[]}}', content_type="application/json")
        return answer(request)

    httpserver.expect_request(re.compile("/.*")).respond_with_handler(handle)
    connector, state, said = prometheus(httpserver.url_for("")), {}, []
    for minutes in (10, 15, 20, 10 + 24 * 60):
        notes = []
        for batch in connector.collect(Window.of(START + (minutes - 10) * MINUTE, START + minutes * MINUTE), state):
            notes += batch.notes
            state = batch.state or state
        said.append(notes)
    assert said[0] == ["load: load found nothing: the server knows no metric load; near it: loads"]
    assert said[0] == said[1] == said[2] == said[3]
    assert len(looked) == 2


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, said", [
    ({"metrics": ()}, "at least 1 item"),
    ({"metrics": (LEVEL, LEVEL)}, "two metrics are named load; rename one"),
    ({"metrics": ({"name": "x", "shape": "level", "unit": "1"},)}, "a level needs query"),
    ({"metrics": ({**LEVEL, "counter": "x"},)}, "a level has no counter; it takes query"),
    ({"metrics": ({"name": "x", "shape": "level", "query": "x"},)}, "a level needs a unit"),
    ({"metrics": ({**LEVEL, "by": ("a",)},)}, "by is for sums of counters"),
    ({"metrics": ({"name": "x", "shape": "count", "counter": "sum(x)"},)}, "must be an increase over $step itself"),
    ({"metrics": ({"name": "x", "shape": "ratio", "numerator": "x"},)}, "a ratio needs numerator and denominator"),
    ({"metrics": ({**LEVEL, "statistics": ("p99",)},)}, "has no statistic p99"),
    ({"metrics": ({**LEVEL, "kwery": "x"},)}, "Extra inputs are not permitted"),
    ({"headers": {"authorization": "Bearer x"}}, "headers holds a credential"),
    ({"username": "me"}, "username and password_env go together"),
    ({"username": "me", "password_env": "P", "token_env": "T"}, "a token or a username, not both"),
    ({"certificate_file": "a.pem"}, "certificate_file and key_file go together"),
    ({"max_points": 5}, "greater than or equal to 10"),
    ({"concurrency": 100}, "less than or equal to 16"),
])
def test_settings_that_fit_nothing_are_refused_before_any_request(options, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        prometheus("http://localhost:9090", **options)


def test_never_less_than_three_steps_are_asked_again():
    hourly = prometheus("http://localhost:9090", metrics=({**LEVEL, "step_seconds": 3600},))
    assert hourly.asked_again.total_seconds() == 3 * 3600
    assert prometheus("http://localhost:9090", metrics=(LEVEL,), overlap="5h").asked_again.total_seconds() == 5 * 3600


def test_a_plan_names_each_query_once_with_its_requests_and_points():
    proof = {"shape": "count", "proof": "up{$selector}"}
    metrics = (LEVEL, {"name": "a", "counter": "a_total{$selector}", **proof}, {"name": "b", "counter": "b_total{$selector}", **proof})
    connector = prometheus("http://localhost:9090", metrics=metrics, subjects=(Subject("s", (("service", "s"),)),), max_points=1000)
    planned = connector.plan(Window.of(START, START + 24 * 60 * MINUTE))
    assert [(one.metric, one.requests, one.points) for one in planned[:2]] == [("load", 2, 1440), ("a", 2, 1440 + 2 * 2)]
    queries = [one.query for one in planned]
    assert len(queries) == len(set(queries)) == 1 + 4 + 3
    assert sum(one.requests for one in planned) == 16
    assert planned[1].labels == (("service", "s"),)


@pytest.mark.parametrize("data", [[], {}, None, "x", {"resultType": "vector"}])
def test_check_never_raises_whatever_a_server_answers(httpserver, data):
    httpserver.expect_request(re.compile("/.*")).respond_with_json({"status": "success", "data": data})
    health = prometheus(httpserver.url_for("")).check()
    assert not health.ok
    [failed] = [finding for finding in health.findings if finding.level == "failed"]
    assert "is no Prometheus API: it is JSON, but not the answer of a query" in failed.text
