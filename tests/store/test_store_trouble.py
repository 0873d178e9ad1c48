"""What goes wrong: addresses, files, versions, damage, a full disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from store_samples import EVER, START, batch, level, series

from harvester.errors import DamagedBlock, StoreBusy, StoreError, StoreVersion
from harvester.readings import DAY, Window
from harvester.store import Store, schema
from harvester.store.migrations import STEPS


def corrupt(store: Store, table: str, where: str = "1 = 1") -> None:
    with store._database.write() as connection:
        for key, data in connection.execute(sa.text(f"SELECT id, data FROM {table} WHERE {where}")).all():
            broken = bytes(data[:-1]) + bytes([data[-1] ^ 1])
            connection.execute(sa.text(f"UPDATE {table} SET data = :data WHERE id = :id"), {"data": broken, "id": key})


def test_importing_the_store_loads_no_heavy_package() -> None:
    code = "import sys, harvester.store; print([m for m in ('sqlalchemy', 'numpy', 'pcodec', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_a_store_is_made_with_its_folder_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "store.db"
    with Store.open(str(path)) as store:
        store.put("change", "a", {})
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert store.info() | {"dialect": "sqlite", "schema": 1, "target": str(path)} == store.info()


def test_a_missing_store_is_not_made_where_only_reading_is_meant(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing\.db: is not there"):
        Store.open(str(tmp_path / "nothing.db"), create=False)
    assert not (tmp_path / "nothing.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="holds no store yet"):
        Store.open(str(tmp_path / "empty.db"), create=False)


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, other, folder = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "folder"
    text.write_text("not a database, but a long enough text to be taken for a page " * 100)
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE meta (name)")
    connection.execute("CREATE TABLE invoices (id)")
    connection.commit()
    connection.close()
    folder.mkdir()
    before = text.read_bytes(), other.read_bytes()
    for path, cause in ((text, "is not a harvester store"), (other, "is a database of something else"), (folder, "is a folder")):
        with pytest.raises(StoreError, match=cause) as raised:
            Store.open(str(path))
        assert raised.value.hint
    assert text.read_bytes() == before[0]


@pytest.mark.parametrize("address", ["mysql://u:hush@h/d", "sqlite://", "postgresql+psycopg://u:hush@h:port/d", "://", "sqlite:///:memory:"])
def test_a_wrong_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(StoreError, match="is not an address of a store") as raised:
        Store.open(address)
    assert "hush" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    for address in ("postgresql+psycopg://me:hush@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db?password=hush"):
        with pytest.raises(StoreError, match=r"database db at 127\.0\.0\.1: the server does not answer") as raised:
            Store.open(address)
        assert raised.value.retry
        seen: BaseException | None = raised.value
        while seen is not None:
            assert "hush" not in str(seen)
            seen = seen.__cause__ or seen.__context__


@pytest.mark.integration
def test_a_database_that_is_missing_on_the_server_is_named(postgresql_server: str) -> None:
    with pytest.raises(StoreError, match="the database or the user does not exist"):
        Store.open(postgresql_server.replace("/postgres?", "/nowhere?"))


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be created: a part of the path is a file") as raised:
        Store.open(str(tmp_path / "file" / "store.db"))
    assert "[store] url" in raised.value.hint


ORDINARY = """
import os, pathlib, sys
from harvester.errors import StoreError
from harvester.store import Store

folder = pathlib.Path(sys.argv[1])
Store.open(str(folder / "warm.db")).close()  # everything is imported while it may be
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for name in ("store.db", "new.db"):
    try:
        Store.open(str(folder / name))
    except StoreError as e:
        print(e)
"""


def test_a_read_only_folder_is_said_to_an_ordinary_user() -> None:
    folder = Path(tempfile.mkdtemp(prefix="harvester-ro-", dir="/tmp"))  # which another user may look into
    try:
        Store.open(str(folder / "store.db")).close()
        (folder / "store.db").chmod(0o644)
        Store.open(str(folder / "warm.db")).close()
        folder.chmod(0o755 if os.getuid() == 0 else 0o500)
        done = subprocess.run([sys.executable, "-c", ORDINARY, str(folder)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        held, new = done.stdout.splitlines()
        assert "store.db: may not be written (is the file or its folder read-only?)" in held
        assert "new.db: cannot be created: Permission denied (set [store] url to a folder you may write to)" in new
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


LIMITED = """
import resource, signal, sys
sys.path.insert(0, {here!r})
import numpy as np
from harvester.errors import StoreError
from harvester.readings import DAY
from harvester.store import Store
from store_samples import EVER, START, batch, level, series

rng = np.random.default_rng(1)
with Store.open(sys.argv[1]) as store:
    store.commit("source", batch(level(np.ones(100)), state={{"n": 1}}))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    days = [level(rng.normal(size=1440), START + day * DAY) for day in range(99)]
    try:
        store.commit("source", batch(*days, state={{"n": 2}}))
    except StoreError as e:
        print(e, e.retry)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert store.state("source") == {{"n": 1}}
    assert store.read([series()], EVER)[0].value.tolist() == [1.0] * 100
    assert store.check() == []
    store.commit("source", batch(*days, state={{"n": 2}}))
    assert store.state("source") == {{"n": 2}}
"""


def test_a_file_that_may_not_grow_is_said_and_what_was_stored_stays_whole_and_goes_on(tmp_path: Path) -> None:
    code = LIMITED.format(here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.db")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "s.db: the disk is full" in done.stdout
    assert done.stdout.rstrip().endswith("True")


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("mount"), reason="only root may mount a small disk: a full one was not tried")
def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here ({mounted.stderr.strip()}): a full one was not tried")
    rng = np.random.default_rng(1)
    try:
        with Store.open(str(disk / "store.db")) as store:
            said = 0

            def fill() -> None:
                nonlocal said
                for _ in range(400):
                    days = (level(rng.normal(size=1440), START + said * DAY, name=name) for name in "ab")
                    store.commit("source", batch(*days, state={"n": said + 1}))
                    said += 1

            with pytest.raises(StoreError, match="the disk is full") as raised:
                fill()
            assert raised.value.retry
            assert said > 5
            assert store.state("source") == {"n": said}
            found = store.read([series(name="a"), series(name="b")], EVER)
            assert [len(one) for one in found] == [1440 * said] * 2
            assert store.check() == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_block_of_a_newer_format_is_refused_by_name_and_never_dropped(url: str) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(level(np.ones(100)), level(np.ones(100), START + DAY)))
        with store._database.write() as connection:
            query = sa.text("SELECT max(id), data FROM block WHERE id = (SELECT max(id) FROM block) GROUP BY data")
            key, data = connection.execute(query).one()
            content = bytes([99]) + bytes(data[5:])
            newer = zlib.crc32(content).to_bytes(4, "little") + content
            connection.execute(sa.text("UPDATE block SET data = :data WHERE id = :id"), {"data": newer, "id": key})
        for work in (lambda: store.read([series()], EVER), store.damaged, store.repair):
            with pytest.raises(StoreVersion, match=r'cpu\{instance="a"\} on 2024-10-05: block format 99') as raised:
                work()
            assert "upgrade" in raised.value.hint
        assert len(store.read([series()], Window.of(START, START + DAY))[0]) == 100
        assert store.info()["blocks"] == 2


def test_a_newer_store_is_refused_and_unchanged(url: str) -> None:
    with Store.open(url) as store:
        store.put("change", "a", {"n": 1})
        with store._database.write() as connection:
            store._set_meta(connection, "schema_version", "99")
    with pytest.raises(StoreVersion, match="has schema version 99, this harvester knows up to 1"):
        Store.open(url)


def test_an_older_store_is_brought_up_to_date_after_a_copy_was_made(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(level([1.0, 2.0])))  # still in the write-ahead log
    monkeypatch.setattr(schema, "VERSION", 3)
    ran = []

    def step(number: int):
        def run(connection: sa.Connection) -> None:
            ran.append(number)
            connection.execute(sa.text(f"CREATE TABLE added_{number} (id BIGINT)"))

        return run

    monkeypatch.setattr("harvester.store.store.STEPS", {**STEPS, 1: step(1), 2: step(2)})
    for _ in range(2):
        with Store.open(url) as store:
            assert len(store.read([series()], EVER)[0]) == 2
            assert store.info()["schema"] == 3
    assert ran == [1, 2]
    if store.dialect == "sqlite":
        (copy,) = tmp_path.glob("folder/store.db.v1.*.backup")
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        monkeypatch.setattr(schema, "VERSION", 1)
        with Store.open(str(copy)) as store:
            assert len(store.read([series()], EVER)[0]) == 2


def test_a_damaged_block_is_named_and_leaves_everything_else_readable(url: str) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(level(np.ones(100)), level(np.ones(100), START + DAY), level(np.ones(100), name="b")))
        corrupt(store, "block", f"id = (SELECT max(id) FROM block WHERE id < {2 << 20})")
    with Store.open(url) as store:
        with pytest.raises(DamagedBlock, match=r'cpu\{instance="a"\} on 2024-10-05: its block is damaged'):
            store.read([series()], EVER)
        assert len(store.read([series()], Window.of(START, START + DAY))[0]) == 100
        assert len(store.read([series(name="b")], EVER)[0]) == 100
        (problem,) = store.check()
        assert 'cpu{instance="a"} on 2024-10-05' in problem
        with pytest.raises(DamagedBlock, match="2024-10-05"):
            store.commit("source", batch(level([5.0], START + DAY), level([5.0], START + 2 * DAY), state={"n": 1}))
        assert store.state("source") == {}


def test_folding_leaves_what_belongs_to_a_damaged_block_waiting(url: str) -> None:
    with Store.open(url) as store:
        for value in (1.0, 2.0):
            store.commit("source", batch(level([value]), level([value], name="b")))
        store.commit("source", batch(level([3.0], name="b")))
        with store._database.read() as connection:
            whole = connection.execute(sa.text("SELECT data FROM block WHERE id < :end"), {"end": 2 << 20}).scalar_one()
        corrupt(store, "block", f"id < {2 << 20}")
        assert store.fold() == 1
        assert store.read([series(name="b")], EVER)[0].value.tolist() == [3.0]
        with store._database.write() as connection:
            connection.execute(sa.text("UPDATE block SET data = :data WHERE id < :end"), {"data": whole, "end": 2 << 20})
        assert store.fold() == 1
        found = store.read([series(), series(name="b")], EVER)
        assert [one.value.tolist() for one in found] == [[2.0], [3.0]]


def test_a_damaged_pending_row_is_found(url: str) -> None:
    with Store.open(url) as store:
        store.commit("source", batch(level(np.ones(100))))
        store.commit("source", batch(level([2.0])))
        corrupt(store, "pending")
        with pytest.raises(DamagedBlock, match="pending row 1: is damaged"):
            store.read([series()], EVER)
        (problem,) = store.check()
        assert "pending row 1" in problem


def test_a_file_cut_short_is_an_error_with_a_hint_never_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = np.random.default_rng(1)
    with Store.open(str(path)) as store:
        store.commit("source", batch(*(level(rng.normal(size=1440), START + day * DAY) for day in range(20))))
        store.sync()
    os.truncate(path, path.stat().st_size // 2)

    def read() -> None:
        with Store.open(str(path)) as store:  # SQLite may notice it on opening already
            assert store.check()
            store.read([series()], EVER)

    with pytest.raises(StoreError) as raised:
        read()
    assert raised.value.hint


def test_a_fold_that_fails_does_not_deny_the_batch_before_it(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("harvester.store.store._FOLD_AT_ROWS", 0)
    with Store.open(url) as store:
        store.commit("source", batch(level(np.ones(100))))
        with monkeypatch.context() as broken:
            broken.setattr(Store, "_fold_some", lambda *_: (_ for _ in ()).throw(sa.exc.InvalidRequestError("hush")))
            assert store.commit("source", batch(level([2.0]))).readings == 1
        assert "readings wait for the next attempt: fold" in caplog.text
        assert store.info()["pending"] == 1
        assert store.read([series()], EVER)[0].value[0] == 2
        store.commit("source", batch(level([3.0])))
        assert store.info()["pending"] == 0


def test_a_full_disk_is_said_and_what_was_stored_stays_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with Store.open(str(tmp_path / "store.db")) as store:
        store.commit("source", batch(level(np.ones(100)), state={"n": 1}))

        @sa.event.listens_for(store._database.engine, "begin")
        def limit(connection: sa.Connection) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count=40")

        with pytest.raises(StoreError, match="the disk is full") as raised:
            store.commit("source", batch(*(level(rng.normal(size=1440), START + day * DAY) for day in range(99)), state={"n": 2}))
        assert raised.value.retry
        assert store.state("source") == {"n": 1}
        assert store.read([series()], EVER)[0].value.tolist() == [1.0] * 100
        assert store.check() == []


def test_a_store_that_another_process_holds_too_long_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harvester.store.engine._BUSY_MILLISECONDS", 20)
    with Store.open(str(tmp_path / "store.db")) as store:
        holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("time.sleep", lambda _: None)
        with pytest.raises(StoreBusy, match="another process holds the store") as raised:
            store.put("change", "a", {})
        assert raised.value.retry
        assert store.get("change", "a") is None  # readers go on
        holder.close()


def test_no_value_reaches_a_message(url: str) -> None:
    with Store.open(url) as store:
        with store._database.write() as connection:
            connection.execute(sa.text("DROP TABLE document"))
        with pytest.raises(StoreError) as raised:
            store.put("change", "a", {"secret": "hush"})
        seen: BaseException | None = raised.value
        while seen is not None:
            assert "hush" not in str(seen)
            seen = seen.__cause__
