"""A store to test: on SQLite, and the same tests again on a throwaway PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _binaries() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).parent)
    return max(found, key=str, default=None)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """Start PostgreSQL as an ordinary user on a unix socket, and give the URL of an empty database."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's initdb is not installed: the PostgreSQL half of the store's suite did not run")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="harvester-pg-", dir="/tmp"))  # a socket's path may have 107 characters only
    user: list[str] = []
    if os.getuid() == 0:  # which PostgreSQL refuses
        shutil.chown(folder, "nobody")
        user = ["setpriv", "--reuid=nobody", "--clear-groups", "--"]

    def run(*words: str) -> None:
        done = subprocess.run([*user, str(binaries / words[0]), *words[1:]], cwd=folder, capture_output=True, text=True, timeout=60)
        if done.returncode:
            pytest.fail(f"{words[0]}: {done.stdout}{done.stderr}")

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "harvester", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=40 -c shared_buffers=32MB"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://harvester@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'folder' / 'store.db'}"


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    import sqlalchemy as sa

    engine = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return postgresql_server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest) -> str:
    """The address of a store that does not exist yet, on each engine in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))
