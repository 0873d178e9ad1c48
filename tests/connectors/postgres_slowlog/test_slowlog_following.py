"""A log followed through time: small steps, restarts, rotation, and what all of it proves."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import re
import shutil
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slowlog_writing import ALL, START, call, calls, collect, connector, coverage, csv_line, held, stderr_line

from connectors.postgres_slowlog import follow
from harvester.demo.company import Company, slow_log
from harvester.readings import HOUR, MINUTE, Window, to_milliseconds
from harvester.store.store import Store

FUTURE = ALL.end // 1000
QUERIES = (
    "SELECT * FROM orders WHERE id = {}",
    "UPDATE stock SET n = n - {}\nWHERE sku = 'a{}'",
    "INSERT INTO payments VALUES ({}, 'x''y'),\n({}, NULL)",
    'SELECT "a", b FROM t WHERE c IN ({}, {}) -- odd',
    "DELETE FROM carts WHERE note = 'LOG:  duration: 9.000 ms  statement: SELECT {}'",
)


def messages(seed: int, number: int, gap: timedelta = timedelta(minutes=7)) -> list[tuple]:
    """Return (time, message) of some hours: calls, other talk, backends a little out of turn."""
    rng = random.Random(seed)
    at, found = START, []
    for _ in range(number):
        at += gap * rng.random() * 2
        when = at - timedelta(milliseconds=rng.choice((0, 0, 0, 40)))
        kind = rng.random()
        if kind < 0.75:
            text = rng.choice(QUERIES).replace("{}", str(rng.randrange(10**5)))
            found.append((when, call(text, rng.lognormvariate(1, 1))))
        elif kind < 0.85:
            found.append((when, f"duration: 0.1{rng.randrange(10)}0 ms  execute fetch from <unnamed>/C1: SELECT * FROM orders WHERE id = $1"))
        else:
            found.append((when, "checkpoint starting: time"))
    return found


def text_of(found, line=stderr_line) -> str:
    return "".join(line(at, message) for at, message in found)


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "store.db")) as one:
        yield one


def whole(tmp_path, text: str, name: str = "whole.log", **options):
    """Return what a store holds after one collection of one file, with its coverage."""
    path = tmp_path / name
    path.write_bytes(text.encode())
    with Store.open(str(tmp_path / f"{name}.db")) as store:
        collect(store, connector(path, **options))
        return held(store), held(store, "statement_duration_all"), coverage(store), coverage(store, "statement_duration_all")


def all_of(store):
    return held(store), held(store, "statement_duration_all"), coverage(store), coverage(store, "statement_duration_all")


def spoken(everything):
    """Leave out series that were taken back: a message that was read while it was written."""
    groups, *rest = everything
    return [{labels: hours for labels, hours in groups.items() if any(one[0] or one[1] for one in hours.values())}, *rest]


@pytest.mark.parametrize("line", [stderr_line, csv_line])
@pytest.mark.parametrize("top", [200, 2])
def test_a_log_collected_in_many_small_windows_gives_what_collecting_it_once_gives(tmp_path, store, line, top):
    found = messages(1, 300)
    once = whole(tmp_path, text_of(found, line), top=top)
    path = tmp_path / "log"
    path.write_text(text_of(found, line), newline="")
    begin, end = to_milliseconds(START), to_milliseconds(found[-1][0]) + 1
    rng = random.Random(3)
    while begin < end:
        upto = min(end, begin + rng.randrange(1, 3 * HOUR))
        log = connector(path, top=top)
        collect(store, log, Window.of(max(0, begin - 3 * HOUR), upto))
        begin = upto
    assert held(store) == once[0]
    assert held(store, "statement_duration_all") == once[1]
    assert coverage(store) == tuple(span for span in once[2])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_log_that_grows_by_any_number_of_bytes_gives_what_reading_it_whole_gives(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("grow")
    line = data.draw(st.sampled_from([stderr_line, csv_line]))
    text = text_of(messages(data.draw(st.integers(0, 50)), 60), line).encode()
    once = whole(folder, text.decode())
    path = folder / "log"
    path.write_bytes(b"")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=12)))
    with Store.open(str(folder / "store.db")) as store:
        for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True):
            with path.open("ab") as file:
                file.write(text[low:high])
            os.utime(path, times=(FUTURE, FUTURE))  # the server may still be writing
            collect(store, connector(path))
        assert spoken(all_of(store)) == spoken(once)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 100), size=st.integers(1, 3000), line=st.sampled_from([stderr_line, csv_line]), top=st.sampled_from([1, 3, 50]))
def test_any_block_size_gives_the_same_result(tmp_path_factory, seed, size, line, top):
    folder = tmp_path_factory.mktemp("blocks")
    text = text_of(messages(seed, 80, timedelta(minutes=20)), line)
    once = whole(folder, text, "once.log", top=top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "BLOCK", size)
        assert whole(folder, text, "blocks.log", top=top) == once


@pytest.mark.parametrize("committed", [1, 2, 3])
def test_a_process_killed_between_two_batches_loses_nothing_and_counts_nothing_twice(tmp_path, store, monkeypatch, committed):
    monkeypatch.setattr(follow, "_BATCH_HOURS", 3)
    monkeypatch.setattr(follow, "BLOCK", 2000)
    text = text_of(messages(5, 200))
    once = whole(tmp_path, text)
    path = tmp_path / "log"
    path.write_text(text, newline="")
    batches = connector(path).collect(ALL, {})
    for _ in range(committed):
        store.commit("log", next(batches))
    batches.close()
    collect(store, connector(path))
    assert all_of(store) == once


def append(path, found, line=stderr_line):
    with path.open("a", newline="") as file:
        file.write(text_of(found, line))
    os.utime(path, times=(FUTURE, FUTURE))


def test_a_live_log_is_followed_across_a_rename_with_compression_and_the_gap_is_covered(tmp_path, store):
    found = messages(7, 120)
    once = whole(tmp_path, text_of(found))
    folder = tmp_path / "log"
    folder.mkdir()
    log = connector(folder / "*")
    append(folder / "postgresql.log", found[:30])
    collect(store, log)
    append(folder / "postgresql.log", found[30:50])
    (folder / "postgresql.log").rename(folder / "postgresql.log.1")
    append(folder / "postgresql.log", found[50:80])
    collect(store, log)
    (folder / "postgresql.log.1").rename(folder / "postgresql.log.2")
    with gzip.open(folder / "postgresql.log.2.gz", "wb") as packed:
        packed.write((folder / "postgresql.log.2").read_bytes())
    (folder / "postgresql.log.2").unlink()
    append(folder / "postgresql.log", found[80:90])
    (folder / "postgresql.log").rename(folder / "postgresql.log.1")
    append(folder / "postgresql.log", found[90:])
    assert collect(store, log) == []
    assert all_of(store) == once


def test_a_live_log_is_followed_when_it_is_copied_and_truncated(tmp_path, store):
    found = messages(8, 90)
    once = whole(tmp_path, text_of(found))
    folder = tmp_path / "log"
    folder.mkdir()
    log = connector(folder / "postgresql.log*")
    live = folder / "postgresql.log"
    append(live, found[:40])
    collect(store, log)
    append(live, found[40:60])
    shutil.copy(live, folder / "postgresql.log.1")
    os.truncate(live, 0)
    append(live, found[60:])
    assert collect(store, log) == []
    assert all_of(store) == once


@pytest.mark.parametrize("pack", [gzip.open, bz2.open, lzma.open])
def test_rotated_history_is_read_on_the_first_run_whatever_it_is_packed_with(tmp_path, store, pack):
    found = messages(9, 90)
    once = whole(tmp_path, text_of(found))
    folder = tmp_path / "log"
    folder.mkdir()
    for name, part in (("postgresql.log.3", found[:30]), ("postgresql.log.2", found[30:60])):
        with pack(folder / name, "wb") as packed:
            packed.write(text_of(part).encode())
    (folder / "postgresql.log.1").write_text(text_of(found[60:]))
    (folder / "postgresql.log").touch()
    assert collect(store, connector(folder / "*")) == []
    assert all_of(store) == once


def test_an_archive_that_breaks_off_is_read_as_far_as_it_goes_and_ends_the_proof(tmp_path, store):
    found = messages(10, 200, timedelta(minutes=2))
    packed = tmp_path / "log.gz"
    with gzip.open(packed, "wb") as file:
        file.write(text_of(found).encode())
    packed.write_bytes(packed.read_bytes()[:-400])
    notes = collect(store, connector(packed))
    assert any("breaks off" in note for note in notes)
    assert 20 < sum(calls(store).values()) < sum("statement:" in message for _, message in found)
    last = max(hour for hours in held(store).values() for hour in hours)
    assert coverage(store)[-1][1] < (last + 1) * HOUR


def test_a_missing_file_between_two_leaves_a_gap_in_what_is_proven(tmp_path, store):
    for day, name in ((0, "20"), (1, "21"), (3, "23"), (4, "24")):
        at = START + timedelta(days=day)
        text = stderr_line(at, call("SELECT 1")) + stderr_line(at + timedelta(hours=20), call("SELECT 1"))
        (tmp_path / f"postgresql-2026-11-{name}_000000.log").write_text(text)
    collect(store, connector(tmp_path / "*.log"))
    begin = to_milliseconds(START)
    assert coverage(store) == (
        (begin, begin + 44 * HOUR),
        (begin + 72 * HOUR, begin + 116 * HOUR),
    )


def test_successors_by_number_or_by_the_usual_distance_of_their_dates_leave_no_gap(tmp_path, store):
    for number, day in ((2, 0), (1, 1), (0, 2)):
        name = f"postgresql.log.{number}" if number else "postgresql.log"
        (tmp_path / name).write_text(stderr_line(START + timedelta(days=day), call("SELECT 1")))
    collect(store, connector(tmp_path / "postgresql.log*"))
    begin = to_milliseconds(START)
    assert coverage(store) == ((begin, begin + 48 * HOUR),)


def test_hours_without_calls_are_zero_only_where_reading_was_unbroken(tmp_path, store):
    first = tmp_path / "a.log"
    first.write_text(
        stderr_line(START, call("SELECT 1", 2)) + stderr_line(START + timedelta(hours=4), "checkpoint starting: time")
    )
    (tmp_path / "b.log").write_text(
        stderr_line(START + timedelta(hours=9), call("SELECT 1", 3))
        + stderr_line(START + timedelta(hours=12, minutes=1), call("SELECT 1", 3))
    )
    collect(store, connector(tmp_path / "*.log"))
    (hours,) = held(store).values()
    begin = to_milliseconds(START) // HOUR
    calls_by_hour = {hour - begin: sum(one[0].values()) for hour, one in hours.items()}
    assert calls_by_hour == {0: 1, 1: 0, 2: 0, 3: 0, 9: 1, 10: 0, 12: 1}
    assert coverage(store) == (
        ((begin) * HOUR, (begin + 4) * HOUR),
        ((begin + 9) * HOUR, (begin + 12) * HOUR + MINUTE),
    )


def test_a_log_without_any_duration_proves_nothing(tmp_path, store):
    path = tmp_path / "log"
    path.write_text("".join(stderr_line(START + timedelta(hours=n), "checkpoint starting: time") for n in range(5)))
    notes = collect(store, connector(path))
    assert "no duration among them" in notes[0]
    assert coverage(store) == coverage(store, "statement_duration_all") == ()


@pytest.mark.parametrize("line", [stderr_line, csv_line])
def test_a_threshold_raised_above_the_declared_one_ends_the_proof_until_it_falls_again(tmp_path, store, line):
    def said(value):
        return f'parameter "log_min_duration_statement" changed to "{value}"'

    path = tmp_path / "log"
    found = [
        (0, call("SELECT 1", 300)), (60, said("250")), (90, call("SELECT 1", 300)), (120, said("1s")),
        (180, call("SELECT 1", 1200)), (240, said("200")), (300, call("SELECT 1", 300)),
    ]
    path.write_text("".join(line(START + timedelta(minutes=at), message) for at, message in found))
    notes = collect(store, connector(path, threshold_ms=250))
    begin = to_milliseconds(START)
    assert any("became 1000 ms" in note for note in notes)
    assert coverage(store) == ((begin, begin + 120 * MINUTE), (begin + 240 * MINUTE, begin + 300 * MINUTE))


def test_a_literal_that_says_the_threshold_changed_changes_nothing(tmp_path, store):
    path = tmp_path / "log"
    text = "SELECT 'x\nparameter \"log_min_duration_statement\" changed to \"9999\"'"
    path.write_text(stderr_line(START, call(text)) + stderr_line(START + timedelta(hours=1), call("SELECT 1")))
    assert collect(store, connector(path)) == []
    assert coverage(store) == ((to_milliseconds(START), to_milliseconds(START) + HOUR),)


def test_a_changed_threshold_makes_new_metrics_and_reads_the_log_again_under_them(tmp_path, store):
    path = tmp_path / "log"
    path.write_text("".join(stderr_line(START + timedelta(minutes=n), call("SELECT 1", 100 * n)) for n in range(10)))
    collect(store, connector(path))
    collect(store, connector(path, threshold_ms=500))
    everything, slow = store.series(metric="statement_duration")
    assert everything.metric.definition != slow.metric.definition
    assert (everything.metric.threshold, slow.metric.threshold) == (None, 0.5)
    counted = [one.counts.sum() for one in store.read([everything, slow], ALL)]
    assert counted == [10, 5]


def test_asking_again_from_an_earlier_time_reads_everything_that_is_there_again(tmp_path, store):
    found = messages(11, 200)
    path = tmp_path / "log"
    path.write_text(text_of(found), newline="")
    later = Window.of(to_milliseconds(START) + 20 * HOUR, ALL.end)
    collect(store, connector(path), later)
    assert min(hour for hours in held(store).values() for hour in hours) >= later.start // HOUR
    collect(store, connector(path), ALL)
    assert all_of(store) == whole(tmp_path, text_of(found))


def test_hours_once_read_wholly_are_not_replaced_by_what_is_left_of_them(tmp_path, store):
    found = messages(12, 200)
    path = tmp_path / "log"
    path.write_text(text_of(found), newline="")
    once = whole(tmp_path, text_of(found))
    collect(store, connector(path), Window.of(ALL.start + HOUR, ALL.end))
    path.write_text(text_of(found[100:]), newline="")  # the older half was deleted
    collect(store, connector(path), ALL)
    assert all_of(store) == once


def test_the_same_log_twice_is_counted_once_and_said_once(tmp_path, store):
    found = messages(13, 60)
    once = whole(tmp_path, text_of(found, csv_line))
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "postgresql.csv").write_text(text_of(found, csv_line), newline="")
    (folder / "postgresql.log").write_text(text_of(found), newline="")
    (folder / "copy.csv").write_text(text_of(found, csv_line), newline="")
    (folder / "copy.csv.gz").write_bytes(gzip.compress(text_of(found, csv_line).encode()))
    (folder / "other").write_text(text_of(found), newline="")
    log = connector(folder / "*")
    notes = collect(store, log)
    assert sum("the same log twice" in note for note in notes) == 2
    assert sum("tells the same" in note for note in notes) == 1
    assert sum("was left out: is it a copy" in note for note in notes) == 1
    assert all_of(store) == once
    assert collect(store, log) == []


def test_a_clock_that_jumped_ahead_for_one_line_does_not_stop_the_reading(tmp_path, store):
    path = tmp_path / "log"
    path.write_text(
        stderr_line(START, call("SELECT 1"))
        + stderr_line(START.replace(year=2099), call("SELECT 1"))
        + stderr_line(START + timedelta(minutes=5), call("SELECT 1"))
    )
    notes = collect(store, connector(path))
    assert sum(calls(store).values()) == 2
    assert any("impossible time" in note for note in notes)


def test_fingerprints_beyond_the_top_are_pooled_and_what_is_proven_of_each_is_its_own(tmp_path, store):
    """Three tables, room for two; the third is heavy, and gets the place of the lightest two hours later."""
    found = []
    for hour in range(6):
        for table, took in (("a", 10), ("b", 1), ("c", 100)):
            at = START + timedelta(hours=hour, minutes=1 + ord(table) - ord("a"))
            found.append((at, call(f"SELECT * FROM {table} WHERE id = {hour}", took)))
    path = tmp_path / "log"
    path.write_text(text_of(found))
    collect(store, connector(path, top=2))
    begin = to_milliseconds(START) // HOUR
    by_query = {dict(labels)["query"]: (labels, hours) for labels, hours in held(store).items()}
    assert set(by_query) == {f"select * from {table} where id = ?" for table in "abc"} | {"other"}
    counted = {
        query: [sum(hours.get(begin + n, ({},))[0].values()) for n in range(6)] for query, (_, hours) in by_query.items()
    }
    assert counted == {
        "select * from a where id = ?": [1, 1, 1, 1, 1, 1],
        "select * from b where id = ?": [1, 1, 0, 0, 0, 0],
        "select * from c where id = ?": [0, 0, 1, 1, 1, 1],
        "other": [1, 1, 1, 1, 1, 1],
    }
    first_c, start, end = to_milliseconds(found[2][0]), to_milliseconds(found[0][0]), to_milliseconds(found[-1][0])
    change = (begin + 2) * HOUR
    proven = {query: coverage(store, labels=labels) for query, (labels, _) in by_query.items()}
    assert proven["select * from a where id = ?"] == proven["other"] == ((start, end),)
    assert proven["select * from b where id = ?"] == ((start, change),)
    assert proven["select * from c where id = ?"] == ((start, first_c), (change, end))
    assert coverage(store) == ((start, first_c),)
    assert coverage(store, "statement_duration_all") == ((start, end),)


def test_a_file_that_vanishes_after_it_was_found_is_no_crash(tmp_path, store, monkeypatch):
    path = tmp_path / "log"
    path.write_text(stderr_line(START, call("SELECT 1")))
    batches = connector(path).collect(ALL, {})
    real = follow.Content
    monkeypatch.setattr(follow, "Content", lambda name, offset: (path.unlink(missing_ok=True), real(name, offset))[1])
    assert any("vanished" in note for batch in batches for note in batch.notes)


def test_a_state_holds_no_literal(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        stderr_line(START, call("SELECT * FROM t WHERE a = 'hunter2' AND b = 424242"))
        + stderr_line(START, "statement: SELECT 'hunter2'", pid=5)
    )
    os.utime(path, times=(FUTURE, FUTURE))
    (batch,) = connector(path).collect(ALL, {})
    assert "hunter2" not in str(batch)
    assert "424242" not in str(batch)


def test_the_demo_company_s_log_is_read_wholly(tmp_path, store):
    now = to_milliseconds(START)
    text = "".join(message for at, message in slow_log(Company(seed=1, now=now)) if at <= now)
    path = tmp_path / "postgresql.log"
    path.write_text(text, newline="")
    collect(store, connector(path, database="shop"), Window.of(now - 90 * 24 * HOUR, now + 1))
    logged = {
        "select id, total, placed_at from orders where customer_id = ? and state = ? order by placed_at desc limit ?":
            text.count("SELECT id, total"),
        "update stock set reserved = reserved + ? where sku = ?": text.count("UPDATE stock"),
        "insert into payments(order_id, amount, method) values (?) returning id": text.count("INSERT INTO payments (order_id, amount, method)"),
    }
    assert calls(store) == logged
    assert calls(store, "statement_duration_all").total() == text.count("LOG:  duration:")
    times = re.findall(r"^(\d{4}-\d\d-\d\d [\d:.]{12}) UTC ", text, re.MULTILINE)
    ends = [to_milliseconds(datetime.fromisoformat(one + "+00:00")) for one in (times[0], times[-1])]
    assert coverage(store) == coverage(store, "statement_duration_all") == (tuple(ends),)


def test_a_successor_of_any_name_leaves_no_gap_when_the_log_was_being_followed(tmp_path, store):
    log = connector(tmp_path / "*.log")
    append(tmp_path / "postgresql-Sun.log", [(START, call("SELECT 1"))])
    collect(store, log)
    append(tmp_path / "postgresql-Sun.log", [(START + timedelta(hours=1), call("SELECT 1"))])
    append(tmp_path / "postgresql-Mon.log", [(START + timedelta(hours=30), call("SELECT 1"))])
    collect(store, log)
    begin = to_milliseconds(START)
    assert coverage(store) == ((begin, begin + 30 * HOUR),)


def test_a_live_log_that_was_deleted_before_its_end_was_read_leaves_a_gap(tmp_path, store):
    log = connector(tmp_path / "*.log")
    append(tmp_path / "postgresql-Sun.log", [(START, call("SELECT 1")), (START + timedelta(minutes=9), call("SELECT 1"))])
    collect(store, log)
    (tmp_path / "postgresql-Sun.log").unlink()
    append(tmp_path / "postgresql-Mon.log", [(START + timedelta(hours=n), call("SELECT 1")) for n in (30, 31)])
    collect(store, log)
    begin = to_milliseconds(START)
    assert coverage(store) == ((begin, begin + 9 * MINUTE), (begin + 30 * HOUR, begin + 31 * HOUR))


def test_calls_far_older_than_what_was_logged_before_them_are_left_out_and_said(tmp_path, store):
    path = tmp_path / "log"
    times = (0, 5, 6, 1, 6, 5)  # hours; an hour is closed once the log is two hours on
    path.write_text("".join(stderr_line(START + timedelta(hours=n), call("SELECT 1")) for n in times))
    notes = collect(store, connector(path))
    (hours,) = held(store).values()
    begin = to_milliseconds(START) // HOUR
    assert [sum(hours[begin + n][0].values()) for n in range(7) if begin + n in hours] == [1, 0, 0, 0, 0, 2, 2]
    assert any(note.startswith("1 calls are more than an hour older") for note in notes)


def test_a_straggler_of_an_hour_in_which_its_group_was_pooled_is_pooled_too(tmp_path, store):
    def at(hour, minute, table, took):
        return START + timedelta(hours=hour, minutes=minute), call(f"SELECT * FROM {table}", took)

    found = [at(0, 1, "a", 1), at(0, 2, "b", 100), at(1, 1, "a", 1), at(1, 2, "b", 100), at(2, 0, "a", 1), at(1, 59, "b", 9)]
    path = tmp_path / "log"
    path.write_text(text_of(found))
    collect(store, connector(path, top=1))
    begin = to_milliseconds(START) // HOUR
    by_query = {dict(labels)["query"]: hours for labels, hours in held(store).items()}
    assert sum(by_query["other"][begin + 1][0].values()) == 2
    assert begin + 1 not in by_query.get("select * from b", {})


def test_a_series_kept_from_earlier_has_no_silent_hours_in_a_log_without_durations(tmp_path, store):
    path = tmp_path / "log"
    path.write_text(stderr_line(START, call("SELECT 1")))
    collect(store, connector(path), Window.of(ALL.start + HOUR, ALL.end))
    quiet = [(START + timedelta(hours=n), "checkpoint starting: time") for n in range(1, 9)]
    path.write_text(text_of(quiet))
    collect(store, connector(path), ALL)
    (hours,) = held(store).values()
    assert list(hours) == [to_milliseconds(START) // HOUR]


@pytest.mark.parametrize("size", [40, 150, 170, 200, 333])
def test_what_a_function_raised_stays_beside_its_context_whatever_the_size_of_blocks(tmp_path, store, monkeypatch, size):
    monkeypatch.setattr(follow, "BLOCK", size)
    path = tmp_path / "log"
    path.write_text(
        (
            stderr_line(START, call("DELETE FROM t", 99))
            + stderr_line(START, "PL/pgSQL function f() line 3 at RAISE", severity="CONTEXT")
            + stderr_line(START, call("SELECT f()"))
        )
        * 9
    )
    collect(store, connector(path))
    assert calls(store) == {"select f()": 9}


def test_files_that_lie_before_the_window_are_not_read(tmp_path, store):
    (tmp_path / "a.log").write_text(stderr_line(START, call("SELECT 1")) + "duration: torn\n")
    later = [(START + timedelta(days=1, hours=n), call("SELECT 1")) for n in range(9)]
    (tmp_path / "b.log").write_text(text_of(later))
    begin = to_milliseconds(START) + 26 * HOUR
    assert collect(store, connector(tmp_path / "*.log"), Window.of(begin, ALL.end)) == []
    assert sum(calls(store).values()) == 7
    assert coverage(store) == ((begin, to_milliseconds(later[-1][0])),)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_of_several_members_is_read_to_its_end(tmp_path, store, pack):
    found = messages(14, 60)
    (tmp_path / "log").write_bytes(pack(text_of(found[:30]).encode()) + pack(text_of(found[30:]).encode()))
    collect(store, connector(tmp_path / "log"))
    assert all_of(store) == whole(tmp_path, text_of(found))
