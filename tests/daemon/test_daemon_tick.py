"""What a child does besides collecting: freezing, folding, sending, and saying when the next thing is due."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from daemon_place import Place

from harvester.candidates.model import Change
from harvester.daemon import FOLD_EVERY, tick
from harvester.errors import StoreBusy, StoreError
from harvester.impact import save_change
from harvester.readings import DAY, MINUTE, to_milliseconds
from harvester.settings import Settings
from harvester.store import Store
from harvester.store.store import utc_now

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


class Box:
    """A mail server that keeps what it is handed."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope.content)
        return "250 kept"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def box() -> Iterator[tuple[Box, int]]:
    kept = Box()
    port = free_port()
    controller = Controller(kept, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield kept, port
    finally:
        controller.stop()


def mail(port: int) -> dict[str, Any]:
    return {
        "host": "127.0.0.1", "port": port, "security": "none", "sender": "harvest@example.test",
        "recipients": ("me@example.test",),
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "tick.db"), now=lambda: MONDAY) as store:
        yield store


def next_due(store: Store, settings: Settings, now: datetime) -> datetime:
    found = tick(settings, store, lambda: now)
    assert found["collected"] == []
    return datetime.fromtimestamp(found["next_due"] / 1000, UTC)


def test_the_next_thing_due_is_the_digest_when_its_hour_comes_first_and_folding_otherwise(
    store: Store, box: tuple[Box, int]
) -> None:
    settings = Settings(mail=mail(box[1]), digest={"zone": "Europe/Berlin"})
    assert next_due(store, settings, MONDAY - timedelta(hours=2)) == MONDAY + timedelta(hours=4)
    assert next_due(store, settings, MONDAY + timedelta(hours=4)) == MONDAY + timedelta(hours=7)
    assert next_due(store, settings, MONDAY + timedelta(hours=7)) == MONDAY + timedelta(hours=10)
    assert next_due(store, Settings(), MONDAY + timedelta(days=6, hours=23)) == MONDAY + timedelta(days=7, hours=5)


def test_a_digest_that_could_not_be_sent_is_due_again_when_the_sender_says_so(store: Store) -> None:
    settings = Settings(mail=mail(free_port()))
    now = MONDAY + timedelta(hours=9)
    assert next_due(store, settings, now) == now + timedelta(minutes=1)


def test_folding_is_done_four_times_a_day_whatever_the_clock_did(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[int] = []
    monkeypatch.setattr(Store, "fold", lambda _: folded.append(1) or 0)
    monkeypatch.setattr("harvester.daemon._prune", lambda *_: None)  # which folds too, once a day
    hours = iter(MONDAY + timedelta(minutes=30 * number) for number in range(1000))
    at = MONDAY
    while at < MONDAY + timedelta(days=1):
        tick(Settings(), store, lambda: at)  # noqa: B023  called at once
        at = next(hours)
    assert len(folded) == 4
    store.set_due("daemon:fold", to_milliseconds(at) + 3 * FOLD_EVERY)  # written by a clock that was ahead
    tick(Settings(), store, lambda: at)
    assert len(folded) == 5


@pytest.mark.parametrize("retry", [True, False])
def test_only_a_failure_that_everything_else_would_meet_ends_a_child(
    retry: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = StoreBusy if retry else StoreError

    def broken(_: Store) -> int:
        raise kind("fold", "store", "trouble", retry=retry)

    monkeypatch.setattr(Store, "fold", broken)
    if retry:
        with pytest.raises(StoreBusy):
            tick(Settings(), store, lambda: MONDAY)
    else:
        assert tick(Settings(), store, lambda: MONDAY)["next_due"] > to_milliseconds(MONDAY)


def test_the_daemon_freezes_a_baseline_once_its_sources_were_collected(place: Place) -> None:
    place.source("acme", every="1h")
    daemon = place.start()
    place.wait(place.records)
    at = to_milliseconds(utc_now())
    with place.open() as store:
        save_change(store, Change("index", (), registered=at, baseline_start=at - 28 * DAY, baseline_end=at))
        store.set_due("acme", at + MINUTE // 30)
    daemon.send_signal(signal.SIGUSR1)
    place.wait(lambda: frozen(place))
    place.wait_for_message("index: readings frozen")
    place.stop(daemon)


def frozen(place: Place) -> bool:
    with place.open() as store:
        return bool((store.get("change", "index") or {})["frozen"])


def test_the_daemon_sends_the_digest_once_whatever_happens_to_it(place: Place, box: tuple[Box, int]) -> None:
    kept, port = box
    more = f'[mail]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nsender = "h@example.test"\nrecipients = ["me@example.test"]\n'
    place.write(f'{more}[digest]\nat = "00:00:00"\n')
    for _ in range(2):
        daemon = place.start()
        many = len(place.records())
        place.wait(lambda many=many: len(place.records()) >= many + 2)
        daemon.kill()
        daemon.wait()
    place.wait(lambda: kept.mails)
    assert len(kept.mails) == 1
    assert place.status()["deliveries"][-1]["sent"] is True
