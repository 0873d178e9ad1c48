"""Documents, records, frozen copies and leases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sa
from store_samples import EVER, START, batch, level, one_of_each_shape, same, series

from harvester.errors import StoreError
from harvester.readings import DAY, Window
from harvester.store import Collection, Store
from harvester.store.frozen import freeze_content


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_750_000_000.0

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


def execute(store: Store, statement: str, **values: object) -> None:
    with store._database.write() as connection:
        connection.execute(sa.text(statement), values)


def test_the_latest_revision_of_a_document_counts_and_first_insertion_orders_them(url: str) -> None:
    with Store.open(url) as store:
        store.put("change", "b", {"n": 1})
        store.put("change", "a", {"n": 2}, full_sync=False)
        store.put("candidate", "b", {"n": 3})
        store.put("change", "b", {"n": 4, "text": "50 % schneller"})
        assert store.get("change", "b") == {"n": 4, "text": "50 % schneller"}
        assert store.list("change") == [{"n": 4, "text": "50 % schneller"}, {"n": 2}]
        store.delete("change", "b")
        assert store.get("change", "b") is None
        assert store.list("change") == [{"n": 2}]
        assert store.get("change", "never") is None
        with store._database.read() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM document")) == 5


def test_of_many_who_put_once_one_wins_and_all_are_told_the_same(url: str) -> None:
    told: list[dict] = []
    with Store.open(url) as store:
        threads = [threading.Thread(target=lambda n=n: told.append(store.put_once("digest", "w1", {"n": n}))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 8
        assert all(one == told[0] for one in told)
        assert store.put_once("digest", "w2", {"n": 9}) == {"n": 9}


def test_the_record_of_a_collection_comes_back_with_a_digest_of_what_it_says(url: str) -> None:
    window = Window.of(START, START + DAY)
    first = Collection("prom", START, START + 5, window, Window(), "down", ("slices halved",), 0, {"harvester": "0.1"})
    with Store.open(url) as store:
        kept = store.record_collection(first)
        later = store.record_collection(Collection("github", START + 9, START + 10, window, window, readings=3))
        assert len(kept.digest) == 64
        assert kept.digest != later.digest
        assert store.collections() == [later, kept]
        assert store.collections("prom") == [kept]
        assert store.collections(limit=1) == [later]


def test_a_frozen_copy_holds_everything_a_comparison_needs_and_outlives_later_writes(url: str) -> None:
    readings = one_of_each_shape()
    proven = {one.series: Window.of(START, START + DAY) for one in readings} | {series(name="silent"): Window.of(START, START + 1)}
    window = Window.of(START, START + 2 * DAY, "before")
    with Store.open(url, now=Clock()) as store:
        digest = store.freeze(readings, proven, window=window, note="baseline of x")
        store.commit("source", batch(level(np.zeros(100))))
        copy = store.frozen(digest)
        found = {one.series: one for one in copy.readings}
        assert all(same(found[one.series], one) for one in readings)
        assert copy.coverage == proven
        assert (copy.digest, copy.previous, copy.created, copy.note) == (digest, "", 1_750_000_000_000, "baseline of x")
        assert (copy.window, copy.window.name) == (window, "before")
        assert store.verify_frozen() == []


def test_the_same_content_has_one_address_whatever_the_order_and_other_content_another(url: str) -> None:
    readings, window = one_of_each_shape(), Window.of(START, START + DAY)
    with Store.open(url) as store:
        first = store.freeze(readings, {}, window=window, note="a")
        assert store.freeze(readings[::-1], {}, window=window, note="b") == first
        assert store.frozen(first).note == "a"
        assert store.freeze(readings, {series(): window}, window=window, note="a") != first
        assert store.freeze((level([1.0]),), {}, window=window, note="") != store.freeze((level([1.5]),), {}, window=window, note="")
        assert store.info()["frozen"] == 4
        assert store.verify_frozen() == []
        with pytest.raises(StoreError, match="is not in this store"):
            store.frozen("0" * 64)


def test_an_altered_exchanged_or_removed_frozen_copy_is_found(url: str) -> None:
    window = Window.of(START, START + DAY)
    with Store.open(url) as store:
        digests = [store.freeze((level([float(n)]),), {}, window=window, note=str(n)) for n in range(3)]
        _, forged = freeze_content((level([42.0]),), {}, window)
        execute(store, "UPDATE frozen SET content = :content WHERE digest = :digest", content=forged, digest=digests[1])
        assert store.verify_frozen() == [f"frozen copy {digests[1][:12]}: its description was altered"]
        with pytest.raises(StoreError, match="its description was altered"):
            store.frozen(digests[1])
        execute(store, "DELETE FROM frozen WHERE digest = :digest", digest=digests[1])
        assert store.verify_frozen() == [f"frozen copy {digests[2][:12]}: the chain is broken here"]
        execute(store, "UPDATE frozen SET note = 'better' WHERE digest = :digest", digest=digests[0])
        assert len(store.check()) == 2
        execute(store, "DELETE FROM frozen WHERE digest = :digest", digest=digests[2])
        assert store.verify_frozen()[-1] == "frozen copies: the newest are missing"


def test_a_flipped_bit_in_a_frozen_copy_is_found_wherever_it_is(sqlite_url: str) -> None:
    with Store.open(sqlite_url) as store:
        digest = store.freeze(one_of_each_shape(), {}, window=EVER, note="")
        with store._database.read() as connection:
            content = connection.scalar(sa.text("SELECT content FROM frozen"))
        for place in range(0, len(content), 97):
            broken = bytearray(content)
            broken[place] ^= 4
            execute(store, "UPDATE frozen SET content = :content", content=bytes(broken))
            assert store.verify_frozen(), f"byte {place}"
        execute(store, "UPDATE frozen SET content = :content", content=content)
        assert store.frozen(digest)


def test_one_holds_a_lease_until_it_ends_or_is_given_back(url: str) -> None:
    clock = Clock()
    with Store.open(url, now=clock) as store, Store.open(url, now=clock) as other:
        mine = store.acquire("daemon", "host:1", 60)
        assert mine
        assert other.acquire("daemon", "host:2", 60) is None
        assert other.holder("daemon") == "host:1"
        assert other.acquire("another", "host:2", 60)
        clock.seconds += 50
        assert store.renew(mine, 60)
        clock.seconds += 50
        assert other.acquire("daemon", "host:2", 60) is None
        clock.seconds += 11
        assert other.holder("daemon") is None
        theirs = other.acquire("daemon", "host:2", 60)
        assert theirs
        assert theirs.fence > mine.fence
        assert not store.renew(mine, 60)
        store.release(mine)  # too late to free what is no longer its own
        assert store.acquire("daemon", "host:1", 60) is None
        other.release(theirs)
        assert store.acquire("daemon", "host:1", 60)


def test_a_lease_is_won_by_one_of_many(url: str) -> None:
    won: list[str] = []
    with Store.open(url) as store:
        def race(owner: str) -> None:
            won.extend(f"source {turn}" for turn in range(10) if store.acquire(f"source {turn}", owner, 60))

        threads = [threading.Thread(target=race, args=(f"owner {n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == len(set(won))
        held = [store.holder(f"source {turn}") for turn in range(10)]
        assert sum(holder is not None for holder in held) == len(won)


def test_what_is_due_is_kept_beside_the_lease(url: str) -> None:
    with Store.open(url) as store:
        assert store.due("prom") is None
        store.set_due("prom", START)
        store.acquire("prom", "host:1", 60)
        assert store.due("prom") == START
        store.set_due("prom", START + 1)
        assert (store.due("prom"), store.holder("prom")) == (START + 1, "host:1")
