"""``db``: the store is looked after by hand."""

from __future__ import annotations

import sqlite3

import pytest
from cli_shop import NOW

from harvester.cli import FAILED, FINDINGS, INCONCLUSIVE, OK, USAGE
from harvester.readings import DAY, Window, to_milliseconds


def held(shop):
    with shop.store() as store:
        return sum(len(one) for one in store.read(store.series(), Window.of(0, to_milliseconds(NOW))))


def damage(shop):
    """Flip a byte in the middle of one block."""
    with sqlite3.connect(shop.folder / "store.db") as connection:
        [(number, data)] = connection.execute("SELECT id, data FROM block ORDER BY id LIMIT 1 OFFSET 3").fetchall()
        broken = bytearray(data)
        broken[len(broken) // 2] ^= 0xFF
        connection.execute("UPDATE block SET data = ? WHERE id = ?", (bytes(broken), number))


def test_a_damaged_day_is_found_named_and_dropped_and_the_rest_stays(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    before = held(shop)
    assert shop("db", "check") == OK
    damage(shop)
    assert shop("db", "check") == FINDINGS
    assert 'latency{service="checkout"} on 2026-' in " ".join(shop.out.split())
    assert shop("db", "repair", "--dry-run") == FINDINGS
    assert "1 would be dropped" in shop.out
    assert shop("db", "check") == FINDINGS
    assert shop("db", "repair") == INCONCLUSIVE
    assert "harvest collect prom --since 2026-10-01T00:00Z" in shop.out
    assert shop("db", "check") == OK
    assert held(shop) == before - DAY // 300_000
    with shop.store() as store:
        [series] = store.series()
        window = Window.of(to_milliseconds(NOW) - 50 * DAY, to_milliseconds(NOW))
        whole = Window.of(window.start - 6 * DAY, window.end)
        assert store.coverages([series])[0].share_of(whole) < 1, "what is gone is proven no more"
    assert shop("db", "repair") == OK
    assert shop.out == "nothing is damaged\n"


def test_a_backup_is_written_once_and_restored_whole(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    before = held(shop)
    copy = shop.folder / "copy.db"
    assert shop("db", "backup", str(copy)) == OK
    assert copy.stat().st_mode & 0o077 == 0
    assert shop("db", "backup", str(copy)) == FAILED
    assert "is there already" in shop.err
    shop.fill("search", "latency", 0.1, 0.1)
    assert held(shop) > before
    assert shop("db", "restore", str(copy), "--yes") == OK
    assert held(shop) == before
    assert shop("db", "restore", str(shop.folder / "none.db"), "--yes") == FAILED
    assert "is not there" in shop.err


def test_a_store_is_moved_into_an_empty_one_only(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    assert shop("db", "move", f"sqlite:///{shop.folder}/other.db") == OK
    assert "now set [store] url" in shop.out
    assert shop("db", "move", f"sqlite:///{shop.folder}/other.db") == FAILED
    assert shop.err.count("hint:") == 1


def test_old_readings_go_and_new_ones_stay(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    before = held(shop)
    assert shop("db", "prune", "--dry-run") == OK
    assert shop.out == "readings before 19 Oct 2025 would be dropped\n"
    assert shop("db", "prune", "--keep", "30d") == OK
    assert held(shop) == pytest.approx(before * 30.5 / 56, rel=0.01)
    assert shop("db", "prune", "--keep", "soon") == USAGE
    assert "is not a duration such as" in shop.err


def test_a_file_cut_short_is_salvaged_and_kept_beside(shop):
    shop.fill("checkout", "latency", 0.48, 0.24)
    with shop.store() as store:
        store.sync()
    path = shop.folder / "store.db"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 3 // 4)
    assert shop("db", "check") in (FINDINGS, FAILED)
    assert shop("db", "repair", "--salvage") in (OK, INCONCLUSIVE)
    assert "rows saved; the damaged file is kept as" in " ".join(shop.out.split())
    assert shop("db", "check") == OK
    assert len(list(shop.folder.glob("store.db.damaged.*"))) == 1


def test_a_store_that_is_not_there_is_not_made_by_looking(shop):
    for words in (["db", "info"], ["db", "check"], ["db", "repair"], ["db", "repair", "--salvage"]):
        assert shop(*words) == FAILED
        assert "is not there" in shop.err
    assert not (shop.folder / "store.db").exists()
