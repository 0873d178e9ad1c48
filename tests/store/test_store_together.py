"""Several threads and processes at once, and processes that die."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from store_samples import EVER, START, batch, level, series

from harvester.readings import DAY, MINUTE
from harvester.store import Store

HERE = str(Path(__file__).parent)

WRITER = """
import sys, time
sys.path.insert(0, {here!r})
import numpy as np
from harvester.store import Store
from harvester.readings import MINUTE
from store_samples import EVER, START, batch, level, series

url, me, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
size = 3 if me % 2 else 90       # small ones wait, large ones rewrite their day
slowest, end = 0.0, time.monotonic() + seconds
with Store.open(url) as store:
    n = int(store.state(f"source {{me}}").get("n", 0))
    while time.monotonic() < end:
        started = time.perf_counter()
        values = np.full(size, float(n))
        # its own series, and one that all write: each its own minutes of the same day
        own = level(values, START + n * size * MINUTE, name=f"own {{me}}")
        common = level(values[:1], START + (4 * (n % 300) + me) * MINUTE, name="common")
        twin = level(values[:1], START + (4 * (n % 300) + me) * MINUTE, name="twin")
        store.commit(f"source {{me}}", batch(own, common, twin, state={{"n": n + 1}}), full_sync={full})
        print(n, flush=True)
        n += 1
        slowest = max(slowest, time.perf_counter() - started)
        if n % 10 == 0:
            seen = store.read([series(name="common"), series(name="twin")], EVER)
            assert seen[0].at.tolist() == seen[1].at.tolist(), "half a batch was read"
            assert seen[0].value.tolist() == seen[1].value.tolist(), "half a batch was read"
        if n % 40 == 0:
            store.fold()
print("slowest", slowest, flush=True)
"""


@contextmanager
def writers(url: str, count: int, seconds: float, *, full: bool = False) -> Iterator[list[subprocess.Popen[str]]]:
    code = WRITER.format(here=HERE, full=full)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, str(me), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for me in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def assert_whole(store: Store, me: int, acknowledged: int) -> None:
    """Every batch that was acknowledged is there once, and the state says exactly what is there."""
    n = int(store.state(f"source {me}").get("n", 0))
    assert n in (acknowledged, acknowledged + 1)  # committed, but killed before it could say so
    size = 3 if me % 2 else 90
    (own,) = store.read([series(name=f"own {me}")], EVER)
    assert own.at.tolist() == (START + np.arange(n * size) * MINUTE).tolist()
    assert own.value.tolist() == np.repeat(np.arange(n), size).tolist()
    common, twin = store.read([series(name="common"), series(name="twin")], EVER)
    mine = (common.at - START) // MINUTE % 4 == me
    expected = {START + (4 * (k % 300) + me) * MINUTE: float(k) for k in range(n)}
    assert dict(zip(common.at[mine].tolist(), common.value[mine].tolist(), strict=True)) == expected
    assert twin.value.tolist() == common.value.tolist()


def test_four_processes_write_and_read_at_once_without_an_error_or_a_loss(url: str) -> None:
    Store.open(url).close()
    with writers(url, 4, 3.0) as started:
        for me, process in enumerate(started):
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            lines = out.splitlines()
            assert float(lines[-1].split()[1]) < 5, "a writer was starved"
            assert len(lines) > 10
            with Store.open(url) as store:
                assert_whole(store, me, len(lines) - 1)
    with Store.open(url) as store:
        assert store.check() == []


def test_a_process_killed_at_any_moment_loses_nothing_it_acknowledged(url: str) -> None:
    Store.open(url).close()
    rng = random.Random(7)
    for _ in range(5):
        with writers(url, 1, 60.0, full=True) as started:
            process = started[0]
            assert process.stdout
            first = process.stdout.readline()
            assert first, process.communicate()[1]
            time.sleep(rng.uniform(0.0, 0.4))
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split("\n")
            acknowledged = [int(line) for line in [first, *rest[:-1]]]
        with Store.open(url) as store:
            assert_whole(store, 0, acknowledged[-1] + 1)
            assert store.check() == []


def test_readers_in_threads_never_see_half_a_batch_while_it_is_written_and_folded(url: str) -> None:
    names = [str(n) for n in range(6)]
    asked = [series(name=name) for name in names]
    stop = threading.Event()

    with Store.open(url) as store, ThreadPoolExecutor(4) as pool:
        def watch() -> None:
            while not stop.is_set():
                seen = [one.value.tolist() for one in store.read(asked, EVER)]
                assert all(one == seen[0] for one in seen)
                (newest,) = store.read(asked[:1], EVER)
                assert newest.value.tolist() >= seen[0]

        def write() -> None:
            try:
                for turn in range(60):
                    values = np.full(100 if turn % 7 == 0 else 2, float(turn))
                    store.commit("source", batch(*(level(values, name=name) for name in names)))
                    if turn % 10 == 9:
                        store.fold()
            finally:
                stop.set()

        for done in [pool.submit(work) for work in (watch, watch, watch, write)]:
            done.result()
        assert store.read(asked[:1], EVER)[0].value[:2].tolist() == [59, 59]


def test_many_processes_may_make_the_same_store_at_once(url: str) -> None:
    with writers(url, 4, 0.3) as started:
        for process in started:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err


MEMORY = """
import json, pathlib, sys
sys.path.insert(0, {here!r})
import numpy as np
from harvester.readings import DAY
from harvester.store import Store
from store_samples import EVER, START, batch, level, series

rng = np.random.default_rng(3)
def peak():  # of this program alone: getrusage would remember the one that started it
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
with Store.open(sys.argv[1]) as store:
    def work(days):
        for day in days:
            store.commit("s", batch(*(level(rng.normal(size=1440).round(3), START + day * DAY, name=str(k)) for k in range(20))))
            store.commit("s", batch(*(level([float(day)], START + day * DAY, name=str(k)) for k in range(20))))
    peaks = []
    for turn in range(4):
        work(range(20 * turn, 20 * turn + 20))
        store.fold()
        store.check()
        peaks.append(peak())
    print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory there")
def test_memory_does_not_grow_with_what_is_stored(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(here=HERE), str(tmp_path / "store.db")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = json.loads(done.stdout)
    assert last - first < 2, f"from {first:.0f} to {last:.0f} MB"
    assert first < 90  # of which 60 are imports


@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_batch_that_lost_the_race_for_its_day_still_loses_nothing(url: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes the same day after this one has read it and before it writes."""
    size = 100 if kind == "large" else 5
    with Store.open(url) as store, Store.open(url) as other:
        store.commit("source", batch(level(np.zeros(100))))
        plan, between = Store._plan, [lambda: other.commit("other", batch(level(np.full(100, 7.0), START + 300 * MINUTE)))]

        def late(self, *arguments):
            found = plan(self, *arguments)
            if self is store and between:
                between.pop()()
                other.fold()
            return found

        monkeypatch.setattr(Store, "_plan", late)
        store.commit("source", batch(level(np.full(size, 5.0), START + 200 * MINUTE)))
        (found,) = store.read([series()], EVER)
        assert len(found) == 200 + size
        assert sorted(set(found.value.tolist())) == [0, 5, 7]
        assert found.at[-1] < START + DAY
        store.fold()
        assert len(other.read([series()], EVER)[0]) == 200 + size
