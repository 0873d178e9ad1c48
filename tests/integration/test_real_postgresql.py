"""A real PostgreSQL's own log through the connector: calls per fingerprint are those of pg_stat_statements."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.postgres_slowlog import PostgresSlowLog
from connectors.postgres_slowlog.statements import fingerprint_of
from harvester.readings import HOUR, Window
from harvester.store.store import Store

pytestmark = pytest.mark.integration

SETTINGS = """\
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
shared_buffers = 32MB
shared_preload_libraries = 'pg_stat_statements'
pg_stat_statements.track_utility = on
pg_stat_statements.track_planning = off
logging_collector = on
log_destination = '{formats}'
log_directory = 'log'
log_filename = 'postgresql-%Y-%m-%d_%H%M%S.log'
log_file_mode = 0644
log_line_prefix = '%m [%p] %q%u@%d '
log_timezone = 'Europe/Berlin'
log_min_duration_statement = 0
lc_messages = 'C'
"""
SECRETS = ("hunter2", "424242", "geheim")


def binaries() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).parent)
    return max(found, key=str, default=None)


FORMATS = {"stderr": "*.log", "csvlog": "*.csv", "jsonlog": "*.json"}


def formats_of(programs: Path) -> list[str]:
    """Return the formats a server can write: jsonlog came with PostgreSQL 15."""
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    version = int(re.search(r"(\d+)", said)[1])
    return list(FORMATS) if version >= 15 else ["stderr", "csvlog"]


@dataclass
class Server:
    """A running server: its folder, and how to become its user."""

    folder: Path
    programs: Path
    user: list[str]

    def run(self, *words: str) -> None:
        command = [*self.user, str(self.programs / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.fail(f"{words[0]}: {done.stdout}{done.stderr}")

    def control(self, *words: str) -> None:
        # Its log goes to a file: a pipe would stay open as long as the server runs.
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "started"), *words)

    def connect(self, **options):
        psycopg = pytest.importorskip("psycopg")
        return psycopg.connect(f"host={self.folder} user=harvester dbname=postgres", autocommit=True, **options)


@pytest.fixture
def server() -> Iterator[Server]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL's initdb is not installed: no real server's log was read")
    folder = Path(tempfile.mkdtemp(prefix="harvester-log-", dir="/tmp"))  # a socket's path may have 107 characters only
    user: list[str] = []
    if os.getuid() == 0:  # which PostgreSQL refuses
        shutil.chown(folder, "nobody")
        user = ["setpriv", "--reuid=nobody", "--clear-groups", "--"]
    one = Server(folder, programs, user)
    try:
        one.run("initdb", "-D", str(folder / "data"), "-U", "harvester", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(folder=folder, formats=",".join(formats_of(programs))))
        one.control("start")
        try:
            yield one
        finally:
            one.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def workload(server: Server, *, rounds: int) -> None:
    """Run statements of many kinds through both protocols, literals and parameters in each."""
    with server.connect() as simple, server.connect(prepare_threshold=0) as extended:
        for n in range(rounds):
            numbers = ", ".join(map(str, range(n + 1)))
            rows = ", ".join(f"({n}, 'it''s geheim', {k}.5)" for k in range(n + 1))
            simple.execute(f"SELECT id, total FROM orders WHERE customer = {424242 + n} AND state = 'hunter2' ORDER BY id LIMIT 20")
            simple.execute(f"select  id, total\nfrom ORDERS -- note {n}\nwhere customer = {n} and state = 'geheim'\norder by id limit 5")
            simple.execute(f"SELECT count(*) FROM shop.orders WHERE customer IN ({numbers})")
            simple.execute(f"INSERT INTO orders (customer, state, total) VALUES {rows}")
            simple.execute(f'UPDATE "orders" SET total = total + {n} WHERE id = {n} AND "state" <> E\'hunter\\\'2\'')
            fake = f"2026-01-01 00:00:00.000 UTC [1] LOG:  duration: 9.0 ms  statement: SELECT {n}"
            simple.execute(f"SELECT $tag$hunter2\n{fake}\n\t{fake}$tag$, $x$geheim$x$")
            extended.execute("SELECT total FROM orders WHERE id = %s AND state = %s", (424242 + n, "hunter2\n\tgeheim"))
            extended.execute("DELETE FROM orders WHERE id = %s", (-n,))
            with extended.transaction():
                extended.execute("UPDATE shop.orders SET total = %s WHERE customer = %s", (n, n))
        with pytest.raises(Exception, match="does not exist"):
            simple.execute("SELECT nothing FROM orders WHERE state = 'hunter2'")
        simple.execute("SET work_mem = '8MB'")
        simple.execute("DO $body$ BEGIN PERFORM 'hunter2'; END $body$")
        simple.execute("CREATE ROLE someone PASSWORD 'hunter2'" if rounds > 6 else "ALTER ROLE someone PASSWORD 'geheim'")


def settled(server: Server) -> None:
    """Wait until the collector has written the last line that was logged."""
    mark = f"the last one of {time.time_ns()}"
    with server.connect() as connection:
        connection.execute(f"SELECT '{mark}'")
    folder = server.folder / "data" / "log"
    logs = [max(folder.glob(pattern), key=str) for pattern in FORMATS.values() if any(folder.glob(pattern))]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if all(mark.encode() in log.read_bytes() for log in logs):
            time.sleep(0.01)  # a window ends before the millisecond it is asked in
            return
        time.sleep(0.1)
    pytest.fail("the server never wrote its log")


def by_fingerprint(store: Store) -> tuple[Counter[str], dict[str, float]]:
    counts: Counter[str] = Counter()
    totals: dict[str, float] = {}
    series = store.series(metric="statement_duration")
    for one, readings in zip(series, store.read(series, Window.of(0, 4 * 10**12)), strict=True):
        name = dict(one.labels)["fingerprint"]
        counts[name] += round(readings.counts.sum())
        totals[name] = totals.get(name, 0.0) + float(readings.total.sum())
    return counts, totals


def test_calls_per_fingerprint_of_every_format_equal_pg_stat_statements_before_and_after_an_index(server, tmp_path):
    with server.connect() as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute("CREATE SCHEMA shop")
        connection.execute("CREATE TABLE shop.orders (id serial, customer int, state text, total numeric)")
        connection.execute("CREATE TABLE orders (id serial, customer int, state text, total numeric)")
        connection.execute("INSERT INTO orders (customer, state, total) SELECT n % 500, 'open', n FROM generate_series(1, 20000) n")
    folder = server.folder / "data" / "log"
    formats = {name: FORMATS[name] for name in formats_of(server.programs)}
    with ExitStack() as opened:
        stores = {name: opened.enter_context(Store.open(str(tmp_path / f"{name}.db"))) for name in formats}
        logs = {
            name: PostgresSlowLog(source="log", paths=(str(folder / pattern),), timezone="Europe/Berlin")
            for name, pattern in formats.items()
        }

        def collect() -> None:
            settled(server)
            for name, store in stores.items():
                now = time.time_ns() // 1_000_000
                for batch in logs[name].collect(Window.of(now - 6 * HOUR, now), store.state("log")):
                    assert not any(secret in str(batch) for secret in SECRETS)
                    assert batch.notes == ()
                    store.commit("log", batch)

        workload(server, rounds=8)
        collect()
        with server.connect() as connection:
            connection.execute("CREATE INDEX ON orders (customer)")
        workload(server, rounds=5)
        # What is logged up to here, counted by the server itself; its own question is the only call it misses.
        with server.connect() as connection:
            rows = connection.execute("SELECT query, sum(calls), sum(total_exec_time) FROM pg_stat_statements GROUP BY 1").fetchall()
        collect()
        expected: Counter[str] = Counter()
        for query, number, _ in rows:
            expected[fingerprint_of(query).fingerprint] += int(number)
        last = fingerprint_of("SELECT 'the last one'").fingerprint
        question = fingerprint_of("SELECT query, sum(calls), sum(total_exec_time) FROM pg_stat_statements GROUP BY 1").fingerprint
        extension = fingerprint_of("CREATE EXTENSION pg_stat_statements").fingerprint
        for name, store in stores.items():
            counted, totals = by_fingerprint(store)
            counted[last] -= 1  # the second one came after
            del counted[question], counted[extension]  # which the extension cannot have counted itself
            assert {key: n for key, n in counted.items() if n} == {key: n for key, n in expected.items() if key != extension}, name
            assert len(expected) > 15
            assert sum(totals.values()) > 0
        series = [{one.labels: sum(r.counts.sum(axis=1)) for one, r in zip(store.series(), store.read(store.series(), Window.of(0, 4 * 10**12)), strict=True)} for store in stores.values()]
        assert all(one == series[0] for one in series)
        for store in stores.values():
            (span,) = store.coverage("log", "statement_duration", None).spans  # committed as the connector yields it
            assert span[0] < span[1] <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("settings", [("log_duration = on", "log_statement = 'all'", "log_min_duration_statement = -1"), ("log_statement = 'mod'", "log_min_duration_statement = 0")])
def test_statements_and_durations_in_lines_of_their_own_are_linked(server, tmp_path, settings):
    with (server.folder / "data" / "postgresql.conf").open("a") as file:
        file.write("\n".join(settings) + "\nlog_line_prefix = '%t:%r:%u@%d:[%p]:'\n")
    server.control("restart")
    with server.connect() as connection:
        connection.execute("CREATE TABLE t (a int, b text)")
        for n in range(7):
            connection.execute(f"INSERT INTO t VALUES ({n}, 'hunter2')")
            connection.execute(f"SELECT a FROM t WHERE a = {n}")
    settled(server)
    newest = max((server.folder / "data" / "log").glob("*.log"), key=str)
    now = time.time_ns() // 1_000_000
    log = PostgresSlowLog(source="log", paths=(str(newest),), timezone="Europe/Berlin")
    with Store.open(str(tmp_path / "s.db")) as store:
        for batch in log.collect(Window.of(now - 6 * HOUR, now), {}):
            store.commit("log", batch)
        counted, _ = by_fingerprint(store)
        labels = {dict(one.labels)["fingerprint"]: dict(one.labels) for one in store.series(metric="statement_duration")}
    for text, number in (("INSERT INTO t VALUES (1, 'x')", 7), ("SELECT a FROM t WHERE a = 1", 7), ("CREATE TABLE t (a int, b text)", 1)):
        assert counted[fingerprint_of(text).fingerprint] == number
        assert labels[fingerprint_of(text).fingerprint]["database"] == "postgres"
