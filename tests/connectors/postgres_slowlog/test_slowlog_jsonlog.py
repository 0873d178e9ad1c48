"""The jsonlog format: any order of keys, bytes of other encodings, torn lines, and nothing inside a literal is an event."""

from __future__ import annotations

import json

import pytest

from connectors.postgres_slowlog.jsonlog import Jsonlog
from connectors.postgres_slowlog.messages import FOREIGN
from connectors.postgres_slowlog.times import Clock

READER = Jsonlog(Clock("log"))
PG_15 = (
    '{"timestamp":"2026-11-22 10:00:01.000 UTC","user":"app","dbname":"shop","pid":4711,"remote_host":"[local]",'
    '"session_id":"6740f1aa.1267","line_num":3,"ps":"SELECT","session_start":"2026-11-22 09:00:00 UTC","vxid":"3/7",'
    '"txid":0,"error_severity":"LOG","message":"duration: 2.500 ms  statement: SELECT \'a\\n\\"b\\"\'",'
    '"application_name":"psql","backend_type":"client backend","query_id":0}'
)


def line(message, **more):
    told = {"timestamp": "2026-11-22 10:00:01.000 UTC", "pid": 7, "error_severity": "LOG", "message": message, **more}
    return json.dumps(told, ensure_ascii=False)


def read(*lines):
    return READER.read("".join(f"{one}\n" for one in lines).encode())


def test_a_true_line_is_read():
    found = read(PG_15)
    assert (found.duration.tolist(), found.kind, found.database, found.user, found.pid) == (
        [2500], [b"statement"], [b"shop"], [b"app"], [b"4711"],
    )
    assert found.text == [b"SELECT 'a\n\"b\"'"]
    assert found.at.tolist() == [1795341601000]


def test_the_order_of_the_keys_and_the_spaces_between_them_do_not_matter():
    told = json.loads(PG_15)
    again = json.dumps(dict(reversed(told.items())), indent=None, separators=(" , ", " : "))
    assert read(again).text == read(PG_15).text


def test_a_torn_line_loses_itself_only_even_where_the_next_one_follows_without_an_end():
    whole = line("duration: 1.000 ms  statement: SELECT 1")
    found = read(whole, whole[:60] + whole, whole)
    assert found.duration.tolist() == [1000, 1000, 1000]
    assert found.unread == 1


def test_bytes_of_a_database_of_another_encoding_are_read():
    latin = line("duration: 1.000 ms  statement: SELECT 'é'").encode("latin-1")
    found = READER.read(latin + b"\n" + line("duration: 2.000 ms  statement: SELECT 2").encode() + b"\n")
    assert found.duration.tolist() == [1000, 2000]
    assert found.unread == 0


def test_a_line_of_the_log_inside_a_literal_is_no_event():
    fake = line("duration: 9.000 ms  statement: SELECT 9")
    found = read(line(f"duration: 1.000 ms  statement: SELECT $x$\n{fake}\n$x$"))
    assert found.duration.tolist() == [1000]


def test_a_duration_that_a_function_raised_is_foreign():
    found = read(line("duration: 1.000 ms  statement: SELECT 1", context="PL/pgSQL function f() line 1 at RAISE"))
    assert found.kind == [FOREIGN]


@pytest.mark.parametrize("text", ["[1, 2]", "{}", '{"timestamp": "now", "error_severity": "LOG"}', "plain", '"x"', "null"])
def test_json_that_is_no_message_is_counted_not_read(text):
    found = read(text, line("duration: 1.000 ms  statement: SELECT 1"))
    assert found.duration.tolist() == [1000]
    assert found.unread == 1


def test_a_block_is_cut_at_lines_only():
    data = f"{PG_15}\n{PG_15}\n{PG_15[:40]}".encode()
    assert data[: READER.end(data)].count(b"\n") == 2
