"""Damage found and dropped, files saved, stores copied, old readings summed up."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from store_samples import (
    CPU,
    ERRORS,
    EVER,
    INCIDENTS,
    LATENCY,
    START,
    STATEMENTS,
    TIMEOUTS,
    batch,
    level,
    one_of_each_shape,
    same,
    series,
)

from harvester.errors import DamagedBlock, StoreBusy, StoreError
from harvester.readings import DAY, HOUR, MINUTE, Counts, Coverage, Labels, Level, Metric, Window
from harvester.store import Collection, Store
from harvester.store.copying import backup, move, restore, salvage
from harvester.store.coverage import coverage_sentence
from harvester.store.retention import past_coverage, prune, summaries, summarize

DAYS = Window.of(START, START + 3 * DAY)


def damage(store: Store, table: str, where: str = "1 = 1") -> None:
    with store.database.write() as connection:
        for key, data in connection.execute(sa.text(f"SELECT id, data FROM {table} WHERE {where}")).all():
            broken = bytes(data[:-1]) + bytes([data[-1] ^ 1])
            connection.execute(sa.text(f"UPDATE {table} SET data = :data WHERE id = :id"), {"data": broken, "id": key})


def proof(metric: Metric, window: Window = DAYS, labels: Labels | None = None) -> Coverage:
    return Coverage(metric.name, window, labels, metric.question)


def three_days(name: str) -> Level:
    return level(np.arange(4320.0) % 1000 / 8, name=name)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_repair_drops_a_damaged_day_and_its_proof_and_nobody_elses(url: str) -> None:
    a, b = series(name="a"), series(name="b")
    with Store.open(url) as store:
        proven = (proof(CPU), proof(CPU, Window.of(START, START + DAY), a.labels))
        store.commit("source", batch(three_days("a"), three_days("b"), coverage=proven))
        damage(store, "block", f"id = {(1 << 20) + START // DAY}")
        (found,) = store.damaged()
        assert found.series == (a,)
        assert found.window == Window.of(START, START + DAY)
        assert 'cpu{instance="a"} on 2024-10-04: its block is damaged' in found.text
        assert store.repair() == [found]
        assert store.repair() == []
        assert store.check() == []
        later = Window.of(START + DAY, START + 3 * DAY)
        assert store.coverages([a])[0] == later
        assert store.coverages([b])[0] == DAYS
        assert store.coverage("source", "cpu", None, CPU.question) == later
        assert len(store.read([a], EVER)[0]) == 2880
        assert len(store.read([b], EVER)[0]) == 4320
        store.commit("source", batch(three_days("a"), coverage=(proof(CPU),)))
        assert same(store.read([a], EVER)[0], three_days("a"))
        assert store.coverages([a])[0] == DAYS


def test_repair_drops_a_damaged_batch_in_waiting_and_all_it_may_have_proven(url: str) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(three_days("a"), three_days("b"), three_days("c"), coverage=(proof(CPU),)))
        store.commit("source", batch(level([9.0], START + DAY), level([9.0], START + DAY, name="b")))
        damage(store, "pending")
        (found,) = store.repair()
        assert found.series == (series(name="a"), series(name="b"))
        assert found.window == Window.of(START + DAY, START + 2 * DAY)
        assert store.check() == []
        assert store.coverages([series(name="b")])[0] == DAYS - found.window
        assert store.coverages([series(name="c")])[0] == DAYS
        assert same(store.read([series()], EVER)[0], three_days("a"))


def truncated(path: Path, share: float) -> list[str]:
    names = [f"s{k}" for k in range(12)]
    rng = np.random.default_rng(1)
    with Store.open(str(path)) as store:
        for day in range(15):
            readings = (level(rng.normal(size=1440), START + day * DAY, name=name) for name in names)
            span = Window.of(START + day * DAY, START + (day + 1) * DAY)
            store.commit("source", batch(*readings, coverage=(proof(CPU, span),), state={"day": day}))
        store.put("change", "x", {"n": 1})
        store.sync()
    os.truncate(path, int(path.stat().st_size * share))
    return names


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_what_can_be_read_of_a_file_cut_short_is_saved_and_the_rest_is_named_and_proven_no_more(
    tmp_path: Path, share: float
) -> None:
    path = tmp_path / "store.db"
    names = truncated(path, share)
    with pytest.raises(StoreError, match="the file is damaged") as raised:
        Store.open(str(path))
    assert "repair" in raised.value.hint
    result = salvage(path)
    assert result.kept.stat().st_size < path.stat().st_size * 4
    assert {file.name for file in tmp_path.iterdir()} <= {"store.db", "store.db-wal", "store.db-shm", result.kept.name}
    with Store.open(str(path)) as store:
        assert store.check() == []
        held = 0
        for name in names:
            (found,) = store.read([series(name=name)], EVER)
            days = np.unique(found.at // DAY)
            held += len(days)
            assert len(found) == 1440 * len(days)
            proven = store.coverages([series(name=name)])[0]
            assert proven.milliseconds <= len(days) * DAY
            for day in range(15):
                if START // DAY + day not in days and proven:
                    assert not proven & Window.of(START + day * DAY, START + (day + 1) * DAY)
        missing = 12 * 15 - held
        assert missing > 0
        named = [text for text in result.lost if "cannot be read" in text and text.startswith("cpu{")]
        assert len(named) == missing
        if share > 0.5:
            assert held > 12 * 15 * share / 3


def test_a_whole_file_is_salvaged_without_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store.open(str(path)) as store:
        store.commit("source", batch(*one_of_each_shape(), coverage=(proof(CPU),), state={"n": 1}))
        store.commit("source", batch(level([5.0])))
        digest = store.freeze(one_of_each_shape(), {}, window=DAYS, note="")
    assert salvage(path).lost == ()
    with Store.open(str(path)) as store:
        assert store.read([series()], EVER)[0].value[0] == 5
        assert store.state("source") == {"n": 1}
        assert store.coverage("source", "cpu", None, CPU.question) == DAYS
        assert store.frozen(digest)
        assert store.check() == []


def test_what_is_no_store_is_not_salvaged_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("long enough to have a head of a hundred bytes " * 40)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"notes\.txt: is no SQLite file any more"):
        salvage(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_day_whose_pages_are_destroyed_is_named_while_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    names = truncated(path, 1.0)
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 512 // 2, len(data) // 512 // 2 + 60):  # in the midst, where blocks lie
        data[page * 512 : page * 512 + 512] = b"\xff" * 512
    path.write_bytes(data)
    with Store.open(str(path)) as store:
        whole, named = 0, []
        for name in names:
            for day in range(15):
                window = Window.of(START + day * DAY, START + (day + 1) * DAY)
                try:
                    whole += len(store.read([series(name=name)], window)[0]) == 1440
                except DamagedBlock as e:
                    named.append((name, f"2024-10-{4 + day:02}", str(e)))
        assert 0 < len(named) < 30
        assert all(f'cpu{{instance="{name}"}} on {day}' in text for name, day, text in named)
        assert whole == 12 * 15 - len(named)


# -- copies -----------------------------------------------------------------------------------------------------------


def fill(store: Store) -> str:
    store.commit("source", batch(*one_of_each_shape(), coverage=(proof(CPU),), state={"n": 1}, notes=("hm",)))
    store.commit("source", batch(level([5.0])))
    store.put("change", "x", {"n": 1})
    store.put("change", "x", {"n": 2})
    store.put_once("digest", "w1", {"sent": True})
    store.record_collection(Collection("source", START, START + 5, DAYS, DAYS))
    store.set_due("source", START)
    lease = store.acquire("source", "host:1", 60)
    assert lease
    store.release(lease)
    return store.freeze(one_of_each_shape(), {}, window=DAYS, note="baseline")


def assert_filled(store: Store, digest: str) -> None:
    asked = [one.series for one in one_of_each_shape()]
    found = store.read(asked, EVER)
    assert found[0].value[0] == 5
    assert all(map(same, found[1:], one_of_each_shape()[1:]))
    assert store.series() == asked
    assert store.coverage("source", "cpu", None, CPU.question) == DAYS
    assert store.state("source") == {"n": 1}
    assert store.get("change", "x") == {"n": 2}
    assert store.put_once("digest", "w1", {"sent": False}) == {"sent": True}
    assert len(store.collections()) == 1
    assert [text for _, text in store.notes("source")] == ["hm"]
    assert (store.due("source"), store.holder("source")) == (START, None)
    assert store.frozen(digest).note == "baseline"
    assert store.check() == []
    # and it can be written on: no id is given twice
    store.commit("source", batch(level([6.0]), level([7.0], name="new"), notes=("more",)))
    store.put("change", "y", {})
    store.freeze((level([1.0]),), {}, window=DAYS, note="next")
    assert store.read([series(), series(name="new")], EVER)[1].value.tolist() == [7]
    assert store.check() == []


def test_a_backup_holds_everything_and_is_a_store_itself(url: str, tmp_path: Path) -> None:
    path = tmp_path / "backups" / "one.db"
    with Store.open(url) as store:
        digest = fill(store)
        backup(store, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(StoreError, match="is there already"):
            backup(store, path)
    assert [file.name for file in path.parent.iterdir()] == ["one.db"]
    with Store.open(str(path)) as copy:
        assert_filled(copy, digest)


def test_a_backup_brought_back_replaces_everything(url: str, tmp_path: Path) -> None:
    with Store.open(url) as store, Store.open(url) as other:
        digest = fill(store)
        backup(store, tmp_path / "one.db")
        store.commit("source", batch(three_days("later"), state={"n": 9}))
        other.series()
        lease = store.acquire("collect:x", "host:9", 60)
        with pytest.raises(StoreBusy, match="host:9 is at work"):
            restore(tmp_path / "one.db", store)
        store.release(lease)
        assert store.state("source") == {"n": 9}
        restore(tmp_path / "one.db", store)
        assert len(store.series()) == 6
        assert_filled(store, digest)


def test_a_damaged_backup_is_not_brought_back(url: str, tmp_path: Path) -> None:
    with Store.open(url) as store:
        fill(store)
        backup(store, tmp_path / "one.db")
        with Store.open(str(tmp_path / "one.db")) as copy:
            damage(copy, "block")
        with pytest.raises(StoreError, match="is damaged"):
            restore(tmp_path / "one.db", store)
        assert store.check() == []
        assert store.read([series()], EVER)[0].value[0] == 5


@pytest.mark.integration
def test_a_store_moves_to_postgresql_and_back_without_a_loss(sqlite_url: str, postgresql_url: str, tmp_path: Path) -> None:
    with Store.open(sqlite_url) as here, Store.open(postgresql_url) as there, Store.open(str(tmp_path / "back.db")) as back:
        digest = fill(here)
        move(here, there)
        move(there, back)
        assert_filled(there, digest)
        assert_filled(back, digest)
        assert len(here.read([series()], EVER)[0]) == 100
        with pytest.raises(StoreError, match="holds something already"):
            move(here, there)


def test_a_store_is_not_moved_under_somebody_at_work(sqlite_url: str, tmp_path: Path) -> None:
    with Store.open(sqlite_url) as here, Store.open(str(tmp_path / "there.db")) as there:
        fill(here)
        here.acquire("daemon", "host:3", 60)
        with pytest.raises(StoreBusy, match="host:3 is at work"):
            move(here, there)
        assert there.series() == []


# -- retention --------------------------------------------------------------------------------------------------------


def test_pruned_days_leave_their_sums_and_quantiles_and_no_claim_that_nothing_happened(url: str) -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.lognormal(0, 1, 2000), -rng.lognormal(0, 1, 800), np.zeros(80), rng.normal(size=1440)])
    timeouts = Counts(series(TIMEOUTS), START + np.arange(72, dtype=np.int64) * HOUR, np.arange(72.0))
    shapes = one_of_each_shape()
    proven = tuple(proof(metric) for metric in (CPU, TIMEOUTS, INCIDENTS, LATENCY))
    with Store.open(url) as store:
        store.commit("source", batch(level(values), timeouts, *shapes[1:2], *shapes[3:], coverage=proven))
        store.commit("source", batch(level([5.0])))  # waits still
        values[0] = 5.0
        asked = [series(), series(TIMEOUTS), series(ERRORS), series(LATENCY), series(STATEMENTS), series(INCIDENTS)]
        before = summaries(store, asked, EVER)
        digest = store.freeze((level([1.0]),), {}, window=DAYS, note="")
        store.record_collection(Collection("source", START, START + 5, DAYS, DAYS))
        done = prune(store, START + 2 * DAY + HOUR)
        assert (done.blocks, done.collections) == (8, 1)
        assert repr(summaries(store, asked, EVER)) == repr(before)  # in which NaN is NaN
        left = store.read(asked, EVER)
        assert [len(one) for one in left] == [1440, 24, 0, 0, 0, 2]
        assert store.coverages([series(TIMEOUTS)])[0] == Window.of(START + 2 * DAY, START + 3 * DAY)
        assert store.coverage("source", "incidents", None, INCIDENTS.question) == DAYS
        assert past_coverage(store, asked[1]) == Window.of(START, START + 2 * DAY)
        assert store.frozen(digest)
        assert store.check() == []

        cpu = before[0]
        assert sorted(cpu) == [START, START + DAY, START + 2 * DAY]
        two = cpu[START] + cpu[START + DAY]
        assert (two.readings, two.count) == (2880, 2880)
        assert two.total == pytest.approx(values[:2880].sum())
        assert (two.minimum, two.maximum) == (values[:2880].min(), values[:2880].max())
        for q in (0.0, 0.1, 0.27, 0.29, 0.5, 0.9, 1.0):
            exact = np.quantile(values[:2880], q, method="lower")
            assert two.quantile(q) == pytest.approx(exact, rel=0.0101, abs=1e-12)
        assert [one.total for one in before[1].values()] == [sum(range(24)), sum(range(24, 48)), sum(range(48, 72))]
        assert (before[2][START].total, before[2][START].count) == (pytest.approx(shapes[1].numerator.sum()), 4000)
        assert sum(one.count for one in before[3].values()) == shapes[3].counts.sum()
        assert before[4][START].buckets[-59] == shapes[4].counts[:24, 1].sum()
        assert before[5] == {}


def test_readings_that_come_after_their_day_was_pruned_add_to_its_summary(url: str) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(level([1.0, 2.0])))
        assert prune(store, START + DAY).blocks == 1
        assert prune(store, START + DAY).blocks == 0
        store.commit("source", batch(level([10.0], START + HOUR)))
        late = summaries(store, [series()], EVER)[0][START]
        assert (late.count, late.total, late.maximum) == (3, 13, 10)
        prune(store, START + DAY)
        assert summaries(store, [series()], EVER)[0] == {START: late}
        assert summaries(store, [series()], Window.of(START + 1, START + 2 * DAY)) == [{}]


def test_a_summary_of_values_that_are_no_numbers_counts_the_numbers_only() -> None:
    one = summarize(level([np.nan, np.inf, 2.0, -np.inf, 1e-310]))
    assert (one.readings, one.count, one.total, one.zeros) == (5, 2, 2.0, 1)
    none = summarize(level([np.nan]))
    assert np.isnan(none.quantile(0.5))
    assert np.isnan(none.minimum)


def test_a_redefined_metric_has_summaries_of_its_own(url: str) -> None:
    other = replace(CPU, query="rate(cpu[1m])")
    redefined = Level(series(other), np.array([START]), np.array([9.0]))
    with Store.open(url) as store:
        store.commit("source", batch(level([1.0]), redefined))
        prune(store, START + DAY)
        found = summaries(store, [series(), series(other), series(INCIDENTS), series(name="never")], EVER)
        assert [one.get(START) and one[START].total for one in found] == [1, 9, None, None]


# -- a sentence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ((), "covered 100 %"),
        (((HOUR, 2 * HOUR),), "covered 97.9 %, gap: 2024-10-04 01:00 to 02:00 UTC"),
        (((0, DAY),), "covered 50.0 %, gap: 2024-10-04"),
        (((0, 2 * DAY),), "covered 0 %, gap: 2024-10-04 to 2024-10-05"),
        (((23 * HOUR, 25 * HOUR),), "covered 95.8 %, gap: 2024-10-04 23:00 to 2024-10-05 01:00 UTC"),
        (((5000, 6000),), "covered over 99.9 %, gap: 2024-10-04 00:00:05 to 00:00:06 UTC"),
        (((0, MINUTE), (HOUR, 3 * HOUR)), "covered 95.8 %, gaps: 2024-10-04 00:00 to 00:01 UTC, 2024-10-04 01:00 to 03:00 UTC"),
        (((1, 2 * DAY),), "covered under 0.1 %, gap: 2024-10-04 00:00:00 to 2024-10-06 00:00:00 UTC"),
    ],
)
def test_coverage_is_told_in_a_sentence_that_never_hides_a_gap(missing: tuple, text: str) -> None:
    whole = Window.of(START, START + 2 * DAY)
    gaps = Window(tuple((START + low, START + high) for low, high in missing))
    assert coverage_sentence(whole - gaps, whole) == text


def test_only_the_longest_of_many_gaps_are_told() -> None:
    whole = Window.of(START, START + DAY)
    gaps = Window(tuple((START + k * HOUR, START + k * HOUR + (k + 1) * MINUTE) for k in range(10)))
    text = coverage_sentence(whole - gaps, whole)
    assert text.startswith("covered 96.2 %, gaps: 2024-10-04 05:00 to 05:06 UTC")
    assert text.endswith("09:00 to 09:10 UTC, and 5 shorter")
