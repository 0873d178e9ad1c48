"""
The store under kill -9 and under four processes at once, on SQLite and on a throwaway PostgreSQL.

    python benchmarks/soak_store.py [--kills 200] [--seconds 30] [--only sqlite,postgresql]

A writer commits small and large batches, folds, compacts and says each number it committed. It is killed at a random
moment, again and again on the same store; each time every batch it said is there once, the state says exactly what is
there, and the store finds nothing wrong with itself. Then four write and read at once: no error, nothing lost, no half
batch ever seen; the times of their commits are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harvester.connector import Batch
from harvester.readings import DAY, MINUTE, Level, Metric, Series, Shape, Window
from harvester.store import Store

METRIC = Metric("soak", "1", Shape.LEVEL)
START = 20_000 * DAY
EVER = Window.of(0, 2**62)
SMALL, LARGE = 3, 90  # readings a batch: those that wait, and those that rewrite their day


class Missing(Exception):
    """PostgreSQL cannot be started here."""


class Lost(AssertionError):
    """Something that was acknowledged is not there, or something is there that was not."""


def series(name: str) -> Series:
    return Series("soak", METRIC, (("name", name),))


@contextmanager
def postgresql() -> Iterator[str]:
    """
    Start PostgreSQL as an ordinary user on a unix socket, and give the URL of an empty database.

    Raises:
        Missing: if it is not installed.
    """
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).parent)
    if not found:
        raise Missing("PostgreSQL's initdb is not installed")
    binaries = max(found, key=str)
    folder = Path(tempfile.mkdtemp(prefix="harvester-pg-", dir="/tmp"))  # a socket's path may have 107 characters only
    user: list[str] = []
    if os.getuid() == 0:  # which PostgreSQL refuses
        shutil.chown(folder, "nobody")
        user = ["setpriv", "--reuid=nobody", "--clear-groups", "--"]

    def run(*words: str) -> None:
        command = [*user, str(binaries / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{words[0]}: {done.stdout}{done.stderr}")

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "harvester", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=40 -c shared_buffers=32MB"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://harvester@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(url: str, me: int, seconds: float) -> None:
    """Commit, read, fold and compact for some seconds, saying each number that was committed; then the times taken."""
    end = time.monotonic() + seconds
    taken = []
    with Store.open(url) as store:
        n = int(store.state(f"source {me}").get("n", 0))
        while time.monotonic() < end:
            size = SMALL if (n + me) % 2 else LARGE
            at = START + (n * LARGE + np.arange(size, dtype=np.int64)) * MINUTE
            # Two series that all write, each its own minutes of one day, always the same to both.
            shared = np.array([START + (4 * (n % 300) + me) * MINUTE])
            batch = Batch(
                (
                    Level(series(f"own {me}"), at, np.full(size, float(n))),
                    Level(series("common"), shared, np.array([float(n)])),
                    Level(series("twin"), shared, np.array([float(n)])),
                ),
                state={"n": n + 1},
            )
            began = time.perf_counter()
            store.commit(f"source {me}", batch, full_sync=n % 3 == 0)
            taken.append(time.perf_counter() - began)
            print(n, flush=True)
            n += 1
            if n % 10 == 0:
                common, twin = store.read([series("common"), series("twin")], EVER)
                if common.at.tolist() != twin.at.tolist() or common.value.tolist() != twin.value.tolist():
                    raise Lost("half a batch was read")
            if n % 40 == 0:
                store.fold()
            if n % 150 == 0 and me == 0:
                store.sync(compact=True)
    print(json.dumps({"taken": taken}), flush=True)


@contextmanager
def writers(url: str, count: int, seconds: float) -> Iterator[list[subprocess.Popen[str]]]:
    """Give processes that ``write``; none outlives the block."""
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--write", url, str(me), str(seconds)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def verify(store: Store, me: int, acknowledged: int) -> int:
    """
    Return how many batches of a writer the store has, whole, each once, and its state exactly there.

    Raises:
        Lost: if that is not so.
    """
    n = int(store.state(f"source {me}").get("n", 0))
    if n not in (acknowledged, acknowledged + 1):  # it may have been killed before it could say the last one
        raise Lost(f"{acknowledged} batches were acknowledged, the state says {n}")
    sizes = [SMALL if (k + me) % 2 else LARGE for k in range(n)]
    own, common, twin = store.read([series(f"own {me}"), series("common"), series("twin")], EVER)
    expected = [START + (k * LARGE + j) * MINUTE for k, size in enumerate(sizes) for j in range(size)]
    if own.at.tolist() != expected or own.value.tolist() != np.repeat(np.arange(n), sizes).tolist():
        raise Lost(f"{len(expected)} readings are to be there, {len(own)} are")
    mine = (common.at - START) // MINUTE % 4 == me
    newest = {START + (4 * (k % 300) + me) * MINUTE: float(k) for k in range(n)}
    if dict(zip(common.at[mine].tolist(), common.value[mine].tolist(), strict=True)) != newest:
        raise Lost("the common series has other values than were written last")
    if twin.value.tolist() != common.value.tolist():
        raise Lost("half a batch is there")
    return n


def kill(url: str, times: int, rng: random.Random) -> int:
    """
    Kill a writer at random moments, its start included, and verify the store each time; return how many batches it has.

    Raises:
        Lost: if one of them is not whole, or the store finds something wrong with itself.
    """
    n = 0
    for turn in range(times):
        with writers(url, 1, 3600.0) as (process,):
            if process.stdout is None:
                raise Lost("the writer cannot be heard")
            said = process.stdout.readline() if rng.random() < 0.7 else ""
            time.sleep(rng.uniform(0.0, 0.4) if said else rng.uniform(0.3, 1.5))
            if process.poll() is not None:
                raise Lost(f"the writer ended by itself: {process.communicate()[1]}")
            os.kill(process.pid, signal.SIGKILL)
            lines = [said, *process.stdout.read().split("\n")[:-1]]
            numbers = [int(line) for line in lines if line.strip()]
        with Store.open(url) as store:
            n = verify(store, 0, numbers[-1] + 1 if numbers else n)
            if turn % 10 == 9 or turn == times - 1:
                problems = store.check()
                if problems:
                    raise Lost("; ".join(problems))
    return n


def together(url: str, count: int, seconds: float) -> list[float]:
    """
    Let processes write and read at once, verify what each said, and return the times of their commits, sorted.

    Raises:
        Lost: if one failed or anything is missing.
    """
    taken: list[float] = []
    Store.open(url).close()
    with writers(url, count, seconds) as started:
        heard = [process.communicate(timeout=seconds + 120) for process in started]
        for me, (process, (out, err)) in enumerate(zip(started, heard, strict=True)):
            if process.returncode:
                raise Lost(f"writer {me} failed: {err}")
            *numbers, last = out.splitlines()
            taken += json.loads(last)["taken"]
            with Store.open(url) as store:
                if verify(store, me, len(numbers)) != len(numbers):
                    raise Lost(f"writer {me} committed what it never said")
    with Store.open(url) as store:
        problems = store.check()
    if problems:
        raise Lost("; ".join(problems))
    return sorted(taken)


def soak(name: str, url: str, other: str, options: argparse.Namespace) -> None:
    began = time.monotonic()
    n = kill(url, options.kills, random.Random(options.seed))
    print(f"{name}: {options.kills} kills, {n} batches, each there once ({time.monotonic() - began:.0f} s)", flush=True)
    taken = together(other, 4, options.seconds)
    p50, p99 = (1000 * taken[int(len(taken) * share)] for share in (0.5, 0.99))
    print(
        f"{name}: 4 processes for {options.seconds:.0f} s, {len(taken)} commits, none lost; p50 {p50:.1f} ms, "
        f"p99 {p99:.1f} ms (wanted < 200: {'met' if p99 < 200 else 'NOT MET'}), slowest {1000 * taken[-1]:.0f} ms",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["sqlite", "postgresql"])
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        url, me, seconds = options.write
        write(url, int(me), float(seconds))
        return 0
    try:
        if "sqlite" in options.only:
            with tempfile.TemporaryDirectory() as folder:
                soak("SQLite", f"{folder}/killed.db", f"{folder}/together.db", options)
        if "postgresql" in options.only:
            try:
                with postgresql() as url:
                    import sqlalchemy as sa

                    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
                    with engine.connect() as connection:
                        connection.exec_driver_sql("CREATE DATABASE together")
                    engine.dispose()
                    soak("PostgreSQL", url, url.replace("/postgres?", "/together?"), options)
            except Missing as e:
                print(f"PostgreSQL: skipped, {e}")
    except Lost as e:
        print(f"FAILED: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
