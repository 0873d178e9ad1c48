"""The daemon as a person meets it: a process, its signals, its log, and what is in the store afterwards."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from daemon_place import HARVEST, Place, Postgresql, children, is_alive

from harvester.daemon import lock_file, running, wake
from harvester.readings import SECOND

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="these tests look at processes in /proc")


def assert_unbroken(seconds: list[int]) -> None:
    assert seconds == list(range(seconds[0], seconds[-1] + 1))


# -- day by day -------------------------------------------------------------------------------------------------------


def test_it_collects_when_something_is_due_and_stops_cleanly_on_sigterm(place: Place) -> None:
    daemon = place.start()
    place.wait(lambda: len(place.asked()) >= 3)
    assert place.stop(daemon) < 8
    windows = [window for _, window in place.asked()]
    assert windows[0].milliseconds == 120 * SECOND
    assert all(later.start == earlier.end - 2 * SECOND for earlier, later in pairwise(windows))
    assert_unbroken(place.seconds())
    told = [text for _, text in place.messages() if text.startswith("acme: ")]
    assert len(place.records()) - len(told) in (0, 1)  # one line a collection, but for one that was just being told
    assert "120 new readings" in told[0]
    assert place.messages()[-1] == ("info", "stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_real_command_runs_it_and_stops_in_seconds_while_a_connector_does_not_let_go(place: Place, number: int) -> None:
    place.source("acme", mode="hang")
    daemon = place.launch([*HARVEST, "run", "--config", str(place.config)])
    place.wait(lambda: place.asked() and len(place.seconds()) == 60)  # half of it; there it hangs
    ((child, _),) = children(daemon.pid)
    began = time.monotonic()
    daemon.send_signal(number)
    assert daemon.wait(30) == 0, place.log()
    assert time.monotonic() - began < 12
    assert not is_alive(child)
    assert place.records() == []  # to be stopped is no failure
    assert len(place.seconds()) == 60  # what was committed stays
    place.mode("ok")
    daemon = place.start()  # and nobody has to wait for a lease
    place.wait(place.records)
    assert place.records()[0].error is None
    assert_unbroken(place.seconds())


def test_once_does_what_is_due_and_ends(place: Place) -> None:
    assert place.start("once").wait(60) == 0
    assert len(place.seconds()) == 120
    place.source("broken", mode="down")
    assert place.start("once").wait(60) == 1
    assert "connection refused" in place.log()


def test_another_process_may_ask_it_to_look_at_once(place: Place) -> None:
    place.source("acme", every="1h")
    assert not wake(place.store_url)
    place.start()
    place.wait(place.records)
    with place.open() as store:
        store.set_due("acme", 0)
    assert wake(place.store_url)
    place.wait(lambda: len(place.records()) == 2)


def test_what_waits_in_small_pieces_is_folded(place: Place) -> None:
    place.start()
    place.wait(lambda: len(place.records()) >= 3)
    with place.open() as store:
        assert store.info()["pending"] > 0
        store.set_due("daemon:fold", 0)
    place.wait(lambda: folded(place))


def folded(place: Place) -> bool:
    with place.open() as store:
        at = store.due("daemon:fold")
        return bool(at) and store.info()["pending"] <= 2


# -- only one ---------------------------------------------------------------------------------------------------------


def test_a_second_daemon_on_one_store_is_refused_in_one_sentence_and_the_first_goes_on(place: Place) -> None:
    first = place.start()
    place.wait(place.records)
    second = subprocess.run(
        [*HARVEST, "run", "--config", str(place.config)], capture_output=True, text=True, timeout=60,
        env=place.environment, cwd=place.folder,
    )
    assert second.returncode == 1
    assert f"another daemon is at this store: process {first.pid} on {socket.gethostname()}, since 20" in second.stderr
    assert f"kill {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    many = len(place.records())
    place.wait(lambda: len(place.records()) > many)
    place.stop(first)


def test_after_kill_9_another_starts_at_once_and_nothing_is_cleaned_by_hand(place: Place) -> None:
    place.source("acme", mode="slow", reach="10m")
    first = place.start()
    place.wait(lambda: place.store_path.exists() and len(place.seconds()) >= 60)
    ((child, _),) = children(first.pid)
    first.kill()
    first.wait()
    assert running(place.store_url) is None
    place.wait(lambda: not is_alive(child))  # it does not outlive its daemon, and leaves its source in order
    place.mode("ok")
    second = place.start()
    place.wait(place.records)
    assert [one.error for one in place.records()] == [None] * len(place.records())
    assert_unbroken(place.seconds())
    place.stop(second)


def test_the_lock_of_a_shared_store_is_this_machines_and_has_no_password_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    one = lock_file("postgresql+psycopg://me:hush@db.example/harvester?sslmode=require")
    assert one == lock_file("postgresql+psycopg://you:other@db.example/harvester?sslmode=require")
    assert one != lock_file("postgresql+psycopg://me:hush@db.example/other?sslmode=require")
    assert one.parent == tmp_path / "harvester"
    assert lock_file("some/store.db") == lock_file("sqlite:///some/store.db") == Path("some/store.db.daemon").resolve()


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_source_that_is_down_is_recorded_asked_less_often_and_caught_up_and_others_go_on(place: Place) -> None:
    place.source("other")
    daemon = place.start()
    place.wait(place.records)
    place.mode("down")
    place.wait(lambda: place.records()[-1].error)
    before = len(place.records("other"))
    place.wait(lambda: len(place.records("other")) >= before + 2)
    seen = {one["name"]: one for one in place.status()["sources"]}
    assert seen["acme"]["error"] == "query acme: connection refused (is it running?)"
    assert seen["acme"]["failures"] >= 1
    assert seen["other"]["error"] is None
    place.mode("ok")
    place.wait(lambda: place.records()[-1].error is None)
    place.stop(daemon)
    assert_unbroken(place.seconds())
    assert any(level == "warning" and "connection refused" in text and "next try at" in text for level, text in place.messages())


def test_a_child_that_is_killed_is_recorded_and_the_daemon_goes_on(place: Place) -> None:
    place.source("other")
    place.source("acme", mode="die")
    daemon = place.start()
    place.wait(lambda: len(place.records("other")) >= 2)
    place.wait(place.records)
    assert place.records()[0].error == "collect acme: its process was killed by SIGKILL"
    place.mode("ok")
    place.wait(lambda: place.records()[-1].error is None)
    assert_unbroken(place.seconds())
    assert [state for _, state in children(daemon.pid) if state == "Z"] == []
    place.stop(daemon)


def test_a_connector_that_hangs_is_ended_and_recorded_and_other_sources_go_on(place: Place) -> None:
    place.source("other")
    place.source("acme", mode="hang")
    daemon = place.start(SILENCE="3")
    place.wait(place.records)
    assert place.records()[0].error == "collect acme: it hung: no sign of life for 3 s, so it was killed"
    place.mode("ok")
    place.wait(lambda: place.records()[-1].error is None and len(place.records("other")) >= 2)
    assert_unbroken(place.seconds())
    place.stop(daemon)


def test_a_connector_that_breaks_is_told_without_what_it_quotes(place: Place) -> None:
    place.source("acme", mode="break")
    daemon = place.start()
    place.wait(place.records)
    place.stop(daemon)
    assert "its connector broke (ValueError in acme_connector.py" in place.records()[0].error
    written = [path for path in place.folder.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if b"planted-secret" in path.read_bytes()] == []


def test_a_store_that_another_process_holds_is_waited_for_with_one_line_each_time(place: Place) -> None:
    daemon = place.start(BUSY="20")
    place.wait(place.records)
    holder = sqlite3.connect(place.store_path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    place.wait_for_message("another process holds the store (try again; does another harvest hang?); trying again in", 2)
    holder.close()
    many = len(place.records())
    place.wait(lambda: len(place.records()) > many + 1)
    place.stop(daemon)
    assert_unbroken(place.seconds())


@pytest.mark.parametrize("verb", ["run", "once"])
def test_a_store_that_cannot_be_used_at_all_ends_the_start_with_one_sentence(place: Place, verb: str) -> None:
    with sqlite3.connect(place.store_path) as other:
        other.execute("CREATE TABLE mine (x)")
    assert place.start(verb).wait(60) == 1
    assert "harvest: open store" in place.log()
    assert "is a database of something else (give harvester a file" in place.log()
    assert "Traceback" not in place.log()


def test_a_folder_that_may_not_be_written_is_said(place: Place) -> None:
    (place.folder / "file").write_text("")
    place.store_url = f"sqlite:///{place.folder}/file/store.db"
    place.write()
    assert place.start().wait(60) == 1
    assert "cannot be written" in place.log()
    assert "Traceback" not in place.log()


# -- settings ---------------------------------------------------------------------------------------------------------


def test_sighup_takes_settings_that_are_valid_and_keeps_the_old_ones_otherwise(place: Place) -> None:
    daemon = place.start()
    place.wait(place.records)
    place.write("[sources.acme2]\nconnector = 'acm'\n")
    daemon.send_signal(signal.SIGHUP)
    place.wait_for_message("settings not reloaded, the old ones stay: find connector")
    many = len(place.records())
    place.wait(lambda: len(place.records()) >= many + 2)  # though the file is broken
    place.source("other")
    daemon.send_signal(signal.SIGHUP)
    place.wait_for_message("settings reloaded: 2 sources")
    place.wait(lambda: place.records("other"))
    place.store_url = f"sqlite:///{place.folder}/another.db"
    place.write()
    daemon.send_signal(signal.SIGHUP)
    place.wait_for_message("settings not reloaded, the old ones stay: read [store] url: has changed")
    place.stop(daemon)
    assert not (place.folder / "another.db").exists()


# -- time -------------------------------------------------------------------------------------------------------------


def test_after_a_sleep_exactly_what_was_missed_is_collected_once(place: Place) -> None:
    daemon = place.start()
    place.wait(lambda: len(place.records()) >= 2)
    daemon.send_signal(signal.SIGSTOP)
    place.wait(lambda: not any(is_alive(pid) for pid, _ in children(daemon.pid)))
    last = place.records()[-1]
    many = len(place.asked())
    time.sleep(6)
    daemon.send_signal(signal.SIGCONT)
    place.wait(lambda: len(place.records()) > many)
    place.stop(daemon)
    first = place.asked()[many][1]
    assert first.start == last.window.end - 2 * SECOND
    assert first.milliseconds >= 8 * SECOND
    assert_unbroken(place.seconds())


@pytest.mark.parametrize("hours", [3, -3])
def test_a_clock_that_jumps_is_noticed_and_nothing_waits_for_the_old_time(place: Place, hours: int) -> None:
    place.source("acme", every="1h")
    daemon = place.start()
    place.wait(place.records)
    (place.folder / "offset").write_text(str(hours * 3600))
    place.wait(lambda: len(place.records()) >= 2)
    place.wait_for_message("this machine slept, or its clock was set (+10" if hours > 0 else "the clock was set back (-10")
    first, second = place.records()[:2]
    if hours > 0:
        assert second.window.start == first.window.end - 2 * SECOND
        assert second.window.milliseconds >= 3 * 3600 * SECOND
        assert_unbroken(place.seconds())
    else:
        assert second.window.milliseconds == 120 * SECOND  # the whole reach: nobody knows what was missed
    time.sleep(2)
    assert len(place.records()) == 2  # once
    place.stop(daemon)


# -- what others see --------------------------------------------------------------------------------------------------


def test_the_service_manager_is_told(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = place.folder / "notify"
        manager.bind(str(path))
        manager.settimeout(30)
        daemon = place.start(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="400000")
        said: list[str] = []
        while not any(one.startswith("READY=1") for one in said):
            said.append(manager.recv(4096).decode())
        beats: list[float] = []
        while len(beats) < 10 or not any("1 sources, next at" in one for one in said):
            said.append(manager.recv(4096).decode())
            if said[-1].startswith("WATCHDOG=1\nSTATUS="):
                beats.append(time.monotonic())
        assert (beats[-1] - beats[0]) / (len(beats) - 1) < 0.4  # as often as was asked for
        daemon.send_signal(signal.SIGHUP)
        while not said[-1].startswith("RELOADING=1\nMONOTONIC_USEC="):
            said.append(manager.recv(4096).decode())
        while said[-1] != "READY=1":
            said.append(manager.recv(4096).decode())
        place.stop(daemon)
        while not said[-1].startswith("STOPPING=1"):
            said.append(manager.recv(4096).decode())


def test_status_tells_of_the_daemon_and_of_each_source(place: Place) -> None:
    before = place.status()
    assert before["daemon"]["running"] is False
    unknown = [name for name, value in before["sources"][0].items() if value is None]
    assert unknown == ["collecting", "last_try", "last_good", "error", "next_due", "lag_seconds"]
    daemon = place.start()
    place.wait(lambda: len(place.records()) >= 2)
    seen = place.status()
    assert seen["daemon"]["running"] is True
    assert seen["daemon"]["pid"] == daemon.pid
    assert seen["daemon"]["heartbeat"] > seen["daemon"]["since"]
    assert seen["daemon"]["last_tick"] is not None
    (acme,) = seen["sources"]
    assert acme["connector"] == "acme"
    assert acme["readings"] >= 120
    assert acme["covered"] == pytest.approx(acme["readings"] / 86400, rel=0.1)
    assert 0 <= acme["lag_seconds"] < 30
    assert acme["last_good"] >= acme["last_try"]
    assert seen["store"]["series"] == 1
    place.stop(daemon)
    assert place.status()["daemon"]["running"] is False


def test_the_process_that_lives_for_years_loads_nothing_heavy(place: Place) -> None:
    daemon = place.start(MODULES=str(place.folder / "modules"))
    place.wait(lambda: len(place.records()) >= 2)
    memory = Path(f"/proc/{daemon.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    place.stop(daemon)
    assert int(memory) / 1024 < 60
    loaded = {name.partition(".")[0] for name in json.loads((place.folder / "modules").read_text())}
    assert "apscheduler" in loaded
    assert loaded & {"numpy", "sqlalchemy", "pcodec", "requests", "scipy", "jinja2", "rich"} == set()


# -- a shared store ---------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_postgresql_that_is_gone_is_waited_for_and_two_daemons_on_it_collect_each_source_once(
    place: Place, postgresql: Postgresql
) -> None:
    place.store_url = postgresql.url
    place.write()
    daemon = place.start()
    place.wait_for_message("the server does not answer (is it running and reachable?); trying again in", 2)
    postgresql.start()
    place.wait(place.asked)
    postgresql.stop()
    place.wait_for_message("the server does not answer", 4)
    postgresql.start()
    many = len(place.asked())
    place.wait(lambda: len(place.asked()) >= many + 2)
    # A daemon of another machine: it has another folder for its lock.
    other = place.start(XDG_DATA_HOME=str(place.folder / "data of another machine"))
    many = len(place.records())
    place.wait(lambda: len(place.records()) >= many + 4)
    place.stop(other)
    assert daemon.poll() is None
    daemon.terminate()
    assert daemon.wait(30) == 0
    records = [one for one in place.records() if one.error is None]
    assert all(later.started >= earlier.finished for earlier, later in pairwise(records))
    assert_unbroken(place.seconds())
