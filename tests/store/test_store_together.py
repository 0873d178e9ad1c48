"""Several threads and processes at once, and processes that die."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soak_store
import sqlalchemy as sa
from soak_store import Lost, kill, together, verify, writers
from store_samples import EVER, START, batch, level, series

from harvester.readings import DAY, MINUTE, Level
from harvester.store import Store

HERE = str(Path(__file__).parent)


def test_four_processes_write_and_read_at_once_without_an_error_or_a_loss(url: str) -> None:
    taken = together(url, 4, 3.0)
    assert len(taken) > 40
    assert taken[-1] < 5, "a writer was starved"


def test_a_process_killed_at_any_moment_loses_nothing_it_acknowledged(url: str) -> None:
    assert kill(url, 10, random.Random(7)) > 10


@pytest.mark.parametrize("loss", ["batch", "part", "state", "twin"])
def test_the_soak_would_notice_a_loss(sqlite_url: str, loss: str) -> None:
    with writers(sqlite_url, 1, 1.0) as (process,):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    said = len(out.splitlines()) - 1
    with Store.open(sqlite_url) as store:
        assert verify(store, 0, said) == said
        with store._database.write() as connection:
            if loss == "state":
                connection.execute(sa.text("UPDATE state SET data = :data"), {"data": json.dumps({"n": said + 1})})
            elif loss == "batch":
                for table in ("pending", "block"):  # a batch that was folded meanwhile is lost with its block
                    newest = f"DELETE FROM {table} WHERE id = (SELECT max(id) FROM {table})"
                    if connection.execute(sa.text(newest)).rowcount:
                        break
        if loss == "part":
            own = soak_store.series("own 0")
            store.commit("x", batch(Level(own, np.array([START + MINUTE]), np.array([7.0]))))
        if loss == "twin":
            store.commit("x", batch(Level(soak_store.series("twin"), np.array([START + MINUTE]), np.array([7.0]))))
        with pytest.raises(Lost):
            verify(store, 0, said)


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
