"""The tour: the real command line over the made-up company, beginning to end, on loopback alone."""

import contextlib
import io
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harvester.cli import main
from harvester.collect import collect
from harvester.demo import prometheus
from harvester.demo.company import Company, Truth, slow_log
from harvester.demo.tour import CHANGES, OWN, SEED, SETTINGS, Guide, concerns, confront, echo, tour
from harvester.differ.result import CLAIMS, Comparison, Effect, Mode, Side, Verdict
from harvester.errors import UsageError
from harvester.impact import compare, parse_expectation
from harvester.readings import DAY, MINUTE, to_datetime, to_milliseconds
from harvester.settings import load
from harvester.store import Store

NOW = datetime(2026, 11, 24, 17, 13, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """One whole tour: what it printed, what it asked and whom it called."""
    folder = tmp_path_factory.mktemp("tour") / "acme"
    asked, hosts = [], set()
    answer, connect = prometheus.Api.answer, socket.socket.connect

    def listening(self, method, path, parameters):
        found = answer(self, method, path, parameters)
        asked.append((path, tuple(parameters.get("query", ())), found.status))
        return found

    def connecting(self, address):
        hosts.add(address[0] if isinstance(address, tuple) else address)
        return connect(self, address)

    out, err = io.StringIO(), io.StringIO()
    surroundings = {"HARVESTER_STORE__URL": f"sqlite:///{folder}-mine.db", "http_proxy": "http://127.0.0.1:9"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prometheus.Api, "answer", listening)
        patch.setattr(socket.socket, "connect", connecting)
        for name, value in surroundings.items():
            patch.setenv(name, value)
        code = tour(out, err, now=lambda: NOW, harvest=main, folder=folder)
        kept = {name: os.environ.get(name) for name in (*surroundings, "HARVESTER_CONFIG")}
    return {
        "code": code, "text": out.getvalue(), "talk": err.getvalue(), "folder": folder, "asked": asked, "hosts": hosts,
        "kept": kept, "surroundings": surroundings,
    }


def after(text, command):
    """What was printed between a command and the next blank line that another paragraph follows."""
    return text.split(f"$ harvest {command}", 1)[1].split("\n$ harvest", 1)[0]


def test_the_tour_makes_one_claim_and_refuses_two_with_their_reasons(told):
    assert told["code"] == 0, told["talk"]
    assert re.search(r"expected beforehand:\n  improved   checkout latency p95", after(told["text"], "diff checkout-index"))
    search = after(told["text"], "diff search-cache")
    assert re.search(r"refused    search latency p95\n +only \d\d % of the after window is proven complete", search)
    catalog = after(told["text"], "diff catalog-retries")
    assert re.search(r"refused    catalog error_ratio ratio\n +one day has over half", catalog)
    assert "Added an index on open orders" in after(told["text"], "candidates")


def test_the_truth_stands_beside_what_was_said(told):
    revealed = told["text"].split("What really happened", 1)[1]
    assert re.search(r"checkout latency p95\n  really:    x 0.600\n  harvester: improved, .*: true", revealed)
    assert re.search(r"checkout statement_duration p95\n  really:    x 0.050\n  harvester: improved, .*: true", revealed)
    assert re.search(r"search latency p95\n  really:    no change; search was not scraped.*\n  harvester: refused", revealed)
    assert re.search(r"catalog error_ratio ratio\n  really:    no change; an outage.*\n  harvester: refused", revealed)
    assert "FALSE" not in revealed


def test_the_digest_is_written_where_the_tour_says(told):
    paths = re.findall(r"^/.*\.(?:eml|html)$", told["text"], re.MULTILINE)
    assert len(paths) == 2
    for path in paths:
        assert path.startswith(str(told["folder"]))
        assert Path(path).stat().st_size > 1000


def test_every_query_of_the_tour_is_published_and_answered(told):
    queries = {query for path, query, _ in told["asked"] if path.startswith("/api/v1/query")}
    assert len(queries) == 3 * 6  # three subjects: buckets, their layout, sum, numerator, denominator, rate
    assert {status for *_, status in told["asked"]} == {200}


def test_nothing_but_loopback_is_contacted_whatever_proxy_is_set(told):
    assert told["hosts"] == {"127.0.0.1"}


def test_the_readers_own_settings_and_environment_stay_as_they_are(told):
    assert told["kept"] == {**told["surroundings"], "HARVESTER_CONFIG": None}
    assert not list(told["folder"].parent.glob("acme-mine*"))
    assert (told["folder"] / "harvester.db").exists()


def test_the_command_is_quick_and_keeps_its_files_in_a_folder_it_names(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "harvester.cli", "demo"], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("harvester-demo-*")
    assert str(folder) in done.stdout
    assert {"harvester.toml", "harvester.db", "postgresql.log"} <= {one.name for one in folder.iterdir()}
    # Processor time: a busy machine does not stretch it.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 25


def test_its_own_lines_fit_a_terminal_of_80_columns(told):
    parts = re.split(r"^(?=\$ harvest |== )", told["text"], flags=re.MULTILINE)
    lines = [line for part in parts if not part.startswith("$ harvest") for line in part.splitlines()]
    assert len(lines) > 40
    assert [line for line in lines if len(line) > 80 and str(told["folder"]) not in line] == []


def test_check_finds_every_query_of_its_settings_answered(told, tmp_path):
    company = Company(SEED, to_milliseconds(datetime.now(UTC)))
    (tmp_path / "postgresql.log").write_text("".join(text for at, text in slow_log(company) if at <= company.now))
    with prometheus.serve(company) as url:
        (tmp_path / "harvester.toml").write_text(SETTINGS.format(folder=tmp_path, url=url))
        out = io.StringIO()
        code = main(["check", "--json", "--config", str(tmp_path / "harvester.toml")], out=out)
    findings = [one for source in json.loads(out.getvalue())["data"]["sources"] for one in source["findings"]]
    assert code == 0
    assert {one["level"] for one in findings} == {"ok"}, findings
    assert sum("answers" in one["text"] for one in findings) == 9


def test_the_settings_shown_for_a_prometheus_of_ones_own_are_valid(tmp_path):
    (tmp_path / "harvester.toml").write_text(OWN)
    settings = load(tmp_path / "harvester.toml")
    assert list(settings.connectors) == ["prom"]
    assert str(parse_expectation("checkout latency p95 lower", settings, 0)) == "checkout latency p95 lower"


# -- leaving early ----------------------------------------------------------------------------------------------------


def stopping(code, seen):
    def harvest(argv, *, out, err, now):
        seen.append((argv, os.environ["HARVESTER_CONFIG"]))
        if isinstance(code, type):
            raise code
        return code

    return harvest


def url_in(folder):
    return re.search(r'url = "http://127.0.0.1:(\d+)"', (folder / "harvester.toml").read_text())[1]


@pytest.mark.parametrize("code, ends", [(130, 130), (1, 1), (2, 1), (4, 1), (KeyboardInterrupt, KeyboardInterrupt)])
def test_a_command_that_fails_or_is_interrupted_ends_the_tour_and_the_server(tmp_path, monkeypatch, code, ends):
    monkeypatch.setenv("HARVESTER_CONFIG", "/mine.toml")
    seen, err = [], io.StringIO()
    folder = tmp_path / "acme"

    def run():
        return tour(io.StringIO(), err, now=lambda: NOW, harvest=stopping(code, seen), folder=folder)

    if ends is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            run()
    else:
        assert run() == ends
    assert seen == [(["collect"], str(folder / "harvester.toml"))]
    assert bool(err.getvalue()) == (ends == 1)
    assert os.environ["HARVESTER_CONFIG"] == "/mine.toml"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url_in(folder))), timeout=5)


def test_control_c_ends_the_process_with_130_and_without_a_traceback(tmp_path):
    words = [sys.executable, "-m", "harvester.cli", "demo", "--keep", str(tmp_path / "acme")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("$ harvest collect"):
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "interrupted" in talk
    # Python itself tells of one that arrived while an object was being deleted.
    assert "Traceback" not in re.sub(r"Exception ignored in: .*?KeyboardInterrupt: *\n", "", talk, flags=re.DOTALL)


@pytest.mark.parametrize("code", [0, 1, 4])
def test_an_interruption_that_a_command_swallows_ends_the_tour_all_the_same(tmp_path, code):
    seen = []

    def harvest(argv, *, out, err, now):
        seen.append(argv)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return code

    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tour(io.StringIO(), io.StringIO(), now=lambda: NOW, harvest=harvest, folder=tmp_path / "acme")
    assert seen == [["collect"]]
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="it is not empty"):
        tour(io.StringIO(), io.StringIO(), now=lambda: NOW, harvest=stopping(0, []), folder=tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(UsageError, match="mine"):
        tour(io.StringIO(), io.StringIO(), now=lambda: NOW, harvest=stopping(0, []), folder=tmp_path / "mine" / "acme")


# -- truth ------------------------------------------------------------------------------------------------------------

SIDE = Side(0.5, 1000, 0, DAY, 1.0)
IMPROVED = Comparison(
    "id", "checkout", "latency", (("service", "checkout"),), "prom", "p95", "seconds", "distribution", "lower", SIDE, SIDE,
    Effect(0.61, -0.2, -39.0, 0.56, 0.65), 0.001, Verdict.IMPROVED, Mode.CONFIRMATORY,
)
TRUTH = Truth("checkout-index", "checkout", 0, 0.60, "latency", True)


def test_a_claim_is_true_only_if_something_happened_and_the_interval_holds_it():
    assert confront(IMPROVED, TRUTH)[1]
    for truth in (replace(TRUTH, factor=0.70), replace(TRUTH, factor=0.50), replace(TRUTH, claimable=False)):
        text, true = confront(IMPROVED, truth)
        assert not true
        assert text.endswith("FALSE")
    assert confront(replace(IMPROVED, verdict=Verdict.UNCLEAR), replace(TRUTH, claimable=False))[1]


def test_a_truth_concerns_only_its_own_quantity_and_statement():
    statement = Truth("checkout-index", "checkout", 0, 0.05, "statement duration", True, statement="from orders")
    orders, stock = (
        replace(IMPROVED, metric="statement_duration", labels=(("query", text),))
        for text in ("select id from orders", "update stock")
    )
    assert [concerns(one, TRUTH) for one in (IMPROVED, orders, stock)] == [True, False, False]
    assert [concerns(one, statement) for one in (IMPROVED, orders, stock)] == [False, True, False]
    assert not concerns(replace(IMPROVED, subject="search"), TRUTH)
    assert not concerns(replace(IMPROVED, statistic="p50"), TRUTH)


def test_a_false_claim_is_shown_as_false(tmp_path):
    def harvest(argv, *, out, err, now):
        lying = replace(IMPROVED, effect=Effect(0.9, -0.05, -10.0, 0.85, 0.95))
        print(json.dumps({"data": {"comparisons": [lying.as_json()] if argv[1] == "checkout-index" else []}}), file=out)
        return 0

    out = io.StringIO()
    guide = Guide(out, io.StringIO(), to_milliseconds(NOW), harvest, tmp_path)
    assert not guide.reveal()
    assert "x 0.900, interval x 0.850 to x 0.950: FALSE" in out.getvalue()


@pytest.mark.parametrize("days, hour", [(0, 4), (2, 9), (3, 11), (5, 17), (6, 12)])
def test_on_any_day_at_any_hour_the_truth_is_seen_and_nothing_else_is_claimed(tmp_path, days, hour):
    now = to_milliseconds(datetime(2026, 11, 23, hour, 20, tzinfo=UTC) + timedelta(days=days))
    found = comparisons(Company(SEED, now), tmp_path)
    checkout = {one.statistic: one for one in found if (one.subject, one.metric) == ("checkout", "latency")}
    for statistic in ("p50", "p95", "p99", "mean"):
        assert checkout[statistic].verdict is Verdict.IMPROVED
        assert checkout[statistic].effect.low < 0.60 < checkout[statistic].effect.high
    (statement,) = [one for one in found if "from orders" in dict(one.labels).get("query", "")]
    assert statement.verdict is Verdict.IMPROVED
    assert statement.effect.low < 0.05 < statement.effect.high
    refused = {(one.subject, one.metric, one.statistic): one.caveats[0].code for one in found if one.verdict is Verdict.REFUSED}
    assert refused["search", "latency", "p95"] == "coverage"
    assert refused["catalog", "error_ratio", "ratio"] == "outage"
    (fast,) = [one for one in found if (one.subject, one.metric) == ("checkout", "fast_requests")]
    assert fast.verdict is Verdict.IMPROVED  # what takes 0.6 of the time is within 250 ms more often
    true = {id(checkout[name]) for name in ("p50", "p95", "p99", "mean")} | {id(statement), id(fast)}
    claimed = [one for one in found if one.verdict in CLAIMS and id(one) not in true]
    assert [one.metric for one in claimed] == ["statement_duration_all"]  # the mixture of a statement that did improve


def comparisons(company, folder):
    """What is said of each change, had each baseline been taken just before it was shipped."""
    from harvester.candidates.model import Change

    now = company.now
    begin = now - 57 * DAY
    (folder / "postgresql.log").write_text("".join(text for at, text in slow_log(company) if begin < at <= now))
    found = []
    with prometheus.serve(company, clock=lambda: now) as url:
        text = SETTINGS.format(folder=folder, url=url).replace('"10w"', '"8w"')
        (folder / "harvester.toml").write_text(text)
        settings = load(folder / "harvester.toml")
        with Store.open(settings.store.url) as store:
            for one in settings.connectors.values():
                assert collect(store, one, now=lambda: to_datetime(now)).error is None
            for one in CHANGES:
                at = company.shipped(one.name)
                expect = parse_expectation(one.expect, settings, 0)
                change = Change(one.name, (expect.subject,), at - 30 * MINUTE, at - 28 * DAY, at, shipped=at, expect=(expect,))
                found += compare(store, settings, change, now)
    return found


# -- words ------------------------------------------------------------------------------------------------------------


def test_a_command_is_echoed_as_it_is_typed_with_options_beside_their_values():
    argv = ["baseline", "a" * 48, "--expect", "checkout latency p95 lower", "--title", "it's", "--link", "x" * 40, "--wait"]
    text = echo(argv)
    assert max(map(len, text.splitlines())) <= 80
    assert '    --expect "checkout latency p95 lower"' in text
    shell = text.removeprefix("$ harvest").replace("\\\n", " ")
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {shell}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == argv


def test_the_changes_of_the_tour_are_those_of_the_company_in_their_order():
    told = [one.change for one in Company(SEED, to_milliseconds(NOW)).truth]
    assert list(dict.fromkeys(told)) == [one.name for one in CHANGES]
