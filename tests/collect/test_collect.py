"""One collection: what is asked, what is kept, and what is asked the next time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from harvester import collect as part
from harvester.collect import Position, bury, collect, due, next_due, plan
from harvester.connector import Batch, Connector, Health, State
from harvester.errors import ConnectorError, StoreBusy, StoreError
from harvester.readings import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Coverage,
    Level,
    Metric,
    Series,
    Shape,
    Subject,
    Window,
    to_datetime,
)
from harvester.store import Collection, Store

NOW = 20_000 * DAY + 12 * HOUR


@dataclass
class Clock:
    at: int = NOW

    def __call__(self) -> datetime:
        return to_datetime(self.at)


@dataclass
class Server:
    """What the source is like: it has a value for every minute since 1970, and notes what it is asked."""

    asked: list[tuple[tuple[str, ...], Window]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    before: Callable[[int], None] = lambda _: None
    """Called with the number of batches yielded so far before each of them; may raise."""

    @property
    def windows(self) -> list[Window]:
        return [window for _, window in self.asked]


class Spec(BaseModel, frozen=True):
    name: str
    query: str = "q"


class Whole(Connector):
    """Always asks for all it knows, in slices of a day, the newest first."""

    server: Any
    names: tuple[str, ...] = ("a",)

    def check(self) -> Health:
        return Health(())

    def definitions(self) -> tuple[Metric, ...]:
        return tuple(Metric(name, "1", Shape.LEVEL, query="q") for name in self.names)

    def collect(self, window: Window, state: State) -> Iterator[Batch]:
        metrics = self.definitions()
        self.server.asked.append((tuple(one.name for one in metrics), window))
        self.server.states.append(dict(state))
        failed = [one.name for one in metrics if one.name in self.server.refused]
        for number, (start, end) in enumerate(reversed([one.spans[0] for one in window.split(DAY)])):
            self.server.before(number)
            at = np.arange(-(-start // MINUTE) * MINUTE, end, MINUTE, dtype=np.int64)
            good = [one for one in metrics if one.name not in failed]
            yield Batch(
                tuple(Level(Series(self.source, one, self.subjects[0].labels if self.subjects else ()), at, at / 1.0) for one in good),
                tuple(Coverage(one.name, Window.of(start, end)) for one in good),
                state={"batches": state.get("batches", 0) + number + 1},
                notes=("a note",),
            )
        if failed:
            raise ConnectorError("query", self.source, f"refused {', '.join(failed)}", retry=False)


class Chosen(Whole):
    """Takes its metrics as options, so that it can be asked for some of them."""

    names: tuple[str, ...] = ()
    metrics: tuple[Spec, ...] = (Spec(name="a"),)

    def definitions(self) -> tuple[Metric, ...]:
        return tuple(Metric(one.name, "1", Shape.LEVEL, query=one.query) for one in self.metrics)


def chosen(server: Server, *names: str, **more: Any) -> Chosen:
    specs = tuple(Spec(name=name) for name in names)
    return Chosen(source="s", server=server, metrics=specs, **{"reach": timedelta(days=10), **more})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store.db"), now=clock) as store:
        yield store


def held(store: Store, name: str = "a") -> list[int]:
    found = store.series(source="s", metric=name)
    return [] if not found else store.read(found, Window.of(0, 2**62))[0].at.tolist()  # type: ignore[union-attr]


def assert_good(record: Collection | None) -> Collection:
    assert record is not None
    assert record.error is None
    return record


# -- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Whole, Chosen])
def test_the_first_collection_reaches_back_and_later_ones_ask_only_what_is_new_and_a_little_of_the_past(
    kind: type[Whole], store: Store, clock: Clock
) -> None:
    server = Server()
    one = kind(source="s", server=server, reach=timedelta(days=3))
    assert_good(collect(store, one, now=clock))
    clock.at += 5 * MINUTE
    record = assert_good(collect(store, one, now=clock))
    assert server.windows == [Window.of(NOW - 3 * DAY, NOW), Window.of(NOW - 10 * MINUTE, NOW + 5 * MINUTE)]
    assert record.readings == 5
    assert held(store) == list(range(NOW - 3 * DAY, NOW + 5 * MINUTE, MINUTE))


def test_after_days_offline_exactly_what_is_missing_is_asked_once(store: Store, clock: Clock) -> None:
    server = Server()
    one = chosen(server, "a", "b", reach=timedelta(days=1))
    assert_good(collect(store, one, now=clock))

    def down(_: int) -> None:
        raise ConnectorError("query", "s", "no route to host", retry=True)

    server.before = down
    for _ in range(60):  # more failures than anybody looks back
        clock.at += HOUR
        record = collect(store, one, now=clock)
        assert record is not None
        assert record.error == "query s: no route to host"
    server.before = lambda _: None
    server.asked.clear()
    assert_good(collect(store, one, now=clock))
    clock.at += 5 * MINUTE
    assert_good(collect(store, one, now=clock))
    assert server.asked == [
        (("a", "b"), Window.of(NOW - 10 * MINUTE, NOW + 60 * HOUR)),
        (("a", "b"), Window.of(NOW + 60 * HOUR - 10 * MINUTE, NOW + 60 * HOUR + 5 * MINUTE)),
    ]
    assert held(store, "b") == list(range(NOW - DAY, clock.at, MINUTE))


def test_a_metric_that_was_added_or_redefined_is_asked_back_alone(store: Store, clock: Clock) -> None:
    server = Server()
    assert_good(collect(store, chosen(server, "a", "b"), now=clock))
    clock.at += HOUR
    specs = (Spec(name="a"), Spec(name="b", query="other"), Spec(name="c"))
    assert_good(collect(store, Chosen(source="s", server=server, metrics=specs, reach=timedelta(days=10)), now=clock))
    assert server.asked[1:] == [
        (("a",), Window.of(NOW - 10 * MINUTE, clock.at)),
        (("b", "c"), Window.of(clock.at - 10 * DAY, clock.at)),
    ]


def test_a_subject_that_was_added_is_asked_back(store: Store, clock: Clock) -> None:
    server = Server()
    assert_good(collect(store, chosen(server, "a"), now=clock))
    clock.at += HOUR
    added = chosen(server, "a", subjects=(Subject("x", (("service", "x"),)),))
    assert_good(collect(store, added, now=clock))
    assert server.windows[1] == Window.of(clock.at - 10 * DAY, clock.at)


def test_since_asks_again_from_an_instant_on_but_never_skips_what_is_missing(store: Store, clock: Clock) -> None:
    server = Server()
    one = chosen(server, "a")
    assert plan(store, one, NOW, NOW - 30 * DAY)[0].window == Window.of(NOW - 30 * DAY, NOW)
    assert_good(collect(store, one, now=clock))
    later = NOW + DAY
    assert plan(store, one, later, later - 2 * DAY)[0].window == Window.of(later - 2 * DAY, later)
    assert plan(store, one, later, later - HOUR)[0].window == Window.of(NOW - 10 * MINUTE, later)


def test_a_clock_that_was_ahead_and_is_set_back_loses_nothing(store: Store, clock: Clock) -> None:
    server = Server()
    one = chosen(server, "a")
    clock.at = NOW + 3 * HOUR
    assert_good(collect(store, one, now=clock))
    clock.at = NOW + 5 * MINUTE
    assert due(store, [one], clock.at) == [one]  # its due time, hours ahead, is not waited for
    assert_good(collect(store, one, now=clock))
    assert server.windows[1] == Window.of(clock.at - 10 * DAY, clock.at)
    clock.at += 5 * MINUTE
    assert_good(collect(store, one, now=clock))
    assert server.windows[2].milliseconds == 15 * MINUTE
    clock.at -= 2 * SECOND  # corrected by a little, as clocks are every day
    assert plan(store, one, clock.at)[0].window.milliseconds == 10 * MINUTE


# -- what breaks off --------------------------------------------------------------------------------------------------


def test_a_collection_that_broke_off_keeps_what_it_got_and_goes_on_metric_by_metric(store: Store, clock: Clock) -> None:
    server = Server()
    one = chosen(server, "a", "b", "c")

    def break_off(number: int) -> None:
        if number == 4:
            raise ConnectorError("query", "s", "reset", retry=True)

    server.before = break_off
    record = collect(store, one, now=clock)
    assert record is not None
    assert record.error == "query s: reset"
    assert len(held(store)) == 4 * 1440
    assert held(store)[-1] == NOW - MINUTE  # the newest came first
    assert record.covered == Window.of(NOW - 4 * DAY, NOW)

    def later(number: int) -> None:
        if len(server.asked) == 4:
            break_off(4)

    clock.at += MINUTE
    server.before = later
    record = collect(store, one, now=clock)
    assert record is not None
    assert record.error == "query s: reset"
    clock.at += MINUTE
    server.before = lambda _: None
    assert_good(collect(store, one, now=clock))
    assert [names for names, _ in server.asked] == [("a", "b", "c"), ("a",), ("b",), ("c",), ("a", "b"), ("c",)]
    assert server.windows[4].milliseconds == 11 * MINUTE
    assert server.windows[5].milliseconds == 10 * DAY
    clock.at += MINUTE
    assert_good(collect(store, one, now=clock))
    assert server.asked[-1] == (("a", "b", "c"), Window.of(clock.at - 11 * MINUTE, clock.at))


def test_a_metric_the_source_refuses_does_not_make_the_others_be_asked_back_again_and_again(store: Store, clock: Clock) -> None:
    server = Server(refused={"b"})
    one = chosen(server, "a", "b", "c")
    for _ in range(4):
        record = collect(store, one, now=clock)
        assert record is not None
        assert record.error == "query s: refused b"
        clock.at += 5 * MINUTE
    asked = [(names, window.milliseconds) for names, window in server.asked]
    assert asked == [
        (("a", "b", "c"), 10 * DAY),
        *[((name,), 10 * DAY) for name in "abc"],
        *[(("a", "c"), 15 * MINUTE), (("b",), 10 * DAY)] * 2,
    ]
    server.refused.clear()
    assert_good(collect(store, one, now=clock))
    assert held(store, "b")[-1] == clock.at - MINUTE


def test_a_source_that_is_down_is_asked_once_a_time_not_once_a_metric(store: Store, clock: Clock) -> None:
    server = Server()
    specs = [chosen(server, "a"), chosen(server, "a", "b")]
    assert_good(collect(store, specs[0], now=clock))

    def down(_: int) -> None:
        raise ConnectorError("query", "s", "401 Unauthorized", retry=False)

    server.before = down
    server.asked.clear()
    for _ in range(3):
        collect(store, specs[1], now=clock)
    assert len(server.asked) == 3


def test_the_state_of_the_connector_goes_on_where_the_last_batch_was_stored(store: Store, clock: Clock) -> None:
    server = Server()
    one = chosen(server, "a", reach=timedelta(days=3))

    def break_off(number: int) -> None:
        if number == 2:
            raise ConnectorError("query", "s", "reset", retry=True)

    server.before = break_off
    collect(store, one, now=clock)
    collect(store, one, now=clock)
    assert server.states == [{}, {"batches": 2}]


def test_an_exception_of_a_connector_is_recorded_by_its_place_and_never_by_its_text(store: Store, clock: Clock) -> None:
    def broken(_: int) -> None:
        raise ValueError("https://example.test/?token=hush")

    record = collect(store, chosen(Server(before=broken), "a"), now=clock)
    assert record is not None
    assert record.error is not None
    assert "its connector broke (ValueError in test_collect.py, line" in record.error
    assert "hush" not in str(store.collections("s"))


def test_what_the_store_cannot_take_from_one_source_is_that_sources_failure(store: Store, clock: Clock) -> None:
    clock.at = HOUR  # so that ten days before it lie before 1970
    record = collect(store, chosen(Server(), "a"), now=clock)
    assert record is not None
    assert record.error is not None
    assert "before 1970" in record.error


def test_a_store_that_fails_is_raised_and_the_source_is_given_back(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = chosen(Server(), "a")

    def locked(*_: Any, **__: Any) -> None:
        raise StoreBusy("write", "store", "another process holds the store", retry=True)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "set_due", locked)
        with pytest.raises(StoreError):
            collect(store, one, now=clock)
    assert_good(collect(store, one, now=clock))
    assert store.collections("s")[1].error is not None  # that the first one had no end is on record


# -- who collects -----------------------------------------------------------------------------------------------------


def test_two_collectors_of_one_source_do_not_work_at_once(store: Store, clock: Clock) -> None:
    server = Server()
    one = chosen(server, "a", reach=timedelta(days=2))
    inner: list[Any] = []
    server.before = lambda _: inner.append(collect(store, one, now=clock, owner="another"))
    assert_good(collect(store, one, now=clock))
    assert inner == [None, None]
    assert len(server.asked) == 1


def test_a_collector_that_slept_too_long_stops_before_it_writes_where_another_took_over(store: Store, clock: Clock) -> None:
    server = Server()
    one = chosen(server, "a", reach=timedelta(days=3))
    theirs: list[Any] = []

    def sleep(number: int) -> None:
        if number == 1 and not theirs:
            clock.at += HOUR  # asleep: no thread of ours runs, our lease ends
            theirs.append(None)
            server.before = lambda _: None
            theirs[0] = collect(store, one, now=clock, owner="another")

    server.before = sleep
    with pytest.raises(StoreBusy, match="another process took this source over"):
        collect(store, one, now=clock, owner="me")
    assert_good(theirs[0])
    assert len(held(store)) == 3 * 1440 + 60 - 60  # the other's three days, the hour of sleep at their end
    assert held(store)[-1] == clock.at - MINUTE
    assert Position.of(store, "s").complete.popitem()[1] == clock.at
    assert store.collections("s")[0].error is None


def test_a_source_that_is_silent_for_longer_than_the_lease_stays_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "LEASE_SECONDS", 0.4)
    from harvester.store.store import utc_now

    server = Server()
    one = chosen(server, "a", reach=timedelta(hours=1))
    seen: list[str | None] = []
    with Store.open(str(tmp_path / "real.db")) as store:

        def silent(_: int) -> None:
            for _ in range(12):
                time.sleep(0.1)
                seen.append(store.holder("collect:s"))

        server.before = silent
        assert_good(collect(store, one, now=utc_now, owner="me"))
    assert seen == ["me"] * 12


def test_a_collection_whose_process_died_is_told_and_counts_as_failed(store: Store, clock: Clock) -> None:
    class Killed(BaseException):
        pass

    def die(number: int) -> None:
        if number == 1:
            raise Killed

    server = Server(before=die)
    one = chosen(server, "a", reach=timedelta(days=3))
    with pytest.raises(Killed):
        collect(store, one, now=clock)
    assert store.due("s") == NOW + MINUTE  # not at once: it might take the next process down as well
    server.before = lambda _: None
    clock.at += MINUTE
    record = bury(store, one, clock, cause="its process was killed by SIGSEGV")
    assert record is not None
    assert record.error == "collect s: its process was killed by SIGSEGV"
    assert bury(store, one, clock) is None
    assert Position.of(store, "s").failures == 1
    assert_good(collect(store, one, now=clock))
    assert [one.error is None for one in store.collections("s")] == [True, False]
    assert Position.of(store, "s").failures == 0


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_collection_that_is_told_to_stop_is_no_failure_and_is_due_at_once(
    stop: type[BaseException], store: Store, clock: Clock
) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            raise stop

    server = Server(before=interrupt)
    one = chosen(server, "a", "b", reach=timedelta(days=3))
    with pytest.raises(stop):
        collect(store, one, now=clock)
    assert store.collections("s") == []
    assert due(store, [one], NOW) == [one]
    assert len(held(store)) == 1440
    server.before = lambda _: None
    assert_good(collect(store, one, now=clock, owner="another"))
    assert [names for names, _ in server.asked] == [("a", "b"), ("a",), ("b",)]


def test_give_up_leaves_everything_in_order_while_a_connector_hangs(store: Store, clock: Clock) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def hang(number: int) -> None:
        if number == 1:
            hangs.set()
            go_on.wait(10)
            raise ConnectorError("query", "s", "gone")

    one = chosen(Server(before=hang), "a", reach=timedelta(days=3))
    ends: list[Exception] = []

    def work() -> None:
        try:
            collect(store, one, now=clock)
        except StoreBusy as e:
            ends.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    assert hangs.wait(10)
    part.give_up()
    assert store.holder("collect:s") is None
    assert Position.of(store, "s").begun is None
    assert due(store, [one], NOW) == [one]
    assert_good(collect(store, chosen(Server(), "a", reach=timedelta(days=3)), now=clock, owner="next"))
    go_on.set()
    thread.join()
    assert len(ends) == 1  # it may not even record its failure any more
    assert [one.error for one in store.collections("s")] == [None]


# -- when it is due ---------------------------------------------------------------------------------------------------


def test_a_source_that_fails_is_tried_again_soon_then_twice_as_late_and_never_later_than_usual(store: Store, clock: Clock) -> None:
    one = chosen(Server(), "a", every=timedelta(minutes=20))
    waits = [(next_due(one, NOW, failures) - NOW) // MINUTE for failures in range(9)]
    assert waits == [20, 1, 2, 4, 8, 16, 20, 20, 20]
    assert next_due(one, NOW, 10_000) == NOW + 20 * MINUTE


def test_the_longest_overdue_source_comes_first_and_a_new_one_is_due_at_once(store: Store) -> None:
    new, early, late, ahead = (chosen(Server(), "a").model_copy(update={"source": name}) for name in ("new", "early", "late", "ahead"))
    store.set_due("early", NOW - HOUR)
    store.set_due("late", NOW - MINUTE)
    store.set_due("ahead", NOW + MINUTE)
    assert due(store, [late, ahead, early, new], NOW) == [new, early, late]


def test_a_record_says_what_was_asked_what_is_proven_and_under_which_definitions(store: Store, clock: Clock) -> None:
    seen: list[part.Progress] = []
    record = assert_good(collect(store, chosen(Server(), "a", reach=timedelta(days=2)), now=clock, progress=seen.append))
    assert record.window == record.covered == Window.of(NOW - 2 * DAY, NOW)
    assert record.notes == ("a note",)
    assert record.readings == 2 * 1440
    assert record.versions["definitions"] == part.definitions(chosen(Server(), "a"))
    assert record.versions["definitions"] != part.definitions(chosen(Server(), "b"))
    assert [(one.readings, one.share) for one in seen] == [(1440, 0.5), (2880, 1.0)]
    assert store.collections("s") == [record]
