"""The connector as a whole: its sample, its definitions, its refusals, and what its check finds."""

from __future__ import annotations

import gzip
import inspect
import os
import shutil
import tempfile
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from slowlog_writing import ALL, START, call, calls, collect, connector, csv_line, stderr_line

import connectors.postgres_slowlog as module
from connectors.postgres_slowlog.messages import shape_of
from harvester.errors import ConnectorError
from harvester.readings import HOUR, Better, Shape, Window, to_milliseconds
from harvester.settings import Settings
from harvester.store.store import Store


def test_the_sample_in_the_documentation_is_loaded_by_the_settings(tmp_path):
    text = inspect.cleandoc(module.__doc__)
    lines = text.split("\n")
    begin = next(index for index, line in enumerate(lines) if line.startswith("    ["))
    end = next(index for index, line in enumerate(lines) if index > begin and line and not line.startswith("    "))
    sample = inspect.cleandoc("\n".join(lines[begin:end]))
    options = tomllib.loads(sample)["sources"]["slowlog"]
    settings = Settings.model_validate(tomllib.loads(sample))
    loaded = settings.connectors["slowlog"]
    assert isinstance(loaded, module.PostgresSlowLog)
    assert loaded.paths == tuple(options["paths"])
    assert loaded.subjects[0].database == "shop"


def test_its_metrics_are_distributions_of_seconds_an_hour_long_with_the_threshold_in_their_definition():
    for one in connector("x").definitions():
        assert (one.shape, one.unit, one.better, one.step_seconds) == (Shape.DISTRIBUTION, "seconds", Better.LOWER, 3600)
        assert (one.family, one.bounds, one.threshold) == ("latency", (), None)
    names = [one.name for one in connector("x").definitions()]
    assert names == ["statement_duration", "statement_duration_all"]
    definitions = {one.definition for ms in (None, 0, 100) for one in connector("x", threshold_ms=ms).definitions()}
    assert len(definitions) == 6


@pytest.mark.parametrize(
    "options, said",
    [
        ({"paths": ()}, "at least 1 item"),
        ({"prefix": "%p "}, "no time"),
        ({"timezone": "Europe/Bonn"}, "is no time zone"),
        ({"timezone": "../etc/passwd"}, "is no time zone"),
        ({"format": "csvlog", "prefix": "%m "}, "prefix is for stderr"),
        ({"threshold_ms": -1}, "greater than or equal to 0"),
        ({"top": 0}, "greater than or equal to 1"),
        ({"formt": "csvlog"}, "formt"),
    ],
)
def test_options_that_cannot_be_right_are_refused_before_anything_is_read(options, said):
    with pytest.raises(ValidationError, match=said):
        module.PostgresSlowLog(**{"source": "log", "paths": ("x",), **options})


def failure(*paths, **options) -> ConnectorError:
    with pytest.raises(ConnectorError) as raised:
        list(connector(*paths, **options).collect(ALL, {}))
    assert raised.value.hint
    return raised.value


def test_a_pattern_that_matches_nothing_says_where_to_look(tmp_path):
    assert "no file matches" in failure(tmp_path / "*.log").cause
    assert "is empty" in failure(tmp_path / "*.log").hint
    assert "there is no folder" in failure(tmp_path / "none" / "*.log").hint
    (tmp_path / "x").touch()
    assert "holds other files" in failure(tmp_path / "*.log").hint


def test_a_folder_is_refused_with_the_pattern_it_needs(tmp_path):
    assert f'"{tmp_path}/*.log"' in failure(tmp_path).hint


def test_a_file_that_may_not_be_read_says_who_may():
    folder = Path(tempfile.mkdtemp())
    path = folder / "postgresql.log"
    path.write_text(stderr_line(START, call("SELECT 1")))
    folder.chmod(0o755)
    path.chmod(0)
    connector(path).definitions()
    failure(folder / "nothing")  # everything it needs is imported while this process may still do so
    root = os.geteuid() == 0
    try:
        if root:  # which may read every file
            os.seteuid(65534)
        found = failure(path)
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)
    assert "may not be read by this user" in found.cause
    assert "group" in found.hint


@pytest.mark.parametrize(
    "line, shape",
    [
        ("22/11/2026 10:00:00 |app| LOG - duration: 3.1 ms  statement: SELECT 'hunter2'", "99/99/9999 99:99:99 |app| LOG - duration: 9.9 ms  statement: ..."),
        ("hunter2 hunter2", "x9 x9"),
        ('level=info msg="hunter2"', "x=x x=..."),
        ("hunter2 " * 100, "x9 "),
    ],
)
def test_a_log_nobody_understands_is_an_error_that_shows_the_outline_of_its_first_line(tmp_path, line, shape):
    path = tmp_path / "app.log"
    path.write_text(f"{line}\nmore\n")
    raised = failure(path)
    assert "nothing in" in raised.cause
    assert shape.replace("|app|", "|app|") in raised.cause
    assert "hunter2" not in str(raised)
    assert "log_line_prefix" in raised.hint
    assert "letter by letter" in failure(path, prefix="%t [%p] ").hint


def test_jsonlog_zstd_and_binary_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "x"
    path.write_text('{"timestamp":"2026-11-22 10:00:00.123 UTC","message":"hunter2"}\n')
    assert "JSON" in failure(path).hint
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert "zstd" in failure(path).cause
    path.write_bytes(b"\x7fELF" + bytes(5000) + b"\n")
    assert "is no text" in failure(path).hint


def test_one_foreign_file_among_others_is_an_error_after_the_others_were_read(tmp_path):
    (tmp_path / "a.log").write_text(stderr_line(START, call("SELECT 1")))
    (tmp_path / "b.log").write_text("hello\nworld\n")
    with Store.open(str(tmp_path / "s.db")) as store:
        with pytest.raises(ConnectorError, match=r"b\.log"):
            collect(store, connector(tmp_path / "*.log"))
        assert calls(store) == {"select ?": 1}


def test_an_empty_file_and_one_with_half_a_line_are_waited_for(tmp_path):
    (tmp_path / "a.log").touch()
    (tmp_path / "b.log").write_text("2026-11-22 10:00:00.1")
    assert list(connector(tmp_path / "*.log").collect(ALL, {})) == []


def test_the_same_window_and_source_give_the_same_readings_inside_the_window(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("".join(stderr_line(START + timedelta(minutes=17 * n), call(f"SELECT {n}")) for n in range(40)))
    window = Window.of(to_milliseconds(START) + 5 * HOUR // 2, to_milliseconds(START) + 8 * HOUR)
    one, other = ([r for b in connector(path).collect(window, {}) for r in b.readings] for _ in range(2))
    assert [(r.series, r.at.tolist(), r.counts.tolist()) for r in one] == [(r.series, r.at.tolist(), r.counts.tolist()) for r in other]
    assert one
    assert all(window.start <= at < window.end for r in one for at in r.at.tolist())


def test_hours_are_counted_to_the_window_s_end_and_the_rest_is_left_for_the_next(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("".join(stderr_line(START + timedelta(minutes=n), call("SELECT 1")) for n in range(60)))
    begin = to_milliseconds(START)
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path), Window.of(begin, begin + HOUR // 2))
        assert calls(store) == {"select ?": 30}
        collect(store, connector(path), Window.of(begin, begin + HOUR))
        assert calls(store) == {"select ?": 60}


def test_calls_under_a_declared_threshold_are_left_out_and_said(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("".join(stderr_line(START, call("SELECT 1", took)) for took in (1, 99.999, 100, 500)))
    with Store.open(str(tmp_path / "s.db")) as store:
        notes = collect(store, connector(path, threshold_ms=100))
        assert calls(store) == {"select ?": 2}
    assert any(note.startswith("2 calls took less than threshold_ms") for note in notes)


def test_the_database_comes_from_the_log_else_from_the_option_else_there_is_no_label(tmp_path):
    (tmp_path / "a.csv").write_text(csv_line(START, call("SELECT 1")) + csv_line(START, call("SELECT 1"), database='o"ther'))
    (tmp_path / "b.log").write_text(stderr_line(START + timedelta(minutes=1), call("SELECT 1")))
    for option, names in (("main", {"shop", 'o"ther', "main"}), ("", {"shop", 'o"ther', ""})):
        batches = list(connector(tmp_path / "*", database=option).collect(ALL, {}))
        assert {dict(r.series.labels).get("database", "") for b in batches for r in b.readings} == names


# -- check -----------------------------------------------------------------------------------------------------------


def test_check_says_of_each_file_its_format_and_reach(tmp_path):
    (tmp_path / "a.log").write_text(
        stderr_line(START, call("SELECT 1", 0.5)) + stderr_line(START + timedelta(hours=3), "checkpoint starting: time")
    )
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(csv_line(START + timedelta(days=1), call("SELECT 1")).encode()))
    health = connector(tmp_path / "*").check()
    assert health.ok
    assert health.oldest == to_milliseconds(START)
    texts = [finding.text for finding in health.findings]
    assert 'a.log: stderr with log_line_prefix "%m [%p] ", 2026-11-22 10:00 to 2026-11-22 13:00 UTC' in texts[0]
    assert "b.csv.gz: csvlog, 2026-11-23 10:00" in texts[1]
    assert texts[2] == "2 statements looked at, the quickest took 0.5 ms"


def test_check_looks_at_the_end_of_a_large_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SAMPLE", 2000)
    path = tmp_path / "a.log"
    path.write_text("".join(stderr_line(START + timedelta(minutes=n), call("SELECT 1")) for n in range(600)))
    assert "10:00 to 2026-11-22 19:59 UTC" in connector(path).check().findings[0].text


@pytest.mark.parametrize(
    "text, level, said",
    [
        ("hello\n", "failed", "was understood"),
        (stderr_line(START, "durée : 0.123 ms, instruction : SELECT 1"), "failed", "another language"),
        (stderr_line(START, "checkpoint starting: time"), "warning", "no duration"),
        (stderr_line(START, call("SELECT 1", 300)) * 30, "warning", "quickest of 30 statements took 300 ms"),
        (stderr_line(START, call("SELECT 1")) + "cp: no\n", "warning", "x: x"),
        ("2026-11-22 10:00:00.123 CST [1] LOG:  x\n", "failed", "several offsets"),
        ("", "warning", "none with a message yet"),
    ],
)
def test_check_finds_what_would_spoil_the_readings(tmp_path, text, level, said):
    path = tmp_path / "a.log"
    path.write_text(text)
    found = [finding for finding in connector(path).check().findings if said in finding.text]
    assert [finding.level for finding in found] == [level]


def test_check_compares_the_declared_threshold_with_the_log(tmp_path):
    path = tmp_path / "a.log"
    path.write_text(stderr_line(START, call("SELECT 1", 3)))
    (finding,) = [one for one in connector(path, threshold_ms=100).check().findings if "threshold" in one.text]
    assert finding.level == "warning"
    assert connector(tmp_path / "none").check().findings[0].level == "failed"


# -- nothing leaks, nothing crashes ----------------------------------------------------------------------------------


def test_an_outline_shows_no_word_that_is_not_a_log_s_own():
    assert shape_of("2026 LOG:  geheim é 12 $$x".encode()) == "9999 LOG:  x xx 99 ..."


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_torn_interleaved_and_hostile_input_is_no_crash_and_leaks_nothing(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hostile")
    line = data.draw(st.sampled_from([stderr_line, csv_line]))
    texts = ["SELECT 'hunter2'", "INSERT INTO t VALUES ('hunter2',\n'hunter2')", "SELECT $$hunter2$$", "SELECT E'\\'hunter2'"]
    lines = [line(START + timedelta(minutes=n), call(texts[n % 4])).encode() for n in range(12)]
    # A line may break off and the next begin behind it; its rest may come later, or a file begin with it.
    torn = [line(START, call("SELECT 1")).encode()]
    for one in data.draw(st.lists(st.sampled_from(lines), max_size=10)):
        at = data.draw(st.integers(0, len(one)))
        pieces = (one[:at], one[at:]) if data.draw(st.booleans()) else (one[at:], one[:at])
        torn += [pieces[0], data.draw(st.sampled_from([b"", b"\n", *lines])), pieces[1] if data.draw(st.booleans()) else b""]
    path = folder / "log"
    path.write_bytes(b"".join(torn) + data.draw(st.binary(max_size=20)))
    batches = list(connector(path).collect(ALL, {}))
    assert "hunter2" not in str(batches)
    assert sum(r.counts.sum() for b in batches for r in b.readings) >= 1
