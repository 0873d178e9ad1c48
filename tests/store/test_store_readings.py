from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import CPU, EVER, INCIDENTS, START, STATEMENTS, batch, level, one_of_each_shape, same, series

from harvester.errors import StoreError
from harvester.readings import DAY, MINUTE, OPEN, Better, Coverage, Level, Occurrences, Window
from harvester.store import Store, Written
from harvester.store.texts import metric_data, metric_from


def only(store: Store, name: str = "a", window: Window = EVER) -> list[float]:
    (found,) = store.read([series(name=name)], window)
    assert isinstance(found, Level)
    return found.value.tolist()


def test_every_shape_comes_back_as_it_was_committed_also_after_folding_and_reopening(url: str) -> None:
    readings = one_of_each_shape()
    asked = [one.series for one in readings]
    with Store.open(url) as store:
        store.commit("source", batch(*readings))
        assert all(map(same, store.read(asked, EVER), readings))
        store.fold()
    with Store.open(url, create=False) as store:
        assert all(map(same, store.read(asked[::-1], EVER), readings[::-1]))
        assert store.series() == asked
        assert store.series(metric="cpu") == [asked[0]]
        assert store.series(source="other") == []


def test_what_is_not_held_is_read_as_nothing_of_the_right_shape(url: str) -> None:
    with Store.open(url) as store:
        for one in one_of_each_shape():
            (found,) = store.read([one.series], EVER)
            assert type(found) is type(one)
            assert len(found) == 0


def test_a_window_gives_what_lies_inside_it_and_no_part_of_an_interval(url: str) -> None:
    readings = one_of_each_shape()
    with Store.open(url) as store:
        store.commit("source", batch(*readings))
        window = Window(((START + 7 * MINUTE, START + 31 * MINUTE), (START + DAY, START + DAY + 2 * 3600_000 + 1)))
        for found, one in zip(store.read([one.series for one in readings], window), readings, strict=True):
            expected = one.within(window)
            assert len(found) == len(expected)
            if one.series.metric != STATEMENTS:  # whose empty outer buckets are not kept
                assert same(found, expected)
        many = Window(tuple((START + k * 2 * DAY, START + k * 2 * DAY + MINUTE) for k in range(20)))
        assert only(store, window=many) == [0.0]
        assert only(store, window=Window()) == []


def test_the_last_write_of_an_instant_wins_in_whatever_pieces_it_came(url: str) -> None:
    whole = np.arange(200.0)
    with Store.open(url) as store:
        store.commit("source", batch(level(whole)))
        store.commit("source", batch(level([-1.0])))  # small: waits
        assert only(store)[:2] == [-1, 1]
        store.commit("source", batch(level(whole + 1000)))  # large: rewrites the block, under what waits
        assert only(store)[:2] == [1000, 1001]
        store.commit("source", batch(level([-2.0])))
        assert store.fold() == 2
        assert store.fold() == 0
        assert only(store)[:2] == [-2, 1001]
        store.commit("source", batch(level([-3.0])))  # its row must not be taken for one that was folded before
        assert only(store)[:2] == [-3, 1001]
        assert store.check() == []


def test_what_is_equal_writes_nothing_and_what_is_missing_deletes_nothing(url: str) -> None:
    readings = one_of_each_shape()
    with Store.open(url) as store:
        assert store.commit("source", batch(*readings)) == Written(450, 8)
        assert store.commit("source", batch(*readings)) == Written(0, 0)
        assert store.commit("source", batch(level([np.nan], START + 5 * MINUTE))) == Written(1, 1)
        assert store.commit("source", batch(level([np.nan], START + 5 * MINUTE))) == Written(0, 0)
        found = only(store)
        assert np.isnan(found[5])
        assert len(found) == 100
        assert store.info()["pending"] == 1


def test_a_small_batch_waits_instead_of_rewriting_its_day(url: str) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(level(np.arange(100.0))))
        for minute in range(100, 110):
            overlapping = level([minute - 1.0, minute], START + (minute - 1) * MINUTE)
            assert store.commit("source", batch(overlapping)) == Written(1, 1)
        assert store.info()["pending"] == 10
        assert only(store) == list(range(110))
        assert store.fold() == 10
        assert store.info() | {"pending": 0, "blocks": 1} == store.info()
        assert only(store) == list(range(110))


def test_many_waiting_rows_are_folded_by_themselves(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harvester.store.store._FOLD_AT_ROWS", 5)
    with Store.open(url) as store:
        for minute in range(20):
            store.commit("source", batch(level([minute], START + minute * MINUTE)))
        assert store.info()["pending"] <= 5
        assert only(store) == list(range(20))


def test_log_buckets_that_widen_while_they_wait_merge_by_their_place(url: str) -> None:
    whole = next(one for one in one_of_each_shape() if one.series.metric == STATEMENTS)
    with Store.open(url) as store:
        store.commit("source", batch(whole))
        expected = {int(at): (whole.first, row) for at, row in zip(whole.at, whole.counts, strict=True)}
        for hour, first in ((3, -70), (4, -60), (3, -55), (5, -90), (3, -58)):
            row = np.array([[1.0, 2.0, float(hour)]])
            heads = (np.array([9.0]), np.array([0.3]), np.array([8.0]))
            at = np.array([START + hour * 3600_000])
            store.commit("source", batch(replace(whole, at=at, counts=row, total=heads[0], minimum=heads[1], maximum=heads[2], first=first)))
            expected[int(at[0])] = (first, row[0])
        for _ in range(2):
            (found,) = store.read([whole.series], EVER)
            for at, counts in zip(found.at, found.counts, strict=True):
                first, row = expected[int(at)]
                used = {first + j: n for j, n in enumerate(row) if n}
                assert {found.first + j: n for j, n in enumerate(counts) if n} == used
            assert store.fold() in (5, 0)


WRITES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4000), st.integers(1, 150), st.integers(-3, 3)) | st.just("fold"), max_size=12
)


@given(WRITES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_writes_and_folds_the_store_reads_as_a_dictionary_would(sqlite_url: str, writes: list) -> None:
    model: dict[str, dict[int, float]] = {name: {} for name in "abc"}
    with Store.open(sqlite_url + str(abs(hash(str(writes))))) as store, Store.open(store._database.target) as other:
        for turn, write in enumerate(writes):
            one = (store, other)[turn % 2]
            if write == "fold":
                one.fold()
                continue
            which, first, count, value = write
            readings = level(np.full(count, value), START + first * MINUTE, name="abc"[which])
            before = dict(model["abc"[which]])
            model["abc"[which]].update(zip(readings.at.tolist(), readings.value.tolist(), strict=True))
            new = sum(before.get(at) != v for at, v in model["abc"[which]].items())
            assert one.commit("source", batch(readings)).readings == new
        for name, expected in model.items():
            (found,) = other.read([series(name=name)], EVER)
            assert dict(zip(found.at.tolist(), found.value.tolist(), strict=True)) == expected
        assert other.check() == []


def test_occurrences_change_with_their_revision_and_never_go_back(url: str) -> None:
    one = series(INCIDENTS)

    def incident(revision: int, end: int, urgency: str) -> Occurrences:
        return Occurrences(one, ("P1",), np.array([revision]), np.array([START]), np.array([end]), ({"urgency": urgency},))

    with Store.open(url) as store:
        for revision, end, urgency in ((2, OPEN, "low"), (1, START + 5, "stale"), (3, START + MINUTE, "high")):
            store.commit("source", batch(incident(revision, end, urgency)))
        (found,) = store.read([one], EVER)
        assert same(found, incident(3, START + MINUTE, "high"))
        assert store.extent([one]) == [(START, START + DAY)]


def test_readings_coverage_state_and_notes_are_stored_together_or_not_at_all(url: str) -> None:
    proven = (Coverage("cpu", Window.of(START, START + DAY)),)
    with Store.open(url) as store:
        with pytest.raises(TypeError):
            store.commit("source", batch(level(np.ones(100)), coverage=proven, state={"offset": object()}, notes=("n",)))
        assert store.commit("source", batch(level([1.0]))) == Written(1, 1)
        assert (only(store), store.state("source"), store.notes("source")) == ([1.0], {}, [])
        assert not store.coverage("source", "cpu", None)
        store.commit("source", batch(level([2.0]), coverage=proven, state={"offset": 7}, notes=("a limit was met",)))
        assert (only(store), store.state("source")) == ([2.0], {"offset": 7})
        assert store.coverage("source", "cpu", None) == proven[0].window
        assert [text for _, text in store.notes("source")] == ["a limit was met"]
        store.commit("source", batch())
        assert store.state("source") == {"offset": 7}


def test_coverage_is_the_union_of_what_was_proven_for_the_series_and_for_its_metric(url: str) -> None:
    def span(first: int, last: int, labels=None, metric: str = "cpu") -> Coverage:
        return Coverage(metric, Window.of(START + first, START + last), labels)

    a, b = series(name="a").labels, series(name="b").labels
    with Store.open(url) as store:
        store.commit("source", batch(coverage=(span(0, 10), span(20, 30), span(50, 60, a))))
        store.commit("source", batch(coverage=(span(10, 15), span(29, 40), span(0, 99, metric="memory"))))
        store.commit("other", batch(coverage=(span(0, 1000),)))
        store.commit("source", batch(coverage=(span(14, 21), span(70, 80))))
        whole = Window(((START, START + 40), (START + 70, START + 80)))
        assert store.coverage("source", "cpu", None) == whole
        assert store.coverage("source", "cpu", b) == whole
        assert store.coverage("source", "cpu", a) == whole | Window.of(START + 50, START + 60)
        assert not store.coverage("source", "disk", None)


def test_a_changed_definition_is_another_series_and_a_changed_direction_is_not(url: str) -> None:
    redefined = Level(series(replace(CPU, query="rate(cpu[1m])")), np.array([START]), np.array([9.0]))
    judged = Level(series(replace(CPU, better=Better.HIGHER)), np.array([START + MINUTE]), np.array([2.0]))
    with Store.open(url) as store, Store.open(url) as other:
        store.commit("source", batch(level([1.0])))
        assert other.series() == [series()]
        store.commit("source", batch(redefined, judged))
        assert [one.metric for one in other.series()] == [judged.series.metric, redefined.series.metric]
        assert only(other) == [1.0, 2.0]
        assert other.read([redefined.series, judged.series], EVER)[0].value.tolist() == [9.0]


def test_what_a_metric_is_read_beside_is_kept_with_it_and_was_not_always(url: str) -> None:
    with_load = replace(CPU, context=("requests", "error_ratio"))
    with Store.open(url) as store:
        store.commit("source", batch(Level(series(with_load), np.array([START]), np.array([9.0]))))
    with Store.open(url) as store:
        assert store.series() == [series(with_load)]
    old = metric_data(with_load)
    del old["context"]
    assert metric_from(old) == CPU


def test_the_extent_tells_the_days_held(url: str) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(level(np.ones(3), START + MINUTE), level([1.0], START + 5 * DAY), level([1.0], name="b")))
        asked = [series(), series(name="b"), series(name="never")]
        assert store.extent(asked) == [(START, START + 6 * DAY), (START, START + DAY), None]
        assert store.extent([]) == []


def test_an_instant_that_no_block_can_name_is_refused(url: str) -> None:
    with Store.open(url) as store, pytest.raises(StoreError, match="before 1970"):
        store.commit("source", batch(level([1.0], -DAY)))
