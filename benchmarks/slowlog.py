"""
CPU per MB of the slow-log reader against pgBadger, in turn on the same generated files.

    python benchmarks/slowlog.py [--megabytes 30] [--rounds 3] [--keep FOLDER]

A seeded workload is written twice, as stderr and as csvlog: repeated prepared statements, texts with ever new literals,
generated texts of many shapes, long lists, multi-line statements, parameters, errors, checkpoints. Both programs read
the whole file; what is compared is the CPU time of a process of its own, start-up included.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

TABLES = ("orders", "customers", "payments", "stock", "shipments", "sessions", "events", "carts", "prices", "reviews")
COLUMNS = ("id", "state", "created_at", "amount", "sku", "email", "region", "weight", "score", "parent_id")
WORDS = ("open", "closed", "paid", "O''Brien", "new york", '{"a": [1, 2]}', "%shoes%", "2026-11-22", "a@example.com", "x")
COMBINATIONS = tuple(
    (random.Random(i).choice(TABLES), *random.Random(i + 100).sample(COLUMNS, 2), random.Random(i + 200).choice(TABLES))
    for i in range(60)
)
"""About 400 kinds of statement come of these; the ad-hoc ones among them add some thousand more."""


@dataclass(frozen=True)
class Logged:
    """One logged message, as both formats need it."""

    at: datetime
    pid: int
    severity: str
    message: str
    detail: str = ""


def statement(rng: random.Random) -> tuple[str, str, str]:
    """Return (kind, text, detail) of one statement."""
    kind = rng.random()
    table, column, other, joined = rng.choice(COMBINATIONS)
    if kind < 0.30:
        values = f"parameters: $1 = '{rng.randrange(10**6)}', $2 = '{rng.choice(WORDS)}'"
        return "execute <unnamed>", f"SELECT * FROM {table} WHERE {column} = $1 AND {other} = $2 LIMIT 20", values
    if kind < 0.60:
        text = (
            f"SELECT {column}, {other}, count(*) FROM {table} WHERE id = {rng.randrange(10**7)} AND region = "
            f"'{rng.choice(WORDS)}' AND created_at > '2026-11-{rng.randrange(1, 29):02d}' GROUP BY 1, 2"
        )
        return "statement", text, ""
    if kind < 0.72:
        text = (
            f'UPDATE "{table}" SET "{column}" = {rng.randrange(10**5)}.{rng.randrange(100)}, "{other}" = '
            f"'{rng.choice(WORDS)}' WHERE \"{table}\".\"id\" = {rng.randrange(10**7)} RETURNING id"
        )
        return "statement", text, ""
    if kind < 0.80:
        rows = ", ".join(
            f"({rng.randrange(10**6)}, '{rng.choice(WORDS)}', {rng.random():.4f})" for _ in range(rng.randrange(1, 12))
        )
        return "statement", f"INSERT INTO {table} (id, {column}, {other}) VALUES {rows}", ""
    if kind < 0.86:
        ids = ", ".join(str(rng.randrange(10**6)) for _ in range(rng.randrange(2, 80)))
        return "statement", f"SELECT {column} FROM shop.{table} WHERE id IN ({ids}) ORDER BY {other} DESC", ""
    if kind < 0.92:
        text = (
            f"SELECT a.{column}, b.{other},\n       sum(a.amount) AS total\n  FROM {table} a\n  JOIN {joined} b"
            f" ON b.parent_id = a.id -- {rng.randrange(10**6)}\n WHERE a.created_at BETWEEN '2026-01-01' AND now()\n"
            f"   AND b.score > {rng.random():.3f}\n GROUP BY 1, 2\nHAVING count(*) > {rng.randrange(9)}"
        )
        return "statement", text, ""
    if kind < 0.94:
        chosen = rng.sample(COLUMNS, rng.randrange(2, 6))
        where = " AND ".join(f"{name} {rng.choice(('=', '<', '>', '<>'))} {rng.randrange(10**4)}" for name in chosen)
        return "statement", f"SELECT {', '.join(rng.sample(COLUMNS, 3))} FROM {table} WHERE {where} LIMIT {rng.randrange(100)}", ""
    return "statement", rng.choice(("BEGIN", "COMMIT")), ""


def workload(seed: int = 7) -> Iterator[Logged]:
    """Yield messages for ever, in the order of their time."""
    rng = random.Random(seed)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    while True:
        at += timedelta(milliseconds=rng.expovariate(1 / 40))
        pid = 2000 + rng.randrange(40)
        chance = rng.random()
        if chance < 0.004:
            message = 'duplicate key value violates unique constraint "payments_order_id_key"'
            yield Logged(at, pid, "ERROR", message, f"Key (order_id)=({rng.randrange(10**5)}) already exists.")
        elif chance < 0.008:
            yield Logged(at, 611, "LOG", f"checkpoint complete: wrote {rng.randrange(9000)} buffers (1.2%); total=4.1 s")
        elif chance < 0.04:
            yield Logged(at, pid, "LOG", f"duration: {rng.expovariate(9):.3f} ms  parse <unnamed>: SELECT 1 FROM {rng.choice(TABLES)}")
        else:
            kind, text, detail = statement(rng)
            took = rng.lognormvariate(1.0, 1.2)
            yield Logged(at, pid, "LOG", f"duration: {took:.3f} ms  {kind}: {text}", detail)


def stamp(at: datetime) -> str:
    """Return a time as the server writes it."""
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} UTC"


def stderr_text(one: Logged) -> str:
    """Return a message as ``%m [%p] %q%u@%d`` has it, continuation lines led by a tab."""
    head = f"{stamp(one.at)} [{one.pid}] " + ("" if one.pid == 611 else "shop@shop ")
    text = f"{head}{one.severity}:  " + one.message.replace("\n", "\n\t") + "\n"
    if one.detail:
        text += f"{head}DETAIL:  {one.detail}\n"
    return text


def csv_text(one: Logged, number: int) -> str:
    """Return a message as csvlog of PostgreSQL 14 and later has it, in 26 columns."""

    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if text else ""

    background = one.pid == 611
    who = ",," if background else '"shop","shop",'
    return (
        f"{stamp(one.at)},{who}{one.pid},{quoted('' if background else '10.0.0.7:40112')},6740f1aa.{one.pid:x},{number},"
        f"{quoted('' if background else 'SELECT')},2026-11-01 00:00:00 UTC,3/{number},0,{one.severity},"
        f"{'00000' if one.severity == 'LOG' else '23505'},{quoted(one.message)},{quoted(one.detail)},,,,,,,,"
        f"{quoted('' if background else 'shop-api')},{quoted('checkpointer' if background else 'client backend')},,0\n"
    )


def write_logs(folder: Path, megabytes: float) -> dict[str, Path]:
    """Write one workload in both formats, each of about the size asked for."""
    paths = {"stderr": folder / "bench.log", "csvlog": folder / "bench.csv"}
    for name, path in paths.items():
        left = megabytes * 1e6
        with path.open("w", encoding="utf-8") as file:
            for number, one in enumerate(workload()):
                text = stderr_text(one) if name == "stderr" else csv_text(one, number)
                file.write(text)
                left -= len(text)
                if left <= 0:
                    break
    return paths


def cpu_of(command: list[str]) -> tuple[float, float]:
    """Run a command and return its CPU and wall seconds, children included."""
    started, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after, ended = os.times(), time.perf_counter()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, ended - started


def read_all(path: Path) -> None:
    """Read one log wholly through the connector: what the other process does."""
    from connectors.postgres_slowlog import PostgresSlowLog
    from harvester.readings import Window

    log = PostgresSlowLog(source="bench", paths=(str(path),))
    for _ in log.collect(Window.of(0, 4 * 10**12), {}):
        pass


def main() -> int:
    """Print CPU per MB of both programs and their ratio for each format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="write the logs there and leave them")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read_all(options.read)
        return 0
    badger = shutil.which("pgbadger")
    if badger is None:
        print("pgbadger is not installed, so there is nothing to compare with (apt-get install pgbadger)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        for name, path in write_logs(folder, options.megabytes).items():
            size = path.stat().st_size / 1e6
            ours: list[float] = []
            theirs: list[float] = []
            walls: list[float] = []
            for _ in range(options.rounds):
                cpu, wall = cpu_of([sys.executable, __file__, "--read", str(path)])
                ours.append(cpu)
                if badger:
                    words = [badger, "-q", "-f", "stderr" if name == "stderr" else "csv", "-o", str(folder / "out.json")]
                    words += ["-p", "%m [%p] %q%u@%d "] if name == "stderr" else []
                    cpu, other = cpu_of([*words, str(path)])
                    theirs.append(cpu)
                    walls.append(other / wall)
            mine = statistics.median(ours)
            line = f"{name:7} {size:5.1f} MB  harvester {mine:6.2f} CPU s ({size / mine:5.1f} MB per CPU s)"
            if badger:
                other = statistics.median(theirs)
                line += f"  pgbadger {other:6.2f} CPU s ({size / other:4.1f})  ratio {other / mine:4.1f}x CPU, {statistics.median(walls):4.1f}x wall"
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
