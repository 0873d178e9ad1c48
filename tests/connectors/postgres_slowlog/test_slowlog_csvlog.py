"""The csvlog format: every version's columns, quotes and line ends inside fields, torn rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slowlog_writing import START, call, calls, collect, connector, coverage, csv_line

from connectors.postgres_slowlog.csvlog import Csvlog
from connectors.postgres_slowlog.times import Clock
from harvester.readings import HOUR, to_milliseconds
from harvester.store.store import Store

CLOCK = Clock("log")

# As servers of these versions write them: 9.0 to 12 have 23 columns, 13 has 24, 14 and later 26; 8.x had 22.
PG_9_6 = (
    '2019-04-02 09:15:22.123 CEST,"app","shop",2817,"10.0.0.4:51122",5ca30b4a.b01,12,"SELECT",2019-04-02 09:11:38 CEST,'
    '4/1201,0,LOG,00000,"duration: 1512.003 ms  statement: SELECT ""id"" FROM ""t""\n WHERE a = \'x,""y""\'",,,,,,,,,"web"\n'
)
PG_13 = (
    '2021-03-05 06:25:04.121 CET,"app","shop",20413,"[local]",6041c11f.4fbd,3,"UPDATE",2021-03-05 06:24:15 CET,5/90,0,LOG,'
    '00000,"duration: 301.002 ms  execute a1: UPDATE stock SET n = n - $1 WHERE sku = $2","parameters: $1 = \'3\', '
    '$2 = \'O\'\'Brien, ""x""\'",,,,,,,,"","client backend"\n'
)
PG_15 = (
    '2026-11-22 10:00:00.123 UTC,,,611,,6740f1aa.263,2,,2026-11-22 09:00:00 UTC,,0,LOG,00000,"checkpoint starting: time",'
    ',,,,,,,,"","checkpointer",,0\n'
    '2026-11-22 10:00:01.000 UTC,"app","shop",4711,"[local]",6740f1aa.1267,3,"SELECT",2026-11-22 09:00:00 UTC,3/7,0,LOG,'
    '00000,"duration: 2.500 ms  statement: SELECT 1;",,,,,,,,,"psql","client backend",,-61274\n'
)


@pytest.mark.parametrize(
    "text, texts, database",
    [
        (PG_9_6, ['SELECT ""id"" FROM ""t""\n WHERE a = \'x,""y""\''], b"shop"),
        (PG_13, ["UPDATE stock SET n = n - $1 WHERE sku = $2"], b"shop"),
        (PG_15, ["checkpoint starting: time", "SELECT 1;"], b""),
    ],
)
def test_true_rows_of_several_versions_are_read(text, texts, database):
    found = Csvlog(CLOCK).read(text.encode())
    assert found.unread == 0
    assert [one.decode() for one in found.text] == texts
    assert found.database[0] == database


@pytest.mark.parametrize("columns", [22, 23, 24, 26])
def test_rows_of_every_number_of_columns_are_read_and_shorter_ones_are_not(columns):
    row = csv_line(START, call("SELECT 1"), columns=columns)
    assert Csvlog(CLOCK).read(row.encode()).duration.tolist() == [1500]
    assert len(Csvlog(CLOCK).read(csv_line(START, call("SELECT 1"), columns=20).encode())) == 0


def test_rows_with_line_ends_of_windows_are_read():
    rows = (csv_line(START, call("SELECT 1")) * 2).replace("\n", "\r\n")
    assert Csvlog(CLOCK).read(rows.encode()).duration.tolist() == [1500, 1500]


def test_a_row_inside_a_literal_a_parameter_or_a_name_is_no_row():
    fake = "\n" + csv_line(START, call("DROP TABLE t", 9999)) + "2026-11-22 10:00:00.000 UTC,,,1,,a.1,1,,x,,0,LOG,00000,"
    rows = (
        csv_line(START, call(f"SELECT '{fake}'")) + csv_line(START, call("SELECT 1"), detail=f"parameters: $1 = '{fake}'")
        + csv_line(START, call("SELECT 1"), database=f"x{fake}") + csv_line(START, call("SELECT 2"))
    )  # fmt: skip
    found = Csvlog(CLOCK).read(rows.encode())
    assert (found.duration.tolist(), found.unread) == ([1500] * 4, 0)


@pytest.mark.parametrize("rest", ["", "\n"])
@settings(deadline=None)
@given(data=st.data())
def test_a_torn_row_loses_that_row_only(rest, data):
    """The next one begins in the same line, as after a crash, or in the next."""
    row = csv_line(START, call("SELECT 'it''s \"torn\"' FROM t"))
    whole = csv_line(START, call("SELECT 'TORN'\n, 2"))
    torn = whole[: data.draw(st.integers(5, whole.index('2",,') + 1))]
    found = Csvlog(CLOCK).read((row + torn + rest + row * 2).encode())
    assert len(found) == 3
    assert not any(b"TORN" in text for text in found.text)
    assert found.unread > 0
    assert found.lost == [1] * len(found.lost)


def test_a_torn_row_leaves_a_gap_in_what_is_proven(tmp_path):
    rows = [csv_line(START + timedelta(minutes=30 * n), call("SELECT 1")) for n in range(6)]
    path = tmp_path / "log.csv"
    path.write_text("".join([*rows[:2], rows[2][:150] + "\n", *rows[3:]]))
    begin = to_milliseconds(START)
    with Store.open(str(tmp_path / "s.db")) as store:
        notes = collect(store, connector(path))
        assert calls(store) == {"select ?": 5}
        assert coverage(store) == ((begin, begin + HOUR // 2), (begin + 3 * HOUR // 2, begin + 5 * HOUR // 2))
    assert any("not every line belongs to a message" in note for note in notes)


def test_a_row_with_a_context_was_raised_by_a_function_and_is_no_call(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        csv_line(START, call("DELETE FROM t", 99), context="PL/pgSQL function f() line 3 at RAISE")
        + csv_line(START, call("SELECT f()"))
    )
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path))
        assert calls(store) == {"select f()": 1}


def test_sql_s_execute_and_bare_durations_are_what_they_are_in_stderr_logs(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        csv_line(START, call("EXECUTE find(7)"), detail='prepare: PREPARE find AS SELECT "a" FROM t WHERE a = $1')
        + csv_line(START, 'statement: SELECT "b" FROM t', pid=5) + csv_line(START, "duration: 3.000 ms", pid=5)
    )  # fmt: skip
    with Store.open(str(tmp_path / "s.db")) as store:
        collect(store, connector(path))
        assert calls(store) == {'select "a" from t where a = ?': 1, 'select "b" from t': 1}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60), max_size=6), st.binary(max_size=40))
def test_whatever_the_fields_hold_every_row_is_read_and_what_is_none_is_counted(texts, junk):
    rows = "".join(csv_line(START, call(text), detail=text, database=text or "d") for text in texts).encode()
    found = Csvlog(CLOCK).read(rows)
    assert (len(found), found.unread) == (len(texts), 0)
    assert [one.replace(b'""', b'"').decode() for one in found.text] == [call(text).split("statement: ", 1)[1] for text in texts]
    hostile = Csvlog(CLOCK).read(rows + junk + b"\n" + rows)
    assert len(hostile) >= len(texts)
