"""The stderr format: any prefix, true lines of several versions, and nothing that only looks like a message."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slowlog_writing import ALL, START, call, calls, collect, connector, coverage, stderr_line

from connectors.postgres_slowlog.stderr import USUAL_PREFIXES, Stderr, detect_prefix, prefix_pattern
from connectors.postgres_slowlog.times import Clock
from harvester.errors import ConnectorError
from harvester.readings import HOUR, to_milliseconds
from harvester.store.store import Store

CLOCK = Clock("log")
AT = datetime(2026, 11, 22, 10, 0, 0, 123000, UTC)


def rendered(prefix: str, *, session: bool = True, user: str = "app", database: str = "shop", app: str = "psql") -> str:
    """Return a prefix as the server writes it for one line."""
    values = {
        "m": "2026-11-22 10:00:00.123 UTC", "t": "2026-11-22 10:00:00 UTC", "n": "1795341600.123", "p": "4711", "%": "%",
        "l": "12", "c": "6740f1aa.1267", "s": "2026-11-22 09:00:00 UTC", "e": "00000", "x": "0", "v": "3/41", "P": "",
        "u": user if session else "", "d": database if session else "", "a": app if session else "", "Q": "-812345",
        "h": "10.0.0.7" if session else "", "r": "10.0.0.7(40112)" if session else "", "L": "10.0.0.7" if session else "",
        "i": "SELECT" if session else "", "b": "client backend" if session else "checkpointer",
    }  # fmt: skip

    def one(match: re.Match[str]) -> str:
        width, text = match[1], values[match[2]]
        if not width:
            return text
        return text.ljust(-int(width)) if width.startswith("-") else text.rjust(int(width))

    begin, _, rest = prefix.partition("%q")
    return re.sub(r"%(-?\d*)(.)", one, begin + (rest if session else ""))


@pytest.mark.parametrize("prefix", [*USUAL_PREFIXES, "%m %-6p %10u|%-12d %% ", "%n %c %Q %b %i %P %L %s ", "[%p] %m %l,%x,%v,%e "])
def test_every_prefix_is_read_for_sessions_and_for_the_server_s_own_processes(prefix):
    reader = Stderr(prefix, CLOCK)
    text = (
        rendered(prefix) + "LOG:  duration: 12.345 ms  statement: SELECT *\n\tFROM t\n"
        + rendered(prefix, session=False) + "LOG:  checkpoint starting: time\n"
        + rendered(prefix) + 'ERROR:  relation "x" does not exist at character 15\n'
        + rendered(prefix) + "STATEMENT:  SELECT * FROM x\n"
    )  # fmt: skip
    found = reader.read(text.encode())
    assert found.unread == 0
    assert found.duration.tolist() == [12345, -1, -1, -1]
    assert found.kind[0] == b"statement"
    assert found.text[0] == b"SELECT *\n\tFROM t"
    assert list(found.severity) == [b"LOG", b"LOG", b"ERROR", b"STATEMENT"]
    exact = "%t" not in prefix
    assert set(found.at.tolist()) == {to_milliseconds(AT) if exact else to_milliseconds(AT) // 1000 * 1000}
    if "%u" in prefix and "%d" in prefix:
        assert (found.user[0], found.database[0]) == (b"app", b"shop")
    if "%p" in prefix:
        assert set(found.pid) == {b"4711"}


@pytest.mark.parametrize("prefix", USUAL_PREFIXES)
def test_the_usual_prefixes_are_found_out_in_a_small_file_that_begins_amid_a_message(prefix):
    sample = (
        "\t  FROM t\n\tWHERE x = 'y'\n"
        + rendered(prefix, session=False) + "LOG:  database system is ready to accept connections\n"
        + "rsync: connection unexpectedly closed\n"
        + rendered(prefix) + "LOG:  duration: 12.345 ms  statement: SELECT 1\n"
    )  # fmt: skip
    found = detect_prefix(sample.encode(), CLOCK)
    assert found is not None
    columns = found.read(sample.encode())
    assert columns.duration.tolist() == [-1, 12345]
    if "%d" in prefix:
        assert columns.database[1] == b"shop"


def test_a_prefix_whose_sessions_come_late_is_found_out_when_they_do(tmp_path):
    quiet = "".join(f"{rendered('%m [%p] ')}LOG:  checkpoint starting: time\n" for _ in range(2000))
    path = tmp_path / "log"
    path.write_text(quiet + rendered("%m [%p] %q%u@%d ") + "LOG:  duration: 12.345 ms  statement: SELECT 1\n")
    with Store.open(str(tmp_path / "s.db")) as store:
        assert collect(store, connector(path)) == []
        assert calls(store) == {"select ?": 1}
        assert dict(store.series()[0].labels)["database"] == "shop"


@pytest.mark.parametrize(
    "prefix, said",
    [("%p ", "no time"), ("%m %z ", "%z is no escape"), ("%m %", "lone %"), ("", "no time")],
)
def test_a_prefix_that_cannot_be_right_is_refused_with_its_reason(prefix, said):
    with pytest.raises(ValueError, match=said):
        prefix_pattern(prefix)


def read(text: str, prefix: str = "%m [%p] "):
    return Stderr(prefix, CLOCK).read(text.encode())


def test_a_log_line_inside_a_literal_or_a_parameter_is_no_message():
    fake = "\n" + stderr_line(AT, call("DROP TABLE t", 9999))
    found = read(
        stderr_line(AT, call(f"SELECT '{fake}'"))
        + stderr_line(AT, "duration: 0.2 ms  execute <unnamed>: SELECT $1")
        + stderr_line(AT, f"parameters: $1 = '{fake}'", severity="DETAIL")
    )
    assert found.duration.tolist() == [1500, 200, -1]
    assert found.unread == 0


def test_line_ends_that_are_none_stay_inside_their_literal():
    odd = "a\rb\x0bc\x0cd\x85e\u2028f"
    found = read(stderr_line(AT, call(f"SELECT '{odd}'")) + stderr_line(AT, call("SELECT 2")))
    assert [one.decode() for one in found.text] == [f"SELECT '{odd}'", "SELECT 2"]


@pytest.mark.parametrize("lead", ["\t", "    ", " "])
def test_continuation_lines_may_be_led_by_a_tab_or_by_spaces_and_may_be_empty(lead):
    text = f"2026-11-22 10:00:00.123 UTC [4711] LOG:  duration: 1.000 ms  statement: \n{lead}SELECT 1,\n\n{lead}2\n"
    found = read(text + stderr_line(AT, call("SELECT 2")))
    assert found.unread == 0
    assert found.text[0].split() == [b"SELECT", b"1,", b"2"]


@pytest.mark.parametrize("prefix", ["%m [%p] %q%u@%d/%a ", "%m [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h "])
@pytest.mark.parametrize(
    "names",
    [
        {"app": "x LOG:  duration: 9.000 ms  statement: "},
        {"database": "x LOG:  duration: 9.000 ms  statement: "},
        {"user": "LOG:  duration: 9.000 ms  parse : "},
    ],
)
def test_an_application_or_database_or_user_named_like_a_message_is_no_call(prefix, names, tmp_path):
    line = rendered(prefix, **names) + "LOG:  duration: 1.000 ms  statement: SELECT 'secret'\n"
    good = rendered(prefix) + "LOG:  duration: 1.000 ms  statement: SELECT 1\n"
    path = tmp_path / "log"
    path.write_text(line + good * 3)
    with Store.open(str(tmp_path / "s.db")) as store:
        notes = collect(store, connector(path, prefix=prefix))
        number = sum(calls(store).values())
        assert max(max(one.maximum) for one in store.read(store.series(), ALL)) == 0.001
    # It is read rightly, or it may be two things and is left out and said.
    assert number == 4 or (number == 3 and any("pretend to be" in note or "were not read" in note for note in notes))


def test_a_role_with_an_at_sign_keeps_its_database():
    found = read(rendered("%t:%r:%u@%d:[%p]:", user="ann@example.com") + "LOG:  duration: 1.000 ms  statement: SELECT 1\n", "%t:%r:%u@%d:[%p]:")
    assert (found.user, found.database) == ((b"ann@example.com",), (b"shop",))


def test_a_message_that_a_function_raises_is_no_call(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        stderr_line(START, "duration: 99.000 ms  statement: DELETE FROM t")
        + stderr_line(START, "PL/pgSQL function f() line 3 at RAISE", severity="CONTEXT")
        + stderr_line(START, "SELECT f()", severity="STATEMENT")
        + stderr_line(START + timedelta(minutes=1), call("SELECT f()"))
    )
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path))
        assert calls(store) == {"select f()": 1}


def test_a_call_is_a_statement_or_an_execute_and_phases_and_fetches_are_none(tmp_path):
    at, lines = START, ""
    for message, severity in (
        ("duration: 5.000 ms  parse <unnamed>: SELECT * FROM t WHERE a = $1", "LOG"),
        ("duration: 6.000 ms  bind <unnamed>: SELECT * FROM t WHERE a = $1", "LOG"),
        ("parameters: $1 = '7'", "DETAIL"),
        ("duration: 7.000 ms  execute <unnamed>: SELECT * FROM t WHERE a = $1", "LOG"),
        ("parameters: $1 = '7\nduration: 1.0 ms  statement: SELECT 1'", "DETAIL"),
        ("duration: 8.000 ms  execute fetch from <unnamed>/C_1: SELECT * FROM t WHERE a = $1", "LOG"),
        ("duration: 9.000 ms  execute S_1: SELECT * FROM t WHERE a = $1", "LOG"),
        ("duration: 1.000 ms  execute S_1/C_2: SELECT * FROM t WHERE a = $1", "LOG"),
        ('duration: 1.000 ms  fastpath function call: "lo_open" (OID 952)', "LOG"),
        ("duration: 1.000 ms  plan:\nQuery Text: SELECT * FROM t WHERE a = 7\nSeq Scan on t", "LOG"),
    ):
        lines += stderr_line(at, message, severity=severity)
    path = tmp_path / "log"
    path.write_text(lines)
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path))
        assert calls(store) == {"select * from t where a = ?": 3}
        (series,) = store.series(metric="statement_duration")
        (readings,) = store.read([series], ALL)
        assert readings.total.tolist() == [pytest.approx(0.025)]
        assert (readings.minimum[0], readings.maximum[0]) == (0.001, 0.009)


def test_a_bare_duration_belongs_to_the_last_statement_of_its_process(tmp_path):
    found = [
        (7, "LOG", "statement: SELECT 1"), (8, "LOG", "statement: SELECT a FROM t"), (8, "LOG", "duration: 8.000 ms"),
        (7, "LOG", "duration: 7.000 ms"), (7, "LOG", "duration: 3.000 ms"),  # nothing was logged for this one
        (9, "LOG", "statement: SELECT b FROM t"), (9, "ERROR", "column b does not exist"), (9, "LOG", "duration: 2.000 ms"),
        (7, "LOG", "duration: 0.100 ms"), (7, "LOG", "execute <unnamed>: SELECT c FROM t WHERE d = $1"),
        (7, "DETAIL", "parameters: $1 = 'x'"), (7, "LOG", "duration: 4.000 ms"),
        (5, "LOG", "statement: CREATE TABLE u (a int)"), (5, "LOG", "duration: 60.000 ms"),
    ]  # fmt: skip
    path = tmp_path / "log"
    path.write_text("".join(stderr_line(START, message, severity=severity, pid=pid) for pid, severity, message in found))
    with Store.open(str(tmp_path / "s.db")) as store:
        notes = collect(store, connector(path))
        assert calls(store) == {
            "select ?": 1, "select a from t": 1, "select c from t where d = ?": 1, "create table u(a int)": 1
        }
        assert any(note.startswith("3 durations without a statement") for note in notes)


def test_a_bare_duration_in_the_next_collection_still_finds_its_statement(tmp_path):
    path = tmp_path / "log"
    path.write_text(stderr_line(START, call("SELECT 0")) + stderr_line(START, "statement: SELECT a FROM t") + "\n")
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path))
        with path.open("a") as file:
            file.write(stderr_line(START, "duration: 8.000 ms"))
        collect(store, connector(path))
        assert calls(store) == {"select ?": 1, "select a from t": 1}


def test_sql_s_execute_counts_as_the_statement_that_was_prepared(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        stderr_line(START, call("EXECUTE find(7)"))
        + stderr_line(START, "prepare: PREPARE find AS SELECT * FROM t WHERE a = $1", severity="DETAIL")
        + stderr_line(START, call("SELECT * FROM t WHERE a = 8"))
    )
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path))
        assert calls(store) == {"select * from t where a = ?": 2}


def test_verbose_messages_with_their_state_and_location_are_read():
    found = read(
        "2026-11-22 10:00:00.123 UTC [4711] LOG:  00000: duration: 1.500 ms  statement: SELECT 1\n"
        "2026-11-22 10:00:00.123 UTC [4711] LOCATION:  exec_simple_query, postgres.c:1291\n"
    )
    assert (found.duration.tolist(), found.text[0]) == ([1500, -1], b"SELECT 1")


def test_lines_of_other_programs_do_no_harm_and_torn_ones_end_the_proof(tmp_path):
    def log(odd):
        lines = [stderr_line(START + timedelta(minutes=30 * n), call("SELECT 1")) for n in range(6)]
        return "".join([*lines[:3], odd, *lines[3:]])

    begin = to_milliseconds(START)
    for odd, spans in (
        ("cp: cannot stat '/archive/secret': No such file\n", ((begin, begin + 5 * HOUR // 2),)),
        ("10:12 UTC [4711] LOG:  duration: 3.0 ms  statement: SELECT 'secret'\n",
         ((begin, begin + HOUR), (begin + 3 * HOUR // 2, begin + 5 * HOUR // 2))),
    ):  # fmt: skip
        path = tmp_path / "log"
        path.write_text(log(odd))
        with Store.open(str(tmp_path / f"s{len(odd)}.db")) as store:
            notes = collect(store, connector(path))
            assert coverage(store) == spans
            assert calls(store) == {"select ?": 6}
        assert any("1 of 7 lines were not read" in note for note in notes)
        assert not any("secret" in note for note in notes)


def test_a_message_in_another_language_is_an_error_that_names_lc_messages(tmp_path):
    path = tmp_path / "log"
    path.write_text(stderr_line(START, "durée : 0.123 ms, instruction : SELECT 'secret'"))
    with pytest.raises(ConnectorError, match="lc_messages") as raised:
        list(connector(path).collect(ALL, {}))
    assert "secret" not in str(raised.value)


# -- time ------------------------------------------------------------------------------------------------------------


def instant(text: str, zone: str | None = None) -> datetime:
    clock = Clock("log", ZoneInfo(zone) if zone else None)
    found = Stderr("%m [%p] ", clock).read(f"{text} [1] LOG:  x\n".encode())
    return datetime.fromtimestamp(int(found.at[0]) / 1000, UTC)


@pytest.mark.parametrize(
    "text, zone, utc",
    [
        ("2026-11-22 10:00:00.123 UTC", None, "2026-11-22T10:00:00.123"),
        ("2026-11-22 10:00:00.123 CET", None, "2026-11-22T09:00:00.123"),
        ("2026-07-22 10:00:00.123 CEST", None, "2026-07-22T08:00:00.123"),
        ("2026-11-22 10:00:00.123 MSK", None, "2026-11-22T07:00:00.123"),
        ("2026-11-22 10:00:00.123 -03", None, "2026-11-22T13:00:00.123"),
        ("2026-11-22 10:00:00.123 +0530", None, "2026-11-22T04:30:00.123"),
        ("2026-11-22 10:00:00.123 IST", "Asia/Kolkata", "2026-11-22T04:30:00.123"),
        ("2026-11-22 10:00:00.123 CST", "Asia/Shanghai", "2026-11-22T02:00:00.123"),
        ("2026-11-22 10:00:00.123 CST", "America/Chicago", "2026-11-22T16:00:00.123"),
        ("2026-07-22 10:00:00.123 BST", "Europe/London", "2026-07-22T09:00:00.123"),
        # the night in which an hour comes twice
        ("2026-10-25 02:30:00.123 CEST", "Europe/Berlin", "2026-10-25T00:30:00.123"),
        ("2026-10-25 02:30:00.123 CET", "Europe/Berlin", "2026-10-25T01:30:00.123"),
    ],
)
def test_times_are_read_by_their_abbreviation_or_offset_and_become_utc(text, zone, utc, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    assert instant(text, zone) == datetime.fromisoformat(utc + "+00:00")


@pytest.mark.parametrize("name, zone, said", [("CST", None, "several offsets"), ("IST", None, "several"), ("CET", "Asia/Tokyo", "does not have")])
def test_an_abbreviation_that_could_be_two_things_is_refused_and_never_guessed(name, zone, said):
    with pytest.raises(ConnectorError, match=said):
        instant(f"2026-11-22 10:00:00.123 {name}", zone)


def test_a_night_in_which_an_hour_comes_twice_keeps_its_hours_apart(tmp_path):
    path = tmp_path / "log"
    lines = [
        f"2026-10-25 0{hour}:{minute:02d}:00.000 {zone} [7] LOG:  duration: 1.000 ms  statement: SELECT 1\n"
        for hour, zone in ((1, "CEST"), (2, "CEST"), (2, "CET"), (3, "CET"))
        for minute in (0, 20, 40)
    ]
    path.write_text("".join(lines))
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path, timezone="Europe/Berlin"))
        (series,) = store.series(metric="statement_duration")
        (readings,) = store.read([series], ALL)
        assert readings.counts.sum(axis=1).tolist() == [3, 3, 3, 3]
        assert readings.at[0] == to_milliseconds(datetime(2026, 10, 24, 23, tzinfo=UTC))


def test_a_day_that_does_not_exist_is_left_out_and_said(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        stderr_line(START, call("SELECT 1"))
        + "2026-02-30 10:00:00.000 UTC [7] LOG:  duration: 1.000 ms  statement: SELECT 1\n"
        + stderr_line(START, call("SELECT 1"))
    )
    with Store.open(str(tmp_path / "s.db")) as store:
        assert any("impossible time" in note for note in collect(store, connector(path)))
        assert calls(store) == {"select ?": 2}


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40), max_size=8), st.binary(max_size=30))
def test_whatever_a_file_holds_every_line_is_a_message_or_part_of_one_or_counted_as_unread(texts, junk):
    block = b"".join(stderr_line(AT, call(text)).encode() for text in texts)
    found = read(block.decode())
    assert (len(found), found.unread) == (len(texts), 0)
    hostile = Stderr("%m [%p] ", CLOCK).read(block + junk + b"\n" + block)
    assert len(hostile) >= len(texts)


# -- true lines ------------------------------------------------------------------------------------------------------

DEBIAN_13 = """\
2021-03-05 06:25:01.870 CET [871] LOG:  received SIGHUP, reloading configuration files
2021-03-05 06:25:04.121 CET [20413] app@shop LOG:  duration: 1043.418 ms  statement: SELECT "orders"."id"
\tFROM "orders"
\tWHERE "orders"."state" = 'open'
2021-03-05 06:25:05.002 CET [20413] app@shop LOG:  duration: 301.002 ms  execute a1: UPDATE stock SET n = n - $1 WHERE sku = $2
2021-03-05 06:25:05.002 CET [20413] app@shop DETAIL:  parameters: $1 = '3', $2 = 'multi
\tline'
2021-03-05 06:25:06.100 CET [20413] app@shop ERROR:  canceling statement due to user request
2021-03-05 06:25:06.100 CET [20413] app@shop STATEMENT:  SELECT pg_sleep(10)
2021-03-05 06:25:09.730 CET [20999] [unknown]@[unknown] LOG:  connection received: host=10.0.0.4 port=50112
"""
RDS_14 = """\
2022-06-01 12:00:01 UTC::@:[388]:LOG:  checkpoint complete: wrote 12 buffers (0.1%); 0 WAL file(s) added
2022-06-01 12:00:02 UTC:10.1.2.3(51002):shop@orders:[9120]:LOG:  duration: 2211.004 ms  statement: select 1;
2022-06-01 12:00:03 UTC:10.1.2.3(51002):shop@orders:[9120]:LOG:  duration: 14.100 ms  bind <unnamed>: select $1
"""
REDHAT_12 = """\
< 2020-01-10 10:00:00.001 MSK >LOG:  database system is ready to accept connections
< 2020-01-10 10:00:01.001 MSK >LOG:  duration: 55.100 ms  statement: select now()
"""


@pytest.mark.parametrize(
    "text, database, counted",
    [
        (DEBIAN_13, "shop", {'select "orders"."id" from "orders" where "orders"."state" = ?': 1, "update stock set n = n - ? where sku = ?": 1}),
        (RDS_14, "orders", {"select ?": 1}),
        (REDHAT_12, "", {"select now()": 1}),
    ],
)
def test_true_lines_of_several_versions_are_read(tmp_path, text, database, counted):
    path = tmp_path / "postgresql.log"
    path.write_text(text)
    options = {"prefix": "< %m >"} if text.startswith("<") else {}
    with Store.open(str(tmp_path / "s.db")) as store:
        log = connector(path, **options)
        window = ALL.of(0, ALL.end)
        for batch in log.collect(window, {}):
            store.commit("log", batch)
            assert batch.notes == ()
        assert calls(store) == counted
        assert {dict(one.labels).get("database", "") for one in store.series()} == {database}
